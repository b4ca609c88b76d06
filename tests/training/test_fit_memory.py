"""Settings for a limit: the cheapest that fit, in one order, or a refusal that says what would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ap2o_fast.cli import main
from ap2o_fast.config import Config, TrainSettings, load
from ap2o_fast.errors import MachineError, UsageError
from ap2o_fast.training.memory.fit import candidates, changes, fit, plan_run, smallest_pass
from ap2o_fast.training.memory.plan import Planner
from tests.training.support import plain_model

MODEL = plain_model("qwen2", hidden_size=256, intermediate_size=704, vocab_size=4096, num_hidden_layers=6, head_dim=64)
BUDGET = 8192


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner(MODEL.config, torch.bfloat16)


def fitted(planner: Planner, gib: float, **train: object) -> TrainSettings:
    config = Config.model_validate({"train": {"memory_limit_gib": gib, "token_budget": BUDGET} | train})
    plan = fit(planner, config, smallest=2048)
    assert plan.needed <= gib * 2**30
    return plan.train


def test_the_order_is_that_of_cost() -> None:
    asked = TrainSettings(token_budget=4000)
    tried = [changes(asked, train) for train in candidates(asked, torch.bfloat16, 1500)]
    assert tried[:3] == [{}, {"token_budget": 2000}, {"token_budget": 1500}]
    assert tried[3] == {"gradient_checkpointing": True}
    levers = [sorted(change) for change in tried if "token_budget" not in change]
    assert levers[-1] == sorted(
        ["gradient_checkpointing", "optimizer", "masters", "activation_offload", "offload_optimizer"]
    )
    assert [len(lever) for lever in levers] == [0, 1, 2, 3, 4, 5]
    # Masters of a float32 model, or of one that is rounded to the nearest, are not there to be dropped.
    assert not any("masters" in changes(asked, train) for train in candidates(asked, torch.float32, 1500))


def test_a_limit_is_kept_by_the_cheapest_settings(planner: Planner) -> None:
    plans = {
        name: planner.plan(TrainSettings(token_budget=budget, gradient_checkpointing=checkpointing)).needed / 2**30
        for name, budget, checkpointing in (
            ("whole", BUDGET, False),
            ("half", BUDGET // 2, False),
            ("checkpointed", BUDGET, True),
        )
    }
    asked = TrainSettings(token_budget=BUDGET)
    # Settings that suffice are left as they are, the next lever is taken only where the one before does not suffice.
    assert fitted(planner, plans["whole"] + 0.01).token_budget == BUDGET
    found = changes(asked, fitted(planner, plans["half"] + 0.001))
    assert found.pop("memory_limit_gib") > 0
    assert found == {"token_budget": BUDGET // 2}
    small = fitted(planner, min(plans.values()) - 0.001)
    assert small.gradient_checkpointing and small.token_budget < BUDGET


def test_settings_of_the_user_stay(planner: Planner) -> None:
    found = fitted(planner, 100, gradient_checkpointing=True, optimizer="adamw_8bit")
    assert found.gradient_checkpointing and found.optimizer == "adamw_8bit" and found.masters


def test_a_pass_holds_a_prompt_with_the_answers_that_the_loss_looks_at() -> None:
    asked = ["prompt.max_tokens=1000", "sampling.max_new_tokens=300", f"train.token_budget={BUDGET}"]
    smallest = [smallest_pass(load(None, [*asked, f"curriculum.system={system}"])) for system in ("ap2o-l2h", "sft")]
    assert smallest == [1600, 1300]
    assert smallest_pass(load(None, [*asked, "train.token_budget=1200"])) == 1200
    assert smallest_pass(load(None, [*asked, "preferences.source=pairs.jsonl"])) == BUDGET


def test_what_cannot_fit_is_refused_with_the_nearest(planner: Planner) -> None:
    with pytest.raises(UsageError, match=r"at least 0\.\d GiB") as refused:
        fitted(planner, 0.3)
    assert "train.offload_optimizer=true" in str(refused.value)
    assert "adapter" in str(refused.value)


def test_a_run_is_planned_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MODEL.config.save_pretrained(tmp_path)
    (tmp_path / "my.toml").write_text(
        f'[model]\nname = "{tmp_path}"\ndtype = "bfloat16"\ndevice = "cuda"\n[train]\nmemory_limit_gib = 0.9\n'
    )
    plan = plan_run(load(tmp_path / "my.toml", ["train.token_budget=4096"]))
    assert plan.needed < 0.9 * 2**30
    assert set(plan.parts) == {"weights", "float32 masters", "Adam's moments"}
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--plan", str(tmp_path / "my.toml"), "train.token_budget=4096"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    assert f"{plan.needed / 2**30:.2f}" in printed and "train.memory_limit_gib = 0.9 takes" in printed
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "train.lr=1"])
    assert stopped.value.code == 2
    with pytest.raises(MachineError, match="configuration"):
        plan_run(load(None, ["model.name=no/such-model"]))
