"""A book in memory, tiny random models, plans."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from ap2o_fast.curriculum.plan import PairPlan
from ap2o_fast.training import prepare_model

VOCABULARY = 311
CONFIGS = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen2-mixed": Qwen2Config,
    "qwen3": Qwen3Config,
}
# Windows within a prompt and across one; Mistral with one key head, Qwen with one layer of each kind.
SPECIAL: dict[str, dict[str, object]] = {
    "mistral": {"sliding_window": 5, "num_key_value_heads": 1},
    "qwen2-mixed": {"use_sliding_window": True, "sliding_window": 15, "max_window_layers": 1},
}


@dataclass
class MemoryBook:
    """The part of the error book's interface that training reads, over lists."""

    prompts: list[npt.NDArray[np.int32]] = field(default_factory=list)
    answers: list[npt.NDArray[np.int32]] = field(default_factory=list)
    problems: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.answers)

    def tokens(self, row: int) -> npt.NDArray[np.int32]:
        return self.answers[row]

    def prompt_ids(self, problem: int) -> npt.NDArray[np.int32]:
        return self.prompts[problem]

    def column(self, name: str) -> npt.NDArray[np.int32]:
        columns = {"problem": self.problems, "length": [len(answer) for answer in self.answers]}
        return np.array(columns[name], dtype=np.int32)


def make_book(prompts: list[int], answers: list[list[int]], *, seed: int = 0) -> MemoryBook:
    """Random tokens; `prompts` and `answers` are lengths by problem."""
    chance = np.random.default_rng(seed)
    book = MemoryBook()
    for problem, length in enumerate(prompts):
        book.prompts.append(chance.integers(3, VOCABULARY, length).astype(np.int32))
        for size in answers[problem]:
            book.answers.append(chance.integers(3, VOCABULARY, size).astype(np.int32))
            book.problems.append(problem)
    return book


def make_plan(book: MemoryBook, pairs: list[tuple[int, int]]) -> PairPlan:
    """Pairs of row ids as a plan."""
    chosen, rejected = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    return PairPlan(
        chosen=chosen,
        rejected=rejected,
        problem=np.array(book.problems, dtype=np.int64)[chosen],
        error=np.zeros(len(pairs), np.uint8),
        source=np.zeros(len(pairs), np.uint8),
    )


def plain_model(kind: str, dtype: torch.dtype = torch.float32, *, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random causal LM as transformers makes it, in eval mode. Weights are large enough to make attention matter."""
    torch.manual_seed(seed)
    settings: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "tie_word_embeddings": kind != "llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        CONFIGS[kind](**(settings | SPECIAL.get(kind, {}) | changes))
    )
    return model.to(dtype).eval()


def tiny_model(kind: str, dtype: torch.dtype = torch.float32, *, seed: int = 0, **changes: object) -> PreTrainedModel:
    """The same model, prepared for packed training."""
    return prepare_model(plain_model(kind, dtype, seed=seed, **changes))


# Three problems of unlike shape, an empty and a one-token answer, one chosen answer in three pairs.
PROMPTS = [7, 1, 12]
ANSWERS = [[5, 9, 1, 6], [4, 3], [8, 0, 5]]
PAIRS = [(0, 1), (0, 2), (0, 3), (5, 4), (6, 7), (6, 8)]
