"""The report: one self-contained page with all that a run showed, also of a run that is still going."""

from __future__ import annotations

import os
from pathlib import Path

from ap2o_fast.reporting import curriculum_page
from ap2o_fast.reporting.dpo import page as dpo_page
from ap2o_fast.reporting.run import read_run


def make_report(run: Path) -> str:
    """The report of a run folder as it is now. Errors: DataError if there is no such folder."""
    found = read_run(run)
    try:
        return (dpo_page if found.is_dpo else curriculum_page).render(found)
    finally:
        found.close()


def write_report(run: Path) -> Path:
    """Write ``report.html`` of a run folder; files that the run has not written yet leave sections that say so.

    Returns: the path of the page, which appears whole or not at all.
    Errors: DataError if there is no such folder.
    """
    page = make_report(run)
    path = run / "report.html"
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(page)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return path
