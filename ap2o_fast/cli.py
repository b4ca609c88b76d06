"""The `ap2o` command: parse, call, print; no logic."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ap2o_fast import book_cli
from ap2o_fast import config as settings
from ap2o_fast.allocator import prepare_allocator
from ap2o_fast.comparing.command import compare, print_comparison
from ap2o_fast.config import Config
from ap2o_fast.errors import Ap2oError, UsageError
from ap2o_fast.export_command import export
from ap2o_fast.setting_commands import config, doctor, init
from ap2o_fast.upstream_commands import import_exam, plan

if TYPE_CHECKING:
    from ap2o_fast.pipeline import Pipeline
    from ap2o_fast.run_folder import RunFolder

INTERRUPTED = 130
SHARED = ("dpo", "run", "resume", "exam", "correct", "quiz", "evaluate")
"""Commands that several processes can do together."""
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(
    name="ap2o",
    help="Teach a code model from its own typed mistakes. Settings: a TOML file, then key=value overrides.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console()
err = Console(stderr=True)

Target = Annotated[Path, typer.Argument(help="a settings file (.toml) or a run folder")]
RunPath = Annotated[Path, typer.Argument(help="the folder of a run")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress")]


@app.command(context_settings=PASS_ON)
def demo(context: typer.Context, quiet: Quiet = False) -> None:
    """The whole loop on a laptop CPU in minutes: a small real model, the starter problems, a report."""
    overrides = list(context.args)
    if not any(text.lstrip("-").startswith("model.name=") for text in overrides):
        from ap2o_fast.demo_model import ensure_demo_model

        overrides.insert(0, f"model.name={ensure_demo_model(report=err.print)}")
    config = settings.load(Path(__file__).with_name("demo.toml"), overrides)
    _run(config, quiet, join=True)


@app.command(context_settings=PASS_ON)
def run(context: typer.Context, file: Target, quiet: Quiet = False) -> None:
    """Run everything: exam, analysis, correction, quiz, test, report. Refuses a folder that holds a run."""
    _run(settings.load(file, context.args), quiet, join=False)


@app.command(context_settings=PASS_ON)
def dpo(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="a settings file (.toml) with [preferences]")],
    quiet: Quiet = False,
) -> None:
    """Train plain DPO on prompt/chosen/rejected data. Refuses a folder that holds a run."""
    from ap2o_fast.preferences.settings import check

    config = settings.load(file, context.args, defaults=settings.DPO_DEFAULTS)
    check(config)
    _dpo(config, quiet)


@app.command()
def resume(run: RunPath, quiet: Quiet = False) -> None:
    """Continue a run exactly where it stopped."""
    from ap2o_fast.run_folder import RunFolder

    folder = RunFolder.open(run)
    (_dpo if folder.config.preferences.source else _run)(folder, quiet)


@app.command(context_settings=PASS_ON)
def exam(context: typer.Context, target: Target, quiet: Quiet = False) -> None:
    """Sample and judge the answers to the training problems."""
    with _pipeline(_target(target, context.args), quiet) as pipeline:
        pipeline.exam()
        out.print(f"exam done; the error book is in {pipeline.folder.path / 'book'}", soft_wrap=True)


@app.command(context_settings=PASS_ON)
def analyse(context: typer.Context, target: Target, quiet: Quiet = False) -> None:
    """Type the failures of the exam and find the problems to learn from."""
    with _pipeline(_target(target, context.args), quiet) as pipeline:
        pipeline.analyse()
        analysis = pipeline.folder.read_json("analysis.json")
    table = Table("error", "answers", title=f"{analysis['passed']} of {analysis['answers']} answers passed")
    for name, count in analysis["errors"].items():
        table.add_row(name, str(count))
    out.print(table)
    out.print(f"{analysis['usable']} of {analysis['problems']} problems can be learnt from")
    for task_id, reason in analysis["dropped"].items():
        out.print(f"  dropped {task_id}: {reason}", soft_wrap=True)


@app.command(context_settings=PASS_ON)
def correct(context: typer.Context, target: Target, quiet: Quiet = False) -> None:
    """Train on the error book, with a quiz before each epoch and after the last."""
    with _pipeline(_target(target, context.args), quiet) as pipeline:
        pipeline.correct()
        out.print(f"best checkpoint (epoch {pipeline.best_epoch()}): {pipeline.folder.best}", soft_wrap=True)


@app.command(context_settings=PASS_ON)
def quiz(context: typer.Context, target: Target, quiet: Quiet = False) -> None:
    """Show the latest quiz of a run; sit it with the initial model where there is none yet."""
    with _pipeline(_target(target, context.args), quiet) as pipeline:
        line = pipeline.quiz()
    out.print(f"quiz after epoch {line['epoch']}: pass@1 {line['pass@1']:.3f} ({line['passed']}/{line['answers']})")
    for name, count in line["errors"].items():
        out.print(f"  {name}: {count}")


@app.command(context_settings=PASS_ON)
def evaluate(
    context: typer.Context,
    target: Target,
    answers: Annotated[Path | None, typer.Option(help="evaluate these instead: task_id with solution")] = None,
    result: Annotated[Path | None, typer.Option("--out", help="with --answers: where to write it as JSON")] = None,
    quiet: Quiet = False,
) -> None:
    """Test the initial model and the best checkpoint; or, with --answers, given answers, without a model."""
    if answers is not None:
        _evaluate_answers(_config(target, context.args), answers, result, quiet)
        return
    if result is not None:
        raise UsageError("evaluate --out is for --answers", do="a run's results are in its evaluation.json")
    with _pipeline(_target(target, context.args), quiet) as pipeline:
        pipeline.evaluate()
        _print_results(pipeline.folder)


@app.command(context_settings=PASS_ON)
def serve(context: typer.Context, file: Target) -> None:
    """Start vLLM on this machine's GPUs for runs with sampling.server; vLLM's own flags after `--`."""
    from ap2o_fast.serving import serve

    # Overrides of settings first; what begins with a dash begins vLLM's flags.
    end = next((number for number, text in enumerate(context.args) if text.startswith("-")), len(context.args))
    serve(_config(file, context.args[:end]), context.args[end:])


@app.command()
def report(run: RunPath) -> None:
    """Write report.html anew, or comparison.html."""
    from ap2o_fast.comparing.systems import is_comparison
    from ap2o_fast.reporting.report import write_report
    from ap2o_fast.run_folder import RunFolder

    if is_comparison(run):
        from ap2o_fast.comparing import comparison

        print_comparison(comparison.report(run))
        return
    out.print(f"report: {write_report(RunFolder.open(run).path)}", soft_wrap=True)


app.add_typer(book_cli.app, name="book")


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
) -> None:
    """Judge any file of answers; limits and isolation by judge.* settings."""
    from ap2o_fast.judging import judge_files

    judged = judge_files(problems, answers, verdicts, settings.load(None, context.args).judge, quiet=quiet)
    for name, count in judged.types.most_common():
        out.print(f"  {name}: {count}")
    out.print(f"{judged.twice} judged twice, of which {judged.types['Flaky']} flaky")
    out.print(f"{judged.types.total()} verdicts: {verdicts}", soft_wrap=True)


@app.command(context_settings=PASS_ON)
def data(
    context: typer.Context,
    target: Target,
    show: Annotated[int, typer.Option(help="how many problems of each set to print")] = 1,
) -> None:
    """Load and audit the problems; print some with their prompts, special tokens visible."""
    from ap2o_fast.judge import open_judge
    from ap2o_fast.problem_sets import load_sets
    from ap2o_fast.sampling.prompts import prompt_ids
    from ap2o_fast.training import load_tokenizer

    config = _config(target, context.args)
    tokenizer = load_tokenizer(config.model)
    with open_judge(config.judge) as judge:
        sets, excluded, shared = load_sets(config, tokenizer, judge.check_reference)
    for name, problems in sets.items():
        out.rule(f"{name}: {len(problems)} problems")
        for problem in problems[:show]:
            ids = prompt_ids(problem, config.prompt, tokenizer)
            out.print(f"{problem.task_id}, {len(ids)} prompt tokens:", style="bold", markup=False)
            out.print(tokenizer.decode(ids), markup=False, highlight=False)
    for task_id, reason in excluded.items():
        out.print(f"excluded {task_id}: {reason}", markup=False, soft_wrap=True)
    for name, tested in shared.items():
        if tested:
            out.print(f"{name} also has {len(tested)} of the test: {', '.join(tested)}", markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with the codes of `ap2o_fast.errors`, 2 for usage and 130 when interrupted.

    Of the processes of torchrun the first prints. Of an error that several have, one of them tells.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [text for text in given if text != "--debug"]
    _exit(lambda: _start(given), debug)


def _start(arguments: list[str]) -> None:
    processes, command = int(os.environ.get("WORLD_SIZE", "1")), next(iter(arguments), "")
    if processes > 1 and command not in SHARED:
        raise UsageError(
            f"`ap2o {command}` runs in one process, torchrun started {processes}",
            why=f"only {', '.join(SHARED)} share their work",
            do="start it without torchrun",
        )
    out.quiet = _rank() > 0
    app(arguments, prog_name="ap2o", standalone_mode=True)


def _exit(call: Callable[[], Any], debug: bool) -> None:
    try:
        call()
    except Ap2oError as error:
        if debug:
            raise
        # What is wrong with a command is wrong in every process, and found before they meet.
        if not (isinstance(error, UsageError) and _rank() if error.told is None else error.told):
            where = f"process {_rank()}: " if _rank() else ""
            err.print(f"{where}error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from error
    except OSError as error:
        if debug or error.errno not in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT):
            raise
        err.print(f"error: {error.strerror}: {error.filename or 'the run folder'}", style="red", markup=False)
        err.print("do:  make room or change run_dir, then `ap2o resume`", markup=False)
        raise SystemExit(4) from error
    except KeyboardInterrupt:
        if _rank() == 0:
            err.print("interrupted; what is committed is kept, and `ap2o resume` goes on from there")
        raise SystemExit(INTERRUPTED) from None


def _rank() -> int:
    """Number of this process among those of torchrun."""
    return int(os.environ.get("RANK", "0"))


def _run(begin: Config | RunFolder, quiet: bool, *, join: bool = False) -> None:
    with _pipeline(begin, quiet, join=join) as pipeline:
        pipeline.run()
        _print_results(pipeline.folder)


def _dpo(begin: Config | RunFolder, quiet: bool) -> None:
    config = begin if isinstance(begin, Config) else begin.config
    prepare_allocator(config.model.device, pools=config.sampling.engine == "vllm" and not config.sampling.server)
    from transformers.utils import logging

    from ap2o_fast.preferences.run import DpoRun
    from ap2o_fast.processes import create_folder, meet
    from ap2o_fast.reporting.terminal import print_preferences

    logging.disable_progress_bar()
    with meet(config) as world:
        folder = create_folder(_planned(begin, world.size), world, join=False) if isinstance(begin, Config) else begin
        with DpoRun(folder, quiet=quiet, world=world) as run:
            print_preferences(run.run(), folder.path, console=out)


@contextmanager
def _pipeline(begin: Config | RunFolder, quiet: bool, *, join: bool = True) -> Iterator[Pipeline]:
    """A run's stages, in all processes of torchrun.

    Args:
        begin: the run's folder, or settings of which to make it.
        join: a folder that holds a run with the same settings is continued.
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
        with Pipeline(folder, quiet=quiet, world=world) as pipeline:
            yield pipeline


