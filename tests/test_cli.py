"""The command line as a person meets it: what it prints, and what it exits with when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from ap2o_fast import config
from ap2o_fast.book import ErrorBook
from ap2o_fast.cli import main
from ap2o_fast.pipeline import Pipeline
from ap2o_fast.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tiny.World:
    return tiny.make_world(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def examined(world: tiny.World) -> Path:
    """A run that has sat its exam."""
    folder = RunFolder.create(config.load(world.settings, [f"run_dir={world.folder / 'examined'}"]))
    with Pipeline(folder, quiet=True) as pipeline:
        pipeline.exam()
    return folder.path


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    code = stopped.value.code
    return (code if isinstance(code, int) else 0), printed.out, printed.err


def test_commands_are_all_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    names = (
        "demo run dpo compare resume exam analyse correct quiz evaluate report export book plan import judge data init"
    )
    for name in [*names.split(), "config", "doctor"]:
        assert f" {name} " in out


def test_book_shows_real_failures_with_code_line_and_message(
    examined: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, "book", examined, "--where", "error=NameError", "--show", "2")
    assert code == 0
    assert out.count("return y") == 2 and out.count("NameError in line 2") == 2
    assert "name 'y' is not defined" in out
    code, out, _ = call(capsys, "book", examined)
    assert code == 0 and "NameError" in out and "WrongResult" in out


def test_book_refuses_an_unknown_type_with_the_nearest(examined: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "book", examined, "--where", "error=NamError")
    assert code == 2 and "NameError" in err
    assert call(capsys, "book", examined, "--where", "NameError")[0] == 2


def test_a_part_of_an_exam_is_a_run_that_trains_and_parts_merge_to_the_whole(
    examined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part, rest, whole = (tmp_path / name for name in ("part", "rest", "whole"))
    assert call(capsys, "book", "sample", examined, part, "--where", "problem=tiny/plus,tiny/twice")[0] == 0
    assert call(capsys, "book", "sample", examined, rest, "--where", "sample>=2")[0] == 0
    code, out, _ = call(capsys, "book", "merge", whole, part, examined / "book", rest, "--json")
    made = json.loads(out)
    assert code == 0 and made["answers"] == len(ErrorBook.open(examined / "book")) and made["double"] > 0
    assert made["notes"] == [], "a run says its model and tokenizer, and so does a part of it"
    pairs = tmp_path / "pairs.jsonl"
    assert call(capsys, "book", "export", examined, "--pairs", "--format", "jsonl", "--out", pairs)[0] == 0
    first = json.loads(pairs.read_text(encoding="utf-8").splitlines()[0])
    assert first["prompt"].endswith("Solution:\n```python\n") and first["chosen"] != first["rejected"]
    pairs.unlink()
    code, out, _ = call(capsys, "correct", part, "--quiet")
    assert code == 0 and str(part / "checkpoints" / "best") in out
    assert set(ErrorBook.open(part / "book").task_ids) == {"tiny/plus", "tiny/twice"}
    code, _, err = call(capsys, "book", "sample", examined, part)
    assert code == 2 and "exists already" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part", "rest", "whole"]


def test_what_is_sound_of_a_damaged_run_is_a_run_that_asks_for_the_rest_again(
    examined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, new = shutil.copytree(examined, tmp_path / "run"), tmp_path / "new"
    whole = answers(run)
    file = sorted((run / "book").glob("*.rows"))[-1]
    file.write_bytes(file.read_bytes()[:-1])
    code, out, _ = call(capsys, "book", "repair", run, "--out", new)
    assert code == 0 and "lost are" in out
    assert len(answers(new)) < len(whole)
    assert call(capsys, "exam", new, "--quiet")[0] == 0
    assert answers(new) == whole


def answers(run: Path) -> list[tuple[str, int, int, list[int], str]]:
    book = ErrorBook.open(run / "book")
    rows = [book.row(row) for row in range(len(book))]
    return sorted((row.task_id, row.sample, row.seed, row.token_ids.tolist(), row.verdict.error.name) for row in rows)


def test_stages_one_by_one_on_a_run_folder(
    world: tiny.World, examined: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, "analyse", examined)
    assert code == 0 and "answers passed" in out and "can be learnt from" in out
    code, out, _ = call(capsys, "quiz", examined, "--quiet")
    assert code == 0 and "quiz after epoch 0" in out
    code, out, _ = call(capsys, "correct", examined, "--quiet")
    assert code == 0 and "best checkpoint" in out
    code, out, _ = call(capsys, "evaluate", examined, "--quiet")
    assert code == 0 and "pass@1" in out
    code, out, _ = call(capsys, "report", examined)
    assert code == 0 and "report.html" in out


def test_data_prints_prompts_and_exclusions(world: tiny.World, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "data", world.settings, "--show", "1")
    assert code == 0 and "tiny/plus" in out and "```python" in out and "train: 4 problems" in out


def test_init_writes_settings_that_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "init", tmp_path / "my.toml")[0] == 0
    assert config.load(tmp_path / "my.toml") == config.Config()
    assert call(capsys, "init", tmp_path / "my.toml")[0] == 2, "an existing file is not overwritten"


def test_config_shows_and_explains(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "config", "train.lr=3e-6")
    assert code == 0 and json.loads(out)["train"]["lr"] == 3e-6
    code, out, _ = call(capsys, "config", "--explain", "train.lr")
    assert code == 0 and "Peak learning rate" in out


def test_a_misspelt_setting_names_the_nearest(world: tiny.World, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "run", world.settings, "train.epoch=3")
    assert code == 2 and "train.epochs" in err and "Traceback" not in err


def test_resume_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "resume", tmp_path)
    assert code == 3 and "is not a run folder" in err and "do:" in err
    assert call(capsys, "resume", tmp_path / "absent")[0] == 3


def test_unknown_model(world: tiny.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "run", world.settings, f"model.name={tmp_path}/absent", f"run_dir={tmp_path}/run")
    assert code == 4 and "absent" in err and "do:" in err


def test_a_head_that_cannot_run_here(world: tiny.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before the exam, not after it: Triton's kernels take no float64."""
    code, _, err = call(
        capsys, "run", world.settings, "loss.impl=triton", "model.dtype=float64", f"run_dir={tmp_path}/run"
    )
    assert code == 2 and "loss.impl = 'triton'" in err and "auto, chunked, reference" in err
    assert not (tmp_path / "run" / "book").exists()


