"""Where a book lies that a command names, in a run's folder or one of its own, and where a new one is put."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ap2o_fast import config as settings
from ap2o_fast.book import ErrorBook
from ap2o_fast.book.fs import Files
from ap2o_fast.book.manifest import read_manifest
from ap2o_fast.errors import DataError, MachineError, UsageError
from ap2o_fast.run_folder import RunFolder

MANIFEST, SETTINGS = "manifest.json", "config.json"
STYLE = "prompt.style"
"""The label that says how the prompts were worded."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A book that was named.

    Attributes:
        named: the path as it was given.
        folder: the book's own folder.
        run: the run that it belongs to, if any.
    """

    named: Path
    folder: Path
    run: RunFolder | None

    def open(self, *, check: bool = False) -> ErrorBook:
        """Open it to read, with `check` after comparing all checksums. Errors: those of `ErrorBook.open`."""
        return ErrorBook.open(self.folder, check=check)

    @property
    def is_run(self) -> bool:
        """True where the run was named, not its book."""
        return self.run is not None and self.named == self.run.path


def find(path: Path) -> Place:
    """Find the book at a path: a run's folder stands for its exam, ``RUN/quiz`` and ``RUN/test`` for the others.

    Errors: `DataError` where there is neither a run nor a book.
    """
    if (path / SETTINGS).is_file():
        run = RunFolder.open(path)
        return Place(named=path, folder=run.book("exam"), run=run)
    if (path / MANIFEST).is_file():
        parent = path.absolute().parent
        return Place(named=path, folder=path, run=RunFolder.open(parent) if (parent / SETTINGS).is_file() else None)
    raise DataError(
        f"{path} is neither a run folder nor an error book",
        why=f"it has neither {SETTINGS} nor {MANIFEST}" if path.is_dir() else "there is no such folder",
        do="name the folder that `ap2o run` printed, or a book in it such as RUN/quiz",
    )


def facts(place: Place) -> dict[str, str]:
    """What the rows of a book were made with: its own labels, and what its run says. What is not known is left out."""
    known = dict(read_manifest(place.folder).labels)
    if place.run is not None:
        environment = place.run.read_json("environment.json")
        names = {"model": "model_hash", "tokenizer": "tokenizer_hash"}
        known |= {fact: str(environment[name]) for fact, name in names.items() if name in environment}
        known[STYLE] = place.run.config.prompt.style
    return known


def differing_settings(runs: Sequence[RunFolder]) -> list[str]:
    """The settings, by dotted key, that are not the same in all of these runs; where a run lies is none."""
    return [
        key
        for key in settings.keys()
        if key != "run_dir" and any(_value(run, key) != _value(runs[0], key) for run in runs[1:])
    ]


def setting_differences(first: Place, second: Place) -> list[tuple[str, str, str]] | None:
    """Key and both values of every setting that differs between the runs of two books, what is known of model and
    tokenizer first; None where one is of no run."""
    if first.run is None or second.run is None:
        return None
    one, two = facts(first), facts(second)
    known = [
        (fact, one.get(fact, "?"), two.get(fact, "?")) for fact in sorted(one.keys() | two.keys()) if fact != STYLE
    ]
    found = [
        (key, _shown(first.run, key), _shown(second.run, key)) for key in differing_settings([first.run, second.run])
    ]
    return [row for row in known if row[1] != row[2]] + found


def _shown(run: RunFolder, key: str) -> str:
    return json.dumps(_value(run, key), default=str, ensure_ascii=False)


def _value(run: RunFolder, key: str) -> object:
    return settings.value_of(run.config, key)


@contextmanager
def new_book(out: Path, labels: Mapping[str, str], like: RunFolder | None = None) -> Iterator[ErrorBook]:
    """Make a book that is there, whole, once the block has ended well; before, it lies in ``OUT.partial``.

    Args:
        out: its folder, or with `like` that of a run.
        labels: of the book.
        like: a run of which `out` gets settings, environment and excluded problems, so that it can train on the book.

    Errors: `UsageError` where there is something at `out`; `MachineError` where it cannot be written.
    """
    if out.exists():
        raise UsageError(f"{out} exists already", do="name a folder that does not")
    beside = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        if like is not None:
            beside.mkdir(parents=True)
            config = like.config.model_dump(mode="json") | {"run_dir": str(out)}
            RunFolder(path=beside, config=like.config).write_json(SETTINGS, config)
            for name in ("environment.json", "excluded.json"):
                if (like.path / name).exists():
                    shutil.copyfile(like.path / name, beside / name)
        with ErrorBook.create(beside if like is None else beside / "book", labels=labels) as book:
            yield book
        # The lock of the writer is gone with it; a reader needs none.
        beside.rename(out)
        Files().sync_folder(out.absolute().parent)
    except OSError as error:
        raise MachineError(f"cannot write {out}", why=str(error), do="name a folder with room") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
