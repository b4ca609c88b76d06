"""What goes to the Hub, when, and what is refused: against a stand-in with the real client's signatures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, create_autospec

import httpx
import pytest
import tiny
from huggingface_hub import HfApi, ModelCard, constants

from ap2o_fast import config, publishing
from ap2o_fast.cli import main
from ap2o_fast.pipeline import Pipeline
from ap2o_fast.run_folder import RunFolder

NAME = "somebody/something"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has trained, for two epochs."""
    world = tiny.make_world(tmp_path_factory.mktemp("world"))
    head = "---\nlicense: other\nlicense_name: tiny-licence\nlicense_link: LICENSE\n---\n# Tiny\n"
    (world.model / "README.md").write_text(head)
    made = RunFolder.create(config.load(world.settings, ["train.epochs=1", f"run_dir={world.folder / 'run'}"]))
    with Pipeline(made, quiet=True) as pipeline:
        pipeline.run()
    return made.path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Hub that takes everything; nothing reaches the real one."""
    api: Any = create_autospec(HfApi, instance=True)
    api.repo_info.return_value = SimpleNamespace(private=True)
    api.upload_folder.return_value = SimpleNamespace(commit_url=f"https://hub.invalid/{NAME}/commit/1")
    monkeypatch.setattr(publishing, "HfApi", Mock(return_value=api))
    monkeypatch.setattr(publishing, "get_token", lambda: "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return api


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    code = stopped.value.code
    return (code if isinstance(code, int) else 0), printed.out, printed.err


def test_nothing_is_uploaded_unless_asked(
    run: Path, hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "export", run, "--out", tmp_path / "out")[0] == 0
    assert hub.mock_calls == [] and publishing.HfApi.mock_calls == []  # type: ignore[attr-defined]


def test_all_but_what_is_ours_goes_up_and_is_told_before(
    run: Path, hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, says, _ = call(capsys, "export", run, "--out", tmp_path / "out", "--push", NAME, "--private")
    assert code == 0
    hub.create_repo.assert_called_once_with(NAME, private=True, exist_ok=True)
    (sent,) = hub.upload_folder.call_args_list
    assert (sent.kwargs["repo_id"], sent.kwargs["folder_path"]) == (NAME, tmp_path / "out")
    assert sent.kwargs["ignore_patterns"] == ["COMPLETE"]
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "model.safetensors", "tokenizer.json", "COMPLETE"} <= there
    told = says[: says.index("uploaded: https://hub.invalid")]
    assert f"uploads {len(there) - 1} files" in told and "hf_secret" not in says
    assert all(f"  {name}  " in told for name in there - {"COMPLETE"}) and "COMPLETE" not in told


def test_the_hub_reads_the_card(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "export", run, "--out", tmp_path / "out")[0] == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert (card.data.license, card.data.license_name) == ("other", "tiny-licence") and "tiny-licence" in card.text
    assert card.data.base_model is None, "the base model is a folder of this machine"
    results = RunFolder.open(run).read_json("evaluation.json")["after"]
    by_name = {result.metric_type: result for result in card.data.eval_results or ()}
    assert set(by_name) == {"pass@1", "pass@5", "pass@10"}
    for k, rate in results["pass_at_k"].items():
        found = by_name[f"pass@{k}"]
        assert found.metric_value == pytest.approx(rate["value"], abs=1e-4)
        assert found.metric_args["interval_95"] == pytest.approx([rate["low"], rate["high"]], abs=1e-4)
        assert found.metric_args["problems"] == results["problems"] and found.dataset_name == "test"
    assert str(run.parent) not in str(card)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--push", "no-organisation"], "write ORG/NAME"),
        (["--push", "a/b/c"], "write ORG/NAME"),
        (["--private"], "is for --push"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    run: Path, hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    code, _, err = call(capsys, "export", run, "--out", tmp_path / "out", *arguments)
    assert code == 2 and says in err
    assert not (tmp_path / "out").exists() and hub.mock_calls == []


def test_offline_is_offline(
    run: Path, hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, _, err = call(capsys, "export", run, "--out", tmp_path / "out", "--push", NAME)
    assert code == 2 and "HF_HUB_OFFLINE forbids it" in err and not (tmp_path / "out").exists()
    assert hub.mock_calls == []


def test_without_a_token_it_says_how_to_get_one(
    run: Path, hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "get_token", lambda: None)
    code, _, err = call(capsys, "export", run, "--out", tmp_path / "out", "--push", NAME)
    assert code == 4 and "hf auth login" in err and not (tmp_path / "out").exists()


def test_what_is_to_be_private_does_not_go_into_a_public_repository(
    run: Path, hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repo_info.return_value = SimpleNamespace(private=False)
    code, _, err = call(capsys, "export", run, "--out", tmp_path / "out", "--push", NAME, "--private")
    assert code == 2 and "is public" in err
    hub.upload_folder.assert_not_called()


def test_a_failed_upload_leaves_the_export_and_says_how_to_go_on(
    run: Path, hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.upload_folder.side_effect = httpx.ConnectError("no route to host")
    code, _, err = call(capsys, "export", run, "--out", tmp_path / "out", "--push", NAME)
    assert code == 4 and "no route to host" in err and f"hf upload {NAME} {tmp_path / 'out'}" in err
    assert (tmp_path / "out" / "model.safetensors").exists()
