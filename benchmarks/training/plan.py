"""What `benchmarks/gpu.py training` runs, in order of importance, and how it goes on after it was cut off."""

from __future__ import annotations

import functools
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.training import compare, ours
from benchmarks.training.cases import Case
from benchmarks.training.race import Runner, Train, race

MASTERS: dict[str, Any] = {}
LEAN = {"masters": False, "optimizer": "adamw_8bit"}
COMPILED = {"compile": True}
CHECKPOINTING = "ours, checkpointing"
FEW = {"gradient_checkpointing": True}
RELEASED = {"gradient_release": True, "clip": 0}


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Systems whose figures stand side by side; the first is what the others are measured by."""

    name: str
    case: Case
    systems: dict[str, Train] = field(repr=False)
    levers: bool = False


def contests() -> list[Contest]:
    """The comparison with TRL first, then what fits, then what each lever is worth, then more of each."""
    both = {"ours": MASTERS, "ours, compiled": COMPILED}
    return [
        _against(Case(shape="0.5B", lengths="mbpp"), both | {"ours, lean": LEAN}, (32, 8)),
        _fits(
            Case(shape="7B", lengths="mbpp", steps=8),
            {"ours, lean, checkpointing": LEAN | FEW, "ours, lean, checkpointing, released": LEAN | FEW | RELEASED},
        ),
        _fits(Case(shape="7B", lengths="middle", adapter="qlora", steps=8), {"ours": FEW | {"token_budget": 4096}}),
        _fits(Case(shape="0.5B", lengths="mbpp", steps=8), {"ours, least": LEAN | FEW | {"token_budget": 4096}}),
        _allocators(Case(shape="0.5B", lengths="mbpp")),
        _levers(Case(shape="0.5B", lengths="mbpp")),
        _fits(Case(shape="32B", lengths="mbpp", adapter="qlora", steps=7), {"ours": FEW}),
        _against(Case(shape="1.5B", lengths="mbpp"), both, (16,)),
        _fits(Case(shape="7B", lengths="middle", steps=7), {"ours, lean, checkpointing": LEAN | FEW}),
        _levers(Case(shape="0.5B", lengths="long", steps=8)),
        _against(Case(shape="7B", lengths="middle", adapter="lora", steps=7), {"ours": {}, CHECKPOINTING: FEW}, (4,)),
        _against(Case(shape="0.5B", lengths="long", steps=8), both, (8,)),
        _against(Case(shape="1.5B", lengths="middle", steps=8), {"ours": MASTERS, CHECKPOINTING: FEW}, (8,)),
    ]


def run_plan(report: Path, *, seconds: float, dry_run: bool) -> int:
    """Run what is left of the plan and start nothing after `seconds`; returns the exit status."""
    wanted = contests()
    if dry_run:
        for contest in wanted:
            print(f"{contest.name}: {', '.join(contest.systems)}")
        return 0
    began = time.monotonic()
    report.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {"runners": {}}
    for contest in wanted:
        done = found["runners"].setdefault(contest.name, {})
        for name, train in contest.systems.items():
            if name in done or time.monotonic() - began > seconds:
                continue
            (runner,) = race({name: train}, device="cuda", in_turn=False, limit=100)
            done[name] = asdict(runner)
            report.write_text(json.dumps(found, indent=1))
            print(f"{time.monotonic() - began:5.0f} s  {contest.name}: {name}", file=sys.stderr, flush=True)
    found["environment"] = measure.environment("cuda")
    _evaluate(wanted, found)
    report.write_text(json.dumps(found, indent=1) + "\n")
    print(compare.table(found["rows"]))
    print(compare.ladder_table(found["ladder"]))
    print(f"left out for lack of time: {', '.join(found['left_out']) or 'nothing'}\nwritten: {report}")
    return int(any(str(row.get("not_timed", "")).startswith("red") for row in found["rows"] + found["ladder"]))


def _evaluate(wanted: list[Contest], found: dict[str, Any]) -> None:
    """Tables' rows of all that has run, under `rows` and `ladder`."""
    found |= {"rows": [], "ladder": [], "left_out": []}
    for contest in wanted:
        runners = [Runner(**values) for values in found["runners"].get(contest.name, {}).values()]
        ran = {runner.name for runner in runners}
        found["left_out"] += [f"{contest.name}: {name}" for name in contest.systems if name not in ran]
        if runners:
            found["ladder" if contest.levers else "rows"] += compare.rows(contest.case, "cuda", runners)


def _against(case: Case, variants: dict[str, dict[str, Any]], micros: tuple[int, ...]) -> Contest:
    setups = compare.peers(case, "cuda", micros)
    return Contest(name=f"{case} against TRL", case=case, systems=compare.systems(case, "cuda", variants, setups))


def _fits(case: Case, variants: dict[str, dict[str, Any]]) -> Contest:
    return Contest(name=f"{case} fits", case=case, systems=compare.systems(case, "cuda", variants, {}))


def _allocators(case: Case) -> Contest:
    """What torch's allocator holds, as torch has it and in segments that grow: every step has another size."""
    both = {"ours": ours.train, "ours, growing segments": ours.train_growing}
    systems: dict[str, Train] = {name: functools.partial(run, case, "cuda", {}) for name, run in both.items()}
    return Contest(name=f"{case} allocator", case=case, systems=systems)


def _levers(case: Case) -> Contest:
    return Contest(name=f"{case} levers", case=case, systems=compare.rungs(case, "cuda"), levers=True)
