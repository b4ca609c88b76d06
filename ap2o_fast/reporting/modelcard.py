"""The model card: README.md of a run and of its checkpoint, in the Hub's form, with the run's own numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ap2o_fast.evaluation import compare
from ap2o_fast.reporting.report import SYSTEMS, caveats, replay_source, sandbox_level
from ap2o_fast.reporting.run import Run, best_quiz, error_rows, read_run
from ap2o_fast.reporting.sittings import read_sittings
from ap2o_fast.reporting.text import change, clean, duration, estimate, many, percent

METHOD = (
    "Preference optimisation on the model's own mistakes (AP2O-Coder, arXiv 2510.02393), with ap2o_fast: answers "
    "sampled, judged in a sandbox and typed by error; DPO on pairs of a passed and a failed answer; short quizzes that "
    "decide what to practise again."
)
USE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")  # the folder of this checkpoint
tokenizer = AutoTokenizer.from_pretrained(".")
```
"""
USE_ADAPTER = """## Use

This checkpoint is an adapter: small matrices that belong to {base} and do nothing without it.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({name})
model = PeftModel.from_pretrained(base, ".")  # the folder of this checkpoint
tokenizer = AutoTokenizer.from_pretrained(".")
```

`ap2o export RUN --merge --out FOLDER` writes an ordinary model instead.
"""
MERGED = "The adapter that was trained is merged into the weights{where}."
TO_ORIGINAL = " of the unquantised model, so that it computes what was trained up to the error of 4-bit weights"


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
    return [_write(folder, text) for folder in folders]


def write_exported_card(run: Path, folder: Path, *, merged: bool) -> Path:
    """Write README.md of a run's checkpoint into the folder that it was exported to; returns its path."""
    found = read_run(run)
    try:
        return _write(folder, card(found, merged=merged))
    finally:
        found.close()


def _write(folder: Path, text: str) -> Path:
    path = folder / "README.md"
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return path


def card(run: Run, *, merged: bool = False) -> str:
    """The model card as Markdown; what the run has not measured yet is said to be missing.

    Args:
        merged: of a checkpoint whose adapter was merged into the model.
    """
    name = clean(run.model)
    adapter = _adapter(run)
    library = "peft" if adapter and not merged else "transformers"
    head = ["---", f"library_name: {library}", "pipeline_tag: text-generation"]
    if run.config and not run.model_is_local:
        head.append(f"base_model: {json.dumps(name)}")
    head += ["tags:", "- code", "- dpo", "- ap2o", *(["- lora"] if library == "peft" else []), "---", ""]
    system = str(run.setting("curriculum.system", ""))
    body = [f"# {name}, trained with {SYSTEMS.get(system, system or 'ap2o_fast')}", ""]
    body += [METHOD, "", *_results(run), *_training(run), *_use(run, merged=merged), "## Limits", ""]
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
        ("replayed", replay_source(run)),
        ("training problems", f"{run.analysis['usable']:,}" if "usable" in run.analysis else None),
        ("answers sampled and judged", f"{run.analysis['answers']:,}" if "answers" in run.analysis else None),
        ("fresh answers", _fresh(run)),
        ("epochs planned", run.setting("train.epochs")),
        ("optimiser steps taken", f"{len(run.metrics):,}" if run.metrics else None),
        ("pairs trained on", f"{sum(int(row.get('pairs') or 0) for row in run.metrics):,}" if run.metrics else None),
        ("window pairs a step", run.setting("train.batch_pairs")),
        ("learning rate", run.setting("train.lr")),
        ("beta", run.setting("loss.beta")),
        ("precision", run.setting("model.dtype")),
        ("trained", _adapter(run) or None),
        ("seed", run.setting("seed")),
        ("sandbox level", sandbox_level(run) or None),
        ("time", duration(sum(float(row.get("seconds") or 0) for row in run.timing.values())) if run.timing else None),
    ]
    best = best_quiz(run.quiz)
    if best:
        facts.append(("kept checkpoint", f"epoch {best['epoch']}, quiz pass@1 {percent(best.get('pass@1'))}"))
    return [*lines, *(f"- {name}: {_inline(str(value))}" for name, value in facts if value is not None), ""]


def _fresh(run: Run) -> str | None:
    """How many fresh answers were asked for; None where none were."""
    if not run.replay:
        return None
    asked, passed = (sum(int(row.get(part) or 0) for row in run.replay) for part in ("answers", "passed"))
    return f"{asked:,} in {many(len(run.replay), 'round')}, {passed:,} passed"


def _adapter(run: Run) -> str:
    """What was trained in place of all weights, in words; empty where all were."""
    kind = run.setting("adapter.kind", "none")
    if kind == "none":
        return ""
    weights = "frozen weights" if run.setting("model.quantization", "none") == "none" else "frozen weights of 4 bits"
    name = {"lora": "LoRA", "dora": "DoRA"}.get(str(kind), str(kind))
    return (
        f"{name} adapters of rank {run.setting('adapter.rank')}, alpha {run.setting('adapter.alpha')}, beside {weights}"
    )


def _use(run: Run, *, merged: bool) -> list[str]:
    if not _adapter(run):
        return [*USE.splitlines(), ""]
    if merged:
        quantised = run.setting("model.quantization", "none") != "none"
        return [MERGED.format(where=TO_ORIGINAL if quantised else ""), "", *USE.splitlines(), ""]
    if run.model_is_local:
        base, name = "the folder that `adapter_config.json` names", '"BASE"'
    else:
        base, name = _inline(run.model), json.dumps(run.model)
    return [*USE_ADAPTER.format(base=base, name=name).splitlines(), ""]


def _inline(text: str) -> str:
    """Text that stays one plain line of Markdown."""
    return clean(text).replace("\n", " ").replace("<", "&lt;").replace("|", "\\|")
