"""The diagnosis of a loss that stays where it began, at ln 2 in DPO."""

from __future__ import annotations

from collections.abc import Mapping

STEPS = 20
"""So many steps after the warm-up are watched."""
MOVED = 0.02
"""A mean difference of log-ratios in nats that counts as movement: with beta = 0.1 DPO's loss is 0.001 below ln 2."""


class Standstill:
    """Watches the margins of the first `STEPS` steps after the warm-up.

    In half precision the margins of untrained weights are not 0 but rounding, which hides a standstill: what is told
    is true, what is not told may be so.

    Args:
        warmup: steps before the learning rate is at its peak.
        beta: the loss's; rewards are so many times the log-ratios.
    """

    def __init__(self, warmup: int, beta: float) -> None:
        self._from, self._least, self._seen, self._largest = warmup, MOVED * beta, 0, 0.0

    def see(self, metrics: Mapping[str, float]) -> str:
        """Take a step's metrics; a step that does not compare answers has no margins and is not counted.

        Returns: what to tell people, after the last step watched; empty otherwise.
        """
        margin = metrics.get("rewards/margins")
        if margin is None or metrics["step"] <= self._from or self._seen == STEPS:
            return ""
        self._seen += 1
        self._largest = max(self._largest, abs(margin))
        if self._seen < STEPS or self._largest >= self._least:
            return ""
        return (
            f"in the {STEPS} steps after the warm-up (learning rate {metrics['learning_rate']:.2g} now) no step's"
            f" rewards/margins has reached {self._least:g} (the most is {self._largest:.2g}): the weights hardly move."
            " Raise train.lr, tenfold to begin with"
        )
