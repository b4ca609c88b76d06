"""Loading, checking, hashing and saving the Hugging Face model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ap2o_fast.config import AdapterSettings, ModelSettings, check_adapter
from ap2o_fast.errors import DataError, MachineError, UsageError
from ap2o_fast.training import quantization
from ap2o_fast.training.adapters import adapt, adapter_tensors, base_parameters, is_adapted, merge, save_adapter
from ap2o_fast.training.attention import use_attention
from ap2o_fast.training.batch import PackedBatch
from ap2o_fast.training.disk import COMPLETE, sync, sync_tree
from ap2o_fast.training.distributed import ALONE, World, together
from ap2o_fast.training.forward import packed_hidden
from ap2o_fast.training.liger import use_liger
from ap2o_fast.training.loading import empty_model, read_shards
from ap2o_fast.training.packing import SharedPrompt, Tokens, pack_sequences
from ap2o_fast.training.sharding import forward_pass, reshard, shard_model, whole

# Architectures whose layers hand their window to the attention, each held to it by a test. One that keeps it in the
# mask alone would see too far, on texts longer than any that could be tried when it is loaded.
WINDOWED = frozenset({"mistral", "qwen2", "qwen3"})


def load_model(
    settings: ModelSettings,
    adapter: AdapterSettings | None = None,
    *,
    seed: int = 0,
    world: World = ALONE,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer, ready for packed training and for generation. Sets torch's number of threads.

    Args:
        adapter: what adapters it gets, none by default; with them its own weights are frozen. They are new, and
            `load_adapter` gives them weights that were trained.
        seed: of the adapters.
        world: the processes that divide it among them. Each reads its part of the files; with adapters each reads all
            into the host's memory first.

    Returns: the model in eval mode (no dropout; gradients still flow) on its device, and the tokenizer.
    Errors: `MachineError` where model, device, package or memory is not to be had; `UsageError` for an architecture
    that packed training cannot compute exactly, and for settings that exclude each other.
    """
    adapter = adapter or AdapterSettings()
    check_adapter(settings, adapter)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = world.device if world.size > 1 else _device(settings.device)
    try:
        _check_folder(settings)
        config = AutoConfig.from_pretrained(settings.name, revision=settings.revision)
        check_config(config, settings.name)
        if getattr(config, "quantization_config", None):
            raise _unsupported(settings.name, "its weights are quantised already; model.quantization does that here")
        dtype = getattr(torch, settings.dtype)
        how: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
        if settings.quantization != "none":
            if world.size > 1:
                raise UsageError(
                    f"model.quantization = {settings.quantization!r} cannot be divided among {world.size} processes",
                    do="set model.quantization=none, or train in one process",
                )
            how |= {"quantization_config": quantization.loading(dtype), "device_map": {"": device}}
        in_parts = world.size > 1 and adapter.kind == "none"
        if in_parts:
            model = empty_model(config, **how)
        else:
            model = AutoModelForCausalLM.from_pretrained(settings.name, revision=settings.revision, **how)
            model.to(device if world.size == 1 else "cpu")
    except (UsageError, MachineError):
        raise
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"{settings.name} does not fit on {device}",
            why=str(error),
            do="take a smaller model or another device, or model.quantization=nf4",
        ) from error
    except ValueError as error:  # transformers' word for an architecture or a configuration it does not know
        raise _unsupported(settings.name, _first_line(error)) from error
    except (OSError, SafetensorError) as error:
        raise _not_loaded(settings, _first_line(error)) from error
    tokenizer = load_tokenizer(settings)
    if settings.quantization != "none":
        quantization.settle(model)
    use_liger(model, settings.liger, device)
    adapt(model, adapter, seed=seed)
    if is_adapted(model):
        model.peft_config["default"].revision = settings.revision
    shard_model(model, world)
    if in_parts:
        read_shards(model, settings, world)
    return prepare_model(model, settings.attention), tokenizer


