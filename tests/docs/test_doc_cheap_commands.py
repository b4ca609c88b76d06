"""Commands of the documentation that cost little are run as they stand, in a folder that has what they name."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import tiny

from ap2o_fast import config
from ap2o_fast.cli import main
from ap2o_fast.pipeline import Pipeline
from ap2o_fast.run_folder import RunFolder
from tests.docs.blocks import blocks

CHEAP = re.compile(
    r"ap2o (book|config|data|report|doctor --plan|plan --book|evaluate .*--answers|judge|analyse|quiz)\b"
)
ELSEWHERE = re.compile(r"BOOK|runs/qwen|answers\.parquet|--merged|--live|\| ")
"""Lists with placeholders, pages whose data are their own, and what does not end by itself:
tests/reporting/test_book_commands.py, tests/reporting/test_page_server.py and tests/upstream run these commands."""
COMMANDS = sorted(
    {
        line.partition(" #")[0].strip()
        for block in blocks()
        if block.page.name != "first-use.md"  # a transcript, of what docs/first-use.sh ran
        for line in block.commands
        if CHEAP.match(line) and not ELSEWHERE.search(line)
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With my.toml, files of problems and answers, and finished runs under the names that the pages use."""
    made = tiny.make_world(tmp_path_factory.mktemp("cheap"))
    (made.folder / "runs").mkdir()
    overrides = [f"run_dir={made.folder / 'runs' / 'mine'}", "train.epochs=13", "quiz.n=2"]  # pages plan epoch 12
    begun = RunFolder.create(config.load(made.settings, overrides))
    with Pipeline(begun, quiet=True) as pipeline:
        pipeline.run()
    run = begun.path
    for name in ("runs/demo", "runs/mine-again", "RUN"):
        shutil.copytree(run, made.folder / name)
    shutil.copy(made.settings, made.folder / "my.toml")
    for name in ("samples.jsonl", "A.jsonl"):
        shutil.copy(run / "samples.jsonl", made.folder / name)
    shutil.copy(made.folder / "test.jsonl", made.folder / "P.jsonl")
    return made.folder


def test_there_are_some() -> None:
    assert len(COMMANDS) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_it_does_what_it_says(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command)[1:])
    assert stopped.value.code in (0, None), command
