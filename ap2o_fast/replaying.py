"""On-policy replay: between a quiz and the next epoch the model answers the problems that it is weak at again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook, first_alike
from ap2o_fast.curriculum import Pool, ReplayPool, look_back, replay_pools, weakest
from ap2o_fast.judge import ErrorType
from ap2o_fast.workbench import Workbench

ASKED, LOG = "replay_asked.jsonl", "replay.jsonl"
STAGE, SCORING = "replay", "replay reference"
_STREAM = 3  # of chance; the curriculum has 1 and 2


def replayed(
    bench: Workbench, pools: Sequence[Pool], epoch: int, quiz_errors: Mapping[int, int]
) -> dict[int, ReplayPool] | None:
    """What is replayed of each problem in the epoch after `epoch` epochs; None for what the pools have themselves.

    Where a round of fresh answers is due it is sat before, or what is missing of it: the problems are chosen and
    written down (replay_asked.jsonl), asked, judged, appended to the exam's book as round `epoch`, and their
    reference log-probabilities added; then a line goes to replay.jsonl.

    Args:
        bench: with the model in training in memory.
        pools: the exam's.
        quiz_errors: count of every error type (by code) in the quiz after `epoch` epochs.
    """
    how, book, exam = bench.config.replay, bench.book("exam"), bench.config.sampling
    if how.source == "book":
        return None
    due = epoch > 0 and epoch % how.every == 0
    asked = _asked(bench, epoch, quiz_errors) if due else {}
    before = bench.folder.read_json("timing.json")
    if asked:
        bench.sit(
            STAGE,
            epoch,
            f"epoch-{epoch}",
            n=how.n,
            temperature=exam.temperature if how.temperature is None else how.temperature,
            top_p=exam.top_p if how.top_p is None else how.top_p,
            only=asked,
        )
    found = replay_pools(book, pools, how.source, round=epoch)
    fresh = first_alike(book)[_judged(book, epoch)] if due else np.empty(0, np.int64)
    wanted = [fresh, *(part for pool in found.values() for part in (pool.passed, pool.failed))]
    reference = bench.reference_logps(book, np.unique(np.concatenate(wanted)), SCORING)
    if due and all(line["round"] != epoch for line in bench.folder.read_lines(LOG)):
        line = _result(book, epoch, asked, reference) | _cost(before, bench.folder.read_json("timing.json"))
        bench.folder.append(LOG, line)
    return found


def _asked(bench: Workbench, epoch: int, quiz_errors: Mapping[int, int]) -> dict[str, str]:
    """Task id and, by name, the error type for which it is asked; what was decided once stays decided."""
    for line in bench.folder.read_lines(ASKED):
        if line["round"] == epoch:
            return dict(line["asked"])
    how, book = bench.config.replay, bench.book("exam")
    limit = how.max_answers // how.n if how.max_answers else len(book.task_ids)
    speed = None
    if how.max_seconds:
        speed = seconds_per_answer(bench.folder.read_json("timing.json"))
        # Without a measurement one problem is asked, which is one.
        limit = min(limit, max(1, int(how.max_seconds / (speed * how.n))) if speed else 1)
    rng = np.random.default_rng([bench.config.seed, _STREAM, epoch])
    chosen = weakest(look_back(book, epoch - 1), quiz_errors, limit, rng)
    asked = {book.task_ids[problem]: ErrorType(kind).name for problem, kind in chosen.items()}
    bench.folder.append(ASKED, {"round": epoch, "asked": asked, "seconds_per_answer": speed})
    return asked


def seconds_per_answer(timing: Mapping[str, Mapping[str, float]]) -> float | None:
    """What a fresh answer takes to sample, judge and score, by the rounds so far, before the first by the exam.

    Args:
        timing: content of timing.json.
    Returns: None where nothing has been measured.
    """
    sat, scored = timing.get(STAGE, {}), timing.get(SCORING, {})
    if sat.get("answers"):
        return (sat["seconds"] + scored.get("seconds", 0.0)) / sat["answers"]
    sat, scored = timing.get("exam", {}), timing.get("reference", {})
    if not sat.get("answers"):
        return None
    return sat["seconds"] / sat["answers"] + scored.get("seconds", 0.0) / max(scored.get("answers", 0), 1)


def _result(
    book: ErrorBook, epoch: int, asked: Mapping[str, str], reference: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """A round's line of replay.jsonl, but for what it cost."""
    rows, judged, first = np.flatnonzero(book.column("round") == epoch), _judged(book, epoch), first_alike(book)
    counts = np.bincount(book.column("error")[rows], minlength=len(ErrorType))
    known, problems = look_back(book, epoch), [book.problem_index(task_id) for task_id in asked]
    ratios = [float(book.logprobs(row).sum(dtype=np.float64)) - float(reference[first[row]]) for row in judged.tolist()]
    return {
        "round": epoch,
        "problems": len(asked),
        "asked": dict(Counter(asked.values()).most_common()),
        "answers": len(rows),
        "passed": int(counts[ErrorType.Passed]),
        "failures": {kind.name: int(counts[kind]) for kind in ErrorType if kind.is_failure and counts[kind]},
        "unjudged": len(rows) - len(judged),
        "duplicates": int(np.count_nonzero(first[rows] != rows)),
        "solved": int(known.solved[problems].sum()),
        "hopeless": int(known.hopeless[problems].sum()),
        "log_ratio": float(np.mean(ratios)) if ratios else None,
        "tokens": int(book.column("length")[rows].sum()),
    }


def _cost(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float | None]:
    """Seconds of sampling with judging and of scoring, and tokens a second, of what this process did of the round."""
    spent = {
        (stage, unit): after.get(stage, {}).get(unit, 0) - before.get(stage, {}).get(unit, 0)
        for stage in (STAGE, SCORING)
        for unit in ("seconds", "tokens")
    }
    seconds, tokens = spent[STAGE, "seconds"], spent[STAGE, "tokens"]
    return {
        "seconds": round(seconds, 3),
        "score_seconds": round(spent[SCORING, "seconds"], 3),
        "tokens/s": round(tokens / seconds, 1) if tokens and seconds > 0 else None,
    }


def _judged(book: ErrorBook, round: int) -> npt.NDArray[np.int64]:
    """The round's rows that passed or failed."""
    return np.flatnonzero((book.column("round") == round) & (book.column("error") < ErrorType.Unjudgeable))
