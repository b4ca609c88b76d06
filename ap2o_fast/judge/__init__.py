"""The judge: runs strangers' code in jails and says of each answer whether it passes, and if not, why."""

from ap2o_fast.judge.judge import Job, Judge, detect_level
from ap2o_fast.judge.verdict import ErrorType, Verdict

__all__ = ["ErrorType", "Job", "Judge", "Verdict", "detect_level"]
