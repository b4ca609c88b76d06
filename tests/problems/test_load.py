"""What is chosen, and what is said when a source cannot be read."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ap2o_fast.config import SourceSettings
from ap2o_fast.errors import DataError, UsageError
from ap2o_fast.problems import load


def row(task_id: Any = "X/1", **changes: Any) -> dict[str, Any]:
    base = {"task_id": task_id, "prompt": "def f(x):\n", "test": "assert f(1) == 1", "entry_point": "f"}
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def save(path: Path, *rows: Any) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows))
    return str(path)


def names(**settings: Any) -> list[str]:
    return [problem.task_id for problem in load(SourceSettings(**settings))]


def test_ids_match_numbers_after_the_slash_and_whole_names(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", *(row(name) for name in ("A/1", "B/2", "A/12", "3", "A/x", "A/03")))
    assert names(source=source, ids="1-3") == ["A/1", "B/2", "3", "A/03"]
    assert names(source=source, ids="12, A/x") == ["A/12", "A/x"]
    assert names(source=source, ids="1") == ["A/1"]
    assert names(source=source, ids="2-12,1", limit=2) == ["A/1", "B/2"]
    assert names(source=source, limit=99) == ["A/1", "B/2", "A/12", "3", "A/x", "A/03"]


@pytest.mark.parametrize(
    ("ids", "kind", "message"),
    [
        ("A/33", DataError, r"no problem left: 'A/33' (.|\n)*nearest is 'A/3'"),
        ("1,500-600", DataError, r"'500-600' of ids='1,500-600' matches none of the 2"),
        ("9-1", UsageError, "runs backwards"),
        ("1,,2", UsageError, "empty part"),
    ],
)
def test_ids_that_choose_nothing(tmp_path: Path, ids: str, kind: type[Exception], message: str) -> None:
    source = save(tmp_path / "a.jsonl", row("A/1"), row("A/3"))
    with pytest.raises(kind, match=message):
        load(SourceSettings(source=source, ids=ids))


def test_split_filters_and_a_wrong_one_lists_those_there_are(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", row("a", split="train"), row("b", split="test"))
    assert names(source=source, split="test") == ["b"]
    with pytest.raises(DataError, match=r"no split 'quiz'\nwhy: its splits are test, train"):
        load(SourceSettings(source=source, split="quiz"))
    with pytest.raises(DataError, match="do not name a split"):
        load(SourceSettings(source=save(tmp_path / "b.jsonl", row()), split="quiz"))


def test_malformed_json_names_the_line(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", row("a"), "", row("b"), '{"task_id": "c", ')
    with pytest.raises(DataError, match=r"a\.jsonl, line 4, column \d+: malformed JSON"):
        load(SourceSettings(source=source))
    listed = tmp_path / "a.json"
    listed.write_text('[\n{"task_id": 1},\n{"task_id" 2}\n]')
    with pytest.raises(DataError, match=r"a\.json, line 3, column 12: malformed JSON"):
        load(SourceSettings(source=str(listed)))


def test_line_numbers_are_not_moved_by_odd_separators_in_strings(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row("a", prompt="def f(x):\n  '\u2028\x85'\n"), ensure_ascii=False) + "\n[1]\n", "utf-8")
    with pytest.raises(DataError, match=r"line 2: a JSON list instead of an object"):
        load(SourceSettings(source=str(path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is empty"),
        (["", " "], "is empty"),
        ([row(), row("b", prompt=..., test=None)], r"line 2: no 'prompt'\nwhy: rows of the general form have"),
        ([row(), row("b", entry_point=...)], "line 2: no 'entry_point'"),
        ([row(test="  ")], "line 1: no tests: neither 'test' nor 'inputs'"),
        ([row(test=..., inputs=[])], "line 1: no tests"),
        ([row(), row()], r"line 2: the task_id 'X/1' is taken\nwhy: .*line 1 has it"),
        ([row(1), row("1")], "'1' is taken"),
        ([row(inputs=[[1]], expected=[1])], "both there"),
        ([row(test=..., inputs=[[1]])], "no 'solution' to compute it from"),
        ([row(test=..., inputs=[[1], [2]], expected=[1])], "a list of 2 results"),
        ([row(test=..., inputs=[1], expected=[1])], "list of lists of arguments"),
        ([row(expected=[1])], "'expected' without 'inputs'"),
        ([row(atol=-1)], "'atol' must be"),
        ([row(setup=3)], "'setup' must be text, not 3"),
        ([row([1])], "'task_id' must be text"),
        ([{"question": "x", "answer": "y"}], r"not known; the row has the keys question, answer(.|\n)*HumanEval \("),
        ([{"task_id": 1, "text": "x", "code": "def f(): 1", "test_list": []}], "line 1: no tests"),
        ([{"task_id": 1, "text": "x", "code": "def f(:", "test_list": ["assert f()"]}], "'code' is not Python"),
        ([{"task_id": 1, "text": "x", "code": "def f(): 1", "test_list": ["assert g()"]}], "no test calls a function"),
    ],
)
def test_rows_that_cannot_be_problems(tmp_path: Path, content: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(SourceSettings(source=save(tmp_path / "a.jsonl", *content)))


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*none\.jsonl"):
        load(SourceSettings(source=str(tmp_path / "none.jsonl")))
    with pytest.raises(UsageError, match="no source"):
        load(SourceSettings())
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(UsageError, match=r"ends in \.jsonl"):
        load(SourceSettings(source=str(tmp_path / "a.csv")))
    with pytest.raises(UsageError, match="neither `starter`, a file nor a Hub data set"):
        load(SourceSettings(source="startre"))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(row()).encode() * 50)[:-12])
    with pytest.raises(DataError, match="cannot be unpacked"):
        load(SourceSettings(source=str(cut)))
    cut.write_bytes(b"plain")
    with pytest.raises(DataError, match="cannot be read"):
        load(SourceSettings(source=str(cut)))
    (tmp_path / "a.json").write_text(json.dumps(row()))
    with pytest.raises(DataError, match="one JSON object, not a list"):
        load(SourceSettings(source=str(tmp_path / "a.json")))
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8"):
        load(SourceSettings(source=str(tmp_path / "a.jsonl")))


def test_offline_a_hub_data_set_is_a_clear_error(tmp_path: Path) -> None:
    """In a process of its own: `datasets` reads the environment when it is imported."""
    pytest.importorskip("datasets")
    code = (
        "from ap2o_fast.config import SourceSettings\nfrom ap2o_fast.problems import load\n"
        "import sys\nassert 'datasets' not in sys.modules\n"
        "try:\n    load(SourceSettings(source='nobody/has-this'))\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.startswith(
        "DataError the data set nobody/has-this cannot be had from the Hub (HF_HUB_OFFLINE is set)"
    )
