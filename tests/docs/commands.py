"""Whether a command of the documentation could be typed as it stands: checked against the real command line, Makefile
and files, without running it."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import typer

from ap2o_fast import config
from ap2o_fast.cli import app
from tests.docs.blocks import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OTHERS = {
    "evalplus.evaluate": "EvalPlus's own; tests/evaluation/test_given_answers.py runs it",
    "git": "no part of ours",
    "cat": "the shell's",
    "cd": "the shell's",
    ".": "the shell's",
    "ls": "the shell's",
    "export": "the shell's",
    "less": "no part of ours",
    "tail": "no part of ours",
    "tensorboard": "its own options",
    "docker": "its own options; tests/packaging looks at the Dockerfiles",
    "nvidia-smi": "the driver's",
}
"""Programs that are not ours and why they are not looked at here."""


class Wrong(Exception):
    """What is wrong with a command."""


def check(line: str) -> None:
    """Return if every command of a shell line can be typed. Errors: `Wrong`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            _check_one(words)
            words = []
        else:
            words.append(word)


def _check_one(words: list[str]) -> None:
    if any(set(word) <= set("<>") for word in words):
        words = words[: next(i for i, word in enumerate(words) if set(word) <= set("<>"))]
    while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
        words = words[1:]
    if not words or words[0] in OTHERS:
        return
    program, rest = words[0], words[1:]
    known = {"ap2o": ap2o, "make": make, "pip": pip, "torchrun": torchrun, "python": python, "python3": python}
    if program not in known:
        raise Wrong(f"{program} is no program of ours: give tests/docs/commands.py a reason to pass it by")
    known[program](rest)


def ap2o(words: list[str]) -> None:
    """Command, options and settings exist, and settings take the values."""
    words = [word for word in words if word != "--debug"]
    flags = words.index("--") if "--" in words else len(words)
    command: Any = typer.main.get_command(app)
    try:
        made = command.make_context("ap2o", words[:flags])
        while hasattr(command, "resolve_command"):
            # A group keeps the name of the command apart, under the same name in click and in typer's copy of it.
            _, command, rest = command.resolve_command(made, [*made._protected_args, *made.args])
            made = command.make_context(command.name, rest, parent=made)
    except typer.Exit:
        return
    except Exception as error:
        # click's own errors, which newer releases of typer have a copy of
        if not hasattr(error, "format_message"):
            raise
        raise Wrong(error.format_message()) from error
    overrides = [text for text in made.args if "=" in text]
    if unknown := set(made.args) - set(overrides):
        raise Wrong(f"{command.name} takes no {', '.join(sorted(unknown))}")
    given = made.params.get("file") or made.params.get("target")
    file = ROOT / given if isinstance(given, Path) and (ROOT / given).is_file() else None
    if overrides or file:
        defaults = config.DPO_DEFAULTS if command.name == "dpo" else None
        try:
            config.load(file, overrides, defaults=defaults)
        except config.UsageError as error:
            raise Wrong(str(error)) from error


def make(words: list[str]) -> None:
    """Targets and variables are in the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, equals, _ = word.partition("=")
        if equals and not re.search(rf"^{name} (\?|:)?=", text, re.MULTILINE):
            raise Wrong(f"the Makefile has no variable {name}")
        if not equals and not re.search(rf"^{re.escape(word)}:", text, re.MULTILINE):
            raise Wrong(f"the Makefile has no target {word}")


def pip(words: list[str]) -> None:
    """Extras of ours exist."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for found in (re.search(r"(?:^\.|ap2o[-_]fast)\[([\w,]+)\]", word) for word in words):
        if found and (missing := set(found[1].split(",")) - set(extras)):
            raise Wrong(f"pyproject.toml has no extra {', '.join(missing)}")


def torchrun(words: list[str]) -> None:
    """Options are torchrun's, and what it starts is as for `python`."""
    from torch.distributed.run import get_args_parser

    try:
        given = get_args_parser().parse_args(words)
    except SystemExit as error:
        raise Wrong(f"torchrun does not take {' '.join(words)}") from error
    python(["-m" if given.module else "", given.training_script, *given.training_script_args])


def python(words: list[str]) -> None:
    """File or module exist, and its source knows every option."""
    words = [word for word in words if word]
    if words[:2] == ["-m", "ap2o_fast"]:
        return ap2o(words[2:])
    if words[:2] in (["-m", "pip"], ["-m", "pytest"], ["-m", "venv"], ["-m", "http.server"]) or words[:1] == ["-c"]:
        return None
    if words[:1] == ["-m"]:
        found = importlib.util.find_spec(words[1])
        if found is None or found.origin is None:
            raise Wrong(f"there is no module {words[1]}")
        source, words = Path(found.origin), words[1:]
    else:
        source = ROOT / words[0]
        if words[0] in ("train.py", "mine.py"):
            return None  # the reader's own, which stands beside the command
        if not source.is_file():
            raise Wrong(f"there is no file {words[0]}")
    text = source.read_text(encoding="utf-8")
    for option in (word.partition("=")[0] for word in words[1:] if word.startswith("--")):
        if option not in text:
            raise Wrong(f"{source.name} has no option {option}")
    return None
