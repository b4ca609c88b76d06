"""The command `ap2o export`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ap2o_fast.commands.options import Json
from ap2o_fast.commands.output import Output
from ap2o_fast.errors import UsageError


def export(
    run: Annotated[Path, typer.Argument(help="the folder of a run")],
    folder: Annotated[Path, typer.Option("--out", help="the new folder to write")],
    merge: Annotated[bool, typer.Option("--merge", help="add an adapter's weights to the model's own")] = False,
    push: Annotated[str, typer.Option("--push", metavar="ORG/NAME", help="upload it to the Hugging Face Hub")] = "",
    private: Annotated[bool, typer.Option("--private", help="with --push: nobody else may see it")] = False,
    as_json: Json = False,
) -> None:
    """Write a run's best checkpoint to a folder of its own; with --merge an ordinary model instead of an adapter."""
    from transformers.utils import logging

    from ap2o_fast import publishing
    from ap2o_fast.exporting import export
    from ap2o_fast.run_folder import RunFolder

    with Output("export", as_json=as_json) as output:
        if private and not push:
            raise UsageError("export --private is for --push", do="add --push ORG/NAME, or leave --private out")
        logging.disable_progress_bar()
        found = RunFolder.open(run)
        if push:
            publishing.check_push(push)
            publishing.fetch_card(found.config.model)
        export(found, folder, merge=merge)

        def tell(line: str) -> None:
            output.out.print(line, markup=False, highlight=False, soft_wrap=True)

        tell(f"{'merged model' if merge else 'checkpoint'}: {folder}")
        uploaded = publishing.push(folder, push, private=private, tell=tell) if push else None
        output.result({"folder": str(folder), "merged": merge, "uploaded": uploaded})
        if uploaded:
            tell(f"uploaded: {uploaded}")
