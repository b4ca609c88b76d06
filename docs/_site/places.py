"""Pages and sources from outside docs/: README and its like become pages, linked code becomes a page with its lines."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "kernels/README.md": "kernels.md",
    "studies/organism/README.md": "organism.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Where pages that lie outside docs/ stand in the site."""
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_FENCE = re.compile(r"(^````.*?^````$|^```(?!`).*?^```$)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `PAGES`, and a page of source for every other file of the repository that a page links to."""
    for origin, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / origin)))
    linked: set[str] = set()
    for page in files.documentation_pages():
        linked |= {target for link in _links(page) if (target := _outside(link, page)) and (ROOT / target).is_file()}
    for target in sorted(linked - set(PAGES)):
        files.append(File.generated(config, _source(target), content=_listing(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links that lead out of docs/ lead to what stands for their target in the site."""

    def here(found: re.Match[str]) -> str:
        link = found[1]
        target = _target(link, page.file)
        if target is None:
            return link
        inside = PAGES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else _source(target))
        path = os.path.relpath(inside, os.path.dirname(page.file.src_uri) or ".")
        return path + "".join(link.partition("#")[1:])

    return "".join(part if part.startswith("```") else _LINK.sub(here, part) for part in _FENCE.split(markdown))


def _links(page: File) -> list[str]:
    return [link for part in _FENCE.split(page.content_string) if part[:3] != "```" for link in _LINK.findall(part)]


def _target(link: str, page: File) -> str | None:
    """The path in the repository that a link of a page leads to; None for another host's or the page's own."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    origin = {place: origin for origin, place in PAGES.items()}.get(page.src_uri, f"docs/{page.src_uri}")
    return os.path.normpath(os.path.join(os.path.dirname(origin), path))


def _outside(link: str, page: File) -> str | None:
    target = _target(link, page)
    return None if target is None or target.startswith("docs/") else target


def _source(target: str) -> str:
    return f"source/{target}.html"


def _listing(target: str) -> str:
    """A page of one file, its lines under the anchors L1, L2, …"""
    try:
        lexer = get_lexer_for_filename(target)
    except ClassNotFound:
        lexer = TextLexer()
    form = HtmlFormatter(full=True, title=target, linenos="table", lineanchors="L", anchorlinenos=True)
    listing = highlight((ROOT / target).read_text(encoding="utf-8"), lexer, form)
    return re.sub(r'(name|id|href)="(#?)L-(\d+)"', r'\1="\2L\3"', listing)
