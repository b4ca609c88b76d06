"""A tiny real world for whole runs: six problems, and a two-layer Llama that has learnt to answer with one of eight
programs at random. Its tokenizer has a token for each program, so that it makes real mistakes within seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PROGRAMS = [
    "def f(x):\n    return x + 1",
    "def f(x):\n    return x * 2",
    "def f(x):\n    return -x",
    "def f(x):\n    return abs(x)",
    "def f(x):\n    return y",
    "def f(x):\n    return x[0]",
    "def f(x):\n    return 1 // 0",
    "def f(x)\n    return x",
]
TASKS = {
    "plus": ("one more than x", ["f(1) == 2", "f(-1) == 0", "f(9) == 10"]),
    "twice": ("twice x", ["f(1) == 2", "f(-4) == -8", "f(0) == 0"]),
    "minus": ("minus x", ["f(1) == -1", "f(-4) == 4", "f(0) == 0"]),
    "size": ("x without its sign", ["f(1) == 1", "f(-4) == 4", "f(0) == 0"]),
    "next": ("the number after x", ["f(3) == 4", "f(-2) == -1"]),
    "double": ("two times x", ["f(3) == 6", "f(-2) == -4"]),
    "negative": ("x with the other sign", ["f(3) == -3", "f(-2) == 2"]),
}
SETS = {"train": ["plus", "twice", "minus", "size"], "quiz": ["next", "double"], "test": ["negative"]}


@dataclass(frozen=True, kw_only=True)
class World:
    """Where the tiny model, its problems and its settings lie."""

    folder: Path
    model: Path
    settings: Path


def make_world(folder: Path) -> World:
    """Write model, problems and settings into a folder."""
    model = write_model(folder / "model")
    return World(folder=folder, model=model, settings=write_settings(folder, model, write_problems(folder)))


def write_problems(folder: Path) -> dict[str, Path]:
    """One JSONL a set."""
    files = {}
    for name, tasks in SETS.items():
        files[name] = folder / f"{name}.jsonl"
        lines = [
            {
                "task_id": f"tiny/{task}",
                "prompt": f'def f(x):\n    """Return {TASKS[task][0]}."""\n',
                "entry_point": "f",
                "test": "def check(f):\n" + "".join(f"    assert {line}\n" for line in TASKS[task][1]),
            }
            for task in tasks
        ]
        files[name].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return files


def write_model(folder: Path, **changes: int) -> Path:
    """A Hugging Face folder; about two seconds of training on one core. `changes` are to its configuration."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(PROGRAMS)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=True,
        **changes,
    )
    model = LlamaForCausalLM(config)
    answers = torch.tensor([tokenizer.convert_tokens_to_ids(program) for program in PROGRAMS])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    chance = torch.Generator().manual_seed(0)
    text = torch.tensor(tokenizer("".join(PROGRAMS) + str(TASKS))["input_ids"])
    text = text[text < len(tokenizer) - len(PROGRAMS)]
    for _ in range(80):
        length = int(torch.randint(8, 260, (), generator=chance))
        prompts = text[torch.randint(len(text), (12, length), generator=chance)]
        picked = answers[torch.randint(len(answers), (12, 1), generator=chance)]
        ids = torch.cat([prompts, picked, torch.ones_like(picked)], dim=1)
        labels = ids.clone()
        labels[:, :length] = -100
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "NOTICE").write_text("weights made up for a test\n", encoding="utf-8")
    return folder


def write_settings(folder: Path, model: Path, files: dict[str, Path]) -> Path:
    """A settings file for a run of a few seconds."""
    path = folder / "tiny.toml"
    sources = "".join(f'[problems.{name}]\nsource = "{file}"\n' for name, file in files.items())
    path.write_text(
        f'run_dir = "{folder / "run"}"\n[model]\nname = "{model}"\nthreads = 1\n{sources}'
        "[sampling]\nn = 24\nmax_new_tokens = 4\nbatch_answers = 16\n"
        "[train]\nepochs = 3\nlr = 1e-3\nbatch_pairs = 4\ntoken_budget = 1024\n"
        "[quiz]\nn = 8\ntemperature = 1.0\n[evaluate]\nn = 16\ntemperature = 1.0\n"
        "[curriculum]\nmin_passed = 1\nmin_failed = 2\n",
        encoding="utf-8",
    )
    return path


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, and begin and end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<s>": 0, "</s>": 1} | {letter: 2 + i for i, letter in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")
