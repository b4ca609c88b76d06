"""The figures of a run, by plotly. Colours of text, grid and paper come from the page, so that it can be light or dark.

Trace colours are of middle lightness and readable on both. Every figure carries a sentence that says what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ap2o_fast.evaluation import Evaluation
from ap2o_fast.judge.verdict import ErrorType
from ap2o_fast.reporting.run import best_of, error_rows
from ap2o_fast.reporting.text import many, percent

BEFORE, AFTER, BEST, HELD_OUT = "#8b95a5", "#3d7fd6", "#d98324", "#3f9d6b"
OTHER, PASSED = "other types", "passed"
PALE = "#a9b1bd"
SHOWN_TYPES = 9
LONGEST_CURVE = 1000
LEAST_SMOOTHED = 60  # points of a curve that gets a rolling mean
AXIS = {"automargin": True, "zeroline": False, "showgrid": True}
SMOOTH_ALREADY = ("learning_rate", "peak_mib")

# One colour a type in every figure of every run; neighbours in the usual order of frequency differ in hue.
# fmt: off
_PALETTE = (
    "#4e8fd0", "#d98324", "#3f9d6b", "#c8566b", "#8c74c9", "#b3922f", "#3aa0a8", "#cf79a8", "#7d8f3c", "#8a6d5a",
    "#5f7fb8", "#c66a3c", "#5fae8e", "#a8505a", "#a48fd6", "#c4a94f", "#2f858f", "#b85c93", "#97a653", "#8b95a5",
)
# fmt: on
COLOURS = {error.name: _PALETTE[(error - 1) % len(_PALETTE)] for error in ErrorType if error.is_failure}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure and its words.

    Attributes:
        name: unique in the page, fit for an HTML id.
        title: a few words above it.
        summary: what it shows, in a sentence with numbers, for those who cannot see it.
        plot: plotly's.
    """

    name: str
    title: str
    summary: str
    plot: go.Figure


def error_profile(before: Evaluation | None, after: Evaluation | None) -> Figure | None:
    """Failed answers by type before and after training: the figure of the paper. None without a failure to show."""
    rows = error_rows(before, after)
    if not rows:
        return None
    names = [name for name, _, _ in rows]
    plot = blank(height=90 + 34 * len(rows))
    for label, colour, test, column in (("before", BEFORE, before, 1), ("after", AFTER, after, 2)):
        if test:
            counts = [row[column] for row in rows]
            plot.add_bar(y=names, x=counts, name=label, orientation="h", marker_color=colour, text=counts)
    hover = "%{y}: %{x}<extra>%{fullData.name}</extra>"
    plot.update_traces(textposition="outside", cliponaxis=False, hovertemplate=hover)
    plot.update_layout(barmode="group", bargap=0.28, margin_r=44)
    plot.update_yaxes(autorange="reversed", showgrid=False, automargin=True)
    plot.update_xaxes(title_text="failed answers", rangemode="tozero")
    parts = [f"{name} {old} to {new}" if before and after else f"{name} {old or new}" for name, old, new in rows]
    return Figure(
        name="errors", title="Failed answers by error type", summary="Failed answers: " + ", ".join(parts), plot=plot
    )


def quiz_curve(quiz: Sequence[Mapping[str, Any]]) -> Figure | None:
    """pass@1 on the quiz over epochs, the kept checkpoint marked. Epoch 0 is before training."""
    rows = [row for row in quiz if row.get("pass@1") is not None]
    if not rows:
        return None
    epochs, values = [row["epoch"] for row in rows], [row["pass@1"] for row in rows]
    plot = blank(height=300)
    plot.add_scatter(x=epochs, y=values, mode="lines+markers", name="pass@1", line_color=AFTER, marker_size=5)
    plot.update_yaxes(tickformat=".0%", rangemode="tozero", title_text="pass@1")
    _epochs(plot, len(rows))
    summary = f"pass@1 on the quiz from {percent(values[0])} at epoch {epochs[0]} to {percent(values[-1])}"
    best = best_of(rows)
    if best:
        plot.add_scatter(
            x=[best["epoch"]],
            y=[best["pass@1"]],
            mode="markers",
            name="best, kept",
            marker={"size": 13, "color": BEST, "symbol": "star"},
        )
        summary += f"; best {percent(best['pass@1'])} at epoch {best['epoch']}"
    return Figure(name="quiz", title="Quiz: pass@1 over epochs", summary=summary + ".", plot=plot)


