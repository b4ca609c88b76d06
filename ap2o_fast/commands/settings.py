"""The commands around settings and the machine, which open no run; parse, call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ap2o_fast import config as settings
from ap2o_fast.commands.options import Json
from ap2o_fast.commands.output import Output
from ap2o_fast.config import Config
from ap2o_fast.errors import UsageError
from ap2o_fast.exits import Exit

out = Console()


def init(file: Annotated[Path, typer.Argument(help="where to write it")] = Path("ap2o.toml")) -> None:
    """Write a settings file with every setting, its default and its meaning."""
    if file.exists():
        raise UsageError(f"{file} exists already", do="name another file")
    file.write_text(settings.template(), encoding="utf-8")
    out.print(f"{file}: edit it, then `ap2o run {file}`", soft_wrap=True)


def config(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="a settings file, to show its resolved form")] = None,
    explain: Annotated[str | None, typer.Option(help="a setting, a group of them, or `all`")] = None,
) -> None:
    """Show the resolved settings, or explain one."""
    if explain is not None:
        out.print(settings.explain("" if explain == "all" else explain), markup=False, highlight=False)
        return
    overrides = list(context.args)
    if file is not None and "=" in str(file):
        file, overrides = None, [str(file), *overrides]
    out.print_json(settings.load(file, overrides).model_dump_json())


def doctor(
    context: typer.Context,
    plan: Annotated[Path | None, typer.Option(help="a settings file: the memory that its training will need")] = None,
    processes: Annotated[int, typer.Option(min=1, help="with --plan: how many train together under torchrun")] = 1,
    hub: Annotated[bool, typer.Option("--hub", help="also ask whether the Hugging Face Hub answers")] = False,
    as_json: Json = False,
) -> None:
    """Say what works on this machine, what does not, and how to mend it; or what memory a run will need."""
    if plan is None and processes > 1:
        raise UsageError("doctor --processes is for a plan", do="name a settings file with --plan FILE")
    if plan is None and context.args:
        raise UsageError(f"doctor takes no {context.args[0]!r}", do="give settings after --plan FILE")
    with Output("doctor", as_json=as_json) as output:
        if plan is not None:
            _plan(settings.load(plan, context.args), processes, output)
        elif not _examine(output, hub=hub):
            raise typer.Exit(Exit.MACHINE)


def _plan(config: Config, processes: int, output: Output) -> None:
    from ap2o_fast.reporting.memory import print_plan
    from ap2o_fast.training.memory.fit import plan_run

    planned = plan_run(config, processes)
    sizes = {"parts": planned.parts, "phases": planned.phases, "overhead": planned.overhead, "host": planned.host}
    output.result({"needed": planned.needed, **sizes, "train": planned.train.model_dump(mode="json")})
    print_plan(config, planned, output.out, processes)


def _examine(output: Output, *, hub: bool) -> bool:
    """Look and tell; returns whether nothing keeps a run from working."""
    from ap2o_fast.doctor import abilities, findings

    found = findings(hub=hub)
    able = abilities(found)
    well = all(finding.status != "fail" for finding in found)
    output.result({"well": well, "findings": list(map(asdict, found)), "abilities": list(map(asdict, able))})
    marks = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
    table = Table("", "what", "found", "what to do")
    for finding in found:
        table.add_row(marks[finding.status], *map(escape, (finding.name, finding.detail, finding.fix)))
    output.out.print(table)
    table = Table("", "on this machine", "how far", "what would help")
    for ability in able:
        table.add_row(
            "[green]yes[/]" if ability.works else "no", *map(escape, (ability.name, ability.detail, ability.fix))
        )
    output.out.print(table)
    return well
