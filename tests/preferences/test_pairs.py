"""From rows to the book and its plans: what is shared, left out, held out, and in which order it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook
from ap2o_fast.config import HeldOutSettings
from ap2o_fast.curriculum.preferences import read_pairs
from ap2o_fast.errors import DataError
from ap2o_fast.preferences.format import tokenize
from ap2o_fast.preferences.pairs import Limits, shuffled, write_pairs
from tests.preferences.data import make_rows, make_tokenizer

WIDE = Limits(sequence=10**6, pair=10**6)
NONE = HeldOutSettings()


def make_book(
    folder: Path, rows: list[dict[str, Any]], held: list[dict[str, Any]] | None = None, limits: Limits = WIDE
) -> tuple[ErrorBook, dict[str, str]]:
    tokenizer, looked = make_tokenizer(), []
    trained, evaluated = (
        [(f"{name} {i}", tokenize(row, tokenizer, name)) for i, row in enumerate(given)]
        for name, given in (("row", rows), ("held", held or []))
    )
    excluded = write_pairs(folder / "book", trained, evaluated, limits=limits, advance=lambda: looked.append(1))
    assert len(looked) == len(trained) + len(evaluated)
    return ErrorBook.open(folder / "book"), excluded


def test_pairs_share_prompts_and_equal_answers(tmp_path: Path) -> None:
    rows = [
        {"prompt": "red is", "chosen": " red", "rejected": " blue"},
        {"prompt": "gold is", "chosen": " red", "rejected": " grey"},
        {"prompt": "red is", "chosen": " green", "rejected": " red"},
        {"prompt": "red is", "chosen": " red", "rejected": " pink"},
    ]
    book, excluded = make_book(tmp_path, rows)
    plan, evaluated = read_pairs(book, NONE, seed=0)
    assert excluded == {} and len(evaluated) == 0
    assert plan.problem.tolist() == [0, 1, 0, 0] and len(book.task_ids) == 2
    assert plan.chosen.tolist() == [0, 2, 4, 0], "' red' to the first prompt is one answer, wherever it stands"
    assert plan.rejected.tolist() == [1, 3, 0, 7]
    tokenizer = make_tokenizer()
    for row, (chosen, rejected) in zip(
        rows, zip(plan.chosen.tolist(), plan.rejected.tolist(), strict=True), strict=True
    ):
        assert tokenizer.decode(book.tokens(chosen)) == row["chosen"] + "</s>"
        assert tokenizer.decode(book.tokens(rejected)) == row["rejected"] + "</s>"
        assert book.prompt(int(book.column("problem")[chosen])) == row["prompt"]
    assert book.text(1) == " blue"


def test_what_cannot_be_trained_on_is_left_out_by_name(tmp_path: Path) -> None:
    rows = [
        {"prompt": "red is", "chosen": " red", "rejected": " blue"},
        {"prompt": "", "chosen": "red", "rejected": "blue"},
        {"prompt": "red is", "chosen": " red", "rejected": " red"},
        {"prompt": "gold is", "chosen": " red", "rejected": " blue" * 30},
        {"prompt": "gold is", "chosen": " pink" * 12, "rejected": " blue" * 12},
    ]
    held = [{"prompt": "red is", "chosen": " gold", "rejected": " pink"}, rows[4] | {"chosen": " red"}]
    wide = tokenize(rows[4], make_tokenizer(), "")
    longest = len(wide.prompt) + max(len(wide.chosen), len(wide.rejected))
    limits = Limits(sequence=longest, pair=len(wide.prompt) + len(wide.chosen) + len(wide.rejected) - 1)
    book, excluded = make_book(tmp_path, rows, held, limits)
    assert list(excluded) == ["row 1", "row 2", "row 3", "row 4", "held 0"]
    assert "no token" in excluded["row 1"] and "equal" in excluded["row 2"]
    assert f"the limit is {limits.sequence}" in excluded["row 3"]
    assert f"train.token_budget is {limits.pair}" in excluded["row 4"]
    assert excluded["held 0"] == "its prompt is trained on"
    plan, evaluated = read_pairs(book, NONE.model_copy(update={"source": "held"}), seed=0)
    assert (len(plan), len(evaluated)) == (1, 1), "a prompt that was left out of training may be evaluated"
    with pytest.raises(DataError, match=r"none of 1 pairs(?s:.*)row 0: its answers are equal(?s:.*)max_tokens"):
        make_book(tmp_path / "none", rows[2:3])


def test_a_share_of_the_prompts_is_held_out_with_all_their_pairs(tmp_path: Path) -> None:
    book, _ = make_book(tmp_path, make_rows(24))
    share = NONE.model_copy(update={"share": 0.25})
    trained, evaluated = read_pairs(book, share, seed=1)
    assert set(trained.problem.tolist()).isdisjoint(evaluated.problem.tolist())
    assert len(set(evaluated.problem.tolist())) == 3 and len(trained) + len(evaluated) == 24
    assert read_pairs(book, share, seed=1)[1].problem.tolist() == evaluated.problem.tolist()
    assert read_pairs(book, share, seed=2)[1].problem.tolist() != evaluated.problem.tolist()
    one, _ = make_book(tmp_path / "one", make_rows(2))
    with pytest.raises(DataError, match="nothing is left to train on"):
        read_pairs(one, share, seed=0)


def test_every_epoch_has_every_pair_in_an_order_of_its_own(tmp_path: Path) -> None:
    plan, _ = read_pairs(make_book(tmp_path, make_rows(24))[0], NONE, seed=0)
    pairs = list(zip(plan.chosen.tolist(), plan.rejected.tolist(), strict=True))
    orders = {}
    for how in ("pairs", "prompts", "off"):
        for epoch in (0, 1):
            mixed = shuffled(plan, how, 7, epoch)
            orders[how, epoch] = list(zip(mixed.chosen.tolist(), mixed.rejected.tolist(), strict=True))
            assert sorted(orders[how, epoch]) == sorted(pairs)
            assert np.array_equal(mixed.problem, book_problem(plan, mixed.chosen))
    assert orders["off", 0] == orders["off", 1] == pairs
    assert orders["pairs", 0] != orders["pairs", 1] and orders["prompts", 0] != orders["prompts", 1]
    together = shuffled(plan, "prompts", 7, 0).problem
    assert np.count_nonzero(np.diff(together)) == len(set(together.tolist())) - 1
    assert np.array_equal(shuffled(plan, "pairs", 7, 0).chosen, shuffled(plan, "pairs", 7, 0).chosen)
    assert not np.array_equal(shuffled(plan, "pairs", 8, 0).chosen, shuffled(plan, "pairs", 7, 0).chosen)


def book_problem(plan: Any, rows: np.ndarray) -> np.ndarray:
    by_row = dict(zip(plan.chosen.tolist(), plan.problem.tolist(), strict=True))
    return np.array([by_row[row] for row in rows.tolist()])


def test_a_book_that_was_not_finished_is_made_anew(tmp_path: Path) -> None:
    def breaks() -> Any:
        yield "row 0", tokenize(make_rows(1)[0], make_tokenizer(), "")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pairs(tmp_path / "book", breaks(), [], limits=WIDE, advance=lambda: None)
    assert not (tmp_path / "book").exists()
    book, _ = make_book(tmp_path, make_rows(2))
    assert len(book) == 4 and [path.name for path in tmp_path.iterdir()] == ["book"]
