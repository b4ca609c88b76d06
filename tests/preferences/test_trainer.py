"""`ap2o_fast.Trainer`: the README's own lines, and what else may be given for model, data and settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import ap2o_fast
from ap2o_fast import Trainer, config
from ap2o_fast.errors import UsageError
from ap2o_fast.preferences.settings import check
from ap2o_fast.reporting.metrics import read_lines
from ap2o_fast.training import model_hash
from ap2o_fast.training.memory.fit import changes, plan_run
from tests.preferences.data import make_model, make_rows, make_tokenizer, write
from tests.training.support import plain_model

SMALL = {"epochs": 1, "lr": 1e-3, "token_budget": 256, "batch_pairs": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("trainer") / "model")


def test_the_lines_of_the_readme_run(
    repo: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"## From Python\n.*?```python\n(.*?)```", (repo / "README.md").read_text(), flags=re.S)
    name = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert name in block and len(block.strip().splitlines()) <= 6
    monkeypatch.chdir(tmp_path)
    write(Path("pairs.jsonl"), make_rows(6))
    scope: dict[str, object] = {}
    exec(compile(block.replace(name, str(model)), "README.md", "exec"), scope)
    assert "all 3 epochs done" in capsys.readouterr().out
    AutoModelForCausalLM.from_pretrained("runs/dpo/checkpoints/best")
    assert read_lines(Path("runs/dpo/metrics.jsonl"))[0]["learning_rate"] == 0.0


def test_the_example_is_a_valid_run(repo: Path) -> None:
    made = config.load(repo / "examples" / "dpo.toml", defaults=config.DPO_DEFAULTS)
    check(made)
    assert (made.train.epochs, made.train.checkpoint_steps) == (3, 200), (
        "where a file says nothing, DPO's defaults hold"
    )
    assert config.Config().train.epochs == 200


def test_rows_and_a_loaded_model(tmp_path: Path, model: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="`datasets` is in the `dev` extra")
    rows, held = make_rows(8), [{**row, "prompt": "Of " + row["prompt"]} for row in make_rows(4)]
    loaded = plain_model("qwen3")
    start = model_hash(loaded)
    by_object = Trainer(
        loaded, rows, tokenizer=make_tokenizer(), eval_data=held, run_dir=f"{tmp_path}/a", train=SMALL, quiet=True
    )
    found = by_object.train()
    assert by_object.model is loaded and model_hash(loaded) != start
    assert (found["pairs"], found["eval_pairs"], found["steps"]) == (8, 4, 2)

    by_name = Trainer(
        model,
        datasets.Dataset.from_list(rows),
        eval_data=datasets.Dataset.from_list(held),
        run_dir=f"{tmp_path}/b",
        train=SMALL,
        quiet=True,
    )
    other = by_name.train()
    assert other["eval"] == found["eval"] and model_hash(by_name.model) == model_hash(loaded)


def test_a_finished_run_is_read_and_other_pairs_are_refused(tmp_path: Path, model: Path) -> None:
    where = {"run_dir": f"{tmp_path}/run", "train": SMALL, "quiet": True}
    first = Trainer(model, make_rows(4), **where)
    result = first.train()
    again = Trainer(model, make_rows(4), **where)
    assert again.train() == result
    assert model_hash(again.model) == model_hash(first.model) and again.tokenizer.eos_token == "</s>"
    with pytest.raises(UsageError, match=r"other settings: preferences\.source"):
        Trainer(model, make_rows(5), **where)


def test_the_best_weights_are_in_memory_at_the_end(tmp_path: Path, model: Path) -> None:
    """The held-out pairs prefer the opposite: the first epoch is the best of three."""
    held = [{"prompt": "Of " + r["prompt"], "chosen": r["rejected"], "rejected": r["chosen"]} for r in make_rows(4)]
    trainer = Trainer(
        model, make_rows(8), eval_data=held, run_dir=f"{tmp_path}/run", train={**SMALL, "epochs": 3}, quiet=True
    )
    assert trainer.train()["best_epoch"] == 1
    assert model_hash(trainer.model) == model_hash(AutoModelForCausalLM.from_pretrained(trainer.checkpoint))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train": {"learning_rate": 1e-6}}, r"train\.learning_rate'; nearest is"),
        ({"lr": 1e-6}, r"unknown setting 'lr'; nearest is 'train\.lr'"),
        ({"loss": {"type": "hinge", "label_smoothing": 0.1}}, r"loss\.label_smoothing is defined for"),
        ({"quiz": {"n": 3}}, r"quiz\.n has no meaning"),
        ({"preferences": {"source": "b.jsonl"}}, "source is given twice"),
        ({"tokenizer": object()}, "brings its tokenizer"),
    ],
)
def test_settings_are_checked_before_anything_is_loaded(
    tmp_path: Path, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Trainer("no/model", "a.jsonl", run_dir=str(tmp_path / "run"), **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_training_may_run_in_a_thread(tmp_path: Path, model: Path) -> None:
    """Signals are the main thread's: elsewhere, as in a server, there is no Ctrl-C to catch."""
    from concurrent.futures import ThreadPoolExecutor

    trainer = Trainer(model, make_rows(4), run_dir=f"{tmp_path}/run", train=SMALL, quiet=True)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(trainer.train).result()["steps"] == 1


def test_only_what_is_there_can_be_imported() -> None:
    assert ap2o_fast.Trainer is Trainer
    with pytest.raises(AttributeError, match="no attribute 'Trainr'"):
        _ = ap2o_fast.Trainr


def test_a_memory_limit_picks_settings_that_keep_every_pair(tmp_path: Path, model: Path) -> None:
    def made(folder: str, **train: object) -> config.Config:
        trainer = Trainer(model, make_rows(4), run_dir=f"{tmp_path}/{folder}", train=SMALL | train, quiet=True)
        return trainer.folder.config

    free = made("free")
    needed = plan_run(free).needed
    kept = made("kept", memory_limit_gib=(needed - 1) / 2**30)
    assert changes(free.train, kept.train).keys() - {"memory_limit_gib"}
    assert kept.train.token_budget == free.train.token_budget, "a smaller pass would leave long pairs out"
    assert plan_run(kept).needed < needed
    with pytest.raises(UsageError, match="memory_limit_gib needs the model's name"):
        Trainer(
            plain_model("qwen3"), make_rows(4), tokenizer=make_tokenizer(), train={"memory_limit_gib": 1.0}, quiet=True
        )
