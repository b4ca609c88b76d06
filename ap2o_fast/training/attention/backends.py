"""Which library computes the packed attention: FlashAttention 2, 3 or 4, torch's own, or exactly, call by call.

The first four take all sequences in one call, on a GPU in half precision. Each aligns the causal mask and the window
at the end of a sequence's queries and keys, which is where ours are aligned.

Shapes: T packed tokens, K gathered keys, H query heads, G key/value heads, E head size.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch.nn.attention.varlen import varlen_attn

from ap2o_fast.errors import MachineError, UsageError

# torch 2.11 and 2.12 take fewer key heads than query heads as they come; later ones want to be told.
_varlen: Any = varlen_attn
if "enable_gqa" in inspect.signature(varlen_attn).parameters:
    _varlen = functools.partial(varlen_attn, enable_gqa=True)

Backend = Literal["exact", "torch", "flash2", "flash3", "flash4"]

# Modules, the GPU generations that two were made for, and what brings them. Each module brings a function of this name.
_FUNCTION = "flash_attn_varlen_func"
_MODULES = {"flash2": "flash_attn", "flash3": "flash_attn_interface", "flash4": "flash_attn.cute"}
_MADE_FOR: dict[int, Backend] = {9: "flash3", 10: "flash4"}
_INSTALL = {
    "flash2": "`pip install flash-attn --no-build-isolation`",
    "flash3": "install FlashAttention 3 from the folder hopper/ of github.com/Dao-AILab/flash-attention",
    "flash4": "`pip install flash-attn-4`",
}


@functools.cache
def choose(wanted: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """Return what computes attention on a device in a precision.

    Args:
        wanted: the setting `model.attention`. `auto` is torch's own on a GPU in half precision, or what was made for
            the GPU's generation where it is installed: FlashAttention 3 on Hopper, 4 on Blackwell. FlashAttention 2 is
            what torch contains. Elsewhere it is `exact`.

    Errors: `UsageError` for one that does not run on this device or in this precision, `MachineError` for one that is
    not installed.
    """
    one_call = device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    if wanted == "exact" or (wanted == "auto" and not one_call):
        return "exact"
    if not one_call:
        raise UsageError(
            f"model.attention={wanted} cannot run in {dtype} on {device}",
            why="FlashAttention computes on a GPU, in half precision",
            do="set model.attention=auto, or model.device=cuda and model.dtype=bfloat16",
        )
    if wanted == "auto":
        generation = torch.cuda.get_device_capability(device)[0]
        if generation < 8:  # FlashAttention begins with Ampere
            return "exact"
        made_for = _MADE_FOR.get(generation)
        return made_for if made_for is not None and _installed(_MODULES[made_for]) else "torch"
    if wanted != "torch":
        _flash(wanted)
    return wanted  # type: ignore[return-value]


Offsets = tuple[torch.Tensor, torch.Tensor]
Attend = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, Offsets, tuple[int, int], float | None, int | None], torch.Tensor
]
"""Attention of all sequences in one call, (T, H, E), of query (T, H, E), key and value (K, G, E); where queries and
keys begin, (S+1,) int32 each; the most of either that a sequence has; the scaling; and the window: a token sees itself
and as many positions before it less one, None is no limit."""


@functools.cache
def in_one_call(backend: Backend) -> Attend | None:
    """What computes all sequences at once; None for `exact`, which takes one call a sequence."""
    if backend == "exact":
        return None
    if backend == "torch":
        return _by_torch
    # FlashAttention 4 is no registered operator: torch.compile goes around it.
    function = torch.compiler.disable(_flash(backend)) if backend == "flash4" else _flash(backend)
    return functools.partial(_by_flash, function, None if backend == "flash4" else -1)


def _by_torch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: Offsets,
    longest: tuple[int, int],
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    left = -1 if window is None else window - 1
    out: torch.Tensor = _varlen(query, key, value, *offsets, *longest, scale=scaling, window_size=(left, 0))
    return out


def _by_flash(
    function: Callable[..., Any],
    unlimited: int | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: Offsets,
    longest: tuple[int, int],
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """`unlimited` is how this release writes a window without limit."""
    found = function(
        query,
        key,
        value,
        cu_seqlens_q=offsets[0],
        cu_seqlens_k=offsets[1],
        max_seqlen_q=longest[0],
        max_seqlen_k=longest[1],
        softmax_scale=scaling,
        causal=True,
        window_size=(unlimited, unlimited) if window is None else (window - 1, 0),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    # FlashAttention 4 and early releases of 3 return the log-sum-exp beside the output.
    out: torch.Tensor = found[0] if isinstance(found, tuple) else found
    return out


@functools.cache
def _flash(backend: str) -> Callable[..., Any]:
    module = _MODULES[backend]
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), _FUNCTION)
    except (ImportError, AttributeError) as error:
        raise MachineError(
            f"model.attention={backend} cannot be had",
            why=f"{module}.{_FUNCTION}: {error}",
            do=f"{_INSTALL[backend]}, or set model.attention=auto",
        ) from error
    return function


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that would hold it
        return False
