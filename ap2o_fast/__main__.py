"""`python -m ap2o_fast` is the command `ap2o`."""

from __future__ import annotations

from ap2o_fast.cli import main

main()
