"""Every error that is the reader's to mend says what happened and what to do."""

from __future__ import annotations

import ast
import signal
from pathlib import Path

import pytest

from ap2o_fast import errors
from ap2o_fast.cli import main
from ap2o_fast.exits import Exit

PACKAGE = Path(errors.__file__).parent
KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.Ap2oError) and kind is not errors.Ap2oError
}


def made(path: Path) -> list[ast.Call]:
    """Every place in a file where one of our errors is made."""
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    names = {*KINDS, "Ap2oError"}
    return [call for call in calls if (getattr(call.func, "id", "") or getattr(call.func, "attr", "")) in names]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if made(path))


def test_there_are_errors_to_look_at() -> None:
    assert len(FILES) > 50


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_error_says_what_to_do(path: Path) -> None:
    silent = []
    for call in made(path):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        empty = isinstance(do := given.get("do"), ast.Constant) and not do.value
        if "do" not in given or empty or not call.args:
            silent.append(f"{path.name}:{call.lineno}")
    assert not silent


def test_no_two_kinds_have_one_exit_code() -> None:
    codes = [kind.exit_code for kind in KINDS.values()]
    assert sorted(codes) == [Exit.USAGE, Exit.DATA, Exit.MACHINE, Exit.SANDBOX, Exit.NUMERICAL]


def test_an_error_prints_what_why_and_do() -> None:
    text = str(errors.DataError("no file", why="it was moved", do="name another"))
    assert text == "no file\nwhy: it was moved\ndo:  name another"


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0), capsys.readouterr().err


def test_what_nobody_expected_says_how_to_report_it_and_keeps_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("ap2o_fast.doctor.findings", lambda hub: [][3])
    code, said = ended(capsys, "doctor")
    (written,) = tmp_path.glob("ap2o-error-*.txt")
    assert code == Exit.FAILED and "Traceback" not in said
    assert said.splitlines()[0] == "error: IndexError: list index out of range"
    assert "do:  report it" in said and str(written) in said
    assert "Traceback" in written.read_text() and "list index out of range" in written.read_text()
    with pytest.raises(IndexError):
        main(["doctor", "--debug"])


def test_where_no_file_can_be_written_the_traceback_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr("ap2o_fast.doctor.findings", lambda hub: [][3])
    code, said = ended(capsys, "doctor")
    assert code == Exit.FAILED and said.startswith("Traceback")
    assert "\nerror: IndexError: list index out of range\n" in said and "report it with the traceback above" in said


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_each_kind_ends_with_its_code(
    kind: type[errors.Ap2oError], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(hub: bool) -> None:
        raise kind("it broke", why="of age", do="mend it")

    monkeypatch.setattr("ap2o_fast.doctor.findings", fail)
    assert ended(capsys, "doctor") == (kind.exit_code, "error: it broke\nwhy: of age\ndo:  mend it\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_anything_began_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("ap2o_fast.doctor.findings", lambda hub: signal.raise_signal(number))
    assert ended(capsys, "doctor") == (130, "interrupted; start the command again\n")
    assert signal.getsignal(signal.SIGTERM) is before
