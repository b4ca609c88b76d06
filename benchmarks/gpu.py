"""GPU figures in one command: correctness first, then times, a table last, one JSON and one plot.

    python benchmarks/gpu.py kernels [--dry-run] [--seconds 540] [--out FOLDER] [--models NAME ...]
    python benchmarks/gpu.py training [--dry-run] [--seconds 540] [--out FOLDER]

Runs from a plain checkout. Cases come in order of importance and start as long as seconds are left; what was left out
is named, and a second run with the same --out goes on there. The JSON belongs into benchmarks/results/.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "kernels")]

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asking whether there is a GPU must not touch it: we fork

import torch  # noqa: E402

from benchmarks import measure  # noqa: E402
from benchmarks.heads import HEADS, MODELS, make_case  # noqa: E402

PEAK = {"H100": 798e12, "H200": 798e12}
"""Dense bfloat16 operations a second, as measured on these cards by square products."""
BOUND_ROWS = 2048
CASE_SECONDS = 120


@dataclass(frozen=True)
class Planned:
    model: str
    rows: int
    mode: str
    rounds: int

    @property
    def flops(self) -> float:
        width, vocabulary = MODELS[self.model]
        return {"full": 6.0, "frozen": 4.0, "score": 2.0}[self.mode] * self.rows * width * vocabulary


def plan(models: list[str]) -> list[Planned]:
    """The size at which targets are set first, then all models at 8k rows, then 2k and 32k; `full` before others."""
    modes = ("full", "frozen", "score")
    first = [Planned("D4096-V131072", 8192, mode, 30) for mode in modes]
    middle = [Planned(model, 8192, mode, 12) for mode in modes for model in MODELS if model != first[0].model]
    outer = [
        Planned(model, rows, mode, rounds)
        for mode in modes
        for rows, rounds in ((2048, 12), (32768, 4))
        for model in MODELS
    ]
    return [planned for planned in first + middle + outer if planned.model in models]


def run(planned: Planned, bounds: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """One row for each head: its error, times and memory, or why it has none."""
    key = f"{planned.model} {planned.mode}"
    if key not in bounds:
        small = make_case(planned.model, BOUND_ROWS, planned.mode, device="cuda", dtype=torch.bfloat16)
        bounds[key] = measure.plain_errors(small, measure.exact(small))
        del small
    case = make_case(planned.model, planned.rows, planned.mode, device="cuda", dtype=torch.bfloat16, seed=1)
    steps, errors, refused = measure.gate(case, list(HEADS), measure.exact(case), bounds[key])
    workspaces = {name: measure.workspace(case, step) for name, step in steps.items()}
    times = measure.interleaved(case, steps, rounds=planned.rounds)
    peak = next((rate for name, rate in PEAK.items() if name in torch.cuda.get_device_name()), None)
    rows = []
    for name in HEADS:
        row: dict[str, Any] = {"model": planned.model, "rows": planned.rows, "mode": planned.mode, "head": name}
        if name in times:
            low, median, high = (quantile(times[name], share) for share in (0.2, 0.5, 0.8))
            rate = planned.flops / (median / 1e3)
            row |= {"ms": [low, median, high], "tflops": rate / 1e12, "share_of_peak": peak and rate / peak}
            row |= {
                "workspace_gib": workspaces[name] / measure.GIB,
                "errors": errors.get(name),
                "rounds": planned.rounds,
            }
        else:
            row["not_timed"] = refused[name]
        rows.append(row)
    del case, steps
    torch.cuda.empty_cache()
    return rows


def quantile(values: list[float], share: float) -> float:
    return (
        values[0]
        if len(values) == 1
        else statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Times as 20/50/80 %, rates by the operations the mode cannot do without."""
    lines = []
    for row in rows:
        title = f"{row['model']:16} R {row['rows']:<6} {row['mode']:7} {row['head']:20}"
        if "ms" not in row:
            lines.append(f"{title} {row['not_timed']}")
            continue
        share = "" if row["share_of_peak"] is None else f" {row['share_of_peak']:4.0%} of peak"
        error = "" if row["errors"] is None else f"  error {max(row['errors'].values()):.1e}"
        times = "/".join(f"{ms:.2f}" for ms in row["ms"])
        lines.append(f"{title} {times:>24} ms {row['tflops']:6.0f} TF/s{share} {row['workspace_gib']:7.2f} GiB{error}")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], device: str, path: Path) -> None:
    """Time and workspace against the rows, for the model with the most sizes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    full = [row for row in rows if row["mode"] == "full" and "ms" in row]
    sizes = {model: {row["rows"] for row in full if row["model"] == model} for model in MODELS}
    model = max(sizes, key=lambda name: len(sizes[name]))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for head in HEADS:
        mine = sorted(
            (row for row in full if row["model"] == model and row["head"] == head), key=lambda row: row["rows"]
        )
        if mine:
            at = [row["rows"] for row in mine]
            left.plot(at, [row["ms"][1] for row in mine], marker="o", label=head)
            right.plot(at, [row["workspace_gib"] for row in mine], marker="o", label=head)
    for axes, label in (
        (left, "milliseconds, forward and backward (median)"),
        (right, "GiB beyond inputs and gradients"),
    ):
        axes.set(xscale="log", yscale="log", xlabel="rows", ylabel=label)
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.suptitle(f"Head of {model}, bfloat16, {device}")
    figure.savefig(path, dpi=140)


def kernels(arguments: argparse.Namespace) -> int:
    wanted = plan(arguments.models)
    if arguments.dry_run:
        for planned in wanted:
            floor = planned.flops / PEAK["H100"] * 1e3
            print(
                f"{planned.model:16} R {planned.rows:<6} {planned.mode:7} {planned.rounds:3} rounds "
                f"{planned.flops / 1e12:8.2f} TFLOP  floor {floor:7.2f} ms at {PEAK['H100'] / 1e12:.0f} TF/s"
            )
        print(f"{len(wanted)} cases x {len(HEADS)} heads: {', '.join(HEADS)}")
        print("gate: no error above 3 times that of plain PyTorch in bfloat16, against float64")
        return 0
    if not torch.cuda.is_available():
        print("error: no CUDA device; --dry-run lists what would run", file=sys.stderr)
        return 1
    began = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = arguments.out / "kernels.json"
    found: dict[str, Any] = {"environment": measure.environment("cuda"), "bounds": {}}
    found |= {"rows": [], "begun": [], "left_out": []}
    if report.exists():
        before = json.loads(report.read_text())
        if before["environment"] != found["environment"]:
            print(f"error: {report} is of another device, commit or version; move it away", file=sys.stderr)
            return 1
        found |= before | {"left_out": []}
    done = {(row["model"], row["rows"], row["mode"]) for row in found["rows"]}
    for planned in wanted:
        if (planned.model, planned.rows, planned.mode) in done:
            continue
        name = f"{planned.model} R {planned.rows} {planned.mode}"
        if name in found["begun"]:
            found["left_out"].append(f"{name} (did not end in a run before)")
            continue
        if time.monotonic() - began > arguments.seconds:
            found["left_out"].append(name)
            continue
        found["begun"].append(name)
        report.write_text(json.dumps(found, indent=1))
        faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)  # a peer that hangs must not take the rest along
        found["rows"] += run(planned, found["bounds"])
        faulthandler.cancel_dump_traceback_later()
        report.write_text(json.dumps(found, indent=1))
        print(f"{time.monotonic() - began:5.0f} s  {planned}", file=sys.stderr, flush=True)
    report.write_text(json.dumps(found, indent=1))
    rows, left_out = found["rows"], found["left_out"]
    plot(rows, found["environment"]["device"], arguments.out / "kernels.png")
    print(table(rows))
    print(f"left out for lack of time: {', '.join(left_out) or 'nothing'}\nwritten: {report}")
    return int(any(str(row.get("not_timed", "")).startswith("red") and "ours" in row["head"] for row in rows))


def training(arguments: argparse.Namespace) -> int:
    from benchmarks.training.plan import run_plan

    return run_plan(arguments.out / "training.json", seconds=arguments.seconds, dry_run=arguments.dry_run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("kernels", help="the head against its peers")
    command.add_argument("--dry-run", action="store_true", help="list the cases and run nothing")
    command.add_argument("--seconds", type=float, default=540, help="start no case after this many")
    command.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    command.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS)[1:], metavar="NAME")
    command.set_defaults(run=kernels)
    command = commands.add_parser("training", help="whole steps against TRL, each lever, and what fits")
    command.add_argument("--dry-run", action="store_true", help="list the systems and run nothing")
    command.add_argument("--seconds", type=float, default=540, help="start no system after this many")
    command.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    command.set_defaults(run=training)
    arguments = parser.parse_args()
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
