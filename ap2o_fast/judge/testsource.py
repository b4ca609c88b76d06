"""Assert-style tests: found, counted and rewritten, so that the examiner knows which assert held and what failed.

Each ``assert`` becomes a call of the examiner's counter. Its message expression is dropped: the report shows the
assert itself and what the answer returned.
"""

from __future__ import annotations

import ast
import builtins
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

COUNTER = "__ap2o_counter__"
_KNOWN = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__", "__builtins__"}
_STRAIGHT = (ast.With,)


@dataclass(frozen=True, kw_only=True)
class TestProgram:
    """A test that is ready to run.

    Attributes:
        code: defines ``check``, or runs the asserts.
        checks: True if ``check(candidate)`` is to be called.
        sources: the text of each assert, by its number.
        total: how many asserts a complete run passes; None where some sit in loops, branches or helper functions.
    """

    __test__ = False

    code: types.CodeType
    checks: bool
    sources: tuple[str, ...]
    total: int | None


class CannotJudge(Exception):
    """The test needs more of the answer than inert results of calls. The text says what."""


def compile_test(test: str, entry_point: str, known: Iterable[str] = ()) -> TestProgram:
    """Parse, vet and rewrite a test.

    Args:
        test: source that defines ``check(candidate)``, or bare asserts.
        entry_point: the function that bare asserts call.
        known: source that runs before (preamble, setup), for the names that it defines.

    Errors: `CannotJudge` where the source is broken, asserts nothing, never calls the answer, uses names that nothing
    defines (helpers of the answer), or calls it for its side effects on arguments.
    """
    try:
        tree = ast.parse(test)
        before = [ast.parse(source) for source in known]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CannotJudge(f"the test cannot be parsed: {error}") from None
    check = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
    if check is not None and not check.args.args:
        raise CannotJudge("check() takes no candidate")
    names = {entry_point} | ({check.args.args[0].arg} if check else set())
    _vet(tree, before, names)
    body = check.body if check else tree.body
    straight = list(_straight_asserts(body))
    asserts = sum(isinstance(node, ast.Assert) for node in ast.walk(tree))
    rewriter = _Rewriter()
    rewritten = ast.fix_missing_locations(rewriter.visit(tree))
    return TestProgram(
        code=compile(rewritten, "<test>", "exec", dont_inherit=True),
        checks=check is not None,
        sources=tuple(rewriter.sources),
        total=len(straight) if 0 < asserts == len(straight) else None,
    )


def _vet(tree: ast.Module, before: list[ast.Module], names: set[str]) -> None:
    if not any(isinstance(node, (ast.Assert, ast.Raise)) for module in (tree, *before) for node in ast.walk(module)):
        uses = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if not any(name.startswith("assert") for name in uses):
            raise CannotJudge("the test asserts nothing")
    if not any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(tree)):
        raise CannotJudge(f"the test never calls {' or '.join(sorted(names))}")
    loaded, bound = _names(tree)
    for module in before:
        bound |= _names(module)[1]
    missing = sorted(loaded - bound - names - _KNOWN)
    if missing and "*" not in bound:
        raise CannotJudge(f"the test uses {', '.join(missing[:3])}, which neither the test nor its setup defines")
    for node in _outside_try(tree.body):
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names - {"check"}:
            raise CannotJudge("the test calls the answer for its effect on the arguments")


def _names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Names that are read, and names that are bound anywhere."""
    loaded: set[str] = set()
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            bound.add(node.name)
    return loaded, bound


def _outside_try(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.Try):
            continue
        yield node
        for field in ("body", "orelse"):
            yield from _outside_try(getattr(node, field, []))


def _straight_asserts(body: list[ast.stmt]) -> Iterator[ast.Assert]:
    """Asserts that a run without failure passes exactly once."""
    for node in body:
        if isinstance(node, ast.Assert):
            yield node
        elif isinstance(node, _STRAIGHT):
            yield from _straight_asserts(node.body)


class _Rewriter(ast.NodeTransformer):
    def __init__(self) -> None:
        self.sources: list[str] = []

    def visit_Assert(self, node: ast.Assert) -> ast.Expr:
        number = len(self.sources)
        self.sources.append(ast.unparse(ast.Assert(test=node.test, msg=None)))
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            method, arguments = "equal", [test.left, test.comparators[0]]
        else:
            method, arguments = "holds", [test]
        call = ast.Call(
            func=ast.Attribute(value=ast.Name(id=COUNTER, ctx=ast.Load()), attr=method, ctx=ast.Load()),
            args=[ast.Constant(value=number), *arguments],
            keywords=[],
        )
        return ast.copy_location(ast.Expr(value=call), node)
