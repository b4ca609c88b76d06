"""The `ap2o` command: parse, call, print; no logic."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ap2o_fast import config as settings
from ap2o_fast.allocator import prepare_allocator
from ap2o_fast.commands.book import app as book_app
from ap2o_fast.commands.compare import compare
from ap2o_fast.commands.export import export
from ap2o_fast.commands.failures import Commands
from ap2o_fast.commands.failures import run as run_command
from ap2o_fast.commands.options import PASS_ON, Json, Quiet, RunPath, Target
from ap2o_fast.commands.output import Output, rank
from ap2o_fast.commands.report import report
from ap2o_fast.commands.settings import config, doctor, init
from ap2o_fast.commands.upstream import import_exam, plan
from ap2o_fast.config import Config
from ap2o_fast.errors import UsageError
from ap2o_fast.interrupt import Interrupted

if TYPE_CHECKING:
    from ap2o_fast.pipeline import Pipeline
    from ap2o_fast.run_folder import RunFolder

SHARED = ("dpo", "run", "resume", "exam", "correct", "quiz", "evaluate")
"""Commands that several processes can do together."""

app = typer.Typer(
    name="ap2o",
    cls=Commands,
    help="Teach a code model from its own typed mistakes. Settings: a TOML file, then key=value overrides.",
    epilog="--debug, anywhere, shows the traceback of an error. Exit codes, events of --json: docs/command-line.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
err = Console(stderr=True)


@app.command(context_settings=PASS_ON)
def demo(context: typer.Context, quiet: Quiet = False, as_json: Json = False) -> None:
    """The whole loop on a laptop CPU in minutes: a small real model, the starter problems, a report."""
    with Output("demo", quiet=quiet, as_json=as_json) as output:
        overrides = list(context.args)
        if not any(text.lstrip("-").startswith("model.name=") for text in overrides):
            from ap2o_fast.demo_model import ensure_demo_model

            overrides.insert(0, f"model.name={ensure_demo_model(report=output.note)}")
        _run(settings.load(Path(__file__).with_name("demo.toml"), overrides), quiet, output, join=True)


@app.command(context_settings=PASS_ON)
def run(context: typer.Context, file: Target, quiet: Quiet = False, as_json: Json = False) -> None:
    """Run everything: exam, analysis, correction, quiz, test, report. Refuses a folder that holds a run."""
    with Output("run", quiet=quiet, as_json=as_json) as output:
        _run(settings.load(file, context.args), quiet, output, join=False)


@app.command(context_settings=PASS_ON)
def dpo(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="a settings file (.toml) with [preferences]")],
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train plain DPO on prompt/chosen/rejected data. Refuses a folder that holds a run."""
    from ap2o_fast.preferences.settings import check

    with Output("dpo", quiet=quiet, as_json=as_json) as output:
        config = settings.load(file, context.args, defaults=settings.DPO_DEFAULTS)
        check(config)
        _dpo(config, quiet, output)


@app.command()
def resume(run: RunPath, quiet: Quiet = False, as_json: Json = False) -> None:
    """Continue a run exactly where it stopped."""
    from ap2o_fast.run_folder import RunFolder

    with Output("resume", quiet=quiet, as_json=as_json) as output:
        folder = RunFolder.open(run)
        (_dpo if folder.config.preferences.source else _run)(folder, quiet, output)


@app.command(context_settings=PASS_ON)
def exam(context: typer.Context, target: Target, quiet: Quiet = False, as_json: Json = False) -> None:
    """Sample and judge the answers to the training problems."""
    with _stage("exam", target, context.args, quiet, as_json) as (output, pipeline):
        pipeline.exam()
        book = pipeline.folder.path / "book"
        output.result({"run": str(pipeline.folder.path), "book": str(book), "answers": len(pipeline.book("exam"))})
        output.out.print(f"exam done; the error book is in {book}", soft_wrap=True)


