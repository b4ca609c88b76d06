"""What lies between the products of the chunked head, in PyTorch. Shapes: r rows of the chunk, V vocabulary.

The same functions as `rows_triton`. Exponentials are the dear part on a CPU, so the first leaves them behind.
"""

from __future__ import annotations

import torch


def logps(logits: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(r,) log-probabilities of the targets, and (r,) sums of exponentials for `gradients`.

    `logits` (r, V) become exp(logits + bias - row maximum).
    """
    if bias is not None:
        logits += bias
    largest = logits.amax(1, keepdim=True)
    logits.sub_(largest)
    target = logits.gather(1, targets[:, None]).squeeze(1)
    sums = logits.exp_().sum(1)
    return target - sums.log(), sums


def gradients(
    exponentials: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    sums: torch.Tensor,
    slopes: torch.Tensor,
    *,
    out: torch.Tensor,
) -> None:
    """Fill `out` (r, V) with slopes · (onehot(targets) - softmax); it is what `logps` left, `exponentials`."""
    assert out.data_ptr() == exponentials.data_ptr()
    exponentials.mul_((-slopes / sums)[:, None])
    exponentials.scatter_add_(1, targets[:, None], slopes[:, None])


def scale(values: torch.Tensor, factor: torch.Tensor) -> None:
    """values *= factor, which is () and usually 1."""
    if factor != 1:
        values.mul_(factor)
