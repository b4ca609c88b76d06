"""The head on this machine: ours beside plain PyTorch, Liger and TRL, with time and peak memory.

    pytest benchmarks/kernels --benchmark-only

A GPU runs Qwen2.5-7B's head on 8192 rows in bfloat16, a CPU SmolLM2-135M's on 2048 rows in float32. A head whose error
is more than three times plain PyTorch's fails and prints no time.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import measure
from benchmarks.heads import HEADS, Case, make_case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cuda":
    MODEL, ROWS, DTYPE, ROUNDS = "Qwen2.5-7B", 8192, torch.bfloat16, 30
else:
    MODEL, ROWS, DTYPE, ROUNDS = "SmolLM2-135M", 2048, torch.float32, 3


@pytest.fixture(scope="module", params=["full", "frozen", "score"])
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(MODEL, ROWS, request.param, device=DEVICE, dtype=DTYPE)


@pytest.fixture(scope="module")
def right(case: Case) -> measure.Found:
    return measure.exact(case)


@pytest.fixture(scope="module")
def bound(case: Case, right: measure.Found) -> dict[str, float]:
    return measure.plain_errors(case, right)


@pytest.mark.parametrize("name", HEADS)
def test_head(benchmark: Any, case: Case, right: measure.Found, bound: dict[str, float], name: str) -> None:
    benchmark.group = f"{MODEL}, {ROWS} rows, {case.mode}, {DTYPE}, {DEVICE}"
    steps, errors, refused = measure.gate(case, [name], right, bound)
    if name in refused:
        assert not refused[name].startswith("red"), refused[name]
        pytest.skip(refused[name])
    step = steps[name]
    mib = measure.workspace(case, step) / 2**20
    benchmark.extra_info |= {"workspace_mib": round(mib), "errors": errors.get(name), "TFLOP": case.flops / 1e12}
    benchmark.name = f"{name} · {mib:,.0f} MiB"

    def timed() -> None:
        step.run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(timed, setup=case.clear, rounds=ROUNDS, warmup_rounds=1)
