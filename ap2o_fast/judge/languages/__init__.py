"""The languages that can be judged, each one file behind the protocol of `language`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ap2o_fast.errors import MachineError, UsageError
from ap2o_fast.judge.languages.cpp import Cpp
from ap2o_fast.judge.languages.javascript import JavaScript
from ap2o_fast.judge.languages.language import Language, missing, version
from ap2o_fast.judge.languages.python import Python

LANGUAGES: Mapping[str, Language] = {"python": Python(), "javascript": JavaScript(), "cpp": Cpp()}

__all__ = ["LANGUAGES", "Language", "missing", "require", "version"]


def require(names: Iterable[str], memory_mib: int) -> None:
    """Return if answers in all these languages can be judged here.

    Args:
        names: languages of problems.
        memory_mib: the limit of memory that they would run under.

    Errors: `UsageError` for an unknown language or too low a limit, `MachineError` for one that is not installed.
    """
    for name in sorted(set(names)):
        if name not in LANGUAGES:
            raise UsageError(
                f"there are problems in {name!r}",
                why=f"the judge knows {', '.join(LANGUAGES)}",
                do="set `language` of the problems to one of these",
            )
        language = LANGUAGES[name]
        reason = missing(language)
        if reason:
            raise MachineError(f"{name} cannot be judged here", why=reason, do=language.install)
        if memory_mib < language.least_mib:
            raise UsageError(
                f"judge.memory_mib={memory_mib} is too little for {name}", do=f"set it to {language.least_mib} or more"
            )
