"""Every Triton kernel in every configuration, compiled for GPUs that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is for Linux")

from tests.kernels.compile_kernels import SHARED


@pytest.fixture(scope="module")
def compiled(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "PYTHONPATH": f"{repo}:{repo / 'kernels'}",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
    }
    script = repo / "tests" / "kernels" / "compile_kernels.py"
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_every_kernel_was_compiled(compiled: list[dict[str, Any]]) -> None:
    wanted = {"score_kernel", "gradient_kernel", "row_logps_kernel", "row_gradients_kernel", "scale_kernel"}
    assert {(one["kernel"], one["capability"]) for one in compiled} == {(k, c) for k in wanted for c in SHARED}


def test_shared_memory_is_within_the_limit(compiled: list[dict[str, Any]]) -> None:
    assert [one for one in compiled if one["shared"] > SHARED[one["capability"]] << 10] == []


def test_nothing_is_spilled(compiled: list[dict[str, Any]]) -> None:
    assert [one for one in compiled if one["stack"] or one["local"]] == []


def test_products_run_on_the_tensor_cores_and_copy_engine_of_hopper(compiled: list[dict[str, Any]]) -> None:
    products = [one for one in compiled if "DEPTH" in one and one["capability"] == 90 and "fp32" not in one["operands"]]
    assert len(products) >= 8
    assert all(one["wgmma"] and one["tma"] == one["BLOCKS"] for one in products)
