"""Frames between the judge's processes: four bytes of length, then JSON. Nothing is ever unpickled."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from typing import Any

MAX_FRAME = 256 << 20
# Most frames are smaller: one call to the kernel receives them.
_AHEAD = 1 << 14
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_from_json = json.JSONDecoder().decode


class Closed(Exception):
    """The other end is gone."""


class BadFrame(Exception):
    """The other end sent something that is no frame, or one larger than was agreed."""


class Channel:
    """One end of a stream socket that carries frames. Closing it is the caller's part.

    What one end sends the other either always takes with `take` or always receives with `receive`, which reads ahead
    and would lose descriptors.

    Attributes:
        size: bytes of the frame that was received last.
    """

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.size = 0
        self._ahead = b""
        self._timeout = end.gettimeout()

    def fileno(self) -> int:
        """For poll, where frames are asked for one by one: it does not show one that was read ahead."""
        return self.socket.fileno()

    def send(self, message: Any, *, timeout: float | None = None) -> None:
        """Send one frame. Raises `Closed`, `BadFrame` (too large), `TimeoutError`."""
        self._send(_frame(message), timeout)

    def receive(self, *, timeout: float | None = None, limit: int = MAX_FRAME) -> Any:
        """Receive one frame. Raises `Closed`, `BadFrame` (no JSON, or larger than `limit` bytes), `TimeoutError`."""
        return self._rest_of_frame(self._ahead, timeout, limit, _AHEAD)

    def give(self, descriptors: Sequence[int], message: Any, *, timeout: float) -> None:
        """Send descriptors with a frame. Raises as `send`."""
        frame = _frame(message)
        self._wait_at_most(timeout)
        try:
            sent = socket.send_fds(self.socket, [frame], descriptors)
        except TimeoutError:
            raise TimeoutError("send") from None
        except OSError as error:
            raise Closed(str(error)) from None
        if sent < len(frame):
            self._send(frame[sent:], timeout)

    def take(self, count: int, *, timeout: float) -> tuple[list[int], Any]:
        """Wait, as long as the other end lives, for what it gives: `count` descriptors with a frame, whole in time."""
        self._wait_at_most(None)
        try:
            start, descriptors, _, _ = socket.recv_fds(self.socket, _AHEAD, count)
        except OSError as error:
            raise Closed(str(error)) from None
        if len(descriptors) != count:
            raise Closed("end of stream")
        return descriptors, self._rest_of_frame(start, timeout, MAX_FRAME, 0)

    def close(self) -> None:
        """Close this end."""
        self.socket.close()

    def _send(self, data: bytes, timeout: float | None) -> None:
        self._wait_at_most(timeout)
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise TimeoutError("send") from None
        except OSError as error:
            raise Closed(str(error)) from None

    def _rest_of_frame(self, start: bytes, timeout: float | None, limit: int, ahead: int) -> Any:
        """The frame that begins with `start`; up to `ahead` bytes after it may be read as well."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._wait_at_most(timeout)
        if len(start) < 4:
            start = self._at_least(4, start, deadline, ahead)
        self.size = size = int.from_bytes(start[:4], "big")
        if size > limit:
            raise BadFrame(f"a frame of {size} bytes")
        if len(start) < 4 + size:
            start = self._at_least(4 + size, start, deadline, ahead)
        self._ahead = start[4 + size :]
        try:
            return _from_json(str(start[4 : 4 + size], "utf-8"))
        except (ValueError, RecursionError) as error:
            raise BadFrame(str(error)) from None

    def _at_least(self, size: int, start: bytes, deadline: float | None, ahead: int) -> bytes:
        have = bytearray(start)
        while len(have) < size:
            try:
                piece = self.socket.recv(min(max(size - len(have), ahead), 1 << 20))
            except TimeoutError:
                raise TimeoutError("receive") from None
            except OSError as error:
                raise Closed(str(error)) from None
            if not piece:
                raise Closed("end of stream")
            if not have and len(piece) >= size:
                return piece
            have += piece
            # Each piece has the whole time, so that a trickle may take it twice, no longer.
            if len(have) < size and deadline is not None and time.monotonic() > deadline:
                raise TimeoutError("receive")
        return bytes(have)

    def _wait_at_most(self, seconds: float | None) -> None:
        if seconds != self._timeout:
            self.socket.settimeout(seconds)
            self._timeout = seconds


def _frame(message: Any) -> bytes:
    body = _to_json(message).encode("ascii")
    if len(body) > MAX_FRAME:
        raise BadFrame(f"a frame of {len(body)} bytes")
    return len(body).to_bytes(4, "big") + body


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected stream sockets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def adopt(descriptor: int) -> socket.socket:
    """The socket behind a descriptor made by `pair`. Asks the kernel nothing, so it works in the jail."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)
