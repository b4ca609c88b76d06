"""Compile every kernel in every configuration for GPUs that are not here, and print what the assembler made of it.

Run by `test_compiled.py` in a process of its own, since TRITON_INTERPRET must not be set: one JSON line a kernel.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

from ap2o_kernels import rows_triton, tiles

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
SHARED = {80: 163, 89: 99, 90: 227}
"""KiB of shared memory a block may use, by compute capability."""
POINTERS = {
    "targets": "*i64",
    "split_lse": "*fp32",
    "target_logits": "*fp32",
    "row_lse": "*fp32",
    "row_logps": "*fp32",
    "slopes": "*fp32",
    "logits": "*fp32",
}


def tile_configurations() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], int, int]]:
    """Kernel, types of its pointers, constants, warps and stages."""
    kernels = (tiles.score_kernel, tiles.gradient_kernel)
    ways = [(True, True), (False, True), (False, False)]  # BLOCKS, WHOLE_DEPTH
    for kernel, (capability, kib), bias, (blocks, whole) in itertools.product(
        kernels, SHARED.items(), (False, True), ways
    ):
        if blocks and capability < 90:
            continue
        for dtype in ("bf16", "fp16", "fp32"):
            if dtype == "fp16" and (bias or not whole):
                continue  # differs from bfloat16 in the type alone
            if dtype == "fp32" and blocks:
                continue
            for precision in ("ieee", "tf32") if dtype == "fp32" else ("ieee",):
                tile = tiles.SINGLE if dtype == "fp32" else tiles.HALF[kib]
                if blocks and kernel is tiles.gradient_kernel:
                    tile = tile.with_room()
                constants = {
                    "HAS_BIAS": bias,
                    "BLOCKS": blocks,
                    "WHOLE_DEPTH": whole,
                    "WIDEN": False,
                    "PRECISION": precision,
                    "TOGETHER": tiles.ROW_BLOCKS_TOGETHER,
                    "TILES": tiles.TILES_A_SPLIT,
                    "ROWS": tile.rows,
                    "COLUMNS": tile.columns,
                    "DEPTH": tile.depth,
                }
                operands = dict.fromkeys(("hidden", "weight", "gradients", "bias"), f"*{dtype}")
                if blocks:
                    operands |= {
                        "hidden": f"tensordesc<{dtype}[{tile.rows},{tile.depth}]>",
                        "weight": f"tensordesc<{dtype}[{tile.columns},{tile.depth}]>",
                        "gradients": f"tensordesc<{dtype}[{tile.rows},{tile.columns}]>",
                    }
                yield kernel, operands, constants | {"capability": capability}, tile.warps, tile.stages


def row_configurations() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], int, int]]:
    for kernel, capability, bias in itertools.product(
        (rows_triton.row_logps_kernel, rows_triton.row_gradients_kernel), SHARED, (False, True)
    ):
        constants = {"HAS_BIAS": bias, "BLOCK": rows_triton.BLOCK, "capability": capability}
        for dtype in ("bf16", "fp32") if kernel is rows_triton.row_gradients_kernel else ("fp32",):
            yield kernel, {"bias": "*fp32", "gradients": f"*{dtype}"}, constants, rows_triton.WARPS, 3
    for capability, dtype in itertools.product(SHARED, ("bf16", "fp32")):
        constants = {"BLOCK": rows_triton.SCALE_BLOCK, "capability": capability}
        yield rows_triton.scale_kernel, {"values": f"*{dtype}", "factor": "*fp32"}, constants, rows_triton.WARPS, 3


def compile_one(
    kernel: Any, operands: dict[str, str], constants: dict[str, Any], warps: int, stages: int
) -> dict[str, Any]:
    capability = constants["capability"]
    signature, fixed, attributes = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        kind = (POINTERS | operands).get(name)
        if name in constants or (name == "bias" and not constants["HAS_BIAS"]):
            signature[name] = "constexpr"
            fixed[name] = constants.get(name)
        else:
            signature[name] = kind or "i32"
            # What the launcher finds for the shapes of real models: aligned pointers, sizes divisible by 16.
            pointer = kind is not None and kind.startswith("*")
            if pointer or name.endswith("stride") or name in ("depth_count", "vocabulary", "column_count", "count"):
                attributes[(place,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        triton.compiler.ASTSource(kernel, signature, fixed, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {key.lower(): int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "kernel": kernel.fn.__name__,
        **{key: value for key, value in constants.items() if key not in ("TOGETHER", "WIDEN", "TILES")},
        "operands": next(iter(operands.values())),
        "shared": compiled.metadata.shared,
        "wgmma": "wgmma.mma_async" in compiled.asm["ptx"],
        "tma": "cp.async.bulk.tensor" in compiled.asm["ptx"],
        **found,
    }


if __name__ == "__main__":
    for configuration in itertools.chain(tile_configurations(), row_configurations()):
        print(json.dumps(compile_one(*configuration)), flush=True)
