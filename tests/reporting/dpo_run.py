"""The folder of a plain DPO run in the real format, with the real book, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ap2o_fast import config
from ap2o_fast.book import ErrorBook
from ap2o_fast.curriculum.preferences import read_pairs
from ap2o_fast.preferences.format import tokenize
from ap2o_fast.preferences.pairs import Limits, write_pairs
from ap2o_fast.reporting.metrics import MetricsSink
from tests.preferences.data import make_rows, make_tokenizer

BETA, HASH, EPOCHS, STEPS, BEST = 0.1, "0" * 32, 3, 12, 2
HOSTILE = "<script>alert(1)</script>\x1b[31mred\u202e"


def build(path: Path, *, held_out: bool = True, ended: bool = True) -> Path:
    """Write a run: 36 pairs, of which a third is held out, and two that were left out."""
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    share = {"share": 0.34} if held_out else {}
    source = str(path.parent / "secret" / "pairs.jsonl")
    tree: dict[str, Any] = {
        "run_dir": str(path),
        "model": {"name": str(path.parent / "secret" / "tiny-model")},
        "preferences": {"source": source, "eval": share},
        "train": {"lr": 1e-5, "batch_pairs": 2},
    }
    made = config.load(tree, defaults=config.DPO_DEFAULTS)
    config.save(made, path / "config.json")
    tokenizer = make_tokenizer()
    rows = make_rows(36)
    rows = [row | {"prompt": f"{i // 2} {row['prompt']}{HOSTILE}"} for i, row in enumerate(rows)]
    rows += [{"prompt": "a", "chosen": " same", "rejected": " same"}] * 2
    pairs = [(f"pairs.jsonl, line {i}", tokenize(row, tokenizer, "")) for i, row in enumerate(rows, 1)]
    limits = Limits(sequence=999, pair=999)
    excluded = write_pairs(path / "book", pairs, [], limits=limits, advance=lambda: None)
    _json(path / "excluded.json", excluded)
    _json(path / "environment.json", {"python": "3.11.2", "device": "cpu", "model_hash": HASH})
    stages = {"reference": (4.0, 72, 900), "correct": (60.0, 0, 24_000), "evaluate": (5.0, 72, 900)}
    names = ("seconds", "answers", "tokens")
    _json(path / "timing.json", {name: dict(zip(names, row, strict=True)) for name, row in stages.items()})
    with ErrorBook.open(path / "book", write=True) as book:
        _, evaluated = read_pairs(book, made.preferences.eval, made.seed)
        every = np.arange(len(book))
        book.annotate("ref_logp", every, rng.normal(-20, 2, len(book)).astype(np.float32), HASH)
        if held_out:
            held = np.unique(np.concatenate([evaluated.chosen, evaluated.rejected]))
            after = book.annotation("ref_logp", HASH)[held] + rng.normal(0, 9, len(held)).astype(np.float32)
            book.annotate("logp", held, after, f"epoch {BEST}")
            book.annotate("logp", held, after[::-1].copy(), "epoch 1")
            rewards = np.full(len(book), np.nan)
            rewards[held] = BETA * (after - book.annotation("ref_logp", HASH)[held])
            margins = rewards[evaluated.chosen] - rewards[evaluated.rejected]
    with MetricsSink(path / "metrics.jsonl") as sink:
        for step in range(1, EPOCHS * STEPS + 1 if ended else STEPS):
            sink.write(_step(step, rng))
    if held_out:
        with MetricsSink(path / "eval.jsonl") as sink:
            for epoch in range(1, EPOCHS + 1 if ended else 1):
                best = epoch <= BEST
                numbers = {"rewards/margins": margins.mean(), "rewards/accuracies": (margins > 0).mean()}
                numbers |= {
                    "rewards/chosen": 0.5,
                    "rewards/rejected": -0.25,
                    "pairs": len(margins),
                }
                sink.write({"epoch": epoch, "loss": 0.7 - 0.1 * epoch * best, **numbers, "best": best})
    if ended:
        _json(path / "dpo.json", {"ended": "all 3 epochs done"})
        (path / "checkpoints" / "best").mkdir(parents=True)
    return path


def _step(step: int, rng: np.random.Generator) -> dict[str, Any]:
    done = step / (EPOCHS * STEPS)
    return {
        "epoch": 1 + (step - 1) // STEPS,
        "step": step,
        "loss": 0.693 - 0.3 * done,
        "grad_norm": 4.0,
        "learning_rate": 1e-5 * (1 - done),
        "pairs": 2,
        "tokens": 1000,
        "seconds": 0.5,
        "tflops": 0.125,
        "mfu": 0.25,
        "peak_mib": 2100.0 + step,
        "packing_efficiency": 0.93,
        "rewards/chosen": 0.3 * done,
        "rewards/rejected": -0.4 * done,
        "rewards/margins": 0.7 * done + rng.normal(0, 0.02),
        "rewards/accuracies": 0.5 + 0.4 * done,
        "logps/chosen": -20.0,
        "logps/rejected": -22.0,
    }


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
