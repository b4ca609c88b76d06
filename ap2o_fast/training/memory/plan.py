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
from ap2o_fast.training.memory.rehearsal import Batch, Bytes, Form, meta_model, rehearse
from ap2o_fast.training.memory.stand_ins import Head, Linear
from ap2o_fast.training.optimizer.lean_adamw import SLICE_ROWS, can_be_lean
from ap2o_fast.training.optimizer.moments import BLOCK
from ap2o_fast.training.optimizer.rounding import SLICE

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
    """

    def __init__(
        self, config: PretrainedConfig, dtype: torch.dtype, *, form: Form | None = None, on_gpu: bool = True
    ) -> None:
        self.config, self.dtype, self.form, self.on_gpu = config, dtype, form or Form(), on_gpu
        model = meta_model(config, dtype, self.form)
        self.weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        if self.form.quantized:
            linears = [module.linear.weight for module in model.modules() if isinstance(module, Linear)]
            self.weights -= sum(int(w.nbytes - w.numel() * NF4_BITS / 8) for w in linears)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._rehearsed: dict[tuple[Batch, Head, bool, bool], Bytes] = {}

    def plan(
        self, train: TrainSettings, loss: LossSettings | None = None, *, batch: Batch | None = None, passes: int = 2
    ) -> Plan:
        """What training takes.

        Args:
            batch: the largest forward pass; by default of `train.token_budget` packed tokens in `BATCH_SHARES`.
            passes: forward passes of a step: in a second one the gradients of the first are there.
        """
        tokens = train.token_budget
        batch = batch or Batch(tokens=tokens, **{name: int(share * tokens) for name, share in BATCH_SHARES.items()})
        passing = self._passing(train, loss or LossSettings(), batch)
        sizes = _Sizes(self.trained, train)
        resident = self.weights + sizes.masters + sizes.moments
        # Float32 sums of the passes before; without masters those are in the model's gradients, as was rehearsed.
        again = passing.first + sizes.sums if sizes.sums > sizes.in_place else passing.later + sizes.sums
        step = max(sizes.largest_gradient, sizes.beside(on_gpu=self.on_gpu))
        return Plan(
            train=train,
            batch=batch,
            parts={"weights": self.weights, "float32 masters": sizes.masters, "Adam's moments": sizes.moments},
            phases={
                "scoring": self.weights + passing.scoring,
                "forward and backward": resident + (passing.first if passes == 1 else max(passing.first, again)),
                "optimiser step": resident + sizes.sums + sizes.in_place + step,
            },
            host=sizes.host,
        )

    def _passing(self, train: TrainSettings, loss: LossSettings, batch: Batch) -> Bytes:
        head = Head(impl=loss.impl, chunk_rows=train.chunk_rows, on_gpu=self.on_gpu)
        key = (batch, head, train.gradient_checkpointing, train.activation_offload)
        if key not in self._rehearsed:
            self._rehearsed[key] = rehearse(
                self.config,
                self.dtype,
                self.form,
                batch,
                head,
                checkpointing=train.gradient_checkpointing,
                offload=train.activation_offload,
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
) -> Plan:
    """What training a model takes; arguments as of `Planner` and `Planner.plan`."""
    return Planner(config, dtype, form=form, on_gpu=on_gpu).plan(train, loss, batch=batch, passes=passes)


class _Sizes:
    """Bytes of what the optimiser keeps for parameters, as `prepare_parameter` makes it.

    Attributes:
        masters, moments: on the device; `host`: both, where they wait there.
        sums: gradients that are added up in float32; `in_place`: gradients that the optimiser takes from the model.
        largest_gradient: the model's largest gradient that is turned into a sum.
    """

    def __init__(self, trained: list[torch.nn.Parameter], train: TrainSettings) -> None:
        self.masters = self.moments = self.host = self.sums = self.in_place = self.largest_gradient = 0
        self._slice, self._visiting, self._rounded = 0, 0, 0
        self._compact = train.optimizer == "adamw_8bit"
        wanted = self._compact or train.offload_optimizer or not train.masters
        for parameter in trained:
            size, lean = parameter.numel(), wanted and can_be_lean(parameter)
            has_master = parameter.dtype == torch.bfloat16 and (train.masters or not lean)
            master = 4 * size if has_master else 0
            if lean and self._compact:
                moments = 2 * (size + 4 * size // BLOCK)
            else:
                moments = 2 * size * max(4, parameter.itemsize)
            if lean and train.offload_optimizer:
                self.host += master + moments
                self._visiting = max(self._visiting, (master + moments) * _part(size) // size)
            else:
                self.masters, self.moments = self.masters + master, self.moments + moments
            if has_master:
                self.sums += 4 * size
                self.largest_gradient = max(self.largest_gradient, parameter.nbytes)
            else:
                self.in_place += parameter.nbytes
            if lean:
                self._slice = max(self._slice, _part(size))
            elif has_master:
                self._rounded += size

    def beside(self, *, on_gpu: bool) -> int:
        """What an update takes beside what it updates: random bits, and on a CPU whatever it computes."""
        lean = 4 * self._slice + 2 * self._visiting if on_gpu else 32 * self._slice + self._visiting
        return max(lean, 8 * min(self._rounded, SLICE))


def _part(size: int) -> int:
    return min(size, SLICE_ROWS * BLOCK)
