"""The commands around the authors' code: pairs planned as theirs does, and exams that it sat; parse, call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ap2o_fast import config as settings
from ap2o_fast.commands.options import Json
from ap2o_fast.commands.output import Output

err = Console(stderr=True)


def plan(
    system: Annotated[str, typer.Option(help="sft, dpo, curri-dpo, dyn-dpo, ap2o-l2h or ap2o-h2l")],
    epoch: Annotated[float, typer.Option(help="epochs done so far; in between, e.g. 12.5, for `upstream`")],
    lines: Annotated[Path, typer.Option("--out", help="where to write a pair a line")],
    book: Annotated[Path | None, typer.Option(help="a run folder, for the exam in its error book")] = None,
    merged: Annotated[Path | None, typer.Option(help="the authors' merged.json instead")] = None,
    variant: Annotated[str, typer.Option(help="`paper`, or `upstream` for what the authors' code does")] = "paper",
    epochs: Annotated[int | None, typer.Option(help="T; left out: train.epochs of the run, or its default")] = None,
    quiz_counts: Annotated[Path | None, typer.Option(help='JSON such as {"IndexError": 5}: the latest quiz')] = None,
    seed: Annotated[int, typer.Option(min=0, help="chance")] = 0,
    draws: Annotated[int | None, typer.Option(min=1, help="plan so often; lines then say which `draw`")] = None,
    as_json: Json = False,
) -> None:
    """Write the pairs that an epoch would train on, without a model."""
    from ap2o_fast import planning

    with Output("plan", as_json=as_json) as output:
        planned = planning.plan(
            lines,
            book=book,
            merged=merged,
            system=system,
            variant=variant,
            epoch=epoch,
            epochs=epochs,
            quiz_counts=quiz_counts,
            seed=seed,
            count=draws,
        )
        output.result({"lines": str(lines), **asdict(planned)})
        for task_id, reason in planned.left_out.items():
            output.out.print(f"left out {task_id}: {reason}", markup=False, soft_wrap=True)
        of_each = ", ".join(f"{count} {source}" for source, count in sorted(planned.pairs.items()))
        output.out.print(f"{planned.problems} problems, {of_each}: {lines}", markup=False, soft_wrap=True)


def import_exam(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="a settings file (.toml) of the run to make")],
    answers: Annotated[Path, typer.Option(help="merged.json, or judged answers (runs/check_0.json, or the folder)")],
    as_json: Json = False,
) -> None:
    """Make a run folder from an exam of the authors' code; `ap2o resume` or `correct` goes on from there."""
    from ap2o_fast import importing
    from ap2o_fast.preferences.settings import refuse
    from ap2o_fast.reporting.memory import keep_to_limit

    with Output("import", as_json=as_json) as output:
        config = settings.load(file, context.args)
        refuse(config)
        config = keep_to_limit(config, 1, err)
        imported = importing.import_exam(config, answers)
        output.result({"run": config.run_dir, **asdict(imported)})
        for task_id, reason in imported.excluded.items():
            output.out.print(f"excluded {task_id}: {reason}", markup=False, soft_wrap=True)
        if imported.cut:
            lost = f"{imported.cut} answers are longer than sampling.max_new_tokens and lost their end"
            output.out.print(lost, markup=False)
        output.out.print(
            f"{imported.answers} answers to {imported.problems} problems: {config.run_dir}", soft_wrap=True
        )
