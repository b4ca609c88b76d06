"""Rows as tokens: those of TRL's DPOTrainer, for every format it takes, with a tokenizer that merges over borders."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from ap2o_fast.errors import DataError, UsageError
from ap2o_fast.preferences.format import tokenize
from tests.preferences.data import make_rows, make_tokenizer

USER = {"role": "user", "content": "Which colour?"}
CHATS = [
    {
        "prompt": [USER],
        "chosen": [{"role": "assistant", "content": "red"}],
        "rejected": [{"role": "assistant", "content": "gold"}],
    },
    {
        "prompt": [{"role": "system", "content": "Be brief."}, USER],
        "chosen": [{"role": "assistant", "content": "red and blue"}, USER, {"role": "assistant", "content": "pink"}],
        "rejected": [{"role": "assistant", "content": "red and"}],
    },
]
BORDERS = [
    {"prompt": "The colour of red and blue is ", "chosen": "green", "rejected": "grey"},
    {"prompt": "The colour of red and blue is", "chosen": ": green", "rejected": " grey"},
    {"prompt": "The colour of gold is n", "chosen": "ot red", "rejected": "o"},
    {"prompt": "pink ü", "chosen": "", "rejected": "no end</s>"},
]
IMPLICIT = [
    {"chosen": "The colour is red.", "rejected": "The colour is grey."},
    {"chosen": "Is it red? no", "rejected": "Is it red?  no"},
    {"chosen": "red", "rejected": "red and blue"},
]
IMPLICIT_CHATS = [{"chosen": [USER, *row["chosen"]], "rejected": [USER, *row["rejected"]]} for row in CHATS[:1]]
CASES: dict[str, list[dict[str, Any]]] = {
    "texts": make_rows(12),
    "merging borders": BORDERS,
    "conversations": CHATS,
    "implicit texts": IMPLICIT,
    "implicit conversations": IMPLICIT_CHATS,
    "options": [CHATS[0] | {"chat_template_kwargs": {"mood": "!"}}],
}


def by_trl(rows: list[dict[str, Any]], tokenizer: Any) -> list[tuple[list[int], list[int], list[int]]]:
    trl = pytest.importorskip("trl", reason="TRL is the oracle here; it is in the `dev` extra")
    datasets = pytest.importorskip("datasets", reason="TRL's datasets are not installed")
    prepared = trl.DPOTrainer._prepare_dataset(
        SimpleNamespace(_tokenizer=tokenizer),
        datasets.Dataset.from_list(rows),
        tokenizer,
        trl.DPOConfig(output_dir="unused", max_length=None, use_cpu=True, bf16=False),
        "train",
    )
    return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in prepared]


def by_us(rows: list[dict[str, Any]], tokenizer: Any) -> list[tuple[list[int], list[int], list[int]]]:
    found = [tokenize(row, tokenizer, f"row {i}") for i, row in enumerate(rows)]
    return [(pair.prompt.tolist(), pair.chosen.tolist(), pair.rejected.tolist()) for pair in found]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("adds", ["nothing", "<s>", "</s>"])
def test_tokens_are_those_of_trl(name: str, adds: str) -> None:
    """Also where the tokenizer begins every text with a token of its own, or ends it with one."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ mood or '' }}" + tokenizer.chat_template
    if adds != "nothing":
        single = {"<s>": "<s> $A", "</s>": "$A </s>"}[adds]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=single, special_tokens=[(adds, tokenizer.convert_tokens_to_ids(adds))]
        )
    ours = by_us(CASES[name], tokenizer)
    assert ours == by_trl(CASES[name], tokenizer)
    assert all(chosen or rejected for _, chosen, rejected in ours)


def test_an_answer_begins_where_its_tokens_part_from_the_prompts() -> None:
    tokenizer = make_tokenizer()
    ((prompt, _, _),) = by_us(BORDERS[2:3], tokenizer)
    alone = tokenizer(BORDERS[2]["prompt"])["input_ids"]
    assert prompt == alone[: len(prompt)] and len(prompt) < len(alone), "the case must merge over the border"
    (_, chosen, rejected), *_ = by_us(make_rows(1), tokenizer)
    assert tokenizer.decode(chosen) == " red</s>" and rejected[-1] == tokenizer.eos_token_id


def test_a_title_beside_conversations_is_no_prompt() -> None:
    """As in HuggingFaceH4/ultrafeedback_binarized, which TRL's trainer does not take as it is."""
    row = IMPLICIT_CHATS[0]
    tokenizer = make_tokenizer()
    assert by_us([{"prompt": USER["content"], **row}], tokenizer) == by_us([row], tokenizer)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "chosen": "b"}, r"file, line 3: no preference pair, rejected is missing(?s:.*)chosen, prompt"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "rejected is missing"),
        ({"prompt": "a", "chosen": "b", "rejected": 7}, "rejected is neither a text nor a conversation"),
        ({"prompt": "a", "chosen": [], "rejected": "c"}, "chosen is neither"),
        ({"prompt": "a", "chosen": ["b"], "rejected": ["c"]}, "chosen is neither"),
        ({"prompt": [USER], "chosen": "b", "rejected": "c"}, "texts and conversations are mixed"),
        ({"prompt": "a", "chosen": [USER], "rejected": "c"}, "texts and conversations are mixed"),
        ({"chosen": "red", "rejected": "blue"}, "its answers begin differently"),
        ({"prompt": [{"role": "odd", "content": "?"}], **IMPLICIT_CHATS[0]}, "chat template refuses(?s:.*)odd role"),
    ],
)
def test_what_is_no_pair_is_named(row: dict[str, Any], words: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template += "{% if messages[0].role == 'odd' %}{{ raise_exception('odd role') }}{% endif %}"
    with pytest.raises(DataError, match=words) as caught:
        tokenize(row, tokenizer, "file, line 3")
    assert "file, line 3" in str(caught.value)


def test_a_tokenizer_that_lacks_what_the_data_needs() -> None:
    with pytest.raises(UsageError, match="no chat template"):
        tokenize(CHATS[0], make_tokenizer(chat=False), "row 0")
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UsageError, match="no end token"):
        tokenize(make_rows(1)[0], tokenizer, "row 0")