def training_curves(
    metrics: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]] = (),
    *,
    starts_at_ln_2: bool = True,
) -> list[Figure]:
    """Curves over optimiser steps under TRL's names; those whose numbers are missing are left out.

    Args:
        evaluations: one a held-out evaluation, each at the last step of its ``epoch``; the ``best`` is marked.
        starts_at_ln_2: whether the loss of an untrained model is ln 2, as DPO's is; it is marked then.
    """
    ends = {row.get("epoch"): row.get("step") for row in metrics}
    held_out = [{**row, "step": ends[row["epoch"]]} for row in evaluations if row.get("epoch") in ends]
    curves = (
        ("loss", ("loss",), "", math.log(2) if starts_at_ln_2 else None),
        ("rewards/margins", ("rewards/margins",), "", 0.0),
        ("rewards/accuracies", ("rewards/accuracies",), ".0%", None),
        ("rewards/chosen, rewards/rejected", ("rewards/chosen", "rewards/rejected"), "", None),
        ("logps/chosen, logps/rejected", ("logps/chosen", "logps/rejected"), "", None),
        ("grad_norm", ("grad_norm",), "", None),
        ("learning_rate", ("learning_rate",), ".1e", None),
        ("packing_efficiency", ("packing_efficiency",), ".0%", None),
    )
    found = (curve(metrics, *each, held_out=held_out) for each in curves)
    return [figure for figure in found if figure]


