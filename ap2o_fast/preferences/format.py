"""A row of preference data as token ids, exactly as TRL's DPOTrainer (1.16) makes them.

A row has ``chosen`` and ``rejected``, and ``prompt`` where it is not what both begin with: texts, or conversations as
lists of messages. Texts get the end token, conversations the chat template. An answer begins where the tokens of prompt
and answer part from those of the prompt alone, which need not be the prompt's end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from ap2o_fast.errors import DataError, UsageError

Text = str | list[dict[str, Any]]
KEYS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class TokenPair:
    """A prompt with two answers: (S,), (L,) and (K,) int32 token ids, and the texts they were made of."""

    prompt: npt.NDArray[np.int32]
    chosen: npt.NDArray[np.int32]
    rejected: npt.NDArray[np.int32]
    texts: tuple[str, str, str]


def tokenize(row: Mapping[str, Any], tokenizer: Any, place: str) -> TokenPair:
    """Tokenise one row.

    Args:
        tokenizer: a Hugging Face tokenizer.
        place: where the row stands, for errors.

    Errors: `DataError` naming the place for a row that is no preference pair; `UsageError` where the tokenizer has no
    end token, or no chat template for conversations.
    """
    parts = _parts(row, place)
    if isinstance(parts["chosen"], str):
        ids = _of_texts(parts, tokenizer)
    else:
        ids = _of_conversations(parts, row, tokenizer, place)
    prompt, chosen, rejected = ids
    start = min(_common(prompt, chosen), _common(prompt, rejected))
    return TokenPair(
        prompt=np.array(prompt[:start], dtype=np.int32),
        chosen=np.array(chosen[start:], dtype=np.int32),
        rejected=np.array(rejected[start:], dtype=np.int32),
        texts=(_shown(parts["prompt"]), _shown(parts["chosen"]), _shown(parts["rejected"])),
    )


def _parts(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Prompt, chosen and rejected of one kind, the prompt taken from what the answers share where it is implicit."""
    parts = {key: row[key] for key in KEYS if row.get(key) is not None}
    missing = [key for key in KEYS[1:] if key not in parts]
    if missing:
        raise DataError(
            f"{place}: no preference pair, {' and '.join(missing)} is missing",
            why=f"it has {', '.join(sorted(row)) or 'nothing'}",
            do="a row has `chosen` and `rejected`, and a `prompt` unless both begin with it",
        )
    for key, part in parts.items():
        if not isinstance(part, str) and not _is_conversation(part):
            raise DataError(
                f"{place}: {key} is neither a text nor a conversation",
                why=f"it is {json.dumps(part, default=str)[:80]}",
                do='write a text, or messages such as [{"role": "user", "content": "…"}]',
            )
    kinds = {key: isinstance(part, str) for key, part in parts.items()}
    if kinds["chosen"] != kinds["rejected"] or kinds.get("prompt", kinds["chosen"]) < kinds["chosen"]:
        raise DataError(
            f"{place}: texts and conversations are mixed", do="write all parts of a row as texts, or all as messages"
        )
    # A text beside conversations is a title for people: the conversations hold the prompt.
    if kinds.get("prompt") != kinds["chosen"]:
        return _split(parts["chosen"], parts["rejected"], place)
    return parts


def _split(chosen: Any, rejected: Any, place: str) -> dict[str, Any]:
    """The longest common beginning as the prompt, a space before the difference left to the answers."""
    shorter = min(len(chosen), len(rejected))
    if not shorter or chosen[0] != rejected[0]:
        raise DataError(f"{place}: there is no prompt, and its answers begin differently", do="give it a `prompt`")
    at = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter - 1)
    if at < shorter and chosen[at] != rejected[at] and chosen[at - 1] == " ":
        at -= 1
    return {"prompt": chosen[:at], "chosen": chosen[at:], "rejected": rejected[at:]}


def _of_texts(parts: Mapping[str, str], tokenizer: Any) -> list[list[int]]:
    end = tokenizer.eos_token
    if end is None:
        raise UsageError(
            "the tokenizer has no end token, which every answer must end with",
            do="set eos_token in the model's tokenizer_config.json",
        )
    answers = [parts[key] if parts[key].endswith(end) else parts[key] + end for key in KEYS[1:]]
    texts = [parts["prompt"], *(parts["prompt"] + answer for answer in answers)]
    return [list(tokenizer(text=text)["input_ids"]) for text in texts]


def _of_conversations(
    parts: Mapping[str, list[dict[str, Any]]], row: Mapping[str, Any], tokenizer: Any, place: str
) -> list[list[int]]:
    if not tokenizer.chat_template:
        raise UsageError(
            "the pairs are conversations, and the tokenizer has no chat template",
            do="take an instruct model, or write prompt, chosen and rejected as texts",
        )
    options = dict(row.get("chat_template_kwargs") or {})
    prompt, tools = parts["prompt"], row.get("tools")

    def render(messages: list[dict[str, Any]], **more: Any) -> list[int]:
        rendered = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **more, **options)
        return list(rendered["input_ids"])

    try:
        options = {"tools": json.loads(tools) if isinstance(tools, str) else tools, **options}
        whole = (render(prompt + parts["chosen"]), render(prompt + parts["rejected"]))
        return [render(prompt, add_generation_prompt=True), *whole]
    except (TemplateError, TypeError, ValueError) as error:
        raise DataError(
            f"{place}: the chat template refuses this conversation",
            why=str(error),
            do="mend or leave out the row; templates differ in the roles they take",
        ) from error


def _is_conversation(part: Any) -> bool:
    return (
        bool(part)
        and isinstance(part, list)
        and all(isinstance(message, dict) and "role" in message for message in part)
    )


def _common(ids: list[int], others: list[int]) -> int:
    """How many tokens two sequences begin with in common."""
    pairs = zip(ids, others, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(others)))


def _shown(part: Text) -> str:
    """A part as text for people to read."""
    if isinstance(part, str):
        return part
    return "\n".join(f"{message['role']}: {message.get('content') or ''}" for message in part)
