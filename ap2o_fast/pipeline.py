"""The algorithm: exam -> analysis -> correction <-> quiz -> test -> report. The one module that knows every stage.

Every stage is idempotent: called again, it does only what is missing. A run that was killed therefore continues by
calling all of them again, and ends with the same numbers as one that was not.
"""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ap2o_fast.book import ErrorBook
from ap2o_fast.curriculum import WINDOW, PairPlan, Pool, make_pools, plan_epoch, window_pairs
from ap2o_fast.environment import describe
from ap2o_fast.errors import DataError
from ap2o_fast.evaluation import evaluate, to_dict, write_samples
from ap2o_fast.interrupt import Interrupt
from ap2o_fast.judge import ErrorType, Judge
from ap2o_fast.problems import Problem, audit, load
from ap2o_fast.reporting.metrics import MetricsSink, read_lines, truncate
from ap2o_fast.reporting.modelcard import write_model_card
from ap2o_fast.reporting.report import write_report
from ap2o_fast.reporting.terminal import progress
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.sampling.transformers import TransformersSampler
from ap2o_fast.sitting import Sitting, check_apart, sit, too_long
from ap2o_fast.training import (
    Trainer,
    load_checkpoint,
    load_model,
    model_hash,
    save_checkpoint,
    save_model,
    score,
)

SCORED_PROBLEMS = 16


