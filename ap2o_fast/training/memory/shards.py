"""What FSDP2 holds on one process beside its shards, when a step is rehearsed on the meta device.

A unit's weights (a layer's, or those outside the layers) are gathered into one memory and copied out of it into their
own. Going forward that memory waits until the next unit is gathered, going backward the next unit is gathered ahead.
Gradients of a unit are whole until its backward pass is done; then they are copied into float32, of which a shard
stays. What is outside the layers stays gathered from the first forward pass to the end of the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel


@dataclass(eq=False, kw_only=True)
class _Unit:
    """Weights that are gathered together.

    Attributes:
        flat, whole: memories that hold them gathered, while they are.
        gradient: shards of the gradients.
    """

    weights: list[nn.Parameter]
    flat: torch.Tensor | None = None
    whole: torch.Tensor | None = None
    gradient: torch.Tensor | None = field(default=None)

    @property
    def nbytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights)


class Shards:
    """Of a model on the meta device among `count` processes; nothing where that is 1."""

    def __init__(self, model: PreTrainedModel, count: int) -> None:
        self.count = count
        layers = list(model.get_decoder().layers)
        inside = {id(weight) for layer in layers for weight in layer.parameters()}
        self._units = [_Unit(weights=list(layer.parameters())) for layer in layers]
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        outside = [weight for weight in model.parameters() if id(weight) not in inside]
        self._root = _Unit(weights=[w for w in outside if w is not embedding or embedding is head])
        self._embedding = _Unit(weights=[w for w in outside if w is embedding and embedding is not head])
        self._last: _Unit | None = None
        self._reducing: torch.Tensor | None = None
        self._backward = False
        if count > 1:
            for index, layer in enumerate(layers):
                layer.register_forward_pre_hook(lambda module, inputs, i=index: self._enter(i, inputs[0]))
                layer.register_forward_hook(lambda module, inputs, output, i=index: self._leave(i, output))

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around a forward pass."""
        if self.count == 1:
            yield
            return
        for unit in (self._root, self._embedding):
            self._gather(unit)
        self._embedding.whole = None
        yield
        if self._last is not None:
            self._last.flat = None
            self._last = None
        if not torch.is_grad_enabled():
            self._root.whole = None

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Around the backward pass that follows."""
        if self.count == 1:
            yield
            return
        self._backward = True
        yield
        for unit in (*self._units, self._embedding, self._root):
            self._reduce(unit)
        self._reducing = None
        self._backward = False

    def _enter(self, index: int, hidden: torch.Tensor) -> None:
        if self._backward:
            return  # recomputed: its weights are there
        self._gather(self._units[index])
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self._reduce(self._units[index]))

    def _leave(self, index: int, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        if self._backward:
            return
        self._units[index].whole = None
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self._come_back(index))

    def _gather(self, unit: _Unit) -> None:
        unit.flat = _empty(unit.nbytes)
        if self._last is not None:
            self._last.flat = None
        unit.whole, self._last = _empty(unit.nbytes), unit

    def _come_back(self, index: int) -> None:
        """Copy out what was gathered ahead, and gather the next ahead."""
        unit = self._units[index]
        if unit.flat is None:
            unit.flat = _empty(unit.nbytes)
        unit.whole = _empty(unit.nbytes)
        unit.flat = None
        if index:
            self._units[index - 1].flat = _empty(self._units[index - 1].nbytes)

    def _reduce(self, unit: _Unit) -> None:
        unit.whole = None
        trained = [weight for weight in unit.weights if weight.grad is not None]
        if not trained:
            return
        self._reducing = None
        size = sum(weight.numel() for weight in trained)
        width = max(4, trained[0].itemsize)
        self._reducing = _empty(width * size)
        for weight in trained:
            weight.grad = None
        shard = _empty(width * size // self.count)
        if trained[0].itemsize < width:
            shard = _empty(trained[0].itemsize * size // self.count)
        if unit.gradient is None:
            unit.gradient = shard


def _empty(size: int) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8, device="meta")
