"""Replay (paper Eq. 8): failures of the types that the quiz still shows, drawn from a problem's whole list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ap2o_fast.curriculum import upstream
from ap2o_fast.curriculum.chance import choice
from ap2o_fast.curriculum.pools import ReplayPool

Positions = npt.NDArray[np.int64]


def shares(counts: Mapping[int, int], total: int) -> dict[int, int]:
    """Split `total` over the keys in the ratio of `counts` by largest remainder; ties go to the smaller key.

    Returns: a share a key, summing to `total`, or nothing where all counts are zero.
    """
    weight = sum(counts.values())
    if weight == 0:
        return {}
    exact = {key: total * count / weight for key, count in counts.items()}
    split = {key: int(value) for key, value in exact.items()}
    by_remainder = sorted(counts, key=lambda key: (split[key] - exact[key], key))
    for key in by_remainder[: total - sum(split.values())]:
        split[key] += 1
    return split


@lru_cache(1024)
def _split(counts: tuple[tuple[int, int], ...], total: int) -> tuple[tuple[int, int], ...]:
    """`shares` of an epoch's quiz, the same for many problems: (type, share), none of them 0, by type."""
    return tuple(sorted((kind, share) for kind, share in shares(dict(counts), total).items() if share))


def draw_replay(pool: ReplayPool, quiz_errors: Mapping[int, int], amount: int, rng: np.random.Generator) -> list[int]:
    """(amount,) positions of failures to replay, in the ratio of the quiz's errors; empty where no type is shared.

    Only types that occur both in the quiz and in this problem take part. Of a type the fresh failures come first, then
    the others; one with fewer failures than its share is drawn with repetition.
    """
    present: dict[int, tuple[Positions, Positions]] = {}
    for kind, count in quiz_errors.items():
        if count and (of_kind := pool.of_kind(kind)) is not None:
            present[kind] = of_kind
    drawn: list[int] = []
    for kind, share in _split(tuple((kind, quiz_errors[kind]) for kind in present), amount):
        fresh, others = present[kind]
        new = choice(fresh, share, rng, replace=False) if len(fresh) > share else fresh.tolist()
        rest = share - len(new)
        again = others if len(others) else fresh
        drawn += new + choice(again, rest, rng, replace=rest > len(again))
    return drawn


def draw_upstream(pool: ReplayPool, quiz_errors: Mapping[int, int], width: int, rng: np.random.Generator) -> list[int]:
    """Positions of failures to replay beside a window of `width`, as many of each type as the authors' code draws.

    They are drawn with repetition, and may be many more than the window has.
    """
    counts = upstream.replay_counts(quiz_errors, width, set(pool.errors.tolist()))
    drawn: list[int] = []
    for kind, size in sorted(counts.items()):
        drawn += choice(np.flatnonzero(pool.errors == kind), size, rng, replace=True)
    return drawn


DRAWS: Mapping[str, Callable[[ReplayPool, Mapping[int, int], int, np.random.Generator], list[int]]] = {
    "paper": draw_replay,
    "upstream": draw_upstream,
}
"""By `curriculum.replay` what draws."""
