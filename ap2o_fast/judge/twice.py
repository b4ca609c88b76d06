"""Judging some answers twice: a measure of how far verdicts depend on chance.

Which answers is drawn from task and seed, so that a resumed run draws the same ones and a reader of the book can count
them without a record of its own.
"""

from __future__ import annotations

import hashlib

from ap2o_fast.judge.verdict import ErrorType, Verdict


def is_drawn(share: float, task_id: str, seed: int) -> bool:
    """True for the `share` of all answers that is judged a second time."""
    data = f"{seed} {task_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") < share * 2**64


def settle(first: Verdict, second: Verdict) -> Verdict:
    """The verdict on an answer that was judged twice.

    Returns: the first, where both name the same type; `Flaky` with both in its message, where they do not. Where the
    judge itself failed once there are no two verdicts, and its `SandboxFailure` is the result: an answer that was
    drawn is trained on only if both agree.
    """
    for verdict in (first, second):
        if verdict.error is ErrorType.SandboxFailure:
            return verdict
    if first.error is second.error:
        return first
    said = [f"{verdict.error.name}{verdict.message and f' ({verdict.message[:200]})'}" for verdict in (first, second)]
    return Verdict(
        error=ErrorType.Flaky,
        message=f"judged twice: {said[0]}, then {said[1]}",
        tests_passed=min(first.tests_passed, second.tests_passed),
        tests_total=first.tests_total,
        cpu_seconds=max(first.cpu_seconds, second.cpu_seconds),
        peak_mib=max(first.peak_mib, second.peak_mib),
        sandbox_level=min(first.sandbox_level, second.sandbox_level),
    )
