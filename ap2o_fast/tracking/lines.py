"""What is new in a run's files, as numbers with names and a step.

Names are TRL's behind its prefixes, so that dashboards made for it fit: ``train/rewards/margins`` of metrics.jsonl,
``eval/…`` of eval.jsonl; and ``quiz/pass@1``, ``quiz/errors/WrongResult`` of quiz.jsonl, ``test/after/pass@1`` of
evaluation.json. The step is the number of optimiser steps before.
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

AFTER_AN_EPOCH = {"quiz.jsonl": "quiz", "eval.jsonl": "eval"}
"""Files with a line an epoch, and the prefix of their numbers."""
METRICS, RESULTS = "metrics.jsonl", "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers to hand on.

    Attributes:
        file, key: where they are from, and the key of their line there; keys of a file rise.
        step: how many optimiser steps were before.
        values: by full name.
    """

    file: str
    key: int
    step: int
    values: dict[str, float]


class Tail:
    """The lines that a file of one JSON object a line has got since the last look; a torn last line waits.

    A resumed run replaces the file by a shorter one: then all its lines come again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self._file: BinaryIO | None = None

    def new(self) -> list[dict[str, Any]]:
        """Whole lines in their order; none where there is no file."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return []
        # The file stays open, so that its number cannot be another's meanwhile.
        if self._file is None or os.fstat(self._file.fileno()).st_ino != found.st_ino:
            self.close()
            self._file, self._offset = self._path.open("rb"), 0
        self._file.seek(self._offset)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class News:
    """What a run's files hold and was not handed on yet.

    Args:
        run: the run's folder.
        sent: by file the last key that was handed on. A resumed run takes some steps again and finds the same numbers:
            they are not handed on twice.
    """

    def __init__(self, run: Path, sent: Mapping[str, int]) -> None:
        self._run, self._sent = run, dict(sent)
        self._tails = {name: Tail(run / name) for name in (METRICS, *AFTER_AN_EPOCH)}
        self._steps: list[int] = []  # the last step of each epoch
        self._epochs: list[int] = []
        self._known: set[str] = set()

    def __iter__(self) -> Iterator[Numbers]:
        """What is new now, steps first."""
        results = self._results()
        # Looked at before the steps: the steps before a quiz are written before its line is.
        after = {name: self._tails[name].new() for name in AFTER_AN_EPOCH}
        steps = self._tails[METRICS].new()
        for row in steps:
            self._note(row["step"], row["epoch"])
            yield from self._unsent(METRICS, row["step"], row["step"], _flat("train", row))
        for name, rows in after.items():
            for row in rows:
                values = _flat(AFTER_AN_EPOCH[name], row)
                counts = {key for key in values if "/errors/" in key}
                # A type of error that no answer has any more is at zero, not gone.
                values |= dict.fromkeys(self._known - counts, 0.0) if name == "quiz.jsonl" else {}
                self._known |= counts
                yield from self._unsent(name, row["epoch"], self._step(row["epoch"]), values)
        for key, (part, values) in enumerate(results, start=1):
            yield from self._unsent(RESULTS, key, self._last() if part == "after" else 0, values)

    def _unsent(self, file: str, key: int, step: int, values: dict[str, float]) -> Iterator[Numbers]:
        if key > self._sent.get(file, -1):
            self._sent[file] = key
            yield Numbers(file=file, key=key, step=step, values=values)

    def _note(self, step: int, epoch: int) -> None:
        if self._epochs and epoch <= self._epochs[-1]:  # the file came again from its beginning, or the epoch goes on
            place = bisect.bisect_left(self._epochs, epoch)
            del self._epochs[place:], self._steps[place:]
        self._epochs.append(epoch)
        self._steps.append(step)

    def _step(self, epoch: int) -> int:
        """The last step of the first `epoch` epochs."""
        place = bisect.bisect_right(self._epochs, epoch)
        return self._steps[place - 1] if place else 0

    def _last(self) -> int:
        return self._steps[-1] if self._steps else 0

    def _results(self) -> list[tuple[str, dict[str, float]]]:
        """The test's results before and after training; nothing before all are there."""
        path = self._run / RESULTS
        if not path.exists():
            return []
        found = json.loads(path.read_text(encoding="utf-8"))
        return [(part, _of_test(part, found[part])) for part in ("before", "after") if part in found]


def _of_test(part: str, result: Mapping[str, Any]) -> dict[str, float]:
    rates = {f"pass@{k}": value["value"] for k, value in result["pass_at_k"].items()}
    ends = {f"pass@{k}_{end}": value[end] for k, value in result["pass_at_k"].items() for end in ("low", "high")}
    return _flat(f"test/{part}", {**rates, **ends, "errors": result["errors"]})


def _flat(prefix: str, row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of nested mappings by path; what is no number is left out."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= _flat(f"{prefix}/{key}", value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"{prefix}/{key}"] = float(value)
    return found
