"""The engine that needs nothing but transformers: continuous batching with shared prefill on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

import numpy as np
import torch

from ap2o_fast.sampling.decoding import Decoder, Open
from ap2o_fast.sampling.groups import grouped, keys
from ap2o_fast.sampling.prompts import DECODE, cut, end_ids
from ap2o_fast.sampling.protocol import Answer, Request

TAIL_TOKENS = 32
GROUP_BATCHES = 4


class TransformersSampler:
    """Decodes many answers side by side; a prompt is prefilled once however many answers it gets.

    Randomness: answer i of a request inverts the cumulative distribution at uniforms from a generator seeded with
    `seeds[i]`. Which answers share a forward pass follows from the requests alone, so the same requests give the same
    answers on the same machine, bit for bit.

    Args:
        model: a Hugging Face causal language model, in evaluation mode.
        tokenizer: its tokenizer.
        batch_answers: answers decoded side by side.

    Attributes:
        group_answers: answers of a group: those of one may share forward passes, those of two never do.
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_answers: int) -> None:
        self.model, self.tokenizer, self.batch_answers = model, tokenizer, batch_answers
        self.group_answers = GROUP_BATCHES * batch_answers
        self.end_ids = end_ids(model, tokenizer)

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
        """Yield answers soon after they end, longest prompts first; see `Sampler.sample`."""
        for group in grouped(requests, self.group_answers):
            if keys(group) <= done:
                continue
            held: list[Answer] = []
            for answer in self._decode(group, temperature, top_p, max_new_tokens, tuple(stop)):
                if (answer.task_id, answer.sample) not in done:
                    held.append(answer)
                if len(held) * 4 >= self.batch_answers:
                    yield held
                    held = []
            if held:
                yield held

    @torch.inference_mode()
    def _decode(
        self, requests: list[Request], temperature: float, top_p: float, limit: int, stop: tuple[str, ...]
    ) -> Iterator[Answer]:
        queue = [
            Open(
                request=request,
                which=which,
                uniforms=torch.rand(limit, generator=torch.Generator().manual_seed(seed)),
            )
            for request in requests
            for which, seed in enumerate(request.seeds)
        ]
        for answers, logits in Decoder(self.model, queue, self.batch_answers).steps():
            uniforms = torch.stack([answer.uniforms[len(answer.tokens)] for answer in answers])
            tokens, logprobs = draw(logits, uniforms.to(logits.device), temperature, top_p)
            for answer, token, logprob in zip(answers, tokens.tolist(), logprobs.tolist(), strict=True):
                answer.tokens.append(token)
                answer.logprobs.append(logprob)
            for answer, finish in zip(answers, self._finishes(answers, limit, stop), strict=True):
                answer.finish = finish
                if finish:
                    yield self._close(answer, stop)

    def _finishes(self, answers: list[Open], limit: int, stop: tuple[str, ...]) -> list[str]:
        tails = self.tokenizer.batch_decode([answer.tokens[-TAIL_TOKENS:] for answer in answers], **DECODE)
        finishes = []
        for answer, tail in zip(answers, tails, strict=True):
            if answer.tokens[-1] in self.end_ids:
                finishes.append("eos")
            elif any(string in tail for string in stop):
                finishes.append("stop")
            else:
                finishes.append("length" if len(answer.tokens) == limit else "")
        return finishes

    def _close(self, answer: Open, stop: tuple[str, ...]) -> Answer:
        text = self.tokenizer.decode(answer.tokens, **DECODE)
        return Answer(
            task_id=answer.request.task_id,
            sample=answer.request.first_sample + answer.which,
            seed=answer.request.seeds[answer.which],
            token_ids=np.asarray(answer.tokens, dtype=np.int32),
            logprobs=np.asarray(answer.logprobs, dtype=np.float32),
            text=cut(text, stop)[0],
            finish=answer.finish,
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
