"""Reading Python source without running it: names, signatures, definitions."""

from __future__ import annotations

import ast
import builtins
import io
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable


class BadRow(ValueError):
    """A row that cannot be made into a problem; the caller adds where it stands."""


def lines(text: str) -> str:
    """The text with every line end as LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse(code: str, what: str) -> ast.Module:
    """The syntax tree. Errors: `BadRow` that says `what` is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in other people's strings
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadRow(f"{what} is not Python: {error}") from error


def defined(tree: ast.Module) -> dict[str, ast.stmt]:
    """Every name that the statements of a module bind, and the last statement that does."""
    found: dict[str, ast.stmt] = {}
    for statement in tree.body:
        for name in _bound(statement):
            found[name] = statement
    return found


def free_names(code: str) -> set[str]:
    """The names that `code` reads but neither binds anywhere nor gets from Python; none that one can tell after ``*``.

    Errors: `BadRow` if `code` is not Python.
    """
    tree = parse(code, "the test")
    read: set[str] = set()
    bound: set[str] = set(dir(builtins)) | {"__name__", "__file__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            bound.add(node.name)
    return set() if "*" in bound else read - bound


def called(asserts: Iterable[str], code: str) -> str:
    """The function of `code` that the asserts call most often. Errors: `BadRow` if they call none of its functions."""
    own = {
        name
        for name, statement in defined(parse(code, "'code'")).items()
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Assign))
    }
    calls = Counter(
        node.func.id
        for text in asserts
        for node in ast.walk(parse(text, "a test"))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in own
    )
    if not calls:
        raise BadRow(f"no test calls a function of 'code' (it defines {', '.join(sorted(own)) or 'none'})")
    return calls.most_common(1)[0][0]


def prompt(code: str, entry_point: str, text: str) -> str:
    """The signature of `entry_point` as `code` writes it, with `text` as its docstring: what upstream shows for MBPP.

    Source: upstream's train.jsonl. Errors: `BadRow` if `code` does not define `entry_point` by ``def``.
    """
    statement = defined(parse(code, "'code'")).get(entry_point)
    if not isinstance(statement, ast.FunctionDef):
        raise BadRow(f"'code' does not define {entry_point!r} by def")
    body = lines(text).strip().replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    if "\n" in body:
        body = body.replace("\n", "\n    ") + "\n    "
    elif body.endswith('"'):
        body += " "
    return f'{_signature(code, statement)}\n    """{body}"""\n'


def before(code: str, entry_point: str) -> str:
    """What stands in `code` before the definition of `entry_point`, e.g. a prompt's imports and helpers.

    Errors: `BadRow` if `code` is not Python or does not define it.
    """
    statement = defined(parse(code, "'prompt'")).get(entry_point)
    if not isinstance(statement, ast.FunctionDef):
        raise BadRow(f"'prompt' does not define {entry_point!r}")
    return "\n".join(code.split("\n")[: statement.lineno - 1]).strip("\n")


def definitions(
    code: str,
    *,
    wanted: set[str],
    kinds: tuple[type[ast.stmt], ...] = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign),
) -> str:
    """The statements of `code` that define `wanted` names, and what these need in turn, in order; empty if none."""
    tree = parse(code, "the source of helpers")
    by_name = defined(tree)
    chosen: set[ast.stmt] = set()
    queue = [by_name[name] for name in sorted(wanted) if name in by_name and isinstance(by_name[name], kinds)]
    while queue:
        statement = queue.pop()
        if statement not in chosen:
            chosen.add(statement)
            queue += [by_name[name] for name in free_names(ast.unparse(statement)) if name in by_name]
    return "\n".join(ast.get_source_segment(code, each) or "" for each in tree.body if each in chosen)


def check_function(tree: ast.Module) -> tuple[ast.FunctionDef, str] | None:
    """The module's ``check(candidate)`` and the name of its parameter, None where there is no such function."""
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "check" and len(statement.args.args) == 1:
            return statement, statement.args.args[0].arg
    return None


def bind_by_name(test: str, entry_point: str) -> str:
    """A ``check(candidate)`` that calls the function by name instead, as ``check(<entry_point>)``; others unchanged.

    Binding the name by the parameter keeps every line of the test as it is.
    """
    try:
        tree = parse(test, "the test")
    except BadRow:
        return test  # the audit reports it
    found = check_function(tree)
    if found is None:
        return test
    function, parameter = found
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    if parameter in names or entry_point not in names or entry_point in defined(tree):
        return test
    header, place = test.split("\n"), function.args.args[0]
    left, right = header[place.lineno - 1][: place.col_offset], header[place.lineno - 1][place.col_offset :]
    if not right.startswith(parameter):  # columns count bytes: only letters beyond ASCII can move them
        return test
    header[place.lineno - 1] = left + entry_point + right.removeprefix(parameter)
    return "\n".join(header)


def _bound(statement: ast.stmt) -> set[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.split(".")[0] for alias in statement.names}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _signature(code: str, function: ast.FunctionDef) -> str:
    """The header as it is written, up to its colon, which is the first one outside brackets."""
    rest = code.split("\n")[function.lineno - 1 :]
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO("\n".join(rest)).readline):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
            if token.string == ":" and depth == 0:
                row, column = token.end
                return "\n".join([*rest[: row - 1], rest[row - 1][:column]])
    raise BadRow(f"the signature of {function.name!r} cannot be read")
