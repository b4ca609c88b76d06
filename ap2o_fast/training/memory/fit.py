"""Settings that keep training under `train.memory_limit_gib`, the cheapest first.

Each later one costs more time than the one before: smaller forward passes, checkpointing, 8-bit moments (none, but they
round), no masters (none, but gradients stay in bfloat16), activations and then the optimiser's state in host memory.
Whether adapters are trained is the user's choice alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from ap2o_fast.config import Config, TrainSettings
from ap2o_fast.errors import MachineError, UsageError
from ap2o_fast.training.memory.form import Form
from ap2o_fast.training.memory.plan import Plan, Planner
from ap2o_fast.training.models.liger import LAYERS, wanted_layers

LEVERS: tuple[dict[str, Any], ...] = (
    {"gradient_checkpointing": True},
    {"optimizer": "adamw_8bit"},
    {"masters": False},
    {"activation_offload": True},
    {"offload_optimizer": True},
)
"""Settings in the order in which they are taken, after smaller forward passes."""


def plan_run(config: Config, processes: int = 1) -> Plan:
    """What training with a run's settings will need; with a limit, settings of `Plan.train` that keep to it.

    Args:
        processes: that train together, `train.shard` of which divide a copy of the weights; the plan is for one.

    Errors: `MachineError` where the model's configuration is not to be had; `UsageError` where nothing fits the limit,
    or for settings that so many processes cannot have.
    """
    shards = check_processes(config, processes)
    name = config.model.name
    try:
        found = AutoConfig.from_pretrained(name, revision=config.model.revision)
    except (OSError, ValueError) as error:
        raise MachineError(
            f"cannot read the configuration of the model {name!r}",
            why=str(error).splitlines()[0],
            do="set model.name to a folder with config.json, or to a Hub name that can be reached",
        ) from error
    on_gpu = config.model.device.startswith("cuda")
    planner = Planner(
        found, getattr(torch, config.model.dtype), form=_form(config, found, on_gpu), on_gpu=on_gpu, shards=shards
    )
    if not config.train.memory_limit_gib:
        return planner.plan(config.train, config.loss)
    return fit(planner, config, smallest=smallest_pass(config))


def smallest_pass(config: Config) -> int:
    """Tokens that a forward pass must be able to hold: a prompt with a pair's answers, of which `sft` has one."""
    if config.preferences.source:
        # Pairs of plain DPO that a pass cannot hold are left out, so a smaller one would train on other data.
        return config.train.token_budget
    answers = 2 if config.loss.compares else 1
    return min(config.prompt.max_tokens + answers * config.sampling.max_new_tokens, config.train.token_budget)


def check_processes(config: Config, processes: int) -> int:
    """How many of the processes divide a copy of the weights.

    Errors: `UsageError` for what so many processes cannot have.
    """
    if processes == 1:
        return 1
    if config.model.quantization != "none" or config.train.gradient_release:
        what = "train.gradient_release" if config.train.gradient_release else "model.quantization"
        raise UsageError(f"{what} cannot be had by {processes} processes", do=f"leave {what} at its default")
    shards = config.train.shard or processes
    if processes % shards:
        raise UsageError(
            f"train.shard = {shards} does not divide the {processes} processes", do="set it to a divisor, or 0"
        )
    return shards


def _form(config: Config, found: PretrainedConfig, on_gpu: bool) -> Form:
    """What the run's model will be besides its configuration."""
    adapter, kind = config.adapter, getattr(found, "model_type", "")
    return Form(
        rank=0 if adapter.kind == "none" else adapter.rank,
        targets=adapter.targets,
        dora=adapter.kind == "dora",
        quantized=config.model.quantization != "none",
        liger=on_gpu
        and bool(wanted_layers(config.model.liger, compiled=config.train.compile))
        and kind in LAYERS
        and find_spec("liger_kernel") is not None,
    )


def fit(planner: Planner, config: Config, *, smallest: int) -> Plan:
    """The first plan that keeps to the limit.

    Args:
        smallest: tokens that a forward pass must be able to hold, see `smallest_pass`.

    Errors: `UsageError` where none does.
    """
    limit = int(config.train.memory_limit_gib * 2**30)
    nearest: Plan | None = None
    for train in candidates(config.train, planner.dtype, smallest):
        plan = planner.plan(train, config.loss)
        if plan.needed <= limit:
            return plan
        if nearest is None or plan.needed < nearest.needed:
            nearest = plan
    assert nearest is not None
    adapters = "" if planner.form.rank else ", or train an adapter"
    shorter = "train.token_budget" if config.preferences.source else "prompt.max_tokens or sampling.max_new_tokens"
    raise UsageError(
        f"{config.model.name} cannot be trained in train.memory_limit_gib = {config.train.memory_limit_gib:g}: it takes"
        f" at least {nearest.needed / 2**30:.1f} GiB",
        why=f"with {describe(changes(config.train, nearest.train))}, of which weights"
        f" {nearest.parts['weights'] / 2**30:.1f} GiB",
        do=f"take a smaller model, lower {shorter}{adapters}",
    )


def candidates(asked: TrainSettings, dtype: torch.dtype, smallest: int) -> Iterator[TrainSettings]:
    """The settings as they are, then with smaller forward passes, then the same with one lever after another."""
    taken: dict[str, Any] = {}
    for lever in ({}, *LEVERS):
        if "masters" in lever and (dtype != torch.bfloat16 or asked.rounding == "nearest"):
            continue
        taken |= lever
        if lever and all(getattr(asked, name) == value for name, value in lever.items()):
            continue
        budget = asked.token_budget
        while True:
            yield asked.model_copy(update=taken | {"token_budget": budget})
            if budget <= smallest:
                break
            budget = max(budget // 2, smallest)


def changes(asked: TrainSettings, found: TrainSettings) -> dict[str, Any]:
    """Names and new values of the settings that differ."""
    return {name: value for name, value in found.model_dump().items() if value != getattr(asked, name)}


def describe(changed: dict[str, Any]) -> str:
    """Settings as one writes them on the command line."""
    shown = (f"train.{name}={str(value).lower()}" for name, value in changed.items())
    return " ".join(shown) or "the settings as they are"
