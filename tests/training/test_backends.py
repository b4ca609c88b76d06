"""The adapters to FlashAttention 2, 3 and 4, on stand-ins with the signatures of their releases that compute exactly.

The stand-ins read their arguments as the releases document them: `causal` and the window are aligned at the end of a
sequence's queries and keys, `window_size` is how many keys to the left and right of that, -1 (in 4: None) no limit.
Signatures: flash_attn 2.8.3, flash_attn_interface 3.0.0 (hopper/), flash_attn.cute of flash-attn-4.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from ap2o_fast.errors import MachineError, UsageError
from ap2o_fast.training import prepare_model
from ap2o_fast.training.attention import backends
from ap2o_fast.training.attention.layout import PackedAttention
from ap2o_fast.training.attention.packed import attention_in_use, shared_prefix_attention, wanted_attention
from ap2o_fast.training.packing.sequences import SharedPrompt, pack_sequences
from tests.training.support import plain_model

BATCH = pack_sequences(
    [SharedPrompt(prompt=[1] * 5, answers=[[2] * 3, [3], [4] * 6]), SharedPrompt(prompt=[5], answers=[[6] * 4])]
)
CALLS: list[dict[str, Any]] = []


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    offsets: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    scale: float | None,
    causal: bool,
    window: tuple[int | None, int | None],
) -> torch.Tensor:
    """(T, H, E) by softmax over the keys that the documented rule lets each query see."""
    lengths = [offset.diff() for offset in offsets]
    assert all(offset.dtype == torch.int32 for offset in offsets)
    assert longest == tuple(int(length.max()) for length in lengths)
    left, right = (None if limit in (None, -1) else limit for limit in window)
    if causal:
        right = 0
    out = []
    for s in range(len(lengths[0])):
        mine, keys, values = (
            tensor[int(offset[s]) : int(offset[s + 1])]
            for tensor, offset in ((q, offsets[0]), (k, offsets[1]), (v, offsets[1]))
        )
        groups = q.shape[1] // k.shape[1]
        keys, values = (tensor.repeat_interleave(groups, 1) for tensor in (keys, values))
        at = torch.arange(len(mine))[:, None] + len(keys) - len(mine)
        distance = at - torch.arange(len(keys))[None]
        seen = torch.ones_like(distance, dtype=torch.bool)
        if right is not None:
            seen &= distance >= -right
        if left is not None:
            seen &= distance <= left
        scores = torch.einsum("qhe,khe->hqk", mine, keys) * (q.shape[2] ** -0.5 if scale is None else scale)
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out.append(torch.einsum("hqk,khe->qhe", weights, values))
    return torch.cat(out)


def flash2(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False,
    block_table=None,
):  # fmt: skip
    assert dropout_p == softcap == 0 and alibi_slopes is None and block_table is None and not return_attn_probs
    assert None not in window_size
    CALLS.append({"window": window_size, "deterministic": deterministic})
    longest, offsets = (max_seqlen_q, max_seqlen_k), (cu_seqlens_q, cu_seqlens_k)
    return attend(q, k, v, offsets, longest, softmax_scale, causal, window_size)


def flash3(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
    softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None, window_size=(-1, -1),
    attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, sm_margin=0,
    return_attn_probs=False,
):  # fmt: skip
    assert seqused_q is seqused_k is qv is None and attention_chunk == softcap == 0 and num_splits == 1
    assert None not in window_size
    CALLS.append({"window": window_size, "deterministic": deterministic})
    longest, offsets = (max_seqlen_q, max_seqlen_k), (cu_seqlens_q, cu_seqlens_k)
    return attend(q, k, v, offsets, longest, softmax_scale, causal, window_size)


def flash4(
    q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, seqused_q=None,
    seqused_k=None, page_table=None, softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None,
    softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, score_mod=None, mask_mod=None,
    block_sparse_tensors=None, cu_total_m_blocks=None, cu_total_n_blocks=None, aux_tensors=None, return_lse=False,
):  # fmt: skip
    assert seqused_q is seqused_k is page_table is score_mod is mask_mod is None and softcap == 0
    # Taken as a number of keys where the others take it for no limit.
    assert -1 not in window_size
    CALLS.append({"window": window_size, "deterministic": deterministic})
    longest, offsets = (max_seqlen_q, max_seqlen_k), (cu_seqlens_q, cu_seqlens_k)
    return attend(q, k, v, offsets, longest, softmax_scale, causal, window_size), None


STAND_INS = {"flash2": ("flash_attn", flash2), "flash3": ("flash_attn_interface", flash3)}
STAND_INS["flash4"] = ("flash_attn.cute", flash4)


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    for name, function in STAND_INS.values():
        module = sys.modules.get(name) or ModuleType(name)
        module.__spec__ = object()  # type: ignore[assignment]
        module.flash_attn_varlen_func = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    for cached in (backends._flash, backends.in_one_call):
        cached.cache_clear()
    yield
    for cached in (backends._flash, backends.in_one_call):
        cached.cache_clear()


def layout(backend: str) -> PackedAttention:
    made = PackedAttention.of(BATCH, torch.float64)
    return PackedAttention(**{**vars(made), "backend": backend, "attend": backends.in_one_call(backend)})


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("window", [None, 1, 4, 99])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("backend", STAND_INS)
def test_output_and_gradients_equal_the_exact_ones(backend: str, kv_heads: int, window: int | None) -> None:
    torch.manual_seed(0)
    tokens = len(BATCH.input_ids)
    leaves = [torch.randn(1, heads, tokens, 8, dtype=torch.float64) for heads in (4, kv_heads, kv_heads)]
    seed = torch.randn(1, tokens, 4, 8, dtype=torch.float64)
    found = []
    for name in ("exact", backend):
        mine = [leaf.clone().requires_grad_() for leaf in leaves]
        out, _ = shared_prefix_attention(
            torch.nn.Module(), *mine, None, packed=layout(name), scaling=0.3, sliding_window=window
        )
        found.append([out, *torch.autograd.grad(out, mine, seed)])
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("backend", STAND_INS)
def test_gradients_are_asked_to_be_deterministic_when_all_is(backend: str) -> None:
    q = torch.zeros(1, 4, len(BATCH.input_ids), 8, dtype=torch.float64)
    CALLS.clear()
    for wanted in (False, True):
        torch.use_deterministic_algorithms(wanted)
        try:
            shared_prefix_attention(torch.nn.Module(), q, q, q, None, packed=layout(backend))
        finally:
            torch.use_deterministic_algorithms(False)
    assert [call["deterministic"] for call in CALLS] == [False, True]


@pytest.mark.parametrize("backend", STAND_INS)
def test_one_that_is_not_installed_is_an_error_that_names_it(backend: str) -> None:
    with pytest.raises(MachineError, match=rf"model\.attention={backend}(?s:.*)install"):
        backends.choose(backend, torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize("backend", [*STAND_INS, "torch"])
@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.bfloat16), ("cuda", torch.float32)])
def test_one_that_cannot_run_here_is_refused(backend: str, device: str, dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match=rf"model\.attention={backend} cannot run in {dtype} on {device}"):
        backends.choose(backend, torch.device(device), dtype)


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("generation", "backend"),
    [((7, 5), "exact"), ((8, 0), "torch"), ((9, 0), "flash3"), ((10, 0), "flash4"), ((12, 0), "torch")],
)
def test_auto_takes_what_was_made_for_the_gpu(
    generation: tuple[int, int], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: generation)
    fresh = backends.choose.__wrapped__
    assert fresh("auto", torch.device("cuda"), torch.bfloat16) == backend
    assert fresh("auto", torch.device("cuda"), torch.float32) == "exact"
    assert fresh("auto", torch.device("cpu"), torch.bfloat16) == "exact"
    for name, _ in STAND_INS.values():
        monkeypatch.delitem(sys.modules, name)
    assert fresh("auto", torch.device("cuda"), torch.bfloat16) == ("exact" if generation < (8, 0) else "torch")


@pytest.mark.parametrize("wanted", ["auto", "exact"])
def test_a_model_says_which_attention_it_has(wanted: str) -> None:
    model = prepare_model(plain_model("llama"), wanted)
    assert wanted_attention(model) == wanted and attention_in_use(model) == "exact"
    assert wanted_attention(plain_model("llama")) is None
    with pytest.raises(UsageError, match=r"model\.attention=torch cannot run in torch\.float32 on cpu"):
        prepare_model(model, "torch")
