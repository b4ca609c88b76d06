"""What a sampler takes and gives; every engine (transformers, vLLM) is one file that implements `Sampler`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how to answer it.

    Attributes:
        task_id: the problem it belongs to.
        prompt_ids: (S,) int32 token ids, made once by `sampling.prompts`; never re-tokenised.
        seeds: one seed an answer; `len(seeds)` answers are drawn, each reproducible alone.
        first_sample: the index of the first answer among the problem's answers of this round.
    """

    task_id: str
    prompt_ids: npt.NDArray[np.int32]
    seeds: tuple[int, ...]
    first_sample: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One sampled answer, exactly as the model produced it.

    Attributes:
        task_id, sample, seed: which answer this is.
        token_ids: (L,) int32, the sampled tokens verbatim, with the end-of-sequence token or the tokens that
            completed a stop string: they are what the model is trained on.
        logprobs: (L,) float32, log-probability of each token under the model (temperature 1, untruncated).
        text: the decoded answer, cut before the stop string.
        finish: ``stop`` (stop string), ``eos`` or ``length`` (token limit).
    """

    task_id: str
    sample: int
    seed: int
    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    text: str
    finish: str


class Sampler(Protocol):
    """An engine that answers requests with the current weights."""

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
        """Yield finished answers, some at a time. All prompts are queued at once.

        Answers whose (task_id, sample) are in `done` are left out; what the others are does not depend on it. So a run
        that is cut off and resumed draws the same answers as one that is not."""
        ...
