"""Whole runs that replay fresh answers: what is asked, stored, scored and trained on, and a resume from anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tiny import World

from ap2o_fast import config
from ap2o_fast.book import ErrorBook, first_alike
from ap2o_fast.curriculum import look_back, make_pools, replay_pools
from ap2o_fast.judge import ErrorType
from ap2o_fast.pipeline import Pipeline
from ap2o_fast.replaying import seconds_per_answer
from ap2o_fast.reporting.metrics import read_lines
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.training import load_model, score

SETTINGS = ["replay.source=both", "replay.n=6", "replay.max_answers=20", "train.lr=3e-3"]
CLOCK = {"seconds", "score_seconds", "tokens/s", "tflops", "peak_mib"}
ADAPTER = ["adapter.kind=lora", "adapter.rank=4", "train.lr=1e-2", "replay.source=on_policy", "replay.every=2"]
# Tokens that the exam has not seen; two of the four problems are dropped by the exam, and asked again.
ADAPTER += ["replay.temperature=1.7", "curriculum.min_failed=7"]
RUNS: dict[str, list[str]] = {"full": [], "lora": ADAPTER}


def start(world: World, name: str, *overrides: str) -> RunFolder:
    settings = [*SETTINGS, *overrides, f"run_dir={world.folder / name}"]
    return RunFolder.create(config.load(world.settings, settings))


def finish(folder: RunFolder) -> RunFolder:
    with Pipeline(folder, quiet=True) as pipeline:
        work(pipeline)
    return folder


def work(pipeline: Pipeline) -> None:
    pipeline.exam()
    pipeline.correct()


def due(run: RunFolder) -> list[int]:
    """The rounds of a run; the exam is that of the first quiz."""
    return list(range(run.config.replay.every, run.config.train.epochs, run.config.replay.every))


@pytest.fixture(scope="module", params=RUNS)
def run(world: World, request: pytest.FixtureRequest) -> RunFolder:
    return finish(start(world, f"replayed-{request.param}", *RUNS[request.param]))


@pytest.fixture
def book(run: RunFolder) -> Iterator[ErrorBook]:
    with ErrorBook.open(run.book("exam")) as opened:
        yield opened


def test_a_round_stands_in_the_exams_book_with_the_model_that_answered(run: RunFolder, book: ErrorBook) -> None:
    asked = {line["round"]: line["asked"] for line in read_lines(run.path / "replay_asked.jsonl")}
    assert list(asked) == due(run)
    quizzes = {line["epoch"]: line["errors"] for line in read_lines(run.path / "quiz.jsonl")}
    rounds, problem = book.column("round"), book.column("problem")
    assert set(rounds.tolist()) == {0, *asked}
    for number, wanted in asked.items():
        rows = np.flatnonzero(rounds == number)
        assert {book.policy(row) for row in rows.tolist()} == {f"epoch-{number}"}
        assert Counter(book.task_ids[problem[row]] for row in rows) == dict.fromkeys(wanted, 6)
        assert 0 < len(rows) <= 20 and set(wanted.values()) <= set(quizzes[number])
        weak = look_back(book, number - 1).weakness
        assert all(weak[book.problem_index(task), ErrorType[kind]] > 0 for task, kind in wanted.items())


def test_every_round_has_a_line_that_agrees_with_the_book(run: RunFolder, book: ErrorBook) -> None:
    lines = read_lines(run.path / "replay.jsonl")
    assert [line["round"] for line in lines] == due(run)
    first = first_alike(book)
    for line in lines:
        rows = np.flatnonzero(book.column("round") == line["round"])
        kinds = Counter(ErrorType(code).name for code in book.column("error")[rows])
        assert line["answers"] == len(rows) and line["passed"] == kinds.pop("Passed", 0)
        assert line["failures"] == kinds and line["unjudged"] == 0
        assert line["duplicates"] == sum(first[row] != row for row in rows) > 0, "there are few programs"
        assert sum(line["asked"].values()) == line["problems"] and line["seconds"] > 0 and line["tokens/s"] > 0


def test_pairs_say_where_they_are_from_and_windows_are_the_exams(run: RunFolder, book: ErrorBook) -> None:
    plans = read_lines(run.path / "plan.jsonl")
    both = run.config.replay.source == "both"
    for epoch, plan in enumerate(plans):
        assert plan["pairs"] == sum(sum(plan[part].values()) for part in ("window", "replay", "fresh"))
        later = epoch >= due(run)[0]
        assert bool(plan["fresh"]) == later
        assert plan["replay"] if both or not later else not plan["replay"], "the exam until there are fresh answers"
    pools, dropped = make_pools(book, run.config.curriculum)
    assert bool(dropped) == (run.config.curriculum.min_failed == 7)
    assert all((book.column("round")[pool.failed] == 0).all() for pool in pools)


def test_references_of_fresh_answers_are_the_initial_models(run: RunFolder, book: ErrorBook) -> None:
    """The book's tokens are scored anew: by the initial model they get what the book says, by the trained one not."""
    key = run.read_json("environment.json")["model_hash"]
    known = book.annotation("ref_logp", key)
    pools = make_pools(book, run.config.curriculum)[0]
    last = due(run)[-1]
    offered = replay_pools(book, pools, run.config.replay.source, round=last)
    lists = [part for pool in [*pools, *offered.values()] for part in (pool.passed, pool.failed)]
    fresh = np.flatnonzero(book.column("round") > 0)
    rows = np.unique(np.concatenate([*lists, first_alike(book)[fresh]]))
    assert np.flatnonzero(~np.isnan(known)).tolist() == rows.tolist(), "what can be in a pair, and nothing twice"
    assert (book.column("round")[rows] > 0).any(), "fresh answers with new tokens"
    initial, _ = load_model(run.config.model)
    assert np.abs(score(initial, book, rows, 1024) - known[rows]).max() < 1e-4
    policy = np.array([book.logprobs(row).sum() for row in fresh.tolist()])
    ratios = policy - known[first_alike(book)[fresh]]
    assert np.abs(ratios).max() > 0.05, "the trained weights would be seen"
    told = [line["log_ratio"] for line in read_lines(run.path / "replay.jsonl")]
    assert told == [
        pytest.approx(ratios[book.column("round")[fresh] == number].mean(), abs=1e-4) for number in due(run)
    ]


