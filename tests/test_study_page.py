"""The pages of docs/results: their tables are what the numbers beside them say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import study_page

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "results").glob("*.json"))


def test_there_are_results() -> None:
    assert {path.stem for path in PAGES} >= {"organism", "smollm2"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_tables_are_of_the_numbers_beside_them(path: Path) -> None:
    page = path.with_suffix(".md").read_text()
    summary = json.loads(path.read_text())
    assert study_page.with_tables(page, summary) == page
    assert not summary["missing"], "a study with runs to do"
    changed = json.loads(path.read_text())
    changed["scores"]["all"]["1"]["systems"]["init"]["value"] += 0.01
    assert study_page.with_tables(page, changed) != page


def test_the_figure_names_every_system(tmp_path: Path) -> None:
    summary = json.loads(PAGES[0].read_text())
    study_page.draw(summary, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert all(f">{name}<" in drawn for name in summary["systems"])


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the page needs the lines"):
        study_page.with_tables("# A page\n", {})
