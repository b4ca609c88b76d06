"""Every block of the documentation: commands exist, settings load, data parse, Python runs or names what is there."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import sys

import pytest

from ap2o_fast import config
from tests.docs.blocks import Block, blocks
from tests.docs.commands import Wrong, check

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BLOCKS = blocks()
CHECKED = ("", "sh", "bash", "console", "text", "python", "toml", "json", "jsonl")
NO_COMMAND = {
    "ap2o exam | analyse | correct | quiz | evaluate": "five commands in one line of README's list",
    "ap2o config mine.toml train.lrr=1e-4": "the transcript of a first use shows how a misspelt setting is refused",
}
"""Lines that cannot be typed as they stand, and why."""
GIVEN = {
    "kernels/README.md": {"model", "inputs", "rows", "targets", "cu_rows", "ref_logps", "pairs_in_the_whole_step"},
    "docs/adapters.md": {
        "accelerate",
        "AutoModelForCausalLM",
        "config",
        "torch",
        "quantise",
        "prepare_model",
        "adapt",
        "AdapterSettings",
    },
    "docs/book.md": {"load_dataset", "DPOTrainer", "model", "tokenizer"},
}
"""Names that a page's fragments of Python take from the reader; other pages' must be whole."""


def of(*languages: str) -> pytest.MarkDecorator:
    chosen = [block for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", chosen, ids=lambda block: block.name)


def test_every_block_has_a_language_that_is_looked_at() -> None:
    assert [block.name for block in BLOCKS if block.language not in CHECKED] == []
    assert len(BLOCKS) >= 40


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.commands], ids=lambda block: block.name)
def test_commands_can_be_typed(block: Block) -> None:
    for line in block.commands:
        if line in NO_COMMAND:
            continue
        try:
            check(line)
        except Wrong as error:
            pytest.fail(f"{line}\n{error}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ap2o run my.toml train.lrr=1", "unknown setting 'train.lrr'"),
        ("ap2o run my.toml curriculum.system=best", "curriculum.system"),
        ("ap2o run my.toml --sed 3", "takes no --sed"),
        ("ap2o walk my.toml", "walk"),
        ("ap2o book diff --colour A B", "olour"),
        ("ap2o report", "[Mm]issing"),
        ("make dmo", "no target dmo"),
        ("make demo ARG=1", "no variable ARG"),
        ("pip install -e '.[loar]'", "no extra loar"),
        ("python benchmarks/gpus.py", "no file"),
        ("python -m studies.organism.recipes", "no module"),
        ("torchrun --n-procs 8 -m ap2o_fast run my.toml", "torchrun does not take"),
        ("torchrun --nproc-per-node 8 -m ap2o_fast walk my.toml", "walk"),
        ("OMP_NUM_THREADS=1 ap2o demo && ap2o walk", "walk"),
        ("ap3o demo", "no program of ours"),
    ],
)
def test_commands_that_cannot_be_typed_are_found(line: str, said: str) -> None:
    with pytest.raises(Wrong, match=said):
        check(line)


@of("toml")
def test_settings_load(block: Block) -> None:
    tree = tomllib.loads(block.text)
    # A page may show a part of a file: what must go together with other settings is seen when a command names it.
    config.load(tree, defaults=config.DPO_DEFAULTS if "preferences" in tree else None)


@of("json", "jsonl")
def test_data_parse(block: Block) -> None:
    for text in block.text.splitlines() if block.language == "jsonl" else [block.text]:
        json.loads(text)


OPTIONAL = {
    "datasets": "datasets is not installed: it comes with the extra `hub`",
    "trl": "TRL is not installed: it comes with the extra `dev` on Python 3.11 or later",
}
"""Packages that code of the pages imports and an installation may lack, with the reason why a test is skipped then."""


@of("python")
def test_python_names_what_is_there(block: Block) -> None:
    """It compiles, its imports and their attributes exist, calls take their keywords, no name comes from nowhere."""
    tree = ast.parse(block.text)
    compile(tree, block.name, "exec")
    values = _imported(tree)
    bound = set(values) | set(dir(builtins)) | GIVEN.get(str(block.page.relative_to(block.page.parents[1])), set())
    bound |= {"__file__", "__name__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            assert node.id in bound, f"{node.id} comes from nowhere"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in values:
            assert hasattr(values[node.value.id], node.attr), f"{node.value.id} has no {node.attr}"


def _imported(tree: ast.Module) -> dict[str, object]:
    """Every imported name with what it stands for; a package that is missing is an error unless an extra brings it."""
    values: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                _need(alias.name)
                module = importlib.import_module(alias.name)
                values[alias.asname or alias.name.split(".")[0]] = (
                    module if alias.asname else sys.modules[alias.name.split(".")[0]]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            _need(node.module)
            module = importlib.import_module(node.module)
            for alias in node.names:
                values[alias.asname or alias.name] = getattr(module, alias.name)
    return values


def _need(name: str) -> None:
    package = name.split(".")[0]
    if package in OPTIONAL:
        pytest.importorskip(package, reason=OPTIONAL[package])
