"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was looked at and found.

    Attributes:
        name: what was looked at.
        status: `ok`; `warn`, something is slower or missing; `fail`, a run cannot work.
        detail: what was found, with units.
        fix: what to do about it; empty where there is nothing to do.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""
