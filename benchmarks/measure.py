"""How a step's error, time and memory are taken: error first, times interleaved, memory beyond the inputs."""

from __future__ import annotations

import gc
import importlib.metadata
import math
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.heads import BETA, HEADS, UNGATED, Case, Step, Unavailable, plain

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
FLOORS = {"loss": 1e-5}
"""The loss hangs on β times a difference of sums of some thousands, whose last float32 digit is chance."""
Found = dict[str, torch.Tensor]


def exact(case: Case, *, slice_rows: int = 512) -> Found:
    """Loss and gradients in float64 from the same rounded operands, a slice of rows at a time."""
    hidden, weight = case.hidden.detach().double(), case.weight.detach().double()
    logps = []
    for rows in torch.arange(len(hidden), device=hidden.device).split(slice_rows):
        logits = hidden[rows] @ weight.T
        logps.append(logits.log_softmax(1).gather(1, case.targets[rows, None]).squeeze(1))
    row_logps = torch.cat(logps)
    if case.mode == "score":
        return {"loss": row_logps.sum()}
    answers = row_logps.view(case.answers, -1).sum(1).requires_grad_()
    chosen, rejected = answers.view(-1, 2).unbind(1)
    loss = -F.logsigmoid(BETA * (chosen - rejected)).mean()
    (slopes,) = torch.autograd.grad(loss, answers)
    found = {"loss": loss.detach(), "hidden": torch.empty_like(hidden)}
    if case.mode == "full":
        found["weight"] = torch.zeros_like(weight)
    spread = slopes.repeat_interleave(case.answer_rows)
    for rows in torch.arange(len(hidden), device=hidden.device).split(slice_rows):
        gradient = -(hidden[rows] @ weight.T).softmax(1)
        gradient[torch.arange(len(rows), device=rows.device), case.targets[rows]] += 1
        gradient *= spread[rows, None]
        found["hidden"][rows] = gradient @ weight
        if case.mode == "full":
            found["weight"] += gradient.T @ hidden[rows]
    return found


def outcome(case: Case, step: Step) -> Found:
    """What a step leaves: the loss and the gradients it made."""
    case.clear()
    found = {"loss": step.run().double()}
    if case.hidden.grad is not None:
        found["hidden"] = case.hidden.grad.double()
        if step.rows is not None:
            found["hidden"][step.rows] = case.hidden.grad.double()
    if case.weight.grad is not None:
        found["weight"] = case.weight.grad.double()
    case.clear()
    return found


def errors(found: Found, right: Found) -> dict[str, float]:
    """Relative distance by name, |ours - exact| / |exact| of whole tensors; infinite for NaN and what is missing."""
    distances = {
        name: float((found[name] - right[name]).norm() / right[name].norm()) if name in found else math.inf
        for name in right
    }
    return {name: math.inf if math.isnan(distance) else distance for name, distance in distances.items()}


def plain_errors(case: Case, right: Found) -> dict[str, float]:
    """What plain PyTorch in the case's dtype gets wrong; relative, so that a few rows stand for many."""
    return errors(outcome(case, plain(case)), right)


def gate(
    case: Case, names: list[str], right: Found, bound: dict[str, float]
) -> tuple[dict[str, Step], dict[str, dict[str, float]], dict[str, str]]:
    """Steps that may be timed, each one's errors, and why the others may not.

    A head passes when none of its errors against `right`, which is `exact`, is more than 3 times `bound`, plain
    PyTorch's, or 3 times what float32 sums of an answer's log-probabilities allow.
    """
    steps: dict[str, Step] = {}
    seen: dict[str, dict[str, float]] = {}
    refused: dict[str, str] = {}
    for name in names:
        try:
            step = HEADS[name](case)
            found = outcome(case, step)
            if name not in UNGATED:
                seen[name] = errors(found, right)
                bad = {
                    key: error
                    for key, error in seen[name].items()
                    if error > 3 * max(bound[key], FLOORS.get(key, 1e-6))
                }
                if bad:
                    refused[name] = f"red: error {bad} against plain PyTorch's {bound}"
                    continue
        except (Unavailable, ValueError) as reason:
            refused[name] = str(reason)
            continue
        except torch.cuda.OutOfMemoryError:
            refused[name] = "out of memory"
            continue
        except Exception as error:  # a peer that does not run here must not end the run
            refused[name] = f"red: {type(error).__name__}: {str(error).strip().splitlines()[:1]}"
            continue
        steps[name] = step
    return steps, seen, refused


def interleaved(case: Case, steps: dict[str, Step], *, rounds: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Milliseconds of each step, `rounds` times, one of each in turn so that a slow moment meets all alike."""
    on_gpu = case.hidden.device.type == "cuda"
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(warm_up + rounds):
        for name, step in steps.items():
            case.clear()
            milliseconds = _cuda_time(step) if on_gpu else _wall_time(step)
            if turn >= warm_up:
                times[name].append(milliseconds)
    case.clear()
    return times


def _cuda_time(step: Step) -> float:
    torch.cuda.synchronize()
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    step.run()
    stop.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(stop))


def _wall_time(step: Step) -> float:
    start = time.perf_counter()
    step.run()
    return (time.perf_counter() - start) * 1e3


def workspace(case: Case, step: Step) -> int:
    """Bytes at the step's peak beyond its inputs and the gradients that it leaves.

    On a GPU by PyTorch's allocator. On the CPU by the kernel's high-water mark of this process (Linux), which is reset
    before; large tensors are mapped and unmapped one by one there, so that it follows them.
    """
    case.clear()
    gc.collect()
    on_gpu = case.hidden.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step.run()
        peak = torch.cuda.max_memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        step.run()
        peak = _status("VmHWM")
    left = sum(leaf.grad.nbytes for leaf in (case.hidden, case.weight) if leaf.grad is not None)
    case.clear()
    return max(peak - before - left, 0)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def environment(device: str) -> dict[str, Any]:
    """What a figure depends on: device, driver, versions, commit."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("triton", "transformers", "liger-kernel", "trl", "cut-cross-entropy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["commit"] = _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12")
    if device == "cuda":
        found["device"] = torch.cuda.get_device_name()
        found["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        found["cuda"] = torch.version.cuda
    else:
        found["device"] = platform.processor() or platform.machine()
        found["threads"] = torch.get_num_threads()
    return found


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
