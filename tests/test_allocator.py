"""The layout of a GPU's memory: ours unless the user has said another, and only where there is a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ap2o_fast.allocator import GROWING, NAMES, allocator_in_use, prepare_allocator


@pytest.mark.parametrize(
    ("device", "given", "expected"),
    [
        ("cuda", {}, {"PYTORCH_ALLOC_CONF": GROWING}),
        ("cuda:1", {}, {"PYTORCH_ALLOC_CONF": GROWING}),
        ("cpu", {}, {}),
        ("cuda", {"PYTORCH_ALLOC_CONF": ""}, {"PYTORCH_ALLOC_CONF": ""}),
        ("cuda", {"PYTORCH_CUDA_ALLOC_CONF": "a:1"}, {"PYTORCH_CUDA_ALLOC_CONF": "a:1"}),
    ],
)
def test_what_the_user_has_set_stays(device: str, given: dict[str, str], expected: dict[str, str]) -> None:
    environment = dict(given)
    prepare_allocator(device, environment=environment)
    assert environment == expected


def test_nothing_is_set_beside_memory_pools() -> None:
    environment: dict[str, str] = {}
    prepare_allocator("cuda", pools=True, environment=environment)
    assert environment == {}


def test_what_is_in_use_is_what_torch_reads_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert allocator_in_use() == "as torch has it"
    monkeypatch.setenv(NAMES[1], "old:1")
    assert allocator_in_use() == "old:1"
    monkeypatch.setenv(NAMES[0], "new:1")
    assert allocator_in_use() == "new:1"


def test_the_command_line_says_it_before_torch_is_there() -> None:
    program = "import sys; from ap2o_fast.cli import prepare_allocator; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
