"""Whether the fused head compiles and computes what it should: every implementation against the reference in float64,
on a problem of a moment. `python -m ap2o_fast.doctor.kernels` does so for Triton's interpreter, which a process has or
has not from its start."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from ap2o_fast.doctor.finding import Finding
from ap2o_kernels import available_impls, linear_dpo

ROWS, HIDDEN, VOCABULARY = (0, 5, 12, 31, 40), 64, 1000  # rows where answers begin and the last ends
DEADLINE = 60.0
"""Seconds for Triton's interpreter in a process of its own."""
FACTOR = 3.0
"""An implementation may err so many times as much as the reference does at the same dtype."""
ROUNDING = 1e-6
"""Error that is none, as a share of the largest value."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """An implementation's outcome.

    Attributes:
        impl: as in `available_impls`.
        device: ``cpu`` or ``cuda``.
        dtype: of hidden states and weight.
        right: whether its errors are those of rounding.
        error: the largest of its errors in loss and gradients, as a share of the largest value.
        allowed: what the reference's own rounding allows.
        seconds: compilation included.
    """

    impl: str
    device: str
    dtype: str
    right: bool
    error: float
    allowed: float
    seconds: float


def findings() -> Iterator[Finding]:
    """One for every implementation on every device of this machine; on a CPU Triton is checked by its interpreter."""
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        for impl in available_impls(device):
            if impl != "reference":
                yield _told(impl, device, check(impl, device, dtype))
    if importlib.util.find_spec("triton") is None:
        without = "there is no Triton; runs use the chunked implementation, by torch"
        yield Finding(name="kernels, triton", status="ok", detail=without)
    elif not torch.cuda.is_available() and "triton" not in available_impls("cpu"):
        yield _interpreted()


def check(impl: str, device: str, dtype: torch.dtype) -> Checked:
    """Loss and gradients of one implementation on a small problem. Errors: whatever a broken compiler raises."""
    exact = _loss_and_gradients("reference", device, torch.float64)
    rounded = _loss_and_gradients("reference", device, dtype)
    began = time.perf_counter()
    got = _loss_and_gradients(impl, device, dtype)
    seconds = time.perf_counter() - began
    error, allowed = _distance(got, exact), FACTOR * _distance(rounded, exact) + ROUNDING
    named = {"impl": impl, "device": device, "dtype": str(dtype).removeprefix("torch.")}
    return Checked(**named, right=error <= allowed, error=error, allowed=allowed, seconds=seconds)


def _loss_and_gradients(impl: str, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Loss, and gradients of hidden states and weight, in float64 on the CPU."""
    chance = torch.Generator().manual_seed(0)
    rows, answers = ROWS[-1], len(ROWS) - 1
    drawn = (torch.randn(rows, HIDDEN, generator=chance), torch.randn(VOCABULARY, HIDDEN, generator=chance) / 8)
    # Rounded to bfloat16 whatever the dtype, so that all have the same problem.
    hidden, weight = (tensor.bfloat16().to(device, dtype).requires_grad_() for tensor in drawn)
    targets = torch.randint(VOCABULARY, (rows,), generator=chance).to(device)
    pairs = torch.tensor([[0, 1], [2, 3], [0, 3]], device=device)
    out = linear_dpo(
        hidden,
        weight,
        targets,
        torch.tensor(ROWS, device=device),
        pairs,
        torch.zeros(answers, device=device, dtype=torch.promote_types(dtype, torch.float32)),
        impl=impl,
    )
    out.loss.backward()
    return [tensor.detach().double().cpu() for tensor in (out.loss, hidden.grad, weight.grad) if tensor is not None]


def _distance(got: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """The largest error as a share of the largest value, infinite for what is not a number."""
    shares = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got, exact, strict=True)]
    return max(share if share == share else float("inf") for share in shares)


def _told(impl: str, device: str, checked: Checked, how: str = "") -> Finding:
    by = how or ("compiled" if impl == "triton" or device == "cuda" else "torch")
    said = f"{by}, {checked.dtype}: error {checked.error:.1e}, {checked.allowed:.1e} allowed, {checked.seconds:.1f} s"
    return Finding(
        name=f"kernels, {impl} on {device}",
        status="ok" if checked.right else "fail",
        detail=said if checked.right else f"wrong numbers; {said}",
        fix="" if checked.right else "set loss.impl=reference, install torch with its own Triton, and report this",
    )


def _interpreted() -> Finding:
    name = "kernels, triton on cpu"
    command = [sys.executable, "-m", "ap2o_fast.doctor.kernels"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    do = "needed for a GPU alone: runs on a CPU use the chunked implementation; else install Triton anew"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, env=environment, check=False)
    except subprocess.TimeoutExpired:
        slow = f"Triton's interpreter has not ended after {DEADLINE:.0f} s"
        return Finding(name=name, status="warn", detail=slow, fix=do)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Finding(name=name, status="warn", detail=f"Triton's interpreter fails: {said}", fix=do)
    return _told("triton", "cpu", Checked(**json.loads(done.stdout)), "Triton's interpreter")


if __name__ == "__main__":
    print(json.dumps(asdict(check("triton", "cpu", torch.float32))))
