"""One connection of the fault server, and what can be said on it."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from tests.faults.answers import Answer, Seen

SEND_BUFFER = 64 * 1024
LARGEST_HEAD = 256 * 1024
_GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


@dataclass(slots=True)
class Exchange:
    """A request under way."""

    seen: Seen
    sent: int = 0


class Fault(Protocol):
    """What is done to one answer. An `Answer` goes out as it is; None: already spoken."""

    def __call__(self, wire: Wire, request: Seen, answer: Answer) -> Answer | None: ...


class GoneError(ConnectionError):
    """The client has gone, or the server is ending."""


class Wire:
    """One connection: what a fault can say on it.

    `counted` runs a send that does not block, and counts what the kernel took before anybody can
    look: a client that has a byte must never find it uncounted.
    """

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        counted: Callable[[Exchange, Callable[[], int]], int],
    ) -> None:
        self._sock = sock
        self._counted = counted
        self._buffer = b""
        self.number = number
        self.exchange: Exchange | None = None
        self.closed = False
        self._ended = False

    def send(self, data: bytes | memoryview) -> None:
        """Bytes that are no body: heads, chunk sizes, garbage. They are not counted."""
        self._sock.sendall(data)

    def body(self, data: bytes | memoryview) -> None:
        """Bytes of a body, counted as the kernel takes them."""
        assert self.exchange is not None
        view = memoryview(data)
        self._sock.setblocking(False)
        while view:
            try:
                taken = self._counted(self.exchange, partial(self._sock.send, view[:SEND_BUFFER]))
                view = view[taken:]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._poll(_GONE | select.POLLOUT, None)
        self._sock.setblocking(True)

    def answer(self, answer: Answer) -> None:
        """A whole answer; the connection ends if it says so."""
        self.send(answer.head)
        if self.exchange is None or self.exchange.seen.method != "HEAD":
            self.body(answer.body)
        if answer.closes:
            self.close()

    def close(self) -> None:
        """An orderly end (FIN) after all that was sent. Over TLS without close_notify: a cut."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def reset(self) -> None:
        """A reset (RST) after all that was sent has reached the peer's kernel."""
        self.drain()
        self.closed = True
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def drain(self, seconds: float = 20.0) -> None:
        """Wait until the peer's kernel has acknowledged every byte, or `seconds` have passed."""
        deadline = time.monotonic() + seconds
        while self._unacknowledged() and time.monotonic() < deadline:
            self.pause(0.001)

    def _unacknowledged(self) -> int:
        answer = fcntl.ioctl(self._sock, termios.TIOCOUTQ, struct.pack("i", 0))
        return int(struct.unpack("i", answer)[0])

    def pause(self, seconds: float | None = None) -> None:
        """Silence, for ever if None. Raises GoneError when the client leaves or the server ends."""
        self._poll(_GONE, seconds)

    def hear(self) -> None:
        """Silence until the client says something more."""
        if not self._buffer:
            self._poll(_GONE | select.POLLIN, None)

    def _poll(self, events: int, seconds: float | None) -> None:
        poll = select.poll()
        poll.register(self._sock, events)
        happened = poll.poll(None if seconds is None else seconds * 1000)
        if happened and happened[0][1] & _GONE:
            raise GoneError("the client has gone")

    def read_head(self) -> bytes | None:
        """The next request's head without its last empty line; None at the end of the stream."""
        while b"\r\n\r\n" not in self._buffer:
            more = self._sock.recv(65536)
            if not more or len(self._buffer) > LARGEST_HEAD:
                return None
            self._buffer += more
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    def skip(self, count: int) -> None:
        """Read over a request's body."""
        while len(self._buffer) < count:
            more = self._sock.recv(65536)
            if not more:
                raise GoneError("the client left in its own body")
            self._buffer += more
        self._buffer = self._buffer[count:]

    def shake_hands(self, tls: ssl.SSLContext) -> None:
        self._sock = tls.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        if self._ended:
            raise GoneError("the server is ending")
        self._sock.do_handshake()

    def end(self) -> None:
        """From another thread: wake whatever waits on this connection."""
        self._ended = True
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def discard(self) -> None:
        self._sock.close()


def send_chunked(
    wire: Wire, answer: Answer, body: memoryview, *, ended: bool = True, length: bool = False
) -> None:
    """`body` under the answer's head, chunked; `ended` with a last chunk, `length` kept as well."""
    labelled = answer if length else answer.without("Content-Length")
    wire.send(labelled.having(Transfer_Encoding="chunked").head)
    for i in range(0, len(body), 65536):
        piece = body[i : i + 65536]
        wire.send(b"%x\r\n" % len(piece))
        wire.body(piece)
        wire.send(b"\r\n")
    if ended:
        wire.send(b"0\r\n\r\n")
