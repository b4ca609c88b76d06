"""bitsandbytes imported without what it would fetch.

On CPUs with AVX-512 for bfloat16 the import of bitsandbytes (0.50, ``backends/cpu/ops.py``) takes a compiled kernel
from the Hugging Face Hub where the package `kernels` is installed, and peft imports bitsandbytes where that is
installed. Nobody named that repository: a run would reach into the network, and compute with whatever it finds there.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys


def import_bitsandbytes() -> None:
    """Import bitsandbytes, with the kernels that it brings itself, if it is installed and not imported yet.

    To be called before anything imports it or peft. Errors: whatever a broken installation raises.
    """
    if "bitsandbytes" in sys.modules or importlib.util.find_spec("bitsandbytes") is None:
        return
    theirs = sys.modules.get("kernels")
    told = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = told.level
    sys.modules["kernels"] = None  # type: ignore[assignment]  # its import fails, as where it is not installed,
    told.setLevel(logging.ERROR)  # and this is not worth a warning
    try:
        importlib.import_module("bitsandbytes")
    finally:
        told.setLevel(level)
        del sys.modules["kernels"]
        if theirs is not None:
            sys.modules["kernels"] = theirs
