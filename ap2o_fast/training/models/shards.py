"""Loading a model that need not fit into one process: each reads its shards from the safetensors files, no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

from ap2o_fast.config import ModelSettings
from ap2o_fast.errors import UsageError
from ap2o_fast.training.parallel.distributed import World, together

_FILES = ["*.json", "*.safetensors"]


def empty_model(config: PretrainedConfig, **how: Any) -> PreTrainedModel:
    """A causal LM without weights, on the meta device, but with the buffers that it computes.

    Args:
        how: for transformers' `from_config`.
    """
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, **how)
    model.tie_weights()  # what was registered without weights was registered apart
    return model


def read_shards(model: PreTrainedModel, settings: ModelSettings, world: World) -> None:
    """Fill a sharded `empty_model` on `world.device`.

    The reader is the one of checkpoints, so the files' tensors must bear the names of the model's parameters; they do
    in every supported architecture. transformers can load shards too, but divides a model by a plan of its own, in
    which the head is no part of a forward pass that does not call it.

    Errors: `UsageError` for files without some of the weights or in another format; `OSError` where they are not found.
    """
    folder = together(lambda: _files(settings), world)[world.rank]
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # computed, not in the files
    model.to_empty(device=world.device)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    _fill(model, settings, folder)


def fill_shards(model: PreTrainedModel, settings: ModelSettings, world: World) -> None:
    """Give the parameters of a sharded model the values in the files, in place. Errors as of `read_shards`."""
    _fill(model, settings, together(lambda: _files(settings), world)[world.rank])


def _fill(model: PreTrainedModel, settings: ModelSettings, folder: Path) -> None:
    wanted = {name: parameter.detach() for name, parameter in model.named_parameters()}
    reader = HuggingFaceStorageReader(str(folder))
    found: dict[str, Any] = reader.read_metadata().state_dict_metadata
    for name, parameter in wanted.items():
        if name not in found or tuple(found[name].size) != tuple(parameter.shape):
            there = f"has {tuple(found[name].size)}" if name in found else "is missing"
            raise UsageError(
                f"{settings.name} cannot be loaded by several processes: {name} {there}",
                why="each reads its part of safetensors files whose names are those of the model's weights",
                do="load it in one process and write it with save_pretrained, then name that folder",
            )
    try:
        dcp.load(wanted, storage_reader=reader)
    except CheckpointException as failed:  # not an `Exception`
        raise next(iter(failed.failures.values()))[0] from failed


def _files(settings: ModelSettings) -> Path:
    """The folder of the model on this node. The Hub's client has one process download what others wait for."""
    folder = Path(settings.name)
    if folder.is_dir():
        return folder
    return Path(snapshot_download(settings.name, revision=settings.revision, allow_patterns=_FILES))
