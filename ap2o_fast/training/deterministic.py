"""Equal results of equal runs on a GPU, at a cost in speed. On the CPU they are equal anyway."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ap2o_fast.errors import UsageError

_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8"))


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Have torch compute deterministically within the block, FlashAttention's gradients included.

    Args:
        wanted: the setting `train.deterministic`; without it nothing is changed.

    Errors: `UsageError` where cuBLAS may choose its way, or for an operation that has no deterministic way.
    """
    if not wanted:
        yield
        return
    name, values = _WORKSPACE
    if device.type == "cuda" and os.environ.get(name) not in values:
        raise UsageError(
            f"train.deterministic=true needs {name}={values[0]} in the environment",
            why="cuBLAS reads it when a process first uses a GPU, so it cannot be set later",
            do=f"start again with `export {name}={values[0]}`",
        )
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "use_deterministic_algorithms" in str(error):
            raise UsageError(
                "train.deterministic=true cannot be had",
                why=str(error).partition(", but you set")[0],
                do="set train.deterministic=false, or another model.attention or loss.impl if one of them computes it",
            ) from error
        raise
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
