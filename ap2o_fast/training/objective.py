"""The DPO objective of a packed batch, its metrics, and reference scoring. Shapes as in `PackedBatch`."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from ap2o_fast.config import LossSettings
from ap2o_fast.errors import UsageError
from ap2o_fast.training.adapters import adapters_off
from ap2o_fast.training.batch import PackedBatch
from ap2o_fast.training.forward import packed_hidden
from ap2o_fast.training.packing import Book, pack_rows
from ap2o_kernels import DpoOutput, available_impls, linear_dpo, linear_logp
from ap2o_kernels.answers import sum_rows


def check_head(settings: LossSettings, model: PreTrainedModel) -> None:
    """Errors: `UsageError` where the fused head that is asked for cannot run with this model on its device."""
    available = [impl for impl in available_impls(model.device) if impl != "triton" or model.dtype != torch.float64]
    if settings.impl not in ("auto", *available):
        raise UsageError(
            f"loss.impl = {settings.impl!r} cannot run in {model.dtype} on {model.device}",
            do=f"choose one of auto, {', '.join(available)}",
        )


def dpo_step_loss(
    model: PreTrainedModel,
    batch: PackedBatch,
    *,
    settings: LossSettings,
    normalizer: float,
    chunk_rows: int | None = None,
) -> tuple[DpoOutput, dict[str, torch.Tensor]]:
    """DPO loss of one forward pass (METHOD: Eq. 2 of AP2O-Coder, arXiv 2510.02393).

    Args:
        normalizer: pairs of the whole optimiser step, so that micro-batches add up to its mean.
        chunk_rows: completion tokens whose logits exist at one time.

    Returns: the loss and (A,) log-probabilities, and this batch's share of the step's mean of each metric of
    `pair_metrics`: shares of all batches of the step add up to the exact mean over its pairs.
    """
    head = model.get_output_embeddings()
    hidden = packed_hidden(model, batch).index_select(0, batch.rows)
    output = linear_dpo(
        hidden,
        head.weight,
        batch.targets,
        batch.cu_rows,
        batch.pairs,
        batch.ref_logps,
        beta=settings.beta,
        pair_weights=batch.weights,
        normalizer=normalizer,
        bias=head.bias,
        impl=settings.impl,
        chunk_rows=chunk_rows,
    )
    return output, pair_metrics(output, batch, beta=settings.beta, normalizer=normalizer)


def pair_metrics(output: DpoOutput, batch: PackedBatch, *, beta: float, normalizer: float) -> dict[str, torch.Tensor]:
    """Sums over the batch's pairs, divided by `normalizer`, under TRL's names; each a 0-d tensor without gradient."""
    logps = output.logps
    rewards = beta * (logps - batch.ref_logps)
    chosen, rejected = batch.pairs.to(logps.device, non_blocking=True).unbind(1)
    margins = rewards[chosen] - rewards[rejected]
    sums = {
        "rewards/chosen": rewards[chosen].sum(),
        "rewards/rejected": rewards[rejected].sum(),
        "rewards/accuracies": (margins > 0).to(margins.dtype).sum(),
        "rewards/margins": margins.sum(),
        "logps/chosen": logps[chosen].sum(),
        "logps/rejected": logps[rejected].sum(),
    }
    return {"loss": output.loss.detach()} | {name: total / normalizer for name, total in sums.items()}


@torch.no_grad()
def score(
    model: PreTrainedModel,
    book: Book,
    rows: npt.NDArray[np.int64],
    token_budget: int,
    chunk_rows: int | None = None,
    *,
    reference: bool = False,
) -> npt.NDArray[np.float32]:
    """Log-probability of each answer, summed over its tokens, under `model`.

    Args:
        rows: (K,) row ids of the book; repeats are computed once.
        reference: switch adapters off meanwhile: without them the model is the reference, whatever they have learnt.

    Returns: (K,) float32, in the order of `rows`.
    Errors: `DataError` for an answer that exceeds the budget with its prompt.
    """
    rows = np.asarray(rows, dtype=np.int64)
    found: dict[int, float] = {}
    head = model.get_output_embeddings()
    with adapters_off(model) if reference else nullcontext():
        for host_batch, row_ids in pack_rows(book, rows, token_budget):
            batch = host_batch.to(model.device)
            hidden = packed_hidden(model, batch).index_select(0, batch.rows)
            token_logps = linear_logp(hidden, head.weight, batch.targets, bias=head.bias, chunk_rows=chunk_rows)
            found |= dict(zip(row_ids.tolist(), sum_rows(token_logps, batch.cu_rows).tolist(), strict=True))
    return np.array([found[row] for row in rows.tolist()], dtype=np.float32)
