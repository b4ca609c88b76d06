"""The benchmarks' own promises: nothing is timed that is wrong, and a dry run says what would run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, heads, measure
from benchmarks.heads import Case, Step


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setitem(heads.MODELS, "tiny", (16, 301))
    return heads.make_case("tiny", 24, "full", device="cpu", dtype=torch.float32, answer_rows=4)


def test_every_head_that_runs_here_passes_the_gate(case: Case) -> None:
    right = measure.exact(case)
    steps, errors, refused = measure.gate(case, list(heads.HEADS), right, measure.plain_errors(case, right))
    assert {"ours, chunked", "plain PyTorch", "bare products"} <= set(steps)
    assert not [reason for reason in refused.values() if reason.startswith("red")]
    assert set(errors["ours, chunked"]) == {"loss", "hidden", "weight"}


@pytest.mark.parametrize("factor", [1.001, float("nan")])
@pytest.mark.parametrize("wrong", ["hidden", "weight", "loss"])
def test_a_wrong_head_is_not_timed(case: Case, monkeypatch: pytest.MonkeyPatch, wrong: str, factor: float) -> None:
    """Off by a thousandth, or NaN, in one of its three results."""

    def make(of: Case) -> Step:
        right = heads.plain(of)

        def run() -> torch.Tensor:
            loss = right.run()
            if wrong == "loss":
                return loss * factor
            getattr(of, wrong).grad *= factor
            return loss

        return Step(run)

    monkeypatch.setitem(heads.HEADS, "wrong", make)
    right = measure.exact(case)
    steps, _, refused = measure.gate(case, ["wrong"], right, measure.plain_errors(case, right))
    assert not steps
    assert refused["wrong"].startswith("red") and wrong in refused["wrong"]


def test_a_head_that_leaves_out_a_gradient_is_not_timed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(of: Case) -> Step:
        right = heads.plain(of)

        def run() -> torch.Tensor:
            loss = right.run()
            of.weight.grad = None
            return loss

        return Step(run)

    monkeypatch.setitem(heads.HEADS, "wrong", make)
    right = measure.exact(case)
    assert measure.gate(case, ["wrong"], right, measure.plain_errors(case, right))[2]["wrong"].startswith("red")


def test_the_exact_gradients_are_those_of_autograd(case: Case) -> None:
    found = measure.exact(case, slice_rows=7)
    leaves = [case.hidden.detach().double().requires_grad_(), case.weight.detach().double().requires_grad_()]
    logps = (leaves[0] @ leaves[1].T).log_softmax(1).gather(1, case.targets[:, None]).view(case.answers, -1).sum(1)
    loss = -torch.nn.functional.logsigmoid(heads.BETA * (logps[0::2] - logps[1::2])).mean()
    expected = torch.autograd.grad(loss, leaves)
    torch.testing.assert_close(found["loss"], loss.detach())
    torch.testing.assert_close([found["hidden"], found["weight"]], list(expected))


def test_table_and_plot_of_a_gpu_run(tmp_path: Path) -> None:
    """What a GPU run ends with, from rows such as it writes: timed ones, one out of memory, one that is wrong."""
    timed = {"mode": "full", "model": "Qwen2.5-7B", "tflops": 600.0, "share_of_peak": 0.75, "errors": {"loss": 1e-6}}
    rows = [
        {**timed, "head": head, "rows": count, "ms": [1.0, count / 1e3, 9.0], "workspace_gib": 0.5}
        for head in ("ours, chunked", "bare products")
        for count in (2048, 8192)
    ]
    rows += [
        {"mode": "full", "model": "Qwen2.5-7B", "rows": 32768, "head": "plain PyTorch", "not_timed": "out of memory"}
    ]
    printed = gpu.table(rows)
    assert "75% of peak" in printed and "1.00/8.19/9.00 ms" in printed and "out of memory" in printed
    gpu.plot(rows, "a device", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_dry_run_lists_what_would_run_and_needs_no_gpu(repo: Path) -> None:
    command = [sys.executable, repo / "benchmarks" / "gpu.py", "kernels", "--dry-run"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in [*heads.HEADS, *(model for model in heads.MODELS if model != "SmolLM2-135M")]:
        assert name in printed
    for rows in (2048, 8192, 32768):
        assert f"R {rows} " in printed
    assert printed.splitlines()[0].startswith("D4096-V131072"), "the size of the targets comes first"
