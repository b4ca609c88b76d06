"""Parts of a test in report, model card and terminal: sets apart, base tests, what training knows left out."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from ap2o_fast.book import ErrorBook
from ap2o_fast.evaluation import Part, compare, evaluate, to_dict
from ap2o_fast.reporting.modelcard import write_model_card
from ap2o_fast.reporting.report import write_report
from ap2o_fast.reporting.run import read_run
from ap2o_fast.reporting.tables import print_results
from ap2o_fast.reporting.text import change, estimate
from tests.reporting.conftest import build
from tests.reporting.test_report import Page

NAMES = ("HumanEvalPlus, base tests", "clean <b>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = build(tmp_path_factory.mktemp("parts") / "run", problems=6, epochs=2)
    ids = frozenset(f"HumanEval/{i}" for i in range(4))
    parts = {NAMES[0]: Part(task_ids=ids, base_tests=dict.fromkeys(ids, 2)), NAMES[1]: Part(task_ids=ids)}
    with ErrorBook.open(path / "test") as book:
        tests = {
            name: to_dict(evaluate(book, round, (1, 5), 7, parts)) for name, round in (("before", 0), ("after", 9))
        }
    shared = {"train": ["HumanEval/4", "HumanEval/5"], "quiz": ["HumanEval/99"]}
    (path / "evaluation.json").write_text(json.dumps({**tests, "shared": shared}), encoding="utf-8")
    return path


def test_every_part_stands_beside_the_whole(folder: Path) -> None:
    run = read_run(folder)
    assert run.before is not None and run.after is not None
    console = Console(file=io.StringIO(), width=160)
    print_results(run.before, run.after, paths={}, seed=7, shared=run.shared, console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    html = write_report(folder).read_text(encoding="utf-8")
    page = re.sub(r"\s+", " ", Page(html).text)
    card = write_model_card(folder)[0].read_text(encoding="utf-8")
    for name in NAMES:
        before, after = run.before.parts[name], run.after.parts[name]
        numbers = [estimate(before.pass_at_k[5]), estimate(after.pass_at_k[5]), change(compare(before, after, 5, 7))]
        start = page.index(f"{name}4pass@1")
        assert page.index("pass@5" + "".join(numbers), start) < start + 120
        assert f"| {name} (4 problems), pass@5 | {' | '.join(numbers)} |" in card
        row = printed[printed.index(name) :].split("\n")[1]
        assert all(number in row for number in numbers)
    assert "clean <b>" not in html
    known = "some are not new: 2 in training and 1 in the quiz"
    assert known in page and known in card and known in printed
    assert "Of the 6 test problems" in printed and f"pass@k on {run.after.problems} test problems" in printed
    run.close()
