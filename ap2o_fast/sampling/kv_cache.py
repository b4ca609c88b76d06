"""A key/value cache for batched decoding in which rows come and go while others go on.

All rows end at the same column; a row that joins late is written right-aligned, so its first columns stay masked. Keys
carry their rotary position already, so it does not matter in which column they lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, DynamicLayer

GROWTH = 64


class GrowingLayer(DynamicLayer):
    """One layer's cache. `keys` and `values` are (B, heads, columns, head_dim) views into larger buffers.

    transformers' own layer concatenates at every step, which for a batch of 64 moves as many bytes as the weights.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, heads, new, head_dim) keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            self._room = (key_states, value_states)
            return self.keys, self.values
        start, new = self.keys.shape[2], key_states.shape[2]
        if start + new > self._room[0].shape[2]:
            rows = torch.arange(len(self.keys), device=self.keys.device)
            self.rebuild(rows, 0, start, [])
        for room, added in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start : start + new] = added
        self.keys, self.values = (room[:, :, : start + new] for room in self._room)
        return self.keys, self.values

    def rebuild(
        self,
        keep: torch.Tensor,
        first: int,
        columns: int,
        joining: Sequence[tuple[torch.Tensor, torch.Tensor, int]],
    ) -> None:
        """Drop rows and columns, then add rows.

        Args:
            keep: (B',) indices of the rows that stay.
            first: columns before this one are dropped.
            columns: how many columns there are afterwards.
            joining: keys and values (heads, length, head_dim) of a prompt and how many rows start from it.
        """
        added = sum(copies for _, _, copies in joining)
        rooms = []
        for which, held in enumerate((self.keys, self.values)):
            _, heads, end, head_dim = held.shape
            room = held.new_zeros(len(keep) + added, heads, columns + GROWTH, head_dim)
            if len(keep):
                room[: len(keep), :, columns - (end - first) : columns] = held[keep, :, first:]
            row = len(keep)
            for *prompt, copies in joining:
                length = prompt[which].shape[1]
                room[row : row + copies, :, columns - length : columns] = prompt[which]
                row += copies
            rooms.append(room)
        self._room = (rooms[0], rooms[1])
        self.keys, self.values = (room[:, :, :columns] for room in rooms)


def growing_cache() -> Cache:
    """An empty cache of `GrowingLayer`s. Layers with a sliding window keep all columns too: the mask hides the old."""
    return Cache(layer_class_to_replicate=GrowingLayer)
