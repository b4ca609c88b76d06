"""The packed attention against softmax written out, sequence by sequence."""

from __future__ import annotations

import pytest
import torch

from ap2o_fast.errors import UsageError
from ap2o_fast.training.attention.layout import PackedAttention
from ap2o_fast.training.attention.packed import shared_prefix_attention
from ap2o_fast.training.packing.sequences import SharedPrompt, pack_sequences

BATCH = pack_sequences(
    [SharedPrompt(prompt=[1] * 5, answers=[[2] * 3, [3], [4] * 6]), SharedPrompt(prompt=[5], answers=[[6] * 4])]
)
TOKENS = len(BATCH.input_ids)


def written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, window: int | None = None
) -> torch.Tensor:
    """(T, H, E): each token's query over the keys before it in its own text, one at a time."""
    groups = q.shape[1] // k.shape[1]
    out = torch.zeros_like(q[0].transpose(0, 1))
    for s in range(len(BATCH.cu_q) - 1):
        keys = BATCH.kv_index[int(BATCH.cu_k[s]) : int(BATCH.cu_k[s + 1])]
        for t in range(int(BATCH.cu_q[s]), int(BATCH.cu_q[s + 1])):
            distance = BATCH.position_ids[t] - BATCH.position_ids[keys]
            seen = keys[(distance >= 0) & (distance < (window or TOKENS))]
            for head in range(q.shape[1]):
                weights = (k[0, head // groups, seen] @ q[0, head, t] * scaling).softmax(0)
                out[t, head] = weights @ v[0, head // groups, seen]
    return out


@pytest.mark.parametrize("window", [None, 1, 3, 6, 10, 11, 99])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_softmax_written_out(kv_heads: int, window: int | None) -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 4, TOKENS, 8, dtype=torch.float64)
    k, v = torch.randn(2, 1, kv_heads, TOKENS, 8, dtype=torch.float64)
    packed = PackedAttention.of(BATCH, torch.float64)
    out, weights = shared_prefix_attention(
        torch.nn.Module(), q, k, v, None, packed=packed, scaling=0.7, sliding_window=window
    )
    assert weights is None
    torch.testing.assert_close(out[0], written_out(q, k, v, 0.7, window), rtol=0, atol=1e-12)


@pytest.mark.parametrize("option", [{"dropout": 0.1}, {"softcap": 30.0}])
def test_what_would_not_be_exact_is_refused(option: dict[str, float]) -> None:
    q = torch.zeros(1, 4, TOKENS, 8)
    packed = PackedAttention.of(BATCH, torch.float32)
    with pytest.raises(UsageError, match="packed attention"):
        shared_prefix_attention(torch.nn.Module(), q, q, q, None, packed=packed, **option)  # type: ignore[arg-type]
