"""What is trained in the comparisons: shapes of real models with random weights, and pairs at real lengths.

A step has 32 pairs, two for each of 16 problems, each answer in one pair: what a window and its replay give. Every
system gets the same pairs in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from ap2o_fast.curriculum.plan import PairPlan
from ap2o_fast.doctor.what_works import SIZES

PROBLEMS, PAIRS = 16, 2
SHAPES = {  # hidden, intermediate, layers, heads, key heads, vocabulary, tied head: Qwen2.5's; two small ones for CPUs
    "tiny": (128, 384, 2, 4, 2, 4096, True),
    "small": (576, 1536, 8, 9, 3, 49152, True),
    **SIZES,
}
LENGTHS = {  # medians of a prompt and of an answer and the spread of their logarithms
    "mbpp": (48, 0.12, 72, 0.65),  # 192 answers to 24 problems by Qwen2.5-Coder-0.5B
    "middle": (300, 0.2, 300, 0.4),
    "long": (2000, 0.2, 300, 0.4),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model's shape, lengths and how it is trained. `adapter` is none, lora or qlora."""

    shape: str
    lengths: str
    adapter: str = "none"
    problems: int = PROBLEMS
    steps: int = 11

    def __str__(self) -> str:
        how = "" if self.adapter == "none" else f" {self.adapter}"
        return f"{self.shape} {self.lengths}{how}"

    @cached_property
    def book(self) -> Book:
        return Book(self)

    def plans(self) -> Iterator[PairPlan]:
        """One a step."""
        for step in range(self.steps):
            first = np.arange(step * self.problems * PAIRS, (step + 1) * self.problems * PAIRS, dtype=np.int64)
            zeros = np.zeros(len(first), np.uint8)
            yield PairPlan(chosen=2 * first, rejected=2 * first + 1, problem=first // PAIRS, error=zeros, source=zeros)


class Book:
    """Random tokens at the case's lengths, as training reads an error book. Answers end with token 2."""

    def __init__(self, case: Case) -> None:
        chance = np.random.default_rng(0)
        prompt, prompt_spread, answer, spread = LENGTHS[case.lengths]
        vocabulary = SHAPES[case.shape][5]
        problems = case.steps * case.problems

        def texts(count: int, median: int, deviation: float) -> list[npt.NDArray[np.int32]]:
            sizes = np.exp(chance.normal(np.log(median), deviation, count)).astype(int).clip(8, 4 * median)
            return [chance.integers(3, vocabulary, size).astype(np.int32) for size in sizes]

        self._prompts = texts(problems, prompt, prompt_spread)
        self._answers = texts(problems * 2 * PAIRS, answer, spread)
        for tokens in self._answers:
            tokens[-1] = 2
        self._columns = {
            "problem": np.repeat(np.arange(problems), 2 * PAIRS),
            "length": np.array([len(tokens) for tokens in self._answers]),
        }

    def __len__(self) -> int:
        return len(self._answers)

    def tokens(self, row: int) -> npt.NDArray[np.int32]:
        return self._answers[row]

    def prompt_ids(self, problem: int) -> npt.NDArray[np.int32]:
        return self._prompts[problem]

    def column(self, name: str) -> npt.NDArray[Any]:
        return self._columns[name]


def config_of(shape: str) -> Qwen2Config:
    """The configuration of a model of that shape."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    return Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def make_model(shape: str, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """A model of that shape, randomly initialised where it will stay; on `meta` it has its buffers all the same."""
    config = config_of(shape)
    torch.manual_seed(0)
    where = init_empty_weights(include_buffers=False) if device == "meta" else torch.device(device)
    with where:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model
