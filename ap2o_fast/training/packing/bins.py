"""Which problems share a forward pass: few passes under a token budget, evened out by what they cost.

First-fit decreasing finds how many are needed; then the dearest item goes into the cheapest bin, and
items change places.
"""

from __future__ import annotations

from ap2o_fast.training.packing.flops import Cost
from ap2o_fast.training.packing.sequences import SharedPrompt


def fill_bins(items: list[SharedPrompt], budget: int, cost: Cost, multiple: int) -> list[list[int]]:
    """Put every item into a bin.

    Args:
        budget: tokens that a bin holds; no item is larger.
        multiple: of how many bins their number should be, as far as there are items: that of the processes.

    Returns: numbers of the items of each bin, in item order; no bin is empty.
    """
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
