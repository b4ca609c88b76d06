"""A run folder in the real format, with the real error book, that holds what a hostile model could have written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook, Row
from ap2o_fast.config import Config, save
from ap2o_fast.evaluation import evaluate, to_dict
from ap2o_fast.judge.verdict import ErrorType, Verdict
from ap2o_fast.reporting.metrics import MetricsSink
from ap2o_fast.reporting.report import write_report

GOOD = '''def running_total(numbers):
    """Return the list of running totals of the numbers."""
    totals = []
    total = 0
    for number in numbers:
        total += number
        totals.append(total)
    return totals
'''
FAULTS: dict[ErrorType, tuple[str, int, str]] = {
    ErrorType.WrongResult: (
        GOOD.replace("    return totals", "    return totals[1:]"),
        0,
        "got [3, 6], expected [1, 3, 6]",
    ),
    ErrorType.NameError: (GOOD.replace("total = 0", "summe = 0"), 6, "name 'total' is not defined"),
    ErrorType.IndexError: (
        GOOD.replace("        total += number\n", "        total += numbers[number + 1]\n"),
        6,
        "list index out of range",
    ),
    ErrorType.TypeError: (
        GOOD.replace("for number in numbers", "for number in len(numbers)"),
        5,
        "'int' object is not iterable",
    ),
    ErrorType.SyntaxError: (GOOD.replace("for number in numbers:", "for number in numbers"), 5, "expected ':'"),
    ErrorType.TimeoutError: (
        GOOD.replace("    total = 0\n", "    while True:\n        pass\n"),
        4,
        "no result within 2.0 s CPU",
    ),
}
HOSTILE: tuple[tuple[ErrorType, str, int, str], ...] = (
    (
        ErrorType.ValueError,
        'def f(x):\n    """</table><script>alert(1)</script><img src=x>"""\n    raise ValueError("</script>")\n',
        3,
        "<script>alert(1)</script><img src=http://example.org/x onerror=alert(2)>",
    ),
    (
        ErrorType.AttributeError,
        "def f(x):\n    return '\x1b[31mred\x1b]0;title\x07'.\u202erots\n",
        2,
        "\x1b[2J\x1b[1;31mgone\x07",
    ),
    (ErrorType.KeyError, "def f(x):\n    return " + "x" * 10_000 + "\n", 2, "K" * 10_000),
    (ErrorType.OSError, "def f(x):\n    return '{{ 7 * 191 }} [bold red]markup[/bold red] \ud800'\n", 2, "[/nonsense]"),
)


def append(
    book: ErrorBook, task_id: str, round: int, answers: list[tuple[ErrorType, str, int, str]], *, distinct: bool = True
) -> None:
    """One problem's answers of one round: (error, code, line, message) each; equal code has equal tokens unless they
    are to be `distinct`."""
    book.add_problem(task_id, np.arange(5, dtype=np.int32), "def running_total(numbers):")
    rows = [
        Row(
            task_id=task_id,
            round=round,
            sample=sample,
            seed=sample,
            policy=f"epoch-{round}" if round else "init",
            token_ids=np.frombuffer(code.encode("utf-8", "replace")[:60].ljust(60), dtype=np.uint8).astype(np.int32)
            + (sample if distinct else 0),
            logprobs=np.full(60, -0.3, dtype=np.float32),
            text=code,
            code=code,
            finish="stop",
            verdict=Verdict(
                error=error,
                line=line,
                message=message,
                tests_passed=3 if error is ErrorType.Passed else sample % 3,
                tests_total=3,
                sandbox_level=2,
            ),
        )
        for sample, (error, code, line, message) in enumerate(answers)
    ]
    book.append(rows)


def draw(rng: np.random.Generator, n: int, skill: float) -> list[tuple[ErrorType, str, int, str]]:
    """n answers, a share `skill` of them passed."""
    kinds = list(FAULTS)
    shares = np.array([0.34, 0.2, 0.16, 0.12, 0.1, 0.08])
    found = []
    for _ in range(n):
        if rng.random() < skill:
            found.append((ErrorType.Passed, GOOD.replace("total", f"sum_{rng.integers(9)}"), 0, ""))
        else:
            kind = kinds[rng.choice(len(kinds), p=shares)]
            found.append((kind, *FAULTS[kind]))
    return found


def build(path: Path, *, problems: int = 24, epochs: int = 12, hostile: bool = True) -> Path:
    """Write a whole run folder."""
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    chosen: dict[str, Any] = {"run_dir": str(path), "seed": 7, "train": {"epochs": epochs, "lr": 2e-6}}
    chosen["replay"] = {"source": "both", "n": 4}
    save(Config.model_validate(chosen), path / "config.json")
    with ErrorBook.create(path / "book") as book:
        for i in range(problems):
            append(book, f"Mbpp/{600 + i}", 0, draw(rng, 12, rng.beta(1, 1.5)))
        if hostile:
            for i, fault in enumerate(HOSTILE):
                append(book, f"<b>hostile</b>/{i}", 0, [(ErrorType.Passed, GOOD, 0, ""), fault])
        for epoch in range(1, epochs):
            for i in range(min(problems, 6)):
                append(book, f"Mbpp/{600 + i}", epoch, draw(rng, 4, 0.5))
        book.commit()
    with ErrorBook.create(path / "test") as book:
        for i in range(problems):
            talent = rng.beta(0.8, 1.2)
            append(book, f"HumanEval/{i}", 0, draw(rng, 10, talent))
            append(book, f"HumanEval/{i}", 9, draw(rng, 10, min(1.0, talent + 0.12)))
        append(book, "HumanEval/99", 0, [(ErrorType.Unjudgeable, GOOD, 0, "iterators cannot cross")])
        book.commit()
        evaluation = {
            "before": to_dict(evaluate(book, 0, (1, 5, 10), 7)),
            "after": to_dict(evaluate(book, 9, (1, 5, 10), 7)),
        }
    _json(path / "evaluation.json", evaluation)
    _json(
        path / "environment.json",
        {
            "python": "3.11.2",
            "device": "cpu",
            "processor": "\x1b[31mfast<script>alert(3)</script>",
            "note_weights": "The weights were read from an 8-bit file and de-quantised.",
        },
    )
    _json(
        path / "analysis.json",
        {"problems": problems, "usable": problems - 2, "answers": 12 * problems, "passed": 100, "errors": {}}
        | {
            "dropped": {"Mbpp/603": "1 distinct passed answer"},
            "excluded": {"Mbpp/700": "calls another function <than> the prompt names"},
        },
    )
    stages = {
        "exam": (812.4, 4800, 960_000),
        "reference": (44.0, 4100, 800_000),
        "correct": (1911.0, 0, 2_400_000),
        "quiz": (210.0, 1300, 250_000),
        "test": (301.5, 480, 99_000),
    }
    _json(
        path / "timing.json",
        {name: dict(zip(("seconds", "answers", "tokens"), row, strict=True)) for name, row in stages.items()},
    )
    names = [kind.name for kind in FAULTS] + [
        "ValueError",
        "KeyError",
        "AttributeError",
        "RecursionError",
        "OverflowError",
    ]
    with MetricsSink(path / "metrics.jsonl") as sink:
        for step in range(1, epochs * 9 + 1):
            done = step / (epochs * 9)
            margin = 0.9 * done + rng.normal(0, 0.08)
            sink.write(
                {
                    "step": step,
                    "epoch": 1 + (step - 1) // 9,
                    "loss": 0.693 - 0.3 * done + rng.normal(0, 0.02),
                    "grad_norm": 4 - done + rng.normal(0, 0.4),
                    "learning_rate": 2e-6 * min(done / 0.1, (1 - done) / 0.9),
                    "pairs": 32,
                    "tokens": 9000 + int(rng.integers(900)),
                    "seconds": 17.0 + rng.random(),
                    "peak_mib": 2100.0,
                    "packing_efficiency": 0.93,
                    "rewards/chosen": 0.3 * done,
                    "rewards/rejected": 0.3 * done - margin,
                    "rewards/margins": margin,
                    "rewards/accuracies": min(1.0, 0.5 + 0.4 * done + rng.normal(0, 0.05)),
                    "logps/chosen": -31 + done,
                    "logps/rejected": -36 - 5 * done,
                }
            )
    best = 0.0
    with MetricsSink(path / "quiz.jsonl") as sink:
        for epoch in range(epochs + 1):
            rate = 0.3 + 0.12 * np.sin(epoch / 4.2) + rng.normal(0, 0.01)
            sink.write(
                {
                    "epoch": epoch,
                    "passed": round(90 * rate),
                    "answers": 90,
                    "pass@1": rate,
                    "errors": {"NameError": 3},
                    "best": bool(rate >= best),
                }
            )
            best = max(best, rate)
    with MetricsSink(path / "plan.jsonl") as sink:
        for epoch in range(1, epochs + 1):
            window = {name: int(rng.integers(0, 40) * (1.5 + np.sin(epoch / 3 + i))) for i, name in enumerate(names)}
            replay = {name: int(rng.integers(0, 60)) for name in names[:5]}
            fresh = {name: int(rng.integers(0, 20)) for name in names[:3]} if epoch > 1 else {}
            sink.write(
                {
                    "epoch": epoch,
                    "pairs": 300,
                    "problems": problems,
                    "window": window,
                    "replay": replay,
                    "fresh": fresh,
                    "answers": window,
                }
            )
    with MetricsSink(path / "replay.jsonl") as sink:
        for epoch in range(1, epochs):
            failures = {name: int(rng.integers(1, 9)) for name in names[: 2 + epoch % 4]}
            sink.write(
                {
                    "round": epoch,
                    "problems": 6,
                    "asked": {names[epoch % 3]: 4, names[3]: 2},
                    "answers": 24,
                    "passed": 24 - min(23, sum(failures.values())),
                    "failures": failures,
                    "unjudged": 0,
                    "duplicates": 5,
                    "solved": 1,
                    "hopeless": 0,
                    "log_ratio": 0.4 * epoch,
                    "tokens": 2400,
                    "seconds": 12.5,
                    "score_seconds": 2.0,
                    "tokens/s": 192.0,
                }
            )
    (path / "checkpoints" / "best").mkdir(parents=True)
    return path


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, not to be changed, with its report."""
    run = build(tmp_path_factory.mktemp("runs") / "run-7", epochs=4)
    write_report(run)
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`build` in a fresh folder."""
    return lambda name="run-7", **options: build(tmp_path / name, **options)


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
