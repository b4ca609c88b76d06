"""What will and will not work on this machine, as a user thinks of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import Qwen2Config

from ap2o_fast.config import Config
from ap2o_fast.doctor.checks import available_gib
from ap2o_fast.doctor.finding import Finding
from ap2o_fast.training.memory.form import Form
from ap2o_fast.training.memory.plan import Planner

SIZES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "3B": (2048, 11008, 36, 16, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "14B": (5120, 13824, 48, 40, 8, 152064, False),
    "32B": (5120, 27648, 64, 40, 8, 152064, False),
}
"""Shapes of Qwen2.5-Coder: hidden, intermediate, layers, heads, key-value heads, vocabulary, tied embeddings."""
METHODS = {
    "full fine-tuning": (Form(), "train.memory_limit_gib can fit a larger one, slower; or adapter.kind=lora"),
    "LoRA": (Form(rank=16), "train.memory_limit_gib can fit a larger one; or model.quantization=nf4"),
    "QLoRA, 4 bits": (Form(rank=16, quantized=True), "train.memory_limit_gib can fit a larger one, slower"),
}


@dataclass(frozen=True, kw_only=True)
class Ability:
    """Something to do with this machine: whether it works, how far, and what would make it work, or go further."""

    name: str
    works: bool
    detail: str
    fix: str = ""


def abilities(found: Sequence[Finding]) -> list[Ability]:
    """What the findings come to, the largest model that each way of training fits, by the default settings.

    Args:
        found: of `findings`.
    """
    by_name = {finding.name: finding for finding in found}
    gpu = torch.cuda.is_available()
    return [
        _runs(found),
        *_training(gpu),
        _triton(by_name, gpu),
        _vllm(by_name),
        Ability(
            name="several GPUs in one run",
            works=torch.cuda.device_count() > 1 and by_name["several GPUs"].status == "ok",
            detail=f"{torch.cuda.device_count()} GPUs",
            fix=by_name["several GPUs"].fix if "several GPUs" in by_name else "needs two GPUs or more",
        ),
    ]


def _runs(found: Sequence[Finding]) -> Ability:
    failed = [finding.name for finding in found if finding.status == "fail"]
    said = f"not before this is mended: {', '.join(failed)}" if failed else "exam, training, quiz, test and report"
    return Ability(name="ap2o run", works=not failed, detail=said, fix="see what to do above" if failed else "")


def _training(gpu: bool) -> list[Ability]:
    gib = torch.cuda.mem_get_info()[0] / 2**30 if gpu else available_gib() or 0.0
    return [_fits(name, form, more, gib, gpu) for name, (form, more) in METHODS.items()]


def _fits(name: str, form: Form, more: str, gib: float, gpu: bool) -> Ability:
    needs = [*(["peft"] if form.rank else []), *(["bitsandbytes"] if form.quantized else [])]
    absent = [package for package in needs if importlib.util.find_spec(package) is None]
    if absent:
        extra = "qlora" if form.quantized else "lora"
        missing = f"without {' and '.join(absent)}"
        return Ability(name=name, works=False, detail=missing, fix=f"in the clone: pip install -e '.[{extra}]'")
    largest, needed = largest_that_fits(form, gib, gpu)
    where = "GPU memory" if gpu else "memory; on a CPU models over 0.5B take days"
    if not largest:
        return Ability(name=name, works=False, detail=f"0.5B needs {needed:.0f} GiB, {gib:.0f} are free", fix=more)
    said = f"models to {largest}: {needed:.0f} of {gib:.0f} GiB of free {where}"
    return Ability(name=name, works=True, detail=said, fix="" if largest == "32B" else more)


def largest_that_fits(form: Form, gib: float, gpu: bool) -> tuple[str, float]:
    """The largest of `SIZES` whose training fits, empty for none, and the GiB that it needs, or the smallest would.

    bfloat16 on a GPU, float32 without one.
    """
    names, needs = list(SIZES), dict[str, float]()

    def fits(name: str) -> bool:
        needs[name] = needed_gib(name, form, gpu)
        return needs[name] <= gib

    low, high = 0, len(names)  # what is before `low` fits, what is from `high` on does not
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(names[middle]) else (low, middle)
    return (names[low - 1], needs[names[low - 1]]) if low else ("", needs[names[0]])


def needed_gib(name: str, form: Form, gpu: bool) -> float:
    """What training one of `SIZES` takes with the default settings."""
    hidden, intermediate, layers, heads, kv, vocabulary, tied = SIZES[name]
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )
    settings = Config()
    planner = Planner(config, torch.bfloat16 if gpu else torch.float32, form=form, on_gpu=gpu)
    return planner.plan(settings.train, settings.loss).needed / 2**30


def _triton(found: Mapping[str, Finding], gpu: bool) -> Ability:
    checked = found.get("kernels, triton on cuda")
    if checked is not None:
        return Ability(name="Triton kernels", works=checked.status == "ok", detail=checked.detail, fix=checked.fix)
    needs = "a CUDA build of torch, which brings Triton" if gpu else "a GPU; without one torch computes the same"
    return Ability(name="Triton kernels", works=False, detail="not compiled here", fix=f"needs {needs}")


def _vllm(found: Mapping[str, Finding]) -> Ability:
    vllm = found["vLLM"]
    works = vllm.status == "ok" and not vllm.detail.startswith("not installed")
    return Ability(name="sampling by vLLM", works=works, detail=vllm.detail, fix=vllm.fix)
