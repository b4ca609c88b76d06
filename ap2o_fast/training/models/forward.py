"""One forward pass over a packed batch, up to the last hidden states: no logits are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ap2o_fast.training.attention.layout import PackedAttention
from ap2o_fast.training.attention.packed import wanted_attention
from ap2o_fast.training.packing.batch import PackedBatch


def packed_hidden(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    """Last hidden states of all packed tokens (after the final norm, as the LM head takes them).

    Args:
        model: as `prepare_model` returns it, on the batch's device.

    Returns: (T, D) in the model's dtype, differentiable.
    """
    wanted = wanted_attention(model)
    assert wanted is not None, "prepare_model was not called"
    packed = PackedAttention.of(batch, model.dtype, wanted)
    # A four-dimensional mask is taken as prepared and passed through: transformers would build one of T x T otherwise.
    placeholder = torch.empty(1, 1, 1, 1, device=batch.input_ids.device)
    with _checkpointing(model):
        output = model.get_decoder()(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None],
            attention_mask=placeholder,
            use_cache=False,
            packed=packed,
        )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


@contextmanager
def _checkpointing(model: PreTrainedModel) -> Iterator[None]:
    """transformers checkpoints layers in training mode, which generation must not see: it would lose its cache.

    The parts of a layer stay in evaluation mode, as they are when it is computed again in the backward pass.
    """
    layers: list[torch.nn.Module] = []
    if model.is_gradient_checkpointing and torch.is_grad_enabled():
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
