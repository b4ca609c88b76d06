"""The report: one self-contained page with all that a run showed, also of a run that is still going.

Nothing is loaded from a network: style, scripts and plotly are inside, and a content security policy allows those
scripts by their hashes alone, so that text which slipped through the escaping could still not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ap2o_fast.book import ErrorBook
from ap2o_fast.config import WITHOUT_REPLAY, Config
from ap2o_fast.evaluation import Evaluation, compare
from ap2o_fast.judge.verdict import ErrorType
from ap2o_fast.reporting import figures
from ap2o_fast.reporting.examples import Example, find_examples
from ap2o_fast.reporting.run import Run, best_quiz, error_rows, read_run
from ap2o_fast.reporting.sittings import Sat, flaky_in_all, read_sittings, warnings_of
from ap2o_fast.reporting.text import change, clean, duration, many, percent, points, rate, signed

TEMPLATES = Path(__file__).parent / "templates"
EXAMPLES_PER_TYPE = 4
FEW_PROBLEMS = 100

SYSTEMS = {
    "dyn-dpo": "DPO with dynamic pairs, no order, no replay",
    "ap2o-l2h": "AP2O, low to high frequency",
    "ap2o-h2l": "AP2O, high to low frequency",
}


@dataclass(frozen=True, kw_only=True)
class Headline:
    """pass@k before and after; `before` and `after` hold value, low, high as shares, or are None."""

    k: int
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    difference: Mapping[str, Any] | None


def write_report(run: Path) -> Path:
    """Write ``report.html`` of a run folder; files that the run has not written yet leave sections that say so.

    Returns: the path of the page, which appears whole or not at all.
    Errors: DataError if there is no such folder.
    """
    found = read_run(run)
    try:
        page = render(found)
    finally:
        found.close()
    path = run / "report.html"
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(page)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return path


def render(run: Run) -> str:
    """The page as one string."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if type(value) is str else value,
    )
    environment.filters.update(
        percent=percent, points=points, change=change, signed=signed, many=many, duration=duration, rate=rate
    )
    scripts = [get_plotlyjs(), (TEMPLATES / "report.js").read_text(encoding="utf-8")]
    seed = int(run.setting("seed", 0))
    examples = find_examples(run.book, per_type=EXAMPLES_PER_TYPE, seed=seed) if run.book is not None else []
    sittings = read_sittings(run)
    return environment.get_template("report.html.j2").render(
        run=run,
        title=run.path.resolve().name,
        system=SYSTEMS.get(str(run.setting("curriculum.system")), run.setting("curriculum.system", "")),
        headlines=headlines(run.before, run.after, seed),
        errors=error_rows(run.before, run.after),
        profile=_shown(figures.error_profile(run.before, run.after)),
        quiz=_shown(figures.quiz_curve(run.quiz)),
        best=best_quiz(run.quiz),
        curves=[_shown(figure) for figure in figures.training_curves(run.metrics, starts_at_ln_2=_plain(run))],
        curriculum=_shown(figures.composition(run.plan)),
        replay_source=replay_source(run),
        fresh=_shown(figures.fresh_rounds(run.replay)),
        time=_shown(figures.stage_times(run.timing)),
        throughput=_shown(figures.throughput(run.metrics)),
        costs=cost_rows(run.timing),
        peak_mib=max((row.get("peak_mib") or 0 for row in run.metrics), default=0),
        examples=examples,
        example_types=_ordered(examples, "error"),
        example_problems=sorted(_ordered(examples, "problem")),
        book_errors=_book_errors(run.book),
        problems=problem_rows(run.before, run.after),
        settings=setting_rows(run.config),
        sandbox=sandbox_level(run),
        sittings=sittings,
        flaky=flaky_in_all(sittings),
        suspicions=warnings_of(sittings),
        caveats=caveats(run, sittings),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
    )


def headlines(before: Evaluation | None, after: Evaluation | None, seed: int) -> list[Headline]:
    """pass@k of either test with the paired difference where both are there, in the order of k."""
    old, new = before.pass_at_k if before else {}, after.pass_at_k if after else {}
    return [
        Headline(
            k=k,
            before=_known(old.get(k)),
            after=_known(new.get(k)),
            difference=_known(compare(before, after, k, seed)) if before and after else None,
        )
        for k in sorted(set(old) | set(new))
    ]