@app.command(context_settings=PASS_ON)
def analyse(context: typer.Context, target: Target, quiet: Quiet = False, as_json: Json = False) -> None:
    """Type the failures of the exam and find the problems to learn from."""
    with _stage("analyse", target, context.args, quiet, as_json) as (output, pipeline):
        pipeline.analyse()
        analysis = pipeline.folder.read_json("analysis.json")
        output.result(analysis)
        table = Table("error", "answers", title=f"{analysis['passed']} of {analysis['answers']} answers passed")
        for name, count in analysis["errors"].items():
            table.add_row(name, str(count))
        output.out.print(table)
        output.out.print(f"{analysis['usable']} of {analysis['problems']} problems can be learnt from")
        for task_id, reason in analysis["dropped"].items():
            output.out.print(f"  dropped {task_id}: {reason}", soft_wrap=True)


@app.command(context_settings=PASS_ON)
def correct(context: typer.Context, target: Target, quiet: Quiet = False, as_json: Json = False) -> None:
    """Train on the error book, with a quiz before each epoch and after the last."""
    with _stage("correct", target, context.args, quiet, as_json) as (output, pipeline):
        pipeline.correct()
        epoch, best = pipeline.best_epoch(), pipeline.folder.best
        output.result({"run": str(pipeline.folder.path), "best_epoch": epoch, "checkpoint": str(best)})
        output.out.print(f"best checkpoint (epoch {epoch}): {best}", soft_wrap=True)


@app.command(context_settings=PASS_ON)
def quiz(context: typer.Context, target: Target, quiet: Quiet = False, as_json: Json = False) -> None:
    """Show the latest quiz of a run; sit it with the initial model where there is none yet."""
    with _stage("quiz", target, context.args, quiet, as_json) as (output, pipeline):
        line = pipeline.quiz()
        output.result(line)
        passed = f"pass@1 {line['pass@1']:.3f} ({line['passed']}/{line['answers']})"
        output.out.print(f"quiz after epoch {line['epoch']}: {passed}")
        for name, count in line["errors"].items():
            output.out.print(f"  {name}: {count}")


