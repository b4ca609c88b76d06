"""Read problems from the starter set, a file or the Hub, and choose among them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from ap2o_fast.config import SourceSettings
from ap2o_fast.errors import DataError, UsageError
from ap2o_fast.problems import formats, rows
from ap2o_fast.problems.problem import Problem


def load(settings: SourceSettings) -> list[Problem]:
    """Return the problems that `settings` names, in the order of their source.

    The format is told by the keys of the rows (`formats.KNOWN`). Nothing of the data is ever run here.

    Errors: `UsageError` for settings that cannot be read; `DataError` for a source that is missing, empty or
    malformed, rows that lack keys or tests, task_ids that repeat, and choices that leave nothing; `MachineError`
    where a Hub data set needs the package `datasets` and it is not installed.
    """
    if settings.source in ("", "starter") or rows.is_file(settings.source):
        found = rows.starter() if settings.source == "starter" else rows.from_file(settings.source)
        problems = _of_split(formats.read(found, settings.source), settings)
    else:
        problems = formats.read(rows.from_hub(settings.source, settings.split), settings.source)
    problems = _of_ids(problems, settings)
    return problems[: settings.limit] if settings.limit else problems


def _of_split(problems: list[Problem], settings: SourceSettings) -> list[Problem]:
    if not settings.split:
        return problems
    there = sorted({problem.split for problem in problems} - {""})
    if settings.split not in there:
        raise DataError(
            f"{settings.source} has no split {settings.split!r}",
            why=f"its splits are {', '.join(there)}" if there else "its rows do not name a split",
            do="choose one of these" if there else "leave `split` empty and choose with `ids`",
        )
    return [problem for problem in problems if problem.split == settings.split]


def _of_ids(problems: list[Problem], settings: SourceSettings) -> list[Problem]:
    if not settings.ids:
        return problems
    chosen: set[str] = set()
    for part in (text.strip() for text in settings.ids.split(",")):
        wanted = _matcher(part)
        found = {problem.task_id for problem in problems if wanted(problem.task_id)}
        if not found:
            near = difflib.get_close_matches(part, [problem.task_id for problem in problems], n=1)
            raise DataError(
                f"no problem left: {part!r} of ids={settings.ids!r} matches none of the {len(problems)} of "
                f"{settings.source}" + (f" (split {settings.split})" if settings.split else ""),
                why=f"its task_ids look like {problems[0].task_id!r}" + (f"; nearest is {near[0]!r}" if near else ""),
                do="numbers match the number after the last '/', anything else matches a whole task_id",
            )
        chosen |= found
    return [problem for problem in problems if problem.task_id in chosen]


def _matcher(part: str) -> Callable[[str], bool]:
    numbers = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part)
    if numbers is None:
        if not part:
            raise UsageError("ids has an empty part", do="write e.g. ids=601-974,1-10 or ids=HumanEval/0,HumanEval/3")
        return lambda task_id: task_id == part
    first, last = int(numbers[1]), int(numbers[2] or numbers[1])
    if last < first:
        raise UsageError(f"the range {part} of ids runs backwards", do=f"write {last}-{first}")
    return lambda task_id: (tail := task_id.rpartition("/")[2]).isdecimal() and first <= int(tail) <= last
