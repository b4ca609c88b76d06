"""What the stages of a run share: the model in memory, the judge, the books, the problems; each made at first use."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import Self

from ap2o_fast.book import ErrorBook
from ap2o_fast.curriculum import PairPlan
from ap2o_fast.environment import describe
from ap2o_fast.errors import DataError
from ap2o_fast.interrupt import Interrupt
from ap2o_fast.judge import Judge, open_judge
from ap2o_fast.problem_sets import load_sets
from ap2o_fast.problems import Problem
from ap2o_fast.reporting.metrics import MetricsSink
from ap2o_fast.reporting.terminal import progress
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.sampling import Sampler
from ap2o_fast.sampling.transformers import TransformersSampler
from ap2o_fast.sampling.vllm import VllmSampler
from ap2o_fast.sampling.vllm_engine import VllmEngine
from ap2o_fast.sampling.vllm_start import require_vllm
from ap2o_fast.sitting import Sitting, sit
from ap2o_fast.training import (
    Engine,
    adapters_off,
    attention_in_use,
    check_head,
    latest_checkpoint,
    load_adapter,
    load_checkpoint,
    load_model,
    model_hash,
    save_checkpoint,
    score,
    uses_liger,
    whole_weights,
)

INITIAL = "initial"
SCORED_PROBLEMS = 16


class Workbench:
    """Owns what is open during a run and closes it at the end; holds the run's lock meanwhile. A context manager.

    Args:
        folder: the run's folder.
        quiet: no progress.
    """

    def __init__(self, folder: RunFolder, *, quiet: bool = False) -> None:
        self.folder, self.config, self.quiet = folder, folder.config, quiet
        self.model: Any = None
        self.tokenizer: Any = None
        self.weights = ""
        self.stack = ExitStack()
        self._books: dict[str, ErrorBook] = {}

    def __enter__(self) -> Self:
        self.stack.enter_context(self.folder.locked())
        if self.config.model.threads:
            torch.set_num_threads(self.config.model.threads)
        if self.config.sampling.engine == "vllm":
            require_vllm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)  # a book that cannot be committed must not hide why

    @cached_property
    def judge(self) -> Judge:
        """The judge, started at first use."""
        return self.stack.enter_context(open_judge(self.config.judge))

    @cached_property
    def problems(self) -> dict[str, list[Problem]]:
        """Training, quiz and test problems after the audit; what was excluded stands in excluded.json."""
        known = self.folder.read_json("excluded.json") if (self.folder.path / "excluded.json").exists() else None
        if self.tokenizer is None:
            self.use_initial()
        sets, excluded = load_sets(self.config, self.tokenizer, self.judge.check_reference, known)
        if known is None:
            self.folder.write_json("excluded.json", excluded)
        self.judge.require({problem.language for problems in sets.values() for problem in problems})
        return sets

    def book(self, name: str) -> ErrorBook:
        """The run's book ``exam``, ``quiz`` or ``test``, open for writing."""
        if name not in self._books:
            path = self.folder.book(name)
            opened = ErrorBook.open(path, write=True) if path.exists() else ErrorBook.create(path)
            self._books[name] = self.stack.enter_context(opened)
        return self._books[name]

    def sit(self, stage: str, round: int, policy: str, *, n: int, temperature: float, top_p: float) -> None:
        """Let the model in memory sit the exam, a quiz or the test, as far as the round is not complete."""
        config, counts = self.config, dict[str, int]()
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
        problems, book = self.problems["train" if stage == "exam" else stage], self.book(stage)
        # Adapters that have learnt nothing add zeros: the exam goes without them.
        unused = adapters_off(self.model) if self.weights == INITIAL else nullcontext()
        with self.folder.timed(stage, counts), unused:
            counts |= sit(
                sitting,
                problems,
                book=book,
                sampler=self.sampler(),
                judge=self.judge,
                tokenizer=self.tokenizer,
                prompt=config.prompt,
                seed=config.seed,
                quiet=self.quiet,
            )

    def sampler(self) -> Sampler:
        """What answers with the weights in memory, as they are when it is asked."""
        if self.config.sampling.engine == "vllm":
            model = self.model
            return VllmSampler(self.vllm, model, self.tokenizer, weights=lambda: whole_weights(model))
        return TransformersSampler(self.model, self.tokenizer, batch_answers=self.config.sampling.batch_answers)

    @cached_property
    def vllm(self) -> VllmEngine:
        """The run's one vLLM, started at first use, asleep between the rounds."""
        config = self.config
        engine = VllmEngine(config.sampling, longest=config.prompt.max_tokens + config.sampling.max_new_tokens)
        self.stack.callback(engine.close)
        return engine

    def use_initial(self) -> None:
        """Have the initial weights in memory."""
        if self.weights != INITIAL:
            self.forget_model()
            self.model, self.tokenizer = self.load_initial()
            check_head(self.config.loss, self.model)
            self.weights = INITIAL
            self._check_initial(model_hash(self.model))

    def load_initial(self) -> tuple[Any, Any]:
        """The initial model, prepared for training, and its tokenizer."""
        return load_model(self.config.model, self.config.adapter, seed=self.config.seed)

    def facts(self) -> dict[str, str]:
        """What environment.json says of the run beside versions and machine."""
        return {"sandbox_level": str(self.judge.level)}

    def reference_logps(self, book: ErrorBook, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(N,) log-probabilities under the initial model of at least `rows`, computed once and kept in the book."""
        key = self.initial_hash()
        known = book.annotation("ref_logp", key)
        missing = rows[np.isnan(known[rows])]
        if len(missing):
            self.use_initial()
            for chunk, values in self.scores(book, missing, "reference", "reference log-probs", reference=True):
                book.annotate("ref_logp", chunk, values, key)
        return book.annotation("ref_logp", key)

    def scores(
        self, book: ErrorBook, rows: npt.NDArray[np.int64], stage: str, name: str, *, reference: bool = False
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Yield rows with their log-probabilities under the model in memory, `SCORED_PROBLEMS` problems at a time.

        Args:
            reference: without adapters.
        """
        train, counts = self.config.train, {"answers": 0, "tokens": 0}
        problem = book.column("problem")[rows]
        rows = rows[np.argsort(problem, kind="stable")]
        _, number = np.unique(np.sort(problem), return_inverse=True)
        chunks = np.split(rows, np.flatnonzero(np.diff(number // SCORED_PROBLEMS)) + 1)
        with self.folder.timed(stage, counts), progress(name, len(rows), "answers", quiet=self.quiet) as bar:
            for chunk in chunks:
                yield (
                    chunk,
                    score(self.model, book, chunk, train.token_budget, train.chunk_rows or None, reference=reference),
                )
                counts["answers"] += len(chunk)
                counts["tokens"] += int(book.column("length")[chunk].sum())
                bar.advance(len(chunk))

    def start_engine(self, total_steps: int) -> tuple[Engine, dict[str, int]]:
        """What trains the initial model, from the latest checkpoint on if there is one.

        Returns: the engine, and where training stands: `step` steps into `epoch`, counted from 0.
        """
        self.use_initial()
        train, loss, profiles = self.config.train, self.config.loss, self.folder.path / "profiles"
        engine = Engine(self.model, train=train, loss=loss, total_steps=total_steps, profiles=profiles)
        at = {"epoch": 0, "step": 0}
        if latest_checkpoint(self.folder.training):
            at = load_checkpoint(self.folder.training, engine)
        self.weights = "training"
        return engine, at

    def train_epoch(
        self,
        engine: Engine,
        plan: PairPlan,
        book: ErrorBook,
        reference: npt.NDArray[np.float32],
        sink: MetricsSink,
        interrupt: Interrupt,
        *,
        name: str,
        epoch: int,
        first: int,
    ) -> None:
        """Take an epoch's steps from number `first` on, write their metrics, save checkpoints between them.

        Args:
            epoch: counted from 0.

        Errors: `KeyboardInterrupt`, after a checkpoint, where one is asked for.
        """
        steps, every = list(plan.steps(self.config.train.batch_pairs)), self.config.train.checkpoint_steps
        done, counts = first, {"tokens": 0, "pairs": 0}
        with (
            self.folder.timed("correct", counts),
            progress(name, len(plan), "pairs", done=sum(map(len, steps[:first])), quiet=self.quiet) as bar,
        ):
            while done < len(steps):
                end = min((done // every + 1) * every, len(steps)) if every else len(steps)
                for metrics in engine.train_steps(steps[done:end], book, reference, lambda: interrupt.asked):
                    sink.write({"epoch": epoch + 1, **metrics})
                    done += 1
                    counts["tokens"] += int(metrics["tokens"])
                    counts["pairs"] += int(metrics["pairs"])
                    margin = round(metrics["rewards/margins"], 4)
                    bar.advance(int(metrics["pairs"]), loss=round(metrics["loss"], 4), margin=margin)
                if interrupt.asked or (every and done % every == 0):
                    self.checkpoint(engine, sink, epoch, done)
                if interrupt.asked:
                    raise KeyboardInterrupt

    def checkpoint(self, engine: Engine, sink: MetricsSink, epoch: int, step: int) -> None:
        """Save where training stands: `step` steps into `epoch`, counted from 0."""
        sink.sync()
        save_checkpoint(self.folder.training, engine, {"epoch": epoch, "step": step})

    def use_best(self, epoch: int) -> None:
        """Have the best checkpoint's weights in memory."""
        if self.weights != f"best-{epoch}":
            if self.config.adapter.kind == "none":
                self.forget_model()
                best = self.config.model.model_copy(update={"name": str(self.folder.best), "revision": None})
                self.model, self.tokenizer = load_model(best)
            else:
                self.use_initial()
                load_adapter(self.model, self.folder.best)
            self.weights = f"best-{epoch}"

    def forget_model(self) -> None:
        """Free the model's memory."""
        self.model, self.weights = None, ""
        gc.collect()

    def initial_hash(self) -> str:
        """Hash of the initial weights: the key of the reference log-probabilities."""
        if "model_hash" not in self.folder.read_json("environment.json"):
            self.use_initial()
        return str(self.folder.read_json("environment.json")["model_hash"])

    def _check_initial(self, found: str) -> None:
        """Write the initial model's hash down at first sight; refuse another model ever after."""
        environment = self.folder.read_json("environment.json")
        if not environment:
            described = describe(self.config.model.device, self.config.model.name)
            facts = {"attention": attention_in_use(self.model), "liger": str(uses_liger(self.model)).lower()}
            self.folder.write_json("environment.json", described | facts | self.facts() | {"model_hash": found})
        elif environment["model_hash"] != found:
            raise DataError(
                f"{self.config.model.name} is not the model that this run began with",
                why=f"its weights hash to {found[:12]}, the run's to {environment['model_hash'][:12]}",
                do="restore the model, or start a new run",
            )
