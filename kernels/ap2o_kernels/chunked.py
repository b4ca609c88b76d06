"""The head in chunks: at most `chunk_rows` x V logits exist at a time, on any device PyTorch runs on.

A chunk that holds whole pairs knows the loss's derivative with respect to its answers' log-probabilities as soon as
its forward is done, so its logits turn into gradients in place: 6RDV operations in all and no recomputation. Pairs that
reach over more than `chunk_rows` rows take two sweeps (8RDV). Gradients are made in the forward pass and scaled in the
backward. Shapes: R rows, D hidden, V vocabulary, A answers, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ap2o_kernels.losses import pair_losses


@dataclass(frozen=True, kw_only=True)
class PairLoss:
    """What the loss needs besides the log-probabilities: `ref_logps` (A,), `pairs` (P, 2), `weights` (P,) or None."""

    ref_logps: torch.Tensor
    pairs: torch.Tensor
    weights: torch.Tensor | None
    normalizer: float
    beta: float
    loss_type: str
    label_smoothing: float


@dataclass(frozen=True)
class Group:
    """Answers [first, last) that no pair leaves, their rows [start, stop), and the numbers of the pairs among them."""

    first: int
    last: int
    start: int
    stop: int
    pairs: torch.Tensor


def split_groups(cu_rows: list[int], pairs: torch.Tensor, limit: int) -> list[Group]:
    """Cut the answers into runs that no pair straddles, each as long as `limit` rows allow (longer only if it must be).

    Args:
        cu_rows: A+1 row offsets.
        pairs: (P, 2) int64 on the CPU.
    """
    answers = len(cu_rows) - 1
    low, high = pairs.amin(1), pairs.amax(1)
    steps = torch.zeros(answers + 1, dtype=torch.int64)
    steps.index_add_(0, low, torch.ones_like(low)).index_add_(0, high, -torch.ones_like(high))
    pairs_over_end = steps.cumsum(0).tolist()
    cuts = [0] + [answer + 1 for answer in range(answers) if pairs_over_end[answer] == 0]
    bounds = [0]
    for before, cut in pairwise(cuts):
        if cu_rows[cut] - cu_rows[bounds[-1]] > limit and before != bounds[-1]:
            bounds.append(before)
    bounds += [answers] if answers else []
    group_of_pair = torch.searchsorted(torch.tensor(bounds), low, right=True) - 1
    return [
        Group(first, last, cu_rows[first], cu_rows[last], (group_of_pair == number).nonzero().flatten())
        for number, (first, last) in enumerate(pairwise(bounds))
    ]


def linear_logp(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None, chunk_rows: int
) -> torch.Tensor:
    """Log-probability of each row's target, (R,) float32 (float64 for float64 inputs), without gradient."""
    with torch.no_grad():
        return _Sweep(hidden, weight, bias, targets, chunk_rows, needed=(False, False, False)).logps(0, len(targets))


