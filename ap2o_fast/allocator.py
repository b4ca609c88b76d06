"""How torch's allocator lays out a GPU's memory: in segments that grow, unless the user has chosen otherwise.

Steps of another size each leave holes between fixed segments that later steps do not fit into. What the other layout
saves here has not been measured yet (`benchmarks/gpu.py training` has a row for it).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variables that torch reads when it first uses a GPU; the second is the older name of the first."""
GROWING = "expandable_segments:True"


def prepare_allocator(device: str, *, pools: bool = False, environment: MutableMapping[str, str] = os.environ) -> None:
    """Have torch's segments grow on a GPU, where the environment does not say anything else.

    Call it before anything uses the GPU.

    Args:
        pools: something in this process, such as vLLM's sleep, keeps tensors in memory pools of its own, which growing
            segments exclude.
    """
    if device.startswith("cuda") and not pools and not any(name in environment for name in NAMES):
        environment[NAMES[0]] = GROWING


def allocator_in_use() -> str:
    """What the environment asks torch's allocator for; the first name counts."""
    return next((os.environ[name] for name in NAMES if name in os.environ), "as torch has it")
