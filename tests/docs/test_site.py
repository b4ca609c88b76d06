"""The documentation as a site: it builds strictly, every page is in its navigation, and it needs no other host."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import configuration
from tests.docs.blocks import ROOT

DOCS = ROOT / "docs"


def test_the_page_of_settings_is_that_of_the_code() -> None:
    assert configuration.PAGE.read_text(encoding="utf-8") == configuration.page(), "make format"


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    from_elsewhere = {"index.md", "kernels.md", "organism.md", "contributing.md", "changelog.md"}
    assert set(listed) == pages | from_elsewhere


def build(folder: Path, config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("mkdocs", "material", "latex2mathml"):
        pytest.importorskip(name, reason=f"{name} is not installed: it comes with the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    built = build(folder, ROOT / "mkdocs.yml")
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


def pages(site: Path) -> list[Path]:
    """The site's own pages, without the listings of source."""
    return [page for page in site.rglob("*.html") if "source" not in page.relative_to(site).parts]


def test_it_needs_no_other_host(site: Path) -> None:
    """Nothing that a browser would fetch by itself, or a style sheet would."""
    fetched = re.compile(r"<(?:script|img|iframe|source|link(?! rel=\"canonical\"))[^>]+(?:src|href)=\"?(?:https?:)?//")
    for page in site.rglob("*.html"):
        assert not fetched.search(page.read_text(encoding="utf-8")), page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_formulas_are_mathml(site: Path) -> None:
    text = (site / "method.html").read_text(encoding="utf-8")
    assert text.count("<math ") >= 15 and 'display="block"' in text
    for page in pages(site):
        body = re.sub(r"<(code|pre|script)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert "arithmatex" not in body and "$\\" not in body, page.name


def test_links_to_lines_lead_to_listings_with_that_line(site: Path) -> None:
    found = 0
    for page in pages(site):
        for target, line in re.findall(r'href="([^"#]*source/[^"#]*)#(L\d+)"', page.read_text(encoding="utf-8")):
            found += 1
            assert f'id="{line}"' in (page.parent / target).read_text(encoding="utf-8"), (page.name, target, line)
    assert found >= 15


def test_lists_and_tables_are_lists_and_tables(site: Path) -> None:
    """The site's Markdown wants an empty line before them, where others do not."""
    mark = re.compile(r"^(?:<p>)?(?:\* |\| ?\w|\d\. ).*", re.MULTILINE)
    for page in pages(site):
        body = re.sub(r"<(code|pre|script)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not mark.findall(body), page.name


@pytest.mark.parametrize("damage", ["[gone](gone.md)", "[gone](replay.md#gone)", "[gone](../ap2o_fast/gone.py#L3)"])
def test_a_broken_link_ends_the_build(site: Path, tmp_path: Path, damage: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Home\n\n{damage}\n", encoding="utf-8")
    (docs / "replay.md").write_text("# Replay\n", encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text(
        "site_name: x\ntheme: {name: material, font: false}\nnav: [index.md, replay.md]\n"
        "validation: {links: {anchors: warn, not_found: warn}}\n",
        encoding="utf-8",
    )
    built = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert built.returncode != 0
    assert "gone" in built.stderr
