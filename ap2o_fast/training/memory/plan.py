"""What training will need on its device, from the model's configuration alone: no weight is read, nothing computed.

Weights, masters, moments and gradients are counted parameter by parameter, a forward and backward pass is rehearsed on
the meta device. Not known before a run are the lengths of its prompts and answers: `BATCH_SHARES` are of short prompts
with several answers each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.training.memory.form import Form, meta_model
from ap2o_fast.training.memory.rehearsal import Batch, Bytes, Update, rehearse
from ap2o_fast.training.memory.stand_ins import Head, Linear
from ap2o_fast.training.memory.states import State, States, beside, shard_rows

BATCH_SHARES = {"rows": 0.75, "keys": 1.75}
"""Completion rows and gathered keys of a forward pass, in packed tokens."""
CONTEXT = 600 << 20
"""What a process takes before any tensor: the CUDA context and libraries' workspaces, or Python with torch."""
FRAGMENTED = 0.04
"""Memory that an allocator holds and cannot use, as a share of what is used."""
NF4_BITS = 4.127
"""Bits of a weight in 4 bits, its doubly quantised scales included."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes on the device that trains.

    Attributes:
        train: the settings it is for.
        batch: the forward pass it is for.
        parts: what is there from the first step to the last, by name.
        phases: the most that tensors take in each phase, with those of `parts` that are there by then.
        host: what waits in host memory, activations left out.
    """

    train: TrainSettings
    batch: Batch
    parts: dict[str, int]
    phases: dict[str, int]
    host: int

    @property
    def peak(self) -> int:
        """The most that tensors take: on a GPU torch.cuda.max_memory_allocated()."""
        return max(self.phases.values())

    @property
    def overhead(self) -> int:
        """What the process takes beside tensors."""
        return CONTEXT + int(FRAGMENTED * self.peak)

    @property
    def needed(self) -> int:
        """What the device must have free."""
        return self.peak + self.overhead


class Planner:
    """Plans for one model, under any settings.

    Args:
        config: of the model.
        dtype: of its weights.
        form: adapters, 4-bit weights, Liger's kernels.
        on_gpu: False for the CPU, which has another head and no compiled update.
        shards: processes that divide one copy of the weights; plans are for one of them.

    Errors: `UsageError` for adapters beside layers that the model does not have.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        dtype: torch.dtype,
        *,
        form: Form | None = None,
        on_gpu: bool = True,
        shards: int = 1,
    ) -> None:
        self.config, self.dtype, self.form, self.on_gpu, self.shards = config, dtype, form or Form(), on_gpu, shards
        model = meta_model(config, dtype, self.form)
        self.weights = sum(buffer.nbytes for buffer in model.buffers())
        for weight in model.parameters():
            self.weights += weight.nbytes // len(weight) * shard_rows(weight, shards)
        if self.form.quantized:
            linears = [module.linear.weight for module in model.modules() if isinstance(module, Linear)]
            self.weights -= sum(int(w.nbytes - w.numel() * NF4_BITS / 8) for w in linears)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._rehearsed: dict[tuple[object, ...], Bytes] = {}

    def plan(
        self, train: TrainSettings, loss: LossSettings | None = None, *, batch: Batch | None = None, passes: int = 2
    ) -> Plan:
        """What training takes.

        Args:
            batch: the largest forward pass; by default of `train.token_budget` packed tokens in `BATCH_SHARES`.
            passes: forward passes of a step: in a second one the gradients of the first are there. Where gradients are
                released a step has one.
        """
        tokens = train.token_budget
        batch = batch or Batch(tokens=tokens, **{name: int(share * tokens) for name, share in BATCH_SHARES.items()})
        passing = self._passing(train, loss or LossSettings(), batch)
        states = States(self.trained, train, self.shards)
        resident = self.weights + states.masters + states.moments
        # Float32 sums of the passes before; without masters those are in the model's gradients, as was rehearsed.
        again = passing.first + states.sums if states.sums > states.in_place else passing.later + states.sums
        alone = passes == 1 or states.released
        step = max(states.largest_gradient, states.beside(on_gpu=self.on_gpu))
        return Plan(
            train=train,
            batch=batch,
            parts={"weights": self.weights, "float32 masters": states.masters, "Adam's moments": states.moments},
            phases={
                "scoring": self.weights + passing.scoring,
                "forward and backward": resident + (passing.first if alone else max(passing.first, again)),
                "optimiser step": resident + states.sums + states.in_place + step,
            },
            host=states.host,
        )

    def _passing(self, train: TrainSettings, loss: LossSettings, batch: Batch) -> Bytes:
        head = Head(impl=loss.impl, chunk_rows=train.chunk_rows, on_gpu=self.on_gpu)

        def release(parameter: torch.Tensor) -> Update | None:
            state = State.of(parameter, train)
            return Update(sum=state.sum, beside=beside([state], on_gpu=self.on_gpu)) if state.released else None

        updates = (train.gradient_release, train.masters, train.optimizer, train.offload_optimizer)
        key = (batch, head, train.gradient_checkpointing, train.activation_offload, train.gradient_release and updates)
        if key not in self._rehearsed:
            self._rehearsed[key] = rehearse(
                self.config,
                self.dtype,
                self.form,
                batch,
                head,
                checkpointing=train.gradient_checkpointing,
                offload=train.activation_offload,
                release=release if train.gradient_release else None,
                shards=self.shards,
            )
        return self._rehearsed[key]


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
    shards: int = 1,
) -> Plan:
    """What training a model takes; arguments as of `Planner` and `Planner.plan`."""
    return Planner(config, dtype, form=form, on_gpu=on_gpu, shards=shards).plan(train, loss, batch=batch, passes=passes)
