"""The weights that a model computes with, as a checkpoint would hold them: what a sampler is handed in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from ap2o_fast.training.models.adapters import NAME, base_parameters
from ap2o_fast.training.models.quantization import dequantised


@torch.no_grad()
def whole_weights(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every weight with its name in a checkpoint without adapters; tied ones once.

    Adapters are added up layer by layer while the caller iterates, in float32, rounded once to the model's dtype; those
    that are switched off are left out. Quantised weights are made whole. So at most one weight more than the model's
    own is in memory, and none of the model's is changed. What is not merged is the model's own tensor, not a copy.
    """
    layers = {f"{name}.weight": module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    for name, parameter in base_parameters(model):
        weight = dequantised(parameter)
        layer = layers.get(name)
        yield name, weight if layer is None or layer.disable_adapters else _merged(layer, weight)


def _merged(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """A layer's (out, in) weight with its LoRA or DoRA adapter, in the dtype of `weight`."""
    added = layer.lora_B[NAME].weight.float() @ layer.lora_A[NAME].weight.float()
    total = weight.float() + layer.scaling[NAME] * added
    if NAME in layer.lora_magnitude_vector:
        lengths = layer.lora_magnitude_vector[NAME].weight.float()
        total *= (lengths / total.norm(dim=1))[:, None]
    return total.to(weight.dtype)
