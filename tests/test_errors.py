"""Every error that is the reader's to mend says what happened and what to do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ap2o_fast import errors
from ap2o_fast.exits import Exit

PACKAGE = Path(errors.__file__).parent
KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.Ap2oError) and kind is not errors.Ap2oError
}


def made(path: Path) -> list[ast.Call]:
    """Every place in a file where one of our errors is made."""
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    names = {*KINDS, "Ap2oError"}
    return [call for call in calls if (getattr(call.func, "id", "") or getattr(call.func, "attr", "")) in names]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if made(path))


def test_there_are_errors_to_look_at() -> None:
    assert len(FILES) > 50


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_error_says_what_to_do(path: Path) -> None:
    silent = []
    for call in made(path):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        empty = isinstance(do := given.get("do"), ast.Constant) and not do.value
        if "do" not in given or empty or not call.args:
            silent.append(f"{path.name}:{call.lineno}")
    assert not silent


def test_no_two_kinds_have_one_exit_code() -> None:
    codes = [kind.exit_code for kind in KINDS.values()]
    assert sorted(codes) == [Exit.USAGE, Exit.DATA, Exit.MACHINE, Exit.SANDBOX, Exit.NUMERICAL]


def test_an_error_prints_what_why_and_do() -> None:
    text = str(errors.DataError("no file", why="it was moved", do="name another"))
    assert text == "no file\nwhy: it was moved\ndo:  name another"
