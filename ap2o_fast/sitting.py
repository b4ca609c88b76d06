"""One sitting, the step that exam, quiz and test share: sample answers, judge them, write them into a book."""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ap2o_fast.book import ErrorBook, Row
from ap2o_fast.config import PromptSettings
from ap2o_fast.errors import MachineError
from ap2o_fast.judge import ErrorType, Job, Judge, Verdict
from ap2o_fast.problems import Problem
from ap2o_fast.reporting.terminal import progress
from ap2o_fast.sampling import Answer, Request, Sampler
from ap2o_fast.sampling.prompts import code_of, prompt_ids, stop_strings

BACKLOG = 256
"""Answers that may wait for their verdicts; with more the sampler waits for the judge."""
BUNCH = 16
"""Verdicts of a commit, once no more answers come."""


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """How one round of answers is sampled.

    Attributes:
        stage: ``exam``, ``quiz`` or ``test``; with `round` and the run's seed it decides every answer's seed.
        round: number of the round in the book.
        policy: which weights answer, e.g. ``epoch-3``.
        n: answers a problem.
        temperature, top_p, max_new_tokens, stop: see `Sampler.sample`.
    """

    stage: str
    round: int
    policy: str
    n: int
    temperature: float
    top_p: float
    max_new_tokens: int
    stop: tuple[str, ...]


def sit(
    sitting: Sitting,
    problems: Sequence[Problem],
    *,
    book: ErrorBook,
    sampler: Sampler,
    judge: Judge,
    tokenizer: Any,
    prompt: PromptSettings,
    seed: int,
    quiet: bool,
    asked: Callable[[], bool] = lambda: False,
) -> dict[str, int]:
    """Answer and judge what the round still lacks. Answers are judged while others are being sampled, and committed in
    the order of the sampler as their verdicts come.

    Args:
        asked: whether to end early: no further answer is sampled then.

    Returns: counts of the new ``answers`` and ``tokens``.
    Errors: those of sampler, judge and book; answers that came before the sampler's `MachineError` are in the book.
        `KeyboardInterrupt` where an end was asked for, after what was sampled is judged and committed.
    """
    by_id = {problem.task_id: problem for problem in problems}
    requests: dict[tuple[str, ...], list[Request]] = {}
    for problem in problems:
        ids = prompt_ids(problem, prompt, tokenizer)
        book.add_problem(problem.task_id, ids, problem.prompt)
        seeds = answer_seeds(seed, sitting.stage, sitting.round, problem.task_id, sitting.n)
        ends = stop_strings(problem, sitting.stop)
        requests.setdefault(ends, []).append(Request(task_id=problem.task_id, prompt_ids=ids, seeds=seeds))
    done = book.done(sitting.round)  # whatever their seeds: a run may have begun with the exam of another
    counts = {"answers": 0, "tokens": 0}
    total = len(problems) * sitting.n
    if len(done) == total:
        return counts
    name = f"{sitting.stage} ({sitting.policy})"
    before = book.frequencies(sitting.round).sum(axis=0)
    types = {kind.name: int(before[kind]) for kind in ErrorType if before[kind]}
    with (
        progress(name, total, "answers", done=len(done), types=types, quiet=quiet) as bar,
        judge.stream(backlog=BACKLOG) as stream,
    ):

        def keep(judged: Iterable[tuple[Job, Verdict]]) -> None:
            rows = [_row(job, verdict, sitting) for job, verdict in judged]
            if not rows:
                return
            book.append(rows)
            book.commit()
            counts["answers"] += len(rows)
            counts["tokens"] += sum(len(row.token_ids) for row in rows)
            found = Counter(row.verdict.error.name for row in rows)
            bar.advance(len(rows), found, tokens_per_s=round(counts["tokens"] / max(bar.seconds, 1e-9)))

        groups = itertools.chain.from_iterable(
            sampler.sample(
                those,
                temperature=sitting.temperature,
                top_p=sitting.top_p,
                max_new_tokens=sitting.max_new_tokens,
                stop=stop,
                done=done,
            )
            for stop, those in requests.items()
        )
        failed: MachineError | None = None
        try:
            for group in groups:
                for answer in group:
                    job = Job(key=answer, problem=by_id[answer.task_id], code=code_of(answer.text), seed=answer.seed)
                    stream.put(job)
                keep(stream.ready())
                if asked():
                    break
        except MachineError as error:
            failed = error  # of the sampler: what it answered before is kept
        rest = stream.rest()
        while bunch := list(itertools.islice(rest, BUNCH)):
            keep(bunch)
        if failed is not None:
            raise failed
        if asked():
            raise KeyboardInterrupt
    return counts


def _row(job: Job, verdict: Verdict, sitting: Sitting) -> Row:
    answer: Answer = job.key
    return Row(
        task_id=answer.task_id,
        round=sitting.round,
        sample=answer.sample,
        seed=answer.seed,
        policy=sitting.policy,
        token_ids=answer.token_ids,
        logprobs=answer.logprobs,
        text=answer.text,
        code=job.code,
        finish=answer.finish,
        verdict=verdict,
    )


def answer_seeds(seed: int, stage: str, round: int, task_id: str, n: int) -> tuple[int, ...]:
    """One 63-bit seed an answer, from the run's seed and the answer's place alone."""
    place = [seed, zlib.crc32(stage.encode()), round, zlib.crc32(task_id.encode())]
    state = np.random.SeedSequence(place).generate_state(n, dtype=np.uint64)
    return tuple(int(value) >> 1 for value in state)