class Pipeline:
    """One run in progress. Owns the model, the judge and the books while they are in use; a context manager.

    Args:
        folder: the run's folder.
        quiet: no progress.
    """

    def __init__(self, folder: RunFolder, *, quiet: bool = False) -> None:
        self.folder, self.config, self.quiet = folder, folder.config, quiet
        self._stack = ExitStack()
        self._model: Any = None
        self._tokenizer: Any = None
        self._weights = ""

    def __enter__(self) -> Pipeline:
        self._stack.enter_context(self.folder.locked())
        if self.config.model.threads:
            torch.set_num_threads(self.config.model.threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self) -> None:
        """Everything, or what is still missing of it."""
        self.exam()
        self.analyse()
        if self.config.evaluate.before:
            self.test_initial()
        self.correct()
        self.evaluate()
        self.report()

    def exam(self) -> None:
        """Sample and judge `sampling.n` answers to every training problem (paper Eq. 4)."""
        self._use_initial()
        sampling = self.config.sampling
        self._sit(
            "exam", "train", round=0, policy="init", n=sampling.n, temperature=sampling.temperature, top_p=sampling.top_p
        )

    def analyse(self) -> list[Pool]:
        """Type the failures, find the usable problems, write analysis.json (paper Eq. 5-6).

        Errors: `DataError` where no problem has both passed and failed answers.
        """
        book = self._exam_book()
        pools, dropped = make_pools(book, self.config.curriculum)
        counts = book.frequencies(0).sum(axis=0)
        errors = {kind.name: int(counts[kind]) for kind in ErrorType if kind.is_failure and counts[kind]}
        analysis = {
            "problems": len(book.task_ids),
            "usable": len(pools),
            "answers": int(counts.sum()),
            "passed": int(counts[ErrorType.Passed]),
            "errors": dict(sorted(errors.items(), key=lambda item: -item[1])),
            "excluded": self.folder.read_json("excluded.json"),
            "dropped": dropped,
        }
        self.folder.write_json("analysis.json", analysis)
        if not pools:
            raise _nothing_to_learn(analysis)
        return pools

    def correct(self) -> None:
        """Train with a quiz before each epoch and after the last; keep the best checkpoint (paper Eq. 7-8)."""
        config, pools = self.config, self.analyse()
        book, epochs = self._exam_book(), config.train.epochs
        if self.folder.read_json("corrected.json"):
            return
        reference = self._reference_logps(book, pools)
        steps = sum(
            -(-window_pairs(pools, config.curriculum, epoch=epoch, epochs=epochs) // config.train.batch_pairs)
            for epoch in range(epochs)
        )
        self._use_initial()
        trainer = Trainer(self._model, train=config.train, loss=config.loss, total_steps=steps)
        at = load_checkpoint(self.folder.training, trainer) or {"epoch": 0, "step": 0}
        for name, key, value in (
            ("metrics.jsonl", "step", trainer.step),
            ("quiz.jsonl", "epoch", at["epoch"] - 1),
            ("plan.jsonl", "epoch", at["epoch"]),
        ):
            truncate(self.folder.path / name, key, value)
        sink = self._stack.enter_context(MetricsSink(self.folder.path / "metrics.jsonl"))
        with Interrupt() as interrupt:
            self._weights = "training"
            for epoch in range(at["epoch"], epochs):
                quiz_errors = self._quiz(epoch)
                plan = plan_epoch(
                    pools, config.curriculum, epoch=epoch, epochs=epochs, quiz_errors=quiz_errors, seed=config.seed
                )
                first = at["step"] if epoch == at["epoch"] else 0
                self._log_plan(epoch + 1, plan)
                self._train_epoch(trainer, plan, book, reference, epoch, first, sink, interrupt)
                sink.sync()
                save_checkpoint(self.folder.training, trainer, {"epoch": epoch + 1, "step": 0})
            self._quiz(epochs)
        self.folder.write_json("corrected.json", {"epochs": epochs, "steps": trainer.step})
        shutil.rmtree(self.folder.training)
        del trainer
        self._forget_model()

    def test_initial(self) -> None:
        """Sit the test with the initial model."""
        self._use_initial()
        self._test(0)

    def evaluate(self) -> dict[str, Any]:
        """Sit the test with the best checkpoint, and the initial model where asked; write evaluation.json.

        Returns: its content, ``before`` and ``after`` as far as they exist.
        """
        config, results = self.config, {}
        if config.evaluate.before:
            self.test_initial()
            results["before"] = to_dict(evaluate(self._book("test"), 0, config.evaluate.k, config.seed))
        best = self.best_epoch()
        if best is not None:
            self._use_best(best)
            self._test(best)
            results["after"] = to_dict(evaluate(self._book("test"), best, config.evaluate.k, config.seed))
            preambles = {problem.task_id: problem.preamble for problem in self.problems["test"]}
            write_samples(self._book("test"), self.folder.path / "samples.jsonl", round=best, preambles=preambles)
        if not results:
            raise DataError("there is nothing to test", do="train first (`ap2o correct`), or set evaluate.before = true")
        self.folder.write_json("evaluation.json", results)
        return results

    def quiz(self) -> dict[str, Any]:
        """Quiz the weights that the run has now: those of its newest checkpoint, else the initial ones.

        Returns: the quiz's line, as in quiz.jsonl.
        """
        history = read_lines(self.folder.path / "quiz.jsonl")
        if history:
            return history[-1]
        self._use_initial()
        self._quiz(0)
        return read_lines(self.folder.path / "quiz.jsonl")[-1]

    def report(self) -> Path:
        """Write report.html and the model card; returns the report's path."""
        write_model_card(self.folder.path)
        return write_report(self.folder.path)

    def best_epoch(self) -> int | None:
        """The epoch whose weights are kept: the best quiz, the later of equals. None before the first quiz."""
        marker = self.folder.best / "ap2o.json"
        if not marker.exists():
            return None
        best = [line["epoch"] for line in read_lines(self.folder.path / "quiz.jsonl") if line["best"]]
        return int(best[-1]) if best else None

    @cached_property
    def problems(self) -> dict[str, list[Problem]]:
        """Training, quiz and test problems after the audit; what was excluded stands in excluded.json."""
        sources = self.config.problems
        sets = {"train": load(sources.train), "quiz": load(sources.quiz), "test": load(sources.test)}
        check_apart(sets)
        excluded = self.folder.read_json("excluded.json")
        fresh = not (self.folder.path / "excluded.json").exists()
        self._load_tokenizer()
        for problems in sets.values():
            if fresh:
                excluded |= too_long(problems, self.config.prompt, self._tokenizer)
                if sources.audit:
                    excluded |= audit(problems, self.judge.check_reference)[1]
            problems[:] = [problem for problem in problems if problem.task_id not in excluded]
        for name, problems in sets.items():
            if not problems:
                raise DataError(
                    f"no {name} problem is left after the audit",
                    why="; ".join(f"{task_id}: {reason}" for task_id, reason in list(excluded.items())[:3]),
                    do=f"choose other problems in problems.{name}",
                )
        if fresh:
            self.folder.write_json("excluded.json", excluded)
        return sets

    @cached_property
    def judge(self) -> Judge:
        """The judge, started at first use."""
        return self._stack.enter_context(Judge(self.config.judge))

    def _train_epoch(
        self,
        trainer: Trainer,
        plan: PairPlan,
        book: ErrorBook,
        reference: npt.NDArray[np.float32],
        epoch: int,
        first: int,
        sink: MetricsSink,
        interrupt: Interrupt,
    ) -> None:
        steps = list(plan.steps(self.config.train.batch_pairs))
        name = f"correct epoch {epoch + 1}/{self.config.train.epochs}"
        counts = {"tokens": 0, "pairs": 0}
        with (
            self.folder.timed("correct", counts),
            progress(name, len(plan), "pairs", done=sum(map(len, steps[:first])), quiet=self.quiet) as bar,
        ):
            for index, pairs in enumerate(steps[first:], start=first):
                metrics = trainer.train_step(pairs, book, reference)
                sink.write({"step": trainer.step, "epoch": epoch + 1, **metrics})
                counts["tokens"] += int(metrics["tokens"])
                counts["pairs"] += len(pairs)
                bar.advance(len(pairs), loss=round(metrics["loss"], 4), margin=round(metrics["rewards/margins"], 4))
                if interrupt.asked:
                    sink.sync()
                    save_checkpoint(self.folder.training, trainer, {"epoch": epoch, "step": index + 1})
                    raise KeyboardInterrupt

    def _quiz(self, epoch: int) -> dict[int, int]:
        """Sit the quiz after `epoch` epochs, log it, keep the weights if they are the best; returns error counts."""
        quiz = self.config.quiz
        self._sit(
            "quiz",
            "quiz",
            round=epoch,
            policy=f"epoch-{epoch}",
            n=quiz.n,
            temperature=quiz.temperature,
            top_p=quiz.top_p,
        )
        counts = self._book("quiz").frequencies(epoch).sum(axis=0)
        errors = {int(kind): int(counts[kind]) for kind in ErrorType if kind.is_failure and counts[kind]}
        passed, answers = int(counts[ErrorType.Passed]), int(counts[: ErrorType.Unjudgeable].sum())
        path = self.folder.path / "quiz.jsonl"
        truncate(path, "epoch", epoch - 1)
        rate = passed / answers if answers else 0.0
        best = rate >= max((line["pass@1"] for line in read_lines(path)), default=0.0)
        if best:
            self._keep_best(epoch)
        with MetricsSink(path) as sink:
            named = {ErrorType(kind).name: count for kind, count in errors.items()}
            sink.write(
                {"epoch": epoch, "passed": passed, "answers": answers, "pass@1": rate, "errors": named, "best": best}
            )
            sink.sync()
        return errors

    def _keep_best(self, epoch: int) -> None:
        marker = self.folder.best / "ap2o.json"
        if marker.exists() and self.folder.read_json("checkpoints/best/ap2o.json")["epoch"] == epoch:
            return
        save_model(self._model, self._tokenizer, self.folder.best, note={"epoch": epoch})

    def _log_plan(self, epoch: int, plan: PairPlan) -> None:
        path = self.folder.path / "plan.jsonl"
        truncate(path, "epoch", epoch - 1)
        in_window = plan.source == WINDOW
        distinct = np.unique(np.stack([plan.rejected, plan.error.astype(np.int64)]), axis=1)[1]
        with MetricsSink(path) as sink:
            sink.write(
                {
                    "epoch": epoch,
                    "pairs": len(plan),
                    "problems": len(np.unique(plan.problem)),
                    "window": _by_type(plan.error[in_window]),
                    "replay": _by_type(plan.error[~in_window]),
                    "answers": _by_type(distinct),
                }
            )

    def _reference_logps(self, book: ErrorBook, pools: list[Pool]) -> npt.NDArray[np.float32]:
        """(N,) log-probabilities of the pools' answers under the initial model, computed once, kept in the book."""
        key = self._initial_hash()
        known = book.annotation("ref_logp", key)
        rows = [np.concatenate([pool.passed, pool.failed]) for pool in pools]
        chunks = [np.concatenate(rows[at : at + SCORED_PROBLEMS]) for at in range(0, len(rows), SCORED_PROBLEMS)]
        missing = [chunk for chunk in chunks if np.isnan(known[chunk]).any()]
        if not missing:
            return known
        self._use_initial()
        train, counts = self.config.train, {"answers": 0, "tokens": 0}
        total = sum(map(len, missing))
        with (
            self.folder.timed("reference", counts),
            progress("reference log-probs", total, "answers", quiet=self.quiet) as bar,
        ):
            for chunk in missing:
                values = score(
                    self._model, book, chunk, token_budget=train.token_budget, chunk_rows=train.chunk_rows
                )
                book.annotate("ref_logp", chunk, values, key)
                counts["answers"] += len(chunk)
                counts["tokens"] += int(book.column("length")[chunk].sum())
                bar.advance(len(chunk))
        return book.annotation("ref_logp", key)

    def _test(self, round: int) -> None:
        test = self.config.evaluate
        policy = f"epoch-{round}" if round else "init"
        self._sit(
            "test", "test", round=round, policy=policy, n=test.n, temperature=test.temperature, top_p=test.top_p
        )

    def _sit(
        self, stage: str, problems: str, *, round: int, policy: str, n: int, temperature: float, top_p: float
    ) -> None:
        config, counts = self.config, {}
        sitting = Sitting(
            stage=stage,
            round=round,
            policy=policy,
            n=n,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=config.sampling.max_new_tokens,
            stop=config.sampling.stop if config.prompt.style == "paper" else (),
        )
        chosen = self.problems[problems]
        book = self._exam_book() if stage == "exam" else self._book(stage)
        with self.folder.timed(stage, counts):
            counts |= sit(
                sitting,
                chosen,
                book=book,
                sampler=TransformersSampler(
                    self._model, self._tokenizer, batch_answers=config.sampling.batch_answers
                ),
                judge=self.judge,
                tokenizer=self._tokenizer,
                prompt=config.prompt,
                seed=config.seed,
                quiet=self.quiet,
            )

    def _exam_book(self) -> ErrorBook:
        return self._book("book")

    def _book(self, name: str) -> ErrorBook:
        """The run's book of that name, open for writing until the pipeline closes."""
        if name not in self._books:
            path = self.folder.path / name
            opened = ErrorBook.open(path, write=True) if path.exists() else ErrorBook.create(path)
            self._books[name] = self._stack.enter_context(opened)
        return self._books[name]

    @cached_property
    def _books(self) -> dict[str, ErrorBook]:
        return {}

    def _load_tokenizer(self) -> None:
        if self._tokenizer is None:
            self._use_initial()

    def _use_initial(self) -> None:
        """Have the initial model's weights in memory."""
        if self._weights == "initial":
            return
        self._forget_model()
        self._model, self._tokenizer = load_model(self.config.model)
        self._weights = "initial"
        self._initial_hash()

    def _use_best(self, epoch: int) -> None:
        if self._weights == f"best-{epoch}":
            return
        self._forget_model()
        best = self.config.model.model_copy(update={"name": str(self.folder.best), "revision": None})
        self._model, self._tokenizer = load_model(best)
        self._weights = f"best-{epoch}"

    def _forget_model(self) -> None:
        self._model, self._weights = None, ""
        gc.collect()

    def _initial_hash(self) -> str:
        """Hash of the initial weights; written down at first sight and compared ever after.

        Errors: `DataError` if the model is not the one that the run began with.
        """
        environment = self.folder.read_json("environment.json")
        if self._weights != "initial" and "model_hash" in environment:
            return str(environment["model_hash"])
        found = model_hash(self._model)
        if environment.get("model_hash", found) != found:
            raise DataError(
                f"{self.config.model.name} is not the model that this run began with",
                why=f"its weights hash to {found[:12]}, the run's to {environment['model_hash'][:12]}",
                do="restore the model, or start a new run",
            )
        if not environment:
            described = describe(self.config.model.device)
            level = {"sandbox_level": str(self.judge.level)}
            self.folder.write_json("environment.json", {**described, **level, "model_hash": found})
        return found


def _by_type(errors: npt.NDArray[Any]) -> dict[str, int]:
    counted = Counter(ErrorType(int(code)).name for code in errors)
    return dict(counted.most_common())


def _nothing_to_learn(analysis: dict[str, Any]) -> DataError:
    answers, passed = analysis["answers"], analysis["passed"]
    if passed == 0:
        return DataError(
            f"none of {answers} answers passed its tests, so there is no chosen answer to learn from",
            why="the problems are too hard for the model, or the prompt style does not suit it",
            do="try easier problems, a stronger model, prompt.style, a lower sampling.temperature or a larger sampling.n",
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