def load_merged(settings: ModelSettings, trained: Path, *, expected: str = "") -> PreTrainedModel:
    """Load a model on the host and add what adapters have learnt to its weights: an ordinary model without adapters.

    Each weight is added up in float32 and rounded once, to `settings.dtype`. Adapters that were trained beside
    quantised weights are added to the original ones, which are nearer to what the quantised stand for than those are;
    what the model then computes differs from what was trained by the error of the quantisation.

    Args:
        trained: a folder written by `save_model`.
        expected: the model's hash before merging; empty where it is not known.

    Errors: as `load_model`; `DataError` for another model than expected.
    """
    plain = settings.model_copy(update={"device": "cpu", "quantization": "none"})
    model, _ = load_model(plain)
    if expected and model_hash(model) != expected:
        raise DataError(
            f"{settings.name} is not the model beside which the adapter was trained",
            why=f"its weights do not hash to {expected[:12]}",
            do="restore the model",
        )
    return merge(model, trained)


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer alone.

    Errors: `MachineError` where it is not to be had.
    """
    _check_folder(settings)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(settings.name, revision=settings.revision)
    except (OSError, ValueError) as error:
        raise _not_loaded(settings, _first_line(error)) from error
    return tokenizer


def prepare_model(model: PreTrainedModel, attention: str = "auto") -> PreTrainedModel:
    """Switch a causal LM to shared-prefix attention and check, on six tokens, that packing leaves it exact.

    Args:
        attention: the setting `model.attention`.

    Returns: the same object, in eval mode. Generation with it is unchanged.
    Errors: `UsageError` for an architecture whose packed forward differs from its own logits; `UsageError` or
    `MachineError` for an attention that cannot be had.
    """
    name = model.config.name_or_path or type(model).__name__
    check_config(model.config, name)
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise _unsupported(name, f"its output layer is {type(head).__name__}, not a plain linear `lm_head`")
    if not use_attention(model, attention):
        raise _unsupported(name, "its attention cannot be exchanged through transformers' AttentionInterface")
    model.eval()
    _check_exact(model, name)
    return model


def check_config(config: PretrainedConfig, name: str) -> None:
    """Refuse what is known from the configuration alone, before any weight is loaded.

    Errors: `UsageError` naming the reason.
    """
    if config.is_encoder_decoder:
        raise _unsupported(name, "it is an encoder-decoder; prompts and answers must be one sequence")
    text = config.get_text_config()
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        if getattr(text, key, None):
            raise _unsupported(name, f"it caps its logits ({key} = {getattr(text, key)})")
    for key in ("logit_scale", "logits_scaling"):
        if getattr(text, key, None) not in (None, 1, 1.0):
            raise _unsupported(name, f"it scales its logits ({key} = {getattr(text, key)})")
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type")
    if rope in ("dynamic", "longrope"):
        raise _unsupported(name, f"its positions depend on the longest text of a batch (rope_type {rope!r})")
    kinds = set(getattr(text, "layer_types", None) or [])
    if strange := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise _unsupported(name, f"it has layers that are neither full nor sliding attention ({', '.join(strange)})")
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    slides = "sliding_attention" in kinds or (window and not kinds)
    if slides and text.model_type not in WINDOWED:
        raise _unsupported(
            name, f"its sliding window ({window}) may not reach the attention; it does in {', '.join(sorted(WINDOWED))}"
        )


def model_hash(model: PreTrainedModel) -> str:
    """BLAKE2b over name, dtype, shape and every byte of every parameter, 32 hexadecimal digits.

    Adapters are left out: it is the same with and without them, and however far they are trained. Of quantised
    parameters it covers the packed bytes and all that unpacking needs. Tied parameters count once. Equal on every
    device that holds the same bytes and on any number of processes, which all must ask together; costs one pass over
    the weights and a copy of the largest.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(base_parameters(model), key=lambda item: item[0]):
        state = getattr(parameter, "quant_state", None)
        parts = {"": parameter, **(state.as_dict(packed=True) if state is not None else {})}
        for part, tensor in sorted(parts.items()):
            digest.update(f"{name}{part and '.' + part} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(whole(tensor.detach()).cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    note: Mapping[str, Any] | None = None,
    world: World = ALONE,
) -> None:
    """Write an ordinary Hugging Face checkpoint (safetensors, tokenizer, generation settings), replacing `folder`.

    Of a model with adapters that is a peft checkpoint: the adapters, and which model they belong to.

    It is written beside, synced and renamed, so `folder` is the old or the new model, or for an instant absent, never
    half of one.

    Args:
        note: written as JSON to the file ``COMPLETE`` in the folder.
        world: the processes that have it in shards and call this together; the first gathers and writes it.

    Errors: `MachineError` where it cannot be written; the old one is intact then.
    """
    weights = _gathered(model, world)
    together(lambda: None if world.rank else _replace(model, weights, tokenizer, Path(folder), note), world)


