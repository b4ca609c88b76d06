"""Adapters and 4-bit weights fetch no compiled kernel that nobody named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "kernels", reason="Hugging Face's package `kernels` is not installed: it comes with the extra `dev`"
)

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """
import logging, os, pathlib
try:  # what the real one's backends/cpu/ops.py does on a CPU with AVX-512 for bfloat16
    from kernels import get_kernel
    pathlib.Path(os.environ["FETCHED"]).touch()
except Exception as error:
    logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load it from kernels-community: %s", error)
"""


def fetches(folder: Path, code: str) -> bool:
    """Whether a process that runs `code` beside a stand-in of bitsandbytes would fetch a kernel; it must end well."""
    (folder / "bitsandbytes").mkdir()
    (folder / "bitsandbytes" / "__init__.py").write_text(STAND_IN, encoding="utf-8")
    paths = os.pathsep.join(map(str, (folder, ROOT, ROOT / "kernels")))
    environment = {**os.environ, "PYTHONPATH": paths, "FETCHED": str(folder / "fetched"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "kernels-community" not in done.stderr, done.stderr
    return (folder / "fetched").exists()


def test_the_stand_in_fetches_one_when_it_is_imported_plainly(tmp_path: Path) -> None:
    assert fetches(tmp_path, "import bitsandbytes")


@pytest.mark.parametrize(
    "way",
    [
        "from ap2o_fast.training.models.quantization import _bitsandbytes as look",
        "from ap2o_fast.training.models.adapters import _peft as look",
        "from ap2o_fast.doctor.checks import _optional; look = lambda: list(_optional())",
    ],
    ids=["4-bit", "adapters", "doctor"],
)
def test_no_way_of_ours_does(tmp_path: Path, way: str) -> None:
    # peft looks for more in it than the stand-in has, after the import.
    code = f"{way}\ntry:\n    look()\nexcept AttributeError as error:\n    assert 'bitsandbytes' in str(error), error\n"
    others = "import sys, kernels\nassert kernels.get_kernel and 'bitsandbytes' in sys.modules"
    assert not fetches(tmp_path, code + others)
