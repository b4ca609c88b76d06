"""`ap2o book …` as a person meets it: tables, marked failing lines, JSON, and nothing of what a model wrote obeyed."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console

from ap2o_fast.book import ErrorBook, counts, tables, where
from ap2o_fast.book.closest import closest_pairs
from ap2o_fast.book.confusion import Confusion
from ap2o_fast.book.records import FIELDS
from ap2o_fast.cli import main
from ap2o_fast.commands.book import app as book_app
from ap2o_fast.judge.verdict import ErrorType
from ap2o_fast.reporting.bookdiff import print_confusion
from ap2o_fast.reporting.bookpair import NARROW, print_pairs, side
from tests.reporting.conftest import GOOD


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["book", *map(str, arguments)])
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")


def test_show_with_conditions_and_counts(whole_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = ErrorBook.open(whole_run / "book")
    conditions = ("--where", "error=NameError,TypeError", "--where", "round>=2", "--where", "policy!=epoch-3")
    rows = [
        row
        for row in range(len(book))
        if book.row(row).verdict.error.name in ("NameError", "TypeError") and book.row(row).round in (2, *range(4, 99))
    ]
    found = as_json(capsys, whole_run, *conditions, "--show", 2)
    assert found["answers"] == len(rows) and [row["row"] for row in found["rows"]] == rows[:2]
    assert found["rows"][0]["code"] == book.code(rows[0]) and found["rows"][0]["policy"] == book.policy(rows[0])
    counted = as_json(capsys, whole_run, "--by", "round")
    assert [group["value"] for group in counted["groups"]] == [0, 1, 2, 3]
    code, out, _ = call(capsys, whole_run, "--by", "policy", "--show", 1)
    assert code == 0 and re.search(r"│ epoch-3 +│ +24 │", out) and "1 of " in out
    assert call(capsys, "show", whole_run / "test")[0] == 0
    assert call(capsys, "--show", 1, whole_run)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN", "--where", "eror=Passed"], 2, "did you mean 'error'"),
        (["RUN", "--by", "polcy"], 2, "did you mean 'policy'"),
        (["confuson", "RUN"], 2, "did you mean 'confusion'"),
        (["nowhere"], 3, "neither a run folder nor an error book"),
        (["confusion", "RUN", "--from", "0", "--to", "77"], 2, "no round 77"),
        (["pair", "RUN", "--problem", "Mbpp/60"], 2, "did you mean 'Mbpp/6"),
        (
            ["export", "RUN", "--format", "jsonl", "--out", "RUN", "--style", "chat"],
            2,
            "are for --pairs",
        ),
        (["export", "RUN", "--format", "jsonl", "--out", "RUN"], 2, "exists already"),
        (["export", "BOOK", "--format", "jsonl", "--out", "x", "--pairs"], 2, "--style paper"),
        (["merge", "RUN", "RUN"], 2, "exists already"),
    ],
)
def test_what_cannot_be_done_is_said(
    whole_run: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(whole_run / "book", tmp_path / "alone")
    places = {"RUN": whole_run, "BOOK": tmp_path / "alone"}
    found, _, err = call(capsys, *(places.get(word, word) for word in arguments))
    assert found == code and message in err and "Traceback" not in err


def test_confusion_prints_the_matrix_and_the_problems(whole_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "confusion", whole_run / "test", "--from", 0, "--to", 9)
    passed = ErrorBook.open(whole_run / "test").frequencies(0)[:24, 0].sum()
    assert sum(found["matrix"]["Passed"].values()) == pytest.approx(passed)
    assert found["left_out"] == 1
    code, out, _ = call(capsys, "confusion", whole_run / "test", "--from", 0, "--to", 9)
    assert code == 0 and "24 problems" in out and "shared out" in out
    assert re.search(rf"│ Passed +│.*│ +{passed} │", out)


@pytest.mark.parametrize(("width", "own"), [(60, 2), (100, 7), (160, 7)])
def test_types_without_room_share_a_column(width: int, own: int) -> None:
    matrix = np.zeros((len(ErrorType), len(ErrorType)))
    matrix[:7, :7] = 12345.25 + np.arange(7)
    found = Confusion(before=0, after=1, problems=9, left_out=0, matrix=matrix, gained=(), lost=())
    console = Console(file=io.StringIO(), width=width)
    print_confusion(found, console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in shown.replace("→", "") and max(map(len, shown.splitlines())) <= width
    header = next(line for line in shown.splitlines() if "answers" in line)
    assert len(header.split("┃")) - 3 - 1 - ("others" in header) == own
    assert ("others" in header) is (own < 7)


def test_diff_names_settings_and_changes(whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copytree(whole_run, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["train"]["lr"], config["model"]["name"] = 9e-6, "[bold]\x1b[31mmodel"
    (other / "config.json").write_text(json.dumps(config))
    part = tmp_path / "part"
    assert call(capsys, "sample", other, part, "--where", "error!=Passed", "--where", "problem!=Mbpp/601")[0] == 0
    found = as_json(capsys, "diff", whole_run, part, "--show", 3)
    assert [setting[0] for setting in found["settings"]] == ["model.name", "train.lr"]
    assert found["passed"][1] == 0 and found["only_first"] == ["Mbpp/601", "Mbpp/619"] and len(found["pairs"]) == 3
    assert ErrorBook.open(whole_run / "book").frequencies()[19, 1:].sum() == 0, "all of 619 passed"
    assert all(pair["first"]["error"] == "Passed" != pair["second"]["error"] for pair in found["pairs"])
    code, out, _ = call(capsys, "diff", whole_run, part, "--show", 1)
    assert code == 0 and "[bold]\\u001b[31mmodel" in out and "\x1b" not in out and "settings that differ" in out
    assert (
        re.search(r"Passed +│ +\d+ │ +[\d.]+% │ +0 │ +0.0%", out) and "only in the first: 2 (Mbpp/601, Mbpp/619)" in out
    )


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("width", [NARROW - 1, 140])
def test_a_pair_marks_the_failing_line(whole_run: Path, width: int, unified: bool) -> None:
    book = ErrorBook.open(whole_run / "book")
    row = int(book.select({"error": "IndexError"})[0])
    good = next(at for at in book.select({"error": "Passed"}).tolist() if book.code(at) != GOOD)
    console = Console(file=io.StringIO(), width=width)
    sides = (side(book, row, "rejected"), side(book, good, "chosen"))
    print_pairs(["Mbpp/1"], [sides], unified=unified, console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "rejected IndexError in line 6" in shown and "list index out of range" in shown
    marked = [line for line in shown.splitlines() if "❱" in line]
    assert len(marked) == 1 and "numbers[number + 1]" in marked[0]
    below = unified or width < NARROW
    changed = [line for line in shown.splitlines() if "numbers[number + 1]" in line or "+= number" in line]
    assert len(changed) == (2 if below else 1)
    assert any(re.match(r"│ - ❱ +6 ", line) for line in changed) is below


def test_what_a_model_wrote_is_shown_and_not_obeyed(whole_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for problem, words in (("<b>hostile</b>/3", "[bold red]markup[/bold red]"), ("<b>hostile</b>/1", "'red'.rots")):
        for option in ((), ("--unified",)):
            code, out, _ = call(capsys, "pair", whole_run, "--problem", problem, *option)
            assert code == 0 and words in out.replace(" │\n│ ", "")
            assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert "\\u001b" in call(capsys, "pair", whole_run, "--problem", "<b>hostile</b>/1", "--json")[1]


def test_pair_takes_the_closest(whole_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = ErrorBook.open(whole_run / "book")
    wanted = closest_pairs(book, book.problem_index("Mbpp/605"), book.select({"error": "NameError"}), 1)[0]
    found = as_json(capsys, "pair", whole_run, "--problem", "Mbpp/605", "--where", "error=NameError")
    assert (found[0]["chosen"]["row"], found[0]["rejected"]["row"]) == wanted
    assert any(line.startswith("- ❱") for line in found[0]["difference"])


def test_out_and_in_again(whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, again = tmp_path / "book.jsonl", tmp_path / "again"
    assert call(capsys, "export", whole_run, "--format", "jsonl", "--out", lines)[0] == 0
    assert call(capsys, "import", lines, again)[0] == 0
    assert as_json(capsys, again, "--by", "error") == as_json(capsys, whole_run, "--by", "error")
    assert ErrorBook.open(again).labels == {"prompt.style": "paper"}
    code, _, err = call(capsys, "export", again, "--pairs", "--format", "jsonl", "--out", tmp_path / "pairs.jsonl")
    assert code == 2 and "which tokenizer the model was asked with" in err


def test_verify_names_the_file_with_a_flipped_bit(
    whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = shutil.copytree(whole_run / "book", tmp_path / "book")
    assert call(capsys, "verify", book)[:2] == (0, f"{book}: every file is as it was sealed\n")
    file = sorted(book.glob("*.rows"))[-1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, _, err = call(capsys, "verify", book)
    assert code == 3 and file.name in err


def test_repair_takes_from_a_copy_what_is_as_it_was_sealed_and_says_what_is_left(
    whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book, copy = (shutil.copytree(whole_run / "book", tmp_path / name) for name in ("book", "copy"))
    file = sorted(book.glob("*.rows"))[-1]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert call(capsys, "repair", book, copy)[:2] == (0, f"{file}: as it was sealed again\n")
    assert file.read_bytes() == whole and call(capsys, "verify", book)[0] == 0
    for each in (file, copy / file.name):
        each.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    code, _, err = call(capsys, "repair", book, copy)
    assert code == 3 and file.name in err


def test_repair_without_a_copy_says_what_is_lost_and_writes_the_rest_beside(
    whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(whole_run, tmp_path / "run")
    assert call(capsys, "repair", run)[:2] == (0, f"{run / 'book'}: every file is as it was sealed\n")
    code, _, err = call(capsys, "repair", run, "--out", tmp_path / "new")
    assert code == 2 and "nothing of" in err
    answers, file = len(ErrorBook.open(run / "book")), sorted((run / "book").glob("*.rows"))[-1]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    code, _, err = call(capsys, "repair", run)
    assert code == 3 and file.name in err and f" of {answers:,} answers" in err
    assert call(capsys, "repair", run, tmp_path, "--out", tmp_path / "new")[0] == 2
    code, out, err = call(capsys, "repair", run, "--out", tmp_path / "new")
    assert code == 0, err
    kept = len(ErrorBook.open(tmp_path / "new" / "book", check=True))
    assert f"lost are {answers - kept:,} of {answers:,} answers" in out and 0 <= kept < answers
    assert file.read_bytes() != whole and call(capsys, "verify", run)[0] == 3, "the damaged book is as it was"


@pytest.mark.parametrize("command", ["sample", "merge", "export", "pairs"])
def test_nothing_is_made_of_a_damaged_book(
    whole_run: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, new = shutil.copytree(whole_run, tmp_path / "run"), tmp_path / "new"
    file = sorted((run / "book").glob("*.rows"))[-1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    words = {
        "sample": ("sample", run, new),
        "merge": ("merge", new, whole_run, run),
        "export": ("export", run, "--format", "jsonl", "--out", new),
        "pairs": ("export", run, "--pairs", "--format", "jsonl", "--out", new),
    }
    code, _, err = call(capsys, *words[command])
    assert code == 3 and file.name in err and "ap2o book repair" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_the_page_on_books_names_every_field_and_command() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "book.md").read_text(encoding="utf-8")
    for field in FIELDS:
        assert f"| `{field.name}` | {field.type} | {field.meaning} |" in page
    for name in (*where.FIELDS, *counts.BY, *tables.FORMATS):
        assert f"`{name}`" in page
    group = typer.main.get_command(book_app)
    assert set(group.commands) - {"show"} <= set(re.findall(r"ap2o book (\w+)", page))  # type: ignore[attr-defined]


def test_runs_that_do_not_go_together_are_refused_by_name_and_leave_nothing(
    whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, found in (("one", "a"), ("two", "b")):
        shutil.copytree(whole_run, tmp_path / name)
        (tmp_path / name / "environment.json").write_text(json.dumps({"model_hash": found, "tokenizer_hash": "t"}))
    code, _, err = call(capsys, "merge", tmp_path / "all", tmp_path / "one", tmp_path / "two")
    assert code == 3 and f"{tmp_path}/two and {tmp_path}/one were made with another model" in err
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    config["prompt"]["style"] = "chat"
    (tmp_path / "two" / "config.json").write_text(json.dumps(config))
    (tmp_path / "two" / "environment.json").write_text(json.dumps({"model_hash": "a", "tokenizer_hash": "t"}))
    code, _, err = call(capsys, "merge", tmp_path / "all", tmp_path / "one", tmp_path / "two")
    assert code == 3 and "another prompt.style" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    config |= {"seed": 99, "prompt": config["prompt"] | {"style": "paper"}}
    (tmp_path / "two" / "config.json").write_text(json.dumps(config))
    code, out, _ = call(capsys, "merge", tmp_path / "all", tmp_path / "one", tmp_path / "two")
    assert code == 0 and "these settings differ" in out and out.rstrip().endswith(": seed")
    assert dict(ErrorBook.open(tmp_path / "all" / "book").labels) == {
        "model": "a", "tokenizer": "t", "prompt.style": "paper",
    }  # fmt: skip
