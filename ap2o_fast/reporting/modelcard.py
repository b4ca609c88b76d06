"""The model card: README.md of a run and of its checkpoint, in the Hub's form, with the run's own numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ap2o_fast.reporting import curriculum_card
from ap2o_fast.reporting.card_head import head, licence_of
from ap2o_fast.reporting.cost import training_rates
from ap2o_fast.reporting.dpo import card as dpo_card
from ap2o_fast.reporting.run import Run, read_run
from ap2o_fast.reporting.text import clean, duration, rate

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
    name, kind = clean(run.model), dpo_card if run.is_dpo else curriculum_card
    library = "peft" if _adapter(run) and not merged else "transformers"
    title = f"{name}, trained with {kind.system(run)}"
    base = str(run.setting("model.name", "")) if run.config else ""
    licence = licence_of(base, run.setting("model.revision")) if base else {}
    top = head(
        run,
        title=title,
        library=library,
        tags=["sft" if run.is_sft else "dpo", *kind.TAGS, *(["lora"] if library == "peft" else [])],
        datasets=dpo_card.datasets(run) if run.is_dpo else [],
        name="" if run.model_is_local else base,
        licence=licence,
    )
    body = [f"# {title}", ""]
    body += [kind.method(run), "", *kind.results(run), *_training(run, kind.facts(run)), *_use(run, merged=merged)]
    body += ["## Limits", "", *(f"- {_inline(line)}" for line in kind.limits(run))]
    body += [f"- {_licence(licence)}", ""]
    return top + "\n" + "\n".join(body)


def _licence(found: dict[str, str]) -> str:
    known = f" ({_inline(found.get('license_name', found['license']))})" if found.get("license") else ""
    return f"Licence and intended use are those of the base model{known} and of the data."


def _training(run: Run, more: list[tuple[str, Any]]) -> list[str]:
    lines = ["## Training", ""]
    if not run.config:
        return [*lines, "The run has not saved its settings yet.", ""]
    rates = training_rates(run.metrics)
    facts = [
        *more,
        ("epochs planned", run.setting("train.epochs")),
        ("optimiser steps taken", f"{len(run.metrics):,}" if run.metrics else None),
        ("pairs in all steps", f"{sum(int(row.get('pairs') or 0) for row in run.metrics):,}" if run.metrics else None),
        ("learning rate", run.setting("train.lr")),
        ("beta", None if run.is_sft else run.setting("loss.beta")),
        ("precision", run.setting("model.dtype")),
        ("trained", _adapter(run) or None),
        ("seed", run.setting("seed")),
        ("time", duration(sum(float(row.get("seconds") or 0) for row in run.timing.values())) if run.timing else None),
        ("training speed", f"{rate(rates['tokens_per_second'] or 0)} packed tokens/s" if rates else None),
    ]
    return [*lines, *(f"- {name}: {_inline(str(value))}" for name, value in facts if value is not None), ""]


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
