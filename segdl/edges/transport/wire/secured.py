"""A connection inside TLS: its handshake, and its records as bytes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from segdl.edges.transport.faults import ConnectFailed, ConnectTimedOut, TLSRejected
from segdl.edges.transport.wire.channel import Channel, Origin, reason, ticked
from segdl.edges.transport.wire.patience import Patience
from segdl.process import is_ours

if TYPE_CHECKING:
    from segdl.edges.transport.wire.records import Records

_preparing = threading.Lock()
_prepared: WeakSet[ssl.SSLContext] = WeakSet()


def prepared(context: ssl.SSLContext) -> ssl.SSLContext:
    """`context`, offering HTTP/1.1 only, and telling a cut connection from a finished one.

    Done once a context and never again, since workers share it: OpenSSL frees the old ALPN list
    while another thread's handshake may be copying it.
    """
    with _preparing:
        if context not in _prepared:
            context.set_alpn_protocols(["http/1.1"])
            context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
            _prepared.add(context)
    return context


def shake_hands(
    sock: socket.socket, context: ssl.SSLContext, origin: Origin, end: float, patience: Patience
) -> Channel:
    """`sock` inside TLS, its certificate checked for the host; `sock` is closed on any error.

    Raises TLSRejected, ConnectTimedOut at `end` (monotonic), else ConnectFailed.
    """
    host = origin.host
    try:
        secured, records = _secured(sock, context, host, end, patience)
        return SecuredChannel(secured, records, origin, patience.tick)
    except ssl.SSLCertVerificationError as error:
        raise TLSRejected(error.verify_message) from None
    except TimeoutError:
        raise ConnectTimedOut(f"{host} did not finish the TLS handshake") from None
    except (OSError, ValueError) as error:  # ValueError: a name that TLS cannot carry
        raise ConnectFailed(f"TLS with {host} failed: {reason(error)}") from None


def _secured(
    sock: socket.socket, context: ssl.SSLContext, host: str, end: float, patience: Patience
) -> tuple[ssl.SSLSocket, Records | None]:
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)  # once wrapped, `sock` is empty and this does nothing
        sock.settimeout(patience.tick)
        secured, records = _wrapped(
            lambda: prepared(context).wrap_socket(
                sock,
                server_hostname=host,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,  # else a cut connection reads like a finished one
            )
        )
        undo.callback(secured.close)
        while not _shaken(secured):
            patience.go_on(end)
        undo.pop_all()
    return secured, records


def _wrapped(wrap: Callable[[], ssl.SSLSocket]) -> tuple[ssl.SSLSocket, Records | None]:
    """What `wrap` makes, with its records where they can be read many at a time."""
    if not is_ours():
        return wrap(), None
    try:
        from segdl.edges.transport.wire.records import wrapped
    except (ImportError, MemoryError):  # a Python, or a system, that has no ctypes
        return wrap(), None
    return wrapped(wrap)


def _shaken(secured: ssl.SSLSocket) -> bool:
    try:
        secured.do_handshake()
    except TimeoutError as error:
        if not ticked(error):
            raise
        return False
    return True


class SecuredChannel(Channel):
    """A channel whose bytes come in records of TLS.

    Lost is also a connection that ends without a close_notify. Session tickets make the socket
    under TLS 1.3 readable although no byte of an answer has come: only a read of TLS's own tells.
    """

    _sock: ssl.SSLSocket
    _quiet = (BlockingIOError, ssl.SSLWantReadError)

    def __init__(
        self, sock: ssl.SSLSocket, records: Records | None, origin: Origin, tick: float
    ) -> None:
        self._records = records
        super().__init__(sock, origin, tick)

    def _prepare(self) -> None:
        self._sock.settimeout(self.tick)  # OpenSSL would read on after the kernel's own timeout

    def readinto(self, view: memoryview) -> int:
        count, end = self._read(view, 0), time.monotonic() + self.tick
        more, room = count, len(view)
        try:
            while more and count < room and time.monotonic() < end:
                more = self._more(view[count:])
                count += more
        except OSError:
            pass  # what has come comes first; a tick or a lost connection is met again
        return count

    def _more(self, view: memoryview) -> int:
        """Bytes placed in `view`, waited for as long as a tick; 0 at the end of the stream."""
        if self._records and (come := self._records.read(view)):
            return come
        # What SSLSocket keeps inside reads alike, without the four Python calls a record that it
        # puts around it: where records come one at a time, 5 to 9 % of a download's CPU time.
        inner: Any = getattr(self._sock, "_sslobj", None) or self._sock
        count: int = inner.read(len(view), view)
        return count

    def _try_to_read(self) -> None:
        self._sock.setblocking(False)
        try:
            self._sock.recv(1)
        finally:
            self._sock.settimeout(self.tick)
