"""Streams of chance, and draws from them without what NumPy's cost for the one or two items that a problem takes.

Every draw takes from its stream what the call of `numpy.random.Generator` that it names would, and gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_WORD = 1 << 32


def stream(*key: int) -> np.random.Generator:
    """`numpy.random.default_rng(key)`: a stream that follows from these numbers alone."""
    # An array of words is what NumPy makes of the numbers, each of its own if it is small: that takes half the time.
    words = np.array(key, np.uint32) if max(key) < _WORD else list(key)
    return np.random.Generator(np.random.PCG64(words))


def choice(items: npt.NDArray[np.int64], size: int, rng: np.random.Generator, *, replace: bool) -> list[int]:
    """`rng.choice(items, size, replace)` as a list."""
    if size == 0:
        return []
    if size == 1 and len(items):
        return [int(items[rng.integers(len(items))])]
    return rng.choice(items, size=size, replace=replace).tolist()


def permutation(items: list[int], rng: np.random.Generator) -> list[int]:
    """`rng.permutation(items)` as a list."""
    return rng.permutation(items).tolist() if len(items) > 1 else items


def spread(items: Sequence[int] | npt.NDArray[np.int64], number: int, rng: np.random.Generator) -> list[int]:
    """`number` of the items, in their order: each as often as any other or once more, by chance."""
    if number == 0:
        return []
    whole, rest = divmod(number, len(items))
    if rest == 0:
        more: list[int] = []
    elif rest == 1:
        more = [int(rng.integers(len(items)))]
    else:
        more = rng.choice(len(items), size=rest, replace=False).tolist()
    if whole == 0:
        return [int(items[place]) for place in sorted(more)]
    once_more = set(more)
    return [int(item) for place, item in enumerate(items) for _ in range(whole + (place in once_more))]
