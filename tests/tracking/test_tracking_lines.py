"""What trackers are given of a run's files: every number once, by TRL's names, at the right step."""

from __future__ import annotations

import json
from pathlib import Path

from tracking.made_up import append, quiz, result, step

from ap2o_fast.reporting.metrics import truncate
from ap2o_fast.tracking.lines import News


def found(news: News) -> list[tuple[str, int, int]]:
    return [(numbers.file, numbers.key, numbers.step) for numbers in news]


def test_numbers_have_trls_names_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    append(tmp_path, "metrics.jsonl", step(1, 1))
    (numbers,) = News(tmp_path, {})
    assert numbers.values == {
        "train/epoch": 1.0,
        "train/step": 1.0,
        "train/loss": 0.1,
        "train/rewards/margins": 0.01,
    }


def test_a_quiz_stands_after_the_steps_before_it(tmp_path: Path) -> None:
    append(tmp_path, "quiz.jsonl", quiz(0, 3, NameError=7))
    news = News(tmp_path, {})
    assert found(news) == [("quiz.jsonl", 0, 0)]
    append(tmp_path, "metrics.jsonl", step(1, 1), step(2, 1))
    append(tmp_path, "quiz.jsonl", quiz(1, 10))
    append(tmp_path, "metrics.jsonl", step(3, 2))
    numbers = list(news)
    assert [(each.file, each.step) for each in numbers] == [
        ("metrics.jsonl", 1),
        ("metrics.jsonl", 2),
        ("metrics.jsonl", 3),
        ("quiz.jsonl", 2),
    ]
    assert numbers[-1].values["quiz/pass@1"] == 1.0
    assert numbers[-1].values["quiz/errors/NameError"] == 0.0, "a curve of errors that are gone ends at zero"


def test_held_out_pairs_are_eval(tmp_path: Path) -> None:
    append(tmp_path, "metrics.jsonl", step(1, 1))
    append(tmp_path, "eval.jsonl", {"epoch": 1, "loss": 0.5, "rewards/accuracies": 0.75, "best": True})
    *_, numbers = News(tmp_path, {})
    assert (numbers.step, numbers.values["eval/rewards/accuracies"]) == (1, 0.75)
    assert "eval/best" not in numbers.values


def test_the_test_comes_with_its_intervals(tmp_path: Path) -> None:
    append(tmp_path, "metrics.jsonl", step(1, 1), step(2, 1))
    news = News(tmp_path, {})
    list(news)
    (tmp_path / "evaluation.json").write_text(json.dumps({"before": result(0.5), "after": result(0.75), "shared": {}}))
    before, after = news
    assert (before.step, after.step) == (0, 2)
    assert after.values == {"test/after/pass@1": 0.75, "test/after/pass@1_low": 0.65, "test/after/errors/NameError": 2}
    assert list(news) == []


def test_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    append(tmp_path, "metrics.jsonl", step(1, 1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "st')
        file.flush()
        news = News(tmp_path, {})
        assert found(news) == [("metrics.jsonl", 1, 1)]
        file.write('ep": 2, "loss": 1}\n')
    assert found(news) == [("metrics.jsonl", 2, 2)]


def test_steps_taken_again_are_not_doubled(tmp_path: Path) -> None:
    """A run that is resumed from step 2 of 4 cuts its file back and takes 3 and 4 again, seen by one process or two."""
    path = tmp_path / "metrics.jsonl"
    append(tmp_path, "metrics.jsonl", *(step(number, 1) for number in range(1, 5)))
    news = News(tmp_path, {})
    assert len(found(news)) == 4
    truncate(path, "step", 2)
    append(tmp_path, "metrics.jsonl", step(3, 1))
    assert found(news) == []
    append(tmp_path, "metrics.jsonl", step(4, 1), step(5, 2))
    append(tmp_path, "quiz.jsonl", quiz(1, 3))
    assert found(news) == [("metrics.jsonl", 5, 5), ("quiz.jsonl", 1, 4)]
    assert found(News(tmp_path, {"metrics.jsonl": 4, "quiz.jsonl": 1})) == [("metrics.jsonl", 5, 5)]
