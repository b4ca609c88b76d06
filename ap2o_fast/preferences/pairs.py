"""Preference pairs as an error book, so that training reads them as it reads an exam: memory-mapped, each answer's
reference log-probability beside it.

Row 2 i of the book is the chosen answer of pair i and row 2 i + 1 the rejected one, which counts as `OtherError`: no
test has judged it. Round 0 is trained on, round 1 evaluated. Equal answers to a prompt are one node of training: the
first of their rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook, Row
from ap2o_fast.config import HeldOutSettings
from ap2o_fast.curriculum.plan import WINDOW, PairPlan
from ap2o_fast.errors import DataError
from ap2o_fast.judge.verdict import ErrorType, Verdict
from ap2o_fast.preferences.format import TokenPair
from ap2o_fast.training.disk import sync

TRAINED, EVALUATED = 0, 1
COMMIT = 1024
"""Pairs of a commit."""
_VERDICTS = (
    Verdict(error=ErrorType.Passed, message="chosen"),
    Verdict(error=ErrorType.OtherError, message="rejected"),
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many tokens there may be: `sequence` in a prompt with one answer, `pair` in a prompt with both."""

    sequence: int
    pair: int

    def trouble(self, tokens: TokenPair) -> str:
        """Why a pair cannot be trained on, "" where it can."""
        prompt, answers = len(tokens.prompt), (len(tokens.chosen), len(tokens.rejected))
        if not prompt:
            return "its prompt has no token, so nothing predicts an answer's first"
        if np.array_equal(tokens.chosen, tokens.rejected):
            return "its answers are equal"
        if prompt + max(answers) > self.sequence:
            return f"its longer answer has {prompt + max(answers)} tokens with the prompt, the limit is {self.sequence}"
        if prompt + sum(answers) > self.pair:
            return f"prompt and answers have {prompt + sum(answers)} tokens, train.token_budget is {self.pair}"
        return ""


def write_pairs(
    path: Path,
    trained: Iterable[tuple[str, TokenPair]],
    evaluated: Iterable[tuple[str, TokenPair]],
    *,
    limits: Limits,
    advance: Callable[[], object],
) -> dict[str, str]:
    """Make the book of a run. It is written beside and renamed: a book that is there is whole.

    Args:
        path: where the book will be.
        trained, evaluated: pairs, each with its place in the data.
        advance: called after every pair.

    Returns: the reason by place for every pair that was left out.
    Errors: `DataError` where no pair to train on is left.
    """
    beside = path.with_name(path.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    excluded: dict[str, str] = {}
    names: dict[bytes, str] = {}
    seen: frozenset[bytes] = frozenset()
    pairs = 0
    with ErrorBook.create(beside) as book:
        for round, given in ((TRAINED, trained), (EVALUATED, evaluated)):
            for place, tokens in given:
                advance()
                prompt = tokens.prompt.tobytes()
                trouble = limits.trouble(tokens) or ("its prompt is trained on" if prompt in seen else "")
                if trouble:
                    excluded[place] = trouble
                    continue
                name = names.setdefault(prompt, f"prompt/{len(names)}")
                book.add_problem(name, tokens.prompt, tokens.texts[0])
                book.append(_rows(name, round, pairs, tokens))
                pairs += 1
                if pairs % COMMIT == 0:
                    book.commit()
            if pairs == 0:
                raise _nothing_left(excluded)
            seen = frozenset(names)
        book.commit()
    beside.rename(path)
    sync(path.parent)
    return excluded


def read_pairs(book: ErrorBook, held_out: HeldOutSettings, seed: int) -> tuple[PairPlan, PairPlan]:
    """The pairs to train on and those to evaluate, in the order of the data.

    Errors: `DataError` where holding out leaves nothing on one side.
    """
    problem, rounds = book.column("problem").astype(np.int64), book.column("round")
    node = _nodes(problem, book.column("digest"))
    chosen = np.arange(0, len(book), 2)
    held = rounds[chosen] == EVALUATED
    if held_out.share:
        prompts = np.unique(problem)
        count = max(1, round(held_out.share * len(prompts)))
        drawn = np.random.default_rng([seed, 4]).permutation(prompts)[:count]
        held = np.isin(problem[chosen], drawn)
    if held.all() or (not held.any() and (held_out.share or held_out.source)):
        raise DataError(
            f"nothing is left to {'train on' if held.all() else 'evaluate'} of {len(held)} pairs",
            do="change preferences.eval; excluded.json says which pairs were left out and why",
        )
    trained, evaluated = (
        PairPlan(
            chosen=node[rows],
            rejected=node[rows + 1],
            problem=problem[rows],
            error=book.column("error")[rows + 1],
            source=np.full(len(rows), WINDOW, dtype=np.uint8),
        )
        for rows in (chosen[~held], chosen[held])
    )
    return trained, evaluated


def shuffled(plan: PairPlan, how: str, seed: int, epoch: int) -> PairPlan:
    """The pairs in the order of an epoch, counted from 0; `how` as in `preferences.shuffle`."""
    chance = np.random.default_rng([seed, 3, epoch])
    if how == "off":
        return plan
    if how == "pairs":
        return plan[chance.permutation(len(plan))]
    _, prompt = np.unique(plan.problem, return_inverse=True)
    place = chance.permutation(int(prompt.max()) + 1)
    return plan[np.argsort(place[prompt], kind="stable")]


def _rows(name: str, round: int, pair: int, tokens: TokenPair) -> list[Row]:
    sides = zip((tokens.chosen, tokens.rejected), tokens.texts[1:], _VERDICTS, strict=True)
    return [
        Row(
            task_id=name,
            round=round,
            sample=2 * pair + side,
            seed=0,
            policy="",
            token_ids=ids,
            logprobs=np.full(len(ids), np.nan, dtype=np.float32),
            text=text,
            code="",
            finish="eos",
            verdict=verdict,
        )
        for side, (ids, text, verdict) in enumerate(sides)
    ]


def _nodes(problem: npt.NDArray[np.int64], digest: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """(N,) the first row with the same answer to the same problem."""
    keys = np.stack([problem, digest.view(np.int64)], axis=1)
    _, first, same = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[same.reshape(-1)], dtype=np.int64)


def _nothing_left(excluded: dict[str, str]) -> DataError:
    return DataError(
        f"none of {len(excluded)} pairs can be trained on",
        why="; ".join(f"{place}: {reason}" for place, reason in list(excluded.items())[:3]),
        do="raise preferences.max_tokens or train.token_budget where they are too long, or mend the data",
    )
