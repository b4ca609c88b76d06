"""The commands in docs/command-line.md, made from the program: `python -m tests.command_docs` writes them anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from ap2o_fast.cli import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "command-line.md"
BEGIN, END = "<!-- commands: made by tests/command_docs.py -->\n", "<!-- end of commands -->\n"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name, in the order of `--help`."""
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for below, one in getattr(command, "commands", {"": command}).items():
            yield f"{name} {below}".strip(), one


def listed() -> str:
    """The list as Markdown."""
    lines = []
    for name, command in commands():
        words = [name]
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                word = (parameter.metavar or parameter.name).upper()
                words.append(word if parameter.required else f"[{word}]")
        lines.append(f"**`ap2o {' '.join(words)}`** {' '.join(command.help.split())}\n\n")
        options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
        lines += [f"* `{'`, `'.join(option.opts)}`: {option.help}\n" for option in options]
        lines += ["\n"] if options else []
    return "".join(lines)


def renewed(text: str) -> str:
    """The page with the list as it is now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + listed() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
