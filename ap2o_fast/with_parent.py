"""An `ap2o` command that ends with the process that started it: `python -m ap2o_fast.with_parent PID resume RUN`."""

from __future__ import annotations

import os
import signal
import sys

from ap2o_fast.exits import Exit
from ap2o_fast.judge import kernel


def end_with(parent: int) -> None:
    """Have the kernel interrupt this process, as Ctrl-C does, when the one that started it is gone, however it ended.

    Errors: `SystemExit` where it is gone already. Source: PR_SET_PDEATHSIG in prctl(2).
    """
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != parent:
        raise SystemExit(Exit.INTERRUPTED)


def main() -> None:
    end_with(int(sys.argv[1]))
    from ap2o_fast import cli

    cli.main(sys.argv[2:])


if __name__ == "__main__":
    main()
