"""An exam of the authors' code becomes a run: its book, the same plans as from the file, and training that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from upstream_files import EXAM, read_plan, write_counts, write_merged

from ap2o_fast import config
from ap2o_fast.book import ErrorBook
from ap2o_fast.cli import main
from ap2o_fast.judge.verdict import ErrorType as E
from ap2o_fast.planning import SYSTEMS
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.training import load_tokenizer

LONG = "sampling.max_new_tokens=40"
SHORT = (LONG, "train.epochs=1", "quiz.n=1")
UPSTREAM = ("sft", "dpo", "curri-dpo", "dyn-dpo", "ap2o-l2h", "ap2o-h2l")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tiny.World:
    return tiny.make_world(tmp_path_factory.mktemp("import"))


@pytest.fixture(scope="module")
def merged(world: tiny.World) -> Path:
    return write_merged(world.folder / "merged.json")


@pytest.fixture(scope="module")
def imported(world: tiny.World, merged: Path) -> Path:
    run = world.folder / "imported"
    call("import", world.settings, "--answers", merged, f"run_dir={run}", *SHORT)
    return run


def call(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert not stopped.value.code


def test_the_book_holds_the_answers_in_their_order(imported: Path, world: tiny.World) -> None:
    tokenizer = load_tokenizer(config.load(world.settings).model)
    with ErrorBook.open(RunFolder.open(imported).book("exam"), check=True) as book:
        assert book.task_ids == tuple(EXAM)
        row = 0
        for passed, errors in EXAM.values():
            kinds = [E(code) for code in book.column("error")[row : row + passed + len(errors)]]
            assert kinds == [E.Passed] * passed + [E[error] for error in errors]
            row += len(kinds)
        assert row == len(book) and not book.column("round").any()
        assert book.text(row - 1) == "NameError 6" and book.message(row - 1) == "NameError"
        ids = book.tokens(row - 1)
        assert ids.tolist() == [*tokenizer("NameError 6")["input_ids"], tokenizer.eos_token_id]
        assert np.isnan(book.logprobs(row - 1)).all() and len(book.logprobs(row - 1)) == len(ids)


@pytest.mark.parametrize("system", UPSTREAM)
def test_a_plan_of_the_book_is_the_plan_of_the_file(imported: Path, merged: Path, tmp_path: Path, system: str) -> None:
    counts = write_counts(tmp_path / "counts.json", KeyError=4, NameError=2, TypeError=1)
    more = ["--system", system, "--variant", "upstream", "--epoch", 2.25, "--epochs", 5, "--quiz-counts", counts]
    for name, exam in (("book", imported), ("merged", merged)):
        call("plan", f"--{name}", exam, *more, "--seed", 3, "--draws", 20, "--out", tmp_path / name)
    assert (tmp_path / "book").read_bytes() == (tmp_path / "merged").read_bytes()


@pytest.mark.parametrize("system", ["dyn-dpo", "ap2o-l2h", "ap2o-h2l"])
def test_the_papers_plan_is_that_of_the_file_too(imported: Path, merged: Path, tmp_path: Path, system: str) -> None:
    counts = write_counts(tmp_path / "counts.json", KeyError=4, NameError=2, TypeError=1)
    for name, exam in (("book", imported), ("merged", merged)):
        more = ["--system", system, "--epoch", 2, "--epochs", 5, "--quiz-counts", counts, "--out", tmp_path / name]
        call("plan", f"--{name}", exam, *more)
    assert (tmp_path / "book").read_bytes() == (tmp_path / "merged").read_bytes()
    assert read_plan(tmp_path / "book")


def test_a_program_is_told_what_was_imported(
    world: tiny.World, merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    call("import", world.settings, "--answers", merged, f"run_dir={tmp_path / 'run'}", *SHORT, "--json")
    (event,) = map(json.loads, capsys.readouterr().out.splitlines())
    answers = sum(passed + len(errors) for passed, errors in EXAM.values())
    assert (event["event"], event["command"]) == ("result", "import")
    assert event["result"] == {
        "run": str(tmp_path / "run"),
        **RunFolder.open(tmp_path / "run").read_json("imported.json"),
    }
    assert (event["result"]["answers"], event["result"]["problems"]) == (answers, len(EXAM))


def test_a_run_goes_on_from_the_exam(imported: Path, world: tiny.World) -> None:
    call("exam", imported, "--quiet")
    call("correct", world.settings, f"run_dir={imported}", *SHORT, "--quiet")
    run = RunFolder.open(imported)
    analysis = run.read_json("analysis.json")
    assert analysis["answers"] == sum(passed + len(errors) for passed, errors in EXAM.values()), "none was sampled"
    assert analysis["usable"] == len(EXAM)
    assert run.read_json("corrected.json") == {"epochs": 1, "steps": 5}
    assert run.read_json("imported.json")["answers"] == analysis["answers"]
    call("report", imported)


def test_names_are_read_as_upstreams_in_such_a_book(world: tiny.World, tmp_path: Path) -> None:
    """A failed test is their AssertionError, and what none of our types is, OtherError."""
    merged = write_merged(tmp_path / "merged.json", {7: (2, ["AssertionError", "Oops", "Oops"])})
    call("import", world.settings, "--answers", merged, f"run_dir={tmp_path}/run", LONG)
    counts = write_counts(tmp_path / "counts.json", AssertionError=3, Oops=1)
    for name, exam in (("book", tmp_path / "run"), ("merged", merged)):
        more = ["--system", "ap2o-h2l", "--variant", "upstream", "--epoch", 0, "--draws", 50, "--quiz-counts", counts]
        call("plan", f"--{name}", exam, *more, "--out", tmp_path / name)
    ours, theirs = read_plan(tmp_path / "book"), read_plan(tmp_path / "merged")
    keys = ("draw", "chosen", "rejected", "source")
    assert [[line[key] for key in keys] for line in ours] == [[line[key] for key in keys] for line in theirs]
    assert {line["error"] for line in ours} == {"WrongResult", "OtherError"}
    assert {line["task_id"] for line in ours} == {"7"} and {line["task_id"] for line in theirs} == {7}


def test_what_is_too_long_is_cut_or_left_out(
    world: tiny.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = write_merged(tmp_path / "merged.json")
    rows = [json.loads(line) for line in merged.read_text().splitlines()]
    rows[1]["problem"] = "x" * 500
    merged.write_text("".join(json.dumps(row) + "\n" for row in rows))
    call(
        "import", world.settings, "--answers", merged, f"run_dir={tmp_path}/run", "prompt.max_tokens=400",
        "sampling.max_new_tokens=11",
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "excluded tiny/twice" in printed and "lost their end" in printed
    with ErrorBook.open(tmp_path / "run" / "book") as book:
        assert book.task_ids == ("tiny/plus", "tiny/minus")
        assert book.column("length").max() == 11
        cut = np.flatnonzero(book.column("finish") == 2)
        assert len(cut) and all(len(book.text(row)) >= 11 for row in cut.tolist())


@pytest.mark.parametrize(
    ("change", "settings", "code", "words"),
    [
        ({}, ["prompt.style=chat"], 2, "does not suit upstream's answers"),
        ({}, ["replay.source=both"], 2, "asks training problems again"),
        ({"id": "tiny/double"}, [], 3, "in two sets, train and quiz: tiny/double"),
        ({"problem": f'def f(x):\n    """Return {tiny.TASKS["negative"][0]}."""'}, [], 3, "sets, test and another"),
        ({}, ["prompt.max_tokens=8"], 3, "is left"),
        ({"answers": 3}, [], 3, "'answers' is 3"),
    ],
)
def test_what_cannot_be_imported_leaves_no_run(
    world: tiny.World,
    merged: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    settings: list[str],
    code: int,
    words: str,
) -> None:
    row = json.loads(merged.read_text().splitlines()[0]) | change
    (tmp_path / "one.json").write_text(json.dumps(row) + "\n")
    with pytest.raises(SystemExit) as stopped:
        main(
            ["import", str(world.settings), "--answers", str(tmp_path / "one.json"), f"run_dir={tmp_path}/r", *settings]
        )
    assert stopped.value.code == code and words in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_a_run_is_not_overwritten(
    imported: Path, world: tiny.World, merged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["import", str(world.settings), "--answers", str(merged), f"run_dir={imported}"])
    assert stopped.value.code == 2 and "is not empty" in capsys.readouterr().err


def test_every_system_with_a_plan_is_tried_here() -> None:
    assert UPSTREAM == SYSTEMS
