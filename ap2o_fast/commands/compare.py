"""`ap2o compare`: parse, call, print."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ap2o_fast import config as settings
from ap2o_fast.allocator import prepare_allocator
from ap2o_fast.commands.options import Json, Quiet
from ap2o_fast.commands.output import Output
from ap2o_fast.errors import UsageError
from ap2o_fast.exits import Exit
from ap2o_fast.interrupt import Interrupted
from ap2o_fast.run_folder import RunFolder

if TYPE_CHECKING:
    from ap2o_fast.comparing.comparison import Compared


def compare(
    context: typer.Context,
    target: Annotated[
        Path, typer.Argument(help="a settings file (.toml), or the folder of a comparison to go on with")
    ],
    systems: Annotated[str | None, typer.Option(help="compare.systems, with commas: dpo,dyn-dpo,ap2o-l2h")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="compare.seeds: so many, from 0 on")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run many systems and seeds from one exam; one table, one page. Goes on where it stopped."""
    with Output("compare", quiet=quiet, as_json=as_json) as output:
        _compare(target, list(context.args), systems, seeds, quiet, output)


def _compare(
    target: Path, overrides: list[str], systems: str | None, seeds: int | None, quiet: bool, output: Output
) -> None:
    overrides += [f"compare.systems=[{systems}]"] if systems is not None else []
    overrides += [f"compare.seeds=[{','.join(map(str, range(seeds)))}]"] if seeds is not None else []
    if target.is_dir() and overrides:
        raise UsageError("the settings in a folder are fixed", do="give overrides with the settings file")
    config = RunFolder.open(target).config if target.is_dir() else settings.load(target, overrides)
    prepare_allocator(config.model.device, pools=config.sampling.engine == "vllm")
    from transformers.utils import logging

    from ap2o_fast.comparing import comparison

    logging.disable_progress_bar()
    try:
        compared = comparison.compare(config, quiet=quiet, say=output.note)
    except KeyboardInterrupt as interrupt:
        goes_on = f"ap2o compare {shlex.quote(config.run_dir)}"
        raise Interrupted(comparison.kept(config), goes_on) from interrupt
    tell_comparison(compared, output)
    for name, why in compared.failed.items():
        output.note(f"{name} failed: {why}", "red")
    if compared.failed:
        raise typer.Exit(Exit.FAILED)


def tell_comparison(compared: Compared, output: Output) -> None:
    """The tables, and where the page is."""
    from ap2o_fast.comparing.table import result_tables

    output.result({"page": str(compared.page), "failed": compared.failed, **compared.summary})
    for table in result_tables(compared.summary):
        output.out.print(table)
    output.out.print(f"page: {compared.page}", soft_wrap=True)
