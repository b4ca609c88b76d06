"""Every format, read from small rows that the tests write, through the public `load`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ap2o_fast.config import SourceSettings
from ap2o_fast.problems import Problem, load

CODE = """\
import math
import sys
STEP = 2
class Tree(object):
  def __init__(self, size):
    self.size = size
def helper(x):
  return x
def grow (tree,by = {'a': 1}) :
  return helper(math.floor(tree.size)) + STEP
"""
MBPP = {
    "task_id": 9,
    "text": "Write a function to grow a tree.",
    "code": CODE.replace("\n", "\r\n"),
    "test_setup_code": "oak = Tree(1)",
    "test_list": ["assert grow(oak) == 3", "assert grow(Tree(sys.intern('a') and 2)) == 4"],
    "challenge_test_list": ["assert grow(Tree(9)) == 11"],
}
HELPER = "from typing import List\n\n\ndef half(x: int):\n    return x / 2"
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": HELPER + '\n\n\ndef quarter(x: List[int]):\n    """ Say "hi" """\n',
    "entry_point": "quarter",
    "canonical_solution": "    return [half(half(y)) for y in x]\n",
    "test": "def check(candidate):\n    assert candidate([4]) == [1.0]\n",
}


def write(path: Path, *rows: dict[str, Any]) -> SourceSettings:
    text = json.dumps(list(rows)) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return SourceSettings(source=str(path))


def one(path: Path, row: dict[str, Any]) -> Problem:
    (problem,) = load(write(path, row))
    return problem


def run(*sources: str) -> dict[str, Any]:
    space: dict[str, Any] = {}
    for source in sources:
        exec(source, space)
    return space


def test_mbpp_shows_what_upstream_shows(tmp_path: Path) -> None:
    row = {
        **MBPP,
        "code": MBPP["code"].replace("tree.size", "tree"),
        "test_setup_code": "",
        "test_list": ["assert grow(1) == 3"],
    }
    problem = one(tmp_path / "a.jsonl", row)
    assert problem.prompt == 'def grow (tree,by = {\'a\': 1}) :\n    """Write a function to grow a tree."""\n'
    assert (problem.task_id, problem.entry_point, problem.test) == ("Mbpp/9", "grow", "assert grow(1) == 3\n")
    assert (problem.setup, problem.preamble, problem.source) == ("", "", str(tmp_path / "a.jsonl"))
    assert "\r" not in problem.solution
    run(problem.solution, problem.setup, problem.test)


def test_mbpp_gives_a_class_of_the_tests_to_the_answer_and_a_module_to_the_tests_alone(tmp_path: Path) -> None:
    problem = one(tmp_path / "a.jsonl", MBPP)
    assert problem.preamble == "class Tree(object):\n  def __init__(self, size):\n    self.size = size"
    assert problem.prompt.startswith(problem.preamble + "\n\ndef grow (")
    assert problem.setup == "import sys\noak = Tree(1)"
    assert "11" not in problem.test  # the challenge tests are not used
    answer = "def grow(tree):\n    return tree.size + 2\n"
    run(problem.preamble, problem.setup, answer, problem.test)
    with pytest.raises(AssertionError):
        run(problem.preamble, problem.setup, answer.replace("2", "3"), problem.test)


def test_mbpp_tests_the_function_that_the_asserts_call_most(tmp_path: Path) -> None:
    row = {
        **MBPP,
        "test_setup_code": "",
        "test_list": ["assert helper(1) == 1 and grow(1)", "assert grow(2)", "assert len([1])"],
    }
    assert one(tmp_path / "a.jsonl", row).entry_point == "grow"


def test_mbpp_docstring_survives_quotes_and_backslashes(tmp_path: Path) -> None:
    for text in ('ends with "quoted"', "a \\d pattern, a \\n and a \\t", 'three """ quotes', "two\r\nlines"):
        problem = one(
            tmp_path / "a.jsonl", {**MBPP, "test_setup_code": "", "test_list": ["assert grow(1)"], "text": text}
        )
        shown = run(problem.prompt)["grow"].__doc__
        assert " ".join(shown.split()) == " ".join(text.split())


