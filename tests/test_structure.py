"""The shape of the code: one direction, small modules, nothing heavy in the judge's way, no machine's paths."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ap2o_fast import config

ROOT = Path(__file__).resolve().parents[1]
CODE = [*sorted((ROOT / "ap2o_fast").rglob("*.py")), *sorted((ROOT / "kernels").rglob("*.py"))]
TEXT = {"", *".py .toml .md .j2 .css .js .json .jsonl .ipynb .sh .svg .cfg .ini .yml .yaml .Dockerfile".split()}

STAGES = (
    "problems",
    "sampling",
    "judge",
    "book",
    "curriculum",
    "training",
    "evaluation",
    "reporting",
    "pipeline",
    "cli",
)
# Modules at the top that belong to no stage, and the last stage that they may know.
FREE = ("exits", "errors", "settings", "curriculum_checks", "config")
BESIDE = {
    "__main__": "cli",
    "with_parent": "cli",
    "allocator": None,
    "demo_model": None,
    "environment": None,
    "interrupt": None,
    "cores": None,
    "run_folder": "reporting",
    "processes": "reporting",
    "divided_sampling": "training",
    "problem_sets": "sampling",
    "sitting": "reporting",
    "workbench": "reporting",
    "replaying": "reporting",
    "direction": "evaluation",
    "exporting": "reporting",
    "publishing": None,
    "comparing": "pipeline",
    "commands": "pipeline",
    "preferences": "pipeline",
    "doctor": "evaluation",
    "judging": "reporting",
    "upstream_exam": "judge",
    "planning": "reporting",
    "importing": "reporting",
    "given_answers": "reporting",
    "serving": "training",
    "kept": "reporting",
    "tracking": None,
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere, in functions and under TYPE_CHECKING too, as absolute names."""
    found: set[str] = set()
    package = path.relative_to(ROOT).with_suffix("").parts[: -1 if path.name != "__init__.py" else None]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def parts_of_ours(path: Path) -> set[str]:
    """The parts of `ap2o_fast` (stage or module at the top) that a file imports."""
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("ap2o_fast.")}
    return {
        part for part in ours if (ROOT / "ap2o_fast" / part).is_dir() or (ROOT / "ap2o_fast" / f"{part}.py").exists()
    }


def part(path: Path) -> str:
    return path.relative_to(ROOT / "ap2o_fast").with_suffix("").parts[0]


def rank(name: str) -> int:
    """How far along the direction a part stands; what belongs to no stage stands with the last stage it may know."""
    if name in FREE:
        return -1
    if name in BESIDE:
        last = BESIDE[name]
        return -1 if last is None else STAGES.index(last)
    return STAGES.index(name)


PARTS = sorted({part(path) for path in CODE if path.is_relative_to(ROOT / "ap2o_fast")} - {"__init__"})


def test_every_part_has_its_place() -> None:
    unknown = set(PARTS) - set(STAGES) - set(FREE) - set(BESIDE)
    assert not unknown, f"say in this test where {unknown} stand, and in docs or DESIGN why they exist"


@pytest.mark.parametrize("name", PARTS)
def test_a_stage_imports_nothing_of_a_later_one(name: str) -> None:
    files = [path for path in CODE if path.is_relative_to(ROOT / "ap2o_fast") and part(path) == name]
    assert files
    later = {
        f"{path.relative_to(ROOT)} imports {other}"
        for path in files
        for other in parts_of_ours(path)
        if other != name and rank(other) > rank(name)
    }
    assert not later


def test_no_two_parts_import_each_other() -> None:
    graph: dict[str, set[str]] = {name: set() for name in PARTS}
    for path in CODE:
        if path.is_relative_to(ROOT / "ap2o_fast") and part(path) != "__init__":
            graph[part(path)] |= parts_of_ours(path) - {part(path)}
    done: set[str] = set()
    while ready := {name for name in set(graph) - done if graph[name] <= done}:
        done |= ready
    assert not set(graph) - done, f"these import each other in a ring: {sorted(set(graph) - done)}"


def test_the_kernels_know_only_torch_and_triton() -> None:
    allowed = {"torch", "triton", "ap2o_kernels", *sys.stdlib_module_names}
    strange = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "kernels").rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] not in allowed
    }
    assert not strange


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def test_no_two_test_files_have_one_name() -> None:
    """Their folders are no packages: the second of a name could not be imported beside the first."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("module", ["ap2o_fast", "ap2o_fast.config", "ap2o_fast.judge", "ap2o_fast.problems"])
def test_nothing_heavy_on_the_way_to_the_judge(module: str) -> None:
    """The judge's server forks once an answer: torch in it would cost time and memory, and its threads do not fork."""
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'triton'}} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"},
    )
    assert loaded.stdout.strip() == "[]"


def committed() -> list[Path]:
    """Files of the project: what git tracks or would track; in an unpacked archive, everything outside the caches."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    hidden = {".venv", "build", "dist", "runs", "__pycache__"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not hidden & set(path.relative_to(ROOT).parts)]


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    home = re.compile(r"(?<![\w.])/(root|work|home/\w+|tmp/bash_jobs)/|\.pyenv\b|(?<!torch)\.library\b")
    guilty = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in committed()
        if path.suffix in TEXT and path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if home.search(line)
    ]
    assert not guilty


def test_every_setting_says_what_it_means() -> None:
    for key in config.keys():
        text = config.explain(key)
        assert re.search(r"\n\s+\S+ \S+", text), f"{key} has no documentation"
        assert "None" not in text.splitlines()[1], f"{key} has no documentation"


# Words with a dot that are no setting although they begin like one.
NO_SETTING = re.compile(r"\.(py|md|toml|json|jsonl|html|csv|j2|gz|safetensors)$")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_settings_that_a_page_names_exist(name: str) -> None:
    groups = "|".join(sorted({key.split(".")[0] for key in config.keys() if "." in key}))
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(rf"(?<![\w/.-])((?:{groups})(?:\.\w+)+)", text))
    known = {*config.keys(), *(key.rpartition(".")[0] for key in config.keys())}
    unknown = {key for key in named if not NO_SETTING.search(key)} - known
    assert not unknown
    if name == "README.md":
        assert named, "the README shows no setting at all: this test would watch nothing"
