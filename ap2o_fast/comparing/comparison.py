"""A comparison from beginning to end: exam, runs, numbers, page. Called again, it does only what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ap2o_fast import config as settings
from ap2o_fast.comparing import cost
from ap2o_fast.comparing.exam import open_exam, sit_exam
from ap2o_fast.comparing.page import make_page, write_page
from ap2o_fast.comparing.results import initial_test, read_results
from ap2o_fast.comparing.runs import finish, is_finished, run_all
from ap2o_fast.comparing.summary import summarise
from ap2o_fast.comparing.systems import PlannedRun, planned_runs
from ap2o_fast.config import Config
from ap2o_fast.errors import DataError, UsageError
from ap2o_fast.preferences.settings import refuse
from ap2o_fast.reporting.text import duration
from ap2o_fast.run_folder import RunFolder

SUMMARY = "comparison.json"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What came out: the numbers of `summarise`, the page, and the runs that failed with the reason by name."""

    summary: dict[str, Any]
    page: Path
    failed: dict[str, str] = field(default_factory=dict)


def compare(config: Config, *, quiet: bool, say: Callable[[str], None]) -> Compared:
    """Do what is missing of a comparison, in `config.run_dir`.

    Args:
        say: takes lines on what will be done and what it costs.

    Errors: `UsageError` for settings that cannot be compared, or a folder of other ones; those of the exam's stages.
    """
    refuse(config)
    runs = planned_runs(config, Path(config.run_dir))
    folder = _open(config)
    with folder.locked():
        folder.write_json("config.json", config.model_dump(mode="json"))
        for run in runs:
            if run.path.exists():  # refused now, by name, and not after hours of other runs
                RunFolder.create(run.config, join=True)
        exam = open_exam(config, folder.path)
        say(cost.before_exam(config, runs))
        sit_exam(exam, quiet=quiet)
        failed = _run(config, runs, exam, quiet=quiet, say=say)
        return _write(folder, runs, failed)


def kept(config: Config) -> list[str]:
    """What an interrupted comparison has committed, a line each."""
    path = Path(config.run_dir)
    runs = planned_runs(config, path)
    finished = sum(is_finished(_folder(run)) for run in runs)
    begun = sum(run.path.exists() for run in runs) - finished
    lines = [f"runs: {finished} of {len(runs)} finished, {begun} more begun; each goes on from its last checkpoint"]
    return lines if path.exists() else []


def report(path: Path) -> Compared:
    """Write numbers and page of a comparison anew, as far as its runs are finished.

    Errors: `DataError` where the initial model has not been tested yet.
    """
    folder = RunFolder.open(path)
    return _write(folder, planned_runs(folder.config, path), {})


def make_report(path: Path) -> str:
    """The page of a comparison as far as its runs are finished; nothing is written. Errors: as `report`."""
    folder = RunFolder.open(path)
    return _made(folder, planned_runs(folder.config, path))[1]


def _open(config: Config) -> RunFolder:
    """The comparison's folder. Its own group of settings may change from call to call: more systems, more seeds.

    Errors: `UsageError` where the folder holds something else, or a comparison with other settings.
    """
    saved = Path(config.run_dir) / "config.json"
    if not saved.exists():
        return RunFolder.create(config)
    old = settings.load(saved).compare
    if not old.systems:
        raise UsageError(f"{config.run_dir} holds a run and no comparison", do="choose another run_dir")
    folder = RunFolder.create(config.model_copy(update={"compare": old}), join=True)
    return RunFolder(path=folder.path, config=config)


def _run(
    config: Config, runs: list[PlannedRun], exam: RunFolder, *, quiet: bool, say: Callable[[str], None]
) -> dict[str, str]:
    """Do the runs that are not finished; returns why some failed, by name."""
    how, failed = config.compare, dict[str, str]()
    todo = [run for run in runs if not is_finished(_folder(run))]
    done = [run for run in runs if run not in todo]
    for run in done:
        finish(_folder(run), keep=how.keep_checkpoints)
    say(cost.before_runs(todo, done, exam, how.jobs))
    if not todo:
        return failed
    say(cost.check_disk(todo, exam, config))

    def ended(run: PlannedRun, error: str) -> None:
        left = [each for each in runs if each not in done and each.name not in failed and each != run]
        if error:
            failed[run.name] = error
            say(f"{run.name} failed: {error}")
            return
        finish(_folder(run), keep=how.keep_checkpoints)
        done.append(run)
        timing = _folder(run).read_json("timing.json")
        said = f"{run.name} finished in {duration(sum(line['seconds'] for line in timing.values()))}."
        say(f"{said} {cost.before_runs(left, done, exam, how.jobs)}" if left else said)

    run_all(todo, exam, jobs=min(how.jobs, len(todo)), quiet=quiet, ended=ended)
    return failed


def _write(folder: RunFolder, runs: list[PlannedRun], failed: dict[str, str]) -> Compared:
    summary, page = _made(folder, runs)
    folder.write_json(SUMMARY, summary)
    return Compared(summary=summary, page=write_page(folder, page), failed=failed)


def _made(folder: RunFolder, runs: list[PlannedRun]) -> tuple[dict[str, Any], str]:
    exam = folder.path / "exam"
    if not (exam / "evaluation.json").exists():
        raise DataError(f"{folder.path} has no tested model yet", do=f"`ap2o compare {folder.path}` goes on")
    results = read_results(runs)
    summary = summarise(folder.config, initial_test(folder.path, folder.config), results)
    return summary, make_page(folder, summary, [result.timing for result in results])


def _folder(run: PlannedRun) -> RunFolder:
    return RunFolder(path=run.path, config=run.config)