def _planned(config: Config, processes: int) -> Config:
    from ap2o_fast.reporting.memory import keep_to_limit

    return keep_to_limit(config, processes, err if _rank() == 0 else None)


def _target(target: Path, overrides: list[str]) -> Config | RunFolder:
    """A run folder as it is, or the settings of a file."""
    from ap2o_fast.run_folder import RunFolder

    if not target.is_dir():
        return settings.load(target, overrides)
    if overrides:
        raise UsageError("a run's settings are fixed", do="give overrides with the settings file of a new run")
    return RunFolder.open(target)


def _evaluate_answers(config: Config, answers: Path, result: Path | None, quiet: bool) -> None:
    from ap2o_fast.given_answers import evaluate_answers, write_result
    from ap2o_fast.reporting.terminal import print_evaluation

    given = evaluate_answers(config, answers, quiet=quiet)
    print_evaluation(given.evaluation, shared=given.shared, console=out)
    for task_id, reason in given.excluded.items():
        out.print(f"excluded {task_id}: {reason}", markup=False, soft_wrap=True)
    if given.unanswered:
        out.print(f"{len(given.unanswered)} problems have no answer: {', '.join(given.unanswered[:5])}, …")
    if result is not None:
        write_result(given, result)
        out.print(f"results: {result}", soft_wrap=True)


def _config(target: Path, overrides: list[str]) -> Config:
    return settings.load(target / "config.json" if target.is_dir() else target, overrides)


def _print_results(folder: RunFolder) -> None:
    from ap2o_fast.evaluation import from_dict
    from ap2o_fast.reporting.terminal import print_results

    results = folder.read_json("evaluation.json")
    before, after = (from_dict(results[name]) if name in results else None for name in ("before", "after"))
    paths = {"report": folder.path / "report.html", "checkpoint": folder.best}
    there = {name: path.resolve() for name, path in paths.items() if path.exists()}
    print_results(before, after, paths=there, seed=folder.config.seed, shared=results.get("shared", {}), console=out)


if __name__ == "__main__":
    main()
