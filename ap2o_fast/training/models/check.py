"""What a model must be like to be trained on packed sequences, and the trial that it is."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from ap2o_fast.errors import UsageError
from ap2o_fast.training.attention.packed import use_attention
from ap2o_fast.training.models.forward import packed_hidden
from ap2o_fast.training.packing.batch import PackedBatch
from ap2o_fast.training.packing.sequences import SharedPrompt, Tokens, pack_sequences
from ap2o_fast.training.parallel.sharding import forward_pass, reshard

# Architectures whose layers hand their window to the attention, each held to it by a test. One that keeps it in the
# mask alone would see too far, on texts longer than any that could be tried when it is loaded.
WINDOWED = frozenset({"mistral", "qwen2", "qwen3"})


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


def _check_exact(model: PreTrainedModel, name: str) -> None:
    """Compare the packed forward of a prompt with two answers to the model's own logits on the two separate texts."""
    prompt: Tokens = [1, 2, 3]
    answers: list[Tokens] = [[4, 5], [6]]
    batch = pack_sequences([SharedPrompt(prompt=prompt, answers=answers)]).to(model.device)
    with torch.no_grad():
        try:
            ours = _packed_logits(model, batch)
        except (TypeError, AttributeError) as error:
            raise unsupported(name, f"its forward does not take packed sequences: {error}") from error
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
        raise unsupported(name, f"packed sequences change its logits by {change:.2g} of their largest")
