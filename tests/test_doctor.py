"""The doctor looks at the machine it is on, so these tests compare it with what can be known about that machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ap2o_fast import doctor
from ap2o_fast.doctor import Finding, findings
from ap2o_fast.judge import detect_level
from ap2o_fast.judge.languages import language
from ap2o_fast.sampling import vllm_start


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings(folder=tmp_path_factory.mktemp("runs"))}


def test_it_tells_what_is_there(found: dict[str, Finding]) -> None:
    assert platform.python_version() in found["Python"].detail
    assert metadata.version("torch").split("+")[0] in found["torch"].detail
    assert found["transformers"].detail == metadata.version("transformers")
    assert "reference" in found["ap2o_kernels, cpu"].detail
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
    absent = {finding.name: finding for finding in doctor._languages()}
    assert absent["judge, cpp"].detail == "not judged, optional: there is no g++ and no objdump in /nowhere"
    assert "apt install g++" in absent["judge, cpp"].fix
    assert absent["judge, python"].detail == platform.python_version()


def test_whatever_is_not_well_comes_with_a_fix(found: dict[str, Finding]) -> None:
    assert not [finding for finding in found.values() if finding.status != "ok" and not finding.fix]


def test_optional_packages_are_never_a_failure(found: dict[str, Finding]) -> None:
    for package in doctor.OPTIONAL:
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
    torch = next(finding for finding in findings(folder=tmp_path) if finding.name == "torch")
    assert (torch.status, torch.fix) == ("warn", "set model.threads=1")


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
    (absent,) = doctor._vllm()
    assert absent.status == "ok" and "not installed" in absent.detail and "[vllm]" in absent.fix
    monkeypatch.setattr(vllm_start, "installed", lambda: ("vllm", "0.99.0"))
    (untried,) = doctor._vllm()
    assert untried.status == "warn" and "0.99.0" in untried.detail and "vllm>=0.32,<0.34" in untried.fix
    monkeypatch.setattr(vllm_start, "installed", lambda: ("vllm", "0.32.0"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", None)
    (broken,) = doctor._vllm()
    assert broken.status == "warn" and "cannot be imported" in broken.detail
