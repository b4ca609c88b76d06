"""Pairs to look at: held-out ones that the trained model tells apart best and worst, or some that were trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ap2o_fast.reporting.dpo.data import PairData
from ap2o_fast.reporting.sidebyside import MOST_LINES, DiffLine, side_by_side
from ap2o_fast.reporting.text import clean, shorten

EACH = 3
LONGEST_LINE = 1500
LONGEST_PROMPT = 1500


@dataclass(frozen=True, kw_only=True)
class PairExample:
    """A pair. All text is cleaned and of bounded length.

    Attributes:
        kind: why it is shown.
        brief: the prompt's longest line, which says most of it.
        chosen, rejected: rewards of the kept weights, None where unknown.
        tokens: of the chosen and the rejected answer.
    """

    kind: str
    prompt: str
    brief: str
    chosen: float | None
    rejected: float | None
    tokens: tuple[int, int]
    lines: tuple[DiffLine, ...]
    cut: int


def find_pairs(data: PairData, seed: int) -> list[PairExample]:
    """Up to `EACH` held-out pairs of the widest, the most wrong and the narrowest margin, no prompt twice; without
    rewards up to `EACH` drawn from those that were trained on."""
    margins = data.margins(data.evaluated)
    if not len(margins) or np.isnan(margins).any():
        drawn = np.random.default_rng([seed, 5]).permutation(len(data.trained))
        plan, groups = data.trained, {"trained on": drawn}
    else:
        order = np.argsort(margins, kind="stable")
        plan = data.evaluated
        groups = {
            "right, widest margin": order[::-1][margins[order[::-1]] > 0],
            "wrong": order[margins[order] <= 0],
            "narrowest margin": np.argsort(np.abs(margins), kind="stable"),
        }
    seen: set[int] = set()
    found = []
    for kind, indices in groups.items():
        count = 0
        for index in indices.tolist():
            prompt = int(plan.problem[index])
            if count < EACH and prompt not in seen:
                seen.add(prompt)
                count += 1
                found.append(_example(data, kind, prompt, int(plan.chosen[index]), int(plan.rejected[index])))
            if count == EACH:
                break
    return found


def _example(data: PairData, kind: str, prompt: int, chosen: int, rejected: int) -> PairExample:
    book, rewards = data.book, data.rewards
    left, right = (clean(book.text(row)).rstrip("\n") for row in (chosen, rejected))
    lines = tuple(side_by_side(left, right, 0, longest=LONGEST_LINE))
    known = [float(rewards[row]) if not np.isnan(rewards[row]) else None for row in (chosen, rejected)]
    asked = clean(book.prompt(prompt)).strip()
    return PairExample(
        kind=kind,
        prompt=shorten(asked, LONGEST_PROMPT),
        brief=max(asked.split("\n"), key=len).strip(),
        chosen=known[0],
        rejected=known[1],
        tokens=(int(book.column("length")[chosen]), int(book.column("length")[rejected])),
        lines=lines[:MOST_LINES],
        cut=max(0, len(lines) - MOST_LINES),
    )
