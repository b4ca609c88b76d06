"""docs/configuration.md out of the settings themselves. Run as a script it writes the page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, get_args

from ap2o_fast.config import DPO_DEFAULTS, DPO_UNUSED, Config, Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
HEAD = """# Settings

Every setting, its default, what it takes and what it means: `make format` writes this page from the code, and a test
compares them. `ap2o config --explain train.lr` prints one setting, `ap2o config my.toml` the resolved form of a file,
and `ap2o init my.toml` writes a file with all.

Precedence: defaults, then the TOML file, then `key=value` words on the command line; a list is given as
`'compare.seeds=[0,1,2]'`. A setting that does not exist is an error that names the nearest one, and so is one
that would do nothing beside the others.
"""
TAIL = """
## Other defaults of `ap2o dpo`

{defaults}.

It takes nothing from {unused}: set there, they are refused.
"""


def page() -> str:
    """The page as text."""
    own = [(name, field) for name, field in Config.model_fields.items() if not _is_group(field.annotation)]
    groups = [(name, field) for name, field in Config.model_fields.items() if _is_group(field.annotation)]
    parts = [HEAD, "## Of the whole run\n\n" + _table(own, [Config()], "")]
    parts += [_group(name, field.annotation, getattr(Config(), name)) for name, field in groups]
    defaults = ", ".join(f"`{key}` = {_shown(value)}" for key, value in _flat(DPO_DEFAULTS))
    return "\n".join(parts) + TAIL.format(
        defaults=defaults, unused=", ".join(f"`{key.strip('.')}`" for key in sorted(DPO_UNUSED))
    )


def _group(name: str, model: type[Settings], defaults: Settings) -> str:
    leaves = [(key, field) for key, field in model.model_fields.items() if not _is_group(field.annotation)]
    inner = [(key, field) for key, field in model.model_fields.items() if _is_group(field.annotation)]
    text = f"## {name}\n\n" + (_table(leaves, [defaults], f"{name}.") if leaves else "")
    alike: dict[Any, list[str]] = {}
    for key, field in inner:
        alike.setdefault(field.annotation, []).append(key)
    for part, keys in alike.items():
        text += ("\n" if leaves else "") + f"In each of {', '.join(f'`{name}.{key}`' for key in keys)}:\n\n"
        text += _table(list(part.model_fields.items()), [getattr(defaults, key) for key in keys], "")
    return text


def _table(fields: list[tuple[str, Any]], defaults: list[Settings], prefix: str) -> str:
    """A row a field; where the groups of `defaults` differ in one, the default of each."""
    rows = []
    for name, field in fields:
        shown = ", ".join(dict.fromkeys(_shown(getattr(each, name)) for each in defaults))
        rows.append(f"| `{prefix}{name}` | {shown} | {_kind(field)} | {_cell(field.description or '')} |")
    return "\n".join(["| setting | default | takes | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _kind(field: Any) -> str:
    choices = _choices(field.annotation)
    bounds = [
        f"{sign} {getattr(each, word):g}"
        for each in field.metadata
        for word, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if hasattr(each, word)
    ]
    return " ".join([choices, ", ".join(bounds)]).strip()


def _choices(annotation: Any) -> str:
    """What a type takes, in words."""
    if annotation is type(None):
        return "nothing"
    if isinstance(annotation, type) and not get_args(annotation):
        return {"str": "text", "int": "whole number", "float": "number", "bool": "true, false"}[annotation.__name__]
    if str(annotation).startswith("typing.Literal"):
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if getattr(annotation, "__origin__", None) is tuple:
        return f"list of: {_choices(get_args(annotation)[0])}"
    return ", ".join(_choices(part) for part in get_args(annotation) if isinstance(part, type) or get_args(part))


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    return [
        pair
        for key, value in tree.items()
        for pair in (_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)])
    ]


def _shown(value: Any) -> str:
    if value is None or value in ("", ()):
        return ""
    return f"`{_cell(json.dumps(list(value) if isinstance(value, tuple) else value))}`"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
