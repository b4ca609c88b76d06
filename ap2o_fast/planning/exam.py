"""What is planned on: the usable problems of an exam, from a run's error book or from upstream's merged.json."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook
from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum import Pool, make_pools
from ap2o_fast.curriculum.upstream import EXAM, PASSED, UPSTREAM, in_order
from ap2o_fast.errors import DataError
from ap2o_fast.judge.verdict import ErrorType
from ap2o_fast.upstream_exam import LEAST, GivenProblem, type_of


@dataclass(frozen=True, kw_only=True)
class Exam:
    """N answers to M problems.

    Attributes:
        task_ids: (M,) as in the source.
        pools: the usable problems; for the variant `upstream` their failures in its order.
        place: (N,) int64, which of its problem's answers each is, in stored order from 0.
        errors: (N,) the name of each answer's error, as in the source.
        code: the code that the pools have for the name of an error, None for one that none of them can have.
        left_out: the reason by task id for every problem without a pool.
    """

    task_ids: Sequence[str | int]
    pools: Sequence[Pool]
    place: npt.NDArray[np.int64]
    errors: Sequence[str]
    code: Callable[[str], int | None]
    left_out: Mapping[str, str]

    def quiz_errors(self, path: Path) -> dict[int, int]:
        """Count of every error type in a quiz, in the order of a file such as ``{"IndexError": 5}``.

        Errors: `DataError` for what cannot be read, is no such table, or names an error that there is not.
        """
        try:
            counts = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"the quiz counts {path} cannot be read", why=error.strerror or str(error), do="check the path"
            ) from error
        except ValueError as error:
            raise DataError(
                f"the quiz counts {path} are no JSON", why=str(error), do='write {"IndexError": 5, "TypeError": 2}'
            ) from error
        if not isinstance(counts, dict):
            raise DataError(f"the quiz counts {path} are no JSON object", do='write {"IndexError": 5, "TypeError": 2}')
        total: Counter[int] = Counter()
        for name, count in counts.items():
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise DataError(
                    f"{path}: {count!r} is no number of errors",
                    why=f"it is given for {name!r}",
                    do="give a whole number, 0 or more",
                )
            if name in ("", ErrorType.Passed.name):
                continue
            code = self.code(name)
            if code is None:
                known = [kind.name for kind in ErrorType if kind.is_failure]
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                raise DataError(
                    f"{path}: there is no error {name!r}",
                    do=f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}",
                )
            total[code] += count
        return dict(total)


def of_book(book: ErrorBook, settings: CurriculumSettings, *, upstream: bool) -> Exam:
    """The exam in a book.

    Args:
        settings: say which problems are usable; with `upstream` those are that merge.py keeps.
    """
    if upstream:
        settings = settings.model_copy(update={"min_passed": LEAST, "min_failed": LEAST})
    pools, dropped = make_pools(book, settings)
    foreign = book.labels.get(EXAM) == UPSTREAM
    return Exam(
        task_ids=book.task_ids,
        pools=in_order(book, pools) if upstream else pools,
        place=_places(book),
        errors=[_NAMES[code] for code in book.column("error").tolist()],
        code=(lambda name: int(type_of(name))) if foreign else _code,
        left_out=dropped,
    )


def of_upstream(problems: Sequence[GivenProblem], settings: CurriculumSettings, *, upstream: bool) -> Exam:
    """The exam in a merged.json, its answers numbered through.

    Its filter is not applied again. The variant `upstream` tells errors apart by name, as upstream does, and leaves out
    only what it could make no pair of; `paper` goes by our taxonomy and the settings.
    """
    names = list(dict.fromkeys(answer.error for problem in problems for answer in problem.answers if answer.error))
    raw = {name: number for number, name in enumerate(names, start=PASSED + 1)}
    known = raw if upstream else {name: int(type_of(name)) for name in names}
    least = (1, 1) if upstream else (settings.min_passed, settings.min_failed)
    pools, place, errors = [], list[int](), list[str]()
    left_out: dict[str, str] = {}
    for index, problem in enumerate(problems):
        codes = np.array([known.get(answer.error, PASSED) for answer in problem.answers], dtype=np.int64)
        passed, failed = (np.flatnonzero(found) for found in (codes == PASSED, codes != PASSED))
        start = len(place)
        place += range(len(codes))
        errors += [answer.error for answer in problem.answers]
        if len(passed) < least[0] or len(failed) < least[1]:
            left_out[str(problem.task_id)] = f"{len(passed)} passed and {len(failed)} failed answers"
        else:
            pools.append(
                Pool(problem=index, passed=start + passed, failed=start + failed, errors=_narrow(codes[failed]))
            )
    return Exam(
        task_ids=[problem.task_id for problem in problems],
        pools=pools,
        place=np.array(place, dtype=np.int64),
        errors=errors,
        # Errors of the quiz that no answer has count in its ratios: each needs a code of its own.
        code=(lambda name: raw.setdefault(name, PASSED + 1 + len(raw)))
        if upstream
        else (lambda name: int(type_of(name))),
        left_out=left_out,
    )


_NAMES = [kind.name for kind in ErrorType]


def _code(name: str) -> int | None:
    """The type of the taxonomy, by its own name or by a Python exception's."""
    if name in ErrorType.__members__:
        return int(ErrorType[name]) if ErrorType[name].is_failure else None
    kind = type_of(name)
    return None if kind is ErrorType.OtherError and name != "UnknownError" else int(kind)


def _places(book: ErrorBook) -> npt.NDArray[np.int64]:
    """(N,) where each row of the exam stands among its problem's."""
    problem, place = book.column("problem"), np.full(len(book), -1, dtype=np.int64)
    rows = np.flatnonzero(book.column("round") == 0)
    rows = rows[np.argsort(problem[rows], kind="stable")]
    starts = np.searchsorted(problem[rows], problem[rows], side="left")
    place[rows] = np.arange(len(rows)) - starts
    return place


def _narrow(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    if len(codes) and codes.max() > np.iinfo(np.uint8).max:
        raise DataError("the exam has more than 255 kinds of errors", do="check the error_type of its answers")
    return codes.astype(np.uint8)
