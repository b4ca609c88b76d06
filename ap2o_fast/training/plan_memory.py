"""What a run will need on its device, from the model's configuration alone, and settings that keep it under a limit.

Weights, masters, moments and gradients are counted parameter by parameter, what a forward and backward pass needs by
rehearsing one on the meta device. Not known before a run are the lengths of its prompts and answers: `BATCH_SHARES` are
of short prompts with several answers each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from transformers import PretrainedConfig

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.errors import UsageError
from ap2o_fast.training.lean_adamw import SLICE_ROWS, can_be_lean
from ap2o_fast.training.moments import BLOCK
from ap2o_fast.training.rehearsal import Batch, Bytes, Form, block_linears, meta_model, rehearse
from ap2o_fast.training.stand_ins import Head

BATCH_SHARES = {"rows": 0.75, "keys": 1.75}
"""Completion rows and gathered keys of a forward pass, in packed tokens."""
CONTEXT = {"cuda": 600 << 20, "cpu": 600 << 20}
"""What a process needs before any tensor: the CUDA context and libraries' workspaces, or Python with torch."""
FRAGMENTED = 0.04
"""Memory that torch's allocator holds and cannot use, as a share of what is used."""
NF4_BITS = 4.127
"""Bits of a weight in 4 bits, its doubly quantised scales included."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes on the device that trains.

    Attributes:
        train: the settings it is for.
        batch: the forward pass it is for.
        parts: what is there all the time, by name: weights, masters, moments.
        phases: the most that tensors take in each phase, `parts` that are there by then included.
        overhead: what the process takes beside tensors.
        host: what waits in host memory.
    """

    train: TrainSettings
    batch: Batch
    parts: dict[str, int]
    phases: dict[str, int]
    overhead: int
    host: int

    @property
    def peak(self) -> int:
        """The most that tensors take: on a GPU torch.cuda.max_memory_allocated()."""
        return max(self.phases.values())

    @property
    def needed(self) -> int:
        """What the device must have free."""
        return self.peak + self.overhead


def predict(
    config: PretrainedConfig,
    dtype: torch.dtype,
    train: TrainSettings,
    loss: LossSettings | None = None,
    *,
    form: Form | None = None,
    batch: Batch | None = None,
    passes: int = 2,
    on_gpu: bool = True,
) -> Plan:
    """What training a model takes.

    Args:
        config: of the model; no weights are read.
        dtype: of its weights.
        form: adapters, 4-bit weights, Liger's kernels.
        batch: default a full `train.token_budget` of prompts and answers in `BATCH_SHARES`.
        passes: forward passes of a step: in a second one the first one's gradients are there.

    Errors: `UsageError` for settings that contradict each other.
    """
    form = form or Form()
    tokens = train.token_budget
    batch = batch or Batch(tokens=tokens, **{name: int(share * tokens) for name, share in BATCH_SHARES.items()})
    sizes = _sizes(config.to_json_string(), dtype, form)
    head = Head(impl=(loss or LossSettings()).impl, chunk_rows=train.chunk_rows, on_gpu=on_gpu)
    passing = _rehearsed(
        config.to_json_string(), dtype, form, batch, head, train.gradient_checkpointing, train.activation_offload
    )
    weights, masters, moments, host, gradients, model_gradients = sizes.weights, 0, 0, 0, 0, 0
    wanted = train.optimizer == "adamw_8bit" or train.offload_optimizer or not train.masters
    largest = 0
    for parameter in sizes.trained:
        size, lean = parameter.numel(), wanted and can_be_lean(parameter)
        half = parameter.dtype == torch.bfloat16
        master = 4 * size if half and (train.masters or not lean) else 0
        moment = 2 * size * max(4, parameter.itemsize)
        if lean and train.optimizer == "adamw_8bit":
            moment = 2 * (size + 4 * size // BLOCK)
        if lean and train.offload_optimizer:
            host += master + moment
        else:
            masters, moments = masters + master, moments + moment
        model_gradients += size * parameter.itemsize
        gradients += master and 4 * size or size * parameter.itemsize
        largest = max(largest, min(size, SLICE_ROWS * BLOCK) if lean else 0)
    ...
    raise NotImplementedError
