"""The pairs of a run as its report reads them: which were trained on, how long they are, what was learnt of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook
from ap2o_fast.config import HeldOutSettings
from ap2o_fast.curriculum.plan import PairPlan
from ap2o_fast.curriculum.preferences import read_pairs
from ap2o_fast.errors import DataError
from ap2o_fast.evaluation import mean_interval
from ap2o_fast.reporting.run import Run, best_of


@dataclass(frozen=True, kw_only=True)
class PairData:
    """The pairs of a run.

    Attributes:
        trained, evaluated: in the order of the data.
        rewards: (N,) by row of the book: beta times what the kept weights add to the log-probability that the initial
            model gave the answer; NaN where that was not computed. Before training every reward is 0.
    """

    book: ErrorBook
    trained: PairPlan
    evaluated: PairPlan
    rewards: npt.NDArray[np.float32]

    def margins(self, plan: PairPlan) -> npt.NDArray[np.float32]:
        """(P,) reward of the chosen answer less that of the rejected one, NaN where unknown."""
        margins: npt.NDArray[np.float32] = self.rewards[plan.chosen] - self.rewards[plan.rejected]
        return margins

    def lengths(self, plan: PairPlan) -> dict[str, npt.NDArray[np.int64]]:
        """(P,) tokens of prompt, chosen and rejected answer."""
        prompts = {problem: len(self.book.prompt_ids(problem)) for problem in np.unique(plan.problem).tolist()}
        answers = self.book.column("length").astype(np.int64)
        prompt = np.array([prompts[problem] for problem in plan.problem.tolist()], dtype=np.int64)
        return {"prompt": prompt, "chosen": answers[plan.chosen], "rejected": answers[plan.rejected]}


def read_data(run: Run) -> PairData | None:
    """The pairs of a run, None before its book is there or where that cannot be divided."""
    if run.book is None or not len(run.book):
        return None
    held_out = HeldOutSettings.model_validate(run.setting("preferences.eval", {}))
    try:
        trained, evaluated = read_pairs(run.book, held_out, int(run.setting("seed", 0)))
    except DataError:
        return None  # the run ended with this error and trained nothing
    return PairData(book=run.book, trained=trained, evaluated=evaluated, rewards=_rewards(run, run.book))


def accuracy(data: PairData | None, seed: int) -> dict[str, float] | None:
    """Share of held-out pairs whose chosen answer has the higher reward: ``value, low, high``, a 95 % interval over
    prompts; None where the rewards are not known."""
    if data is None or not len(data.evaluated):
        return None
    margins = data.margins(data.evaluated)
    if np.isnan(margins).any():
        return None
    # A prompt counts by its pairs, so that the mean over prompts is the share of pairs.
    right = np.bincount(data.evaluated.problem, margins > 0)[np.unique(data.evaluated.problem)]
    value, low, high = mean_interval(right * len(right) / len(margins), seed=seed)
    return {"value": float(value), "low": float(np.clip(low, 0, 1)), "high": float(np.clip(high, 0, 1))}


def longer_chosen(data: PairData, plan: PairPlan) -> float:
    """Share of pairs whose chosen answer is the longer one, equal lengths counting half: what "take the longer one"
    would get right."""
    lengths = data.book.column("length").astype(np.int64)
    difference = lengths[plan.chosen] - lengths[plan.rejected]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def source_name(run: Run) -> str:
    """The data's name without the folders of this machine."""
    name = str(run.setting("preferences.source", ""))
    if name.startswith("memory:"):
        return "pairs given in memory"
    return name if is_hub_name(name) else Path(name).name


def is_hub_name(name: str) -> bool:
    """True for ``owner/name`` and ``owner/name:config``, False for files."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name)) and not re.search(r"\.(jsonl?|gz|parquet)$", name)


def reasons(excluded: Mapping[str, str]) -> list[tuple[str, int]]:
    """(reason, pairs) of what was left out, most frequent first; reasons that differ in their first number are one."""
    counts = Counter(re.sub(r"\d+", "…", reason, count=1) for reason in excluded.values())
    return counts.most_common()


def _rewards(run: Run, book: ErrorBook) -> npt.NDArray[np.float32]:
    best = best_of(run.evaluations)
    after = book.annotation("logp", f"epoch {best['epoch']}" if best else "")
    before = book.annotation("ref_logp", run.environment.get("model_hash", ""))
    return np.float32(run.setting("loss.beta", 0.1)) * (after - before)
