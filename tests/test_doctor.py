"""The doctor looks at the machine it is on, so these tests compare it with what can be known about that machine."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch

from ap2o_fast.cli import main
from ap2o_fast.doctor import Finding, abilities, checks, findings, kernels
from ap2o_fast.doctor.what_works import largest_that_fits
from ap2o_fast.judge import detect_level
from ap2o_fast.judge.languages import language
from ap2o_fast.sampling import vllm_start
from ap2o_fast.training.memory.form import Form


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings(folder=tmp_path_factory.mktemp("runs"))}


def test_it_tells_what_is_there(found: dict[str, Finding]) -> None:
    assert platform.python_version() in found["Python"].detail
    assert metadata.version("torch").split("+")[0] in found["torch"].detail
    assert found["transformers"].detail == metadata.version("transformers")
    assert "Hub" not in found, "the network is left alone unless asked for"


def test_the_sandbox_is_what_the_judge_detects(found: dict[str, Finding]) -> None:
    level, _ = detect_level()
    assert f"level {level}" in found["sandbox"].detail
    assert found["sandbox"].status == ("ok" if level >= 2 else "fail")


def test_it_tells_which_languages_can_be_judged(found: dict[str, Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    assert found["judge, python"].detail == platform.python_version()
    for name, program in (("javascript", "node"), ("cpp", "g++")):
        if language.find(program):
            said = subprocess.run(
                [language.find(program), "--version"], capture_output=True, text=True, check=True
            ).stdout
            assert found[f"judge, {name}"].detail == said.splitlines()[0]
    monkeypatch.setattr(language, "_FOLDERS", ("/nowhere",))
    absent = {finding.name: finding for finding in checks._languages()}
    assert absent["judge, cpp"].detail == "not judged, optional: there is no g++ and no objdump in /nowhere"
    assert "apt install g++" in absent["judge, cpp"].fix
    assert absent["judge, python"].detail == platform.python_version()


def test_whatever_is_not_well_comes_with_a_fix(found: dict[str, Finding]) -> None:
    assert not [finding for finding in found.values() if finding.status != "ok" and not finding.fix]


def test_optional_packages_are_never_a_failure(found: dict[str, Finding]) -> None:
    for package in checks.OPTIONAL:
        try:
            assert metadata.version(package) in found[package].detail
        except metadata.PackageNotFoundError:
            assert found[package].status == "ok"
            assert "pip install" in found[package].fix


def test_a_package_that_breaks_on_import_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a flash-attn that was compiled for another torch does."""
    (tmp_path / "flash_attn.py").write_text("raise OSError('undefined symbol: _ZN3c10')")
    info = tmp_path / "flash_attn-2.8.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.8.3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    broken = next(finding for finding in findings(folder=tmp_path) if finding.name == "flash-attn")
    assert broken.status == "warn"
    assert "2.8.3" in broken.detail
    assert "undefined symbol" in broken.detail


def test_a_check_that_breaks_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # what Python itself does for a package that cannot load
    found = {finding.name: finding for finding in findings(folder=tmp_path)}
    assert found["transformers"].status == "fail"
    assert "ImportError" in found["transformers"].detail or "ModuleNotFoundError" in found["transformers"].detail
    assert found["disk space"].status == "ok"


def test_what_is_the_reader_s_to_mend_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AP2O_CORES", "all")
    torch = next(finding for finding in findings(folder=tmp_path) if finding.name == "torch")
    assert (torch.status, torch.fix) == ("fail", "set AP2O_CORES to 1 or more, or unset it")


