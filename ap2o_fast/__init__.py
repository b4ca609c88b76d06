"""Preference optimisation of code models with a typed error book and the AP2O curriculum.

Importing this loads nothing heavy: the judge's server, which forks once an answer, must never import torch. `Trainer`,
plain DPO from any preference data, loads it when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ap2o_fast.preferences.trainer import Trainer

__version__ = "0.1.0"
__all__ = ["Trainer", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Trainer":
        from ap2o_fast.preferences.trainer import Trainer

        return Trainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
