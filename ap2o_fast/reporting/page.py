"""A page: what every report has, and how it becomes one self-contained file.

Nothing is loaded from a network: style, scripts and plotly are inside, and a content security policy allows those
scripts by their hashes alone, so that text which slipped through the escaping could still not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ap2o_fast import config as settings
from ap2o_fast.reporting import cost, figures, text
from ap2o_fast.reporting.run import Run

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, run: Run, *, sections: Mapping[str, str], **content: Any) -> str:
    """A page as one string.

    Args:
        template: a file of `TEMPLATES` that extends ``base.html.j2``.
        sections: title by id, in the order of the page.
        content: what the template names beside what all reports have: run, settings, time, costs, scripts.
    """
    scripts = [get_plotlyjs(), (TEMPLATES / "report.js").read_text(encoding="utf-8")]
    made = _templates().get_template(template)
    return made.render(
        run=run,
        title=run.path.resolve().name,
        sections=sections,
        settings=setting_rows(run),
        time=shown(cost.stage_times(run.timing, run.metrics)),
        speeds=[shown(figure) for figure in (cost.throughput(run.metrics), cost.memory(run.metrics)) if figure],
        costs=cost.cost_rows(run.timing, run.metrics),
        rates=cost.training_rates(run.metrics),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
        **content,
    )


def live_frame(title: str) -> tuple[str, str]:
    """The page around a report that is served during its run, and the content security policy it needs."""
    script = (TEMPLATES / "live.js").read_text(encoding="utf-8")
    style = Markup((TEMPLATES / "live.css").read_text(encoding="utf-8"))
    made = _templates().get_template("live.html.j2").render(title=title, style=style, script=Markup(script))
    return made, f"{_policy([script])}; frame-src 'self'; connect-src 'self'; frame-ancestors 'none'"


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: text.clean(value) if type(value) is str else value,
    )
    formats = ("percent", "points", "estimate", "change", "signed", "many", "duration", "rate", "number", "reward")
    environment.filters.update({name: getattr(text, name) for name in formats})
    return environment


def shown(figure: figures.Figure | None) -> dict[str, Any] | None:
    """A figure as the template takes it: words, and plotly's data and layout as plain values."""
    if figure is None:
        return None
    plain = json.loads(figure.plot.to_json())
    height = figure.plot.layout.height
    return {"name": figure.name, "title": figure.title, "summary": figure.summary, "plain": plain, "height": height}


def starts_at_ln_2(run: Run) -> bool:
    """Whether the loss is ln 2 where policy and reference are one."""
    return run.setting("loss.type", "sigmoid") in ("sigmoid", "robust") and not run.setting("loss.sft_weight", 0)


def setting_rows(run: Run) -> list[tuple[str, str, bool]]:
    """(dotted key, value, changed from the default) of every saved setting that this kind of run has."""
    made = settings.load(defaults=settings.DPO_DEFAULTS) if run.is_dpo else settings.Config()
    defaults = dict(_flat(json.loads(made.model_dump_json())))
    unused = settings.DPO_UNUSED if run.is_dpo else ()
    rows = [(key, value) for key, value in _flat(run.config) if not key.startswith(unused)]
    return [(key, json.dumps(value), key not in defaults or defaults[key] != value) for key, value in rows]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return rows


def _policy(scripts: list[str]) -> str:
    """A content security policy under which exactly these scripts run and nothing is loaded."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {hashes}"
