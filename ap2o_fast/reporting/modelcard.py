"""The model card: README.md of a run and of its checkpoint, in the Hub's form, with the run's own numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ap2o_fast.evaluation import compare
from ap2o_fast.reporting.report import SYSTEMS, caveats, sandbox_level
from ap2o_fast.reporting.run import Run, best_quiz, error_rows, read_run
from ap2o_fast.reporting.sittings import read_sittings
from ap2o_fast.reporting.text import change, clean, duration, estimate, many, percent

METHOD = (
    "Preference optimisation on the model's own mistakes (AP2O-Coder, arXiv 2510.02393), with ap2o_fast: answers "
    "sampled, judged in a sandbox and typed by error; DPO on pairs of a passed and a failed answer; short quizzes that "
    "decide what to practise again."
)
USE = (
    "## Use",
    "",
    "```python",
    "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "",
    'model = AutoModelForCausalLM.from_pretrained(".")  # the folder of this checkpoint',
    'tokenizer = AutoTokenizer.from_pretrained(".")',
    "```",
    "",
)


def write_model_card(run: Path) -> list[Path]:
    """Write README.md into the run folder, and into ``checkpoints/best`` where that exists.

    Returns: the paths written.
    Errors: DataError if there is no such folder.
    """
    found = read_run(run)
    try:
        text = card(found)
    finally:
        found.close()
    folders = [run] + [folder for folder in (run / "checkpoints" / "best",) if folder.is_dir()]
    paths = [folder / "README.md" for folder in folders]
    for path in paths:
        beside = path.with_name(path.name + ".tmp")
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    return paths


def card(run: Run) -> str:
    """The model card as Markdown; what the run has not measured yet is said to be missing."""
    name = clean(run.model)
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if run.config and not run.model_is_local:
        head.append(f"base_model: {json.dumps(name)}")
    head += ["tags:", "- code", "- dpo", "- ap2o", "---", ""]
    system = str(run.setting("curriculum.system", ""))
    body = [f"# {name}, trained with {SYSTEMS.get(system, system or 'ap2o_fast')}", ""]
    body += [METHOD, "", *_results(run), *_training(run), *USE, "## Limits", ""]
    body += [f"- {_inline(line)}" for line in caveats(run, read_sittings(run))]
    body += [
        "- Tested on short Python functions with unit tests; a passed test is no proof of correct or safe code.",
        "- Licence and intended use are those of the base model and of the data.",
        "",
    ]
    return "\n".join(head + body)


def _results(run: Run) -> list[str]:
    lines = ["## Results", ""]
    if not (run.before or run.after):
        return [*lines, "Not tested yet.", ""]
    before, after = run.before, run.after
    test = after or before
    assert test is not None
    how = (
        f"{many(test.problems, 'test problem')}, {many(test.answers, 'judged answer')}, temperature "
        f"{run.setting('evaluate.temperature', '?')}; unbiased pass@k, 95% confidence intervals by bootstrap over "
        "problems (paired for the change, in percentage points)."
    )
    lines += [how, "", "| | before | after | change |", "|---|---:|---:|---:|"]
    seed = int(run.setting("seed", 0))
    for k in sorted(test.pass_at_k):
        old, new = (found.pass_at_k.get(k) if found else None for found in (before, after))
        difference = change(compare(before, after, k, seed)) if before and after else "–"
        lines.append(f"| pass@{k} | {estimate(old)} | {estimate(new)} | {difference} |")
    rows = error_rows(before, after)
    if rows:
        lines += ["", "Failed answers by type:", "", "| | before | after |", "|---|---:|---:|"]
        lines += [f"| {name} | {old if before else '–'} | {new if after else '–'} |" for name, old, new in rows]
    return [*lines, ""]


def _training(run: Run) -> list[str]:
    lines = ["## Training", ""]
    if not run.config:
        return [*lines, "The run has not saved its settings yet.", ""]
    facts = [
        ("system", run.setting("curriculum.system")),
        ("training problems", f"{run.analysis['usable']:,}" if "usable" in run.analysis else None),
        ("answers sampled and judged", f"{run.analysis['answers']:,}" if "answers" in run.analysis else None),
        ("epochs planned", run.setting("train.epochs")),
        ("optimiser steps taken", f"{len(run.metrics):,}" if run.metrics else None),
        ("pairs trained on", f"{sum(int(row.get('pairs') or 0) for row in run.metrics):,}" if run.metrics else None),
        ("window pairs a step", run.setting("train.batch_pairs")),
        ("learning rate", run.setting("train.lr")),
        ("beta", run.setting("loss.beta")),
        ("precision", run.setting("model.dtype")),
        ("seed", run.setting("seed")),
        ("sandbox level", sandbox_level(run) or None),
        ("time", duration(sum(float(row.get("seconds") or 0) for row in run.timing.values())) if run.timing else None),
    ]
    best = best_quiz(run.quiz)
    if best:
        facts.append(("kept checkpoint", f"epoch {best['epoch']}, quiz pass@1 {percent(best.get('pass@1'))}"))
    return [*lines, *(f"- {name}: {_inline(str(value))}" for name, value in facts if value is not None), ""]


def _inline(text: str) -> str:
    """Text that stays one plain line of Markdown."""
    return clean(text).replace("\n", " ").replace("<", "&lt;").replace("|", "\\|")
