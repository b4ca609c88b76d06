"""Plain DPO in a run folder: pairs -> reference log-probabilities -> epochs with evaluation -> checkpoint.

Every stage is idempotent, as those of the curriculum: a run that was killed goes on by calling all of them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ap2o_fast.book import ErrorBook
from ap2o_fast.curriculum.plan import PairPlan
from ap2o_fast.curriculum.preferences import read_pairs
from ap2o_fast.interrupt import Interrupt
from ap2o_fast.preferences.format import TokenPair, tokenize
from ap2o_fast.preferences.pairs import Limits, shuffled, write_pairs
from ap2o_fast.preferences.settings import check
from ap2o_fast.preferences.source import Places, read
from ap2o_fast.reporting.modelcard import write_model_card
from ap2o_fast.reporting.report import write_report
from ap2o_fast.reporting.terminal import note, progress
from ap2o_fast.run_folder import RunFolder
from ap2o_fast.training import prepare_model, save_model
from ap2o_fast.training.objective import pair_means
from ap2o_fast.training.parallel.distributed import ALONE, World, any_rank
from ap2o_fast.workbench import Workbench

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a program hands over instead of naming it in the settings: rows, and model with tokenizer."""

    rows: Rows | None = None
    eval_rows: Rows | None = None
    model: Any = None
    tokenizer: Any = None


