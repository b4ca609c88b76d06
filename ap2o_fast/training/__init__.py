"""Training: packing, model loading, shared-prefix attention, objective, optimiser step, checkpoints."""

from __future__ import annotations

from ap2o_fast.training.adapters import adapt, adapters_off, load_adapter
from ap2o_fast.training.attention import attention_in_use
from ap2o_fast.training.batch import PackedBatch, PackedStep
from ap2o_fast.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from ap2o_fast.training.liger import uses_liger
from ap2o_fast.training.model import load_merged, load_model, load_tokenizer, model_hash, prepare_model, save_model
from ap2o_fast.training.objective import check_head, dpo_step_loss, score
from ap2o_fast.training.packing import pack, pack_rows, pack_step, packing_efficiency
from ap2o_fast.training.quantization import quantise
from ap2o_fast.training.step import Engine
from ap2o_fast.training.whole_weights import whole_weights

__all__ = [
    "Engine",
    "PackedBatch",
    "PackedStep",
    "adapt",
    "adapters_off",
    "attention_in_use",
    "check_head",
    "dpo_step_loss",
    "latest_checkpoint",
    "load_adapter",
    "load_checkpoint",
    "load_merged",
    "load_model",
    "load_tokenizer",
    "model_hash",
    "pack",
    "pack_rows",
    "pack_step",
    "packing_efficiency",
    "prepare_model",
    "quantise",
    "save_checkpoint",
    "save_model",
    "score",
    "uses_liger",
    "whole_weights",
]
