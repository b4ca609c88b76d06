"""Text that a model or its program wrote, made harmless to show; and the few formats that all outputs share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_TERMINAL_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC and its kin: titles, links
    r"|\x1b[ -/]*[0-~]"  # the rest
    r"|\x9b[0-?]*[ -/]*[@-~]"
)


def clean(text: str) -> str:
    """The text without terminal sequences, control characters and invisible or direction-changing characters.

    Newlines stay (all kinds become ``\\n``), tabs become four spaces, lone surrogates become U+FFFD so that the
    result can always be encoded.
    """
    text = _TERMINAL_SEQUENCE.sub("", text).replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    return "".join(_shown(character) for character in text)


def shorten(text: str, limit: int) -> str:
    """The text, or its first `limit` characters and how many more there were."""
    return text if len(text) <= limit else f"{text[:limit]} … (+{len(text) - limit:,} characters)"


def first_line(text: str, limit: int = 200) -> str:
    """The first line of cleaned text, shortened."""
    return shorten(clean(text).strip().partition("\n")[0], limit)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent, an en dash where there is none."""
    return "–" if value is None else f"{value:.{digits}%}"


def points(value: float | None, digits: int = 1) -> str:
    """A difference of shares in percentage points, with its sign."""
    return "–" if value is None else f"{100 * value:+.{digits}f}".replace("-", "−")


def signed(count: int) -> str:
    """A difference of counts with its sign."""
    return f"{count:+,}".replace("-", "−")


def number(value: float | None) -> str:
    """A plain number with four decimals, an en dash where there is none."""
    return "–" if value is None else f"{value:.4f}".replace("-", "−")


def reward(value: float | None) -> str:
    """A reward or margin with its sign, an en dash where there is none."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def many(count: int, noun: str) -> str:
    """``1 problem``, ``2,000 problems``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time span as a person would say it: 840 ms, 12.3 s, 4 min 5 s, 3 h 20 min."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def rate(value: float) -> str:
    """A rate with three figures: 0.123, 12.3, 1,230."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def estimate(value: Mapping[str, Any] | None) -> str:
    """``31.4% (27.0–36.2)`` of an estimate with value, low and high; an en dash where there is none."""
    if not value or value.get("value") is None:
        return "–"
    return f"{percent(value['value'])} ({100 * value['low']:.1f}–{100 * value['high']:.1f})"


def change(difference: Mapping[str, Any]) -> str:
    """``+8.3 (+3.1 to +13.0)`` percentage points; an en dash where nothing was compared."""
    if difference.get("value") is None:
        return "–"
    return f"{points(difference['value'])} ({points(difference['low'])} to {points(difference['high'])})"


def _shown(character: str) -> str:
    if character == "\n" or character.isprintable():
        return character
    kind = unicodedata.category(character)
    if kind == "Cs":
        return "\ufffd"
    return " " if kind.startswith("Z") else ""
