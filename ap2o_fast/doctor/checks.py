"""The doctor's checks: each looks at one thing and yields what it found."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from ap2o_fast.cores import usable_cores
from ap2o_fast.doctor.finding import Finding
from ap2o_fast.errors import Ap2oError, MachineError

PYTHON = ((3, 10), (3, 13))
DEMO_MEMORY_GIB = 6.0
DEMO_DISK_GIB = 2.0
SLOW_SYNC_MS = 50.0
REPORT = "report this: a check of the doctor itself broke; the other checks stand"
OPTIONAL = {
    "triton": (
        "fused kernels on a GPU",
        "comes with a CUDA build of torch; on a CPU build: in the clone: pip install -e '.[triton]'",
    ),
    "flash-attn": ("faster attention on a GPU", "in the clone: pip install -e '.[flash]' --no-build-isolation"),
    "liger-kernel": ("a peer to compare the kernels with", "pip install liger-kernel"),
    "peft": ("LoRA and DoRA adapters", "in the clone: pip install -e '.[lora]'"),
    "bitsandbytes": ("models of 4 bits under adapters (QLoRA)", "in the clone: pip install -e '.[qlora]'"),
    "evalplus": ("scores by EvalPlus itself", "in the clone: pip install -e '.[eval]'"),
    "datasets": ("problems by Hub name", "in the clone: pip install -e '.[hub]'"),
}


def findings(*, hub: bool = False, folder: Path | None = None) -> list[Finding]:
    """Look at everything a run needs and return one `Finding` each. A check that breaks is itself a finding.

    Args:
        hub: also ask whether the Hugging Face Hub answers; the only check that uses the network.
        folder: where runs are to be written; None takes the current one.
    """
    here = folder or Path.cwd()
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("Python", _python),
        ("torch", _torch),
        ("several GPUs", _several),
        ("transformers", _transformers),
        ("memory", _memory),
        ("disk", lambda: _disk(here)),
        ("sandbox", _sandbox),
        ("languages", _languages),
        ("kernels", _kernels),
        ("optional packages", _optional),
        ("vLLM", _vllm),
    ]
    if hub:
        checks.append(("Hub", _hub))
    found: list[Finding] = []
    for name, check in checks:
        try:
            found += check()
        except Ap2oError as error:
            found.append(Finding(name=name, status="fail", detail=error.what, fix=error.do))
        except Exception as error:  # whatever a broken installation raises is what the reader came to see
            fix = "install anew: in the clone, make clean, then make demo" if isinstance(error, ImportError) else REPORT
            found.append(Finding(name=name, status="fail", detail=f"{type(error).__name__}: {error}", fix=fix))
    return found


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    if PYTHON[0] <= sys.version_info[:2] <= PYTHON[1]:
        yield Finding(name="Python", status="ok", detail=f"{version}, {sys.executable}")
    else:
        yield Finding(name="Python", status="warn", detail=f"{version} is untried", fix="use Python 3.10 to 3.13")
    if sys.platform != "linux":
        yield Finding(name="system", status="fail", detail=f"{platform.system()} has no sandbox", fix="use Linux")


def _torch() -> Iterator[Finding]:
    import torch

    cores = usable_cores()
    threads = torch.get_num_threads()
    yield Finding(
        name="torch",
        status="ok" if threads <= cores else "warn",
        detail=f"{torch.__version__}, {threads} threads on {cores} usable cores",
        fix="" if threads <= cores else f"set model.threads={cores}",
    )
    if not torch.cuda.is_available():
        built_for = torch.version.cuda
        yield Finding(
            name="GPU",
            status="warn",
            detail=f"torch is built for CUDA {built_for} and finds no GPU" if built_for else "a CPU build of torch",
            fix="check the driver with nvidia-smi" if built_for else "enough for small models; else install CUDA torch",
        )
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        major, minor = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        detail = f"{name}, sm_{major}{minor}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        yield Finding(
            name=f"GPU cuda:{index}",
            status="ok" if major >= 8 else "warn",
            detail=detail,
            fix="" if major >= 8 else "no bfloat16 before sm_80: set model.dtype=float32",
        )


def _several() -> Iterator[Finding]:
    """Whether the GPUs can train together; nothing where there is one or none."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus < 2:
        return
    missing = [name for name in ("gloo", "nccl") if not getattr(torch.distributed, f"is_{name}_available")()]
    yield Finding(
        name="several GPUs",
        status="warn" if missing else "ok",
        detail=f"torch is built without {' and '.join(missing)}" if missing else f"{gpus} can be used by one run",
        fix="install torch from PyPI" if missing else f"torchrun --nproc-per-node {gpus} -m ap2o_fast run my.toml",
    )


def _transformers() -> Iterator[Finding]:
    import transformers

    yield Finding(name="transformers", status="ok", detail=transformers.__version__)


def _memory() -> Iterator[Finding]:
    available = available_gib()
    if available is None:
        yield Finding(
            name="memory", status="warn", detail="cannot be read on this system", fix="see that /proc is mounted"
        )
        return
    enough = available >= DEMO_MEMORY_GIB
    yield Finding(
        name="memory",
        status="ok" if enough else "warn",
        detail=f"{available:.1f} GiB available",
        fix="" if enough else f"the demo may use {DEMO_MEMORY_GIB:.0f} GiB: close other programs",
    )


