"""What the report of a curriculum run shows: pass@k before and after, errors by type, quizzes, pairs, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ap2o_fast.book import ErrorBook
from ap2o_fast.config import WITHOUT_REPLAY, CurriculumSettings
from ap2o_fast.evaluation import Evaluation, compare
from ap2o_fast.judge.verdict import ErrorType
from ap2o_fast.reporting import figures, page
from ap2o_fast.reporting.failures import find_failures
from ap2o_fast.reporting.page import shown, starts_at_ln_2
from ap2o_fast.reporting.run import Run, best_of, error_rows, shared_words, test_parts
from ap2o_fast.reporting.sittings import Sat, flaky_in_all, read_sittings, warnings_of
from ap2o_fast.reporting.text import many, percent

FEW_PROBLEMS = 100
NOTHING = "nothing"
SECTIONS = {
    "result": "Result",
    "errors": "Errors",
    "training": "Training",
    "curriculum": "Curriculum",
    "replay": "Replay",
    "cost": "Cost",
    "book": "Error book",
    "problems": "Problems",
    "judge": "Trust",
    "settings": "Settings",
    "environment": "Environment",
    "caveats": "Caveats",
}

SYSTEMS = {
    "init": "nothing: the initial model",
    "sft": "supervised learning of random passed answers",
    "dpo": "DPO with all static pairs, shuffled",
    "curri-dpo": "DPO with all static pairs, easy to hard",
    "dyn-dpo": "DPO with dynamic pairs, no order, no replay",
    "ap2o-l2h": "AP2O, low to high frequency",
    "ap2o-h2l": "AP2O, high to low frequency",
    "ap2o": "AP2O, failures in random order",
}
CHOICES = ("scope", "window", "draw", "budget")
"""Settings of the curriculum that are worth a word where they are not the default."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """pass@k before and after; `before` and `after` hold value, low, high as shares, or are None."""

    k: int
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    difference: Mapping[str, Any] | None


def render(run: Run) -> str:
    """The page as one string."""
    seed = int(run.setting("seed", 0))
    sittings = read_sittings(run)
    return page.render(
        "curriculum.html.j2",
        run,
        sections=SECTIONS,
        kind="AP2O report",
        system=system(run),
        headlines=headlines(run.before, run.after, seed),
        parts=[(part, headlines(part.before, part.after, seed)) for part in test_parts(run.before, run.after)],
        errors=error_rows(run.before, run.after),
        profile=shown(figures.error_profile(run.before, run.after)),
        quiz=shown(figures.quiz_curve(run.quiz)),
        best=best_of(run.quiz),
        curves=[shown(figure) for figure in figures.training_curves(run.metrics, starts_at_ln_2=starts_at_ln_2(run))],
        curriculum=shown(figures.composition(run.plan)),
        weights=shown(figures.replay_weights(run.quiz)) if replay_source(run) != NOTHING else None,
        replay_source=replay_source(run),
        fresh=shown(figures.fresh_rounds(run.replay)),
        failures=find_failures(run.book, seed=seed) if run.book is not None else None,
        book_errors=_book_errors(run.book),
        problems=problem_rows(run.before, run.after),
        sandbox=sandbox_level(run),
        sittings=sittings,
        flaky=flaky_in_all(sittings),
        suspicions=warnings_of(sittings),
        caveats=caveats(run, sittings),
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


def system(run: Run) -> str:
    """What the model was trained with, in words; empty where it is not known."""
    name = str(run.setting("curriculum.system", ""))
    if name == "ap2o" and run.setting("curriculum.order") == "auto":
        found = run.direction.get("system")
        words = [f"{SYSTEMS[found]}, as the quiz set decided" if found in SYSTEMS else "AP2O, undecided"]
    else:
        words = [SYSTEMS.get(name, name)]
    defaults = {key: CurriculumSettings.model_fields[key].default for key in CHOICES}
    chosen = {key: run.setting(f"curriculum.{key}", default) for key, default in defaults.items()}
    return ", ".join([*words, *(f"{key} {value}" for key, value in chosen.items() if value != defaults[key])])


def replay_source(run: Run) -> str:
    """What is replayed, in words."""
    if {run.setting("curriculum.replay"), run.setting("curriculum.system")} & WITHOUT_REPLAY:
        return NOTHING
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
    known = shared_words(run.shared, len(test.per_problem)) if test else ""
    said += [known] if known else []
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
    if run.direction and not run.direction.get("certain"):
        said.append(
            "The quiz set decided on the direction of the curriculum by a difference that may be chance: the other "
            "direction may be the better one."
        )
    best = best_of(run.quiz)
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


def _book_errors(book: ErrorBook | None) -> list[tuple[str, int]]:
    """(type, answers) of the exam's failed answers, most frequent first."""
    if book is None or not len(book):
        return []
    counts = book.frequencies(0).sum(axis=0)
    found = [(kind.name, int(counts[kind])) for kind in ErrorType if kind.is_failure and counts[kind]]
    return sorted(found, key=lambda item: -item[1])
