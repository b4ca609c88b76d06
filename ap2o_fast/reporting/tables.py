"""The tables in which a command's results end in the terminal. No logic. Colours follow rich's rules (NO_COLOR)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ap2o_fast.evaluation import Evaluation, compare
from ap2o_fast.reporting.run import TestPart, error_rows, shared_words, test_parts
from ap2o_fast.reporting.text import change, clean, estimate, many, signed


def result_tables(before: Evaluation | None, after: Evaluation | None, seed: int) -> list[Table]:
    """The tables of pass@k, of its parts if there are any, and of errors, before and after training; either test may
    be missing."""
    parts = test_parts(before, after)
    tables = [_pass_table(before, after, seed), *([_parts_table(parts, seed)] if parts else [])]
    return [*tables, _error_table(before, after)]


def print_results(
    before: Evaluation | None,
    after: Evaluation | None,
    *,
    paths: Mapping[str, Path],
    seed: int,
    shared: Mapping[str, Sequence[str]] | None = None,
    console: Console | None = None,
) -> None:
    """Print `result_tables` and where the files are, e.g. ``{"report": ..., "checkpoint": ...}``.

    Args:
        seed: the run's, for the bootstrap: the report's intervals are then the same.
        shared: test problems that training and quiz have, too, by their set.
    """
    console = console or Console()
    for table in result_tables(before, after, seed):
        console.print(table)
    test = after or before
    said = shared_words(shared or {}, len(test.per_problem)) if test else ""
    if said:
        console.print(Text(said), soft_wrap=True)
    for name, path in paths.items():
        console.print(Text.assemble((f"{name}: ", "bold"), clean(str(path))), soft_wrap=True)


def print_evaluation(
    evaluation: Evaluation, *, shared: Mapping[str, Sequence[str]] | None = None, console: Console | None = None
) -> None:
    """Print one test by itself: pass@k of the whole and of its parts, and errors.

    Args:
        shared: as in `print_results`.
    """
    console = console or Console()
    ks = sorted(evaluation.pass_at_k)
    table = Table("", "problems", "answers", *(f"pass@{k} (95%)" for k in ks), title_justify="left")
    for name, part in {"all": evaluation, **evaluation.parts}.items():
        table.add_row(
            escape(name), f"{part.problems:,}", f"{part.answers:,}", *(estimate(part.pass_at_k[k]) for k in ks)
        )
    console.print(table)
    errors = Table("", "answers", title="failed answers by type", title_justify="left")
    for name, count in (*evaluation.errors.items(), *evaluation.left_out.items()):
        errors.add_row(escape(name), f"{count:,}")
    console.print(errors)
    said = shared_words(shared or {}, len(evaluation.per_problem))
    if said:
        console.print(Text(said), soft_wrap=True)


def print_preferences(result: Mapping[str, Any], run: Path, *, console: Console | None = None) -> None:
    """Print how plain DPO ended.

    Args:
        result: content of ``dpo.json``.
        run: the run's folder.
    """
    console = console or Console()
    table = Table("", "last step", "held out" if "eval" in result else "", title=clean(str(result["ended"])))
    compared = "rewards/margins" in result["train"]
    for name in ("loss", *(("rewards/accuracies", "rewards/margins") if compared else ("logps/chosen",))):
        table.add_row(name, *(f"{result[part][name]:.4f}" for part in ("train", "eval") if part in result))
    console.print(table)
    evaluated = f", {many(result['eval_pairs'], 'pair')} evaluated" if "eval" in result else ""
    left_out = f", {result['excluded']:,} left out (excluded.json)" if result["excluded"] else ""
    console.print(f"{many(result['pairs'], 'pair')} trained on in {many(result['steps'], 'step')}{evaluated}{left_out}")
    checkpoint = Text.assemble(
        (f"checkpoint (epoch {result['best_epoch']}): ", "bold"), clean(str(run / "checkpoints/best"))
    )
    console.print(checkpoint, soft_wrap=True)
    console.print(Text.assemble(("report: ", "bold"), clean(str(run / "report.html"))), soft_wrap=True)


def _pass_table(before: Evaluation | None, after: Evaluation | None, seed: int) -> Table:
    problems = (after or before).problems if (after or before) else 0  # type: ignore[union-attr]
    table = Table(title=f"pass@k on {many(problems, 'test problem')}, 95% confidence intervals", title_justify="left")
    table.add_column("")
    for name in ("before", "after", "change, points"):
        table.add_column(name, justify="right")
    old, new = before.pass_at_k if before else {}, after.pass_at_k if after else {}
    for k in sorted(set(old) | set(new)):
        difference = change(compare(before, after, k, seed)) if before and after else "–"
        table.add_row(f"pass@{k}", estimate(old.get(k)), estimate(new.get(k)), difference)
    return table


def _parts_table(parts: Sequence[TestPart], seed: int) -> Table:
    table = Table(title="parts of the test", title_justify="left")
    table.add_column("")
    for name in ("problems", "k", "before", "after", "change, points"):
        table.add_column(name, justify="right")
    for part in parts:
        before, after = part.before, part.after
        for number, k in enumerate(sorted(part.latest.pass_at_k)):
            old, new = (each.pass_at_k.get(k) if each else None for each in (before, after))
            difference = change(compare(before, after, k, seed)) if before and after else "–"
            where = ("", "") if number else (escape(part.name), f"{part.latest.problems:,}")
            table.add_row(*where, str(k), estimate(old), estimate(new), difference)
    return table


def _error_table(before: Evaluation | None, after: Evaluation | None) -> Table:
    table = Table(title="failed answers by type", title_justify="left")
    table.add_column("")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    for name, old, new in error_rows(before, after):
        delta = signed(new - old) if before and after else "–"
        table.add_row(escape(name), f"{old:,}" if before else "–", f"{new:,}" if after else "–", delta)
    table.add_section()
    for label, count in (("failed in all", "errors"), ("not judged, left out", "left_out")):
        totals = [sum(getattr(test, count).values()) if test else None for test in (before, after)]
        if any(totals):
            table.add_row(label, *("–" if total is None else f"{total:,}" for total in totals), "")
    return table
