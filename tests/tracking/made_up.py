"""A made-up run folder that grows as a run's does, and trackers that fail in the ways that trackers fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ap2o_fast import config
from ap2o_fast.config import TrackSettings

BROKEN = """
import os, time
from pathlib import Path

class Broken:
    def log(self, values, step):
        {does}
    def close(self):
        pass

def open_tracker(run):
    return Broken()
"""


def make_run(folder: Path, *to: str, **track: Any) -> tuple[Path, TrackSettings]:
    """An empty run folder with its settings."""
    folder.mkdir(parents=True)
    settings = TrackSettings(to=to, **track)
    saved = config.load({"track": settings.model_dump(), "run_dir": str(folder)}).model_dump(mode="json")
    (folder / "config.json").write_text(json.dumps(saved))
    return folder, settings


def step(number: int, epoch: int) -> dict[str, Any]:
    """A line of metrics.jsonl, with numbers that say which."""
    return {"epoch": epoch, "step": number, "loss": number / 10, "rewards/margins": number / 100, "lr_note": None}


def quiz(epoch: int, passed: int, **errors: int) -> dict[str, Any]:
    """A line of quiz.jsonl."""
    return {"epoch": epoch, "passed": passed, "answers": 10, "pass@1": passed / 10, "errors": errors, "best": True}


def result(rate: float) -> dict[str, Any]:
    """One of the results of evaluation.json, as far as trackers look at it."""
    pass_at = {"1": {"value": rate, "low": rate - 0.1, "high": None, "problems": 8}}
    return {"pass_at_k": pass_at, "errors": {"NameError": 2}, "per_problem": {"a": [1, 2]}}


def append(run: Path, name: str, *rows: dict[str, Any]) -> None:
    """Add lines to one of the run's files."""
    with (run / name).open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def break_tracker(monkeypatch: Any, folder: Path, name: str, does: str) -> None:
    """Have processes of this test find another module behind a tracker's name, which `does` that with numbers."""
    folder.mkdir()
    (folder / "broken_tracker.py").write_text(BROKEN.format(does=does))
    (folder / "sitecustomize.py").write_text(
        f"import sys\nimport broken_tracker\nsys.modules['ap2o_fast.tracking.to_{name}'] = broken_tracker\n"
    )
    import os

    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