@app.command(context_settings=PASS_ON)
def evaluate(
    context: typer.Context,
    target: Target,
    answers: Annotated[Path | None, typer.Option(help="evaluate these instead: task_id with solution")] = None,
    result: Annotated[Path | None, typer.Option("--out", help="with --answers: where to write it as JSON")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Test the initial model and the best checkpoint; or, with --answers, given answers, without a model."""
    if answers is not None:
        with Output("evaluate", quiet=quiet, as_json=as_json) as output:
            _evaluate_answers(_config(target, context.args), answers, result, quiet, output)
        return
    if result is not None:
        raise UsageError("evaluate --out is for --answers", do="a run's results are in its evaluation.json")
    with _stage("evaluate", target, context.args, quiet, as_json) as (output, pipeline):
        pipeline.evaluate()
        _tell_results(pipeline.folder, output)


@app.command(context_settings=PASS_ON)
def serve(context: typer.Context, file: Target) -> None:
    """Start vLLM on this machine's GPUs for runs with sampling.server; vLLM's own flags after `--`."""
    from ap2o_fast.serving import serve

    # Overrides of settings first; what begins with a dash begins vLLM's flags.
    end = next((number for number, text in enumerate(context.args) if text.startswith("-")), len(context.args))
    serve(_config(file, context.args[:end]), context.args[end:])


app.command()(report)


app.add_typer(book_app, name="book")


app.command(context_settings=PASS_ON)(compare)
app.command()(export)
app.command()(plan)
app.command("import", context_settings=PASS_ON)(import_exam)
app.command()(init)
for command in (config, doctor):
    app.command(context_settings=PASS_ON)(command)


@app.command(context_settings=PASS_ON)
def judge(
    context: typer.Context,
    problems: Annotated[Path, typer.Option(help="problems: .jsonl, .jsonl.gz or .json")],
    answers: Annotated[Path, typer.Option(help="answers: task_id with solution, or completion")],
    verdicts: Annotated[Path, typer.Option("--out", help="where to write a verdict a line")],
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Judge any file of answers; limits and isolation by judge.* settings."""
    from ap2o_fast.judging import judge_files

    with Output("judge", quiet=quiet, as_json=as_json) as output:
        judged = judge_files(problems, answers, verdicts, settings.load(None, context.args).judge, quiet=quiet)
        total = sum(judged.types.values())
        output.result({"verdicts": str(verdicts), "answers": total, "types": judged.types, "twice": judged.twice})
        for name, count in judged.types.most_common():
            output.out.print(f"  {name}: {count}")
        output.out.print(f"{judged.twice} judged twice, of which {judged.types['Flaky']} flaky")
        output.out.print(f"{total} verdicts: {verdicts}", soft_wrap=True)


@app.command(context_settings=PASS_ON)
def data(
    context: typer.Context,
    target: Target,
    show: Annotated[int, typer.Option(help="how many problems of each set to print")] = 1,
    as_json: Json = False,
) -> None:
    """Load and audit the problems; print some with their prompts, special tokens visible."""
    from ap2o_fast.judge import open_judge
    from ap2o_fast.problem_sets import load_sets
    from ap2o_fast.sampling.prompts import prompt_ids
    from ap2o_fast.training import load_tokenizer

    with Output("data", as_json=as_json) as output:
        config = _config(target, context.args)
        tokenizer = load_tokenizer(config.model)
        with open_judge(config.judge) as judge:
            sets, excluded, shared = load_sets(config, tokenizer, judge.check_reference)
        output.result(
            {
                "sets": {name: [problem.task_id for problem in problems] for name, problems in sets.items()},
                "excluded": excluded,
                "shared": shared,
            }
        )
        for name, problems in sets.items():
            output.out.rule(f"{name}: {len(problems)} problems")
            for problem in problems[:show]:
                ids = prompt_ids(problem, config.prompt, tokenizer)
                output.out.print(f"{problem.task_id}, {len(ids)} prompt tokens:", style="bold", markup=False)
                output.out.print(tokenizer.decode(ids), markup=False, highlight=False)
        said = [f"excluded {task_id}: {reason}" for task_id, reason in excluded.items()]
        said += [f"{name} also has {len(ids)} of the test: {', '.join(ids)}" for name, ids in shared.items() if ids]
        for line in said:
            output.out.print(line, markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with the codes of `ap2o_fast.exits`.

    Of the processes of torchrun the first prints. Of an error that several have, one of them tells.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [text for text in given if text != "--debug"]
    run_command(lambda: _start(given), debug=debug)


def _start(arguments: list[str]) -> None:
    processes, command = int(os.environ.get("WORLD_SIZE", "1")), next(iter(arguments), "")
    if processes > 1 and command not in SHARED:
        raise UsageError(
            f"`ap2o {command}` runs in one process, torchrun started {processes}",
            why=f"only {', '.join(SHARED)} share their work",
            do="start it without torchrun",
        )
    app(arguments, prog_name="ap2o", standalone_mode=True)


def _run(begin: Config | RunFolder, quiet: bool, output: Output, *, join: bool = False) -> None:
    with _pipeline(begin, quiet, join=join) as pipeline:
        pipeline.run()
        _tell_results(pipeline.folder, output)


def _dpo(begin: Config | RunFolder, quiet: bool, output: Output) -> None:
    config = begin if isinstance(begin, Config) else begin.config
    prepare_allocator(config.model.device, pools=config.sampling.engine == "vllm" and not config.sampling.server)
    from transformers.utils import logging

    from ap2o_fast.preferences.run import DpoRun
    from ap2o_fast.processes import create_folder, meet
    from ap2o_fast.reporting.tables import print_preferences

    logging.disable_progress_bar()
    with meet(config) as world:
        folder = create_folder(_planned(begin, world.size), world, join=False) if isinstance(begin, Config) else begin
        with _kept(folder, "resume"), DpoRun(folder, quiet=quiet, world=world) as run:
            done = run.run()
            output.result({"run": str(folder.path), **done})
            print_preferences(done, folder.path, console=output.out)


@contextmanager
def _stage(
    command: str, target: Path, overrides: list[str], quiet: bool, as_json: bool
) -> Iterator[tuple[Output, Pipeline]]:
    """The output of a stage's command, and the run's stages."""
    with (
        Output(command, quiet=quiet, as_json=as_json) as output,
        _pipeline(_target(target, overrides), quiet, goes_on=command) as pipeline,
    ):
        yield output, pipeline


@contextmanager
def _pipeline(
    begin: Config | RunFolder, quiet: bool, *, join: bool = True, goes_on: str = "resume"
) -> Iterator[Pipeline]:
    """A run's stages, in all processes of torchrun.

    Args:
        begin: the run's folder, or settings of which to make it.
        join: a folder that holds a run with the same settings is continued.
        goes_on: the command that goes on after an interrupt.
    """
    config = begin if isinstance(begin, Config) else begin.config
    prepare_allocator(config.model.device, pools=config.sampling.engine == "vllm" and not config.sampling.server)
    from transformers.utils import logging

    from ap2o_fast.comparing import systems
    from ap2o_fast.pipeline import Pipeline
    from ap2o_fast.preferences.settings import refuse
    from ap2o_fast.processes import create_folder, meet

    refuse(config)
    systems.refuse(config)
    logging.disable_progress_bar()
    with meet(config) as world:
        folder = create_folder(_planned(begin, world.size), world, join=join) if isinstance(begin, Config) else begin
        with _kept(folder, goes_on), Pipeline(folder, quiet=quiet, world=world) as pipeline:
            yield pipeline


@contextmanager
def _kept(folder: RunFolder, goes_on: str) -> Iterator[None]:
    """Have an interrupt say what the run has kept, once it is closed."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        from ap2o_fast.kept import kept

        said = kept(folder) if rank() == 0 else []
        raise Interrupted(said, f"ap2o {goes_on} {shlex.quote(str(folder.path))}") from interrupt


def _planned(config: Config, processes: int) -> Config:
    from ap2o_fast.reporting.memory import keep_to_limit

    return keep_to_limit(config, processes, err if rank() == 0 else None)


def _target(target: Path, overrides: list[str]) -> Config | RunFolder:
    """A run folder as it is, or the settings of a file."""
    from ap2o_fast.run_folder import RunFolder

    if not target.is_dir():
        return settings.load(target, overrides)
    if overrides:
        raise UsageError("a run's settings are fixed", do="give overrides with the settings file of a new run")
    return RunFolder.open(target)


def _evaluate_answers(config: Config, answers: Path, result: Path | None, quiet: bool, output: Output) -> None:
    from ap2o_fast.given_answers import as_dict, evaluate_answers, write_result
    from ap2o_fast.reporting.tables import print_evaluation

    given = evaluate_answers(config, answers, quiet=quiet)
    output.result(as_dict(given))
    print_evaluation(given.evaluation, shared=given.shared, console=output.out)
    for task_id, reason in given.excluded.items():
        output.out.print(f"excluded {task_id}: {reason}", markup=False, soft_wrap=True)
    if given.unanswered:
        output.out.print(f"{len(given.unanswered)} problems have no answer: {', '.join(given.unanswered[:5])}, …")
    if result is not None:
        write_result(given, result)
        output.out.print(f"results: {result}", soft_wrap=True)


def _config(target: Path, overrides: list[str]) -> Config:
    return settings.load(target / "config.json" if target.is_dir() else target, overrides)


def _tell_results(folder: RunFolder, output: Output) -> None:
    from ap2o_fast.evaluation import from_dict
    from ap2o_fast.reporting.tables import print_results

    results = folder.read_json("evaluation.json")
    before, after = (from_dict(results[name]) if name in results else None for name in ("before", "after"))
    paths = {"report": folder.path / "report.html", "checkpoint": folder.best}
    there = {name: path.resolve() for name, path in paths.items() if path.exists()}
    shared = results.get("shared", {})
    output.result({"run": str(folder.path), **{name: str(path) for name, path in there.items()}, **results})
    print_results(before, after, paths=there, seed=folder.config.seed, shared=shared, console=output.out)


if __name__ == "__main__":
    main()
