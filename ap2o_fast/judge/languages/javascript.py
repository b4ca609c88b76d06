"""JavaScript: the answer's process becomes node, in which `javascript.js` checks, loads and calls the answer.

An answer is a classic script, as node runs a ``.js`` file: ``require`` gives node's own modules, ``import`` is a syntax
error. Its function is the top-level binding of that name. Texts, numbers, arrays, maps and sets cross as in JSON: a
dictionary arrives as a plain object (its numeric keys as texts), a tuple as an array, ``None`` as ``null``; an array
comes back as a list, a plain object or a `Map` as a dictionary, ``null`` and ``undefined`` as ``None``.
"""

from __future__ import annotations

import os
import resource

from ap2o_fast.judge.jail import Policy
from ap2o_fast.judge.languages.language import COMMON_TAGS, Canaries, Close, find, keep_across_exec, text_beside
from ap2o_fast.judge.wire import Channel

# Read here because the jail does not show this folder.
_DRIVER = text_beside("javascript.js")
_SPARE_MIB = 96
# Its OpenSSL does not start where the machine's own settings are there and cannot be read.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "OPENSSL_CONF": "/dev/null"}


class JavaScript:
    """node is the analyser: `vm.Script` finds syntax errors without running, stacks give lines."""

    needs: tuple[str, ...] = ("node",)
    install = "install Node.js 18 or later with the system's package manager (Debian: apt install nodejs)"
    build_seconds = 0.0
    least_mib = 64
    tags: frozenset[str] | None = COMMON_TAGS
    canaries = Canaries("function f(x) { return x + 1 }", "function f(x) { return x }")

    def policy(self) -> Policy:
        """See `Language.policy`: node has threads, and reserves hundreds of MiB of addresses that it does not use."""
        return Policy(
            calls=("execute", "threads"),
            execute=(os.path.realpath(find("node")),),
            processes=64,
            spare_mib=_SPARE_MIB,
        )

    def serve(self, channel: Channel, close: Close) -> None:
        """See `Language.serve`: node takes the task from the channel."""
        heap = (resource.getrlimit(resource.RLIMIT_DATA)[0] >> 20) - _SPARE_MIB
        # Few threads, and the same random numbers each time: the same answer gets the same verdict.
        flags = [f"--max-old-space-size={heap}", "--single-threaded", "--v8-pool-size=0", "--random-seed=1"]
        keep_across_exec()
        node = find("node")
        os.execve(node, [node, *flags, "-e", _DRIVER], _ENVIRONMENT)
