"""Files, data sets and rows in memory as sources, and what is said of bad ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ap2o_fast.errors import DataError, UsageError
from ap2o_fast.preferences.source import name_of, read
from tests.preferences.data import make_rows, write

ROWS = make_rows(4)


def rows_of(source: Path | str, limit: int = 0) -> list[dict[str, object]]:
    count, rows = read(str(source), "", limit)
    found = [dict(row) for _, row in rows]
    assert count == len(found)
    return found


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="parquet files are read through it; it is in the `dev` extra")
    lines = write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    datasets.Dataset.from_list(ROWS).to_parquet(str(tmp_path / "a.parquet"))
    for ending in ("jsonl", "jsonl.gz", "json", "parquet"):
        assert rows_of(tmp_path / f"a.{ending}") == ROWS, ending
        assert rows_of(tmp_path / f"a.{ending}", limit=3) == ROWS[:3], ending


def test_rows_in_memory_are_known_by_their_content() -> None:
    name = name_of(ROWS)
    assert name == name_of([dict(row) for row in ROWS]) != name_of(ROWS[:3])
    count, rows = read(name, "", 0, ROWS)
    assert count == 4 and next(iter(rows)) == ("row 0 of the pairs", ROWS[0])
    with pytest.raises(UsageError, match="were given in memory"):
        read(name, "", 0)


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("absent.jsonl", None, DataError, "there is no file"),
        ("absent.parquet", None, DataError, "there is no file"),
        ("empty.jsonl", b"", DataError, "empty"),
        ("torn.jsonl", b'{"prompt": "a"}\n{"prompt":', DataError, "line 2"),
        ("list.jsonl", b"[1, 2]\n", DataError, "instead of an object"),
        ("one.json", b'{"prompt": "a"}', DataError, "not a list of rows"),
        ("bytes.jsonl", b"\xff\xfe", DataError, "not UTF-8"),
        ("broken.parquet", b"PAR1 and no more", DataError, "broken.parquet cannot be read"),
        ("table.csv", b"prompt,chosen\n", UsageError, r"neither a file(?s:.*)\.parquet"),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=words) as caught:
        read(str(tmp_path / name), "", 0)
    assert name in str(caught.value)


def test_a_file_has_no_splits_and_the_hub_may_be_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no split 'test'"):
        read(str(write(tmp_path / "a.jsonl", ROWS)), "test", 0)
    with pytest.raises(DataError, match=r"nobody/nothing cannot be read \(HF_HUB_OFFLINE is set\)"):
        read("nobody/nothing", "", 0)
