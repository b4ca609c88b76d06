"""How long pairs are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ap2o_fast.reporting.figures import AFTER, BEFORE, BEST, Figure, blank

PARTS = ("prompt", "chosen", "rejected")
FEWEST_BINS, MOST_BINS = 8, 40
COLOURS = dict(zip(PARTS, (BEFORE, AFTER, BEST), strict=True))


def length_rows(lengths: Mapping[str, npt.NDArray[np.int64]]) -> list[dict[str, Any]]:
    """Median, 95th percentile, longest and sum of the tokens of each part."""
    return [
        {
            "part": name,
            "median": float(np.median(lengths[name])),
            "most": float(np.quantile(lengths[name], 0.95)),
            "longest": int(lengths[name].max()),
            "sum": int(lengths[name].sum()),
        }
        for name in PARTS
    ]


def length_figure(lengths: Mapping[str, npt.NDArray[np.int64]]) -> Figure:
    """Pairs by the tokens of prompt, chosen and rejected answer."""
    edges = _edges(max(int(lengths[name].max()) for name in PARTS), len(lengths["prompt"]))
    plot = blank(height=260)
    for name in PARTS:
        counts, _ = np.histogram(lengths[name], edges)
        plot.add_scatter(
            x=edges.tolist(),
            y=[*counts.tolist(), 0],
            mode="lines",
            line={"shape": "hv", "color": COLOURS[name], "width": 2},
            name=name,
            hovertemplate="from %{x} tokens: %{y} pairs<extra>%{fullData.name}</extra>",
        )
    plot.update_xaxes(title_text="tokens", rangemode="tozero")
    plot.update_yaxes(title_text="pairs", rangemode="tozero")
    said = "; ".join(
        f"{row['part']} {row['median']:,.0f} tokens at the median, {row['longest']:,} at most"
        for row in length_rows(lengths)
    )
    return Figure(name="lengths", title="Lengths of the pairs trained on", summary=said + ".", plot=plot)


def _edges(longest: int, pairs: int) -> npt.NDArray[np.int64]:
    """Whole numbers from 0 on, so that every bin holds as many lengths as the others; more bins for more pairs."""
    bins = min(max(round(2 * pairs**0.5), FEWEST_BINS), MOST_BINS)
    width = max(1, -(-(longest + 1) // bins))
    return np.arange(0, longest + 1 + width, width, dtype=np.int64)