def _gathered(model: PreTrainedModel, world: World) -> dict[str, torch.Tensor] | None:
    """What is to be written, on the host of the first process: the adapters, or all weights that are in shards.

    None for a model that can be written as it is.
    """
    if not is_adapted(model) and world.size == 1:
        return None
    weights = {}
    for name, tensor in (adapter_tensors(model) if is_adapted(model) else dict(model.named_parameters())).items():
        value = whole(tensor.detach())
        if world.rank == 0:
            weights[name] = value.cpu().contiguous()
    return weights


def _replace(
    model: PreTrainedModel,
    weights: dict[str, torch.Tensor] | None,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    note: Mapping[str, Any] | None,
) -> None:
    beside, old = folder.with_name(f"{folder.name}.partial"), folder.with_name(f"{folder.name}.old")
    if old.exists() and not folder.exists():
        os.rename(old, folder)
    try:
        for left_over in (beside, old):
            shutil.rmtree(left_over, ignore_errors=True)
        beside.mkdir(parents=True)
        if is_adapted(model):
            save_adapter(model, weights or {}, beside)
        else:
            model.save_pretrained(beside, state_dict=weights)
        tokenizer.save_pretrained(beside)
        (beside / COMPLETE).write_text(json.dumps(dict(note or {})), encoding="utf-8")
        sync_tree(beside)
        if folder.exists():
            os.rename(folder, old)
        os.rename(beside, folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        shutil.rmtree(beside, ignore_errors=True)
        raise MachineError(
            f"cannot write the model to {folder}",
            why=str(error),
            do="free some disk space; the model before it is intact",
        ) from error


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MachineError(
            f"device {name!r} is not available", why=str(error).splitlines()[0], do="set model.device=cpu"
        ) from error
    return device


def _check_folder(settings: ModelSettings) -> None:
    folder = Path(settings.name)
    if folder.is_dir() and not (folder / "config.json").exists():
        raise _not_loaded(settings, "the folder holds no config.json")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _not_loaded(settings: ModelSettings, reason: str) -> MachineError:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "ON", "YES"}:
        hint = "HF_HUB_OFFLINE is set: unset it, or set model.name to a folder that holds the model"
    else:
        hint = (
            "check the name; without a network set model.name to a folder with config.json, model.safetensors and "
            "tokenizer.json; a gated model needs `hf auth login`"
        )
    return MachineError(f"cannot load the model {settings.name!r}", why=reason, do=hint)


def _unsupported(name: str, why: str) -> UsageError:
    return UsageError(
        f"model {name!r} is not supported",
        why=why,
        do="take a decoder-only model with a plain head: Llama, SmolLM2, Mistral, Qwen2.5-Coder, Qwen3",
    )


@forward_pass
def _packed_logits(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    logits: torch.Tensor = model.get_output_embeddings()(packed_hidden(model, batch)[batch.rows])
    return logits


def _check_exact(model: PreTrainedModel, name: str) -> None:
    """Compare the packed forward of a prompt with two answers to the model's own logits on the two separate texts."""
    prompt: Tokens = [1, 2, 3]
    answers: list[Tokens] = [[4, 5], [6]]
    batch = pack_sequences([SharedPrompt(prompt=prompt, answers=answers)]).to(model.device)
    with torch.no_grad():
        try:
            ours = _packed_logits(model, batch)
        except (TypeError, AttributeError) as error:
            raise _unsupported(name, f"its forward does not take packed sequences: {error}") from error
        separate = [
            model(input_ids=torch.tensor([[*prompt, *answer]], device=model.device), use_cache=False).logits[0]
            for answer in answers
        ]
    reshard(model)
    theirs = torch.cat(
        [
            logits[len(prompt) - 1 : len(prompt) + len(answer) - 1]
            for logits, answer in zip(separate, answers, strict=True)
        ]
    )
    scale = theirs.float().abs().max().clamp(min=1.0)
    change = float((ours.float() - theirs.float()).abs().max() / scale)
    tolerance = 0.05 if model.dtype == torch.bfloat16 else 1e-3
    if not change <= tolerance:
        raise _unsupported(name, f"packed sequences change its logits by {change:.2g} of their largest")
