"""A server that does to each connection exactly what one function says."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Handler = Callable[[socket.socket], None]
PATIENCE = 40.0  # seconds after which a handler that still waits has gone wrong


class RawServer:
    """Hands every accepted connection to `handler`, in a thread, and closes it afterwards.

    A peer that goes away, or that refuses the handshake, is part of many scripts: OSError ends a
    handler quietly. Any other error of a handler is raised by `close`.
    """

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None, host: str) -> None:
        self.accepted = 0
        self._handler = handler
        self._tls = tls
        self._errors: list[BaseException] = []
        self._live: list[tuple[threading.Thread, socket.socket]] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def close(self) -> None:
        """Stop listening, cut what is open, join every thread. Raises what a handler raised."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone would not wake accept()
        self._acceptor.join(PATIENCE)
        self._listener.close()
        for thread, sock in self._live:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a handler does not end"
        if self._errors:
            raise self._errors[0]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.accepted += 1
                self._start(self._dressed(sock))

    def _dressed(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return sock
        return self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def _start(self, sock: socket.socket) -> None:
        thread = threading.Thread(target=self._run, args=(sock,))
        self._live.append((thread, sock))
        thread.start()

    def _run(self, sock: socket.socket) -> None:
        with sock:
            try:
                if isinstance(sock, ssl.SSLSocket):
                    sock.do_handshake()
                self._handler(sock)
            except OSError:
                pass
            except BaseException as error:
                self._errors.append(error)


@contextmanager
def raw_server(
    handler: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[RawServer]:
    """A RawServer on a free port of `host`, gone with all its threads at the end."""
    server = RawServer(handler, tls, host)
    try:
        yield server
    finally:
        server.close()


def read_head(sock: socket.socket) -> bytes:
    """The next request's head with its empty line; b"" where the peer has closed."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def answers(*replies: bytes) -> Handler:
    """A handler that answers the requests of each connection with `replies`, then closes."""

    def handler(sock: socket.socket) -> None:
        for reply in replies:
            if not read_head(sock):
                return
            sock.sendall(reply)

    return handler


def forever(reply: bytes) -> Handler:
    """A handler that gives `reply` to every request until the peer closes."""

    def handler(sock: socket.socket) -> None:
        while read_head(sock):
            sock.sendall(reply)

    return handler


def reset(sock: socket.socket) -> None:
    """Close so that the peer gets a reset, not an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
