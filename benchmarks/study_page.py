"""Put a comparison's numbers into the documentation: tables, a figure, and the numbers themselves beside them.

PYTHONPATH=.:kernels python benchmarks/study_page.py runs/organism-study docs/results/organism.md

Writes ``organism.json`` (the comparison's), ``organism.svg``, and the tables of the page, between `BEGIN` and `END`;
what people wrote around them stays.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ap2o_fast.comparing.table import p_value
from ap2o_fast.reporting.text import change, estimate, percent

BEGIN, END = "<!-- numbers: benchmarks/study_page.py -->\n", "<!-- end of numbers -->"
SHOWN_TYPES = 8
Summary = Mapping[str, Any]


def tables(summary: Summary) -> str:
    """Scores, what training took, and failed answers by type, as Markdown."""
    return "\n".join((_scores(summary), _training(summary), _errors(summary)))


def with_tables(page: str, summary: Summary) -> str:
    """The page with these numbers between its marks.

    Errors: `ValueError` where the page has not both marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page needs the lines {BEGIN.strip()} and {END}")
    return before + BEGIN + tables(summary) + END + after


def _scores(summary: Summary) -> str:
    scores = summary["scores"]["all"]
    first = scores["1"]["systems"]
    heads = ["system", *(f"pass@{k}" for k in scores), f"pass@1 less {summary['baseline']}", "McNemar", "p", "Holm"]
    rows = []
    for name in summary["systems"]:
        test, cells = first[name].get("mcnemar"), ["–", "–", "–"]
        if test:
            cells = [f"{test['better']} : {test['worse']}", p_value(test["p"]), p_value(test["holm"])]
        rows.append(
            [
                f"`{name}`",
                *(estimate(score["systems"][name]) for score in scores.values()),
                change(first[name].get("difference", {"value": None})),
                *cells,
            ]
        )
    return _table(heads, rows)


def _training(summary: Summary) -> str:
    heads = ["system", "runs", "pairs a run", "best epochs", "pairs to reach", "share", "lost", "won"]
    rows = []
    for name, system in summary["systems"].items():
        if "pairs" in system:
            reach = system.get("reach", {})
            pairs, share = reach.get("pairs"), reach.get("share")
            rows.append(
                [
                    f"`{name}`",
                    str(system["runs"]),
                    f"{sum(system['pairs']) / len(system['pairs']):,.0f}",
                    ", ".join(map(str, system["best_epochs"])),
                    "never" if pairs is None else f"{pairs:,.0f}",
                    percent(share, 0),
                    percent(system["test_lost"]),
                    percent(system["test_won"]),
                ]
            )
    return _table(heads, rows)


def _errors(summary: Summary) -> str:
    systems = summary["systems"]
    kinds = _kinds(systems)
    rows = [
        [f"`{name}`", *(f"{system['errors'].get(kind, 0):.1f}" for kind in kinds[:SHOWN_TYPES])]
        for name, system in systems.items()
    ]
    return _table(["failed answers of a test", *kinds[:SHOWN_TYPES]], rows)


def _table(heads: list[str], rows: Iterable[list[str]]) -> str:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(summary: Summary, path: Path) -> None:
    """Scores, differences, failures by type and quiz against pairs, as one SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "ap2o", "svg.fonttype": "none"}  # same numbers, same file; text as text
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
    first = summary["scores"]["all"]["1"]["systems"]
    _intervals(axes[0, 0], first, "pass@1, 95 % interval")
    less = {name: value["difference"] for name, value in first.items() if "difference" in value}
    _intervals(axes[0, 1], less, f"pass@1 less {summary['baseline']}, points")
    axes[0, 1].axvline(0, color="grey", linewidth=1, linestyle=":")
    _failures(axes[1, 0], summary["systems"])
    for name, system in summary["systems"].items():
        if curve := system.get("efficiency"):
            axes[1, 1].plot(curve["pairs"], [100 * best for best in curve["best"]], marker=".", label=name)
    axes[1, 1].set(xlabel="pairs trained on", ylabel="best quiz pass@1 so far, %")
    axes[1, 1].legend(fontsize=7)
    for each in axes.flat:
        each.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def _intervals(axes: Any, values: Mapping[str, Mapping[str, float]], label: str) -> None:
    for place, value in enumerate(values.values()):
        low, middle, high = (100 * value[key] for key in ("low", "value", "high"))
        axes.errorbar(middle, place, xerr=[[middle - low], [high - middle]], fmt="o", color="C0", capsize=3)
    _names(axes, values, label)


def _failures(axes: Any, systems: Mapping[str, Mapping[str, Any]]) -> None:
    kinds = _kinds(systems)
    left = [0.0] * len(systems)
    for kind in kinds:
        counts = [each["errors"].get(kind, 0.0) for each in systems.values()]
        axes.barh(range(len(systems)), counts, left=left, label=kind if kind in kinds[:SHOWN_TYPES] else None)
        left = [base + count for base, count in zip(left, counts, strict=True)]
    axes.legend(fontsize=7, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    _names(axes, systems, "failed answers of a test, by type")


def _kinds(systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Types of errors, the most frequent first, by name where equally frequent."""
    most = {kind: 0.0 for each in systems.values() for kind in each["errors"]}
    for each in systems.values():
        for kind, count in each["errors"].items():
            most[kind] = max(most[kind], count)
    return sorted(most, key=lambda kind: (-most[kind], kind))


def _names(axes: Any, names: Iterable[str], label: str) -> None:
    each = list(names)
    axes.set(xlabel=label, yticks=range(len(each)))
    axes.set_yticklabels(each, fontsize=8)
    axes.invert_yaxis()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a comparison")
    parser.add_argument("page", type=Path, help="a page of docs/results")
    arguments = parser.parse_args()
    summary = json.loads((arguments.run / "comparison.json").read_text())
    if Path(summary["model"]).is_absolute():  # a folder of one machine
        summary["model"] = Path(summary["model"]).name
    arguments.page.write_text(with_tables(arguments.page.read_text(), summary))
    arguments.page.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(summary, arguments.page.with_suffix(".svg"))


if __name__ == "__main__":
    main()
