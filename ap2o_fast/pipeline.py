"""The algorithm: exam -> analysis -> correction <-> quiz -> test -> report. The one module that knows every stage.

Every stage is idempotent: called again, it does only what is missing. A run that was killed therefore continues by
calling all of them again, and ends with the same numbers as one that was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ap2o_fast.book import ErrorBook
from ap2o_fast.config import CurriculumSettings
from ap2o_fast.curriculum import FILLED, FRESH, REPLAY, WINDOW, PairPlan, Pool, make_pools, plan_epoch, window_pairs
from ap2o_fast.curriculum.upstream import EXAM, UPSTREAM, in_order
from ap2o_fast.direction import H2L, L2H, decide, trial_settings
from ap2o_fast.errors import DataError
from ap2o_fast.evaluation import Evaluation, evaluate, flakiness, parts_of, to_dict, write_samples
from ap2o_fast.interrupt import Interrupt
from ap2o_fast.judge import ErrorType, Judge
from ap2o_fast.problems import Problem
from ap2o_fast.processes import create_folder
from ap2o_fast.replaying import replayed
from ap2o_fast.reporting.modelcard import write_model_card
from ap2o_fast.reporting.report import write_report
from ap2o_fast.reporting.terminal import note
from ap2o_fast.sampling.vllm_engine import VllmEngine
from ap2o_fast.sampling.vllm_server import VllmServer
from ap2o_fast.training import save_model
from ap2o_fast.training.parallel.distributed import any_rank
from ap2o_fast.workbench import Workbench

TRIAL, DIRECTION = "trial", "direction.json"


class Pipeline(Workbench):
    """One run in progress: its stages, in the order of the paper.

    Attributes:
        title: what the progress of training is called.
        pace: epochs of the run whose number of pairs an epoch has, where it is another than this.
    """

    title: str = "correct"
    pace: int | None = None

    def run(self) -> None:
        """Everything, or what is still missing of it."""
        if self.config.curriculum.system != "init":
            self.exam()
            self.analyse()
        if self.config.evaluate.before:
            self.test_initial()
        self.correct()
        self.evaluate()
        self.report()

    def exam(self) -> None:
        """Sample and judge `sampling.n` answers to every training problem (paper Eq. 4), unless it was imported."""
        self.use_initial()
        if self.book("exam").labels.get(EXAM) == UPSTREAM:
            return
        how = self.config.sampling
        self.sit("exam", 0, "init", n=how.n, temperature=how.temperature, top_p=how.top_p)

    def analyse(self) -> Sequence[Pool]:
        """Type the failures, find the usable problems, write analysis.json (paper Eq. 5-6).

        Errors: `DataError` where no problem has both passed and failed answers.
        """
        book = self.book("exam")
        return self.team.first(lambda: self._analyse(book))

    def _analyse(self, book: ErrorBook) -> Sequence[Pool]:
        found, dropped = make_pools(book, self.config.curriculum)
        pools = in_order(book, found) if self.config.curriculum.window == "upstream" else found
        counts = book.frequencies(0).sum(axis=0)
        errors = Counter({kind.name: int(counts[kind]) for kind in ErrorType if kind.is_failure and counts[kind]})
        analysis = {
            "problems": len(book.task_ids),
            "usable": len(pools),
            "answers": int(counts.sum()),
            "passed": int(counts[ErrorType.Passed]),
            **self._flakiness("exam", 0),
            "errors": dict(errors.most_common()),
            "excluded": self.folder.read_json("excluded.json"),
            "dropped": dropped,
        }
        self.folder.write_json("analysis.json", analysis)
        if not pools:
            raise _nothing_to_learn(analysis)
        return pools

    def correct(self) -> None:
        """Train with a quiz before each epoch and after the last; keep the best checkpoint (paper Eq. 7-8)."""
        self._correct([] if self.config.curriculum.system == "init" else self.analyse())

    def _correct(self, pools: Sequence[Pool]) -> None:
        if not self.folder.read_json("corrected.json"):
            how = self.curriculum(pools)
            if pools:
                self._score(pools)
            steps = self._train(pools, how)
            self._end()
            self.forget_model()
            epochs = self.folder.read_lines("quiz.jsonl")[-1]["epoch"]
            self.folder.write_json("corrected.json", {"epochs": epochs, "steps": steps})
        self.folder.forget_training()

    def curriculum(self, pools: Sequence[Pool]) -> CurriculumSettings:
        """The curriculum with its direction; where the quiz set is to say which, both are tried first (`direction`)."""
        how = self.config.curriculum
        if (how.system, how.order) != ("ap2o", "auto"):
            return how
        if not self.folder.read_json(DIRECTION):
            self.forget_model()
            with self.folder.timed("trial", {}):
                tried = [self._try(system, pools) for system in (L2H, H2L)]
            found = decide(*tried, epochs=self.config.train.epochs, seed=self.config.seed)
            self.folder.write_json(DIRECTION, found)
        return how.model_copy(update={"system": self.folder.read_json(DIRECTION)["system"]})

    def _try(self, system: str, pools: Sequence[Pool]) -> Evaluation:
        with Trial(self, system) as trial:
            trial._correct(pools)
            return evaluate(trial.book(TRIAL), 0, (1,), self.config.seed)

    def test_initial(self) -> None:
        """Sit the test with the initial model."""
        self.use_initial()
        self._test(0)

    def evaluate(self) -> dict[str, Any]:
        """Sit the test with the best checkpoint, and the initial model where asked; write evaluation.json.

        Returns: its content, ``before`` and ``after`` as far as they exist, and as ``shared`` the task ids of the test
        that training and quiz have, too.
        """
        results: dict[str, Any] = {}
        self.book("test")
        if self.config.evaluate.before:
            self.test_initial()
            results["before"] = self.team.first(lambda: self._evaluated(0))
        best = self.best_epoch()
        if best is not None:
            self.use_best(best)
            self._test(best)
            results["after"] = self.team.first(lambda: self._evaluated(best))
            self.team.first(lambda: self._write_samples(best))
        if not results:
            raise DataError("there is nothing to test", do="train first (`ap2o correct`), or set evaluate.before=true")
        results["shared"] = self.team.first(lambda: self.sets.shared)
        self.folder.write_json("evaluation.json", results)
        return results

    def _evaluated(self, round: int) -> dict[str, Any]:
        known = {task_id for ids in self.sets.shared.values() for task_id in ids}
        parts = parts_of(self.problems["test"], known)
        return to_dict(evaluate(self.book("test"), round, self.config.evaluate.k, self.config.seed, parts))

    def quiz(self) -> dict[str, Any]:
        """The latest quiz as in quiz.jsonl; the initial model sits it where there is none yet."""
        history = self.folder.read_lines("quiz.jsonl")
        if not history:
            self.use_initial()
            self._quiz(0)
            history = self.folder.read_lines("quiz.jsonl")
        return history[-1]

    def report(self) -> Path:
        """Write report.html and the model card; returns the report's path."""
        return self.team.first(self._report)

    def _report(self) -> Path:
        write_model_card(self.folder.path)
        return write_report(self.folder.path)

    def best_epoch(self) -> int | None:
        """The epoch whose weights are kept: the best quiz, the later of equals. None before the first quiz."""
        best = [line["epoch"] for line in self.folder.read_lines("quiz.jsonl") if line["best"]]
        return int(best[-1]) if best else None

    def _train(self, pools: Sequence[Pool], how: CurriculumSettings) -> int:
        """All epochs that are still to do; returns the optimiser steps taken in all."""
        config, patience = self.config, self.config.train.patience
        epochs = 0 if how.system == "init" else config.train.epochs
        span: dict[str, Any] = {"epochs": epochs, "seed": config.seed, "pace": self.pace}
        windows = [window_pairs(pools, how, epoch=epoch, **span) for epoch in range(epochs)]
        steps = sum(-(-pairs // config.train.batch_pairs) for pairs in windows)
        if not steps:
            self.use_initial()
            self._quiz(0)
            return 0
        engine, at = self.start_engine(steps)
        self.folder.truncate("metrics.jsonl", "step", engine.step)
        with Interrupt(note) as interrupt, self.folder.sink("metrics.jsonl") as sink:
            for epoch in range(at["epoch"], epochs):
                quiz_errors = self._quiz(epoch)
                if patience and epoch - int(self.best_epoch() or 0) >= patience:
                    break
                replay = replayed(self, pools, epoch, quiz_errors)
                plan = plan_epoch(pools, how, epoch=epoch, quiz_errors=quiz_errors, replay=replay, **span)
                self._log_plan(epoch + 1, plan)
                first = at["step"] if epoch == at["epoch"] else 0
                name = f"{self.title} epoch {epoch + 1}/{epochs}"
                book = self.book("exam")
                reference = self.reference_logps(book, plan.rows)
                self.train_epoch(engine, plan, book, reference, sink, interrupt, name=name, epoch=epoch, first=first)
                self.checkpoint(engine, sink, epoch + 1, 0)
            else:
                self._quiz(epochs)
            if any_rank(interrupt.asked, self.world):
                raise KeyboardInterrupt
        return engine.step

    def _quiz(self, epoch: int) -> dict[int, int]:
        """Sit the quiz after `epoch` epochs, keep the weights if they are the best, log it; returns error counts."""
        how = self.config.quiz
        self.sit("quiz", epoch, f"epoch-{epoch}", n=how.n, temperature=how.temperature, top_p=how.top_p)
        counts = self.book("quiz").frequencies(epoch).sum(axis=0)
        errors = {int(kind): int(counts[kind]) for kind in ErrorType if kind.is_failure and counts[kind]}
        passed, answers = int(counts[ErrorType.Passed]), int(counts[: ErrorType.Unjudgeable].sum())
        self.folder.truncate("quiz.jsonl", "epoch", epoch - 1)
        rate = passed / answers if answers else 0.0
        best = rate >= max((line["pass@1"] for line in self.folder.read_lines("quiz.jsonl")), default=0.0)
        if best:
            self._keep(epoch)
        named = {ErrorType(kind).name: count for kind, count in errors.items()}
        line = {"epoch": epoch, "passed": passed, "answers": answers, "pass@1": rate, "errors": named, "best": best}
        self.folder.append("quiz.jsonl", {**line, **self._flakiness("quiz", epoch)})
        return errors

    def _keep(self, epoch: int) -> None:
        if self.folder.read_json("checkpoints/best/COMPLETE").get("epoch") != epoch:
            save_model(self.model, self.tokenizer, self.folder.best, note={"epoch": epoch}, world=self.world)

    def _end(self) -> None:
        """What is done with the weights after the last epoch."""

    def _flakiness(self, stage: str, round: int) -> dict[str, int]:
        found = flakiness(self.book(stage), round, self.config.judge.recheck)
        return {"judged_twice": found.twice, "flaky": found.flaky}

    def _log_plan(self, epoch: int, plan: PairPlan) -> None:
        self.folder.truncate("plan.jsonl", "epoch", epoch - 1)
        _, first = np.unique(plan.rejected, return_index=True)
        line = {
            "epoch": epoch,
            "pairs": len(plan),
            "problems": len(np.unique(plan.problem)),
            "window": _by_type(plan.error[plan.source == WINDOW]),
            "replay": _by_type(plan.error[plan.source == REPLAY]),
            "fresh": _by_type(plan.error[plan.source == FRESH]),
            "filled": _by_type(plan.error[plan.source == FILLED]),
            "answers": _by_type(plan.error[first]),
        }
        self.folder.append("plan.jsonl", line)

    def _score(self, pools: Sequence[Pool]) -> None:
        """Write the log-probabilities of the pools' answers under the initial model into the book."""
        rows = np.concatenate([part for pool in pools for part in (pool.passed, pool.failed)])
        self.reference_logps(self.book("exam"), rows)

    def _write_samples(self, round: int) -> None:
        preambles = {problem.task_id: problem.preamble for problem in self.problems["test"]}
        write_samples(self.book("test"), self.folder.path / "samples.jsonl", round=round, preambles=preambles)

    def _test(self, round: int) -> None:
        how = self.config.evaluate
        policy = f"epoch-{round}" if round else "init"
        self.sit("test", round, policy, n=how.n, temperature=how.temperature, top_p=how.top_p)


class Trial(Pipeline):
    """One direction of the curriculum, tried from the initial weights with what the run has open (see `direction`).

    It has a folder of its own within the run's, keeps no checkpoint, and ends with the quiz problems answered as the
    test will ask. It is as idempotent as any run.
    """

    def __init__(self, run: Pipeline, system: str) -> None:
        settings = trial_settings(run.config, system, run.folder.path / TRIAL / system)
        super().__init__(create_folder(settings, run.world, join=True), quiet=run.quiet, world=run.world)
        self.run_itself = run
        self.title, self.pace = f"try {system}", run.config.train.epochs
        self._books["exam"] = run.book("exam")

    @cached_property
    def judge(self) -> Judge:
        """The run's."""
        return self.run_itself.judge

    @cached_property
    def problems(self) -> dict[str, list[Problem]]:
        """The run's; those of the quiz stand for the test's."""
        return self.run_itself.problems | {TRIAL: self.run_itself.problems["quiz"]}

    @cached_property
    def vllm(self) -> VllmEngine | VllmServer:
        """The run's."""
        return self.run_itself.vllm

    def _keep(self, epoch: int) -> None:
        pass

    def _end(self) -> None:
        how, policy = self.config.evaluate, f"epoch-{self.config.train.epochs}"
        self.sit(TRIAL, 0, policy, n=how.n, temperature=how.temperature, top_p=how.top_p)


def _by_type(errors: npt.NDArray[np.uint8]) -> dict[str, int]:
    return dict(Counter(ErrorType(int(code)).name for code in errors).most_common())


def _nothing_to_learn(analysis: dict[str, Any]) -> DataError:
    answers, passed = analysis["answers"], analysis["passed"]
    if passed == 0:
        return DataError(
            f"none of {answers} answers passed its tests, so there is no chosen answer to learn from",
            why="the problems are too hard for the model, or the prompt style does not suit it",
            do="try easier problems, a stronger model, prompt.style, a lower sampling.temperature, a larger sampling.n",
        )
    if passed == answers:
        return DataError(
            f"all {answers} answers passed, so there is no mistake to learn from",
            why="the problems are too easy for the model",
            do="try harder problems, or a larger sampling.n",
        )
    return DataError(
        f"no problem has enough distinct passed and failed answers ({passed} of {answers} answers passed)",
        why="; ".join(f"{task}: {reason}" for task, reason in list(analysis["dropped"].items())[:3]),
        do="raise sampling.n, or lower curriculum.min_passed or curriculum.min_failed",
    )
