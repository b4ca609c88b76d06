"""Preference data for tests: a byte-level tokenizer that merges, a tiny model, pairs that can be learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.training.support import plain_model

WORDS = ["red", "blue", "green", "grey", "pink", "gold"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges, so that tokens may reach over the border of prompt and answer."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    text = [f"The colour of {a} and {b} is{c}" for a in WORDS for b in WORDS for c in ("", " ", ": ", " not")]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(text, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(folder: Path) -> Path:
    """A Hugging Face folder with a tiny random model and the tokenizer."""
    plain_model("qwen3").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_rows(count: int) -> list[dict[str, Any]]:
    """Pairs over half as many prompts: the better colour is the shorter word."""
    rows = []
    for i in range(count):
        prompt = f"The colour of {WORDS[i // 2 % 6]} and {WORDS[i // 12 % 6]} is"
        rows.append({"prompt": prompt, "chosen": f" {WORDS[i % 3]}", "rejected": f" {WORDS[3 + i % 2]} {WORDS[i % 5]}"})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_settings(folder: Path, model: Path, pairs: Path) -> Path:
    """Settings of a run of a few seconds: 3 epochs of 6 steps."""
    path = folder / "dpo.toml"
    path.write_text(
        f'run_dir = "{folder / "run"}"\n[model]\nname = "{model}"\nthreads = 1\n'
        f'[preferences]\nsource = "{pairs}"\n[preferences.eval]\nshare = 0.25\n'
        "[train]\nepochs = 3\nlr = 1e-3\nbatch_pairs = 3\ntoken_budget = 256\ncheckpoint_steps = 2\n",
        encoding="utf-8",
    )
    return path
