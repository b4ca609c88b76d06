"""Python of the documentation that is run, and what pages quote from the code."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from ap2o_fast.sampling import Answer, Request
from tests.docs.blocks import ROOT, blocks

RUN = ("README.md", "docs/extending.md", "docs/trl.md")
"""Pages whose Python runs as it stands, but for the model's name, from top to bottom. The others' is checked for names
(test_doc_commands), and that of book-format.md runs in tests/book/test_book_format.py."""
HUB_NAME = "Qwen/Qwen2.5-Coder-0.5B-Instruct"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("examples") / "model")


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_examples_run(page: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n}", "chosen": "def f(x):\n    return x + 1", "rejected": "1"} for n in range(4)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    names: dict[str, Any] = {}
    found = [block for block in blocks() if block.page == ROOT / page and block.language == "python"]
    assert found
    for block in found:
        exec(compile(block.text.replace(HUB_NAME, str(model)), block.name, "exec"), names)
    CHECKS.get(page, lambda names: None)(names)


def extended(names: dict[str, Any]) -> None:
    """The sampler leaves out what is done, the system takes the rarest type, the model is one that can be trained."""
    answers = [
        Answer(
            task_id="a",
            sample=number,
            seed=number,
            token_ids=np.array([number], np.int32),
            logprobs=np.zeros(1, np.float32),
            text=str(number),
            finish="eos",
        )
        for number in range(3)
    ]
    request = Request(task_id="a", prompt_ids=np.array([1], np.int32), seeds=(0, 1, 2))
    sample = names["Recorded"](answers).sample
    (group,) = sample([request], temperature=1.0, top_p=1.0, max_new_tokens=4, done={("a", 1)})
    assert [answer.sample for answer in group] == [0, 2]
    assert names["plan"].rejected.tolist() == [4] and names["plan"].error.tolist() == [9]
    assert not names["model"].training


CHECKS = {"docs/extending.md": extended}


def said() -> str:
    """All texts of the code, those in one expression joined; a space stands for what is put in."""
    parts = []
    for path in [*(ROOT / "ap2o_fast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts.append("".join(v.value if isinstance(v, ast.Constant) else " " for v in node.values))
    return "\n".join(parts)


def test_the_symptoms_quote_the_code() -> None:
    """What stands in bold code, and in code that is a sentence."""
    text = (ROOT / "docs" / "symptoms.md").read_text(encoding="utf-8")
    quoted = {
        quote for quote in re.findall(r"`([^`\n]+)`", text) if re.fullmatch(r"[a-zA-Z ,'.]+", quote) and " " in quote
    }
    quoted = {quote for quote in quoted if not quote.startswith(("ap2o ", "make "))}
    assert len(quoted) >= 18
    code = said()
    assert [quote for quote in sorted(quoted) if quote not in code] == []


def test_settings_that_pages_name_exist() -> None:
    from ap2o_fast import config

    keys = set(config.keys()) | {key.rpartition(".")[0] for key in config.keys()}
    groups = "|".join(sorted({key.split(".")[0] for key in config.keys() if "." in key}))
    ending = re.compile(r"\.(py|md|toml|json|jsonl|html|csv|j2|gz|safetensors|log|h\d)$")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        code = " ".join(re.findall(r"`([^`\n]+)`", text))
        named = set(re.findall(rf"(?<![\w/.(-])((?:{groups})(?:\.\w+)+)(?![\w(/])", code))
        assert {key for key in named if not ending.search(key)} - keys == set(), page.name
