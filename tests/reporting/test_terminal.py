from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from ap2o_fast.book import ErrorBook
from ap2o_fast.reporting.bookview import view
from ap2o_fast.reporting.live import LiveTable
from ap2o_fast.reporting.run import read_run
from ap2o_fast.reporting.tables import print_results
from ap2o_fast.reporting.terminal import Lines, display_of, note, progress, showing
from ap2o_fast.reporting.text import clean, duration, percent, points, rate, shorten


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def screen(*, terminal: bool, width: int = 110) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, color_system="standard" if terminal else None
    )


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_one_line_an_interval_and_one_at_the_end() -> None:
    console, clock = screen(terminal=False), Clock()
    with progress("exam", 100, "answers", console=console, clock=clock) as bar:
        for _ in range(100):
            clock.now += 0.25
            bar.advance(1, passed=bar.done // 2)
    lines = text(console).splitlines()
    assert lines == [
        "exam: 40/100 answers (40%) · 4 answers/s · 15.0 s left · passed 19",
        "exam: 80/100 answers (80%) · 4 answers/s · 5.0 s left · passed 39",
        "exam: 100 answers in 25.0 s · 4 answers/s · passed 49",
    ]


def test_work_of_an_earlier_run_is_done_but_not_in_the_rate() -> None:
    console, clock = screen(terminal=False), Clock()
    with progress("exam", 100, "answers", done=60, console=console, clock=clock) as bar:
        clock.now += 10
        bar.advance(20)
    assert text(console).splitlines()[0] == "exam: 80/100 answers (80%) · 2 answers/s · 10.0 s left"


def test_an_interruption_is_told_and_goes_through() -> None:
    console, clock = screen(terminal=False), Clock()

    def work() -> None:
        with progress("exam", 10, "answers", console=console, clock=clock) as bar:
            clock.now += 2
            bar.advance(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert text(console) == "exam: stopped at 3/10 answers in 2.0 s · 1.5 answers/s\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_nothing(terminal: bool) -> None:
    console = screen(terminal=terminal)
    with progress("exam", 2, "answers", quiet=True, console=console) as bar:
        bar.advance(2)
    assert text(console) == ""
    assert bar.done == 2


def test_a_terminal_gets_a_live_bar_and_keeps_the_summary() -> None:
    console = screen(terminal=True)
    with progress("exam", 4, "answers", console=console) as bar:
        bar.advance(4, loss=0.69314)
    assert "\x1b[" in text(console)
    assert text(console).rstrip().splitlines()[-1].endswith("answers/s · loss 0.6931")


def test_names_with_markup_are_shown_as_they_are() -> None:
    console = screen(terminal=False)
    with progress("exam [bold]x[/bold]", 1, "answers", console=console):
        pass
    assert text(console).startswith("exam [bold]x[/bold]: 0 answers")


@pytest.mark.parametrize("no_color", [False, True])
def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch, whole_run: Path, no_color: bool) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    book = ErrorBook.open(whole_run / "book")
    view(book, book.select({"error": "NameError"}), show=1, console=console)
    colours = re.findall(r"\x1b\[[\d;]*\b(?:3|4|9)\d\b[\d;]*m", text(console))
    assert bool(colours) is not no_color


def test_result_tables_hold_the_numbers(whole_run: Path) -> None:
    run = read_run(whole_run)
    assert run.before
    assert run.after
    console = screen(terminal=False, width=140)
    print_results(run.before, run.after, paths={"report": Path("runs/x/report.html")}, seed=7, console=console)
    shown = text(console)
    value = run.after.pass_at_k[1]
    assert f"{value['value']:.1%} ({100 * value['low']:.1f}–{100 * value['high']:.1f})" in shown  # type: ignore[operator]
    assert "report: runs/x/report.html" in shown
    row = next(line for line in shown.splitlines() if "WrongResult" in line)
    assert str(run.before.errors["WrongResult"]) in row
    assert str(run.after.errors["WrongResult"]) in row
    print_results(None, run.after, paths={}, seed=7, console=console)
    print_results(None, None, paths={}, seed=7, console=console)


def test_book_rows_are_shown_clean_with_the_failing_line(whole_run: Path) -> None:
    book = ErrorBook.open(whole_run / "book")
    console = screen(terminal=False, width=120)
    view(book, book.select({"error": "AttributeError"}), show=2, console=console)
    shown = text(console)
    assert "1 of 1 answer" in shown
    assert "<b>hostile</b>/1" in shown
    assert "AttributeError in line 2 · 1 of 3 tests passed" in shown
    assert "gone" in shown
    assert "return 'red'.rots" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert [line for line in shown.splitlines() if "❱" in line and "return 'red'" in line]


def test_markup_and_long_lines_in_model_text_are_text(whole_run: Path) -> None:
    book = ErrorBook.open(whole_run / "book")
    console = screen(terminal=False, width=120)
    view(book, book.select({"error": "OSError"}), show=1, console=console)
    view(book, book.select({"error": "KeyError"}), show=1, console=console)
    shown = text(console)
    assert "[bold red]markup[/bold red]" in shown
    assert "[/nonsense]" in shown
    assert len(shown) < 6000


def test_book_summary_counts_types_and_problems(whole_run: Path) -> None:
    book = ErrorBook.open(whole_run / "book")
    console = screen(terminal=False, width=120)
    view(book, book.select({}), console=console)
    shown = text(console)
    counts = book.frequencies().sum(axis=0)
    for name, code in (("WrongResult", 1), ("NameError", 3), ("Passed", 0)):
        row = next(line for line in shown.splitlines() if line.split()[1:2] == [name])
        assert f" {counts[code]} " in row
    assert "problems with most failures" in shown
    assert next(line.split()[:3] for line in shown.splitlines() if "epoch-" in line) == ["│", "1", "│"]
    view(book, book.select({"round": "3"}), show=1, console=console)
    assert "round 3 (epoch-3)" in text(console)
    view(book, book.select({"error": "MemoryError"}), console=console)
    assert "No answer" in text(console)


def test_clean_takes_whole_terminal_sequences_and_keeps_the_rest() -> None:
    assert clean("a\x1b[31mred\x1b[0m\x1b]8;;http://x\x1b\\link\x1b]8;;\x07\x9b2Jb") == "aredlinkb"
    assert clean("tab\there\r\nnext\rlast\x00\x7f") == "tab here\nnext\nlast"
    assert clean("bidi \u202eevil\u2066 zero\u200bwidth \ud800") == "bidi evil zerowidth \ufffd"
    assert clean("naïve 数学 😀 {}<&>\n") == "naïve 数学 😀 {}<&>\n"
    assert clean("\x1b") == ""


def test_formats() -> None:
    assert [duration(s) for s in (0.0421, 12.34, 245, 12_000)] == ["42 ms", "12.3 s", "4 min 5 s", "3 h 20 min"]
    assert (percent(0.3137), percent(None), points(-0.0312), points(0.05)) == ("31.4%", "–", "−3.1", "+5.0")
    assert (rate(0.1234), rate(12.345), rate(1234.5)) == ("0.123", "12.3", "1,234")
    assert shorten("abcdef", 4) == "abcd … (+2 characters)"


def live(width: int, height: int = 24) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)


