"""What a model must be like to be trained on packed sequences, and the trial that it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from transformers import PretrainedConfig, PreTrainedModel

from ap2o_fast.errors import UsageError
from ap2o_fast.training.attention.packed import use_attention
from ap2o_fast.training.models.forward import packed_hidden
from ap2o_fast.training.models.layerwise import largest_change
from ap2o_fast.training.packing.batch import PackedBatch
from ap2o_fast.training.packing.sequences import SharedPrompt, Tokens, pack_sequences
from ap2o_fast.training.parallel.sharding import forward_pass, reshard

# Architectures whose layers hand their window to the attention, each held to it by a test. One that keeps it in the
# mask alone would see too far, on texts longer than any that could be tried when it is loaded.
WINDOWED = frozenset({"mistral", "qwen2", "qwen3"})


def prepare_model(model: PreTrainedModel, attention: str = "auto") -> PreTrainedModel:
    """Switch a causal LM to shared-prefix attention and check, on seven tokens, that packing leaves it exact.

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
        raise unsupported(name, f"its output layer is {type(head).__name__}, not a plain linear `lm_head`")
    if not use_attention(model, attention):
        raise unsupported(name, "its attention cannot be exchanged through transformers' AttentionInterface")
    model.eval()
    _check_exact(model, name)
    return model


def check_config(config: PretrainedConfig, name: str) -> None:
    """Refuse what is known from the configuration alone, before any weight is loaded.

    Errors: `UsageError` naming the reason.
    """
    if config.is_encoder_decoder:
        raise unsupported(name, "it is an encoder-decoder; prompts and answers must be one sequence")
    text = config.get_text_config()
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        if getattr(text, key, None):
            raise unsupported(name, f"it caps its logits ({key} = {getattr(text, key)})")
    for key in ("logit_scale", "logits_scaling"):
        if getattr(text, key, None) not in (None, 1, 1.0):
            raise unsupported(name, f"it scales its logits ({key} = {getattr(text, key)})")
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type")
    if rope in ("dynamic", "longrope"):
        raise unsupported(name, f"its positions depend on the longest text of a batch (rope_type {rope!r})")
    kinds = set(getattr(text, "layer_types", None) or [])
    if strange := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise unsupported(name, f"it has layers that are neither full nor sliding attention ({', '.join(strange)})")
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    slides = "sliding_attention" in kinds or (window and not kinds)
    if slides and text.model_type not in WINDOWED:
        raise unsupported(
            name, f"its sliding window ({window}) may not reach the attention; it does in {', '.join(sorted(WINDOWED))}"
        )


def unsupported(name: str, why: str) -> UsageError:
    """The error that says why, and which models are."""
    return UsageError(
        f"model {name!r} is not supported",
        why=why,
        do="take a decoder-only model with a plain head: Llama, SmolLM2, Mistral, Qwen2.5-Coder, Qwen3",
    )


@forward_pass
def _packed_logits(model: PreTrainedModel, batch: PackedBatch) -> torch.Tensor:
    logits: torch.Tensor = model.get_output_embeddings()(packed_hidden(model, batch)[batch.rows])
    return logits


_PROMPT: Tokens = [1, 2, 3]
_ANSWERS: list[Tokens] = [[4, 5], [6, 7]]
# Of logits: of their largest. Half precision is rounded at every layer.
_TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.05}
_LAYER_TOLERANCE = 0.05


def _check_exact(model: PreTrainedModel, name: str) -> None:
    """Compare the packed forward of a prompt with two answers to the model's own logits on the two separate texts.

    Where logits of a half-precision model differ by more than that allows, its layers are compared one by one.
    """
    batch = pack_sequences([SharedPrompt(prompt=_PROMPT, answers=_ANSWERS)]).to(model.device)
    with torch.no_grad():
        try:
            ours = _packed_logits(model, batch)
        except (TypeError, AttributeError) as error:
            raise unsupported(name, f"its forward does not take packed sequences: {error}") from error
        rows = [_logits(model, answer)[len(_PROMPT) - 1 : -1] for answer in _ANSWERS]
        change = _difference(ours, torch.cat(rows))
        if change <= _TOLERANCE.get(model.dtype, 1e-3):
            reshard(model)
            return
        why = f"packed sequences change its logits by {change:.2g} of their largest"
        if model.dtype in _TOLERANCE:
            change = max(_layers_change(model, batch), _head_change(model))
            why = f"packed sequences change what a layer adds to its input by {change:.2g} of that"
        reshard(model)
    if model.dtype not in _TOLERANCE or not change <= _LAYER_TOLERANCE:
        raise unsupported(name, why)


def _layers_change(model: PreTrainedModel, batch: PackedBatch) -> float:
    """As `largest_change`; infinite where the decoder has no list of layers."""
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        return math.inf
    passes: list[tuple[list[int], Callable[[], object]]] = []
    prompt, first = list(range(len(_PROMPT))), len(_PROMPT)
    for answer in _ANSWERS:
        passes.append(([*prompt, *range(first, first + len(answer))], partial(_logits, model, answer)))
        first += len(answer)
    passes.append((list(range(first)), partial(_packed_logits, model, batch)))
    return largest_change(layers, passes)


def _head_change(model: PreTrainedModel) -> float:
    """Of the logits, as a share of their largest, by taking the head alone: a model may do more to them than that."""
    return _difference(_head_logits(model, _ANSWERS[0]), _logits(model, _ANSWERS[0]))


@forward_pass
def _head_logits(model: PreTrainedModel, answer: Tokens) -> torch.Tensor:
    hidden = model.get_decoder()(input_ids=_text(model, answer), use_cache=False).last_hidden_state[0]
    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    return logits


def _logits(model: PreTrainedModel, answer: Tokens) -> torch.Tensor:
    """(L, V) of the prompt with an answer, as the model itself makes them."""
    logits: torch.Tensor = model(input_ids=_text(model, answer), use_cache=False).logits[0]
    return logits


def _text(model: PreTrainedModel, answer: Tokens) -> torch.Tensor:
    return torch.tensor([[*_PROMPT, *answer]], device=model.device)


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    scale = theirs.float().abs().max().clamp(min=1.0)
    return float((ours.float() - theirs.float()).abs().max() / scale)
