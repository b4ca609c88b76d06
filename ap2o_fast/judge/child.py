"""The jailed end: defines the answer's functions and answers calls. Nothing here decides a verdict.

It runs in the same process as the answer, so all of it may be lies once the answer has run: the examiner takes what
it says for a value or a failure, never for a success.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from ap2o_fast.judge import values
from ap2o_fast.judge.analysis import ANALYSERS, Analyser
from ap2o_fast.judge.wire import BadFrame, Channel, Closed, pair

CHANNEL_LOST = 98
_REHEARSALS = 30
_REHEARSED = {
    "language": "python",
    "preamble": "import math\nfrom typing import List\n",
    "entry_point": "f",
    "code": "from typing import List\n\ndef f(a: List, b):\n    '''One.\n    >>> f(1, 2)\n    '''\n"
    "    c = {x: [y for y in range(3)] for x in 'ab' if x > 'a'}\n    for i in range(len(c)):\n        b = b\n"
    "    if not c:\n        raise ValueError(f'{a!r}')\n    return [a, b]\n",
}


def run_answer(end: socket.socket) -> None:
    """Take one answer from the examiner, load it and serve calls until killed. Never returns."""
    channel = Channel(end)
    try:
        channel.send(["jailed"])
        analyser, function = _take(channel)
        while function is not None:
            _answer_call(channel, analyser, function)
    except Closed:
        pass
    os._exit(CHANNEL_LOST)


def rehearse() -> None:
    """Take and serve answers of our own: what that loads, specialises and allocates, every later process has."""
    ours, theirs = pair()
    with ours, theirs:
        examiner, channel = Channel(ours), Channel(theirs)
        for _ in range(_REHEARSALS):
            examiner.send(_REHEARSED)
            analyser, function = _take(channel)
            for arguments in ((1, "a"), ([1.5, None, {"a": (True,)}], 2), ({3}, b"b")):
                examiner.send([values.encode(arguments), values.encode({})])
                _answer_call(channel, analyser, function)
                values.decode(examiner.receive()[-1])


def _take(channel: Channel) -> tuple[Analyser, Any]:
    task = channel.receive()
    analyser = ANALYSERS[task["language"]]
    return analyser, _load(channel, analyser, task)


def _load(channel: Channel, analyser: Analyser, task: dict[str, str]) -> Any:
    phase = "compile"
    try:
        program = analyser.compile(task["code"])
        channel.send(["compiled"])
        phase = "preamble"
        namespace = analyser.prepare(task["preamble"])
        phase = "load"
        function = analyser.load(program, namespace, task["entry_point"])
    except Closed:
        raise
    except BaseException as error:  # whatever the answer raises, SystemExit among it, is a finding
        channel.send(["raised", phase, _report(analyser, error)])
        return None
    channel.send(["ready"])
    return function


def _answer_call(channel: Channel, analyser: Analyser, function: Any) -> None:
    arguments, keywords = channel.receive()
    positional, named = values.decode(arguments), values.decode(keywords)
    try:
        reply = ["value", values.encode(function(*positional, **named))]
    except values.NotInert as error:
        reply = ["foreign", str(error)]
    except BaseException as error:  # as above
        reply = ["raised", "call", _report(analyser, error)]
    try:
        channel.send(reply)
    except BadFrame:
        channel.send(["foreign", "too large a value"])
    except MemoryError:
        channel.send(["raised", "call", {"names": ["MemoryError"], "class": "MemoryError", "text": "", "line": 0}])


def _report(analyser: Analyser, error: BaseException) -> dict[str, Any]:
    try:
        return analyser.report(error)
    except BaseException:  # out of memory or stack while describing it, or a hostile class
        return {"names": [base.__name__ for base in type(error).__mro__][:20], "class": "", "text": "", "line": 0}
