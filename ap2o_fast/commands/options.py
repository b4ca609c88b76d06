"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""For commands that take overrides of settings, as key=value or --key=value."""

Target = Annotated[Path, typer.Argument(help="a settings file (.toml) or a run folder")]
RunPath = Annotated[Path, typer.Argument(help="the folder of a run")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress")]
Json = Annotated[bool, typer.Option("--json", help="events and the result as JSON lines, for programs")]
