"""What a run cost: seconds of its stages and of its optimiser steps, tokens a second, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ap2o_fast.reporting.figures import AFTER, BEFORE, Figure, blank, curve
from ap2o_fast.reporting.text import duration, percent

STAGES = {
    "exam": "answers to the training problems, and their verdicts",
    "test": "answers to the test, before and after, and their verdicts",
    "quiz": "answers to the quiz, and their verdicts",
    "replay": "fresh answers to replay, and their verdicts",
    "replay reference": "their log-probabilities under the initial model",
    "reference": "log-probabilities under the initial model",
    "trial": "both directions of the curriculum, tried on the quiz set",
    "correct": "training",
    "evaluate": "held-out pairs",
}
TRAINING = "correct"
STEPS, REST = "optimiser steps", "packing, saving"


def cost_rows(
    timing: Mapping[str, Mapping[str, float]], metrics: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """One row a stage, and below training one each for its steps and the rest of it where the metrics tell them apart.

    Returns: stage, what it does (empty where not known), seconds, share of all time, answers a second and tokens a
    second (None where not counted), part (True for a part of the row above it).
    """
    total = sum(float(row.get("seconds") or 0) for row in timing.values())
    rows: list[dict[str, Any]] = []
    for name, row in timing.items():
        seconds = float(row.get("seconds") or 0)
        rows.append(_row(name, STAGES.get(name, ""), seconds, total, row))
        rows += [_row(part, "", spent, total, part=True) for part, spent in _parts(name, seconds, metrics)]
    return rows


def training_rates(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of all steps together: packed tokens a second, TFLOP/s and their share of the device's peak (None where not
    known), the highest memory in MiB; empty before the first step."""
    rows = [row for row in metrics if row.get("seconds") and row.get("tokens")]
    seconds = sum(row["seconds"] for row in rows)
    if not rows:
        return {}

    def mean(name: str) -> float | None:
        known = [row for row in rows if row.get(name) is not None]
        weights = sum(row["seconds"] for row in known)
        return sum(row[name] * row["seconds"] for row in known) / weights if known else None

    return {
        "tokens_per_second": sum(row["tokens"] for row in rows) / seconds,
        "tflops": mean("tflops"),
        "mfu": mean("mfu"),
        "peak_mib": max(row.get("peak_mib") or 0 for row in rows),
    }


def stage_times(timing: Mapping[str, Mapping[str, float]], metrics: Sequence[Mapping[str, Any]] = ()) -> Figure | None:
    """Where the time went: seconds of each stage, of training the optimiser steps apart from the rest."""
    rows = [row for row in cost_rows(timing, metrics) if not row["part"]]
    if not rows:
        return None
    split = {row["stage"]: _parts(row["stage"], row["seconds"], metrics) for row in rows}
    names = [row["stage"] for row in rows]
    first = [split[row["stage"]][0][1] if split[row["stage"]] else row["seconds"] for row in rows]
    labels = [f"{duration(row['seconds'])}, {percent(row['share'], 0)}" for row in rows]
    plot = blank(height=80 + 32 * len(rows))
    rest = [row["seconds"] - part for row, part in zip(rows, first, strict=True)]
    divided = any(rest)
    plot.add_bar(y=names, x=first, orientation="h", marker_color=AFTER, name=STEPS if divided else "seconds")
    if divided:
        plot.add_bar(y=names, x=rest, orientation="h", marker_color=BEFORE, name=f"training: {REST}")
        plot.data[0].name = f"stages; of training the {STEPS}"
    plot.data[-1].update(text=labels, textposition="outside", cliponaxis=False)
    plot.update_traces(customdata=labels, hovertemplate="%{y}: %{x:.1f} s of %{customdata}<extra></extra>")
    plot.update_layout(
        barmode="stack", legend_traceorder="normal", margin_r=110, showlegend=divided, margin_t=30 if divided else 8
    )
    plot.update_yaxes(autorange="reversed", showgrid=False, automargin=True)
    plot.update_xaxes(title_text="seconds", rangemode="tozero")
    said = []
    for row, label in zip(rows, labels, strict=True):
        parts = " and ".join(f"{duration(spent)} {part}" for part, spent in split[row["stage"]])
        said.append(f"{row['stage']} {label}{f', {parts}' if parts else ''}")
    return Figure(name="time", title="Where the time went", summary="; ".join(said) + ".", plot=plot)


def throughput(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Trained tokens a second, step by step."""
    speeds = [
        {"step": row.get("step"), "tokens/s": row["tokens"] / row["seconds"]}
        for row in metrics
        if row.get("tokens") and row.get("seconds")
    ]
    return curve(speeds, "training throughput, tokens/s", ("tokens/s",), "", None)


def memory(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """The highest memory so far in MiB, step by step: the device's, on a CPU the process's."""
    return curve(metrics, "peak memory so far, MiB", ("peak_mib",), "", None)


def _parts(stage: str, seconds: float, metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Seconds of the optimiser steps and of the rest of training; empty for other stages and without metrics."""
    steps = sum(float(row.get("seconds") or 0) for row in metrics) if stage == TRAINING else 0.0
    return [(STEPS, min(steps, seconds)), (REST, max(0.0, seconds - steps))] if steps else []


def _row(
    stage: str, what: str, seconds: float, total: float, counts: Mapping[str, float] | None = None, part: bool = False
) -> dict[str, Any]:
    known = counts or {}
    speed = {unit: known[unit] / seconds if known.get(unit) and seconds else None for unit in ("answers", "tokens")}
    share = seconds / total if total else None
    return {"stage": stage, "what": what, "seconds": seconds, "share": share, "part": part, **speed}
