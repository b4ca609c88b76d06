"""The engine that needs nothing but transformers: batched decoding with shared prefill on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ap2o_fast.sampling.kv_cache import growing_cache
from ap2o_fast.sampling.prompts import cut
from ap2o_fast.sampling.protocol import Answer, Request

TAIL_TOKENS = 32


@dataclass
class _Open:
    """An answer that is still being decoded."""

    request: Request
    which: int
    uniforms: torch.Tensor
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TransformersSampler:
    """Decodes many answers side by side; a prompt is prefilled once however many answers it gets.

    Randomness: answer i of a request inverts the cumulative distribution at uniforms from a generator seeded with
    `seeds[i]`. A batch is fixed by the requests, so the same requests give the same answers on the same machine.

    Args:
        model: a Hugging Face causal language model, in evaluation mode.
        tokenizer: its tokenizer.
        batch_answers: answers decoded side by side.
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_answers: int) -> None:
        self.model, self.tokenizer, self.batch_answers = model, tokenizer, batch_answers
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.end_ids = {end for end in [*ends, tokenizer.eos_token_id] if end is not None}

    def sample(
        self,
        requests: Sequence[Request],
        *,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        done: Set[tuple[str, int]] = frozenset(),
    ) -> Iterator[list[Answer]]:
        """Yield batches of finished answers, longest prompts first; see `Sampler.sample`."""
        for batch in _batches(requests, self.batch_answers):
            if all(
                (request.task_id, request.first_sample + i) in done
                for request in batch
                for i in range(len(request.seeds))
            ):
                continue
            yield self._decode(batch, temperature, top_p, max_new_tokens, tuple(stop))

    @torch.inference_mode()
    def _decode(
        self, requests: list[Request], temperature: float, top_p: float, limit: int, stop: tuple[str, ...]
    ) -> list[Answer]:
        device = self.model.device
        width = max(len(request.prompt_ids) for request in requests)
        ids = torch.zeros(len(requests), width, dtype=torch.long)
        mask = torch.zeros(len(requests), width, dtype=torch.long)
        for row, request in enumerate(requests):
            ids[row, width - len(request.prompt_ids) :] = torch.from_numpy(request.prompt_ids.astype(np.int64))
            mask[row, width - len(request.prompt_ids) :] = 1
        cache = growing_cache()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(ids.to(device), mask.to(device), positions.to(device), cache)

        live = [
            _Open(request, which, torch.rand(limit, generator=torch.Generator().manual_seed(seed)))
            for request in requests
            for which, seed in enumerate(request.seeds)
        ]
        repeat = torch.tensor([row for row, request in enumerate(requests) for _ in request.seeds])
        cache.batch_select_indices(repeat.to(device))
        logits, mask, position = logits[repeat.to(device)], mask[repeat], positions[repeat, -1:]
        done: dict[tuple[int, int], Answer] = {}
        while True:
            step = len(live[0].tokens)
            uniforms = torch.stack([answer.uniforms[step] for answer in live]).to(device)
            tokens, logprobs = draw(logits.float(), uniforms, temperature, top_p)
            for answer, token, logprob in zip(live, tokens.tolist(), logprobs.tolist(), strict=True):
                answer.tokens.append(token)
                answer.logprobs.append(logprob)
            finishes = self._finishes(live, limit, stop)
            for answer, finish in zip(live, finishes, strict=True):
                if finish:
                    key = (id(answer.request), answer.which)
                    done[key] = self._close(answer, finish, stop)
            keep = [row for row, finish in enumerate(finishes) if not finish]
            if not keep:
                break
            if len(keep) < len(live):
                rows = torch.tensor(keep)
                cache.batch_select_indices(rows.to(device))
                live, mask, position = [live[row] for row in keep], mask[rows], position[rows]
                tokens = tokens[rows.to(device)]
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            position = position + 1
            logits = self._forward(tokens[:, None], mask.to(device), position.to(device), cache)
        return [done[id(request), which] for request in requests for which in range(len(request.seeds))]

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]

    def _finishes(self, live: list[_Open], limit: int, stop: tuple[str, ...]) -> list[str]:
        tails = self.tokenizer.batch_decode(
            [answer.tokens[-TAIL_TOKENS:] for answer in live],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        finishes = []
        for answer, tail in zip(live, tails, strict=True):
            if answer.tokens[-1] in self.end_ids:
                finishes.append("eos")
            elif any(string in tail for string in stop):
                finishes.append("stop")
            else:
                finishes.append("length" if len(answer.tokens) == limit else "")
        return finishes

    def _close(self, answer: _Open, finish: str, stop: tuple[str, ...]) -> Answer:
        text = self.tokenizer.decode(answer.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Answer(
            task_id=answer.request.task_id,
            sample=answer.request.first_sample + answer.which,
            seed=answer.request.seeds[answer.which],
            token_ids=np.asarray(answer.tokens, dtype=np.int32),
            logprobs=np.asarray(answer.logprobs, dtype=np.float32),
            text=cut(text, stop)[0],
            finish=finish,
        )


def draw(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token a row by inverting the cumulative distribution.

    Args:
        logits: (B, V) float32.
        uniforms: (B,) in [0, 1).
    Returns: (B,) int64 tokens and (B,) float32 log-probabilities at temperature 1 without truncation.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    if temperature == 0:
        tokens = logprobs.argmax(dim=-1)
    else:
        probs = torch.softmax(logits / temperature, dim=-1)
        if top_p < 1:
            ordered, order = probs.sort(dim=-1, descending=True)
            outside = ordered.cumsum(dim=-1) - ordered >= top_p
            probs = probs.masked_fill(outside.scatter(1, order, outside), 0.0)
        cumulative = probs.cumsum(dim=-1)
        target = uniforms[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def _batches(requests: Sequence[Request], batch_answers: int) -> Iterator[list[Request]]:
    """Cut the queue into batches of at most `batch_answers` answers, neighbours in prompt length together."""
    batch: list[Request] = []
    room = batch_answers
    for request in sorted(requests, key=lambda request: (-len(request.prompt_ids), request.task_id)):
        start = 0
        while start < len(request.seeds):
            take = min(room, len(request.seeds) - start)
            batch.append(
                Request(
                    task_id=request.task_id,
                    prompt_ids=request.prompt_ids,
                    seeds=request.seeds[start : start + take],
                    first_sample=request.first_sample + start,
                )
            )
            start, room = start + take, room - take
            if room == 0:
                yield batch
                batch, room = [], batch_answers
    if batch:
        yield batch
