"""The book's benchmark: what a size takes is said and held against what there is, and each size is kept as it ends."""

from __future__ import annotations

import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from benchmarks import book

Usage = namedtuple("Usage", "total used free")


def test_a_size_that_the_disk_has_no_room_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, _ = book.needed(10_000_000, plan=True)
    assert 27e9 < disk < 29e9
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(disk, 1, disk - 1))
    with pytest.raises(SystemExit, match="too little room for 10,000,000 rows"):
        book.announce(10_000_000, tmp_path, plan=True)
    assert "GB of memory" in capsys.readouterr().out


def test_sizes_before_one_that_fails_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(rows: int, commit: int, folder: Path, *, plan: bool) -> dict[str, float]:
        folder.mkdir()
        if rows == 30:
            raise KeyboardInterrupt
        return {"rows": rows, "rows/s": 2.5}

    monkeypatch.setattr(book, "measure", measure)
    monkeypatch.setattr(book, "announce", lambda rows, folder, plan: None)
    words = ["book.py", "--rows", "10", "30", "--folder", str(tmp_path), "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(KeyboardInterrupt):
        book.main()
    assert json.loads((tmp_path / "out.json").read_text())["10 rows, 256 a commit"]["rows/s"] == 2.5
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
