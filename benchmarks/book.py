"""Error book: rows appended a second, time to open, to count and to plan, and the memory for it, at several sizes.

    python benchmarks/book.py [--rows 100000 1000000] [--commit 256] [--folder DIR] [--json FILE]
    python benchmarks/book.py --rows 100000 1000000 10000000 --json benchmarks/results/book.json

The last is 2 x 10^9 tokens: some 28 GB of disk while it runs, 15 minutes. What a size takes is printed before it
begins; where the disk has less it is refused. The figures of a size are printed, and added to the file, as it ends.

Answers are of 200 tokens with 700 characters of text, a hundred to a problem, in the order of an exam. Writing and
reading happen in a process each. `cpu` is the processor time of the writer alone: on a shared machine compare that.
`floor` is what this disk would allow if computing cost nothing: every byte that was written, merging included, at the
rate of one long write, and every sync at the time of a sync of 4 KiB. Memory is what a process has of its own
(RssAnon): pages of the maps are the page cache's. The growth from each size to the next stands in a table of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ap2o_fast.book import ErrorBook, Row
from ap2o_fast.book.fs import Files
from ap2o_fast.book.writer import LARGEST
from ap2o_fast.config import CurriculumSettings, TrainSettings
from ap2o_fast.curriculum import make_pools, plan_epoch
from ap2o_fast.judge.verdict import ErrorType, Verdict

T = TypeVar("T")
ANSWERS, TOKENS = 100, 200
MIB = 1 << 20
DISK_TRIAL = 1 << 30
KEPT, PLANNED = 2460, 60
"""Bytes of disk that a row takes, and of memory while its problem's pairs are planned."""
CODE = "    total = 0\n    for value in values:\n        total += value * value\n" * 10


class Timed(Files):
    """Counts the syncs, the seconds spent in them, and the bytes written."""

    seconds, syncs, written = 0.0, 0, 0

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        super().write(descriptor, data)
        self.written += len(data)

    def sync(self, descriptor: int) -> None:
        start = time.perf_counter()
        super().sync(descriptor)
        self.seconds, self.syncs = self.seconds + time.perf_counter() - start, self.syncs + 1

    def sync_folder(self, path: Path) -> None:
        start = time.perf_counter()
        super().sync_folder(path)
        self.seconds, self.syncs = self.seconds + time.perf_counter() - start, self.syncs + 1


