"""TLS over a socket, through memory: records come in bulk, and one thread at a time decrypts.

OpenSSL hands out a record of at most 16 KiB a call, and Python drops its lock for each. Several
threads at it at once spend more time handing that lock to each other than decrypting; so they take
turns, a buffer at a time. And many records are received at once, where OpenSSL on a socket would
make two system calls for each.
"""

import contextlib
import socket
import ssl
import threading
import time

_BULK = 512 * 1024  # bytes of records received at once
_AHEAD = 64 * 1024  # ... where nothing says how many are still to come
_RECORD = 17 * 1024  # no record is longer, its header included (RFC 8446, 5.2)
_turn = threading.Lock()


class Secured:
    """A connected socket inside TLS. It waits as the socket does. One thread reads and writes."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, host: str, tick: float
    ) -> None:
        """The handshake is still to be made. Raises ValueError for a name that TLS cannot carry."""
        self._sock = sock
        self._tick = tick
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._records = memoryview(bytearray(_BULK))
        self._unsent = memoryview(b"")
        self._ended = False  # the peer has said that nothing more comes

    def shake(self) -> bool:
        """Go on with the handshake: True once it is made, False after a step. Raises OSError,
        BlockingIOError after a tick without a byte."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            self._receive(_AHEAD, 0)
            return False
        except ssl.SSLError:
            with contextlib.suppress(OSError):
                self._flush()  # the alert, which tells the server's operator why
            raise
        self._flush()
        return True

    def recv_into(self, view: memoryview, _: int = 0, flags: int = 0) -> int:
        """Decrypted bytes placed in `view`, as `socket.recv_into` does it, MSG_WAITALL and
        MSG_DONTWAIT included; 0 after a close_notify. Raises OSError: SSLEOFError where the stream
        was cut, BlockingIOError where nothing came."""
        whole, end = flags & socket.MSG_WAITALL, time.monotonic() + self._tick
        count = self._decrypt(view)
        while not self._ended and (not count or (whole and count < len(view))):
            try:
                self._receive_for(len(view) - count, flags)
                count += self._decrypt(view[count:])
                if time.monotonic() >= end and not (self._ended or count):
                    raise BlockingIOError("records, but no byte of content, within a tick")
            except OSError:
                if not count:
                    raise
                break  # what has come comes first; the next call meets the error again
        return count

    def send(self, data: memoryview) -> int:
        """Encrypt and send; all of `data` is sent once this returns. Raises OSError; after a
        BlockingIOError call again with the same."""
        if not self._unsent:
            self._tls.write(data)
        self._flush()
        return len(data)

    def _flush(self) -> None:
        self._unsent = self._unsent or memoryview(self._outgoing.read())
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]

    def _receive_for(self, missing: int, flags: int) -> None:
        """Records for `missing` bytes of content, which the caller knows will come (MSG_WAITALL).

        OpenSSL may hold the beginning of one record: what is surely still to come is less by that.
        """
        sure = missing - _RECORD if flags & socket.MSG_WAITALL else 0
        if sure > 0:
            self._receive(min(sure, _BULK), flags)
        else:
            self._receive(_AHEAD, flags & ~socket.MSG_WAITALL)

    def _receive(self, most: int, flags: int) -> None:
        if count := self._sock.recv_into(self._records[:most], 0, flags):
            self._incoming.write(self._records[:count])
        else:
            self._incoming.write_eof()

    def _decrypt(self, view: memoryview) -> int:
        """What is at hand, at most what `view` has room for."""
        count = 0
        try:
            with _turn:
                while count < len(view) and not self._ended:
                    got = self._read(view[count:])
                    count, self._ended = count + got, not got  # no content: a close_notify
        except ssl.SSLWantReadError:
            if self._outgoing.pending:
                self._flush()  # the answer to a message between the records
        except ssl.SSLError:
            if not count:
                raise
        return count

    def _read(self, view: memoryview) -> int:
        """One record's content, or a part of it; typeshed knows only the form that gives bytes."""
        return self._tls.read(len(view), view)  # type: ignore[return-value]
