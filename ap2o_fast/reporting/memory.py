"""What a run will need, in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ap2o_fast.config import Config
from ap2o_fast.training.memory.fit import changes, describe, plan_run
from ap2o_fast.training.memory.plan import CONTEXT, FRAGMENTED, Plan

GIB = 2**30


def keep_to_limit(config: Config, processes: int, console: Console | None) -> Config:
    """The settings that keep to `train.memory_limit_gib`, as they are where none is set.

    Args:
        processes: that train together; all find the same.
        console: where the plan is printed; None prints nothing.

    Errors: as `plan_run`.
    """
    if not config.train.memory_limit_gib:
        return config
    plan = plan_run(config, processes)
    if console is not None:
        print_plan(config, plan, console, processes)
    return config.model_copy(update={"train": plan.train})


def print_plan(config: Config, plan: Plan, console: Console, processes: int = 1) -> None:
    """A table of what stays, of the phases' peaks and of the sum, and the settings that a limit has changed.

    Args:
        processes: that train together; the plan is for one of them.
    """
    train, batch = plan.train, plan.batch
    table = Table("", "GiB", title=f"{config.model.name} in {config.model.dtype} on {config.model.device}")
    for name, size in plan.parts.items():
        table.add_row(name, f"{size / GIB:.2f}")
    table.add_section()
    for name, size in plan.phases.items():
        table.add_row(f"{name}, most at a time", f"{size / GIB:.2f}")
    table.add_section()
    table.add_row(f"beside tensors ({CONTEXT / GIB:.1f} GiB and {FRAGMENTED:.0%})", f"{plan.overhead / GIB:.2f}")
    table.add_row("needed", f"{plan.needed / GIB:.2f}", style="bold")
    if plan.host:
        table.add_row("in host memory", f"{plan.host / GIB:.2f}")
    console.print(table)
    passes = "one pass" if train.gradient_release else "several passes"
    each = f"for each of {processes} processes, " if processes > 1 else ""
    console.print(
        f"planned {each}for {batch.tokens} packed tokens a forward pass, {batch.rows} of them of answers, and {passes}"
        " a step; sampling and judging are not in it",
        soft_wrap=True,
    )
    if config.train.memory_limit_gib:
        picked = describe(changes(config.train, train))
        console.print(f"train.memory_limit_gib = {config.train.memory_limit_gib:g} takes {picked}", soft_wrap=True)