def available_gib() -> float | None:
    """What the kernel says can be had without swapping, or the room left in our cgroup where that is less."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            available = min(available, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such hierarchy, or `max`
            continue
    return available / 2**30


def _disk(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free / 2**30
    enough = free >= DEMO_DISK_GIB
    yield Finding(
        name="disk space",
        status="ok" if enough else "warn",
        detail=f"{free:.1f} GiB free at {folder}",
        fix="" if enough else f"the demo needs {DEMO_DISK_GIB:.0f} GiB: make room or set run_dir",
    )
    write, sync = _write_mb_per_second_and_sync_ms(folder)
    yield Finding(
        name="disk speed",
        status="ok" if sync <= SLOW_SYNC_MS else "warn",
        detail=f"{write:.0f} MB/s written through, {sync:.1f} ms a small sync",
        fix="" if sync <= SLOW_SYNC_MS else "the error book syncs once a batch: set run_dir to a local disk",
    )


def _write_mb_per_second_and_sync_ms(folder: Path) -> tuple[float, float]:
    block, rounds = os.urandom(16 << 20), 5
    with tempfile.TemporaryFile(dir=folder) as file:
        started = time.perf_counter()
        file.write(block)
        file.flush()
        os.fsync(file.fileno())
        write = len(block) / 1e6 / (time.perf_counter() - started)
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            file.write(block[:4096])
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return write, sorted(times)[rounds // 2] * 1e3


def _sandbox() -> Iterator[Finding]:
    from ap2o_fast.config import JudgeSettings
    from ap2o_fast.judge import detect_level

    level, reasons = detect_level()
    least = JudgeSettings().min_level
    meaning = ("none", "process limits", "namespaces, or Landlock and seccomp", "both, and cgroup limits", "external")
    said = "; ".join(reasons)
    enough = level >= least
    yield Finding(
        name="sandbox",
        status="ok" if enough else "fail",
        detail=f"level {level}, {meaning[min(level, 4)]}" + (f" ({said})" if enough else ""),
        fix="" if enough else f"{said}; runs need level {least}, or judge.min_level={level} at your own risk",
    )


def _languages() -> Iterator[Finding]:
    from ap2o_fast.judge.languages import LANGUAGES, missing, version

    for name, language in LANGUAGES.items():
        lack = missing(language)
        detail = f"not judged, optional: {lack}" if lack else version(language)
        yield Finding(name=f"judge, {name}", status="ok", detail=detail, fix=language.install if lack else "")


def _kernels() -> Iterator[Finding]:
    from ap2o_fast.doctor import kernels

    yield from kernels.findings()


def _optional() -> Iterator[Finding]:
    from ap2o_fast.training.models.no_hub_kernels import import_bitsandbytes

    for package, (gives, install) in OPTIONAL.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Finding(name=package, status="ok", detail=f"not installed, optional: {gives}", fix=install)
            continue
        try:
            if package in ("peft", "bitsandbytes"):
                import_bitsandbytes()
            importlib.import_module(package.replace("-", "_"))
        except Exception as error:  # binary packages fail with anything when they do not fit the installed torch
            detail = f"{version} is installed and cannot be imported: {type(error).__name__}: {error}"
            yield Finding(name=package, status="warn", detail=detail, fix=install)
        else:
            yield Finding(name=package, status="ok", detail=version)


def _vllm() -> Iterator[Finding]:
    import torch

    from ap2o_fast.sampling.vllm_start import installed, require_vllm

    install = "in the clone: pip install -e '.[vllm]' (Python 3.11 or later)"
    if installed() is None:
        yield Finding(name="vLLM", status="ok", detail="not installed, optional: faster sampling", fix=install)
        return
    try:
        version = require_vllm()
    except MachineError as refused:
        yield Finding(name="vLLM", status="warn", detail=refused.what, fix=refused.do)
        return
    try:
        from vllm.platforms import current_platform

        device = str(current_platform.device_type)
    except Exception as error:  # as above
        detail = f"{version} is installed and cannot be imported: {type(error).__name__}: {error}"
        yield Finding(name="vLLM", status="warn", detail=detail, fix="take it into a fresh environment, with its torch")
        return
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    fits = device == wanted
    yield Finding(
        name="vLLM",
        status="ok" if fits else "warn",
        detail=f"{version}, samples on {device or 'no device that it finds'} (sampling.engine=vllm)",
        fix="" if fits else f"torch computes on {wanted} here: install the vLLM of that device",
    )


def _hub() -> Iterator[Finding]:
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        yield Finding(name="Hub", status="warn", detail="not asked", fix="unset HF_HUB_OFFLINE to use Hub names")
        return
    try:
        HfApi().model_info("HuggingFaceTB/SmolLM2-135M-Instruct", timeout=10)
    except Exception as error:  # proxies, certificates and the Hub itself each raise their own
        detail = f"{constants.ENDPOINT} does not answer: {type(error).__name__}"
        yield Finding(name="Hub", status="warn", detail=detail, fix="use folders and files instead of Hub names")
    else:
        yield Finding(name="Hub", status="ok", detail=f"{constants.ENDPOINT} answers")
