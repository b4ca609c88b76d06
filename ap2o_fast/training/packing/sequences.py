"""Prompts with their answers laid side by side: the tensors of one packed batch. Shapes as in `PackedBatch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from ap2o_fast.training.packing.batch import PackedBatch

Tokens = npt.NDArray[np.int32] | list[int]


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


def _joined(parts: Sequence[Tokens | npt.NDArray[np.int64]]) -> torch.Tensor:
    if not parts:
        return torch.zeros(0, dtype=torch.int64)
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def _offsets(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int64)
