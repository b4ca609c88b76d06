"""What the stages of a run share: the model in memory, the judge, the books, the problems; each made at first use."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property, partial
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import Self

from ap2o_fast.book import ErrorBook
from ap2o_fast.curriculum import PairPlan
from ap2o_fast.divided_sampling import DividedSampler, LedSampler
from ap2o_fast.environment import describe
from ap2o_fast.errors import DataError
from ap2o_fast.interrupt import Interrupt
from ap2o_fast.judge import Judge, open_judge
from ap2o_fast.problem_sets import Sets, load_sets
from ap2o_fast.problems import Problem
from ap2o_fast.processes import SharedFolder
from ap2o_fast.reporting.metrics import MetricsSink
from ap2o_fast.reporting.terminal import note, progress
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.sampling import Sampler
from ap2o_fast.sampling.transformers import TransformersSampler
from ap2o_fast.sampling.vllm import VllmSampler
from ap2o_fast.sampling.vllm_engine import VllmEngine
from ap2o_fast.sampling.vllm_server import VllmServer, check_server
from ap2o_fast.sampling.vllm_start import require_vllm
from ap2o_fast.sitting import Sitting, sit
from ap2o_fast.tracking.start import tracked
from ap2o_fast.training import (
    Engine,
    adapters_off,
    attention_in_use,
    check_head,
    initial_weights,
    latest_checkpoint,
    layers_in_use,
    load_adapter,
    load_checkpoint,
    load_model,
    load_tokenizer,
    model_hash,
    save_checkpoint,
    score,
    tokenizer_hash,
    whole_weights,
)
from ap2o_fast.training.parallel.distributed import ALONE, World, any_rank, together
from ap2o_fast.training.parallel.sharding import unsharded
from ap2o_fast.training.parallel.team import Team

_log = logging.getLogger(__name__)
INITIAL, TRAINING = "initial", "training"
SCORED_PROBLEMS = 16


class Workbench:
    """Owns what is open during a run and closes it at the end; holds the run's lock meanwhile. A context manager.

    In several processes all call every stage. The first alone writes the folder and its books, judges and shows
    progress; the others read the books, and help to sample and to train.

    Args:
        folder: the run's folder.
        quiet: no progress.
        world: the processes of the run.
    """

    def __init__(self, folder: RunFolder, *, quiet: bool = False, world: World = ALONE) -> None:
        self.world, self.team = world, Team(world)
        self.config, self.quiet = folder.config, quiet or not self.team.leads
        self.folder = folder
        if world.size > 1:
            self.folder = SharedFolder(path=folder.path, config=folder.config, team=self.team)
        self.model: Any = None
        self.tokenizer: Any = None
        self.weights = ""
        self.stack = ExitStack()
        self._books: dict[str, ErrorBook] = {}

    def __enter__(self) -> Self:
        if isinstance(self.folder, SharedFolder):
            self.folder.check_seen()
        self.team.first(self._lock)
        if self.config.model.threads:
            torch.set_num_threads(self.config.model.threads)
        sampling = self.config.sampling
        if sampling.engine == "vllm" and (not sampling.server or sampling.transport == "nccl"):
            require_vllm()
        if sampling.server:
            self.team.first(lambda: check_server(sampling))
        self.team.first(self._track)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)  # a book that cannot be committed must not hide why

    def _lock(self) -> None:
        self.stack.enter_context(self.folder.locked())

    def _track(self) -> None:
        self.stack.enter_context(tracked(self.folder.path, self.config.track))

    @cached_property
    def judge(self) -> Judge:
        """The judge, started at first use; of the first process only."""
        return self.stack.enter_context(open_judge(self.config.judge))

    @property
    def problems(self) -> dict[str, list[Problem]]:
        """Training, quiz and test problems after the audit. Of the first process only."""
        return self.sets.problems

    @cached_property
    def sets(self) -> Sets:
        """The problems, loaded and audited; what was excluded stands in excluded.json. Of the first process only."""
        known = self.folder.read_json("excluded.json") if (self.folder.path / "excluded.json").exists() else None
        tokenizer = load_tokenizer(self.config.model) if self.tokenizer is None else self.tokenizer
        sets = load_sets(self.config, tokenizer, self.judge.check_reference, known)
        if known is None:
            self.folder.write_json("excluded.json", sets.excluded)
            for name, ids in sets.shared.items():
                if ids:
                    _log.warning("%s also has %d of the test problems; the rest is reported apart", name, len(ids))
        self.judge.require({problem.language for problems in sets.problems.values() for problem in problems})
        return sets

    def _load_problems(self) -> None:
        assert self.problems  # loaded and audited here: that is no part of a sitting's time

    def book(self, name: str) -> ErrorBook:
        """The run's book ``exam``, ``quiz`` or ``test``, open for writing in the first process, else for reading."""
        if name not in self._books:
            assert not self.team.busy, "all processes open a book together"
            self.team.first(lambda: self._open_book(name))
            if not self.team.leads:
                self._books[name] = self.stack.enter_context(ErrorBook.open(self.folder.book(name)))
        return self._books[name]

    def _open_book(self, name: str) -> None:
        opened = ErrorBook.open_or_create(self.folder.book(name))
        self._books[name] = self.stack.enter_context(opened)
        if opened.lost_rows:
            lost = "%d answers of the %s were not committed when the run was stopped: they are asked for again"
            _log.warning(lost, opened.lost_rows, name)

    def _catch_up(self, book: ErrorBook) -> None:
        """Have the same rows of a book in every process, after the first has written some."""
        rows = self.team.first(lambda: len(book))

        def look() -> None:
            book.refresh()
            if len(book) != rows:
                raise DataError(
                    f"process {self.world.rank} sees {len(book)} of {rows} rows of {book.folder}",
                    why="its node does not see at once what another writes there",
                    do="set run_dir to a file system that all nodes share; on NFS mount it with lookupcache=none",
                )

        together(look, self.world)

    def sit(
        self,
        stage: str,
        round: int,
        policy: str,
        *,
        n: int,
        temperature: float,
        top_p: float,
        only: Container[str] | None = None,
    ) -> None:
        """Let the model in memory sit the exam, a quiz or the test, as far as the round is not complete.

        Args:
            stage: ``replay`` asks training problems again, for the exam's book.
            only: task ids to leave it at.
        """
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
        self.team.first(self._load_problems)
        trains = stage in ("exam", "replay")
        book = self.book("exam" if trains else stage)
        # Adapters that have learnt nothing add zeros: the exam goes without them.
        unused = adapters_off(self.model) if self.weights == INITIAL else nullcontext()

        def answer(sampler: Sampler) -> dict[str, int]:
            problems = self.problems["train" if trains else stage]
            return sit(
                sitting,
                problems if only is None else [problem for problem in problems if problem.task_id in only],
                book=book,
                sampler=sampler,
                judge=self.judge,
                tokenizer=self.tokenizer,
                prompt=config.prompt,
                seed=config.seed,
                quiet=self.quiet,
                asked=lambda: interrupt is not None and interrupt.asked,
            )

        # Several processes go on to the round's end: they would wait for each other's answers.
        asked = Interrupt(note) if self.world.size == 1 else nullcontext()
        with asked as interrupt, self.folder.timed(stage, counts), unused, ExitStack() as gathered:
            if self.world.size == 1:
                counts |= answer(self.sampler())
            else:
                shared = self._shared(lambda: gathered.enter_context(unsharded(self.model)))
                counts |= self.team.first(lambda: answer(shared), shared.help)
        self._catch_up(book)

    def sampler(self) -> Sampler:
        """What answers with the weights in memory, as they are when it is asked."""
        if self.config.sampling.engine == "vllm":
            model = self.model
            return VllmSampler(self.vllm, model, self.tokenizer, weights=lambda: whole_weights(model))
        return self._decoder()

    def _shared(self, gather: Callable[[], object]) -> DividedSampler | LedSampler:
        if self.config.sampling.server:
            return LedSampler(self.sampler(), self.team, gather)
        return DividedSampler(self._decoder(), self.team, gather)

    def _decoder(self) -> TransformersSampler:
        return TransformersSampler(self.model, self.tokenizer, batch_answers=self.config.sampling.batch_answers)

    @cached_property
    def vllm(self) -> VllmEngine | VllmServer:
        """The run's one vLLM: in this process, started at first use and asleep between the rounds; or a server."""
        sampling = self.config.sampling
        kind = VllmServer if sampling.server else VllmEngine
        engine = kind(sampling, longest=self.config.prompt.max_tokens + sampling.max_new_tokens)
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
        how = self.config
        return load_model(how.model, how.adapter, seed=how.seed, world=self.world, compiled=how.train.compile)

    def facts(self) -> dict[str, str]:
        """What environment.json says of the run beside versions and machine."""
        return {"sandbox_level": str(self.judge.level)}

    def reference_logps(
        self, book: ErrorBook, rows: npt.NDArray[np.int64], stage: str = "reference"
    ) -> npt.NDArray[np.float32]:
        """(N,) log-probabilities under the initial model of at least `rows`, computed once and kept in the book.

        Zeros, and nothing is computed, where the loss does not look at them.

        Args:
            stage: whose time it is.
        """
        if not self.config.loss.compares:
            return np.zeros(len(book), dtype=np.float32)
        key = self.initial_hash()
        known = self.team.first(lambda: book.annotation("ref_logp", key))
        missing = rows[np.isnan(known[rows])]
        if not len(missing):
            return known
        with self.as_initial(stage):
            for chunk, values in self.scores(book, missing, stage, f"{stage} log-probs", reference=True):
                self.team.first(partial(book.annotate, "ref_logp", chunk, values, key))
        return self.team.first(lambda: book.annotation("ref_logp", key))

    @contextmanager
    def as_initial(self, stage: str) -> Iterator[None]:
        """Inside, the model in memory computes as the initial one. A model in training is what it was afterwards."""
        if self.weights != TRAINING:
            self.use_initial()
            yield
            return
        with ExitStack() as stack:
            with self.folder.timed(stage, {}):
                stack.enter_context(initial_weights(self.model, self.config.model, self.initial_hash(), self.world))
            yield

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
                how = (train.token_budget, train.chunk_rows or None)
                yield chunk, score(self.model, book, chunk, *how, reference=reference, world=self.world)
                counts["answers"] += len(chunk)
                counts["tokens"] += int(book.column("length")[chunk].sum())
                bar.advance(len(chunk))

    def start_engine(self, total_steps: int) -> tuple[Engine, dict[str, int]]:
        """What trains the initial model, from the latest checkpoint on if there is one.

        Returns: the engine, and where training stands: `step` steps into `epoch`, counted from 0.
        """
        self.use_initial()
        profiles = self.folder.path / "profiles"
        engine = Engine(
            self.model,
            train=self.config.train,
            loss=self.config.loss,
            total_steps=total_steps,
            profiles=profiles if self.team.leads else profiles / f"process-{self.world.rank}",
            world=self.world,
        )
        self._tell(engine.optimizer.schedule.note())
        at = {"epoch": 0, "step": 0}
        if self.team.first(lambda: latest_checkpoint(self.folder.training)):
            at = load_checkpoint(self.folder.training, engine)
        self.weights = TRAINING
        return engine, at

    def _tell(self, note: str) -> None:
        """Warn in the terminal, and in environment.json for the report."""
        environment = self.folder.read_json("environment.json")
        if note and environment.get("note_schedule") != note:
            self.folder.write_json("environment.json", environment | {"note_schedule": note})
        if note and self.team.leads:
            _log.warning("%s", note)

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
                    margin = metrics.get("rewards/margins")
                    shown = {"loss": metrics["loss"]} | ({} if margin is None else {"margin": margin})
                    bar.advance(int(metrics["pairs"]), None, **{name: round(v, 4) for name, v in shown.items()})
                asked = any_rank(interrupt.asked, self.world)
                if asked or (every and done % every == 0):
                    self.checkpoint(engine, sink, epoch, done)
                if asked:
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
                self.model, self.tokenizer = load_model(best, world=self.world)
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
            self.team.first(lambda: self._describe(found))
        elif environment["model_hash"] != found:
            raise DataError(
                f"{self.config.model.name} is not the model that this run began with",
                why=f"its weights hash to {found[:12]}, the run's to {environment['model_hash'][:12]}",
                do="restore the model, or start a new run",
            )

    def _describe(self, found: str) -> None:
        layers = layers_in_use(self.model, self.config.model.liger, compiled=self.config.train.compile)
        facts = {"attention": attention_in_use(self.model), "liger": layers}
        facts["tokenizer_hash"] = tokenizer_hash(self.tokenizer)
        if self.world.size > 1:
            facts["processes"] = str(self.world.size)
        described = describe(self.config.model.device, self.config.model.name)
        self.folder.write_json("environment.json", described | facts | self.facts() | {"model_hash": found})
