"""What several processes read and write: the model in shards, checkpoints for another number of processes."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import byte_tokenizer

from ap2o_fast.config import ModelSettings
from ap2o_fast.errors import DataError, MachineError
from ap2o_fast.sampling import Request
from ap2o_fast.sampling.transformers import TransformersSampler
from ap2o_fast.training import (
    latest_checkpoint,
    load_adapter,
    load_checkpoint,
    load_model,
    model_hash,
    save_checkpoint,
    save_model,
    score,
)
from ap2o_fast.training.parallel.distributed import World
from ap2o_fast.training.parallel.sharding import local, unsharded
from tests.training.processes import run_together
from tests.training.support import plain_model
from tests.training.test_sharding import BOOK, PLAN, learn, make_trainer, weights

NAMES = ("loss", "grad_norm", "logps/chosen", "learning_rate", "step")


def write_model(folder: Path, kind: str, dtype: torch.dtype) -> Path:
    model = plain_model(kind, dtype)
    model.generation_config.temperature, model.generation_config.do_sample = 0.5, True
    model.save_pretrained(folder, max_shard_size="100KB")
    byte_tokenizer().save_pretrained(folder)
    return folder


def load_and_save_again(world: World, folder: Path, dtype: str) -> None:
    model, tokenizer = load_model(ModelSettings(name=str(folder / "model"), dtype=dtype, threads=1), world=world)
    held = sum(local(parameter).numel() for parameter in model.parameters())
    assert held < 0.6 * sum(parameter.numel() for parameter in model.parameters())
    save_model(model, tokenizer, folder / "again", note={"epoch": 3}, world=world)
    (folder / f"{world.rank}.json").write_text(json.dumps(model_hash(model)), encoding="utf-8")


@pytest.mark.parametrize(("kind", "dtype"), [("qwen2", "float32"), ("llama", "bfloat16")])
def test_a_model_read_in_shards_is_the_model(tmp_path: Path, kind: str, dtype: str) -> None:
    write_model(tmp_path / "model", kind, getattr(torch, dtype))
    model, tokenizer = load_model(ModelSettings(name=str(tmp_path / "model"), dtype=dtype))
    save_model(model, tokenizer, tmp_path / "alone", note={"epoch": 3})
    run_together(2, load_and_save_again, tmp_path, dtype)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [model_hash(model)] * 2
    files = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == files
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def steps(trainer: Any, count: int) -> list[dict[str, float]]:
    reference = score(make_trainer(trainer.world, "qwen3", trainer.model.dtype).model, BOOK, np.arange(len(BOOK)), 64)
    found = [trainer.train_step(PLAN[trainer.step % 2 :], BOOK, reference) for _ in range(count)]
    return [{name: line[name] for name in NAMES} for line in found]


def go_on(world: World, folder: Path, dtype: torch.dtype, count: int) -> None:
    """Load what there is, take steps, save; the last of `count` steps' metrics and the weights go to a file."""
    trainer = make_trainer(world, "qwen3", dtype)
    if latest_checkpoint(folder):
        assert load_checkpoint(folder, trainer) == {"size": 2}
    found = steps(trainer, count)
    save_checkpoint(folder, trainer, {"size": 2})
    weights_now = weights(trainer)
    if world.rank == 0:
        torch.save({"history": found, "weights": weights_now}, folder.with_name(f"{folder.name}.pt"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_of_two_is_taken_up_by_one_and_by_two(tmp_path: Path, dtype: torch.dtype) -> None:
    """Two processes go on as if never interrupted, to the bit; one goes on to the same within rounding, and back."""
    run_together(2, go_on, tmp_path / "whole", dtype, 4)
    run_together(2, go_on, tmp_path / "torn", dtype, 2)
    kept = latest_checkpoint(tmp_path / "torn")
    assert kept is not None
    alone = make_trainer(kind="qwen3", dtype=dtype)
    assert load_checkpoint(tmp_path / "torn", alone) == {"size": 2}
    rest = steps(alone, 2)
    save_checkpoint(tmp_path / "alone", alone, {"size": 2})
    run_together(2, go_on, tmp_path / "torn", dtype, 2)
    expected, found = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "torn"))
    assert found["history"] == expected["history"][2:]
    for name, value in expected["weights"].items():
        assert torch.equal(found["weights"][name], value), name
    close = {"rel": 1e-4, "abs": 1e-5} if dtype == torch.float32 else {"rel": 0.05, "abs": 0.05}
    for ours, theirs in zip(rest, expected["history"][2:], strict=True):
        assert ours == {name: pytest.approx(theirs[name], **close) for name in NAMES}
    # And one process's checkpoint by two: what they save is what they loaded.
    run_together(2, go_on, tmp_path / "alone", dtype, 0)
    back = make_trainer(kind="qwen3", dtype=dtype)
    load_checkpoint(tmp_path / "alone", back)
    assert back.step == 4
    assert model_hash(back.model) == model_hash(alone.model)
    for name, state in alone.optimizer.state_tensors().items():
        assert torch.equal(back.optimizer.state_tensors()[name], state), name


