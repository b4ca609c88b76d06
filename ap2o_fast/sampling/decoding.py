"""Continuous batching on dense tensors: answers that end make room for the next ones in the queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ap2o_fast.sampling.kv_cache import growing_cache
from ap2o_fast.sampling.protocol import Request


@dataclass(kw_only=True)
class Open:
    """An answer that is waiting or being decoded."""

    request: Request
    which: int
    uniforms: torch.Tensor
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = ""


@dataclass(frozen=True, kw_only=True)
class Prefilled:
    """A prompt's cache, a pair of (heads, length, head_dim) a layer, and its (V,) last logits."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    logits: torch.Tensor


class Decoder:
    """Decodes a queue of answers, at most `slots` side by side; every prompt is prefilled once.

    Usage: iterate `steps`; between steps the caller sets `finish` on the answers that have ended.
    """

    def __init__(self, model: Any, queue: Sequence[Open], slots: int) -> None:
        self.model, self.slots, self.device = model, slots, model.device
        self.queue = deque(queue)
        self.live: list[Open] = []
        self._prefilled: dict[int, Prefilled] = {}
        self._cache = growing_cache()
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    def steps(self) -> Iterator[tuple[list[Open], torch.Tensor]]:
        """Yield answers with the (B, V) logits of their next token; the caller appends one token to each of them."""
        while True:
            joined = self._admit()
            if joined:
                yield joined, torch.stack([self._prompt_of(answer).logits for answer in joined])
                self._forget_prompts()
            if all(answer.finish for answer in self.live):
                if not self.queue:
                    return
                continue
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.live), 1)], dim=1)
            logits = self._forward(torch.tensor([answer.tokens[-1:] for answer in self.live]), self._mask, self._cache)
            going = [row for row, answer in enumerate(self.live) if not answer.finish]
            yield [self.live[row] for row in going], logits[going]

    def _admit(self) -> list[Open]:
        """Rebuild the batch where that pays: without the answers that have ended, with those that there is room for."""
        keep = [row for row, answer in enumerate(self.live) if not answer.finish]
        ended = len(self.live) - len(keep)
        free = self.slots - len(keep)
        worth = free * 8 >= self.slots or not keep
        if not (worth if self.queue else ended * 4 > len(self.live)) or (not keep and not self.queue):
            return []
        joined = [self.queue.popleft() for _ in range(min(free, len(self.queue)))]
        new = {id(answer.request): answer.request for answer in joined}
        self._prefill([request for key, request in new.items() if key not in self._prefilled])
        first = int(self._mask[keep].argmax(dim=1).min()) if keep else self._mask.shape[1]
        lengths = [len(answer.request.prompt_ids) for answer in joined]
        columns = max([self._mask.shape[1] - first, *lengths])
        copies = [sum(answer.request is request for answer in joined) for request in new.values()]
        for layer, held in enumerate(self._cache.layers):
            prompts = [(*self._prefilled[key].layers[layer], n) for key, n in zip(new, copies, strict=True)]
            held.rebuild(torch.tensor(keep, dtype=torch.long, device=self.device), first, columns, prompts)
        mask = torch.zeros(len(keep) + len(joined), columns, dtype=torch.long)
        mask[: len(keep), columns - (self._mask.shape[1] - first) :] = self._mask[keep, first:]
        for row, length in enumerate(lengths, start=len(keep)):
            mask[row, columns - length :] = 1
        self._mask = mask
        self.live = [self.live[row] for row in keep] + joined
        return joined

    def _prefill(self, requests: list[Request]) -> None:
        """Run the prompts through the model together, left-padded."""
        if not requests:
            return
        width = max(len(request.prompt_ids) for request in requests)
        ids = torch.zeros(len(requests), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, width - len(request.prompt_ids) :] = torch.from_numpy(request.prompt_ids.astype(np.int64))
            mask[row, width - len(request.prompt_ids) :] = 1
        cache = growing_cache()
        logits = self._forward(ids, mask, cache)
        for row, request in enumerate(requests):
            own = slice(width - len(request.prompt_ids), None)
            layers = [(layer.keys[row, :, own].clone(), layer.values[row, :, own].clone()) for layer in cache.layers]
            self._prefilled[id(request)] = Prefilled(layers=layers, logits=logits[row])
        if not self._cache.layers:
            self._cache = cache

    def _prompt_of(self, answer: Open) -> Prefilled:
        return self._prefilled[id(answer.request)]

    def _forget_prompts(self) -> None:
        waiting = {id(answer.request) for answer in self.queue}
        self._prefilled = {key: held for key, held in self._prefilled.items() if key in waiting}

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """(B, V) float32 logits after the last of the new tokens `ids` (B, new); `mask` covers the cache and them."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        # Layers that training compiled run as they are written: a cache has another shape at every token.
        with torch.compiler.set_stance("force_eager"):
            out = self.model(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                position_ids=positions.to(self.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return out.logits[:, -1].float()
