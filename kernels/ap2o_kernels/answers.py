"""From rows to answers and back. Shapes: R rows, A answers, P pairs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch


@dataclass(frozen=True)
class Group:
    """Answers [first, last) that no pair leaves, their rows [start, stop), and the numbers of the pairs among them."""

    first: int
    last: int
    start: int
    stop: int
    pairs: torch.Tensor


def split_groups(cu_rows: list[int], pairs: torch.Tensor, limit: int) -> list[Group]:
    """Cut the answers into runs that no pair straddles, each as long as `limit` rows allow (longer only if it must be).

    Args:
        cu_rows: A+1 row offsets.
        pairs: (P, 2) int64 on the CPU.
    """
    answers = len(cu_rows) - 1
    low, high = pairs.amin(1), pairs.amax(1)
    steps = torch.zeros(answers + 1, dtype=torch.int64)
    steps.index_add_(0, low, torch.ones_like(low)).index_add_(0, high, -torch.ones_like(high))
    pairs_over_end = steps.cumsum(0).tolist()
    cuts = [0] + [answer + 1 for answer in range(answers) if pairs_over_end[answer] == 0]
    bounds = [0]
    for before, cut in pairwise(cuts):
        if cu_rows[cut] - cu_rows[bounds[-1]] > limit and before != bounds[-1]:
            bounds.append(before)
    bounds += [answers] if answers else []
    group_of_pair = torch.searchsorted(torch.tensor(bounds), low, right=True) - 1
    return [
        Group(first, last, cu_rows[first], cu_rows[last], (group_of_pair == number).nonzero().flatten())
        for number, (first, last) in enumerate(pairwise(bounds))
    ]


def sum_rows(row_logps: torch.Tensor, cu_rows: torch.Tensor) -> torch.Tensor:
    """(A,) sums over each answer's rows, in the dtype of `row_logps` (R,); added up in float64, in one order always."""
    sums = torch.segment_reduce(
        row_logps.double(), "sum", offsets=cu_rows.to(row_logps.device, non_blocking=True), unsafe=True
    )
    return sums.to(row_logps.dtype)


def spread(slopes: torch.Tensor, lengths: torch.Tensor, rows: int) -> torch.Tensor:
    """(R,) each row's value of `slopes` (A,), of which answer a has `lengths[a]`."""
    return slopes.repeat_interleave(lengths, output_size=rows)
