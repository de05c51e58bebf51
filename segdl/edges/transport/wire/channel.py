"""A connected socket whose every wait is one tick."""

import contextlib
import socket
import struct
import threading

from segdl.core.dataclass import dataclass
from segdl.edges.transport.faults import Lost


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom a connection belongs to: it carries requests of one origin only (RFC 9110, 4.3.1)."""

    scheme: str
    host: str
    port: int


class Channel:
    """A socket with its errors translated. One thread reads; any thread may wake."""

    _quiet: tuple[type[OSError], ...] = (BlockingIOError,)  # what an idle socket reads

    def __init__(self, sock: socket.socket, origin: Origin, tick: float) -> None:
        self.origin = origin
        self.tick = tick
        self.woken = False
        self._sock = sock
        self._gate = threading.Lock()
        self._prepare()

    def _prepare(self) -> None:
        """Let the kernel end a wait after a tick: Python's own timeout polls before every read,
        and makes the socket one that never waits for all of a view."""
        self._sock.settimeout(None)
        length = struct.pack("ll", int(self.tick), int(self.tick % 1 * 1e6))  # struct timeval
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._sock.setsockopt(socket.SOL_SOCKET, option, length)

    def readinto(self, view: memoryview) -> int:
        """Bytes placed in `view`, 0 at the peer's end of stream.

        As many as `view` has room for, if they come within a tick: each return costs the
        interpreter lock twice. Raises TimeoutError after a tick without bytes, with the connection
        still good, and Lost once it is lost or aborted.
        """
        return self._read(view, socket.MSG_WAITALL)

    def _read(self, view: memoryview, flags: int) -> int:
        try:
            count = self._sock.recv_into(view, 0, flags)
        except OSError as error:
            if ticked(error):
                raise TimeoutError("a tick without a byte") from None
            raise Lost(f"connection lost: {reason(error)}") from None
        if not count and self.woken:
            # Our own shutdown looks like the peer's end: it must not pass for a body that ended.
            raise Lost("interrupted")
        return count

    def receive(self, limit: int) -> bytes:
        """What has come, at most `limit` bytes, empty at the peer's end of stream; raises as
        `readinto`."""
        buffer = memoryview(bytearray(limit))
        return bytes(buffer[: self._read(buffer, 0)])

    def send(self, data: memoryview) -> int:
        """Bytes taken by the kernel; TimeoutError after a tick, Lost once it is lost."""
        try:
            return self._sock.send(data)
        except OSError as error:
            if ticked(error):
                raise TimeoutError("a tick without a byte") from None
            raise Lost(f"connection lost: {reason(error)}") from None

    def silent(self) -> bool:
        """Whether the idle connection is still open, with nothing unasked-for come in."""
        try:
            self._try_to_read()
        except self._quiet:
            return True
        except OSError:
            return False
        return False

    def _try_to_read(self) -> None:
        self._sock.recv(1, socket.MSG_DONTWAIT)

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
    """Whether `error` is the end of our own tick, Python's or the kernel's.

    The kernel's ETIMEDOUT (keep-alive probes unanswered) is a TimeoutError too, but has a number.
    """
    return isinstance(error, BlockingIOError) or (
        isinstance(error, TimeoutError) and error.errno is None
    )


def reason(error: Exception) -> str:
    """What the system or OpenSSL says about `error`; neither knows the URL."""
    return str(getattr(error, "strerror", None) or type(error).__name__)
