"""Write docs/memory.md: what the planner says fits where, and beside it what was measured.

PYTHONPATH=.:kernels python benchmarks/memory_table.py > docs/memory.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.training.memory.form import Form
from ap2o_fast.training.memory.plan import Batch, Planner
from benchmarks.training.cases import config_of

GIB = 2**30
CARDS = (8, 16, 24, 40, 80)
USABLE = 0.97
"""GiB to plan with for each GB on the box."""
MODELS = ("0.5B", "1.5B", "3B", "7B", "14B", "32B")
"""Shapes of `benchmarks/training/cases.py`: Qwen2.5's."""
BUDGET = 4096


PLAIN = Form()


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to train: its settings, and the form of the model."""

    train: dict[str, Any]
    form: Form = PLAIN


RELEASED = {"gradient_release": True, "clip": 0}
COMPACT = {"optimizer": "adamw_8bit", "masters": False}
OFFLOADED = {"offload_optimizer": True, "activation_offload": True}
WAYS = {
    "full": Way(train={}),
    "full, released": Way(train=RELEASED),
    "8-bit": Way(train=COMPACT),
    "8-bit, released": Way(train=COMPACT | RELEASED),
    "8-bit, offloaded": Way(train=COMPACT | OFFLOADED),
    "8-bit, released, offloaded": Way(train=COMPACT | RELEASED | OFFLOADED),
    "LoRA": Way(train={}, form=Form(rank=16)),
    "QLoRA": Way(train={}, form=Form(rank=16, quantized=True)),
}
MEASURED = (
    ("0.5B", "chunked", False, 28.4),
    ("0.5B", "chunked", True, 10.3),
    ("1.5B", "auto", False, 62.3),
    ("1.5B", "auto", True, 26.0),
)
"""Model, head, checkpointing and GiB of docs/performance-log.md: an H100, 14,300 tokens in one pass, masters."""


def needs() -> dict[str, dict[str, float]]:
    """GiB by model and way."""
    found: dict[str, dict[str, float]] = {}
    for name in MODELS:
        planners: dict[Form, Planner] = {}
        for way, how in WAYS.items():
            if how.form not in planners:
                planners[how.form] = Planner(config_of(name), torch.bfloat16, form=how.form)
            train = TrainSettings.model_validate({"gradient_checkpointing": True, "token_budget": BUDGET} | how.train)
            found.setdefault(name, {})[way] = planners[how.form].plan(train).needed / GIB
    return found


def print_table(head: list[str], rows: list[list[str]]) -> None:
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


INTRODUCTION = f"""\
# What fits where

Written by `PYTHONPATH=.:kernels python benchmarks/memory_table.py > docs/memory.md`. Shapes of Qwen2.5, bfloat16,
gradient checkpointing, forward passes of {BUDGET} packed tokens, several a step (one where gradients are released);
adapters of rank 16. For a run of your own: `ap2o doctor --plan my.toml`, with `--processes 8` for one of eight GPUs;
`train.memory_limit_gib` picks settings that keep to a limit. Training only: sampling on the same card needs room for
its key/value cache.

Every figure of the first two tables is **planned**: GiB that the card must have free, context included.
"""
LEGEND = """\
* full: float32 masters, Adam's moments in float32.
* released: `train.gradient_release=true train.clip=0` as well: each weight has its step as soon as its gradient is
  complete, so there is no clipping, and a step is one forward pass: `train.token_budget` must hold all its pairs. In
  several passes nothing would be saved, the gradients of the first ones exist all at once. A step whose gradients are
  not finite ends the run; it goes on from the last checkpoint.
* 8-bit: `train.masters=false train.optimizer=adamw_8bit`.
* offloaded: `train.offload_optimizer=true train.activation_offload=true` as well.
* LoRA: `adapter.kind=lora`; QLoRA: `model.quantization=nf4` as well.

The way nearest to a full fine-tune in float32 that fits on a card (**planned**):
"""
COMPARISON = """\
## Planned and measured

`torch.cuda.max_memory_allocated()` on an H100 (docs/performance-log.md): 16 pairs, about 14,300 packed tokens in one
forward pass, float32 masters. The 0.5B run had the head in chunks.

What torch's allocator holds (`max_memory_reserved`) is more: 3-5 % where passes are full and alike, up to 60 % where
every step has another size, as at MBPP's lengths in one pass a step (docs/performance-log.md). Plans count 4 % for it.
"""


def main() -> None:
    needed, ways = needs(), list(WAYS)
    print(INTRODUCTION)
    print_table(["", *ways], [[name, *(f"{needed[name][way]:.1f}" for way in ways)] for name in needed])
    print(LEGEND)
    rows = []
    for name, by_way in needed.items():
        fits = [next((way for way in ways if by_way[way] <= card * USABLE), "–") for card in CARDS]
        rows.append([name, *fits])
    print_table(["", *(f"{card} GB" for card in CARDS)], rows)
    print(COMPARISON)
    rows = []
    for name, impl, checkpointing, measured in MEASURED:
        train = TrainSettings(gradient_checkpointing=checkpointing)
        loss = LossSettings.model_validate({"impl": impl})
        batch = Batch(tokens=14300, rows=9500, keys=24000)
        plan = Planner(config_of(name), torch.bfloat16).plan(train, loss, batch=batch, passes=1)
        rows.append([name, "yes" if checkpointing else "no", f"{plan.peak / GIB:.1f}", f"{measured}"])
    print_table(["", "checkpointing", "planned, GiB", "measured, GiB"], rows)


if __name__ == "__main__":
    main()
