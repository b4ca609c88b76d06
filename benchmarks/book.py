"""Error book: rows appended a second, time to open and to count, at several sizes.

    python benchmarks/book.py [--rows 10000 100000] [--commit 256] [--folder DIR]

Answers are of 150 tokens and a kilobyte of text, the usual size of a HumanEval completion. `cpu` is the processor time
of this process alone: on a shared machine compare that, and `fsync`, which is the disk's.
"""

from __future__ import annotations

import argparse
import platform
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from ap2o_fast.book import ErrorBook, Row
from ap2o_fast.book.fs import Files
from ap2o_fast.judge.verdict import ErrorType, Verdict

PROBLEMS = 500


class Timed(Files):
    """Counts the syncs and the seconds spent in them."""

    seconds, syncs = 0.0, 0

    def sync(self, descriptor: int) -> None:
        start = time.perf_counter()
        super().sync(descriptor)
        self.seconds, self.syncs = self.seconds + time.perf_counter() - start, self.syncs + 1

    def sync_folder(self, path: Path) -> None:
        start = time.perf_counter()
        super().sync_folder(path)
        self.seconds, self.syncs = self.seconds + time.perf_counter() - start, self.syncs + 1


def rows_from(first: int, count: int, tokens: np.ndarray, logprobs: np.ndarray) -> list[Row]:
    return [
        Row(
            task_id=f"task/{number % PROBLEMS}",
            round=0,
            sample=number // PROBLEMS,
            seed=number,
            policy="0123456789abcdef" * 2,
            token_ids=tokens[number % 1000],
            logprobs=logprobs[number % 1000],
            text="x" * 550,
            code="y" * 450,
            finish="eos",
            verdict=Verdict(error=ErrorType(number * 7 % 20), line=3, message="list index out of range"),
        )
        for number in range(first, first + count)
    ]


def measure(rows: int, commit: int, folder: Path) -> dict[str, str]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50_000, (1000, 150), dtype=np.int32)
    logprobs = -rng.random((1000, 150), dtype=np.float32)
    files = Timed()
    wall = cpu = 0.0
    with ErrorBook.create(folder, files=files) as book:
        for problem in range(PROBLEMS):
            book.add_problem(f"task/{problem}", tokens[problem], "p" * 400)
        for first in range(0, rows, commit):
            batch = rows_from(first, min(commit, rows - first), tokens, logprobs)
            start, used = time.perf_counter(), time.process_time()
            book.append(batch)
            book.commit()
            wall, cpu = wall + time.perf_counter() - start, cpu + time.process_time() - used
    del book
    before = resident_mib()
    opened, book = best_of(5, lambda: ErrorBook.open(folder))
    mapped = resident_mib() - before
    counted, frequencies = best_of(1, book.frequencies)
    again, _ = best_of(5, book.frequencies)
    assert len(book) == frequencies.sum() == rows
    checked, faults = best_of(1, book.verify)
    assert not faults
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "rows": f"{rows:,}",
        "rows/s": f"{rows / wall:,.0f}",
        "cpu µs/row": f"{cpu / rows * 1e6:.1f}",
        "ms/sync": f"{files.seconds / files.syncs * 1e3:.2f}",
        "syncs": f"{files.syncs}",
        "open ms": f"{opened * 1e3:.2f}",
        "open MiB": f"{mapped:.1f}",
        "frequencies ms": f"{counted * 1e3:.1f} / {again * 1e3:.1f}",
        "verify s": f"{checked:.2f}",
        "MiB": f"{size / 2**20:.0f}",
        "files": f"{len(list(folder.iterdir()))}",
    }


def best_of(times: int, call):
    """Return (the least seconds of several calls, what the last one returned)."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--commit", type=int, default=256, help="rows a commit")
    parser.add_argument("--folder", type=Path, help="where to put the books; its disk is what is measured")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {options.commit} rows a commit")
    root = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        results = [measure(rows, options.commit, root / f"{rows}") for rows in options.rows]
    finally:
        shutil.rmtree(root)
    for name in results[0]:
        print(f"{name:>16}" + "".join(f"{result[name]:>18}" for result in results))


if __name__ == "__main__":
    main()
