"""After each hand-over of weights: do the sampler and the model that it was given compute the same log-probabilities?

Compared are a few prompts of the round and some greedy tokens after each. Weights that are missing, stale or misplaced
move them by far more than the arithmetic of two implementations does. A change of weights that is smaller than that
arithmetic's noise is not seen: in bfloat16 the weights of the epoch before can pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from ap2o_fast.errors import NumericalError

PROMPTS = 4
TOKENS = 16
# Root mean square of the differences, in nats.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A text as the sampler scored it.

    Attributes:
        token_ids: the prompt and what came after it.
        logprobs: of every token but the first, at temperature 1.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]


@torch.inference_mode()
def drift(model: Any, texts: Sequence[Scored]) -> float:
    """Root mean square difference between the log-probabilities of the texts' tokens and the model's own, in nats."""
    differences = []
    for text in texts:
        ids = torch.tensor([text.token_ids], device=model.device)
        # Layers that training compiled run as they are written: they would be compiled anew for plain texts.
        with torch.compiler.set_stance("force_eager"):
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        own = -F.cross_entropy(logits, ids[0, 1:], reduction="none")
        differences.append(own.cpu().double() - torch.tensor(text.logprobs, dtype=torch.float64))
    return float(torch.cat(differences).square().mean().sqrt())


def check_drift(model: Any, texts: Sequence[Scored]) -> float:
    """`drift`. Errors: `NumericalError` where it is more than two implementations of one model may differ."""
    found, tolerance = drift(model, texts), TOLERANCE[model.dtype]
    if not found <= tolerance:
        raise NumericalError(
            f"the sampler does not compute what the model does: its log-probabilities differ by {found:.3g} (root mean"
            f" square, tolerance {tolerance})",
            why="the hand-over of the weights left some stale or missing, or vLLM computes this architecture otherwise",
            do="set sampling.engine=transformers in a new run of this model",
        )
    return found
