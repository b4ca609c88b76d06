from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ap2o_fast.errors import DataError
from ap2o_fast.reporting.metrics import MetricsSink, read_lines, truncate


def test_each_write_is_a_line_that_can_be_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    with MetricsSink(path) as sink:
        sink.write({"step": 1, "loss": np.float32(0.5), "counts": np.arange(2), "text": "a\nb\u2028c"})
        assert read_lines(path) == [{"step": 1, "loss": 0.5, "counts": [0, 1], "text": "a\nb\u2028c"}]
        sink.write({"step": 2, "loss": float("nan"), "nested": {"inf": float("inf")}})
        assert read_lines(path)[1] == {"step": 2, "loss": None, "nested": {"inf": None}}
    assert path.read_bytes().count(b"\n") == 2


def test_a_torn_last_line_is_skipped_and_then_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_lines(path) == [{"step": 1}]
    with MetricsSink(path) as sink:
        sink.write({"step": 2})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_damage_elsewhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(DataError, match="line 2"):
        read_lines(path)


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "metrics.jsonl") == []
    assert truncate(tmp_path / "metrics.jsonl", "step", 3) == 0


@pytest.mark.parametrize("torn", [0, 5])
def test_a_resumed_file_equals_the_uninterrupted_one(tmp_path: Path, torn: int) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    rows = [{"step": step, "loss": 1 / (step + 1), "rewards/margins": 1e-17 * step} for step in range(20)]
    for path, end in ((whole, 20), (cut, 17)):
        with MetricsSink(path) as sink:
            for row in rows[:end]:
                sink.write(row)
    if torn:
        cut.write_bytes(cut.read_bytes()[:-torn])
    dropped = truncate(cut, "step", 11)
    assert dropped == (4 if torn else 5)
    with MetricsSink(cut) as sink:
        for row in rows[12:]:
            sink.write(row)
    assert cut.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.jsonl", "whole.jsonl"]