def drawn(table: LiveTable, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=24, color_system=None)
    console.print(table.render())
    return [line.rstrip() for line in text(console).splitlines()]


@pytest.mark.parametrize("width", [120, 80, 40, 20])
def test_the_live_table_shows_stages_errors_and_loss_and_fits(width: int) -> None:
    clock, table = Clock(), LiveTable(live(width))
    with showing(table):
        with progress("exam (init)", 40, "answers", clock=clock) as bar:
            clock.now += 2
            bar.advance(8, {"Passed": 2, "NameError": 5, "Flaky": 1})
            rows = drawn(table, width)
            assert all(len(row) <= width for row in rows)
            if width >= 40:
                assert "0.286" in rows[1], "2 of the 7 answers that were judged"
                assert any(row.startswith("NameError") and " 5 " in row for row in rows)
            if width >= 80:
                assert "8/40 answers" in rows[1] and "8.0 s left" in rows[1]
            assert ("4/s" in rows[1]) is (width == 120)
        with progress("correct epoch 1/2", 10, "pairs", clock=clock) as bar:
            bar.advance(4, None, loss=0.69314)
            rows = drawn(table, width)
            assert all(len(row) <= width for row in rows) and len(rows) > 4
            if width >= 40:
                assert rows[2].endswith("0.6931"), "the exam stays as a row above"


def test_more_stages_than_a_terminal_has_rows_leave_as_lines_and_all_are_there_at_the_end() -> None:
    console = live(100, height=17)
    with showing(LiveTable(console)):
        for number in range(8):
            with progress(f"quiz {number}", 1, "answers") as bar:
                bar.advance()
    said = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text(console))
    assert [len(re.findall(rf"quiz {number}: 1 answers in", said)) for number in range(8)] == [1] * 8


def test_a_note_is_shown_below_the_table() -> None:
    table = LiveTable(live(100))
    with showing(table), progress("exam", 1, "answers"):
        note("interrupted")
        assert drawn(table, 100)[-1] == "interrupted"


@pytest.mark.parametrize(("term", "kind"), [("dumb", Lines), ("xterm", LiveTable)])
def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch, term: str, kind: type) -> None:
    monkeypatch.setenv("TERM", term)
    assert isinstance(display_of(Console(file=io.StringIO(), force_terminal=True)), kind)
    assert isinstance(display_of(Console(file=io.StringIO())), Lines)


def test_verdicts_of_an_earlier_run_count() -> None:
    console, clock = screen(terminal=False), Clock()
    with progress("exam", 10, "answers", done=6, types={"Passed": 3, "Exit": 3}, console=console, clock=clock) as bar:
        clock.now += 1
        bar.advance(2, {"Passed": 1, "TypeError": 1})
    assert bar.errors == {"Exit": 3, "TypeError": 1}
    assert text(console) == "exam: 8 answers in 1.0 s · 2 answers/s · pass@1 0.500\n"
