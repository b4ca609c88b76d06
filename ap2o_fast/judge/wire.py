"""Frames between the judge's processes: four bytes of length, then JSON. Nothing is ever unpickled."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from typing import Any

MAX_FRAME = 256 << 20
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_from_json = json.JSONDecoder().decode


class Closed(Exception):
    """The other end is gone."""


class BadFrame(Exception):
    """The other end sent something that is no frame, or one larger than was agreed."""


class Channel:
    """One end of a stream socket that carries frames. Closing it is the caller's part.

    Attributes:
        size: bytes of the frame that was received last.
    """

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.size = 0

    def fileno(self) -> int:
        """For poll."""
        return self.socket.fileno()

    def send(self, message: Any, *, timeout: float | None = None) -> None:
        """Send one frame. Raises `Closed`, `BadFrame` (too large), `TimeoutError`."""
        body = _to_json(message).encode("ascii")
        if len(body) > MAX_FRAME:
            raise BadFrame(f"a frame of {len(body)} bytes")
        self.socket.settimeout(timeout)
        try:
            self.socket.sendall(len(body).to_bytes(4, "big") + body)
        except TimeoutError:
            raise TimeoutError("send") from None
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self, *, timeout: float | None = None, limit: int = MAX_FRAME) -> Any:
        """Receive one frame. Raises `Closed`, `BadFrame` (no JSON, or larger than `limit` bytes), `TimeoutError`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        size = int.from_bytes(self._exactly(4, deadline), "big")
        self.size = size
        if size > limit:
            raise BadFrame(f"a frame of {size} bytes")
        try:
            return _from_json(str(self._exactly(size, deadline), "utf-8"))
        except (ValueError, RecursionError) as error:
            raise BadFrame(str(error)) from None

    def give(self, descriptors: Sequence[int], message: Any, *, timeout: float) -> None:
        """Send descriptors, then a frame. Raises as `send`."""
        try:
            socket.send_fds(self.socket, [b"f"], descriptors)
        except OSError as error:
            raise Closed(str(error)) from None
        self.send(message, timeout=timeout)

    def take(self, count: int, *, timeout: float) -> tuple[list[int], Any]:
        """Wait, as long as the other end lives, for what it gives: `count` descriptors, then a frame in time."""
        self.socket.settimeout(None)
        try:
            _, descriptors, _, _ = socket.recv_fds(self.socket, 1, count)
        except OSError as error:
            raise Closed(str(error)) from None
        if len(descriptors) != count:
            raise Closed("end of stream")
        return descriptors, self.receive(timeout=timeout)

    def close(self) -> None:
        """Close this end."""
        self.socket.close()

    def _exactly(self, size: int, deadline: float | None) -> bytes:
        buffer = bytearray()
        while len(buffer) < size:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("receive")
                self.socket.settimeout(left)
            else:
                self.socket.settimeout(None)
            try:
                piece = self.socket.recv(min(size - len(buffer), 1 << 20))
            except TimeoutError:
                raise TimeoutError("receive") from None
            except OSError as error:
                raise Closed(str(error)) from None
            if not piece:
                raise Closed("end of stream")
            buffer += piece
        return bytes(buffer)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected stream sockets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def adopt(descriptor: int) -> socket.socket:
    """The socket behind a descriptor made by `pair`. Asks the kernel nothing, so it works in the jail."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)
