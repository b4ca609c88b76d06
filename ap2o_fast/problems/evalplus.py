"""EvalPlus's inputs: JSON has lists only, so the types of arguments are read off the task's own assertions.

EvalPlus itself keeps lists of task numbers by hand (`evalplus.data.mbpp.mbpp_deserialize_inputs`); here each task says
so itself: `assertion` calls the function with Python literals, and what is a tuple there is a tuple in every input.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ap2o_fast.problems import source

FLOAT_ATOL = 1e-6
"""EvalPlus's tolerance of floats where a task names none."""

ANY_ORDER = frozenset({"find_dissimilar", "Diff"})
"""Mbpp/579 and 769 leave the order of the result open, though their asserts show one: compared as sets, as EvalPlus
does. For Mbpp/558 and 581 EvalPlus accepts a second reading of the task, too; here only the reference's."""

_NESTS = (list, tuple, set)


def inputs(row: Mapping[str, Any]) -> list[list[Any]]:
    """The argument lists of `base_input` and `plus_input`; an empty one is also written ``{}``. Errors: `BadRow`."""
    parts = [row[key] or [] for key in ("base_input", "plus_input")]
    if not all(isinstance(part, list) and all(isinstance(each, list) for each in part) for part in parts):
        raise source.BadRow("'base_input' and 'plus_input' must be lists of lists of arguments")
    return parts[0] + parts[1]


def typed(inputs: Sequence[Sequence[Any]], assertion: str, entry_point: str) -> list[tuple[Any, ...]]:
    """The JSON `inputs` with the types that the calls of `entry_point` in `assertion` have.

    Errors: `BadRow` if `assertion` holds no call with literal arguments.
    """
    examples = _example_arguments(assertion, entry_point)
    if not examples:
        raise source.BadRow(f"'assertion' holds no call of {entry_point!r} with literal arguments")
    return [
        tuple(
            _like(value, [example[place] for example in examples if place < len(example)])
            for place, value in enumerate(arguments)
        )
        for arguments in inputs
    ]


def tests(row: Mapping[str, Any], inputs: Sequence[Sequence[Any]], solution: str) -> dict[str, Any]:
    """The fields of `Problem` that hold the tests: `inputs` and `atol`, or a `test` where equality is not the measure.

    Which measure, the task's own asserts say: ``set(f(x)) == set(…)`` asks for the same set, a bare ``f(x)`` or
    ``not f(x)`` for the same truth. HumanEval/32 asks for any root of a polynomial. Errors: `BadRow` for no inputs.
    """
    if not inputs:
        raise source.BadRow("no tests: 'base_input' and 'plus_input' are empty")
    entry_point, atol = row["entry_point"], float(row.get("atol") or 0) or FLOAT_ATOL
    shape = "abs(poly({0}, candidate({0}))) <= " + repr(atol) if entry_point == "find_zero" else _measure(row)
    if not shape:
        return {"test": "", "inputs": tuple(map(tuple, inputs)), "atol": atol}
    asserts = "\n".join("assert " + shape.format(", ".join(map(repr, arguments))) for arguments in inputs)
    # The reference keeps a namespace of its own: in the tests' the entry point is the answer.
    setup = (
        f"_own = {{}}\nexec({solution!r}, _own)\nreference = _own[{entry_point!r}]\n"
        "inf, nan = float('inf'), float('nan')\n"
    )
    if entry_point == "find_zero":
        setup += "poly = _own['poly']\n"
    return {"test": f"def check(candidate):\n{textwrap.indent(asserts, '    ')}\n", "setup": setup}


def _measure(row: Mapping[str, Any]) -> str:
    """How a result is compared, as a template of the arguments; empty for equality."""
    name = row["entry_point"]
    if name in ANY_ORDER and "assertion" in row:
        return "set(candidate({0})) == set(reference({0}))"
    texts = [row.get("assertion", "")]
    if "assertion" in row:
        texts.append("\n".join(line for line in row["prompt"].splitlines() if line.startswith("assert ")))
    for text in texts:
        for statement in source.parse(source.lines(text), "'assertion'").body:
            test = statement.test if isinstance(statement, ast.Assert) else None
            if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
                test = test.operand
            if isinstance(test, ast.Call) and _calls(test, name):
                return "bool(candidate({0})) == bool(reference({0}))"
            if isinstance(test, ast.Compare) and isinstance(test.left, ast.Call):
                inner = test.left
                if isinstance(inner.func, ast.Name) and inner.func.id == "set" and _calls(inner.args[0], name):
                    return "set(candidate({0})) == set(reference({0}))"
    return ""


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _example_arguments(assertion: str, entry_point: str) -> list[list[Any]]:
    examples = []
    for node in ast.walk(source.parse(assertion, "'assertion'")):
        if isinstance(node, ast.Call) and _calls(node, entry_point):
            try:
                examples.append([ast.literal_eval(argument) for argument in node.args])
            except ValueError:  # an expression such as 14*14: a number, which needs no change
                continue
    return examples


def _like(value: Any, examples: Sequence[Any]) -> Any:
    """The JSON `value` with the types that the `examples` for its place have."""
    if isinstance(value, str):
        numbers = bool(examples) and all(isinstance(example, (int, float, complex)) for example in examples)
        return _number(value) if numbers else value
    if isinstance(value, dict):
        inner = [item for example in examples if isinstance(example, dict) for item in example.values()]
        return {key: _like(item, inner) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    kinds = {type(example) for example in examples if isinstance(example, (*_NESTS, dict))}
    inner = [item for example in examples if isinstance(example, _NESTS) for item in example]
    if kinds == {tuple} and any(isinstance(item, tuple) for item in inner):
        inner = [*inner, *examples]  # tuples in tuples: however deep, it stays so
    # Members that are not nests themselves keep what JSON made of them: "kx" among numbers is text.
    items = [_like(item, inner) if isinstance(item, (list, dict)) else item for item in value]
    if set in kinds and kinds <= {set, dict}:
        return set(items) if items else {}
    return tuple(items) if kinds == {tuple} else items


def _number(text: str) -> Any:
    """JSON has no complex numbers: EvalPlus writes them as text."""
    try:
        return complex(text) if "j" in text else float(text)
    except ValueError:
        return text
