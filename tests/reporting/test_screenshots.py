"""The pictures of the documentation are those that the program takes."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reporting import browser as chromium
from tests.reporting import screenshots
from tests.reporting.screenshots import SHOTS, Shot

DOCS = Path(__file__).resolve().parents[2] / "docs"
MOST_BYTES = 300 * 1024


def dimensions(path: Path) -> tuple[int, int]:
    """Width and height of a PNG file, from its header."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return struct.unpack(">II", head[16:])


def test_every_picture_is_shown_and_explained() -> None:
    shown = re.findall(r"!\[([^\]]+)\]\(images/([\w-]+)\.png\)", (DOCS / "report.md").read_text(encoding="utf-8"))
    assert {name for _, name in shown} == {shot.name for shot in SHOTS}
    assert all(words for words, _ in shown)


@pytest.mark.parametrize("shot", SHOTS, ids=lambda shot: shot.name)
def test_the_committed_picture_is_of_its_size(shot: Shot) -> None:
    path = DOCS / "images" / f"{shot.name}.png"
    assert dimensions(path) == shot.size
    assert path.stat().st_size < MOST_BYTES


@pytest.mark.skipif(not (chromium.BROWSER and chromium.DRIVER), reason="no chromium and chromedriver on this machine")
def test_pictures_are_taken_of_a_run(whole_run: Path, tmp_path: Path) -> None:
    (shot,) = (shot for shot in SHOTS if shot.name == "report-phone-dark")
    with chromium.start(tmp_path / "profile") as browser:
        dark = screenshots.take(browser, shot, whole_run, tmp_path)
        light = screenshots.take(browser, replace(shot, name="light", scheme="light"), whole_run, tmp_path)
    assert dimensions(dark) == shot.size
    assert dark.read_bytes() != light.read_bytes()
