"""A key/value cache for batched decoding: room is made ahead, so that a step writes one column and copies nothing."""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer

GROWTH = 64


class GrowingLayer(DynamicLayer):
    """One layer's cache. `keys` and `values` are (B, heads, length, head_dim) views into larger buffers.

    transformers' own layer concatenates at every step, which for a batch of 64 moves as many bytes as the weights.
    """

    def update(  # type: ignore[override]
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, heads, new, head_dim) keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room_keys, self._room_values = key_states[:, :, :0], value_states[:, :, :0]
        start, new = self.get_seq_length(), key_states.shape[2]
        if start + new > self._room_keys.shape[2]:
            self._room_keys = _enlarged(self._room_keys[:, :, :start], start + new + GROWTH, key_states)
            self._room_values = _enlarged(self._room_values[:, :, :start], start + new + GROWTH, value_states)
        self._room_keys[:, :, start : start + new] = key_states
        self._room_values[:, :, start : start + new] = value_states
        self.keys, self.values = self._room_keys[:, :, : start + new], self._room_values[:, :, : start + new]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep (or repeat) the given rows of the batch."""
        length = self.get_seq_length()
        self._room_keys, self._room_values = self._room_keys[indices], self._room_values[indices]
        self.keys, self.values = self._room_keys[:, :, :length], self._room_values[:, :, :length]


def growing_cache() -> Cache:
    """An empty cache of `GrowingLayer`s for a model with full attention in every layer."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def _enlarged(held: torch.Tensor, length: int, like: torch.Tensor) -> torch.Tensor:
    batch, heads, _, head_dim = like.shape
    room = like.new_empty(batch, heads, length, head_dim)
    room[:, :, : held.shape[2]] = held
    return room
