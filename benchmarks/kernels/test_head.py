"""The head on this machine: ours beside plain PyTorch, Liger and TRL, with time and peak memory.

    pytest benchmarks/kernels --benchmark-only

A GPU runs the 7B head on 8192 rows in bfloat16, a CPU the 0.5B head on 512 rows in float32. A head whose error is more
than three times plain PyTorch's fails and prints no time.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import measure
from benchmarks.heads import HEADS, Case, make_case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODEL, ROWS, DTYPE, ROUNDS = (
    ("Qwen2.5-7B", 8192, torch.bfloat16, 30)
    if DEVICE == "cuda"
    else (
        "Qwen2.5-0.5B",
        512,
        torch.float32,
        3,
    )
)


@pytest.fixture(scope="module", params=["full", "frozen", "score"])
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(MODEL, ROWS, request.param, device=DEVICE, dtype=DTYPE, answer_rows=128)


@pytest.mark.parametrize("name", HEADS)
def test_head(benchmark: Any, case: Case, name: str) -> None:
    benchmark.group = f"{MODEL}, {ROWS} rows, {case.mode}, {DTYPE}, {DEVICE}"
    steps, errors, refused = measure.gate(case, [name], measure.plain_errors(case))
    if name in refused:
        assert not refused[name].startswith("red"), refused[name]
        pytest.skip(refused[name])
    step = steps[name]
    mib = measure.workspace(case, step) / 2**20
    benchmark.extra_info |= {"workspace_mib": round(mib), "errors": errors.get(name), "TFLOP": case.flops / 1e12}
    benchmark.name = f"{name} · {mib:,.0f} MiB"

    def timed() -> None:
        step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(timed, setup=case.clear, rounds=ROUNDS, warmup_rounds=1)
