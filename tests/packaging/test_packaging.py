"""Both packages are found from a checkout, an editable install and a wheel, beside Hugging Face's package `kernels`.

Nothing here uses the network: wheels are built and installed without their dependencies, which this environment has.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="building needs setuptools; it is in the extra `dev`")

PACKAGES = "ap2o_fast, ap2o_fast.judge, ap2o_fast.reporting, ap2o_kernels"
PAGES = ("README.md", "LICENSE", "THIRD_PARTY.md", "SECURITY.md", "CHANGELOG.md")
WHERE = f"import {PACKAGES}; print(ap2o_fast.__file__); print(ap2o_kernels.__file__)"


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command in an environment where only what is named is on the path."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    return run(sys.executable, "-m", "pip", "-q", *arguments, cwd=cwd, **environment)


@pytest.fixture(scope="module")
def checkout(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("ap2o_fast", "kernels"):
        shutil.copytree(repo / name, copy / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", *PAGES):
        shutil.copy(repo / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, checkout, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def files_of_both_packages(root: Path) -> set[str]:
    """Every file that must be installed, by its path in site-packages."""
    ours = {str(path.relative_to(root)) for path in (root / "ap2o_fast").rglob("*") if path.is_file()}
    under = root / "kernels"
    kernels = {str(path.relative_to(under)) for path in (under / "ap2o_kernels").rglob("*") if path.is_file()}
    return {name for name in ours | kernels if "__pycache__" not in name and ".egg-info" not in name}


def test_there_is_no_package_kernels_of_ours(repo: Path) -> None:
    assert (repo / "kernels" / "ap2o_kernels" / "__init__.py").is_file()
    assert not (repo / "kernels" / "__init__.py").exists(), "it would shadow Hugging Face's package `kernels`"


def test_a_plain_checkout(checkout: Path, tmp_path: Path) -> None:
    paths = f"{checkout}{os.pathsep}{checkout / 'kernels'}"
    found = run(sys.executable, "-c", WHERE, cwd=tmp_path, PYTHONPATH=paths).split()
    assert found == [str(checkout / "ap2o_fast/__init__.py"), str(checkout / "kernels/ap2o_kernels/__init__.py")]


def test_a_wheel_has_every_file_and_is_imported_from_elsewhere(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == files_of_both_packages(checkout)

    site = tmp_path / "site"
    pip("install", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    found = run(sys.executable, "-c", WHERE, cwd=tmp_path, PYTHONPATH=str(site)).split()
    assert found == [str(site / "ap2o_fast/__init__.py"), str(site / "ap2o_kernels/__init__.py")]
    says = run(sys.executable, site / "bin" / "ap2o", "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert "demo" in says


def test_data_that_is_read_at_run_time_is_in_the_wheel(wheel: Path) -> None:
    """Told by hand: the other test compares with the sources, which may lack the same."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    assert {
        "ap2o_fast/demo.toml",
        "ap2o_fast/py.typed",
        "ap2o_kernels/py.typed",
        "ap2o_fast/problems/starter.jsonl",
        "ap2o_fast/comparing/published.json",
        "ap2o_fast/reporting/templates/base.html.j2",
        "ap2o_fast/reporting/templates/report.js",
    } <= inside
    assert [name for name in inside if re.match(r"ap2o_fast/judge/languages/\w+\.(js|hpp)$", name)]
    assert {name.split("/")[0] for name in inside if ".dist-info/" not in name} == {"ap2o_fast", "ap2o_kernels"}


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        says = Parser().parsestr(archive.read(name).decode())
        pages = {Path(name).name for name in archive.namelist() if ".dist-info/licenses/" in name}
    assert pages == {"LICENSE", "THIRD_PARTY.md"}
    assert (says["Name"], says["Version"]) == ("ap2o-fast", "0.1.0")
    assert says["License-Expression"] == "Apache-2.0"
    assert {"vllm", "flash", "lora", "eval", "track", "dev"} <= set(says.get_all("Provides-Extra", []))
    core = [line for line in says.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in core if line.startswith(("triton", "vllm", "datasets"))], "too heavy for the demo"


def requirements(wheel: Path) -> tuple[set[str], set[str]]:
    """Names of what the wheel requires: always, and with some extra. In normal form, as in imports."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    names = [(re.split(r"[^\w.-]", line)[0].lower().replace("-", "_"), "extra ==" in line) for line in lines]
    return {name for name, extra in names if not extra}, {name for name, extra in names if extra}


def test_what_is_imported_is_required_and_nothing_else(checkout: Path, wheel: Path) -> None:
    always, extras = requirements(wheel)
    imported: set[str] = set()
    for path in checkout.rglob("*.py"):
        if path.name == "setup.py" or "build" in path.relative_to(checkout).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"ap2o_fast", "ap2o_kernels"}
    assert foreign - {"tomllib"} <= always | extras, "imported and not required"
    # The development environment gets both from other packages, a user's only from here.
    assert always - foreign == {"gguf"}, "required and not imported, but for what transformers reads GGUF with"


def test_an_sdist_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    run(
        sys.executable,
        "-c",
        f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})",
        cwd=checkout,
    )
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()} - {""}
        assert set(PAGES) <= inside
        top = {name.split("/")[0] for name in inside if not name.startswith("ap2o_fast.egg-info")}
        ours = {"ap2o_fast", "kernels", "pyproject.toml", "setup.py", "setup.cfg", "MANIFEST.in", "PKG-INFO"}
        assert top == {*ours, *PAGES} - {"ap2o_fast.egg-info"}
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source, cwd=tmp_path)
    (again,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert set(first.namelist()) == set(second.namelist())


def test_an_editable_install_follows_the_sources(checkout: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip("install", "--no-deps", "--no-build-isolation", "--target", site, "-e", checkout, cwd=tmp_path)
    # An editable install works through a .pth file, which Python reads in site folders only. This environment may hold
    # an editable install of its own: without -S, or first on the path, its finder would answer.
    code = (
        f"import site, sys; site.addsitedir({str(site)!r}); sys.path.append({sysconfig.get_path('purelib')!r}); {WHERE}"
    )
    found = run(sys.executable, "-I", "-S", "-c", code, cwd=tmp_path).split()
    assert found == [str(checkout / "ap2o_fast/__init__.py"), str(checkout / "kernels/ap2o_kernels/__init__.py")]


def test_beside_hugging_faces_kernels(checkout: Path) -> None:
    """From the root of a checkout, where `kernels/` lies first on the path: theirs is found and transformers works."""
    try:
        theirs = metadata.version("kernels")
    except metadata.PackageNotFoundError:
        pytest.skip("needs Hugging Face's package `kernels`; it is in the extra `dev`")
    code = (
        "import kernels, transformers, ap2o_fast, ap2o_kernels\n"
        "from transformers.utils import is_kernels_available\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,"
        " num_attention_heads=1))\n"
        "print(is_kernels_available(), kernels.__file__)"
    )
    available, where = run(
        sys.executable, "-c", code, cwd=checkout, PYTHONPATH=os.pathsep.join(["", str(checkout / "kernels")])
    ).split()
    assert not Path(where).is_relative_to(checkout)
    assert available == "True", f"transformers supports no kernels {theirs}, so this run showed nothing"
