from __future__ import annotations

from collections.abc import Iterator

import pytest

from ap2o_fast.config import JudgeSettings
from ap2o_fast.judge import Judge


@pytest.fixture(scope="session")
def judge() -> Iterator[Judge]:
    with Judge(JudgeSettings(workers=2, cpu_seconds=1.0, wall_factor=3, output_kib=64)) as opened:
        yield opened
