"""A connected socket whose every wait is one tick."""

import contextlib
import socket
import ssl
import threading
from dataclasses import dataclass

import httpx


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom a connection belongs to: it carries requests of one origin only (RFC 9110, 4.3.1)."""

    scheme: str
    host: str
    port: int


class Channel:
    """A socket, plain or TLS, with its errors translated. One thread reads; any thread may wake."""

    def __init__(self, sock: socket.socket, origin: Origin, tick: float) -> None:
        self.origin = origin
        self.tick = tick
        self.woken = False
        self._sock = sock
        self._gate = threading.Lock()
        sock.settimeout(tick)

    def readinto(self, view: memoryview) -> int:
        """Bytes placed in `view`, 0 at the peer's end of stream.

        Raises TimeoutError after a tick without bytes, with the connection still good, and
        httpx.ReadError once it is lost, aborted, or (TLS) ended without a close_notify.
        """
        try:
            count = self._sock.recv_into(view)
        except OSError as error:
            if ticked(error):
                raise
            raise httpx.ReadError(f"connection lost: {reason(error)}") from None
        if not count and self.woken:
            # Our own shutdown looks like the peer's end: it must not pass for a body that ended.
            raise httpx.ReadError("interrupted")
        return count

    def receive(self, limit: int) -> bytes:
        """At most `limit` bytes, empty at the peer's end of stream; raises as `readinto`."""
        buffer = memoryview(bytearray(limit))
        return bytes(buffer[: self.readinto(buffer)])

    def send(self, data: memoryview) -> int:
        """Bytes taken by the kernel; TimeoutError after a tick, httpx.WriteError once lost."""
        try:
            return self._sock.send(data)
        except OSError as error:
            if ticked(error):
                raise
            raise httpx.WriteError(f"connection lost: {reason(error)}") from None

    def silent(self) -> bool:
        """Whether the idle connection is still open, with nothing unasked-for come in.

        A read that does not block is the only probe that fits TLS as well: session tickets make
        the socket under TLS 1.3 readable although no byte of an answer has come.
        """
        self._sock.setblocking(False)
        try:
            self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._sock.settimeout(self.tick)
            return True
        except OSError:
            return False
        return False

    def wake(self) -> None:
        """End a read that blocks in another thread; later ones get at most what had come in.

        `close()` would leave the reader blocked, and `SSLSocket.shutdown()` drops the TLS layer
        while the reader is inside it, which can hand it ciphertext as if it were body.
        """
        # The gate keeps shutdown() off a descriptor that close() has just given to another file.
        with self._gate, contextlib.suppress(OSError):
            self.woken = True
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; twice does no harm."""
        with self._gate:
            self._sock.close()


def ticked(error: OSError) -> bool:
    """Whether `error` is the end of our own tick.

    The kernel's ETIMEDOUT (keep-alive probes unanswered) is a TimeoutError too, but has a number.
    """
    return isinstance(error, TimeoutError) and error.errno is None


def reason(error: Exception) -> str:
    """What the system or OpenSSL says about `error`; neither knows the URL."""
    return str(getattr(error, "strerror", None) or type(error).__name__)
