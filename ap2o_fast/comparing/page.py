"""comparison.html: one self-contained page of a comparison, made of the same parts as report.html."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ap2o_fast.comparing import figures, published
from ap2o_fast.comparing.systems import INIT
from ap2o_fast.comparing.table import p_value, published_of
from ap2o_fast.reporting import page
from ap2o_fast.reporting.page import shown
from ap2o_fast.reporting.run import Run, read_run
from ap2o_fast.reporting.text import many
from ap2o_fast.run_folder import RunFolder

FEW_SEEDS, FEW_PROBLEMS = 5, 100
SECTIONS = {
    "result": "Result",
    "difference": "Differences",
    "errors": "Errors",
    "efficiency": "Efficiency",
    "forgetting": "Forgetting",
    "published": "Published",
    "cost": "Cost",
    "settings": "Settings",
    "environment": "Environment",
    "caveats": "Caveats",
}


def make_page(folder: RunFolder, summary: Mapping[str, Any], timings: Sequence[Mapping[str, Any]]) -> str:
    """The page of a comparison.

    Args:
        summary: content of comparison.json.
        timings: of the finished runs, what timing.json holds.
    """
    exam = read_run(folder.path / "exam")
    exam.close()
    run = replace(
        exam,
        path=folder.path,
        config=folder.config.model_dump(mode="json"),
        timing=_together([exam.timing, *timings]),
    )
    return render(run, summary)


def write_page(folder: RunFolder, page: str) -> Path:
    """Write the page of a comparison, whole or not at all; returns its path."""
    path = folder.path / "comparison.html"
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(page)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return path


def render(run: Run, summary: Mapping[str, Any]) -> str:
    """The page as one string.

    Args:
        run: the exam's, with the comparison's folder and settings, and the time of all.
    """
    scores, systems = summary["scores"], summary["systems"]
    first = scores["all"].get("1", {"systems": {}})["systems"]
    errors = {name: each["errors"] for name, each in systems.items()}
    return page.render(
        "comparison.html.j2",
        run,
        sections={key: title for key, title in SECTIONS.items() if key != "published" or any(_known(summary))},
        kind="AP2O comparison",
        summary=summary,
        scores=scores["all"],
        first=first,
        charts=_charts(summary),
        differences=shown(figures.differences(first, summary["baseline"])),
        profile=shown(figures.error_profiles(errors)),
        kinds=sorted({kind for each in errors.values() for kind in each}),
        efficiency=shown(figures.efficiency_curves(systems)),
        lost=shown(figures.forgetting_curves(systems, "lost")),
        won=shown(figures.forgetting_curves(systems, "won")),
        published=[(name, known) for name, known in summary["published"].items() if known],
        source=published.source(),
        p_value=p_value,
        caveats=caveats(run, summary),
    )


def caveats(run: Run, summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know before quoting the numbers."""
    said = [value for key, value in run.environment.items() if key.lower().startswith("note")]
    said += [f"Part of the exam could not be read: {trouble}." for trouble in run.troubles]
    for name, seeds in summary["missing"].items():
        said.append(
            f"{name}: not finished with {_seeds(seeds)}; its numbers are of the others."
            if name in summary["systems"]
            else f"{name}: no run has finished."
        )
    runs = [system["runs"] for name, system in summary["systems"].items() if name != INIT]
    if runs and min(runs) == 1:
        said.append(
            "Some systems have one run: their intervals hold for other problems, not for another seed of training."
        )
    elif runs and min(runs) < FEW_SEEDS:
        said.append(
            f"There are {min(runs)} to {max(runs)} runs a system: how much seeds matter is known roughly."
            if min(runs) < max(runs)
            else f"There are {min(runs)} runs a system: how much seeds matter is known roughly."
        )
    if summary["problems"] < FEW_PROBLEMS:
        said.append(f"The test has only {many(summary['problems'], 'problem')}; quote the intervals with the numbers.")
    left_out = {name: system["left_out"] for name, system in summary["systems"].items() if system["left_out"]}
    if left_out:
        counts = ", ".join(f"{name} {count}" for name, count in left_out.items())
        said.append(f"Answers without a verdict are neither passed nor failed: {counts}.")
    for k, score in summary["scores"]["all"].items():
        if score["problems"] != summary["problems"]:
            said.append(
                f"pass@{k} counts the {score['problems']} problems with at least {k} judged answers in every run."
            )
    own = [name for name in summary["systems"] if "upstream" in name.split("/")]
    if summary["budget"] == "own":
        said.append(
            "Every system was trained on its own number of pairs and steps: more pairs may be why one is better."
        )
    elif own:
        said.append(
            f"{', '.join(own)}: as the authors' code, with its own number of pairs; all others have equal ones."
        )
    said.append(
        "All runs begin with one exam and one quiz of the initial model: that these might have come out otherwise is "
        "not in the intervals."
    )
    said.append("Each run's checkpoint was chosen by its quizzes; the test had no part in any choice.")
    if any(_known(summary)):
        said.append(
            "Published numbers are of other weights, other judging and no known variance: they are no baseline."
        )
    return said


def _charts(summary: Mapping[str, Any]) -> list[dict[str, Any] | None]:
    """A figure of pass@1 over all problems, and one a benchmark where there are several."""
    charts = []
    for name, score in summary["scores"].items():
        if "1" in score and score["1"]["systems"]:
            title = "pass@1" if name == "all" else f"pass@1 on {name}"
            known = published_of(summary) if name == "all" else summary["published"].get(name, {})
            figure = figures.scores(score["1"]["systems"], name=f"scores-{name}", title=title, known=known)
            charts.append(shown(figure))
    return charts


def _known(summary: Mapping[str, Any]) -> list[bool]:
    return [bool(known) for known in summary["published"].values()]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


def _together(timings: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The time of all runs by stage."""
    total: dict[str, dict[str, float]] = {}
    for timing in timings:
        for stage, line in timing.items():
            into = total.setdefault(stage, {})
            for unit, value in line.items():
                into[unit] = into.get(unit, 0) + value
    return total