class DpoRun(Workbench):
    """One run of plain DPO in progress.

    Files beside those of any run: `eval.jsonl`, a line an evaluation; `excluded.json`, why a pair was left out;
    `dpo.json`, what `run` returns. In the book, beside the held-out answers, their log-probabilities (``logp``) after
    the epochs that were the best so far.
    """

    def __init__(
        self, folder: RunFolder, *, quiet: bool = False, given: Given | None = None, world: World = ALONE
    ) -> None:
        check(folder.config)
        super().__init__(folder, quiet=quiet, world=world)
        self._given = given or Given()

    def run(self) -> dict[str, Any]:
        """Everything, or what is still missing of it.

        Returns: ``epochs`` and ``steps`` done, why it ``ended``, the ``best_epoch``, whose weights are in
        ``checkpoints/best``, counts of ``pairs``, ``eval_pairs`` and ``excluded``; the last step's metrics under
        ``train`` and the best epoch's evaluation under ``eval``.
        """
        done = self.folder.read_json("dpo.json")
        if not done:
            self._make_book()
            book = self.book("exam")
            trained, evaluated = read_pairs(book, self.config.preferences.eval, self.config.seed)
            if not self.config.loss.compares:
                trained, evaluated = trained.without_rejected(), evaluated.without_rejected()
            used = np.union1d(trained.rows, evaluated.rows)
            reference = self.reference_logps(book, used)
            ended = self._train(book, trained, evaluated, reference)
            done = self._summary(ended, len(trained), len(evaluated))
            self.folder.write_json("dpo.json", done)
        self.folder.forget_training()
        self.report()
        return done

    def report(self) -> Path:
        """Write report.html and the model card; returns the report's path."""
        return self.team.first(self._report)

    def _report(self) -> Path:
        write_model_card(self.folder.path)
        return write_report(self.folder.path)

    def load_initial(self) -> tuple[Any, Any]:
        """The model that was given, or the one that the settings name."""
        if self._given.model is None:
            return super().load_initial()
        return prepare_model(self._given.model), self._given.tokenizer

    def facts(self) -> dict[str, str]:
        """Nothing: no program is run here."""
        return {}

    def _make_book(self) -> None:
        path = self.folder.book("exam")
        if self.team.first(path.exists):
            return
        # What is wrong with a source is found before a model is loaded for it.
        self.team.first(self._open_sources)
        self.use_initial()
        self.team.first(lambda: self._write_pairs(path))

    def _open_sources(self) -> None:
        how = self.config.preferences
        count, self._rows = read(how.source, how.split, how.limit, self._given.rows)
        more: int = 0
        self._held: Places = ()
        if how.eval.source:
            more, self._held = read(how.eval.source, how.eval.split, how.eval.limit, self._given.eval_rows)
        self._count = count + more

    def _write_pairs(self, path: Path) -> None:
        text = self.model.config.get_text_config()
        model_limit = getattr(text, "max_position_embeddings", None) or self.config.train.token_budget
        longest = self.config.preferences.max_tokens or model_limit
        limits = Limits(sequence=longest, pair=self.config.train.token_budget)
        sets = self._tokenized(self._rows), self._tokenized(self._held)
        with progress("tokenise", self._count, "pairs", quiet=self.quiet) as bar:
            excluded = write_pairs(path, *sets, limits=limits, advance=bar.advance)
        self.folder.write_json("excluded.json", excluded)

    def _tokenized(self, rows: Places) -> Iterator[tuple[str, TokenPair]]:
        return ((place, tokenize(row, self.tokenizer, place)) for place, row in rows)

    def _train(
        self, book: ErrorBook, trained: PairPlan, evaluated: PairPlan, reference: npt.NDArray[np.float32]
    ) -> str:
        """All epochs that are still to do; returns why they ended."""
        how, seed, order = self.config.train, self.config.seed, self.config.preferences.shuffle
        steps = how.epochs * -(-len(trained) // how.batch_pairs)
        engine, at = self.start_engine(steps)
        self.folder.truncate("metrics.jsonl", "step", engine.step)
        self.folder.truncate("eval.jsonl", "epoch", at["epoch"])
        with Interrupt(note) as interrupt, self.folder.sink("metrics.jsonl") as sink:
            for epoch in range(at["epoch"], how.epochs):
                if self._is_stalled(epoch):
                    return f"no better evaluation in {how.patience} epochs"
                plan = shuffled(trained, order, seed, epoch)
                first = at["step"] if epoch == at["epoch"] else 0
                name = f"dpo epoch {epoch + 1}/{how.epochs}"
                self.train_epoch(engine, plan, book, reference, sink, interrupt, name=name, epoch=epoch, first=first)
                self._finish_epoch(book, evaluated, reference, epoch + 1)
                self.checkpoint(engine, sink, epoch + 1, 0)
            if any_rank(interrupt.asked, self.world):
                raise KeyboardInterrupt
        return f"all {how.epochs} epochs done"

    def _finish_epoch(
        self, book: ErrorBook, evaluated: PairPlan, reference: npt.NDArray[np.float32], epoch: int
    ) -> None:
        """Evaluate where pairs are held out; keep the weights that are the best, or without them the last."""
        best = epoch == self.config.train.epochs
        if len(evaluated):
            line, logps = self.evaluate(book, evaluated, reference, f"evaluate epoch {epoch}")
            best = self.team.first(lambda: self._log_evaluation(book, line, logps, epoch))
        if best:
            save_model(self.model, self.tokenizer, self.folder.best, note={"epoch": epoch}, world=self.world)

    def _log_evaluation(
        self, book: ErrorBook, line: dict[str, float], logps: npt.NDArray[np.float32], epoch: int
    ) -> bool:
        """Append to eval.jsonl; of the best so far keep the log-probabilities. Returns whether it is that."""
        best = line["loss"] < min((row["loss"] for row in self.folder.read_lines("eval.jsonl")), default=float("inf"))
        if best:
            rows = np.flatnonzero(~np.isnan(logps))
            book.annotate("logp", rows, logps[rows], f"epoch {epoch}")
        self.folder.append("eval.jsonl", {"epoch": epoch, **line, "best": best})
        return best

    def evaluate(
        self, book: ErrorBook, plan: PairPlan, reference: npt.NDArray[np.float32], name: str
    ) -> tuple[dict[str, float], npt.NDArray[np.float32]]:
        """Loss, rewards/* and logps/* of the weights in memory: means over the plan's pairs; and (N,) log-probabilities
        by row, NaN for those of no pair."""
        rows = plan.rows
        logps = np.full(len(reference), np.nan, dtype=np.float32)
        for chunk, values in self.scores(book, rows, "evaluate", name):
            logps[chunk] = values
        pairs = np.searchsorted(rows, np.stack([plan.chosen, plan.rejected], axis=1))
        lengths = book.column("length")[rows]
        tensors = (torch.from_numpy(np.array(values)) for values in (logps[rows], reference[rows], lengths, pairs))
        return pair_means(*tensors, settings=self.config.loss) | {"pairs": len(plan)}, logps

    def best_epoch(self) -> int:
        """The epoch whose weights are in ``checkpoints/best``, 0 before there is one."""
        return int(self.folder.read_json("checkpoints/best/COMPLETE").get("epoch", 0))

    def _is_stalled(self, epoch: int) -> bool:
        """Whether the last `train.patience` of `epoch` epochs brought no new best."""
        best = max((row["epoch"] for row in self.folder.read_lines("eval.jsonl") if row["best"]), default=0)
        return 0 < self.config.train.patience <= epoch - best

    def _summary(self, ended: str, trained: int, evaluated: int) -> dict[str, Any]:
        last = self.folder.read_lines("metrics.jsonl")[-1]
        best = [row for row in self.folder.read_lines("eval.jsonl") if row["best"]]
        return {
            "ended": ended,
            "epochs": last["epoch"],
            "steps": last["step"],
            "best_epoch": self.best_epoch(),
            "pairs": trained,
            "eval_pairs": evaluated,
            "excluded": len(self.folder.read_json("excluded.json")),
            "train": last,
            **({"eval": best[-1]} if best else {}),
        }