def test_mbpp_sanitized_and_its_hub_copy_with_more_tests(tmp_path: Path) -> None:
    row = {
        "source_file": "x.ipynb",
        "task_id": 2,
        "prompt": "Add one.",
        "code": "def inc(x):\n    return x + 1",
        "test_imports": ["import math"],
        "test_list": ["assert inc(1) == 2", "assert math.isclose(inc(2), 3)"],
    }
    problem = one(tmp_path / "a.json", row)
    assert problem.prompt == 'def inc(x):\n    """Add one."""\n'
    assert (problem.task_id, problem.setup) == ("Mbpp/2", "import math")
    run(problem.setup, problem.solution, problem.test)
    more = "for x, y in [(5, 6)]:\n    assert inc(x) == y\n"
    assert one(tmp_path / "a.json", {**row, "test": more}).test == more


def test_humaneval_splits_preamble_from_prompt(tmp_path: Path) -> None:
    problem = one(tmp_path / "h.jsonl.gz", HUMANEVAL)
    assert problem.preamble == HELPER
    assert problem.prompt == HUMANEVAL["prompt"]
    assert problem.solution == HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"]
    space = run(problem.preamble, "def quarter(x: List[int]):\n    return [half(half(y)) for y in x]\n", problem.test)
    space["check"](space["quarter"])


def test_humaneval_plus_takes_all_inputs_and_leaves_the_results_to_the_judge(tmp_path: Path) -> None:
    row = {**HUMANEVAL, "contract": "", "base_input": [[[4]]], "plus_input": [[[0]], [[-8, 8]]], "atol": 0}
    problem = one(tmp_path / "h.jsonl", row)
    assert problem.inputs == (([4],), ([0],), ([-8, 8],))
    assert (problem.expected, problem.test, problem.atol) == (None, "", 1e-6)
    assert one(tmp_path / "h.jsonl", {**row, "atol": 1e-4}).atol == 1e-4


def test_humaneval_32_accepts_any_root(tmp_path: Path) -> None:
    prompt = (
        "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n\n\ndef find_zero(xs):\n    'a root'\n"
    )
    row = {**HUMANEVAL, "prompt": prompt, "entry_point": "find_zero", "canonical_solution": "    return -1.0\n"}
    row |= {"contract": "", "base_input": [[[-1, 0, 1]]], "plus_input": [], "atol": 1e-4}
    problem = one(tmp_path / "h.jsonl", row)
    space = run(problem.preamble, problem.setup, problem.test)
    space["check"](lambda xs: 1.0)
    space["check"](lambda xs: -1.00001)
    with pytest.raises(AssertionError):
        space["check"](lambda xs: 1.01)


def plus(**changes: Any) -> dict[str, Any]:
    row = {
        "task_id": "Mbpp/2",
        "prompt": '"""\nWrite f.\nassert f((1, 2), [3]) == 3\n"""\n',
        "entry_point": "f",
        "canonical_solution": "\ndef f(a, b: list):\n  return a[0] + b[0]\n",
        "base_input": [[[1, 2], [3]]],
        "atol": 0,
        "plus_input": [[[], []]],
        "contract": "\n  assert isinstance(a, tuple)\n",
        "assertion": "\nassert f((1, 2), [3]) == 4\n",
    }
    return {**row, **changes}


def test_mbpp_plus_prompt_and_types_of_arguments(tmp_path: Path) -> None:
    problem = one(tmp_path / "m.jsonl", plus())
    assert problem.prompt == 'def f(a, b: list):\n    """Write f.\n    assert f((1, 2), [3]) == 3\n    """\n'
    assert problem.inputs == (((1, 2), [3]), ((), []))


@pytest.mark.parametrize(
    ("call", "inputs", "typed"),
    [
        ("f([(1, 'a'), (2, 'b')])", [[[[3, "c"]]], [[]]], [([(3, "c")],), ([],)]),
        ("f((1, (2, (3, 4))))", [[[1, [2, [3, [4, [5]]]]]]], [((1, (2, (3, (4, (5,))))),)]),
        ("f(([1], [2]))", [[[[1], [2, [3]]]]], [(([1], [2, [3]]),)]),
        ("f([{1, 2}, {}])", [[[[3, 4, 4], []]]], [([{3, 4}, {}],)]),
        ("f({'a': (1, 2)}, 3)", [[{"b": [3, 4]}, 5]], [({"b": (3, 4)}, 5)]),
        ("f(0, 1j)", [["2", "2j"]], [(2.0, 2j)]),
        ("f([1, 2])", [[["kx", True]]], [(["kx", True],)]),
        ("f(1)", [["(1+2j)"], [7], ["none"]], [(1 + 2j,), (7,), ("none",)]),
        ("f((14*14)) == f(3)", [[196]], [(196,)]),
    ],
)
def test_mbpp_plus_types_follow_the_assertion(
    tmp_path: Path, call: str, inputs: list[list[Any]], typed: list[tuple[Any, ...]]
) -> None:
    problem = one(tmp_path / "m.jsonl", plus(assertion=f"assert {call} == 1", base_input=inputs, plus_input={}))
    assert repr(problem.inputs) == repr(tuple(typed))  # repr: True is not 1, () is not []


