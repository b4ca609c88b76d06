"""The public functions: arguments checked, implementation chosen. Shapes: R rows, D hidden, V vocabulary, A answers,
P pairs."""

from __future__ import annotations

import importlib.util

import torch

from ap2o_kernels import chunked, reference
from ap2o_kernels.arguments import check_head, check_pairs
from ap2o_kernels.losses import PairLoss
from ap2o_kernels.output import DpoOutput

HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    from ap2o_kernels import tiles, two_pass

TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
NARROW = 1024
"""Hidden size up to which making logits twice costs a GPU less time than writing and reading them."""
_SLAB_ROWS = 1024


def available_impls(device: torch.device | str) -> tuple[str, ...]:
    """Implementations that run on `device`, among `chunked`, `triton` and `reference`.

    `triton` needs Triton, and a CUDA device or TRITON_INTERPRET=1; it takes no float64.
    """
    kind = torch.device(device).type
    if HAS_TRITON and kind == ("cpu" if tiles.INTERPRETING else "cuda"):
        return ("chunked", "triton", "reference")
    return ("chunked", "reference")


def linear_logp(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    chunk_rows: int | None = None,
) -> torch.Tensor:
    """Log-probability of each row's target token: log softmax(hidden @ weight.T + bias)[targets].

    For scoring: the result carries no gradient.

    Args:
        hidden: (R, D) float16, bfloat16, float32 or float64.
        weight: (V, D), of the same dtype; a sharded one (`DTensor`) is gathered.
        targets: (R,) int64. On a GPU, where they are not looked at beforehand, one outside [0, V) gives NaN.
        bias: (V,) or None.
        impl: one of `available_impls`; `auto` is `triton` on a GPU, `chunked` elsewhere and for float64.
        chunk_rows: rows whose logits exist at a time in `chunked` (default 1024 on the CPU, 4096 on a GPU).

    Returns: (R,) float32, float64 for float64 inputs.
    Errors: `ValueError` for shapes, dtypes, devices or targets that do not fit.
    """
    with torch.no_grad():
        hidden, weight, bias = _operands(hidden, weight, bias)
        check_head(hidden, weight, targets, bias)
        if impl == "auto":
            on_gpu = hidden.is_cuda and "triton" in available_impls(hidden.device) and hidden.dtype in TRITON_DTYPES
            impl = "triton" if on_gpu else "chunked"
        _check_impl(impl, hidden)
        if impl == "reference":
            return reference.linear_logp(hidden, weight, targets, bias=bias)
        rows = _positive(chunk_rows) or chunked.default_rows(hidden, trains=False)
        if impl == "chunked":
            return chunked.linear_logp(hidden, weight, bias, targets, rows)
        return two_pass.linear_logp(hidden, weight, bias, targets)


