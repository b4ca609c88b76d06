"""From pairs of row ids to packed batches: one copy of each prompt and of each answer, no padding.

Problems are the items, forward passes the bins: first-fit decreasing finds how many are needed, then they are evened
out by what they cost, dearest item into the cheapest bin. Shapes as in `PackedBatch`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ap2o_fast.curriculum.plan import PairPlan
from ap2o_fast.errors import DataError
from ap2o_fast.training.batch import PackedBatch, PackedStep
from ap2o_fast.training.distributed import ALONE, World, parts
from ap2o_fast.training.flops import TOKENS, Cost

Tokens = npt.NDArray[np.int32] | list[int]
AHEAD = 2


class Book(Protocol):
    """What training reads of the error book."""

    def tokens(self, row: int) -> npt.NDArray[np.int32]: ...
    def column(self, name: str) -> npt.NDArray[np.generic]: ...
    def prompt_ids(self, problem: int) -> npt.NDArray[np.int32]: ...


@dataclass(kw_only=True)
class SharedPrompt:
    """A prompt with its answers, and the pairs among them as (chosen, rejected) numbers of its answers."""

    prompt: Tokens
    answers: list[Tokens] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Packed tokens."""
        return len(self.prompt) + sum(len(answer) for answer in self.answers)


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
    used = np.unique(np.concatenate([plan.chosen, plan.rejected]))
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
    return [pack_sequences([items[i] for i in bin_], ref_logps) for bin_ in _bins(items, token_budget, cost, multiple)]


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
    lengths = book.column("length")
    turns = parts([cost.packed(batch) for batch in batches], world)
    mine = [empty_batch() if turn is None else batches[turn] for turn in turns]
    return PackedStep(
        batches=[batch.pin_memory() for batch in mine] if pin else mine,
        pairs=len(plan),
        tokens=sum(len(batch.input_ids) for batch in batches),
        answer_tokens=int(lengths[plan.chosen].sum(dtype=np.int64) + lengths[plan.rejected].sum(dtype=np.int64)),
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
    for bin_ in _bins(items, token_budget, TOKENS, multiple):
        members = [items[i] for i in bin_]
        packed.append((pack_sequences(members), np.array([row for item in members for row in item.rows], np.int64)))
    return packed


def pack_sequences(items: Sequence[SharedPrompt], ref_logps: npt.NDArray[np.floating] | None = None) -> PackedBatch:
    """Lay prompts and answers end to end in the given order. `ref_logps` is by row id; absent it is zero."""
    ids: list[Tokens] = []
    positions, kv_index, rows, targets = [], [], [], []
    query_lengths, key_lengths, row_counts = [], [], []
    pairs: list[tuple[int, int]] = []
    start = answers = 0
    for item in items:
        length = len(item.prompt)
        prompt = np.arange(start, start + length)
        ids.append(item.prompt)
        positions.append(np.arange(length))
        kv_index.append(prompt)
        query_lengths.append(length)
        key_lengths.append(length)
        pairs += [(chosen + answers, rejected + answers) for chosen, rejected in item.pairs]
        start += length
        for answer in item.answers:
            own = np.arange(start, start + len(answer))
            row_counts.append(len(answer))
            answers += 1
            if len(answer) == 0:
                continue
            ids.append(answer)
            positions.append(np.arange(length, length + len(answer)))
            kv_index += [prompt, own]
            query_lengths.append(len(answer))
            key_lengths.append(length + len(answer))
            # A token is predicted by the one before it: the first by the prompt's last.
            rows += [prompt[-1:], own[:-1]]
            targets.append(answer)
            start += len(answer)
    references = np.zeros(answers) if ref_logps is None else ref_logps[[row for item in items for row in item.rows]]
    return PackedBatch(
        input_ids=_joined(ids),
        position_ids=_joined(positions),
        cu_q=_offsets(query_lengths).to(torch.int32),
        cu_k=_offsets(key_lengths).to(torch.int32),
        kv_index=_joined(kv_index),
        rows=_joined(rows),
        targets=_joined(targets),
        cu_rows=_offsets(row_counts),
        ref_logps=torch.as_tensor(np.asarray(references), dtype=torch.float32),
        pairs=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
        weights=torch.ones(len(pairs), dtype=torch.float32),
    )


def empty_batch() -> PackedBatch:
    """A forward pass over one token, without answers or pairs: its loss is 0, and so is every gradient."""
    return pack_sequences([SharedPrompt(prompt=[0])])


def packing_efficiency(book: Book, plan: PairPlan, batches: Sequence[PackedBatch], cost: Cost = TOKENS) -> float:
    """What the plan's prompts and answers cost once each, over forward passes x the cost of the dearest of them.

    1.0 means no prompt was repeated and all passes cost the same; padding does not occur.
    """
    answers = np.unique(np.concatenate([plan.chosen, plan.rejected]))
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
        raise DataError(f"problem {problem} has an empty prompt", why="nothing predicts an answer's first token")
    return prompt


def _too_long(what: str, size: int, budget: int) -> DataError:
    return DataError(
        f"{what} has {size} tokens with its prompt, more than a forward pass holds ({budget})",
        why="a pair's answers are computed in one forward pass",
        do=f"set train.token_budget to at least {size}, or lower sampling.max_new_tokens or prompt.max_tokens",
    )


def _bins(items: list[SharedPrompt], budget: int, cost: Cost, multiple: int) -> list[list[int]]:
    """Numbers of the items of each bin, in item order; no bin is empty."""
    sizes = [item.size for item in items]
    costs = [cost.forward(len(item.prompt), [len(answer) for answer in item.answers]) for item in items]
    largest_first = sorted(range(len(items)), key=lambda i: -sizes[i])
    bins: list[list[int]] = []
    room: list[int] = []
    for i in largest_first:
        home = next((b for b, free in enumerate(room) if sizes[i] <= free), None)
        if home is None:
            home = len(bins)
            bins.append([])
            room.append(budget)
        bins[home].append(i)
        room[home] -= sizes[i]
    wanted = min(-(-len(bins) // multiple) * multiple, len(items))
    even: list[list[int]] = [[] for _ in range(wanted)]
    for i in sorted(range(len(items)), key=lambda i: -costs[i]):
        min(even, key=lambda bin_: sum(costs[j] for j in bin_)).append(i)
    _exchange(even, costs)
    fits = all(sum(sizes[i] for i in bin_) <= budget for bin_ in even)
    return [sorted(bin_) for bin_ in (even if fits else bins)]


def _exchange(bins: list[list[int]], costs: list[float]) -> None:
    """Give items of the dearest bin to the cheapest, alone or for another, as long as that brings the two closer."""
    while True:
        spent = [sum(costs[i] for i in bin_) for bin_ in bins]
        dear, cheap = bins[spent.index(max(spent))], bins[spent.index(min(spent))]
        apart = max(spent) - min(spent)
        # What a pair of them lies apart changes hands; half of the bins' distance would make them equal.
        offers = [(i, j, costs[i] - (costs[j] if j is not None else 0)) for i in dear for j in (None, *cheap)]
        i, j, moved = min(offers, key=lambda offer: abs(offer[2] - apart / 2), default=(0, None, 0.0))
        if not apart or not 1e-6 < moved / apart < 1 - 1e-6:
            return
        dear.remove(i)
        cheap.append(i)
        if j is not None:
            cheap.remove(j)
            dear.append(j)


def _joined(parts: Sequence[Tokens | npt.NDArray[np.int64]]) -> torch.Tensor:
    if not parts:
        return torch.zeros(0, dtype=torch.int64)
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def _offsets(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int64)
