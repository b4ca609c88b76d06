"""Float32 values into bfloat16 weights, rounded by chance, so that on average they are where the values are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

SLICE = 1 << 24
"""Weights that are rounded at a time: what it needs beside them stays small, and small ones share their launches."""

_UPPER = -65536


@torch.no_grad()
def round_by_chance(
    values: Sequence[torch.Tensor],
    out: Sequence[torch.Tensor],
    chance: torch.Generator | None,
    good: torch.Tensor | None = None,
) -> None:
    """Fill each of `out`, bfloat16, with its `values`, finite float32: rounded up or down so that the mean is right.

    A value that bfloat16 holds stays as it is. All contiguous, pairs of one shape, on the generator's device.

    Args:
        chance: None rounds to the nearest.
        good: 0-d boolean; False leaves `out` as it is.
    """
    for sources, targets in _slices(values, out):
        wide = torch.cat(sources)
        if chance is not None:
            bits = random_bits(wide, chance)
            wide = bits.add_(wide.view(torch.int32)).bitwise_and_(_UPPER).view(torch.float32)
            del bits
        half = wide.to(targets[0].dtype)
        del wide
        if good is not None:
            half = torch.where(good, half, torch.cat(targets))
        torch._foreach_copy_(targets, list(half.split([len(target) for target in targets])))


def random_bits(like: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """int32 in [0, 2**16), of the shape of `like` and on its device."""
    return torch.randint(1 << 16, like.shape, dtype=torch.int32, device=like.device, generator=chance)


def round_with(values: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Finite float32 values, each rounded to one of its two neighbours in bfloat16 by `random_bits`."""
    # The upper half of a float32's bits is a bfloat16; what carries from the lower half is a step of its last bit.
    return ((values.view(torch.int32) + bits) & _UPPER).view(torch.float32)


def _slices(
    values: Sequence[torch.Tensor], out: Sequence[torch.Tensor]
) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """Flat pieces of both, in order, about `SLICE` weights at a time."""
    sources: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    held = 0
    for value, target in zip(values, out, strict=True):
        for source, place in zip(value.view(-1).split(SLICE), target.view(-1).split(SLICE), strict=True):
            if held and held + len(source) > SLICE:
                yield sources, targets
                sources, targets, held = [], [], 0
            sources.append(source)
            targets.append(place)
            held += len(source)
    if held:
        yield sources, targets
