"""A report served while its run is still going, to the people of this machine who were given the address.

The server listens on 127.0.0.1 alone, answers to no other name (so that no web page can reach it by a name of its own),
takes GET alone and has three addresses below a random token: the frame, the report, and a mark that changes when
the run has written something. The frame asks for the mark and takes the new report when it differs; the report itself
is byte for byte what `ap2o report` writes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ap2o_fast.errors import Ap2oError
from ap2o_fast.reporting.page import live_frame

HOST = "127.0.0.1"
NAMES = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")
"""Hosts that a request may be for. Any port: it may have come through a tunnel."""
SHARE = 0.1
"""Of one core's time, the most that goes into making the page anew: the run needs the others."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The state of a folder's files: `name` differs when they do; `changed` is the latest change, in seconds since
    1970, 0 where there is no file."""

    name: str
    changed: float


def mark(folder: Path) -> Mark:
    """The state of the JSON files of a run or comparison, books included, checkpoints left out."""
    found = hashlib.sha256()
    latest = 0.0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "checkpoints")
        for name in sorted(name for name in files if name.endswith((".json", ".jsonl"))):
            try:
                known = os.stat(Path(place, name))
            except FileNotFoundError:  # replaced at this moment; the next look sees it
                continue
            found.update(f"{place}/{name} {known.st_size} {known.st_mtime_ns}\n".encode())
            latest = max(latest, known.st_mtime)
    return Mark(name=found.hexdigest()[:16], changed=latest)


class LiveReport(ThreadingHTTPServer):
    """The server. `serve_forever` serves; use it as a context, which closes it.

    Args:
        make: the page as it is now; called at most once a mark, and no oftener than `SHARE` allows.
        look: the state of what the page is made from.
        title: of the frame.
        port: 0 for any that is free.
        rest: seconds from one page to the next at least.

    Attributes:
        address: what to open; whoever has it can read the report.

    Errors: OSError where the port is taken.
    """

    daemon_threads = True

    def __init__(
        self, make: Callable[[], str], look: Callable[[], Mark], *, title: str, port: int = 0, rest: float = 5.0
    ) -> None:
        self._make, self._look, self._rest = make, look, rest
        self._lock = threading.Lock()
        self._page, self._mark, self._next, self._trouble = b"", Mark(name="", changed=0.0), 0.0, ""
        self.token = secrets.token_urlsafe(24)
        self.title = title
        super().__init__((HOST, port), _Request)
        self.address = f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @cached_property
    def frame(self) -> tuple[str, str]:
        """The page around the report, and its content security policy."""
        return live_frame(self.title)

    def state(self) -> dict[str, Any]:
        """``mark`` of the newest page that can be had, ``changed`` (when its files did), ``trouble`` (why the newest
        state has no page; empty where it has)."""
        self.page()
        return {"mark": self._mark.name, "changed": self._mark.changed, "trouble": self._trouble}

    def page(self) -> bytes:
        """The newest page, made anew if something changed and it is time; the one before it, or nothing, where it
        cannot be made now."""
        with self._lock:
            if time.monotonic() >= self._next and (now := self._look()) != self._mark:
                began = time.monotonic()
                try:
                    self._page, self._mark, self._trouble = self._make().encode(), now, ""
                except (Ap2oError, OSError) as error:
                    self._trouble = error.what if isinstance(error, Ap2oError) else str(error)
                ended = time.monotonic()
                self._next = ended + max(self._rest, (ended - began) / SHARE)
            return self._page


class _Request(BaseHTTPRequestHandler):
    server: LiveReport
    timeout = 10.0
    server_version, sys_version = "ap2o", ""

    def do_GET(self) -> None:
        """Answer a request; a wrong token and a wrong address look the same."""
        if not NAMES.fullmatch(self.headers.get("Host", "")):
            self._reply(HTTPStatus.FORBIDDEN, b"This report is served to this machine alone.\n")
            return
        empty, _, rest = self.path.partition("?")[0].partition("/")
        token, slash, name = rest.partition("/")
        known = hmac.compare_digest(token.encode(), self.server.token.encode())
        if empty or not slash or not known or name not in ("", "page", "state"):
            self._reply(HTTPStatus.NOT_FOUND, b"There is nothing here.\n")
        elif name == "":
            frame, policy = self.server.frame
            self._reply(HTTPStatus.OK, frame.encode(), "text/html", policy)
        elif name == "page":
            page = self.server.page()
            if page:
                self._reply(HTTPStatus.OK, page, "text/html", "frame-ancestors 'self'")
            else:
                self._reply(HTTPStatus.SERVICE_UNAVAILABLE, f"Not yet: {self.server.state()['trouble']}\n".encode())
        else:
            self._reply(HTTPStatus.OK, json.dumps(self.server.state()).encode(), "application/json")

    def _refuse(self) -> None:
        self._reply(HTTPStatus.METHOD_NOT_ALLOWED, b"Only GET is answered.\n")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _reply(
        self, status: HTTPStatus, body: bytes, kind: str = "text/plain", policy: str = "default-src 'none'"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", policy)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address in every line would give the token away."""
