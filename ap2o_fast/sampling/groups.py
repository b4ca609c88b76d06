"""Requests cut into groups that are decoded apart. What an answer is follows from its group, whoever decodes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ap2o_fast.sampling.protocol import Request


def grouped(requests: Sequence[Request], size: int) -> Iterator[list[Request]]:
    """Cut the queue into groups of at most `size` answers, neighbours in prompt length together, longest first.

    A group that is cut again is itself, and so are some of the groups in their order.
    """
    group: list[Request] = []
    room = size
    for request in sorted(requests, key=lambda request: (-len(request.prompt_ids), request.task_id)):
        start = 0
        while start < len(request.seeds):
            take = min(room, len(request.seeds) - start)
            group.append(
                Request(
                    task_id=request.task_id,
                    prompt_ids=request.prompt_ids,
                    seeds=request.seeds[start : start + take],
                    first_sample=request.first_sample + start,
                )
            )
            start, room = start + take, room - take
            if room == 0:
                yield group
                group, room = [], size
    if group:
        yield group


def keys(group: Sequence[Request]) -> set[tuple[str, int]]:
    """(task_id, sample) of every answer that is asked for."""
    return {(r.task_id, r.first_sample + which) for r in group for which in range(len(r.seeds))}
