"""Counts the bytes of tensors while they live: on the meta device what a computation would need."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GRAIN = 512
"""Bytes that torch's CUDA allocator rounds a tensor's memory up to."""


class Tally(TorchDispatchMode):
    """Inside, every memory that an operator allocates is counted until the last tensor of it is gone.

    What an operator uses within itself, and what existed before, is not seen.

    Attributes:
        alive: bytes that live now.
        peaks: the most that lived at a time, one for each stretch that `mark` ended, and one since.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.alive, self.peaks = 0, [0]
        self._seen: set[int] = set()
        # Kept, so that views of what existed before are not taken for new memory.
        self._known = [tensor.untyped_storage() for tensor in known]
        self._seen.update(map(id, self._known))

    def mark(self) -> None:
        """End a stretch of `peaks` here and begin the next."""
        self.peaks.append(self.alive)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._seen:
            return
        self._seen.add(key)
        size = -(-storage.nbytes() // GRAIN) * GRAIN
        self.alive += size
        self.peaks[-1] = max(self.peaks[-1], self.alive)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.alive -= size
