"""4-bit weights (nf4 with double quantisation, the QLoRA paper's) through bitsandbytes: 0.52 bytes a weight.

Only linear layers of the blocks are quantised. The head stays in the model's dtype, because our kernel multiplies by
it, and with it the embedding, which it may be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from ap2o_fast.errors import MachineError
from ap2o_fast.training.models.no_hub_kernels import import_bitsandbytes

FORMAT = "nf4"


def loading(dtype: torch.dtype) -> BitsAndBytesConfig:
    """What makes transformers quantise each weight while it reads it, so that only the largest is ever whole.

    Errors: `MachineError` without bitsandbytes.
    """
    _bitsandbytes()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=FORMAT,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def quantise(
    model: PreTrainedModel, device: torch.device | str, *, fill: Callable[[torch.Tensor], object] | None = None
) -> PreTrainedModel:
    """Quantise a model in memory on its way to `device`, weight by weight: the whole is never there unquantised.

    Weights come out as they do through `loading`.

    Args:
        model: made from a configuration or loaded, in the dtype that it computes in, on the host or the meta device.
        fill: called with each parameter that is on the meta device, once it has room on `device`, to give it values.
            Such a model comes from `accelerate.init_empty_weights(include_buffers=False)`.

    Returns: the same object, on `device`; its blocks are frozen, so it needs `adapt`.
    Errors: `MachineError` without bitsandbytes.
    """
    bnb = _bitsandbytes()
    dtype = model.dtype
    blocks = model.get_decoder().layers
    model.tie_weights()  # accelerate's init_empty_weights parts what is tied
    shared: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    # Names, because a list of the layers would keep their weights.
    for name in [name for name, module in blocks.named_modules() if type(module) is torch.nn.Linear]:
        linear = blocks.get_submodule(name)
        _give_room(linear, device, fill, shared)
        with torch.device("meta"):
            made = bnb.nn.Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                compute_dtype=dtype,
                compress_statistics=True,
                quant_type=FORMAT,
            )
        made.weight = bnb.nn.Params4bit(
            linear.weight.data, requires_grad=False, compress_statistics=True, quant_type=FORMAT, module=made
        ).to(device)
        made.bias = linear.bias
        blocks.set_submodule(name, made)
        shared.clear()
    for module in model.modules():
        _give_room(module, device, fill, shared)
    model.to(device)
    model.is_loaded_in_4bit = True  # what peft goes by
    settle(model)
    return model


def settle(model: PreTrainedModel) -> None:
    """Have the packed weights stay as they are.

    On CPUs with AVX-512 for bfloat16 bitsandbytes packs a weight anew the first time that it is used without a gradient
    and multiplies it from then on by a kernel without a backward pass: after a quiz nothing would be learnt any more.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def dequantised(parameter: torch.nn.Parameter) -> torch.Tensor:
    """The whole weight that a packed one stands for, in the dtype that it computes in; a plain one as it is."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.detach()
    whole: torch.Tensor = _bitsandbytes().functional.dequantize_4bit(parameter.data, state)
    return whole


def _give_room(
    module: torch.nn.Module,
    device: torch.device | str,
    fill: Callable[[torch.Tensor], object] | None,
    shared: dict[torch.nn.Parameter, torch.nn.Parameter],
) -> None:
    """Bring a module's own parameters from the meta device to `device`; `shared` keeps tied ones one."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        if not parameter.is_meta:
            continue
        assert fill is not None, f"{name} has no values"
        if parameter not in shared:
            made = torch.nn.Parameter(torch.empty_like(parameter, device=device), requires_grad=False)
            with torch.no_grad():
                fill(made)
            shared[parameter] = made
        setattr(module, name, shared[parameter])


def _bitsandbytes() -> Any:
    try:
        import_bitsandbytes()
        import bitsandbytes
    except ImportError as error:
        raise MachineError(
            "model.quantization = 'nf4' needs the package bitsandbytes",
            why=str(error),
            do="in the clone: pip install -e '.[qlora]', or set model.quantization=none",
        ) from error
    return bitsandbytes
