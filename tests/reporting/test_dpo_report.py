"""Report and model card of plain DPO: what they say is what the run's files hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ap2o_fast.cli import main
from ap2o_fast.reporting.dpo.data import accuracy, is_hub_name, longer_chosen, read_data, reasons
from ap2o_fast.reporting.dpo.examples import find_pairs
from ap2o_fast.reporting.dpo.lengths import length_figure
from ap2o_fast.reporting.dpo.page import SECTIONS
from ap2o_fast.reporting.figures import training_curves
from ap2o_fast.reporting.metrics import read_lines
from ap2o_fast.reporting.modelcard import write_model_card
from ap2o_fast.reporting.report import write_report
from ap2o_fast.reporting.run import read_run
from tests.reporting.dpo_run import BEST, STEPS, build
from tests.reporting.test_report import Page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dpo") / "run")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run)])
    assert not ended.value.code
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def words(html: str) -> str:
    return re.sub(r"\s+", " ", Page(html).text)


def test_every_section_is_there_and_filled(html: str, words: str) -> None:
    page = Page(html)
    assert page.ids("section") == list(SECTIONS)
    assert "Not yet" not in words and "Ended: all 3 epochs done, 36 steps." in words
    plots = {attributes["data-plot"] for _, attributes in page.elements if "data-plot" in attributes}
    wanted = {"curve-loss", "curve-rewards-margins", "curve-rewards-accuracies", "lengths", "time", "curve-tokens-s"}
    assert wanted <= plots
    assert "<script>alert" not in html and "<script>alert(1)</script>red" in words and "\u202e" not in words


def test_the_headline_is_the_kept_evaluation(run: Path, words: str) -> None:
    kept = read_lines(run / "eval.jsonl")[BEST - 1]
    assert f"→ {kept['loss']:.4f}" in words and f"→ {kept['rewards/margins']:+.3f}".replace("-", "−") in words
    assert f"held out {kept['rewards/accuracies']:.1%}" in words
    assert "those after epoch 2, whose loss was the lowest" in words
    assert "Training: 2,000 packed tokens/s, 0.125 TFLOP/s, 25.0% of the device's peak (MFU)" in words
    assert "peak memory 2,136 MiB" in words


def test_rewards_are_those_of_the_kept_epoch(run: Path) -> None:
    found = read_run(run)
    data = read_data(found)
    assert data is not None
    kept = read_lines(run / "eval.jsonl")[BEST - 1]
    margins = data.margins(data.evaluated)
    assert float(margins.mean()) == pytest.approx(kept["rewards/margins"], abs=1e-5)
    assert np.isnan(data.margins(data.trained)).all()
    share = accuracy(data, 0)
    assert share is not None and share["value"] == pytest.approx(kept["rewards/accuracies"])
    assert 0 <= share["low"] < share["value"] < share["high"] <= 1
    examples = find_pairs(data, 0)
    kinds = [example.kind for example in examples]
    assert kinds == ["right, widest margin"] * 3 + ["wrong"] * 3, "six prompts are held out, and none is shown twice"
    assert len({example.prompt for example in examples}) == len(examples)
    shown = [example.chosen - example.rejected for example in examples]  # type: ignore[operator]
    assert shown[0] == pytest.approx(float(margins.max()), abs=1e-5) and shown[0] > shown[1] > 0
    assert shown[3] == pytest.approx(float(margins.min()), abs=1e-5) and shown[5] <= 0
    found.close()


def test_evaluations_stand_at_the_ends_of_their_epochs_with_the_best_marked(run: Path) -> None:
    found = read_run(run)
    for figure in training_curves(found.metrics, found.evaluations)[:3]:
        _, held, best = figure.plot.data
        assert list(held.x) == [STEPS, 2 * STEPS, 3 * STEPS] and best.x == (BEST * STEPS,)
        assert best.y == (held.y[BEST - 1],) and "after epoch 2, which is kept" in figure.summary
    found.close()


def test_the_data_are_counted(run: Path, words: str) -> None:
    found = read_run(run)
    data = read_data(found)
    assert data is not None
    assert "pairs.jsonl: 24 pairs of 12 prompts trained on; 12 pairs of 6 prompts held out." in words
    assert "Left out: 2 pairs. 2: its answers are equal" in words and "pairs.jsonl, line 37" in words
    lengths = data.lengths(data.trained)
    rows = data.trained.chosen.tolist(), data.trained.rejected.tolist()
    assert lengths["chosen"].tolist() == [len(data.book.tokens(row)) for row in rows[0]]
    assert lengths["rejected"].tolist() == [len(data.book.tokens(row)) for row in rows[1]]
    assert [sum(trace.y) for trace in length_figure(lengths).plot.data] == [24, 24, 24]
    assert longer_chosen(data, data.evaluated) == 0, "the better colour is the shorter answer"
    assert reasons({"a": "7 tokens, the limit is 5", "b": "9 tokens, the limit is 5"}) == [
        ("… tokens, the limit is 5", 2)
    ]
    found.close()


def test_settings_are_those_of_this_kind_of_run(words: str) -> None:
    changed, _, every = words.partition("Changed from the defaults:")[2].partition("settings ")
    assert "train.lr" in changed and "train.batch_pairs" in changed and "preferences.eval.share" in changed
    assert "train.epochs" not in changed and "train.checkpoint_steps" not in changed, "plain DPO has its own defaults"
    assert "train.epochs" in every and "sampling." not in every and "quiz." not in every


def test_the_card_says_the_same_and_keeps_the_folders_to_itself(run: Path) -> None:
    paths = write_model_card(run)
    assert paths == [run / "README.md", run / "checkpoints" / "best" / "README.md"]
    card = paths[1].read_text(encoding="utf-8")
    kept = read_lines(run / "eval.jsonl")[BEST - 1]
    assert "# tiny-model, trained with DPO" in card and "- dpo" in card and "- code" not in card
    assert "| | 12 held-out pairs |" in card and f"| loss | {kept['loss']:.4f} |" in card
    assert f"| {kept['rewards/accuracies']:.1%} (" in card and "- data: pairs.jsonl" in card
    assert "- kept checkpoint: epoch 2, held-out loss 0.5000" in card and "- left out: 2 pairs" in card
    assert "secret" not in card and "base_model" not in card and "datasets:" not in card


def test_names_of_the_hub_are_told_from_files() -> None:
    assert is_hub_name("trl-lib/ultrafeedback_binarized") and is_hub_name("a/b:c")
    assert not any(map(is_hub_name, ("data/pairs.jsonl", "a/b.parquet", "pairs.json", "/a/b", "a/b/c")))


def test_without_held_out_pairs_it_says_that_nothing_was_measured(tmp_path: Path) -> None:
    run = build(tmp_path / "run", held_out=False)
    words = re.sub(r"\s+", " ", Page(write_report(run).read_text(encoding="utf-8")).text)
    last = read_lines(run / "metrics.jsonl")[-STEPS:]
    mean = sum(row["loss"] for row in last) / STEPS
    assert "No pairs were held out: these are means over the training pairs of epoch 3" in words
    assert f"→ {mean:.4f}" in words and "Nothing says yet how the model does on pairs" in words
    assert "Drawn at random from the pairs that were trained on" in words and "reward 0 →" not in words
    assert "| | training pairs of epoch 3 |" in write_model_card(run)[0].read_text(encoding="utf-8")


def test_a_run_that_is_going_on_says_how_far_it_is(tmp_path: Path) -> None:
    run = build(tmp_path / "run", ended=False)
    words = re.sub(r"\s+", " ", Page(write_report(run).read_text(encoding="utf-8")).text)
    assert "Still going, or stopped: 11 of at most 36 steps taken." in words and "or evaluated yet" in words
    for name in ("metrics.jsonl", "timing.json", "environment.json", "excluded.json", "eval.jsonl"):
        (run / name).unlink()
    (run / "book").rename(run / "away")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.ids("section") == list(SECTIONS) and page.text.count("Not yet") >= 5
    assert "Not trained yet." in write_model_card(run)[0].read_text(encoding="utf-8")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    run = build(tmp_path / "run")
    (run / "excluded.json").write_text("[")
    (run / "dpo.json").write_text(json.dumps(7))
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "excluded.json is damaged" in text and "dpo.json is damaged" in text