def test_a_sandbox_below_the_least_level_fails_with_the_reasons(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ap2o_fast.judge.detect_level", lambda: (1, ["namespaces: no, user.max_user_namespaces is 0"]))
    sandbox = next(finding for finding in findings(folder=tmp_path) if finding.name == "sandbox")
    assert sandbox.status == "fail"
    assert "max_user_namespaces" in sandbox.fix


def test_torch_with_more_threads_than_cores_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    told = next(finding for finding in findings(folder=tmp_path) if finding.name == "torch")
    assert (told.status, told.fix) == ("warn", "set model.threads=1")


def test_several_gpus_are_told_how_they_work_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert "several GPUs" not in {finding.name for finding in findings(folder=tmp_path)}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    several = next(finding for finding in findings(folder=tmp_path) if finding.name == "several GPUs")
    assert several.status == "warn" and "nccl" in several.detail
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    several = next(finding for finding in findings(folder=tmp_path) if finding.name == "several GPUs")
    assert several.status == "ok" and "torchrun --nproc-per-node 4" in several.fix


def test_it_says_whether_vllm_is_there_and_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_start, "installed", lambda: None)
    (absent,) = checks._vllm()
    assert absent.status == "ok" and "not installed" in absent.detail and "[vllm]" in absent.fix
    monkeypatch.setattr(vllm_start, "installed", lambda: ("vllm", "0.99.0"))
    (untried,) = checks._vllm()
    assert untried.status == "warn" and "0.99.0" in untried.detail and "vllm>=0.32,<0.34" in untried.fix
    monkeypatch.setattr(vllm_start, "installed", lambda: ("vllm", "0.32.0"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", None)
    (broken,) = checks._vllm()
    assert broken.status == "warn" and "cannot be imported" in broken.detail


CHECKS = [
    "_python",
    "_torch",
    "_several",
    "_transformers",
    "_memory",
    "_disk",
    "_sandbox",
    "_languages",
    "_kernels",
    "_optional",
    "_vllm",
    "_hub",
]


@pytest.fixture
def one_check(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Leave one check as it is and have the others find nothing."""

    def leave(name: str) -> None:
        for other in CHECKS:
            if other != name:
                monkeypatch.setattr(checks, other, lambda *_: iter(()))

    return leave


@pytest.mark.parametrize("name", CHECKS)
def test_whatever_a_check_raises_is_a_finding_with_a_fix(
    name: str, one_check: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> NoReturn:
        raise RuntimeError("the disk is on fire")

    one_check(name)
    monkeypatch.setattr(checks, name, breaks)
    (found,) = findings(hub=True)
    assert found.status == "fail" and found.detail == "RuntimeError: the disk is on fire" and found.fix


FAULTS: dict[str, tuple[str, str, object, str]] = {
    "memory": ("_memory", "ap2o_fast.doctor.checks.available_gib", lambda: 1.5, "close other programs"),
    "memory unknown": ("_memory", "ap2o_fast.doctor.checks.available_gib", lambda: None, "/proc"),
    "disk space": ("_disk", "shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20), "make room or set run_dir"),
    "disk speed": (
        "_disk",
        "ap2o_fast.doctor.checks._write_mb_per_second_and_sync_ms",
        lambda _: (3.0, 900.0),
        "set run_dir to a local disk",
    ),
    "Python": ("_python", "ap2o_fast.doctor.checks.PYTHON", ((3, 98), (3, 99)), "use Python 3.10 to 3.13"),
    "system": ("_python", "sys.platform", "darwin", "use Linux"),
    "GPU": ("_torch", "torch.version.cuda", "13.0", "nvidia-smi"),
    "Hub": ("_hub", "huggingface_hub.constants.HF_HUB_OFFLINE", True, "HF_HUB_OFFLINE"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_comes_with_its_fix(
    fault: str, one_check: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check, place, value, fix = FAULTS[fault]
    one_check(check)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(place, value)
    found = {finding.name: finding for finding in findings(folder=tmp_path, hub=True)}
    named = found[fault.removesuffix(" unknown")]
    assert named.status != "ok" and fix in named.fix


def test_a_hub_that_does_not_answer(one_check: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise ConnectionError("no route")

    one_check("_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    (hub,) = findings(hub=True)
    assert hub.status == "warn" and "ConnectionError" in hub.detail and "folders and files" in hub.fix


def test_every_kernel_is_checked_against_the_reference(found: dict[str, Finding]) -> None:
    assert found["kernels, chunked on cpu"].status == "ok"
    if importlib.util.find_spec("triton") is not None and not torch.cuda.is_available():
        assert "float32: error" in found["kernels, triton on cpu"].detail


def test_a_kernel_that_computes_wrong_numbers_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.linear_dpo

    def wrong(hidden: torch.Tensor, weight: torch.Tensor, *rest: Any, impl: str) -> Any:
        return right(hidden, weight * (1.001 if impl == "chunked" else 1.0), *rest, impl=impl)

    monkeypatch.setattr(kernels, "linear_dpo", wrong)
    told = kernels._told("chunked", "cpu", kernels.check("chunked", "cpu", torch.float32))
    assert told.status == "fail" and "wrong numbers" in told.detail and "loss.impl=reference" in told.fix


@pytest.mark.parametrize("how", ["fails", "has not ended"])
def test_an_interpreter_that_does_not_work_is_told(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "fails":
        monkeypatch.setattr("sys.executable", shutil.which("false"))
    else:
        monkeypatch.setattr(kernels, "DEADLINE", 0.01)
    told = kernels._interpreted()
    assert told.status == "warn" and f"interpreter {how}" in told.detail
    assert "chunked" in told.fix


def test_what_fits_grows_with_the_memory() -> None:
    assert largest_that_fits(Form(), 1.0, True)[0] == ""
    small, large = (largest_that_fits(Form(rank=16), gib, True) for gib in (12.0, 80.0))
    assert small[0] == "0.5B" and small[1] <= 12
    assert large[0] in ("7B", "14B") and 12 < large[1] <= 80


def test_abilities_say_what_a_failure_keeps_from_working(found: dict[str, Finding]) -> None:
    well = {ability.name: ability for ability in abilities(list(found.values()))}
    assert well["ap2o run"].works is all(finding.status != "fail" for finding in found.values())
    assert {"full fine-tuning", "LoRA", "QLoRA, 4 bits", "Triton kernels", "sampling by vLLM"} < well.keys()
    assert not [ability for ability in well.values() if not ability.works and not ability.fix]
    broken = {**found, "sandbox": Finding(name="sandbox", status="fail", detail="level 0", fix="use Linux")}
    (run,) = [ability for ability in abilities(list(broken.values())) if ability.name == "ap2o run"]
    assert not run.works and "sandbox" in run.detail


def test_the_command_gives_it_as_json_and_fails_where_a_run_cannot_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ap2o_fast.doctor.findings", lambda hub: [Finding(name="vLLM", status="fail", detail="x")])
    monkeypatch.setattr("ap2o_fast.doctor.abilities", lambda found: [])
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert ended.value.code == 4 and line["result"]["well"] is False
    assert line["result"]["findings"] == [{"name": "vLLM", "status": "fail", "detail": "x", "fix": ""}]
