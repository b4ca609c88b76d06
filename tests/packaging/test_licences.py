"""THIRD_PARTY.md names every dependency, each under a licence that is allowed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def licences(repo: Path) -> ModuleType:
    """The script, loaded by its path."""
    spec = importlib.util.spec_from_file_location("licences", repo / "tests" / "packaging" / "licences.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["licences"] = module
    spec.loader.exec_module(module)
    return module


def test_every_dependency_is_listed_with_what_needs_it(licences: ModuleType) -> None:
    needed = {name: ", ".join(where) for name, where in licences.needed().items()}
    assert {name: where for name, (where, _) in licences.listed().items()} == needed, "run `make licences`"


def test_only_allowed_licences(licences: ModuleType) -> None:
    rows = licences.listed()
    assert len(rows) > 40
    for name, (where, licence) in rows.items():
        if name in licences.BENCHMARKS_ONLY:
            assert (where, licence) == ("bench", licences.BENCHMARKS_ONLY[name])
        else:
            assert licences.parts(licence) <= licences.ALLOWED, name


def test_what_is_installed_says_what_the_list_says(licences: ModuleType) -> None:
    for name, (_, licence) in licences.listed().items():
        if name != "torch":  # its builds differ in what they bring along
            assert licences.licence(name) == licence, f"{name} changed its licence: look, then `make licences`"
