"""What `ap2o` exits with."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes; scripts may rely on them."""

    OK = 0
    FAILED = 1  # a run of a comparison failed, or an error that nobody expected
    USAGE = 2
    DATA = 3
    MACHINE = 4
    SANDBOX = 5
    NUMERICAL = 6
    INTERRUPTED = 130  # what is committed is kept