def composition(plan: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Pairs of each epoch by the type of the rejected answer: window, replay of the exam, and if any of fresh answers
    and those filled in."""
    if not plan:
        return None
    parts = [("window", "window"), ("replay", "replay")]
    others = (("fresh", "fresh replay"), ("filled", "filled in"))
    parts += [part for part in others if any(row.get(part[0]) for row in plan)]
    stacks = [(f"{label}, pairs", [row.get(part) or {} for row in plan]) for part, label in parts]
    plot, totals = stacked([row["epoch"] for row in plan], stacks, COLOURS)
    counts = {part: sum(sum(row.values()) for row in rows) for (part, _), (_, rows) in zip(parts, stacks, strict=True)}
    fresh, filled = counts.get("fresh", 0), counts.get("filled", 0)
    order = sorted(totals, key=lambda name: (-totals[name], name))
    summary = (
        f"{counts['window']:,} window pairs and {counts['replay'] + fresh:,} replayed pairs"
        f"{f', {fresh:,} of them with fresh failures,' if fresh else ''}"
        f"{f', and {filled:,} filled in for want of replay,' if filled else ''} in {len(plan)} epochs, most "
        f"often {', '.join(f'{name} ({totals[name]:,})' for name in order[:3])}."
    )
    return Figure(name="curriculum", title="Window and replay by error type", summary=summary, plot=plot)


def fresh_rounds(replay: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Rounds of fresh answers: problems by the type of error for which they were asked, and what the answers were."""
    if not replay:
        return None
    answers = [{PASSED: row.get("passed") or 0, **(row.get("failures") or {})} for row in replay]
    stacks = [("problems asked for", [row.get("asked") or {} for row in replay]), ("fresh answers", answers)]
    plot, _ = stacked([row["round"] for row in replay], stacks, {PASSED: PALE, **COLOURS})
    asked = sum(sum((row.get("asked") or {}).values()) for row in replay)
    total, passed = (sum(row.get(part) or 0 for row in replay) for part in ("answers", "passed"))
    summary = (
        f"{many(len(replay), 'round')}, {asked:,} problems asked, {total:,} fresh answers, {passed:,} of them passed; "
        "above, the type of error for which a problem was asked, below, how its answers ended."
    )
    return Figure(name="fresh", title="Fresh answers by error type", summary=summary, plot=plot)


def replay_weights(quiz: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Failures of the quiz by type after each epoch: in their ratio failures are replayed (Eq. 8 of the paper)."""
    rows = [row for row in quiz if row.get("errors")]
    if not rows:
        return None
    plot, totals = stacked(
        [row["epoch"] for row in rows], [("quiz failures", [row["errors"] for row in rows])], COLOURS
    )
    plot.update_layout(height=300)
    first, last = rows[0], rows[-1]
    parts = [
        f"{name} {_share(first['errors'], name)} to {_share(last['errors'], name)}"
        for name in sorted(totals, key=lambda name: (-totals[name], name))[:5]
    ]
    summary = f"Shares at epoch {first['epoch']} and epoch {last['epoch']}: {', '.join(parts)}."
    return Figure(name="weights", title="Replay weights: failures of the quiz by type", summary=summary, plot=plot)


def stacked(
    epochs: Sequence[int], stacks: Sequence[tuple[str, Sequence[Mapping[str, int]]]], colours: Mapping[str, str]
) -> tuple[go.Figure, dict[str, int]]:
    """Stacked bars over epochs, one plot below the other, the most frequent names apart and the others as one.

    Args:
        stacks: what is counted, and of each epoch how often by name.
    Returns: the plot, and each name's count in all.
    """
    totals: dict[str, int] = {}
    for row in (row for _, rows in stacks for row in rows):
        for name, count in row.items():
            totals[name] = totals.get(name, 0) + count
    order = sorted(totals, key=lambda name: (-totals[name], name))
    shown, rest = order[:SHOWN_TYPES], order[SHOWN_TYPES:]
    groups: list[tuple[str, str, tuple[str, ...]]] = [(name, colours.get(name, BEFORE), (name,)) for name in shown]
    if rest:
        groups.append((OTHER, BEFORE, tuple(rest)))
    plot = make_subplots(rows=len(stacks), cols=1, shared_xaxes=True, vertical_spacing=0.08)
    plot.update_layout(_dress(height=70 + 200 * len(stacks)))
    plot.update_xaxes(AXIS)
    plot.update_yaxes(AXIS)
    for number, (title, rows) in enumerate(stacks, start=1):
        for label, colour, names in groups:
            counts = [sum(row.get(name, 0) for name in names) for row in rows]
            bar = go.Bar(x=epochs, y=counts, name=label, marker_color=colour, legendgroup=label, showlegend=number == 1)
            plot.add_trace(bar, row=number, col=1)
        plot.update_yaxes(title_text=title, row=number, col=1)
    plot.update_traces(marker_line_width=0, hovertemplate="epoch %{x}: %{y}<extra>%{fullData.name}</extra>")
    plot.update_layout(barmode="stack", bargap=0.08)
    _epochs(plot, len(epochs), row=len(stacks), col=1)
    return plot, totals


def curve(
    metrics: Sequence[Mapping[str, Any]],
    title: str,
    keys: Sequence[str],
    tickformat: str,
    line: float | None,
    *,
    held_out: Sequence[Mapping[str, Any]] = (),
) -> Figure | None:
    """Curves of these keys over steps, None where no row has one of them.

    Args:
        tickformat: d3's, of the values; empty for plotly's own.
        line: a value that is marked.
        held_out: rows of evaluations, for a curve of one key.
    """
    plot = blank(height=230)
    evaluated = [row for row in held_out if len(keys) == 1 and row.get(keys[0]) is not None]
    said: list[str] = []
    for key, colour in zip(keys, (AFTER, BEST), strict=False):
        rows = [(row.get("step", i), row[key]) for i, row in enumerate(metrics) if row.get(key) is not None]
        if not rows:
            continue
        steps, values, width = _binned(rows)
        smooth = len(steps) >= LEAST_SMOOTHED and key not in SMOOTH_ALREADY
        plot.add_scatter(
            x=steps,
            y=values,
            mode="lines" if len(rows) > 1 else "markers",
            name="training" if evaluated else key,
            line={"color": colour, "width": 1 if smooth else 2},
            opacity=0.45 if smooth else 1.0,
            showlegend=not smooth,
        )
        if smooth:
            mean = _rolling(values, len(values) // 20)
            name = "training" if evaluated else key
            plot.add_scatter(x=steps, y=mean, mode="lines", name=name, line_color=colour, hovertemplate="%{y} (mean)")
        said.append(f"{key} from {values[0]:.4g} to {values[-1]:.4g} over {len(rows):,} steps")
        if width > 1:
            said.append(f"each point is the mean of {width} steps")
    if not said:
        return None
    if evaluated:
        said.append(_add_held_out(plot, keys[0], evaluated))
    if line is not None:
        plot.add_hline(y=line, line_width=1, line_dash="dot", line_color=BEFORE)
    several = len(keys) > 1 or bool(evaluated)
    plot.update_layout(showlegend=several, margin_t=30 if several else 8)
    plot.update_yaxes(tickformat=tickformat, nticks=6)
    if tickformat.endswith("%"):
        plot.update_yaxes(range=[0, 1.02])
    plot.update_xaxes(title_text="step")
    name = "curve-" + "-".join(keys).replace("/", "-")
    return Figure(name=name, title=title, summary="; ".join(said) + ".", plot=plot)


def _add_held_out(plot: go.Figure, key: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Add the held-out evaluations with the best marked; returns what they show, in words."""
    line = {"x": [row["step"] for row in rows], "y": [row[key] for row in rows]}
    plot.add_scatter(**line, mode="lines+markers", name="held out", line_color=HELD_OUT, marker_size=6)
    said = f"held out {', '.join(f'{value:.4g}' for value in line['y'])}"
    best = best_of(rows)
    if best:
        star = {"size": 13, "color": BEST, "symbol": "star"}
        plot.add_scatter(x=[best["step"]], y=[best[key]], mode="markers", name="best, kept", marker=star)
        said += f", {best[key]:.4g} after epoch {best['epoch']}, which is kept"
    return said


def _binned(rows: Sequence[tuple[float, float]]) -> tuple[list[float], list[float], int]:
    """Steps and values, at most `LONGEST_CURVE` points, each the mean of `width` steps."""
    width = math.ceil(len(rows) / LONGEST_CURVE)
    bins = [rows[i : i + width] for i in range(0, len(rows), width)]
    return [part[0][0] for part in bins], [sum(v for _, v in part) / len(part) for part in bins], width


def _rolling(values: Sequence[float], width: int) -> list[float]:
    """Centred mean over about `width` points, over fewer at the ends."""
    half = width // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _epochs(plot: go.Figure, count: int, **where: int) -> None:
    """Title the x axis; few epochs get a tick each, so that none stands between two."""
    plot.update_xaxes(title_text="epoch", dtick=1 if count <= 12 else None, **where)


def _share(counts: Mapping[str, int], name: str) -> str:
    return percent(counts.get(name, 0) / sum(counts.values()), 0)


def blank(height: int) -> go.Figure:
    """A figure without traces in the page's dress."""
    return go.Figure(layout={**_dress(height), "xaxis": AXIS, "yaxis": AXIS})


def _dress(height: int) -> dict[str, Any]:
    """Without plotly's template: fonts and colours are the page's (report.js sets them from its style sheet)."""
    return {
        "template": go.layout.Template(),
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 30, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "itemclick": "toggle"},
        "dragmode": False,
    }