def results(run: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: [{k: v for k, v in line.items() if k not in CLOCK} for line in read_lines(run.path / name)]
        for name in ("metrics.jsonl", "replay.jsonl", "replay_asked.jsonl", "quiz.jsonl", "plan.jsonl")
    }
    weights = next(run.best.glob("*.safetensors"))
    return found | {"weights": weights.read_bytes()}


class Stopped(BaseException):
    """Stands for a kill at an exact place."""


def at(place: str) -> Callable[[Pipeline, pytest.MonkeyPatch], None]:
    """Stop a run at its next visit to a place in the first round: the tiny world has few programs to score later."""

    def arm(pipeline: Pipeline, patch: pytest.MonkeyPatch) -> None:
        seen = [0]
        book = pipeline.book("exam")

        def visited() -> bool:
            running = len(read_lines(pipeline.folder.path / "replay_asked.jsonl")) == 1
            seen[0] += running
            return running

        def commit() -> range:
            if visited() and seen[0] == 2:
                raise Stopped
            return ErrorBook.commit(book)

        def annotate(*arguments: Any) -> None:
            if visited() and place == "before scores":
                raise Stopped
            ErrorBook.annotate(book, *arguments)
            if seen[0]:
                raise Stopped

        def append(folder: RunFolder, name: str, line: Any) -> None:
            if (name, line.get("round")) == (place, 1):
                raise Stopped
            real(folder, name, line)

        real = RunFolder.append
        patch.setattr(RunFolder, "append", append)
        if place == "commit":
            patch.setattr(book, "commit", commit)
        elif place.endswith("scores"):
            patch.setattr(book, "annotate", annotate)

    return arm


PLACES = ["replay_asked.jsonl", "commit", "before scores", "after scores", "replay.jsonl"]


@pytest.mark.parametrize("run", ["full"], indirect=True)
def test_stopped_anywhere_in_a_round_and_resumed_equals_uninterrupted(
    world: World, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn = start(world, "torn")
    for place in PLACES:
        with monkeypatch.context() as patch, pytest.raises(Stopped), Pipeline(torn, quiet=True) as pipeline:
            at(place)(pipeline, patch)
            work(pipeline)
    finish(torn)
    expected, got = results(run), results(torn)
    assert [name for name in expected if expected[name] != got[name]] == []


def test_a_budget_of_seconds_is_decided_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round is stopped after its decision, and the clock then says that only one problem would fit."""
    folder = start(world, "hurried", "replay.max_seconds=1e4", "replay.max_answers=0")
    with monkeypatch.context() as patch, pytest.raises(Stopped), Pipeline(folder, quiet=True) as pipeline:
        at("commit")(pipeline, patch)
        work(pipeline)
    decided = (folder.path / "replay_asked.jsonl").read_bytes()
    timing = folder.read_json("timing.json")
    timing["replay"]["seconds"] += 1e9
    folder.write_json("timing.json", timing)
    finish(folder)
    assert (folder.path / "replay_asked.jsonl").read_bytes().startswith(decided)
    first, second = read_lines(folder.path / "replay_asked.jsonl")
    assert len(first["asked"]) > 1 and 0 < first["seconds_per_answer"] < 100
    assert len(second["asked"]) == 1 and second["seconds_per_answer"] > 1e6
    assert [line["answers"] for line in read_lines(folder.path / "replay.jsonl")] == [6 * len(first["asked"]), 6]


def test_what_an_answer_takes_is_measured_by_the_exam_and_then_by_the_rounds() -> None:
    timing: dict[str, dict[str, float]] = {"exam": {"seconds": 30.0, "answers": 10}}
    assert seconds_per_answer({}) is None and seconds_per_answer({"exam": {"seconds": 2.0}}) is None
    assert seconds_per_answer(timing) == 3.0
    timing["reference"] = {"seconds": 4.0, "answers": 8}
    assert seconds_per_answer(timing) == 3.5
    timing |= {"replay": {"seconds": 9.0, "answers": 3}, "replay reference": {"seconds": 3.0, "answers": 1}}
    assert seconds_per_answer(timing) == 4.0, "known tokens need no score"
