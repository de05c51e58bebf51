"""A connected socket whose every wait is one tick."""

import contextlib
import socket
import ssl
import struct
import threading
import time
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
        self._flags = 0
        if isinstance(sock, ssl.SSLSocket):
            sock.settimeout(tick)  # OpenSSL would read on after the kernel's own timeout
        else:
            _tick_in_kernel(sock, tick)
            self._flags = socket.MSG_WAITALL

    def readinto(self, view: memoryview) -> int:
        """Bytes placed in `view`, 0 at the peer's end of stream.

        As many as `view` has room for, if they come within a tick: each return costs the
        interpreter lock twice. Raises TimeoutError after a tick without bytes, with the connection
        still good, and httpx.ReadError once it is lost, aborted, or (TLS) ended without a
        close_notify.
        """
        if self._flags:
            return self._read(view, self._flags)
        return self._read_records(view)

    def _read_records(self, view: memoryview) -> int:
        """OpenSSL hands out a record of at most 16 KiB at a time: a hundred of them, here, cost
        the layers above no more than one."""
        count, end = self._read(view, 0), time.monotonic() + self.tick
        more, read, now = count, self._sock.recv_into, time.monotonic
        try:
            while more and count < len(view) and now() < end:
                more = read(view[count:])  # 0 at the end, which the next call meets again
                count += more
        except OSError:
            pass  # what has come comes first; a tick or a lost connection is met again
        return count

    def _read(self, view: memoryview, flags: int) -> int:
        try:
            count = self._sock.recv_into(view, 0, flags)
        except OSError as error:
            if ticked(error):
                raise TimeoutError("a tick without a byte") from None
            raise httpx.ReadError(f"connection lost: {reason(error)}") from None
        if not count and self.woken:
            # Our own shutdown looks like the peer's end: it must not pass for a body that ended.
            raise httpx.ReadError("interrupted")
        return count

    def receive(self, limit: int) -> bytes:
        """What has come, at most `limit` bytes, empty at the peer's end of stream; raises as
        `readinto`."""
        buffer = memoryview(bytearray(limit))
        return bytes(buffer[: self._read(buffer, 0)])

    def send(self, data: memoryview) -> int:
        """Bytes taken by the kernel; TimeoutError after a tick, httpx.WriteError once lost."""
        try:
            return self._sock.send(data)
        except OSError as error:
            if ticked(error):
                raise TimeoutError("a tick without a byte") from None
            raise httpx.WriteError(f"connection lost: {reason(error)}") from None

    def silent(self) -> bool:
        """Whether the idle connection is still open, with nothing unasked-for come in.

        A read that does not block is the only probe that fits TLS as well: session tickets make
        the socket under TLS 1.3 readable although no byte of an answer has come.
        """
        try:
            self._try_to_read()
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def _try_to_read(self) -> None:
        if not isinstance(self._sock, ssl.SSLSocket):
            self._sock.recv(1, socket.MSG_DONTWAIT)
            return
        self._sock.setblocking(False)
        try:
            self._sock.recv(1)
        finally:
            self._sock.settimeout(self.tick)

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


def _tick_in_kernel(sock: socket.socket, tick: float) -> None:
    """Let the kernel end a wait after a tick: Python's own timeout polls before every read, and
    makes the socket one that never waits for all of a view."""
    sock.settimeout(None)
    length = struct.pack("ll", int(tick), int(tick % 1 * 1e6))  # struct timeval
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, length)


def ticked(error: OSError) -> bool:
    """Whether `error` is the end of our own tick, Python's or the kernel's.

    The kernel's ETIMEDOUT (keep-alive probes unanswered) is a TimeoutError too, but has a number.
    """
    return isinstance(error, BlockingIOError) or (
        isinstance(error, TimeoutError) and error.errno is None
    )


def reason(error: Exception) -> str:
    """What the system or OpenSSL says about `error`; neither knows the URL."""
    return str(getattr(error, "strerror", None) or type(error).__name__)
