"""What the engine cannot train, and what went wrong in a step, by name."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ap2o_fast.config import TrainSettings
from ap2o_fast.errors import NumericalError, UsageError
from ap2o_fast.training.models.liger import uses_liger
from ap2o_fast.training.packing.batch import PackedStep
from ap2o_fast.training.parallel.distributed import World


def check_engine(model: PreTrainedModel, train: TrainSettings, world: World) -> None:
    """Errors: `UsageError` for settings that do not go with the model or with several processes."""
    if train.gradient_checkpointing:
        _check_no_dropout(model)
    if train.compile and uses_liger(model):
        raise UsageError(
            "train.compile cannot be used with Liger's layers",
            why="torch.compile does not trace them, and fuses what they do by itself",
            do="set model.liger=auto, which then leaves the layers to the compiler, or false",
        )
    if train.gradient_release and world.size > 1:
        raise UsageError(
            f"train.gradient_release cannot be used by {world.size} processes",
            why="they would have to agree, weight by weight, that a gradient is finite before any of them uses it",
            do="set train.gradient_release=false; each process has a part of the gradients only",
        )


def check_step(train: TrainSettings, packed: PackedStep, step: int) -> None:
    """Errors: `UsageError` for a step that cannot be taken in one pass where gradients are released."""
    if train.gradient_release and len(packed.batches) > 1:
        raise UsageError(
            f"step {step} takes {len(packed.batches)} forward passes, train.gradient_release needs all of a step in"
            " one",
            why="gradients of the passes before the last would exist all at once, which is what would be saved",
            do=f"set train.token_budget to at least {packed.tokens}, or a smaller train.batch_pairs",
        )


def damaged() -> NumericalError:
    """For weights of which a step has changed a part."""
    return NumericalError(
        "the weights in memory are between two steps, because a step broke off",
        why="train.gradient_release updates weights while others still wait for their gradients",
        do="resume from the last checkpoint",
    )


def not_finite(step: int, what: str, value: float, *, in_part: bool) -> NumericalError:
    """For a loss or gradient.

    Args:
        in_part: whether some weights were changed before it was seen.
    """
    changed = "changed in part and are not to be used (train.gradient_release)" if in_part else "not changed"
    return NumericalError(
        f"step {step}: {what} is {value}; the weights were {changed}",
        why="an overflow in the model, or weights that were already broken",
        do="resume from the last checkpoint with a lower train.lr or train.clip, or with model.dtype=float32",
    )


def _check_no_dropout(model: PreTrainedModel) -> None:
    """transformers checkpoints in training mode only, where dropout would act."""
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    rates.append(getattr(model.config, "attention_dropout", 0.0) or 0.0)
    if max(rates) > 0:
        raise UsageError(
            f"train.gradient_checkpointing cannot be used: the model has dropout ({max(rates)})",
            why="recomputed activations would not match the reference log-probabilities",
            do="set the dropout in the model's config.json to 0, or train.gradient_checkpointing=false",
        )
