"""docs/command-line.md and the program say the same."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator

import pytest

from ap2o_fast.exits import Exit
from ap2o_fast.reporting import events
from tests.command_docs import PAGE, commands, listed, renewed

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_list_of_commands_is_that_of_the_program() -> None:
    assert renewed(TEXT) == TEXT, "python -m tests.command_docs writes it anew"


def test_every_command_and_option_says_what_it_is_for() -> None:
    silent = [
        f"{name} {parameter.name}"
        for name, command in commands()
        for parameter in command.params
        if not parameter.help and parameter.name not in ("book", "books", "first", "second", "path", "copy", "out_path")
    ]
    assert not silent
    assert listed().count("**`ap2o ") == len(dict(commands())) > 25


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> Iterator[list[str]]:
    for line in section(title).splitlines():
        if line.startswith("| ") and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_exit_codes_are_those_of_the_program() -> None:
    assert [int(row[0]) for row in rows("Exit codes") if row[0].isdigit()] == [code.value for code in Exit]


@pytest.mark.parametrize("kind", typing.get_args(events.Event), ids=lambda kind: kind.__name__)
def test_every_field_of_an_event_is_told(kind: type) -> None:
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    (told,) = [row[1] for row in rows("Events of `--json`") if row[0] == f"`{fields['event']}`"]
    missing = [name for name in fields if name != "event" and f"`{name}`" not in told]
    assert not missing


def test_every_command_with_events_has_its_result_told() -> None:
    told = " ".join(row[0] for row in rows("Events of `--json`"))
    for name, command in commands():
        if not name.startswith("book") and any("--json" in parameter.opts for parameter in command.params):
            assert re.search(rf"`{name}`", told), name
