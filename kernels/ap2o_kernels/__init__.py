"""Fused head for preference optimisation: from hidden states to per-answer log-probabilities, the DPO loss and its
gradients, without the logits of a whole batch.

`linear_logp` scores tokens, `linear_dpo` gives a differentiable loss. The package needs PyTorch, and Triton on a GPU.
kernels/README.md derives what it computes.
"""

from __future__ import annotations

from ap2o_kernels.head import available_impls, linear_dpo, linear_logp
from ap2o_kernels.output import DpoOutput

__all__ = ["DpoOutput", "available_impls", "linear_dpo", "linear_logp"]