def fail_to_save(world: World, folder: Path) -> None:
    trainer = make_trainer(world)
    kept = save_checkpoint(folder, trainer, {"n": 1})
    if world.rank == 1:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, before[1]))
    with pytest.raises(MachineError, match="free some disk space"):
        save_checkpoint(folder, trainer, {"n": 2})
    if world.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_checkpoint(folder, trainer) == {"n": 1}
    assert list(folder.iterdir()) == [kept]
    shard = next(kept.glob("shard-00002-*"))
    if world.rank == 0:
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    before_loading = model_hash(trainer.model)
    with pytest.raises(DataError, match="is damaged"):
        load_checkpoint(folder, trainer)
    assert model_hash(trainer.model) == before_loading


def test_what_one_process_cannot_write_or_read_stops_all_and_harms_nothing(tmp_path: Path) -> None:
    run_together(2, fail_to_save, tmp_path)


def generate(trainer: Any) -> list[list[float]]:
    """Log-probabilities of two answers that are drawn."""
    request = Request(task_id="a", prompt_ids=np.arange(2, 9, dtype=np.int32), seeds=(1, 2))
    sampler = TransformersSampler(trainer.model, byte_tokenizer(), batch_answers=2)
    drawn = sampler.sample([request], temperature=1.0, top_p=1.0, max_new_tokens=6)
    return [answer.logprobs.tolist() for answers in drawn for answer in answers]


def sample_between_steps(world: World, folder: Path, kind: str, adapter: str) -> None:
    trainer = make_trainer(world, kind, adapter=adapter, lr=1e-2)
    learn(trainer, 1)
    sharded = weights(trainer)
    with unsharded(trainer.model):
        whole = {name: value.detach() for name, value in trainer.model.named_parameters()}
        assert whole.keys() == sharded.keys()
        assert all(torch.equal(whole[name], value) for name, value in sharded.items())
        # One process answers, the other has nothing to do.
        answer = generate(trainer) if world.rank == 1 else []
    assert sum(local(value).numel() for value in trainer.model.parameters()) < 0.6 * sum(
        value.numel() for value in sharded.values()
    )
    history = learn(trainer, 2)
    save_model(trainer.model, byte_tokenizer(), folder / "trained", world=world)
    if adapter != "none":
        again = make_trainer(world, kind, adapter=adapter)
        load_adapter(again.model, folder / "trained")
        assert all(torch.equal(value, weights(trainer)[name]) for name, value in weights(again).items())
    torch.save({"answer": answer, "history": history}, folder / f"{world.rank}.pt")


@pytest.mark.parametrize(("kind", "adapter"), [("llama", "none"), ("qwen3", "dora")])
def test_whole_for_answers_between_steps(tmp_path: Path, kind: str, adapter: str) -> None:
    """llama's embedding is a unit of its own. What an adapter has learnt is read back into shards."""
    alone = make_trainer(kind=kind, adapter=adapter, lr=1e-2)
    learn(alone, 1)
    answer = generate(alone)
    history = learn(alone, 2)
    run_together(2, sample_between_steps, tmp_path, kind, adapter)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert found[0]["answer"] == []
    for ours, theirs in zip(found[1]["answer"], answer, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    for ours, theirs in zip(found[0]["history"], history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4, abs=1e-5)
