"""The kernels install by themselves, compute there, and know nothing of ap2o_fast."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from ap2o_fast import __version__

pytest.importorskip("setuptools", reason="building needs setuptools; it is in the extra `dev`")
TRIED = """
import sys, torch, ap2o_kernels
from ap2o_kernels import linear_dpo
torch.manual_seed(0)
hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4)
rows, pairs = torch.tensor([0, 2, 5]), torch.tensor([[0, 1]])
targets = torch.tensor([1, 2, 3, 4, 5])
loss, logps = linear_dpo(hidden, weight, targets, rows, pairs, torch.zeros(2), beta=0.1, normalizer=1)
loss.backward()
dense = torch.log_softmax(hidden.detach() @ weight.T, -1)[torch.arange(5), targets]
torch.testing.assert_close(logps.detach(), torch.stack([dense[:2].sum(), dense[2:].sum()]))
assert hidden.grad.abs().sum() > 0 and not [name for name in sys.modules if name.startswith("ap2o_fast")]
print(ap2o_kernels.__file__)
"""


def test_they_are_a_wheel_of_their_own_that_computes(repo: Path, tmp_path: Path) -> None:
    source, site = tmp_path / "kernels", tmp_path / "site"
    shutil.copytree(repo / "kernels", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PIP_NO_INDEX": "1"}

    def run(*command: str | Path, **more: str) -> str:
        return subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=tmp_path,
            env=clean | more,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    run("-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("ap2o_kernels-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
        (name,) = (name for name in inside if name.endswith("/METADATA"))
        says = Parser().parsestr(archive.read(name).decode())
    assert {name.split("/")[0] for name in inside} == {"ap2o_kernels", f"ap2o_kernels-{__version__}.dist-info"}
    here = {path.name for path in (repo / "kernels" / "ap2o_kernels").iterdir() if path.is_file()}
    assert {name.split("/")[1] for name in inside if name.startswith("ap2o_kernels/")} == here
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    assert [re.split(r"[<>]", line)[0] for line in says.get_all("Requires-Dist", [])] == ["torch"]

    run("-m", "pip", "-q", "install", "--no-deps", "--target", site, wheel)
    where = run("-c", TRIED, PYTHONPATH=str(site)).strip()
    assert Path(where).is_relative_to(site)