def cost_rows(timing: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Stage, seconds, share of all time, answers a second and tokens a second (None where not counted)."""
    total = sum(float(row.get("seconds") or 0) for row in timing.values())
    rows = []
    for name, row in timing.items():
        seconds = float(row.get("seconds") or 0)
        speed = {unit: row[unit] / seconds if row.get(unit) and seconds else None for unit in ("answers", "tokens")}
        rows.append({"stage": name, "seconds": seconds, "share": seconds / total if total else None, **speed})
    return rows


def problem_rows(before: Evaluation | None, after: Evaluation | None) -> list[dict[str, Any]]:
    """Passed and judged answers of every test problem before and after, those that changed most first."""
    old, new = (test.per_problem if test else {} for test in (before, after))
    rows = []
    for task_id in dict.fromkeys([*old, *new]):
        shares = [passed / n if n else None for passed, n in (old.get(task_id, (0, 0)), new.get(task_id, (0, 0)))]
        difference = shares[1] - shares[0] if shares[0] is not None and shares[1] is not None else None
        rows.append(
            {"task_id": task_id, "before": old.get(task_id), "after": new.get(task_id), "difference": difference}
        )
    return sorted(rows, key=lambda row: -abs(row["difference"] or 0))


def setting_rows(config: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(dotted key, value, changed from the default) of every saved setting."""
    defaults = dict(_flat(json.loads(Config.model_validate({}).model_dump_json())))
    return [(key, json.dumps(value), key not in defaults or defaults[key] != value) for key, value in _flat(config)]


def replay_source(run: Run) -> str:
    """What is replayed, in words."""
    if {run.setting("curriculum.replay"), run.setting("curriculum.system")} & WITHOUT_REPLAY:
        return "nothing"
    how = {name: run.setting(f"replay.{name}") for name in ("source", "n", "max_answers")}
    if how["source"] in (None, "book"):
        return "failures of the exam"
    fresh = f"fresh failures of the model in training, {how['n']} answers a problem"
    fresh += f", at most {how['max_answers']:,} a round" if how["max_answers"] else ""
    return f"failures of the exam and {fresh}" if how["source"] == "both" else fresh


def sandbox_level(run: Run) -> str:
    """The isolation under which answers were judged, from the verdicts themselves; empty where there is none."""
    if run.book is None or not len(run.book):
        return ""
    levels = np.unique(run.book.column("sandbox_level")).tolist()
    return ", ".join(str(level) for level in levels)


def caveats(run: Run, sittings: Sequence[Sat]) -> list[str]:
    """What a reader must know before quoting the numbers."""
    said = [value for key, value in run.environment.items() if key.lower().startswith("note")]
    said += [f"Part of the run could not be read: {trouble}." for trouble in run.troubles]
    said += warnings_of(sittings)
    test = run.after or run.before
    if test and test.problems < FEW_PROBLEMS:
        said.append(f"The test has only {many(test.problems, 'problem')}; quote the intervals with the numbers.")
    for name, evaluation in (("before", run.before), ("after", run.after)):
        if evaluation and evaluation.left_out:
            kinds = ", ".join(f"{count} {kind}" for kind, count in evaluation.left_out.items())
            said.append(
                f"Answers without a verdict in the test {name} training: {kinds}. They are left out of every number, "
                "neither passed nor failed."
            )
        for k, value in evaluation.pass_at_k.items() if evaluation else ():
            if value["problems"] != evaluation.problems:  # type: ignore[union-attr]
                said.append(f"pass@{k} {name} counts the {value['problems']} problems with at least {k} answers.")
    if test:
        said.append(
            "The intervals hold for other problems of this kind; another seed of training is not in them. One run of "
            "one seed does not rank methods."
        )
    best = best_quiz(run.quiz)
    if best and best.get("epoch") == 0 and run.before and run.after:
        said.append("No epoch beat the initial model on the quiz, so before and after are the same weights.")
    elif best:
        said.append("The kept checkpoint was chosen by the quiz, whose pass@1 is therefore too good by a little.")
    if run.book is not None and len(run.book):
        lengths = run.book.column("length")[run.book.column("round") == 0]
        finish = float(np.mean(lengths >= int(run.setting("sampling.max_new_tokens", 1 << 30))))
        if finish >= 0.01:
            said.append(f"{percent(finish)} of the exam's answers reached the token limit and may have been cut off.")
    return said


def _known(value: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return value if value and value.get("value") is not None else None


def _plain(run: Run) -> bool:
    """Whether the loss is ln 2 where policy and reference are one."""
    return run.setting("loss.type", "sigmoid") in ("sigmoid", "robust") and not run.setting("loss.sft_weight", 0)


def _shown(figure: figures.Figure | None) -> dict[str, Any] | None:
    """A figure as the template takes it: words, and plotly's data and layout as plain values."""
    if figure is None:
        return None
    plain = json.loads(figure.plot.to_json())
    height = figure.plot.layout.height
    return {"name": figure.name, "title": figure.title, "summary": figure.summary, "plain": plain, "height": height}


def _ordered(examples: list[Example], field: str) -> list[str]:
    return list(dict.fromkeys(getattr(example, field) for example in examples))


def _book_errors(book: ErrorBook | None) -> list[tuple[str, int]]:
    """(type, answers) of the exam's failed answers, most frequent first."""
    if book is None or not len(book):
        return []
    counts = book.frequencies(0).sum(axis=0)
    found = [(kind.name, int(counts[kind])) for kind in ErrorType if kind.is_failure and counts[kind]]
    return sorted(found, key=lambda item: -item[1])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return rows


def _policy(scripts: list[str]) -> str:
    """A content security policy under which exactly these scripts run and nothing is loaded."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {hashes}"
