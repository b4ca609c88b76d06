"""The model that is planned for, on the meta device: transformers' own layers, stand-ins for what replaces some."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from ap2o_fast.errors import UsageError
from ap2o_fast.training.memory import stand_ins


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a model is besides its configuration.

    Attributes:
        rank: of adapters beside the blocks' linear layers, all else frozen; 0 for none.
        targets: names of the layers that have one; empty for all.
        dora: whether they learn lengths as well.
        quantized: whether those layers have 4 bits a weight.
        liger: whether Liger's kernels compute norms and gates.
    """

    rank: int = 0
    targets: tuple[str, ...] = ()
    dora: bool = False
    quantized: bool = False
    liger: bool = False


def meta_model(config: PretrainedConfig, dtype: torch.dtype, form: Form) -> PreTrainedModel:
    """A model without weights, its blocks' linear layers frozen beside adapters where there is a rank.

    Errors: `UsageError` for adapters beside layers that it does not have.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation="sdpa")
    model.set_attn_implementation(stand_ins.NAME)
    if form.liger:
        stand_ins.use_liger(model)
    if form.rank:
        model.requires_grad_(False)
        wide = torch.promote_types(dtype, torch.float32) if form.dora else dtype
        linears = list(block_linears(model))
        unknown = sorted(set(form.targets) - {name for _, name, _ in linears})
        if unknown:
            raise UsageError(
                f"adapter.targets names {', '.join(unknown)}, which the model's blocks do not have",
                do=f"choose from {', '.join(sorted({name for _, name, _ in linears}))}",
            )
        for parent, name, linear in linears:
            rank = form.rank if not form.targets or name in form.targets else 0
            if rank or form.quantized:
                adapted = stand_ins.Linear(
                    linear, rank=rank, dora=form.dora, quantized=form.quantized, adapter_dtype=wide
                )
                setattr(parent, name, adapted)
    return model.eval()


def block_linears(model: PreTrainedModel) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Linear]]:
    """Module, attribute and linear layer, for every linear layer of the blocks."""
    for parent in model.get_decoder().modules():
        for name, child in parent.named_children():
            if isinstance(child, torch.nn.Linear) and not isinstance(parent, stand_ins.Linear):
                yield parent, name, child
