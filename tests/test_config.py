"""The tree of settings: precedence, unknown keys, bad values, saving and the written template."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from ap2o_fast import config
from ap2o_fast.errors import UsageError


def test_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("seed = 3\n[train]\nlr = 1e-6\nepochs = 4\n", encoding="utf-8")
    made = config.load(file, ["train.lr=2e-6", "--quiz.n=5"])
    assert (made.seed, made.train.epochs, made.train.lr, made.quiz.n) == (3, 4, 2e-6, 5)
    assert made.train.clip == config.Config().train.clip


@pytest.mark.parametrize(
    ("text", "nearest"), [("train.lrr=1", "train.lr"), ("trian.epochs=1", "train.epochs"), ("epochs=2", "train.epochs")]
)
def test_an_unknown_override_names_the_nearest_setting(text: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"nearest is '{nearest}'"):
        config.load(None, [text])


def test_off_needs_no_quotes_on_the_command_line() -> None:
    made = config.load(None, ["curriculum.replay=off", "preferences.shuffle=off"])
    assert (made.curriculum.replay, made.preferences.shuffle) == ("off", "off")


def test_an_unknown_key_in_a_file_names_the_nearest_setting(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[sampling]\ntemprature = 1.0\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"sampling.temprature.*nearest is 'sampling.temperature'"):
        config.load(file)


@pytest.mark.parametrize("text", ["train.lr=0", "train.epochs=no", "curriculum.system=ppo", "evaluate.n=3", "seed"])
def test_bad_values_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        config.load(None, [text])


def test_a_file_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml"):
        config.load(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("a = = 1", encoding="utf-8")
    with pytest.raises(UsageError, match=r"bad\.toml is not valid TOML"):
        config.load(tmp_path / "bad.toml")


def test_saved_settings_load_to_the_same(tmp_path: Path) -> None:
    made = config.load(None, ["train.lr=3e-6", "sampling.stop=['a','b']", "problems.train.ids=1-3"])
    config.save(made, tmp_path / "config.json")
    assert config.load(tmp_path / "config.json") == made


def test_problems_without_a_source_are_of_the_default_one() -> None:
    problems = config.load({"problems": {"test": {"source": "mine.jsonl"}}}, ["problems.train.limit=8"]).problems
    assert (problems.train.source, problems.train.split, problems.train.limit) == ("starter", "train", 8)
    assert (problems.quiz.source, problems.quiz.split) == ("starter", "quiz")
    assert (problems.test.source, problems.test.split) == ("mine.jsonl", ""), "a split of another source means nothing"


def test_the_template_holds_every_setting_at_its_default(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text(config.template(), encoding="utf-8")
    assert config.load(file) == config.Config()
    assert all(f"{key.rsplit('.', 1)[-1]} =" in config.template() for key in config.keys())


def test_every_setting_is_explained() -> None:
    explained = config.explain("")
    for key in config.keys():
        assert f"{key} = " in explained
    assert "None" not in [line.strip() for line in explained.splitlines()], "a setting without documentation"
    with pytest.raises(UsageError, match=r"nearest is 'train\.lr'"):
        config.explain("train.lrx")


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["loss.type=hinge", "loss.label_smoothing=0.1"], r"loss\.label_smoothing is defined for loss\.type"),
        (["loss.type=exo_pair"], r"loss\.type 'exo_pair' needs loss\.label_smoothing > 0"),
        (["loss.type=ipo", "loss.length_normalized=true"], r"leave loss\.length_normalized at False"),
        (["loss.label_smoothing=0.5"], r"loss\.label_smoothing = 0\.5 is refused"),
        (["loss.type=dpo"], r"loss\.type = 'dpo' is refused"),
        (["loss.type=sft"], r"loss\.type = 'sft' does not go with curriculum\.system = 'ap2o-l2h'"),
        (["loss.type=sigmoid", "curriculum.system=sft"], r"loss\.type = 'sigmoid' does not go with curriculum\.system"),
        (["curriculum.system=sft", "loss.beta=0.2"], r"loss\.beta = 0\.2 has no meaning with loss\.type = 'sft'"),
        (["curriculum.system=sft", "loss.sft_weight=1"], r"leave it at 0"),
    ],
)
def test_losses_that_are_not_defined_are_refused_by_name(texts: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        config.load(None, texts)


def test_every_loss_reaches_the_kernel_under_its_names() -> None:
    from ap2o_kernels.losses import LOSS_TYPES, PairLoss

    for kind in set(LOSS_TYPES) - {"sft"}:
        made = config.load(None, [f"loss.type={kind}", "loss.sft_weight=0.5", "loss.beta=0.3", *_smoothing(kind)])
        assert PairLoss(**made.loss.options()).loss_type == kind
        assert PairLoss(**made.loss.options()).sft_weight == 0.5


def test_the_system_sft_implies_its_loss(tmp_path: Path) -> None:
    made = config.load(None, ["curriculum.system=sft", "loss.impl=chunked"])
    assert (made.loss.type, made.loss.impl, made.loss.compares) == ("sft", "chunked", False)
    assert config.load(None, ["curriculum.system=sft", "loss.type=sft"]).loss.type == "sft"
    config.save(made, tmp_path / "config.json")
    assert config.load(tmp_path / "config.json") == made
    with pytest.raises(UsageError, match="drop loss"):
        config.load(tmp_path / "config.json", ["curriculum.system=dyn-dpo"])
    pairs = config.load(None, ["preferences.source=pairs.jsonl", "loss.type=sft"], defaults=config.DPO_DEFAULTS)
    assert pairs.loss.type == "sft", "plain DPO has no system"


def _smoothing(kind: str) -> list[str]:
    return ["loss.label_smoothing=0.1"] if kind == "exo_pair" else []


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["replay.n=4"], r"replay\.n = 4 has no meaning with replay\.source = 'book'"),
        (["replay.temperature=0.7"], r"replay\.temperature = 0\.7 has no meaning"),
        (["replay.source=both", "curriculum.replay=off"], r"no meaning with curriculum\.replay = 'off'"),
        (
            ["replay.source=on_policy", "replay.n=9", "replay.max_answers=8"],
            r"max_answers = 8 is not enough",
        ),
        (["replay.source=fresh"], r"replay\.source = 'fresh' is refused"),
    ],
)
def test_replay_that_would_do_nothing_is_refused_by_name(texts: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        config.load(None, texts)


def test_fresh_answers_go_with_every_system_that_replays_and_no_other() -> None:
    for system in get_args(config.CurriculumSettings.model_fields["system"].annotation):
        texts = [f"curriculum.system={system}", "replay.source=on_policy"]
        if system.startswith("ap2o"):
            assert config.load(None, texts).replay.source == "on_policy"
        else:
            with pytest.raises(UsageError, match=f"no meaning with curriculum.system = '{system}'"):
                config.load(None, texts)


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ("system=dpo window=by_type", "window = 'by_type'.*system = 'dpo'"),
        ("system=dyn-dpo scope=global", "scope = 'global'.*system = 'dyn-dpo'"),
        ("system=sft replay=upstream", "replay = 'upstream'.*system = 'sft'"),
        ("order=none", "order = 'none'.*system = 'ap2o-l2h'"),
        ("system=curri-dpo draw=upstream", "draw = 'upstream'.*system = 'curri-dpo'"),
        ("system=dpo pairs_per_problem=2", "pairs_per_problem = 2.*system = 'dpo'"),
        ("draw=upstream pairs_per_problem=2", "pairs_per_problem = 2.*draw = 'upstream'"),
        ("draw=upstream budget=matched", "budget = 'matched'.*draw = 'upstream'"),
        ("draw=upstream scope=global", "draw = 'upstream'.*scope = 'global'"),
        ("replay=upstream budget=matched", "replay = 'upstream'.*budget = 'matched'"),
        ("window=off replay=off", "window = 'off'.*replay = 'off'"),
        ("window=off replay=upstream", "replay = 'upstream'.*window = 'off'"),
        ("window=off system=ap2o", "system = 'ap2o'.*window = 'off'"),
        ("window=off scope=global", "scope = 'global'.*window = 'off'"),
        ("window=upstream scope=global", "window = 'upstream'.*scope = 'global'"),
        ("system=ap2o order=none scope=global", "scope = 'global'.*order = 'none'"),
        ("system=ap2o order=none window=by_type", "window = 'by_type'.*order = 'none'"),
        ("scope=global budget=matched pairs_per_problem=1", "pairs_per_problem = 1.*scope = 'global'"),
    ],
)
def test_a_curriculum_without_a_meaning_is_refused_by_name(texts: str, named: str) -> None:
    changes = [f"curriculum.{text}" for text in texts.split()]
    with pytest.raises(UsageError, match=named) as caught:
        config.load(None, changes)
    assert "no meaning" in caught.value.what and caught.value.why
    for left_out in changes:
        rest = [text for text in changes if text != left_out]
        if not any("order=none" in text for text in rest):
            config.load(None, rest)


def test_a_direction_needs_epochs_to_be_decided() -> None:
    with pytest.raises(UsageError, match=r"order = 'auto'.*train\.epochs = 3"):
        config.load(None, ["curriculum.system=ap2o", "train.epochs=3"])
    assert config.load(None, ["curriculum.system=ap2o", "curriculum.order=none", "train.epochs=3"]).train.epochs == 3


def test_every_system_takes_a_matched_budget() -> None:
    for system in get_args(config.CurriculumSettings.model_fields["system"].annotation):
        config.load(None, [f"curriculum.system={system}", "curriculum.budget=matched"])
