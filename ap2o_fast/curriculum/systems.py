"""Every system is a choice of which failures of a problem an epoch rejects. All else is shared.

The paper's systems (section on correction) differ only here, so that a comparison between them is fair:

* `init` trains nothing.
* `sft`: a random passed answer, paired with itself: its loss looks at nothing else.
* `dpo`, `curri-dpo`: every pair that there is, see `static`.
* `dyn-dpo`: random failures.
* `ap2o-l2h`, `ap2o-h2l`, `ap2o`: the failures in a window (see `windows`), and what the quiz replays.

How many pairs of a problem an epoch has, with w = ceil(F/T), the width of the paper's window:

| `curriculum.budget` | own | matched |
|---|---|---|
| `sft`, `dyn-dpo` | w | 2 w |
| `ap2o*` with replay | the window's and up to as many replayed | w of the window and w replayed |
| `ap2o*`, `replay=off` | the window's | w of the window, each with two chosen answers |
| `ap2o*`, `window=off` | w replayed | 2 w replayed |
| `dpo`, `curri-dpo` | N_p N_f / T, over all problems | 2 w, over all problems |

What is matched are pairs, so epochs have as many optimiser steps and learning rates are equal, step by step. A pair of
`sft` counts as one although it has one answer instead of two: a chosen answer is what both learn to give, and they see
as many of them. (In tokens `sft` is the cheaper half.)

Where a fixed number of pairs must be kept and the quiz shows nothing that a problem could replay, pairs are filled in:
the window's failures with other chosen answers, without a window any failure. A failure that is in several pairs of an
epoch has different chosen answers as far as there are so many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum.chance import stream
from ap2o_fast.curriculum.draws import Pair, has_windows, is_fixed, of_problem, of_replay
from ap2o_fast.curriculum.order import Positions
from ap2o_fast.curriculum.plan import PairPlan
from ap2o_fast.curriculum.pools import Pool, ReplayPool
from ap2o_fast.curriculum.replay import shares
from ap2o_fast.curriculum.static import static_plan, static_share
from ap2o_fast.curriculum.windows import high_first, paper_width, windows
from ap2o_fast.curriculum_checks import STATIC, WITHOUT_REPLAY


def plan_epoch(
    pools: Sequence[Pool],
    settings: CurriculumSettings,
    *,
    epoch: int,
    epochs: int,
    quiz_errors: Mapping[int, int],
    seed: int,
    replay: Mapping[int, ReplayPool] | None = None,
    pace: int | None = None,
) -> PairPlan:
    """Choose the pairs of one epoch (counted from 0).

    A rejected answer's chosen one is a random passed answer to the same problem, drawn anew for every pair. Each
    window pair is followed by its replay pair where there is one (both losses of Eq. 8); problems come in random
    order, with `scope` = `global` types in theirs. The streams of chance depend on seed, epoch and problem alone, so
    any epoch can be planned again.

    Args:
        settings: of a system whose direction is decided (`ap2o` with `order` = `auto` is not).
        quiz_errors: count of every error type (by code) in the latest quiz.
        replay: by problem what is replayed, the pools themselves by default. Where it comes from does not change how
            many pairs there are: as many as the problem's window has. A problem without a pool, which the exam gave
            too few answers for, replays as many as a window over what is replayed would hold; it is left out where the
            number of pairs is fixed.
        pace: epochs of the run whose number of pairs an epoch has, where that is not `epochs`: a window that slides
            faster gives up only w of its failures then, at random.
    """
    if settings.system in STATIC:
        budget = 2 * _paper_widths(pools, settings, epochs) if settings.budget == "matched" else None
        return static_plan(pools, settings.system, epoch=epoch, epochs=epochs, seed=seed, budget=budget)
    if settings.system == "init":
        pools, replay = [], {}
    elif settings.replay == "off" or settings.system in WITHOUT_REPLAY:
        replay = {}
    strangers: dict[int, ReplayPool] = {}
    if replay and not is_fixed(settings):
        strangers = {problem: replay[problem] for problem in sorted(replay.keys() - {pool.problem for pool in pools})}
    rng = np.random.default_rng([seed, 1, epoch])
    turns = rng.random(len(pools) + len(strangers))
    numbers = _numbers(pools, settings, epoch, epochs, seed, turns[: len(pools)], pace)
    groups: list[tuple[float, list[Pair]]] = []
    for pool, (held, number), turn in zip(pools, numbers, turns, strict=False):
        own = stream(seed, 2, epoch, pool.problem)
        mine = pool.replayed if replay is None else replay.get(pool.problem)
        found = of_problem(pool, mine, settings, held, number, quiz_errors, own)
        groups += [(turn, group) for group in found]
    for (problem, again), turn in zip(strangers.items(), turns[len(pools) :], strict=True):
        own = stream(seed, 2, epoch, problem)
        width = paper_width(len(again.failed), pace or epochs, settings)
        groups += [(turn, [pair]) for pair in of_replay(again, settings, width, quiz_errors, own)]
    if settings.scope == "global":
        rank = _ranks(pools, settings)
        groups = [(rank[group[0][3]] + rng.random(), group) for _, group in groups]
    groups.sort(key=lambda group: group[0])
    return PairPlan.of([pair for _, group in groups for pair in group], all_count=is_fixed(settings))


def window_pairs(
    pools: Sequence[Pool],
    settings: CurriculumSettings,
    *,
    epoch: int,
    epochs: int,
    seed: int,
    pace: int | None = None,
) -> int:
    """How many pairs of an epoch its steps are cut by, whatever the quiz says; arguments as of `plan_epoch`."""
    if settings.system == "init":
        return 0
    if settings.system in STATIC:
        matched = 2 * _paper_widths(pools, settings, epochs) if settings.budget == "matched" else None
        return len(static_share(sum(len(pool.passed) * len(pool.failed) for pool in pools), epoch, epochs, matched))
    if settings.draw == "upstream":
        return len(pools)
    width = _paper_widths(pools, settings, pace or epochs)
    if settings.budget == "matched":
        return 2 * width
    if not has_windows(settings) or pace:
        return width
    turns = np.random.default_rng([seed, 1, epoch]).random(len(pools))
    return sum(number for _, number in _numbers(pools, settings, epoch, epochs, seed, turns, None))


def _paper_widths(pools: Sequence[Pool], settings: CurriculumSettings, epochs: int) -> int:
    return sum(paper_width(len(pool.failed), epochs, settings) for pool in pools)


def _numbers(
    pools: Sequence[Pool],
    settings: CurriculumSettings,
    epoch: int,
    epochs: int,
    seed: int,
    turns: npt.NDArray[np.float64],
    pace: int | None,
) -> Iterator[tuple[Positions, int]]:
    """For each pool what its window holds, and how many window pairs come of it (half of a matched budget).

    Systems without windows choose among all failures, `sft` among all passed answers; without a window the number is
    that of the paper's.

    Args:
        turns: (M,) in whose order the problems come.
    """
    widths = (paper_width(len(pool.failed), pace or epochs, settings) for pool in pools)
    if not has_windows(settings):
        whole = (pool.passed if settings.system == "sft" else pool.failed for pool in pools)
        yield from ((np.arange(len(rows)), width) for rows, width in zip(whole, widths, strict=True))
        return
    progress = np.argsort(np.argsort(turns)) / len(pools)
    held = windows(pools, settings, epoch=epoch, epochs=epochs, seed=seed, progress=progress)
    if settings.budget == "own" and pace is None:
        limit = settings.pairs_per_problem
        yield from ((positions, min(len(positions), limit or len(positions))) for positions in held)
    elif settings.scope == "global":
        all_held = list(held)
        split = shares({index: len(positions) for index, positions in enumerate(all_held)}, sum(widths))
        yield from ((positions, split[index]) for index, positions in enumerate(all_held))
    else:
        yield from zip(held, widths, strict=True)


def _ranks(pools: Sequence[Pool], settings: CurriculumSettings) -> npt.NDArray[np.int64]:
    """(256,) at each error type its place in the order of all problems."""
    frequency = np.bincount(np.concatenate([pool.errors for pool in pools]), minlength=256)
    return np.argsort(np.argsort(-frequency if high_first(settings) else frequency, kind="stable"))
