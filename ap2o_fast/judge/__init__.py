"""The judge: runs strangers' code in jails and says of each answer whether it passes, and if not, why."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ap2o_fast.judge.judge import Job, Judge, detect_level
    from ap2o_fast.judge.nodes import open_judge
    from ap2o_fast.judge.verdict import ErrorType, Verdict

__all__ = ["ErrorType", "Job", "Judge", "Verdict", "detect_level", "open_judge"]


def __getattr__(name: str) -> Any:
    """Load the trainer's side when it is first wanted: the judge's processes, forked for every answer, do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = {"ErrorType": "verdict", "Verdict": "verdict", "open_judge": "nodes"}.get(name, "judge")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
