"""Whole comparisons of the tiny world: one exam for all, runs that are their own, and a resume from anywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import World

from ap2o_fast import config
from ap2o_fast.book import ErrorBook
from ap2o_fast.cli import main
from ap2o_fast.comparing import comparison
from ap2o_fast.comparing import exam as exam_module
from ap2o_fast.comparing.comparison import Compared, compare
from ap2o_fast.errors import DataError, MachineError, UsageError
from ap2o_fast.pipeline import Pipeline
from ap2o_fast.reporting.metrics import read_lines
from ap2o_fast.run_folder import RunFolder
from tests.comparing.conftest import SEEDS, SYSTEMS, settings

NAMES = [f"{name.replace('/', '.')}-s{seed}" for seed in SEEDS for name in SYSTEMS]
CLOCK = {"seconds", "training_seconds", "tflops", "peak_mib", "mfu"}


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return (stopped.value.code if isinstance(stopped.value.code, int) else 0), printed.out, printed.err


def nothing(line: str) -> None:
    """Says nothing."""


def without_clock(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: without_clock(value) for key, value in content.items() if key not in CLOCK}
    return [without_clock(value) for value in content] if isinstance(content, list) else content


def outcome(run: Path) -> dict[str, Any]:
    """All that a run decided and found."""
    lines = {name: without_clock(read_lines(run / f"{name}.jsonl")) for name in ("quiz", "plan", "metrics")}
    return lines | {"test": json.loads((run / "evaluation.json").read_text())}


def test_every_run_begins_with_the_one_exam_and_goes_its_own_way(world: World, compared: Compared) -> None:
    whole = world.folder / "whole"
    assert sorted(path.name for path in (whole / "runs").iterdir()) == sorted(NAMES)
    assert compared.failed == {}
    with ErrorBook.open(whole / "exam" / "book", check=True) as exam:
        assert set(exam.column("round")) == {0} and len(exam) == 4 * 12
        tokens = [exam.tokens(row).tolist() for row in range(len(exam))]
        key = json.loads((whole / "exam" / "environment.json").read_text())["model_hash"]
        assert (~np.isnan(exam.annotation("ref_logp", key))).sum() > 10
    answers = {}
    for name in NAMES:
        run = whole / "runs" / name
        with ErrorBook.open(run / "book", check=True) as book, ErrorBook.open(run / "quiz", check=True) as quiz:
            assert [book.tokens(row).tolist() for row in range(len(book))] == tokens
            later = np.flatnonzero(quiz.column("round") == 1).tolist()
            answers[name] = quiz.column("seed")[later].tolist()
        timing = json.loads((run / "timing.json").read_text())
        assert timing["exam"]["answers"] == 0 and "reference" not in timing, "nothing of the exam is done twice"
        assert read_lines(run / "quiz.jsonl")[0]["passed"] == read_lines(whole / "exam" / "quiz.jsonl")[0]["passed"]
    assert answers[NAMES[0]] != answers[NAMES[2]], "another seed samples other answers"
    plans = {name: [line["window"] for line in read_lines(whole / "runs" / name / "plan.jsonl")] for name in NAMES}
    assert plans[NAMES[0]] != plans[NAMES[1]], "another system takes other pairs"


def test_no_checkpoint_is_left(world: World, compared: Compared) -> None:
    assert list((world.folder / "whole").rglob("*.safetensors")) == []


def test_it_says_what_it_will_cost(world: World, compared: Compared, said: list[str]) -> None:
    assert "4 runs from one exam" in said[0] and "48 in the exam, 72 in quizzes, 150 in tests" in said[0]
    assert said[1].startswith("4 runs to do: ") and "Training: known after the first run" in said[1]
    plans = [line for name in NAMES for line in read_lines(world.folder / "whole" / "runs" / name / "plan.jsonl")]
    steps = [line for name in NAMES for line in read_lines(world.folder / "whole" / "runs" / name / "metrics.jsonl")]
    assert f" {sum(line['pairs'] for line in plans)} pairs in {len(steps)} steps." in said[1]
    assert said[2].startswith("Disk: ")
    assert "3 runs to do" in said[3] and "of which training" in said[3]
    assert said[-1].startswith(f"{NAMES[-1]} finished in ")


def test_what_is_finished_is_not_done_again(world: World, compared: Compared) -> None:
    files = [world.folder / "whole" / "runs" / name / "metrics.jsonl" for name in NAMES]
    before, said = [file.stat().st_mtime_ns for file in files], list[str]()
    again = compare(settings(world, "whole"), quiet=True, say=said.append)
    assert [file.stat().st_mtime_ns for file in files] == before
    assert said[-1] == "Every run is finished."
    assert again.summary == compared.summary


def interrupt_at(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, when: Callable[..., bool]) -> None:
    """The call for which `when` holds is cut off."""
    real = getattr(place, name)

    def cut(*arguments: Any, **named: Any) -> Any:
        if when(*arguments, **named):
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(place, name, cut)


def test_a_comparison_cut_off_anywhere_ends_as_one_that_was_not(
    world: World, compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = SEEDS[0]
    made = settings(world, "cut", f"compare.seeds=[{seed}]")
    points: list[tuple[Any, str, Callable[..., bool]]] = [
        (Pipeline, "reference_logps", lambda *_: True),
        (Pipeline, "checkpoint", lambda bench, engine, *_: engine.step == 5),
        (exam_module, "copy_book", lambda source, target: "ap2o" in str(target) and target.name == "quiz"),
        (Pipeline, "sit", lambda bench, stage, *_, **__: stage == "test" and "ap2o" in str(bench.folder.path)),
    ]
    for place, name, when in points:
        with monkeypatch.context() as patch:
            interrupt_at(patch, place, name, when)
            with pytest.raises(KeyboardInterrupt):
                compare(made, quiet=True, say=nothing)
    found = compare(RunFolder.open(world.folder / "cut").config, quiet=True, say=nothing)
    assert found.failed == {} and found.summary["missing"] == {}
    for name in NAMES[:2]:
        assert outcome(world.folder / "cut" / "runs" / name) == outcome(world.folder / "whole" / "runs" / name)


def test_another_seed_can_be_added_later_and_another_setting_cannot(world: World, compared: Compared) -> None:
    with pytest.raises(UsageError, match=r"whole holds a run with other settings: train\.lr"):
        compare(settings(world, "whole", "train.lr=1e-4"), quiet=True, say=nothing)
    with pytest.raises(UsageError, match=r"dyn-dpo-s4 holds a run with other settings: curriculum\.budget"):
        compare(settings(world, "whole", "compare.budget=matched"), quiet=True, say=nothing)
    fewer = compare(settings(world, "whole", f"compare.seeds=[{SEEDS[1]}]"), quiet=True, say=nothing)
    assert fewer.summary["systems"]["dyn-dpo"]["seeds"] == [SEEDS[1]]
    assert compare(settings(world, "whole"), quiet=True, say=nothing).summary == compared.summary


def test_a_folder_of_a_run_is_refused(world: World, tmp_path: Path) -> None:
    RunFolder.create(config.load(world.settings, [f"run_dir={tmp_path / 'run'}"]))
    with pytest.raises(UsageError, match="holds a run and no comparison"):
        compare(settings(world, "x", f"run_dir={tmp_path / 'run'}"), quiet=True, say=nothing)


def test_a_run_that_fails_is_named_and_the_others_go_on(
    world: World, compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world.folder / "whole", world.folder / "failing")
    for name in NAMES[:3]:
        shutil.rmtree(world.folder / "failing" / "runs" / name)
    done: list[str] = []

    def run(self: Pipeline) -> None:
        if self.config.seed == SEEDS[0]:
            raise DataError("no luck") if self.config.curriculum.system == "dyn-dpo" else RuntimeError("a fault")
        done.append(self.folder.path.name)

    monkeypatch.setattr(Pipeline, "run", run)
    said: list[str] = []
    found = compare(settings(world, "failing"), quiet=True, say=said.append)
    assert done == [NAMES[2]]
    assert found.failed[NAMES[0]] == "no luck"
    assert found.failed[NAMES[1]].startswith("RuntimeError: a fault (see ")
    assert "a fault" in (world.folder / "failing" / "runs" / NAMES[1] / "compare.log").read_text()
    assert f"{NAMES[0]} failed: no luck" in said
    assert set(found.failed) == set(NAMES[:2])
    assert found.summary["missing"]["ap2o-l2h/no-replay"] == [SEEDS[0]]


def test_a_disk_that_is_too_small_is_refused_before_training(
    world: World, compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(world.folder / "full", ignore_errors=True)
    shutil.copytree(world.folder / "whole", world.folder / "full")
    shutil.rmtree(world.folder / "full" / "runs")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 1 << 40, 4096))
    with pytest.raises(MachineError, match="of disk and 0 MiB are free"):
        compare(settings(world, "full"), quiet=True, say=nothing)
    assert not (world.folder / "full" / "runs").exists()


def test_report_and_compare_write_the_page_of_a_folder_anew(
    world: World, compared: Compared, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder = world.folder / "again"
    shutil.copytree(world.folder / "whole", folder)
    for command in (("report", folder), ("compare", folder, "--quiet")):
        (folder / "comparison.html").unlink()
        code, out, _ = call(capsys, *command)
        assert code == 0 and "ap2o-l2h/no-replay" in out and "comparison.html" in out
        page = (folder / "comparison.html").read_text(encoding="utf-8")
        assert "Published, other weights" in page
        (folder / "comparison.html").unlink()
        assert comparison.make_report(folder) == page, "what `ap2o report --live` serves"
        assert not (folder / "comparison.html").exists()
        (folder / "comparison.html").write_text(page, encoding="utf-8")
    code, _, err = call(capsys, "compare", folder, "compare.seeds=[1]")
    assert code == 2 and "fixed" in err


def test_the_command_refuses_by_name(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "compare", world.settings, "--systems", "dpo,ap2o-l2", "--seeds", "2")
    assert code == 2 and "nearest is 'ap2o-l2h'" in err
    code, _, err = call(capsys, "run", world.settings, "compare.systems=[dpo]", f"run_dir={world.folder / 'no'}")
    assert code == 2 and "compare.systems has no meaning here" in err
    code, _, err = call(capsys, "resume", world.folder / "whole")
    assert code == 2 and "compare" in err
