"""The three sets of a run: training, quiz and test problems, audited and kept apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ap2o_fast.config import Config, PromptSettings
from ap2o_fast.errors import DataError
from ap2o_fast.problems import Problem, audit, load
from ap2o_fast.sampling.prompts import prompt_ids


def load_sets(
    config: Config,
    tokenizer: Any,
    check_reference: Callable[[Problem], str | None],
    known: Mapping[str, str] | None = None,
) -> tuple[dict[str, list[Problem]], dict[str, str]]:
    """Load the sets, exclude what cannot be used.

    Args:
        check_reference: says why a problem's reference solution fails, None where it passes.
        known: what an earlier audit of the same settings excluded; it is not done again then.

    Returns: ``train``, ``quiz`` and ``test`` problems, and the excluded ones with the reason by task id.
    Errors: `DataError` if a problem is in two sets or a set is empty.
    """
    sources = config.problems
    sets = {"train": load(sources.train), "quiz": load(sources.quiz), "test": load(sources.test)}
    check_apart(sets)
    excluded = dict(known or {})
    for name, problems in sets.items():
        if known is None:
            excluded |= too_long(problems, config.prompt, tokenizer)
            if sources.audit:
                excluded |= audit(problems, check_reference)[1]
        sets[name] = [problem for problem in problems if problem.task_id not in excluded]
        if not sets[name]:
            raise DataError(
                f"no {name} problem is left after the audit",
                why="; ".join(f"{task_id}: {reason}" for task_id, reason in list(excluded.items())[:3]),
                do=f"choose other problems in problems.{name}",
            )
    return sets, excluded


def too_long(problems: Sequence[Problem], prompt: PromptSettings, tokenizer: Any) -> dict[str, str]:
    """Task ids whose prompt exceeds `prompt.max_tokens`, with the reason."""
    lengths = {problem.task_id: len(prompt_ids(problem, prompt, tokenizer)) for problem in problems}
    return {
        task_id: f"its prompt has {length} tokens, prompt.max_tokens is {prompt.max_tokens}"
        for task_id, length in lengths.items()
        if length > prompt.max_tokens
    }


def check_apart(sets: dict[str, list[Problem]]) -> None:
    """Refuse problems that stand in two of the sets: a tested problem must not be trained on.

    Errors: `DataError` naming some of them.
    """
    seen: dict[str, tuple[str, str]] = {}
    shared = []
    for name, problems in sets.items():
        for problem in problems:
            for key in (problem.task_id, problem.prompt):
                other = seen.setdefault(key, (name, problem.task_id))
                if other[0] != name:
                    shared.append(f"{problem.task_id} ({other[0]} and {name})")
                    break
    if shared:
        raise DataError(
            f"{len(shared)} problems are in two sets: {', '.join(shared[:5])}",
            why="training on what is tested makes the result meaningless",
            do="choose other problems.*.ids or splits",
        )
