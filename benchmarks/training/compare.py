"""A training step of ours beside TRL's DPOTrainer, and what each lever is worth.

    python benchmarks/training/compare.py                     # ratios on this CPU; --shapes small 0.5B: of larger ones
    python benchmarks/gpu.py training                         # on a GPU: 0.5B to 32B, full, LoRA and QLoRA

Runs from a plain checkout. Same pairs, same order, random weights. A system's figures are shown only if its
log-probabilities and losses are ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "kernels")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asking whether there is a GPU must not touch it: we fork

import torch  # noqa: E402

from ap2o_fast.training import pack_step  # noqa: E402
from ap2o_fast.training.packing.flops import Cost  # noqa: E402
from benchmarks import measure  # noqa: E402
from benchmarks.training import ladder, ours, trl  # noqa: E402
from benchmarks.training.cases import PAIRS, Case, make_model  # noqa: E402
from benchmarks.training.race import Runner, Train, disagree, race  # noqa: E402

TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}
"""Relative difference from ours that rounding allows, in float32 and in bfloat16."""


def peers(case: Case, device: str, micros: Sequence[int] = ()) -> dict[str, trl.Setup]:
    """TRL as fast as it can be made to go, as the paper's authors run it, and as it comes.

    Args:
        micros: pairs of a forward pass for the first, one system each: the largest that fits, and a smaller one, as
            more of a large pass is padding where lengths differ much.
    """
    on_gpu, whole = device == "cuda", case.problems * PAIRS
    found = {}
    for micro in micros or (whole // 4,):
        tuned = trl.Setup(checkpointing=False, precomputed=True, micro=micro, liger=on_gpu)
        found[f"TRL, tuned, {micro} a pass"] = tuned
        if on_gpu and micro == max(micros) and case.adapter == "none":
            found[f"TRL, tuned, {micro} a pass, bf16 weights"] = dataclasses.replace(tuned, weights=torch.bfloat16)
    if case.adapter == "none":
        found["TRL, upstream's settings"] = trl.Setup(micro=whole // 2, checkpointing=False)
    return found | {"TRL, defaults": trl.Setup(micro=min(trl.Setup.micro, whole))}


def systems(
    case: Case, device: str, variants: dict[str, dict[str, Any]], setups: dict[str, trl.Setup]
) -> dict[str, Train]:
    """Ours in each variant, first the one that the others are measured by, then the peers."""
    found: dict[str, Train] = {}
    for name, settings in variants.items():
        found[name] = functools.partial(ours.train, case, device, settings)
    for name, setup in setups.items():
        found[name] = functools.partial(trl.train, case, device, setup)
    return found


def rungs(case: Case, device: str) -> dict[str, Train]:
    """The ladder from plain DPO to ours."""
    names = [rung for rung in ladder.RUNGS if rung != "Liger" or device == "cuda"]
    return {rung: functools.partial(ladder.train, case, device, rung) for rung in names}


def rows(case: Case, device: str, runners: list[Runner]) -> list[dict[str, Any]]:
    """What is written down about each system."""
    cost = Cost.of(make_model(case.shape, "meta", torch.float32))
    nothing = [0.0] * len(case.book)
    step = pack_step(case.book, next(case.plans()), torch.tensor(nothing).numpy(), 1 << 20, cost)
    first = next((runner for runner in runners if not runner.failed), None)
    found = []
    for runner in runners:
        row: dict[str, Any] = {"case": str(case), "device": device, "system": runner.name}
        reason = runner.failed or (disagree(runner, first, TOLERANCE[device]) if first else "")
        if reason or first is None:
            found.append(row | {"not_timed": reason})
            continue
        low, high = statistics.quantiles(runner.seconds, n=5, method="inclusive")[::3]
        row |= {
            "seconds": [low, runner.median, high],
            "steps": len(runner.seconds),
            "times_ours": runner.median / first.median,
            "answer_tokens_a_second": step.answer_tokens / runner.median,
            "peak_gib": runner.peak_gib,
            "reserved_gib": runner.reserved_gib,
            "useful_tflops": step.flops / runner.median / 1e12,
            "metrics": runner.metrics,
        }
        found.append(row)
    return found


def table(found: list[dict[str, Any]]) -> str:
    lines = []
    for row in found:
        title = f"{row['case']:20} {row['system']:34}"
        if "not_timed" in row:
            lines.append(f"{title} {row['not_timed']}")
            continue
        low, median, high = (1e3 * second for second in row["seconds"])
        lines.append(
            f"{title} {median:9.1f} ms ({low:.0f}-{high:.0f}) {row['times_ours']:6.2f} x  "
            f"{row['answer_tokens_a_second']:9,.0f} answer tokens/s {row['useful_tflops']:8.3f} TFLOP/s "
            f"{row['peak_gib']:6.1f} GiB, {row['reserved_gib']:5.1f} reserved"
        )
    return "\n".join(lines)


def ladder_table(found: list[dict[str, Any]]) -> str:
    """What each rung was predicted to gain on the one before it, by its operations, and gained."""
    lines = []
    before: dict[str, Any] | None = None
    for row in found:
        if "not_timed" in row:
            lines.append(f"{row['case']:14} {row['system']:18} {row['not_timed']}")
            continue
        said = gained = ""
        if before is not None and before["case"] == row["case"]:
            said = f"{before['metrics']['flops'] / row['metrics']['flops']:.2f}"
            gained = f"{before['seconds'][1] / row['seconds'][1]:.2f}"
        lines.append(
            f"{row['case']:14} {row['system']:18} {1e3 * row['seconds'][1]:9.1f} ms  {row['peak_gib']:6.1f} GiB  "
            f"{row['metrics']['flops'] / 1e12:8.2f} TFLOP  predicted {said:>5} x  measured {gained:>5} x"
        )
        before = row
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "training-cpu.json")
    parser.add_argument("--shapes", nargs="+", default=["tiny"], help="tiny: 3 minutes; small; 0.5B: half an hour")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for shape in arguments.shapes:
        large = shape[-1] == "B"
        case = Case(shape=shape, lengths="mbpp", problems=2 if large else 8, steps=5 if large else 9)
        began = time.monotonic()
        runners = race(
            systems(case, "cpu", {"ours": {}}, peers(case, "cpu")), device="cpu", in_turn=not large, limit=900
        )
        found += rows(case, "cpu", runners)
        if not large:
            steps += rows(case, "cpu", race(rungs(case, "cpu"), device="cpu", in_turn=True, limit=900))
        print(f"{time.monotonic() - began:5.0f} s  {case}", file=sys.stderr, flush=True)
    report = {"environment": measure.environment("cpu"), "rows": found, "ladder": steps}
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(found))
    print(ladder_table(steps))
    print(f"written: {arguments.out}")
    return int(any(str(row.get("not_timed", "")).startswith("red") for row in found + steps))


if __name__ == "__main__":
    sys.exit(main())
