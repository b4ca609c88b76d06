"""The jailed end: hands the answer's process to its language. Nothing here decides a verdict.

It becomes the answer's process, so all that it says may be lies once the answer has run: the examiner takes it for a
value or a failure, never for a success.
"""

from __future__ import annotations

import contextlib
import os
import socket

from ap2o_fast.judge.languages.language import Close, Language
from ap2o_fast.judge.wire import Channel, Closed

CHANNEL_LOST = 98


def run_answer(end: socket.socket, language: Language, close: Close) -> None:
    """Take one answer from the examiner, load it and serve calls until killed. Never returns."""
    channel = Channel(end)
    try:
        channel.send(["jailed"])
        language.serve(channel, close)
    except Closed:
        pass
    except OSError as error:  # a program that cannot be started; the examiner believes it before the answer has run
        with contextlib.suppress(Closed):
            channel.send(["failed", str(error)])
    os._exit(CHANNEL_LOST)
