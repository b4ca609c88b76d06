"""An exported model on the Hugging Face Hub, when somebody asks for it and never otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from ap2o_fast.config import ModelSettings
from ap2o_fast.errors import MachineError, UsageError

OURS = ("COMPLETE",)
"""Files of a checkpoint that only a run needs."""


def check_push(name: str) -> None:
    """Errors: `UsageError` for no name of a repository, or HF_HUB_OFFLINE; `MachineError` without a token."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UsageError(f"--push {name} is no name of a repository", do="write ORG/NAME, e.g. --push me/my-model")
    if constants.HF_HUB_OFFLINE:
        raise UsageError(
            "--push needs the Hub, and HF_HUB_OFFLINE forbids it",
            do="unset HF_HUB_OFFLINE, or export without --push",
        )
    if not get_token():
        raise MachineError("--push needs a token of the Hub", do="`hf auth login`, or set HF_TOKEN")


def fetch_card(model: ModelSettings) -> None:
    """Have the base model's own card in the cache, from which its licence is read; do nothing where it has none."""
    if Path(model.name).exists():
        return
    try:
        hf_hub_download(model.name, "README.md", revision=model.revision)
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError):
        return  # then our card says no licence, and that the base model's holds


def listed(folder: Path) -> dict[str, int]:
    """What would be uploaded: path within the folder to bytes, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return {name: size for name, size in named.items() if name not in OURS}


def push(folder: Path, name: str, *, private: bool, tell: Callable[[str], None]) -> str:
    """Upload an exported model with its card, in one commit; makes the repository where there is none.

    Args:
        name: ``ORG/NAME``.
        private: nobody else may see it. Without it a new repository is what the organisation makes by default.
        tell: is given a line for what is about to be uploaded, before it is.

    Returns: the commit's address.
    Errors: `UsageError` where `private` is asked for and the repository is public; `MachineError` where the Hub refuses
    or cannot be reached.
    """
    files = listed(folder)
    tell(f"uploads {len(files)} files, {sum(files.values()) / 1e6:.1f} MB, to {constants.ENDPOINT}/{name}:")
    for path, size in files.items():
        tell(f"  {path}  {size / 1e6:.1f} MB")
    api = HfApi()
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.repo_info(name).private:
            raise UsageError(
                f"{name} exists and is public, --private cannot hide it",
                do="make it private on the Hub, or choose another name",
            )
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="Model trained with ap2o_fast",
            ignore_patterns=list(OURS),
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise MachineError(
            f"the upload to {name} failed",
            why=str(error).strip().splitlines()[0],
            do=f"the model is whole in {folder}: mend the cause, then `hf upload {name} {folder}`",
        ) from error
    return str(done.commit_url)
