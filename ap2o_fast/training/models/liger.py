"""Liger's kernels for the layers between the attentions: RMSNorm and SwiGLU, in one model and no other.

Liger's own `apply_liger_kernel_to_*` also replaces classes and functions in transformers' modules, so that every model
that is made later in the process would have them. We put its public modules where the model's own stood: they hold
the same parameters under the same names. Its rotary embedding exists only as such a replacement, of a function that
transformers calls by name, so it is left out. So is its head: ours takes the loss.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from ap2o_fast.errors import MachineError, UsageError

# Architectures whose normalisation and MLP are Llama's, line by line: (normalisation, MLP).
LAYERS = {
    "llama": ("LlamaRMSNorm", "LlamaMLP"),
    "mistral": ("MistralRMSNorm", "MistralMLP"),
    "qwen2": ("Qwen2RMSNorm", "Qwen2MLP"),
    "qwen3": ("Qwen3RMSNorm", "Qwen3MLP"),
}


def wanted_layers(setting: Literal["auto"] | bool, *, compiled: bool) -> Literal["auto"] | bool:
    """What the setting `model.liger` means: `auto` leaves layers that are compiled to the compiler, which fuses them.

    Errors: `UsageError` for `True` where they are.
    """
    if not compiled:
        return setting
    if setting is True:
        raise UsageError(
            "model.liger=true cannot be used with train.compile=true",
            why="torch.compile does not trace Liger's layers, and fuses what they do by itself",
            do="set model.liger=auto, which then leaves the layers to the compiler, or train.compile=false",
        )
    return False


def layers_in_use(model: PreTrainedModel, setting: Literal["auto"] | bool, *, compiled: bool) -> str:
    """Whether a model has Liger's layers, in words."""
    if uses_liger(model):
        return "true"
    return "false: train.compile fuses the model's own layers" if compiled and setting == "auto" else "false"


def use_liger(
    model: PreTrainedModel,
    wanted: Literal["auto"] | bool,
    device: torch.device | None = None,
    *,
    compiled: bool = False,
) -> int:
    """Replace a model's normalisations and MLPs by Liger's where the setting `model.liger` wants it.

    Args:
        device: where it is going to be; the model's own by default.
        compiled: whether its layers will be compiled.

    Returns: how many were replaced; 0 for `auto` where Liger cannot be had, does not fit, or layers are compiled.
    Errors: for `True`, `UsageError` where it does not fit the model, its device or the compiler, `MachineError` where
    it is missing.
    """
    wanted = wanted_layers(wanted, compiled=compiled)
    if wanted is False:
        return 0
    reason = _unfit(model, device or model.device)
    if reason is not None:
        if wanted is True:
            raise UsageError(
                "model.liger=true cannot be had", why=reason, do="set model.liger=auto, which goes without it here"
            )
        return 0
    if find_spec("liger_kernel") is None:
        if wanted is True:
            raise MachineError(
                "model.liger=true cannot be had",
                why="liger-kernel is not installed",
                do="`pip install liger-kernel`, or set model.liger=auto, which goes without it",
            )
        return 0
    return replace_layers(model)


def uses_liger(model: PreTrainedModel) -> bool:
    """Whether any of a model's layers is Liger's."""
    return any(type(module).__module__.startswith("liger_kernel.") for module in model.modules())


def replace_layers(model: PreTrainedModel) -> int:
    """Put Liger's modules where a supported model's normalisations and MLPs stand; returns how many."""
    theirs: Any = importlib.import_module("liger_kernel.transformers")
    normalisation, mlp = LAYERS[model.config.model_type]
    found = [(name, module) for name, module in model.named_modules() if type(module).__name__ in (normalisation, mlp)]
    for name, module in found:
        with torch.device("meta"):
            if type(module).__name__ == mlp:
                new = theirs.LigerSwiGLUMLP(module.config)
            else:
                new = theirs.LigerRMSNorm(len(module.weight), eps=module.variance_epsilon)
        for part, child in module.named_children():
            if part != "act_fn":
                setattr(new, part, child)
        for part, parameter in module.named_parameters(recurse=False):
            setattr(new, part, parameter)
        model.set_submodule(name, new.train(module.training))
    return len(found)


def _unfit(model: PreTrainedModel, device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"its kernels run on a GPU, and the model is on {device}"
    if model.config.model_type not in LAYERS:
        return f"{model.config.model_type} is not one of {', '.join(LAYERS)}"
    if model.config.hidden_act not in ("silu", "swish"):
        return f"its MLP computes SiLU, and the model's {model.config.hidden_act}"
    return None
