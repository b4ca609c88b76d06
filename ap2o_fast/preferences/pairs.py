"""Preference pairs as an error book, so that training reads them as it reads an exam: memory-mapped, each answer's
reference log-probability beside it. `curriculum.preferences` says which row is what, and reads it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ap2o_fast.book import ErrorBook, Row
from ap2o_fast.curriculum.plan import PairPlan
from ap2o_fast.curriculum.preferences import EVALUATED, TRAINED
from ap2o_fast.errors import DataError
from ap2o_fast.judge.verdict import ErrorType, Verdict
from ap2o_fast.preferences.format import TokenPair
from ap2o_fast.training.disk import sync

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


def _nothing_left(excluded: dict[str, str]) -> DataError:
    return DataError(
        f"none of {len(excluded)} pairs can be trained on",
        why="; ".join(f"{place}: {reason}" for place, reason in list(excluded.items())[:3]),
        do="raise preferences.max_tokens or train.token_budget where they are too long, or mend the data",
    )
