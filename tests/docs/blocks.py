"""The code blocks of the documentation, and the commands in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "kernels" / "README.md",
    ROOT / "studies" / "organism" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
_BLOCK = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2[ ]*$", re.DOTALL | re.MULTILINE)
PROGRAMS = ("ap2o", "make", "python", "python3", "pip", "torchrun")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block: its page, the line that its text begins in, its language (empty where it names none)."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """``docs/book.md:39``."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """What a reader would type.

        Of `sh` every line that is no comment, of other languages without one the lines that begin with a prompt or
        with one of our programs. Lines that end with a backslash go on. Of a line of a list, such as
        ``ap2o demo      the whole loop``, what stands before the gap.
        """
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        if self.language in ("sh", "bash"):
            return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if self.language not in ("", "text", "console"):
            return []
        marks = ("$ ",) if self.language == "console" else ("$ ", *(f"{program} " for program in PROGRAMS))
        typed = [line.removeprefix("$ ") for line in lines if line.startswith(marks)]
        return [re.split(r"\s{2,}", line)[0] for line in typed]


def blocks() -> list[Block]:
    """Every block of every page, in order."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            body = re.sub(f"^{match[1]}", "", match[4], flags=re.MULTILINE)
            found.append(Block(page=page, line=line, language=match[3].strip(), text=body))
    return found
