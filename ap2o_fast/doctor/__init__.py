"""`ap2o doctor`: what works on this machine, what does not, and how to mend it."""

from __future__ import annotations

from ap2o_fast.doctor.checks import findings
from ap2o_fast.doctor.finding import Finding
from ap2o_fast.doctor.what_works import Ability, abilities

__all__ = ["Ability", "Finding", "abilities", "findings"]
