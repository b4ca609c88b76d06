"""Preference pairs in an error book: which rows are a pair, which pairs are trained on and which evaluated.

Row 2 i of the book is the chosen answer of pair i and row 2 i + 1 the rejected one, which counts as `OtherError`: no
test has judged it. Round 0 is trained on, round 1 evaluated. Equal answers to a prompt are one node of training: the
first of their rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook
from ap2o_fast.config import HeldOutSettings
from ap2o_fast.curriculum.plan import WINDOW, PairPlan
from ap2o_fast.errors import DataError

TRAINED, EVALUATED = 0, 1


def read_pairs(book: ErrorBook, held_out: HeldOutSettings, seed: int) -> tuple[PairPlan, PairPlan]:
    """The pairs to train on and those to evaluate, in the order of the data.

    Errors: `DataError` where holding out leaves nothing on one side.
    """
    problem, rounds = book.column("problem").astype(np.int64), book.column("round")
    node = _nodes(problem, book.column("digest"))
    chosen = np.arange(0, len(book), 2)
    held = rounds[chosen] == EVALUATED
    if held_out.share:
        prompts = np.unique(problem)
        count = max(1, round(held_out.share * len(prompts)))
        drawn = np.random.default_rng([seed, 4]).permutation(prompts)[:count]
        held = np.isin(problem[chosen], drawn)
    if held.all() or (not held.any() and (held_out.share or held_out.source)):
        raise DataError(
            f"nothing is left to {'train on' if held.all() else 'evaluate'} of {len(held)} pairs",
            do="change preferences.eval; excluded.json says which pairs were left out and why",
        )
    trained, evaluated = (
        PairPlan(
            chosen=node[rows],
            rejected=node[rows + 1],
            problem=problem[rows],
            error=book.column("error")[rows + 1],
            source=np.full(len(rows), WINDOW, dtype=np.uint8),
        )
        for rows in (chosen[~held], chosen[held])
    )
    return trained, evaluated


def _nodes(problem: npt.NDArray[np.int64], digest: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """(N,) the first row with the same answer to the same problem."""
    keys = np.stack([problem, digest.view(np.int64)], axis=1)
    _, first, same = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[same.reshape(-1)], dtype=np.int64)
