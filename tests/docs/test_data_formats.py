"""docs/data-formats.md beside real runs: it names every file and field, and its examples are read as it says."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny

from ap2o_fast import Trainer, config
from ap2o_fast.judging import judge_files
from ap2o_fast.pipeline import Pipeline
from ap2o_fast.problems import load
from ap2o_fast.problems.formats import KNOWN
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.settings import JudgeSettings, SourceSettings
from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "data-formats.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = [block.text for block in blocks() if block.page == PAGE]
PROBLEMS, ANSWERS, VERDICT, PAIRS = EXAMPLES
OPEN_FIELDS = {
    "environment.json": "versions by package and notes have their own names",
    "excluded.json": "by the name of what is excluded",
    "timing.json": "by stage",
}
"""Files some of whose fields have no fixed names, and why."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run that replays fresh answers, one that tries both directions, plain DPO."""
    world = tiny.make_world(tmp_path_factory.mktemp("formats"))
    folders = []
    for name, overrides in {"fresh": ["replay.source=both"], "auto": ["curriculum.system=ap2o"]}.items():
        where = [f"run_dir={world.folder / name}", "train.epochs=4", "quiz.n=4", "evaluate.n=10", "sampling.n=16"]
        folder = RunFolder.create(config.load(world.settings, [*where, *overrides]))
        with Pipeline(folder, quiet=True) as pipeline:
            pipeline.run()
        folders.append(folder.path)
    rows = [json.loads(line) for line in PAIRS.splitlines()][:1]
    rows += [{**rows[0], "prompt": f"What is {number} + {number}?"} for number in range(5)]
    tree = {"run_dir": str(world.folder / "dpo"), "train": {"epochs": 1}, "preferences": {"eval": {"share": 0.4}}}
    Trainer(str(world.model), rows, quiet=True, **tree).train()
    return [*folders, world.folder / "dpo"]


def listed() -> list[str]:
    """The patterns of the table of files."""
    table = TEXT.partition("## The folder of a run")[2].partition("\n\n### ")[0]
    return [
        name for line in table.splitlines() if line.startswith("| `") for name in line.split("|")[1].split("`")[1::2]
    ]


@pytest.mark.slow
def test_every_file_of_a_run_is_listed(runs: list[Path]) -> None:
    patterns, seen = listed(), set()
    for run in runs:
        for path in (path for path in run.rglob("*") if path.is_file()):
            name = str(path.relative_to(run))
            found = [pattern for pattern in patterns if fnmatch.fnmatch(name, pattern)]
            assert found, f"{name} of {run.name} is not in the table"
            seen |= set(found)
    # What these three runs do not leave.
    assert set(patterns) - seen <= {"checkpoints/training/*", "profiles/*", "imported.json", "trial/*"}


@pytest.mark.slow
def test_every_field_of_a_run_is_described(runs: list[Path]) -> None:
    sections = dict(re.findall(r"^### (\S+)\n(.*?)(?=^### |\Z)", TEXT, re.DOTALL | re.MULTILINE))
    for run in runs:
        for path in [*run.glob("*.json"), *run.glob("*.jsonl")]:
            if path.name in ("config.json", "samples.jsonl", *OPEN_FIELDS):
                continue
            text = sections[path.name]
            if path.name == "eval.jsonl":
                text += sections["metrics.jsonl"]
            for field in _fields(path):
                assert f"`{field}`" in text, f"{path.name}: {field}"


def _fields(path: Path) -> set[str]:
    rows = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]
    found: set[str] = set()
    for row in (json.loads(row) for row in rows):
        found |= set(row)
        found |= {key for part in ("before", "after") for key in row.get(part, ())}
    return found


def test_the_table_of_formats_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| ([^|]+) \| (`task_id`.*|`question.*|`problem_id.*) \|$", TEXT, re.MULTILINE)
    assert [(name, tuple(re.findall(r"`(\w+)`", keys))) for name, keys in rows] == [
        (form.name, form.keys) for form in KNOWN
    ]


def test_the_examples_are_judged_as_the_page_says(tmp_path: Path) -> None:
    for name, text in {"problems": PROBLEMS, "answers": ANSWERS}.items():
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    assert len(load(SourceSettings(source=str(tmp_path / "problems.jsonl"), split=""))) == 2
    out = tmp_path / "verdicts.jsonl"
    settings = JudgeSettings(workers=1, min_level=0, recheck=0)
    judge_files(tmp_path / "problems.jsonl", tmp_path / "answers.jsonl", out, settings, quiet=True)
    right, wrong = (json.loads(line) for line in out.read_text(encoding="utf-8").splitlines())
    shown: dict[str, Any] = json.loads(VERDICT)
    measured = ("cpu_s", "level")
    assert {key: right[key] for key in right if key not in measured} == {
        key: shown[key] for key in shown if key not in measured
    }
    assert wrong["error"] == "WrongResult" and wrong["index"] == 1