def batches(rows: int, commit: int) -> Iterator[list[Row]]:
    """Yield the answers of an exam, a commit's at a time."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50_000, (1000, TOKENS), dtype=np.int32)
    logprobs = -rng.random((1000, TOKENS), dtype=np.float32)
    for first in range(0, rows, commit):
        yield [
            Row(
                task_id=f"task/{number // ANSWERS}",
                round=0,
                sample=number % ANSWERS,
                seed=number,
                policy="init",
                # The last two make every answer another one.
                token_ids=np.append(tokens[number % 1000, 2:], np.array([number % 50_000, number // 50_000], np.int32)),
                logprobs=logprobs[number % 1000],
                text=f"```python\n{CODE}```\n",
                code=CODE,
                finish="eos",
                verdict=Verdict(error=ErrorType(number * 7 % 20), line=3, message="list index out of range"),
            )
            for number in range(first, min(first + commit, rows))
        ]


def write(rows: int, commit: int, folder: Path) -> dict[str, float]:
    files = Timed()
    prompt = np.arange(150, dtype=np.int32)
    wall = cpu = 0.0
    before = highest = own_mib()
    with ErrorBook.create(folder, files=files) as book:
        for problem in range(-(-rows // ANSWERS)):
            book.add_problem(f"task/{problem}", prompt, "p" * 400)
        book.commit()
        before = max(before, own_mib())
        for number, batch in enumerate(batches(rows, commit)):
            start, used = time.perf_counter(), time.process_time()
            book.append(batch)
            book.commit()
            wall, cpu = wall + time.perf_counter() - start, cpu + time.process_time() - used
            if number % 50 == 0:
                highest = max(highest, own_mib())
    return {
        "rows/s": rows / wall,
        "cpu µs/row": cpu / rows * 1e6,
        "bytes written/row": files.written / rows,
        "syncs": files.syncs,
        "ms/sync": files.seconds / files.syncs * 1e3,
        "writer's memory grew by, MiB": highest - before,
    }


def read(rows: int, folder: Path, *, plan: bool) -> dict[str, float]:
    before = own_mib()
    opened, book = best_of(5, lambda: ErrorBook.open(folder))
    counted, frequencies = best_of(3, book.frequencies)
    assert len(book) == frequencies.sum() == rows
    grown = own_mib() - before - frequencies.nbytes / 2**20
    size = sum(path.stat().st_size for path in folder.iterdir())
    found = {
        "open ms": opened * 1e3,
        "frequencies ms": counted * 1e3,
        "reader's memory grew by, MiB": grown,
        "bytes kept/row": size / rows,
        "files": len(list(folder.iterdir())),
    }
    if plan:
        found |= planned(book)
    checked, faults = best_of(1, book.verify)
    assert not faults
    return found | {"verify MiB/s": size / 2**20 / checked}


def planned(book: ErrorBook) -> dict[str, float]:
    """The time of a step's share of its epoch's plan, and of cutting the step out of the plan."""
    curriculum, train, before = CurriculumSettings(), TrainSettings(), own_mib()
    pooled, (pools, _) = best_of(1, lambda: make_pools(book, curriculum))
    epoch: dict[str, Any] = {"epoch": 0, "epochs": train.epochs, "quiz_errors": {1: 1, 2: 3}, "seed": 0}
    taken, plan = best_of(1, lambda: plan_epoch(pools, curriculum, **epoch))
    later, _ = best_of(3, lambda: plan_epoch(pools, curriculum, **epoch | {"epoch": 1}))
    cut, steps = best_of(1, lambda: list(plan.steps(train.batch_pairs)))
    return {
        "pools s, once a run": pooled,
        "plan of an epoch s": taken,
        "pairs of an epoch": len(plan),
        "plan ms/step": (taken + cut) / len(steps) * 1e3,
        "plan ms/step, later epochs": (later + cut) / len(steps) * 1e3,
        "cut ms/step": cut / len(steps) * 1e3,
        "planning's memory grew by, MiB": own_mib() - before,
    }


def needed(rows: int, *, plan: bool) -> tuple[int, int]:
    """Return the bytes of (disk, memory) that a size takes at its peak: while files are merged, and while planning."""
    return int(rows * KEPT) + LARGEST + DISK_TRIAL, 512 * MIB + plan * rows * PLANNED


def announce(rows: int, folder: Path, *, plan: bool) -> None:
    """Print what a size will take and what there is; stop where the disk has too little."""
    disk, memory = needed(rows, plan=plan)
    free = shutil.disk_usage(folder).free
    available = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024
    print(
        f"{rows:,} rows: up to {disk / 1e9:.1f} GB of disk ({free / 1e9:.1f} GB free in {folder}), "
        f"{memory / 1e9:.1f} GB of memory ({available / 1e9:.1f} GB available)",
        flush=True,
    )
    if free < disk:
        sys.exit(f"{folder} has too little room for {rows:,} rows; name another one with --folder")
    if available < memory:
        sys.exit(f"there is too little memory for {rows:,} rows; --no-plan takes less than 1 GB at any size")


def measure(rows: int, commit: int, folder: Path, *, plan: bool) -> dict[str, float]:
    disk = disk_rates(folder.parent)
    found = {"rows": rows} | alone(write, rows, commit, folder)
    seconds = found["bytes written/row"] * rows / disk["disk MB/s"] / 1e6 + found["syncs"] * disk["ms/small sync"] / 1e3
    found |= {"floor rows/s": rows / seconds} | disk | alone(read, rows, folder, plan=plan)
    return found | {"load of the machine": os.getloadavg()[2]}


def disk_rates(folder: Path, size: int = DISK_TRIAL) -> dict[str, float]:
    """What one long write and what a small sync take here."""
    path, block = folder / "disk", os.urandom(1 << 24)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        start = time.perf_counter()
        for _ in range(size // len(block)):
            os.write(descriptor, block)
        os.fsync(descriptor)
        rate = size / (time.perf_counter() - start) / 1e6
        start = time.perf_counter()
        for place in range(50):
            os.pwrite(descriptor, block[:4096], place * 4096)
            os.fsync(descriptor)
        return {"disk MB/s": rate, "ms/small sync": (time.perf_counter() - start) / 50 * 1e3}
    finally:
        os.close(descriptor)
        path.unlink()


def alone(call: Callable[..., dict[str, float]], *arguments: Any, **options: Any) -> dict[str, float]:
    """Call in a process of its own, whose memory nothing else has touched."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, arguments, options)


def best_of(times: int, call: Callable[[], T]) -> tuple[float, T]:
    """Return (the least seconds of several calls, what the last one returned)."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def own_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def table(results: list[Mapping[str, float]]) -> None:
    for name in results[0]:
        print(f"{name:>30}" + "".join(f"{result[name]:>16,.{digits(result[name])}f}" for result in results))
    if len(results) > 1:
        print("growth from each size to the next, as a factor:")
        for name in results[0]:
            pairs = zip(results, results[1:], strict=False)
            print(f"{name:>30}" + " " * 16 + "".join(f"{factor(a[name], b[name]):>16}" for a, b in pairs))


def digits(value: float) -> int:
    return 0 if abs(value) >= 100 or value == int(value) else 2


def factor(before: float, after: float) -> str:
    return f"{after / before:.2f}" if before > 0 < after else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--commit", type=int, default=256, help="rows a commit")
    parser.add_argument("--folder", type=Path, help="where to put the books; its disk is what is measured")
    parser.add_argument("--json", type=Path, help="add the figures to this file, by rows and commit")
    parser.add_argument("--no-plan", action="store_true", help="leave the curriculum's plan out")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {options.commit} rows a commit")
    root = Path(tempfile.mkdtemp(prefix="ap2o-book-", dir=options.folder))
    results = []
    try:
        for rows in options.rows:
            announce(rows, root, plan=not options.no_plan)
            results.append(measure(rows, options.commit, root / f"{rows}", plan=not options.no_plan))
            shutil.rmtree(root / f"{rows}")
            if options.json:
                add(options.json, f"{rows} rows, {options.commit} a commit", results[-1])
            table(results[-1:])
    finally:
        shutil.rmtree(root)
    if len(results) > 1:
        table(results)


def add(path: Path, name: str, result: Mapping[str, float]) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content[name] = {"cpus": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__, **result}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
