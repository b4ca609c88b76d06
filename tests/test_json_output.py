"""`--json`: standard output has events and nothing else, and the last one says how the command ended."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from ap2o_fast.book import ErrorBook
from ap2o_fast.cli import main
from ap2o_fast.reporting.events import JsonLines, StageEvent, line_of
from ap2o_fast.reporting.metrics import read_lines
from ap2o_fast.reporting.terminal import progress, showing

SHORT = ["train.epochs=2", "sampling.n=12"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tiny.World:
    return tiny.make_world(tmp_path_factory.mktemp("json"))


def events(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> list[dict[str, Any]]:
    """All events of a command, which must be all that it prints."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert (ended.value.code or 0) == code, printed.err
    found = [json.loads(line) for line in printed.out.splitlines()]
    assert all(list(event)[:2] == ["event", "time"] for event in found)
    return found


def result(found: list[dict[str, Any]], command: str) -> dict[str, Any]:
    assert [event["event"] for event in found].count("result") == 1
    assert (found[-1]["event"], found[-1]["command"]) == ("result", command)
    content: dict[str, Any] = found[-1]["result"]
    return content


def test_a_whole_run_by_events_and_each_stage_after_it(
    world: tiny.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    found = events(capsys, "run", world.settings, f"run_dir={run}", *SHORT)
    assert result(found, "run") == {
        "run": str(run),
        "report": str(run / "report.html"),
        "checkpoint": str(run / "checkpoints/best"),
        **json.loads((run / "evaluation.json").read_text()),
    }
    stages = [event for event in found if event["event"] == "stage"]
    names = list(dict.fromkeys(stage["stage"] for stage in stages))
    assert names[0] == "exam (init)" and "correct epoch 1/2" in names and "quiz (epoch-2)" in names
    for name in names:
        states = [stage["state"] for stage in stages if stage["stage"] == name]
        assert (states[0], states[-1]) == ("began", "finished")
    exam = [stage for stage in stages if stage["stage"] == "exam (init)"][-1]
    counts = ErrorBook.open(run / "book").frequencies(0).sum(axis=0)
    assert exam["done"] == exam["total"] == 48 == counts.sum()
    assert exam["pass_at_1"] == counts[0] / 48 and sum(exam["errors"].values()) == 48 - counts[0]
    trained = [stage for stage in stages if stage["stage"] == "correct epoch 2/2"][-1]
    assert trained["values"]["loss"] == round(read_lines(run / "metrics.jsonl")[-1]["loss"], 4)

    assert result(events(capsys, "exam", run), "exam") == {
        "run": str(run),
        "book": str(run / "book"),
        "answers": 48,
    }
    assert result(events(capsys, "analyse", run), "analyse") == json.loads((run / "analysis.json").read_text())
    assert result(events(capsys, "quiz", run), "quiz") == read_lines(run / "quiz.jsonl")[-1]
    assert result(events(capsys, "correct", run), "correct")["checkpoint"] == str(run / "checkpoints/best")
    assert result(events(capsys, "evaluate", run), "evaluate")["after"]["problems"] == 1
    assert result(events(capsys, "resume", run), "resume")["run"] == str(run)
    pairs = tmp_path / "pairs.jsonl"
    how = ["--book", run, "--system", "dpo", "--epoch", "0", "--out", pairs]
    assert result(events(capsys, "plan", *how), "plan")["lines"] == str(pairs)

    (run / "report.html").unlink()
    assert result(events(capsys, "report", run), "report") == {"page": str(run / "report.html")}
    assert (run / "report.html").is_file()
    (refused,) = events(capsys, "report", run, "--live", code=2)
    assert refused["what"] == "report --live has no result for --json"
    taken_out = {"folder": str(tmp_path / "model"), "merged": False, "uploaded": None}
    assert result(events(capsys, "export", run, "--out", tmp_path / "model"), "export") == taken_out
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_the_problems_of_a_run(world: tiny.World, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(events(capsys, "data", world.settings), "data")
    assert {name: len(ids) for name, ids in found["sets"].items()} == {"train": 4, "quiz": 2, "test": 1}
    assert "tiny/plus" in found["sets"]["train"] and (found["excluded"], found["shared"]) == (
        {},
        {"train": [], "quiz": []},
    )


def test_judge_and_answers_given(world: tiny.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = tmp_path / "answers.jsonl"
    lines = [{"task_id": "tiny/negative", "solution": f"def f(x):\n    return {code}"} for code in ("-x", "x", "y")]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    verdicts = tmp_path / "verdicts.jsonl"
    asked = ["--problems", world.folder / "test.jsonl", "--answers", answers, "--out", verdicts]
    found = result(events(capsys, "judge", *asked), "judge")
    assert found == {
        "verdicts": str(verdicts),
        "answers": 3,
        "types": {"Passed": 1, "WrongResult": 1, "NameError": 1},
        "twice": found["twice"],
    }
    given = result(events(capsys, "evaluate", world.settings, "--answers", answers), "evaluate")
    assert given["answers"]["pass_at_k"]["1"]["value"] == pytest.approx(1 / 3)


def test_dpo(world: tiny.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.jsonl"
    row = {"prompt": "minus x: ", "chosen": "return -x", "rejected": "return x"}
    pairs.write_text((json.dumps(row) + "\n") * 4, encoding="utf-8")
    settings = tmp_path / "dpo.toml"
    settings.write_text(
        f'run_dir = "{tmp_path / "run"}"\n[model]\nname = "{world.model}"\n[preferences]\nsource = "{pairs}"\n'
        "[train]\nepochs = 1\nbatch_pairs = 2\n",
        encoding="utf-8",
    )
    found = events(capsys, "dpo", settings)
    assert result(found, "dpo")["pairs"] == 4
    assert {"tokenise", "dpo epoch 1/1"} <= {event.get("stage") for event in found}


def test_the_memory_plan(world: tiny.World, capsys: pytest.CaptureFixture[str]) -> None:
    planned = result(events(capsys, "doctor", "--plan", world.settings), "doctor")
    assert planned["needed"] == max(planned["phases"].values()) + planned["overhead"]


def test_quiet_leaves_the_result(world: tiny.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = events(capsys, "exam", world.settings, f"run_dir={tmp_path / 'run'}", "sampling.n=2", "--quiet")
    assert [event["event"] for event in found] == ["result"]


def test_an_error_is_the_last_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (event,) = events(capsys, "resume", tmp_path, code=3)
    assert (event["event"], event["exit_code"], event["kind"]) == ("error", 3, "DataError")
    assert event["what"] == f"{tmp_path} is not a run folder" and event["why"] and event["do"]


def test_a_fault_of_ours_is_an_event_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ap2o_fast.doctor.findings", lambda hub: 1 // 0)
    (event,) = events(capsys, "doctor", code=1)
    assert (event["event"], event["exit_code"], event["kind"]) == ("error", 1, "ZeroDivisionError")


def test_what_libraries_print_goes_to_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ap2o_fast.doctor.findings", lambda hub: print("hello") or [])
    monkeypatch.setattr("ap2o_fast.doctor.abilities", lambda found: [])
    assert result(events(capsys, "doctor"), "doctor")["well"] is True


def test_a_running_stage_is_told_once_an_interval() -> None:
    now, stream = [100.0], io.StringIO()
    with (
        showing(JsonLines(stream, interval=1.0, clock=lambda: now[0])),
        progress("exam", 100, "answers", clock=lambda: now[0]) as bar,
    ):
        for _ in range(100):
            now[0] += 0.25
            bar.advance(1, {"Passed": 1})
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["state"] for event in found] == ["began", *["running"] * 25, "finished"]
    assert [event["done"] for event in found[:3]] == [0, 4, 8] and found[1]["rate"] == 4.0
    assert found[0]["seconds_left"] is None and found[1]["seconds_left"] == 24.0


def test_what_is_no_number_is_null() -> None:
    event = StageEvent(
        state="running",
        stage="x",
        done=1,
        total=2,
        unit="steps",
        seconds=1.0,
        rate=1.0,
        seconds_left=float("inf"),
        pass_at_1=None,
        errors={},
        values={"loss": float("nan")},
    )
    plain = json.loads(line_of(event, 5.0), parse_constant=lambda name: pytest.fail(name))
    assert plain["values"] == {"loss": None} and plain["seconds_left"] is None


def test_a_comparison(world: tiny.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = ["--systems", "dpo,dyn-dpo", "--seeds", "1", "compare.resamples=1000", "train.epochs=1", "sampling.n=12"]
    found = events(capsys, "compare", world.settings, f"run_dir={tmp_path / 'all'}", *some)
    compared = result(found, "compare")
    assert compared["failed"] == {} and compared["page"] == str(tmp_path / "all" / "comparison.html")
    kept = json.loads((tmp_path / "all" / "comparison.json").read_text())
    assert {name: compared[name] for name in kept} == kept
    assert any("finished in" in event["text"] for event in found if event["event"] == "note")
