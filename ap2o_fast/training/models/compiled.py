"""torch.compile, one decoder layer at a time: layers of a kind share one program, whatever the length of a batch."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ap2o_fast.errors import UsageError


def compile_blocks(model: PreTrainedModel, backend: str = "inductor") -> None:
    """Compile every decoder layer where it stands: parameters keep their names, and the model its class.

    Lengths are symbolic from the first batch on. Gradient checkpointing goes around the compiled layers.

    Errors: `UsageError` where the decoder has no list of layers.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        raise UsageError(
            "train.compile=true does not fit this model",
            why=f"{type(model.get_decoder()).__name__} has no list of decoder layers",
            do="set train.compile=false",
        )
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
