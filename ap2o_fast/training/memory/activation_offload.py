"""Inputs of checkpointed layers wait for the backward pass in host memory.

With gradient checkpointing the inputs of the layers are what remains of a forward pass: T x D values a layer. Copies
leave the GPU on a stream of their own while later layers compute; in the backward pass the one before is on its way
back while a layer is recomputed. torch's `save_on_cpu` has the host wait for each copy, and TRL's manager of the same
kind is not among the packages that a run needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from ap2o_fast.errors import UsageError

FEWEST = 1 << 14
"""Tensors with fewer values stay where they are."""


def offload_activations(model: PreTrainedModel) -> None:
    """Have all forward passes of the model's decoder that record a graph keep in host memory what it saves.

    What checkpointed layers recompute is not saved by then. One graph exists at a time: the next forward pass comes
    after the backward pass.

    Errors: `UsageError` where layers are not checkpointed.
    """
    if not model.is_gradient_checkpointing:
        raise UsageError(
            "train.activation_offload needs train.gradient_checkpointing",
            why="it moves the inputs of layers; without checkpointing all that a layer computes would have to go too",
            do="set train.gradient_checkpointing=true as well",
        )
    decoder = model.get_decoder()
    traffic = _Traffic()
    decoder.register_forward_pre_hook(lambda *_: traffic.enter())
    decoder.register_forward_hook(lambda *_: traffic.leave(), always_call=True)


@dataclass(eq=False, kw_only=True)
class _Away:
    """A tensor in host memory and, once it was called for, on its device."""

    host: torch.Tensor
    device: torch.device
    here: torch.Tensor | None = None


class _Traffic:
    """Copies of saved tensors to host memory and back, last out first in."""

    def __init__(self) -> None:
        self._waiting: list[_Away] = []
        self._hooks: saved_tensors_hooks | None = None
        self._lane: torch.cuda.Stream | None = None

    def enter(self) -> None:
        """Begin to send saved tensors away."""
        if torch.is_grad_enabled():
            self._waiting.clear()
            self._hooks = saved_tensors_hooks(self._pack, self._unpack)
            self._hooks.__enter__()

    def leave(self) -> None:
        """Stop it; what is away stays there."""
        if self._hooks is not None:
            self._hooks.__exit__()
            self._hooks = None

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor | _Away:
        if tensor.numel() < FEWEST or not tensor.is_floating_point() or isinstance(tensor, torch.nn.Parameter):
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
        self._copy(tensor, host, on_device=tensor)
        away = _Away(host=host, device=tensor.device)
        self._waiting.append(away)
        return away

    def _unpack(self, packed: torch.Tensor | _Away) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        if packed in self._waiting:
            del self._waiting[self._waiting.index(packed) :]
        self._fetch(packed)
        if self._lane is not None:
            torch.cuda.current_stream(packed.device).wait_stream(self._lane)
        if self._waiting:
            self._fetch(self._waiting[-1])
        here, packed.here = packed.here, None
        assert here is not None
        return here

    def _fetch(self, away: _Away) -> None:
        if away.here is None:
            away.here = torch.empty_like(away.host, device=away.device, pin_memory=False)
            self._copy(away.host, away.here, on_device=away.here)

    def _copy(self, source: torch.Tensor, target: torch.Tensor, *, on_device: torch.Tensor) -> None:
        if not on_device.is_cuda:
            target.copy_(source)
            return
        if self._lane is None:
            self._lane = torch.cuda.Stream(on_device.device)
        self._lane.wait_stream(torch.cuda.current_stream(on_device.device))
        with torch.cuda.stream(self._lane):
            target.copy_(source, non_blocking=True)
        on_device.record_stream(self._lane)
