"""Formulas become MathML while the site is built, so that a page needs neither a script nor a font of another host."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from latex2mathml.converter import convert

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
"""What pymdownx.arithmatex makes of a formula under `generic`."""


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Errors: those of latex2mathml for a formula that it cannot read, which end the build."""

    def mathml(found: re.Match[str]) -> str:
        return convert(html.unescape(found[3]), display="block" if found[2] == "[" else "inline")

    return _FORMULA.sub(mathml, content)