def linear_dpo(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    cu_rows: torch.Tensor,
    bias: torch.Tensor | None,
    pair_loss: PairLoss,
    chunk_rows: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (), differentiable once in hidden, weight and bias, and detached log-probabilities (A,)."""
    return _LinearDpo.apply(hidden, weight, bias, targets, cu_rows, pair_loss, chunk_rows, torch.is_grad_enabled())


class _LinearDpo(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        cu_rows: torch.Tensor,
        pair_loss: PairLoss,
        chunk_rows: int,
        grad: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        on_hidden, on_weight, on_bias = (grad and need for need in ctx.needs_input_grad[:3])
        sweep = _Sweep(hidden, weight, bias, targets, chunk_rows, needed=(on_hidden, on_weight, on_bias))
        lengths = cu_rows.diff()
        loss = torch.zeros((), dtype=sweep.dtype, device=hidden.device)
        logps = torch.zeros(len(lengths), dtype=sweep.dtype, device=hidden.device)
        for group in split_groups(cu_rows.tolist(), pair_loss.pairs.cpu(), chunk_rows):
            answers = slice(group.first, group.last)
            answer_of_row = torch.repeat_interleave(
                torch.arange(group.last - group.first, device=hidden.device),
                lengths[answers],
                output_size=group.stop - group.start,
            )
            logps[answers].index_add_(0, answer_of_row, sweep.logps(group.start, group.stop))
            if len(group.pairs):
                group_loss, slopes = _loss_and_slopes(logps[answers], lengths[answers], group, pair_loss)
                loss += group_loss
                sweep.add_gradients(group.start, group.stop, slopes[answer_of_row])
        ctx.mark_non_differentiable(logps)
        ctx.gradients = sweep.gradients()
        return loss, logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
        if ctx.gradients is None:
            raise RuntimeError("linear_dpo: its gradients were handed out by the first backward; call it again")
        # Handed out, not kept: a V x D gradient is scaled in place and becomes the parameter's without a copy.
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [None if g is None else g.mul_(grad_loss) for g in gradients]
        return (*scaled, None, None, None, None, None)


def _loss_and_slopes(
    logps: torch.Tensor, lengths: torch.Tensor, group: Group, pair_loss: PairLoss
) -> tuple[torch.Tensor, torch.Tensor]:
    """The group's part of the loss (), and its derivative with respect to each of its answers' `logps`."""
    chosen = group.pairs.to(logps.device)
    leaf = logps.detach().clone().requires_grad_()
    with torch.enable_grad():
        losses = pair_losses(
            leaf,
            pair_loss.ref_logps[group.first : group.last],
            lengths,
            pair_loss.pairs[chosen] - group.first,
            beta=pair_loss.beta,
            loss_type=pair_loss.loss_type,
            label_smoothing=pair_loss.label_smoothing,
        )
        if pair_loss.weights is not None:
            losses = losses * pair_loss.weights[chosen].to(losses.dtype)
        loss = losses.sum() / pair_loss.normalizer
        (slopes,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), slopes


class _Sweep:
    """Walks over rows in chunks, in one workspace of chunk_rows x V: log-probabilities, then gradients.

    `dtype` is what sums are kept in: float32, or float64 for float64 inputs. Half precision is multiplied as it is on
    CUDA, with results in `dtype`; elsewhere it is widened first, since PyTorch's CPU products round theirs to half.
    """

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        chunk_rows: int,
        *,
        needed: tuple[bool, bool, bool],
    ) -> None:
        self.dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.half_products = hidden.dtype != self.dtype and hidden.is_cuda
        product_dtype = hidden.dtype if self.half_products else self.dtype
        self.hidden, self.weight, self.targets, self.chunk_rows = hidden, weight.to(product_dtype), targets, chunk_rows
        self.product_dtype = product_dtype
        self.bias = None if bias is None else bias.to(self.dtype)
        self.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        self.grad_hidden = torch.zeros_like(hidden) if needed[0] else None
        self.grad_weight = torch.zeros_like(weight, dtype=self.dtype) if needed[1] else None
        self.grad_bias = torch.zeros_like(self.bias) if self.bias is not None and needed[2] else None
        rows = min(chunk_rows, len(targets))
        self._workspace = torch.empty(rows, len(weight), dtype=self.dtype, device=hidden.device)
        self._held: tuple[slice, torch.Tensor] | None = None

    def logps(self, start: int, stop: int) -> torch.Tensor:
        """Log-probabilities of the targets of rows [start, stop)."""
        out = torch.empty(stop - start, dtype=self.dtype, device=self.hidden.device)
        for chunk in self._chunks(start, stop):
            out[chunk.start - start : chunk.stop - start] = self._exponentials(chunk)
        return out

    def add_gradients(self, start: int, stop: int, slopes: torch.Tensor) -> None:
        """Add the gradients of rows [start, stop), `slopes` being the loss's derivatives by their log-probabilities."""
        if self.grad_hidden is None and self.grad_weight is None and self.grad_bias is None:
            return
        for chunk in self._chunks(start, stop):
            if self._held is None or self._held[0] != chunk:
                self._exponentials(chunk)
            assert self._held is not None
            sums = self._held[1]
            slope = slopes[chunk.start - start : chunk.stop - start]
            # d logp / d logits = onehot - exponentials / sum
            grad_logits = self._workspace[: chunk.stop - chunk.start]
            grad_logits.mul_((-slope / sums)[:, None])
            grad_logits.scatter_add_(1, self.targets[chunk, None], slope[:, None])
            self._held = None
            self._multiply(grad_logits, chunk)

    def gradients(self) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Gradients of hidden, weight and bias in their own dtypes; None where not needed."""
        weight = None if self.grad_weight is None else self.grad_weight.to(self.dtypes[1])
        bias = None if self.grad_bias is None else self.grad_bias.to(self.dtypes[2])
        return self.grad_hidden, weight, bias

    def _exponentials(self, chunk: slice) -> torch.Tensor:
        """Fill the workspace with exp(logits - row maximum), hold their sums, return the targets' log-probabilities."""
        logits = self._workspace[: chunk.stop - chunk.start]
        hidden = self.hidden[chunk].to(self.product_dtype)
        if self.half_products:
            torch.mm(hidden, self.weight.T, out_dtype=self.dtype, out=logits)
        else:
            torch.mm(hidden, self.weight.T, out=logits)
        if self.bias is not None:
            logits += self.bias
        largest = logits.amax(1, keepdim=True)
        logits.sub_(largest)
        target = logits.gather(1, self.targets[chunk, None]).squeeze(1)
        sums = logits.exp_().sum(1)
        self._held = (chunk, sums)
        return target - sums.log()

    def _multiply(self, grad_logits: torch.Tensor, chunk: slice) -> None:
        hidden = self.hidden[chunk].to(self.product_dtype)
        if self.grad_bias is not None:
            self.grad_bias += grad_logits.sum(0)
        if self.half_products:
            grad_logits = grad_logits.to(self.product_dtype)
        if self.grad_hidden is not None:
            if self.grad_hidden.dtype == self.product_dtype:
                torch.mm(grad_logits, self.weight, out=self.grad_hidden[chunk])
            else:
                self.grad_hidden[chunk] = torch.mm(grad_logits, self.weight)
        if self.grad_weight is not None:
            if self.half_products:
                self.grad_weight += torch.mm(grad_logits.T, hidden, out_dtype=self.dtype)
            else:
                self.grad_weight.addmm_(grad_logits.T, hidden)

    def _chunks(self, start: int, stop: int) -> Iterator[slice]:
        for first in range(start, stop, self.chunk_rows):
            yield slice(first, min(first + self.chunk_rows, stop))