def test_mbpp_plus_compares_as_its_asserts_do(tmp_path: Path) -> None:
    as_sets = plus(
        canonical_solution="def f(a):\n    return [1, 2]\n",
        prompt='"""\nX.\nassert set(f([1])) == set([1, 2])\n"""',
        assertion="assert f([1]) == [1, 2]",
        base_input=[[[1]]],
        plus_input=[[[2]]],
    )
    space = run(*((problem := one(tmp_path / "m.jsonl", as_sets)).setup, problem.test))
    space["check"](lambda a: [2, 1, 1])
    with pytest.raises(AssertionError):
        space["check"](lambda a: [1] if a == [2] else [1, 2])
    truth = plus(
        canonical_solution="def f(a):\n    return a > 0\n",
        assertion="assert f(1)\nassert not f(-1)",
        base_input=[[1], [-1]],
        plus_input=[[float("inf")]],
    )
    space = run(*((problem := one(tmp_path / "m.jsonl", truth)).setup, problem.test))
    space["check"](lambda a: "yes" if a > 0 else None)
    with pytest.raises(AssertionError):
        space["check"](lambda a: True)


def test_general_form_with_inputs(tmp_path: Path) -> None:
    row = {
        "task_id": "X/1",
        "prompt": "def f(a, b):\n",
        "entry_point": "f",
        "inputs": [[1, 2], [[3], "x"]],
        "expected": [3, None],
        "atol": 0.5,
        "setup": "import math",
        "preamble": "K = 1",
        "solution": "def f(a, b): ...",
        "split": "quiz",
        "difficulty": 1,
    }
    assert one(tmp_path / "g.jsonl", row) == Problem(
        task_id="X/1",
        prompt="def f(a, b):\n",
        entry_point="f",
        inputs=((1, 2), ([3], "x")),
        expected=(3, None),
        atol=0.5,
        setup="import math",
        preamble="K = 1",
        solution="def f(a, b): ...",
        split="quiz",
        source=str(tmp_path / "g.jsonl"),
    )


def test_upstream_rows_lose_crlf_and_the_space_in_the_entry_point(tmp_path: Path) -> None:
    row = {
        "task_id": "575",
        "prompt": 'def count_no (A):\r\n    """Count."""\n',
        "test": "def check(candidate):\r\n    assert count_no(1) == 2\r\n    assert count_no(2) == 3",
        "entry_point": "count_no ",
    }
    problem = one(tmp_path / "u.jsonl", row)
    assert problem.task_id == "575"
    assert problem.prompt == 'def count_no (A):\n    """Count."""\n'
    assert problem.entry_point == "count_no"
    space = run(problem.test)
    space["check"](lambda a: a + 1)
    with pytest.raises(AssertionError):
        space["check"](lambda a: a)


def test_hub_data_sets_are_read_like_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder owner/name is what `datasets` itself takes for a Hub repository that is at hand."""
    pytest.importorskip("datasets", reason="Hub data sets need the extra `hub`")
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    write(folder / "train.jsonl", HUMANEVAL)
    write(folder / "test.jsonl", {**HUMANEVAL, "task_id": "HumanEval/1"})
    monkeypatch.chdir(tmp_path)
    assert sorted(problem.task_id for problem in load(SourceSettings(source="owner/name"))) == [
        "HumanEval/0",
        "HumanEval/1",
    ]
    (problem,) = load(SourceSettings(source="owner/name", split="test"))
    assert (problem.task_id, problem.entry_point) == ("HumanEval/1", "quarter")
    with pytest.raises(ValueError, match=r"no split 'dev'(.|\n)*its splits are test, train"):
        load(SourceSettings(source="owner/name", split="dev"))
