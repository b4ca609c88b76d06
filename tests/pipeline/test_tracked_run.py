"""A whole run with TensorBoard beside it: what that shows is what the run's files say."""

from __future__ import annotations

import importlib.util

import pytest
from tiny import World

from ap2o_fast import config
from ap2o_fast.errors import MachineError
from ap2o_fast.pipeline import Pipeline
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.tracking import tracker


def test_tensorboard_shows_what_the_files_say(world: World, caplog: pytest.LogCaptureFixture) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("needs tensorboard; it is in the extra `dev`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    overrides = ["track.to=[tensorboard]", "train.epochs=2", f"run_dir={world.folder / 'tracked'}"]
    folder = RunFolder.create(config.load(world.settings, overrides))
    with Pipeline(folder, quiet=True) as pipeline:
        pipeline.run()
    assert not [message for message in caplog.messages if "tracker" in message]
    events = EventAccumulator(str(folder.path / "tracking" / "tensorboard"))
    events.Reload()
    steps, quizzes = folder.read_lines("metrics.jsonl"), folder.read_lines("quiz.jsonl")
    for name in ("loss", "rewards/margins", "grad_norm"):
        shown = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert shown == [(row["step"], pytest.approx(row[name])) for row in steps]
    last = [max((row["step"] for row in steps if row["epoch"] <= quiz["epoch"]), default=0) for quiz in quizzes]
    rates = [(event.step, event.value) for event in events.Scalars("quiz/pass@1")]
    assert rates == [(step, pytest.approx(quiz["pass@1"])) for step, quiz in zip(last, quizzes, strict=True)]
    for part in ("before", "after"):
        (event,) = events.Scalars(f"test/{part}/pass@1")
        value = folder.read_json("evaluation.json")[part]["pass_at_k"]["1"]["value"]
        assert event.value == pytest.approx(value)


def test_a_missing_tracker_is_told_before_anything_is_loaded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracker.PACKAGES, "wandb", "a-package-that-nobody-has")
    settings = config.load(world.settings, ["track.to=[wandb]", f"run_dir={world.folder / 'untracked'}"])
    folder = RunFolder.create(settings)
    with pytest.raises(MachineError, match="pip install a-package-that-nobody-has"), Pipeline(folder, quiet=True):
        pytest.fail("the run has begun")
    assert not folder.book("exam").exists()
