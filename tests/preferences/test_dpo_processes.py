"""`ap2o dpo` in two processes: what one learns, whatever happens to one of them on the way."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ap2o_fast.cli import main
from ap2o_fast.reporting.metrics import read_lines
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.training import Engine
from ap2o_fast.training.packing.batch import PackedStep
from tests.preferences.data import make_model, make_rows, write, write_settings
from tests.training.processes import environment, run_commands, torchrun

CLOCK = {"seconds", "tflops", "peak_mib"}
# How the passes are cut: so that each process has one.
CUT = {"forward_passes", "packing_efficiency", "tokens"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dpo")
    return write_settings(folder, make_model(folder / "model"), write(folder / "pairs.jsonl", make_rows(24)))


def alone(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments), "--quiet"])
    assert stopped.value.code in (0, None)


@pytest.fixture(scope="module")
def whole(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process."""
    path = tmp_path_factory.mktemp("alone") / "run"
    alone("dpo", settings, f"run_dir={path}")
    return path


def numbers(path: Path) -> list[dict[str, Any]]:
    """Every number of a run: of each step, of each evaluation."""
    lines = [*read_lines(path / "metrics.jsonl"), *read_lines(path / "eval.jsonl")]
    return [{name: value for name, value in line.items() if name not in CLOCK | CUT} for line in lines]


def assert_same(run: Path, whole: Path) -> None:
    ours, theirs = numbers(run), numbers(whole)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    done, expected = (RunFolder.open(path).read_json("dpo.json") for path in (run, whole))
    kept = ("ended", "epochs", "steps", "best_epoch", "pairs", "eval_pairs")
    assert {name: done[name] for name in kept} == {name: expected[name] for name in kept}
    found, wanted = (load_file(path / "checkpoints" / "best" / "model.safetensors") for path in (run, whole))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5)
    assert not (run / "checkpoints" / "training").exists()


def test_two_processes_train_as_one(settings: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = torchrun("-m", "ap2o_fast", "dpo", settings, f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("18 pairs trained on in 18 steps") == 1
    assert done.stderr.count("dpo epoch 3/3: ") == 1
    assert_same(run, whole)
    environment = [RunFolder.open(path).read_json("environment.json") for path in (run, whole)]
    assert environment[0]["processes"] == "2" and environment[0]["model_hash"] == environment[1]["model_hash"]


def at_step(number: int, rank: int, sent: signal.Signals) -> None:
    """Have process 1 send itself a signal when it launches a step."""
    launch = Engine.launch

    def and_signal(engine: Engine, packed: PackedStep) -> Any:
        if rank == 1 and engine.step + 1 == number:
            os.kill(os.getpid(), sent)
        return launch(engine, packed)

    Engine.launch = and_signal  # type: ignore[method-assign]


def kill_one(rank: int) -> None:
    at_step(9, rank, signal.SIGKILL)


def interrupt_one(rank: int) -> None:
    at_step(9, rank, signal.SIGTERM)


def test_a_killed_process_ends_the_other_and_one_goes_on(settings: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    codes, printed = run_commands(tmp_path / "said", "dpo", settings, f"run_dir={run}", arrange=kill_one)
    assert codes == [4, -signal.SIGKILL], printed
    assert "another process of this run has ended or does not answer" in printed[0]
    assert not (run / "dpo.json").exists()
    alone("resume", run)
    assert_same(run, whole)


def test_a_signal_to_one_process_stops_both_after_a_checkpoint(settings: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    codes, printed = run_commands(tmp_path / "said", "dpo", settings, f"run_dir={run}", arrange=interrupt_one)
    assert codes == [130, 130], printed
    assert "stopped at 9/18 pairs" in printed[0]
    assert [path.name for path in (run / "checkpoints" / "training").iterdir()] == ["step-00000009-0001"]
    codes, printed = run_commands(tmp_path / "said", "resume", run)
    assert codes == [0, 0], printed
    assert_same(run, whole)


def test_what_is_wrong_is_told_once_and_ends_both(settings: Path, tmp_path: Path) -> None:
    absent = f"preferences.source={tmp_path / 'absent.jsonl'}"
    codes, printed = run_commands(tmp_path, "dpo", settings, absent, f"run_dir={tmp_path / 'run'}")
    assert codes == [3, 3], printed
    assert "".join(printed).count("error: ") == 1 and "absent.jsonl" in "".join(printed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dpo", "model.quantization=nf4", "adapter.kind=lora"), "'nf4' cannot be divided among 2 processes"),
        (("report",), "`ap2o report` runs in one process, torchrun started 2"),
    ],
)
def test_what_processes_cannot_share_is_refused_before_they_meet(
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    for rank in range(2):
        for name, value in environment(rank, 2, 1).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as stopped:
            main([arguments[0], str(settings), *arguments[1:]])
        assert stopped.value.code == 2
        assert (words in capsys.readouterr().err) == (rank == 0)
