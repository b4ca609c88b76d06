"""From pairs of row ids to packed batches: one copy of each prompt and of each answer, no padding.

Problems are the items, forward passes the bins. Shapes as in `PackedBatch`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ap2o_fast.curriculum.plan import PairPlan
from ap2o_fast.errors import DataError
from ap2o_fast.training.packing.batch import PackedBatch, PackedStep
from ap2o_fast.training.packing.bins import fill_bins
from ap2o_fast.training.packing.flops import TOKENS, Cost
from ap2o_fast.training.packing.sequences import SharedPrompt, Tokens, empty_batch, pack_sequences
from ap2o_fast.training.parallel.distributed import ALONE, World, parts

AHEAD = 2


class Book(Protocol):
    """What training reads of the error book."""

    def tokens(self, row: int) -> npt.NDArray[np.int32]: ...
    def column(self, name: str) -> npt.NDArray[np.generic]: ...
    def prompt_ids(self, problem: int) -> npt.NDArray[np.int32]: ...


def pack(
    book: Book,
    plan: PairPlan,
    ref_logps: npt.NDArray[np.floating],
    token_budget: int,
    cost: Cost = TOKENS,
    multiple: int = 1,
) -> list[PackedBatch]:
    """Pack the pairs of one optimiser step.

    Args:
        ref_logps: (N,) reference log-probability of each row of the book; only the plan's rows need one.
        token_budget: most packed tokens of a batch.
        cost: what is spread evenly over the batches.
        multiple: their number is one of this, as far as there are problems: of the processes that share them.

    Returns: batches that together hold every pair once.
    Errors: `DataError` for a pair that exceeds the budget alone, an empty prompt, or a missing reference.
    """
    used = plan.rows
    missing = used[~np.isfinite(ref_logps[used])]
    if len(missing):
        raise DataError(
            f"{len(missing)} of {len(used)} answers have no finite reference log-probability, row {missing[0]} first",
            do="score them with the initial model before training",
        )
    items: list[SharedPrompt] = []
    for problem in np.unique(plan.problem).tolist():
        mine = plan.problem == problem
        pairs = list(zip(plan.chosen[mine].tolist(), plan.rejected[mine].tolist(), strict=True))
        items += _split_by_pairs(book, problem, pairs, token_budget)
    return [
        pack_sequences([items[i] for i in bin_], ref_logps) for bin_ in fill_bins(items, token_budget, cost, multiple)
    ]


def pack_step(
    book: Book,
    plan: PairPlan,
    ref_logps: npt.NDArray[np.floating],
    token_budget: int,
    cost: Cost = TOKENS,
    world: World = ALONE,
    *,
    pin: bool = False,
) -> PackedStep:
    """`pack`, with what is reported about the step. `pin`: into page-locked memory.

    Of the batches this process's part; the report is of all.
    """
    batches = pack(book, plan, ref_logps, token_budget, cost, world.size)
    lengths, others = book.column("length"), plan.rejected[plan.rejected != plan.chosen]
    turns = parts([cost.packed(batch) for batch in batches], world)
    mine = [empty_batch() if turn is None else batches[turn] for turn in turns]
    return PackedStep(
        batches=[batch.pin_memory() for batch in mine] if pin else mine,
        pairs=len(plan),
        tokens=sum(len(batch.input_ids) for batch in batches),
        answer_tokens=int(lengths[plan.chosen].sum(dtype=np.int64) + lengths[others].sum(dtype=np.int64)),
        efficiency=packing_efficiency(book, plan, batches, cost),
        flops=sum(cost.training(batch) for batch in batches),
    )


def pack_ahead(
    book: Book,
    plans: Iterable[PairPlan],
    ref_logps: npt.NDArray[np.floating],
    token_budget: int,
    cost: Cost = TOKENS,
    world: World = ALONE,
    *,
    pin: bool = False,
) -> Iterator[PackedStep]:
    """`pack_step` for each plan in order, on another thread and up to `AHEAD` steps before they are asked for."""
    with ThreadPoolExecutor(1, thread_name_prefix="packing") as thread:
        ahead: deque[Future[PackedStep]] = deque()
        for plan in plans:
            ahead.append(thread.submit(pack_step, book, plan, ref_logps, token_budget, cost, world, pin=pin))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def pack_rows(
    book: Book, rows: npt.NDArray[np.int64], token_budget: int, multiple: int = 1
) -> list[tuple[PackedBatch, npt.NDArray[np.int64]]]:
    """Pack answers without pairs, for scoring. Repeated rows are packed once.

    Returns: batches, each with the row ids of its answers in order.
    Errors: as `pack`.
    """
    rows = np.unique(np.asarray(rows, dtype=np.int64))
    problems = np.asarray(book.column("problem"))[rows]
    items: list[SharedPrompt] = []
    for problem in np.unique(problems).tolist():
        items += _split_by_answers(book, problem, rows[problems == problem].tolist(), token_budget)
    packed = []
    for bin_ in fill_bins(items, token_budget, TOKENS, multiple):
        members = [items[i] for i in bin_]
        packed.append((pack_sequences(members), np.array([row for item in members for row in item.rows], np.int64)))
    return packed


def packing_efficiency(book: Book, plan: PairPlan, batches: Sequence[PackedBatch], cost: Cost = TOKENS) -> float:
    """What the plan's prompts and answers cost once each, over forward passes x the cost of the dearest of them.

    1.0 means no prompt was repeated and all passes cost the same; padding does not occur.
    """
    answers = plan.rows
    problems, lengths = book.column("problem")[answers], book.column("length")[answers]
    needed = sum(
        cost.forward(len(book.prompt_ids(problem)), lengths[problems == problem].tolist())
        for problem in np.unique(problems).tolist()
    )
    return needed / (len(batches) * max(cost.packed(batch) for batch in batches))


def _split_by_pairs(book: Book, problem: int, pairs: list[tuple[int, int]], budget: int) -> list[SharedPrompt]:
    """One sequence for all pairs of a problem, or several, prompt repeated, where they exceed the budget."""
    prompt = _prompt(book, problem)
    groups: list[_Group] = []
    # Pairs with a common chosen answer side by side, so that a split repeats few answers.
    for pair in sorted(pairs):
        lengths = {row: len(book.tokens(row)) for row in pair}
        home = next((g for g in groups if g.size_with(lengths) <= budget), None)
        if home is None:
            home = _Group(len(prompt))
            if home.size_with(lengths) > budget:
                raise _too_long(f"pair {pair} of problem {problem}", home.size_with(lengths), budget)
            groups.append(home)
        home.lengths |= lengths
        home.pairs.append(pair)
    return [_sequence(book, prompt, list(group.lengths), group.pairs) for group in groups]


def _split_by_answers(book: Book, problem: int, rows: list[int], budget: int) -> list[SharedPrompt]:
    prompt = _prompt(book, problem)
    groups: list[_Group] = []
    for row in rows:
        lengths = {row: len(book.tokens(row))}
        if not groups or groups[-1].size_with(lengths) > budget:
            groups.append(_Group(len(prompt)))
            if groups[-1].size_with(lengths) > budget:
                raise _too_long(f"answer {row} of problem {problem}", groups[-1].size_with(lengths), budget)
        groups[-1].lengths |= lengths
    return [_sequence(book, prompt, list(group.lengths), []) for group in groups]


@dataclass
class _Group:
    prompt: int
    lengths: dict[int, int] = field(default_factory=dict)
    pairs: list[tuple[int, int]] = field(default_factory=list)

    def size_with(self, more: dict[int, int]) -> int:
        return self.prompt + sum((self.lengths | more).values())


def _sequence(book: Book, prompt: Tokens, rows: list[int], pairs: list[tuple[int, int]]) -> SharedPrompt:
    number = {row: i for i, row in enumerate(rows)}
    return SharedPrompt(
        prompt=prompt,
        answers=[book.tokens(row) for row in rows],
        pairs=[(number[chosen], number[rejected]) for chosen, rejected in pairs],
        rows=rows,
    )


def _prompt(book: Book, problem: int) -> Tokens:
    prompt = book.prompt_ids(problem)
    if len(prompt) == 0:
        raise DataError(
            f"problem {problem} has an empty prompt",
            why="nothing predicts an answer's first token",
            do="give it a prompt, or take it out of the problems",
        )
    return prompt


def _too_long(what: str, size: int, budget: int) -> DataError:
    return DataError(
        f"{what} has {size} tokens with its prompt, more than a forward pass holds ({budget})",
        why="a pair's answers are computed in one forward pass",
        do=f"set train.token_budget to at least {size}, or lower sampling.max_new_tokens or prompt.max_tokens",
    )
