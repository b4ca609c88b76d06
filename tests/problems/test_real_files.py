"""The published files, where the checkout has them beside it."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import pytest

from ap2o_fast.config import SourceSettings
from ap2o_fast.problems import Problem, audit, load

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


@cache
def real(name: str, **settings: str) -> list[Problem]:
    if not (DATA / name).exists():
        pytest.skip(f"no {name} beside the checkout")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # odd escapes in the data are not the user's to hear of
        return load(SourceSettings(source=str(DATA / name), **settings))


@pytest.mark.parametrize(
    ("name", "count", "excluded"),
    [
        ("mbpp/mbpp.jsonl", 974, 0),
        ("mbpp/sanitized-mbpp.json", 427, 0),
        ("humaneval/HumanEval.jsonl.gz", 164, 0),
        ("evalplus/HumanEvalPlus.jsonl.gz", 164, 0),
        ("evalplus/MbppPlus.jsonl.gz", 378, 0),
        ("mbpp/upstream_train.jsonl", 384, 16),
        ("mbpp/upstream_validation.jsonl", 90, 7),
        ("mbpp/upstream_test.jsonl", 500, 19),
    ],
)
def test_counts_and_what_the_audit_excludes(name: str, count: int, excluded: int) -> None:
    problems = real(name)
    kept, reasons = audit(problems)
    assert (len(problems), len(reasons)) == (count, excluded)
    assert len(kept) == count - excluded


def test_upstream_traps_by_name() -> None:
    """A sample of every kind: other function, class, variable, entry point, and a function named like the test's."""
    reasons = {
        name: reason
        for part in ("train", "validation", "test")
        for name, reason in audit(real(f"mbpp/upstream_{part}.jsonl"))[1].items()
    }
    assert reasons["630"] == "the tests never call 'adjac', they call 'get_coordinates'"
    assert reasons["601"] == "the tests use 'Pair', which nothing defines"
    assert reasons["927"] == "the tests use 'root', 'root1', 'root2', which nothing defines"
    assert reasons["702"] == "the prompt defines 'removals', but the tests are of 'find_ind'"
    assert "is not a name" in reasons["966"]
    assert reasons["152"] == "the tests never call 'merge', they call 'candidate_sort'"
    assert reasons["56"] == "the tests never call 'rev', they call 'check'"
    # A space after the entry point is all that is wrong with these: mended, kept.
    assert not {"575", "32", "134", "160", "318", "392"} & set(reasons)


def test_mbpp_prompts_are_upstreams_wherever_these_are_sound() -> None:
    ours = {problem.task_id.removeprefix("Mbpp/"): problem.prompt for problem in real("mbpp/mbpp.jsonl")}
    sound = [
        problem for part in ("train", "validation", "test") for problem in audit(real(f"mbpp/upstream_{part}.jsonl"))[0]
    ]
    assert len(sound) == 932
    assert {problem.task_id for problem in sound if ours[problem.task_id] != problem.prompt} == set()


def test_ids_of_the_paper() -> None:
    train = real("mbpp/mbpp.jsonl", ids="601-974,1-10")
    upstream = real("mbpp/upstream_train.jsonl")
    assert {problem.task_id for problem in train} == {f"Mbpp/{problem.task_id}" for problem in upstream}


def test_mbpp_classes_are_shown_to_the_answer() -> None:
    shown = {problem.task_id: problem for problem in real("mbpp/mbpp.jsonl") if problem.preamble}
    assert set(shown) == {"Mbpp/367", "Mbpp/601", "Mbpp/927"}
    for problem in shown.values():
        assert problem.prompt.startswith(problem.preamble)
        space: dict[str, object] = {}
        for source in (problem.preamble, problem.setup, problem.solution or "", problem.test):
            exec(source, space)


def test_evalplus_tests_by_kind() -> None:
    plus = {problem.task_id: problem for problem in real("evalplus/MbppPlus.jsonl.gz")}
    by_test = {name for name, problem in plus.items() if problem.test}
    sets = {f"Mbpp/{n}" for n in (2, 7, 111, 140, 232, 579, 769)}
    truths = {f"Mbpp/{n}" for n in (737, 781, 787, 794, 803, 804)}
    assert by_test == sets | truths
    assert plus["Mbpp/722"].inputs[0][0]["Cierra Vega"] == (6.2, 70)
    assert plus["Mbpp/124"].inputs[0] == (0.0, 1j)
    assert plus["Mbpp/106"].inputs[0] == ([5, 6, 7], (9, 10))
    assert {problem.atol for problem in plus.values() if problem.inputs} == {1e-6, 1e-4}
    human = real("evalplus/HumanEvalPlus.jsonl.gz")
    assert [problem.task_id for problem in human if problem.test] == ["HumanEval/32"]
    assert all(problem.expected is None for problem in (*plus.values(), *human))
