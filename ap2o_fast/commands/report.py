"""`ap2o report`: write the page of a run or comparison anew, or serve it while the run is going; parse, call, print."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ap2o_fast.commands.options import Json
from ap2o_fast.commands.output import Output
from ap2o_fast.errors import MachineError, UsageError

out = Console()


def report(
    run: Annotated[Path, typer.Argument(help="the folder of a run")],
    live: Annotated[bool, typer.Option("--live", help="serve it on this machine and renew it, until Ctrl-C")] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="with --live: instead of any free one")] = None,
    as_json: Json = False,
) -> None:
    """Write report.html anew, or comparison.html; with --live serve it instead, while the run is going."""
    from ap2o_fast.comparing.systems import is_comparison
    from ap2o_fast.reporting.report import make_report, write_report
    from ap2o_fast.run_folder import RunFolder

    with Output("report", as_json=as_json) as output:
        if port is not None and not live:
            raise UsageError("--port is for a report that is served", do="add --live, or leave --port out")
        if live and as_json:
            raise UsageError("report --live has no result for --json", do="leave one of them out")
        if is_comparison(run):
            from ap2o_fast.commands.compare import tell_comparison
            from ap2o_fast.comparing import comparison

            if live:
                serve(run, partial(comparison.make_report, run), port or 0)
            else:
                tell_comparison(comparison.report(run), output)
            return
        path = RunFolder.open(run).path
        if live:
            serve(path, partial(make_report, path), port or 0)
        else:
            page = write_report(path)
            output.result({"page": str(page)})
            output.out.print(f"report: {page}", soft_wrap=True)


def serve(run: Path, make: Callable[[], str], port: int) -> None:
    """Serve the page until Ctrl-C.

    Args:
        make: the page as it is now.
        port: 0 for any that is free.

    Errors: `MachineError` where the port is taken.
    """
    from ap2o_fast.reporting.page_server import LiveReport, mark

    try:
        server = LiveReport(make, partial(mark, run), title=run.resolve().name, port=port)
    except OSError as error:
        raise MachineError(
            f"port {port} cannot be listened on: {error.strerror}", do="name another, or leave --port out"
        ) from error
    with server:
        out.print(f"live report: {server.address}", markup=False, highlight=False, soft_wrap=True)
        told = "Whoever on this machine has the address can read it. Ctrl-C ends the server, not the run."
        out.print(told, soft_wrap=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            out.print("ended")