def test_chat_style_without_a_template(world: tiny.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "exam", world.settings, "prompt.style=chat", f"run_dir={tmp_path}/run")
    assert code == 2 and "chat template" in err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ('{"task_id": "a"\n', "line 1"),
        ('{"task_id": "a", "prompt": "def f(): ...", "entry_point": "f"}\n', "test"),
    ],
)
def test_bad_problem_files(
    world: tiny.World, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(content, encoding="utf-8")
    code, _, err = call(capsys, "exam", world.settings, f"problems.train.source={bad}", f"run_dir={tmp_path}/run")
    assert code == 3 and words in err and "bad.jsonl" in err


def test_no_sandbox_refuses_before_anything_runs(
    world: tiny.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ap2o_fast.judge import detect_level

    if detect_level()[0] >= 3:
        pytest.skip("this machine has the strongest isolation, so no setting can ask for more")
    code, _, err = call(capsys, "exam", world.settings, "judge.min_level=3", f"run_dir={tmp_path}/run")
    assert code == 5 and "do:" in err
    assert not (tmp_path / "run" / "book").exists()


def test_a_full_disk_is_named_and_the_run_stays_resumable(world: tiny.World, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    command = [sys.executable, "-m", "ap2o_fast.cli", "run", str(world.settings), f"run_dir={mount}/run", "--quiet"]
    script = f"mount -t tmpfs -o size=600k small {mount} && exec " + " ".join(command)
    unshare = ["unshare", "--mount", "--map-root-user", "--user", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("a small file system needs user and mount namespaces")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*unshare, script], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 4, done.stderr
    assert "No space left" in done.stderr and "do:" in done.stderr and "Traceback" not in done.stderr


def test_debug_gives_the_traceback(tmp_path: Path) -> None:
    from ap2o_fast.errors import DataError

    with pytest.raises(DataError):
        main(["resume", str(tmp_path), "--debug"])
