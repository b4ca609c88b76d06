"""What a forward and a training pass must multiply: the cost that packing balances and utilisation is measured by.

Operations are multiplications and additions of matrix products; what is computed a second time (gradient checkpointing,
logits that the head makes again) does not count, nor do element-wise operations. Attention counts as if every token saw
all before it, in layers with a sliding window too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from ap2o_fast.training.packing.batch import PackedBatch

Count = TypeVar("Count", int, npt.NDArray[np.int64])
PEAK_FLOPS = {
    "H200": 989.4e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "B200": 2250e12,
}
"""Dense bfloat16 operations a second by the vendor's data sheets, by a part of the device's name, the longest first."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations of a model's matrix products.

    Attributes:
        token: of the decoder's weights, forward, a packed token.
        key: of attention, forward, a query that sees a key.
        row: of the head, forward, a completion token.
        token_trained, row_trained: the same for a forward and backward pass; frozen weights need no gradient.
    """

    token: float
    key: float
    row: float
    token_trained: float
    row_trained: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> Cost:
        """Read it from the model's layers as they are: quantised weights count by their shape."""
        text = model.config.get_text_config()
        heads = text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // heads
        decoder, head = model.get_decoder(), model.get_output_embeddings()
        linear = [module for module in decoder.modules() if isinstance(module, torch.nn.Linear)]
        weights = sum(module.in_features * module.out_features for module in linear)
        trained = sum(m.in_features * m.out_features for m in linear if m.weight.requires_grad)
        row = 2.0 * head.in_features * head.out_features
        return cls(
            token=2.0 * weights,
            key=4.0 * text.num_hidden_layers * heads * size,
            row=row,
            token_trained=4.0 * weights + 2.0 * trained,
            row_trained=row * (3 if head.weight.requires_grad else 2),
        )

    def forward(self, prompt: int, answers: Sequence[int]) -> float:
        """Of a forward pass over a prompt with its answers, by their lengths."""
        tokens = prompt + sum(answers)
        keys = _seen(prompt, prompt) + sum(_seen(length, prompt + length) for length in answers)
        return self.token * tokens + self.key * keys + self.row * sum(answers)

    def packed(self, batch: PackedBatch) -> float:
        """Of a forward pass over a batch."""
        return self.token * len(batch.input_ids) + self.key * _keys(batch) + self.row * len(batch.targets)

    def training(self, batch: PackedBatch) -> float:
        """Of a forward and backward pass over a batch."""
        attention = 3 * self.key * _keys(batch)
        return self.token_trained * len(batch.input_ids) + attention + self.row_trained * len(batch.targets)


TOKENS = Cost(token=1, key=0, row=0, token_trained=1, row_trained=0)
"""Every packed token costs the same: what is balanced where no model is at hand."""


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 operations a second that the device's vendor states, None where that is not known here."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((PEAK_FLOPS[part] for part in sorted(PEAK_FLOPS, key=len, reverse=True) if part in name), None)


def _keys(batch: PackedBatch) -> int:
    queries, keys = (offsets.diff().numpy().astype(np.int64) for offsets in (batch.cu_q, batch.cu_k))
    return int(np.sum(_seen(queries, keys)))


def _seen(queries: Count, keys: Count) -> Count:
    """Pairs of a query and a key that it sees: causal, aligned at the end."""
    return queries * keys - queries * (queries - 1) // 2