def linear_dpo(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    cu_rows: torch.Tensor,
    pairs: torch.Tensor,
    ref_logps: torch.Tensor,
    *,
    beta: float = 0.1,
    pair_weights: torch.Tensor | None = None,
    normalizer: float | None = None,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    sft_weight: float = 0.0,
    length_normalized: bool = False,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    chunk_rows: int | None = None,
) -> DpoOutput:
    """Preference loss straight from hidden states. Differentiable (once) in `hidden`, `weight` and `bias`.

    Answers are nodes and pairs are edges: an answer may be in many pairs or in none, and may be empty. What needs no
    gradient costs none: a frozen head is neither multiplied for nor allocated a gradient.

    Args:
        hidden: (R, D) hidden states that predict the answers' tokens, contiguous per answer.
        weight: (V, D) of the LM head, of the same dtype. A sharded one (`DTensor`) is gathered and its gradient is
            summed over the ranks, each of which has its own rows.
        targets: (R,) int64 the answers' tokens. On a GPU, where they are not looked at beforehand, one outside [0, V)
            gives NaN.
        cu_rows: (A+1,) integer, where each answer's rows begin; starts at 0, ends at R. It and `pairs` may be on the
            CPU, which saves `chunked` from waiting for the GPU to read them.
        pairs: (P, 2) int64, (chosen, rejected) as answer numbers.
        ref_logps: (A,) log-probabilities of the answers under the reference model; zeros for none.
        beta, loss_type, label_smoothing, sft_weight, length_normalized: see `losses.PairLoss`.
        pair_weights: (P,) or None for ones.
        normalizer: what the sum of pair losses is divided by: the pairs of the whole step, where this is a part of it.
            Default P.
        bias: (V,) or None.
        impl: one of `available_impls`. `chunked` keeps the logits of `chunk_rows` rows, 6RDV operations (4RDV with a
            frozen head); `triton` keeps none and makes them twice, 8RDV; `reference` keeps all. `auto` is `chunked`,
            but `triton` on a GPU in half precision for D <= 1024, where it is faster as well, and wherever the
            workspace of `chunked` is more than half of the free memory.
        chunk_rows: rows of the workspace: `chunked` holds the float32 logits of as many (default 1024, but 4096 on a
            GPU where chunks are added up, see `chunked.keeps_gradients`; pairs that reach over more rows are computed
            in two sweeps), the backward of `triton` as many rows' worth of gradients in the operands' dtype (default
            1024).

    Returns: `DpoOutput`.
    Errors: `ValueError` for arguments that do not fit together; `RuntimeError` for a second derivative.
    """
    settings = PairLoss(
        loss_type=loss_type,
        beta=beta,
        label_smoothing=label_smoothing,
        sft_weight=sft_weight,
        length_normalized=length_normalized,
    )
    hidden, weight, bias = _operands(hidden, weight, bias)
    check_head(hidden, weight, targets, bias)
    check_pairs(hidden, cu_rows, pairs, ref_logps, pair_weights, normalizer)
    asked_rows = _positive(chunk_rows)
    grad = torch.is_grad_enabled()
    needed = [grad and tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)]
    if impl == "auto":
        impl = "chunked" if _suits_chunks(hidden, weight, asked_rows, trains=needed[1]) else "triton"
    _check_impl(impl, hidden)
    if impl == "reference":
        return reference.linear_dpo(
            hidden,
            weight,
            targets,
            cu_rows,
            pairs,
            ref_logps,
            beta=beta,
            pair_weights=pair_weights,
            normalizer=normalizer,
            loss_type=loss_type,
            label_smoothing=label_smoothing,
            sft_weight=sft_weight,
            length_normalized=length_normalized,
            bias=bias,
        )
    if impl == "chunked":
        operator, default_rows = chunked.dpo_chunked, chunked.default_rows(hidden, trains=needed[1])
    else:
        operator, default_rows = two_pass.dpo_two_pass, _SLAB_ROWS
    loss, logps, *_ = operator(
        hidden,
        weight,
        bias,
        targets,
        cu_rows,
        pairs,
        ref_logps,
        pair_weights,
        *settings.values(),
        float(max(len(pairs), 1) if normalizer is None else normalizer),
        asked_rows or default_rows,
        needed,
    )
    return DpoOutput(loss, logps.detach())


def _operands(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What is multiplied: whole, in the dtype of an autocast region, `hidden` with its rows contiguous."""
    weight = _gathered(weight)
    bias = None if bias is None else _gathered(bias)
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return hidden.contiguous(), weight, bias


def _gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a sharded tensor, whose gradient goes back to the shards summed over ranks; any other as it is."""
    if type(tensor) in (torch.Tensor, torch.nn.Parameter) or not torch.distributed.is_available():
        return tensor
    from torch.distributed.tensor import DTensor, Partial

    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.full_tensor(grad_placements=[Partial()] * tensor.device_mesh.ndim)


def _suits_chunks(hidden: torch.Tensor, weight: torch.Tensor, chunk_rows: int | None, *, trains: bool) -> bool:
    """Whether `chunked` is the better way: the only one, or for a wide model whose chunks fit.

    It must need at most half of the memory that is free now, which is not asked while a graph is traced.
    """
    if not hidden.is_cuda or hidden.dtype not in TRITON_DTYPES or "triton" not in available_impls(hidden.device):
        return True
    if hidden.element_size() == 2 and hidden.shape[1] <= NARROW:
        return False
    if torch.compiler.is_compiling():
        return True
    free, _ = torch.cuda.mem_get_info(hidden.device)
    unused = torch.cuda.memory_reserved(hidden.device) - torch.cuda.memory_allocated(hidden.device)
    rows = chunk_rows or chunked.default_rows(hidden, trains=trains)
    wanted = chunked.workspace_bytes(len(hidden), weight.shape, rows, hidden.dtype, trains=trains)
    return wanted <= (free + unused) // 2


def _check_impl(impl: str, hidden: torch.Tensor) -> None:
    available = available_impls(hidden.device)
    if impl not in available:
        raise ValueError(f"impl {impl!r} is not available on {hidden.device}: choose from {('auto', *available)}")
    if impl == "triton" and hidden.dtype not in TRITON_DTYPES:
        raise ValueError(f"impl 'triton' takes float16, bfloat16 or float32, not {hidden.dtype}: choose 'chunked'")


def _positive(chunk_rows: int | None) -> int | None:
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows is {chunk_rows}; it must be at least 1")
    return chunk_rows
