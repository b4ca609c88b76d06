"""A packed forward held to separate ones layer by layer, each layer from the same inputs in both.

In half precision two ways to compute the same differ by rounding, and a model can make any difference out of that: its
logits then say nothing. From equal inputs a layer's outputs differ by the rounding of one layer, however many there
are, and by all of what is wrong with its positions or with what its tokens see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

ROUNDED = 2.0**-7
"""What adding to the residual stream may round away, as a share of the stream: a few times half a bfloat16 unit."""


def largest_change(layers: nn.ModuleList, passes: list[tuple[list[int], Callable[[], Any]]]) -> float:
    """Run forward passes in turn, and return how far any token comes out of a layer otherwise than the first time.

    Args:
        passes: each of one sequence, with names for its tokens; a token that was in a pass before gets its inputs of
            then.

    Returns: the largest difference over layers and tokens, less what the residual stream may round away, as a share
    of what the layer adds to that token.
    """
    relay = _Relay(len(layers))
    with relay.hooked(layers):
        for tokens, run in passes:
            relay.tokens = tokens
            run()
    return relay.largest


class _Relay:
    """Inputs and outputs of every layer, by token."""

    def __init__(self, layers: int) -> None:
        self.tokens: list[int] = []
        self.largest = 0.0
        self._inputs: list[dict[int, torch.Tensor]] = [{} for _ in range(layers)]
        self._outputs: list[dict[int, torch.Tensor]] = [{} for _ in range(layers)]

    @contextmanager
    def hooked(self, layers: nn.ModuleList) -> Iterator[None]:
        """Within, the layers' inputs and outputs go through here."""
        handles = []
        for index, layer in enumerate(layers):
            handles.append(layer.register_forward_pre_hook(self._enter(index), with_kwargs=True))
            handles.append(layer.register_forward_hook(self._leave(index)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, index: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
        def replace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            known = self._inputs[index]
            rows = [known.setdefault(token, row) for token, row in zip(self.tokens, hidden[0], strict=True)]
            made = torch.stack(rows)[None]
            return ((made, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": made})

        return replace

    def _leave(self, index: int) -> Callable[..., None]:
        def compare(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            for token, row in zip(self.tokens, hidden[0], strict=True):
                before = self._outputs[index].setdefault(token, row).float()
                added = before - self._inputs[index][token].float()
                rounded = ROUNDED * float(before.norm())
                change = (float((row.float() - before).norm()) - rounded) / max(float(added.norm()), 1e-30)
                self.largest = max(self.largest, change) if change == change else float("inf")

        return compare
