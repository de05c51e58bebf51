"""From an origin to an open channel: look up, connect, shake hands."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from segdl.core.dataclass import dataclass
from segdl.edges.transport.faults import ConnectFailed, ConnectTimedOut, LookupFailed
from segdl.edges.transport.wire.channel import Channel, Origin, reason
from segdl.edges.transport.wire.patience import Patience

if TYPE_CHECKING:
    import ssl

HEAD_START = 0.25  # seconds that an address is alone, before the next is tried beside it


@dataclass(frozen=True, slots=True)
class Address:
    """One way to reach a host, as `getaddrinfo` gives it."""

    family: socket.AddressFamily
    kind: socket.SocketKind
    protocol: int
    place: Any


def dial(
    origin: Origin,
    place: tuple[str, int],
    tls: Callable[[], ssl.SSLContext],
    window: int,
    patience: Patience,
) -> Channel:
    """A channel to `origin`, reached at `place`; one deadline for TCP and TLS together.

    The deadline begins after the lookup, which has the resolver's own timeouts and cannot be
    interrupted. Raises ConnectFailed.
    """
    context = tls() if origin.scheme == "https" else None
    addresses, end = look_up(*place), patience.deadline()
    sock = first_to_answer(addresses, place[0], end, window, patience)
    if context is None:
        return Channel(sock, origin, patience.tick)
    from segdl.edges.transport.wire.secured import shake_hands  # with OpenSSL, which takes time

    return shake_hands(sock, context, origin, end, patience)


def look_up(host: str, port: int) -> list[Address]:
    """The addresses of `host` in the system's order, at least one. Raises LookupFailed."""
    name = host.encode() if host.isascii() else host  # a `str` costs a start the codec for IDNA
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # ValueError: a label that IDNA cannot encode
        raise LookupFailed(f"no address found for {host}") from None
    return [Address(family, kind, protocol, place) for family, kind, protocol, _, place in found]


def first_to_answer(
    addresses: Sequence[Address], host: str, end: float, window: int, patience: Patience
) -> socket.socket:
    """A socket connected to the first of `addresses` that answers before `end` (monotonic).

    A dead address costs HEAD_START, or nothing if it refuses; the last error speaks for all of
    them. Raises ConnectTimedOut, ConnectFailed, and OSError where no descriptor is left.
    """
    try:
        return _race(addresses, end, window, patience)
    except TimeoutError:
        raise ConnectTimedOut(f"{host} did not answer") from None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # no fault of the host's: this process has no descriptor left
        raise ConnectFailed(f"cannot connect to {host}: {reason(error)}") from None


def _race(
    addresses: Sequence[Address], end: float, window: int, patience: Patience
) -> socket.socket:
    """Happy Eyeballs (RFC 8305, 5): each address a little after the one before, the first wins.

    Raises OSError, for a deadline TimeoutError, and ConnectFailed when interrupted.
    """
    left, begun, won = deque(addresses), list[socket.socket](), None
    due, error = 0.0, OSError()
    try:
        with selectors.DefaultSelector() as running:
            while left or running.get_map():
                now = time.monotonic()
                if left and (now >= due or not running.get_map()):
                    due = now + HEAD_START
                    try:
                        begun.append(_begin(left.popleft(), window))
                    except OSError as failed:
                        error = failed
                        continue
                    running.register(begun[-1], selectors.EVENT_WRITE, begun[-1])
                wait = min(patience.tick, end - now, due - now if left else patience.tick)
                for key, _ in running.select(max(0.0, wait)):
                    code = key.data.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        won = begun[begun.index(key.data)]
                        return won
                    running.unregister(key.data)
                    error, due = OSError(code, os.strerror(code)), now
                patience.go_on(end)
        raise error
    finally:
        for sock in begun:
            if sock is not won:
                sock.close()


def _begin(address: Address, window: int) -> socket.socket:
    """A socket that connects in the background. Raises OSError."""
    sock = socket.socket(address.family, address.kind, address.protocol)
    try:
        _tune(sock, window)
        sock.setblocking(False)
        code = sock.connect_ex(address.place)
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):  # the last is Windows' word
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def _tune(sock: socket.socket, window: int) -> None:
    """Set before connecting what the connection must have.

    What a killed client has received and not read is fetched again, so that must stay small. Only
    SO_RCVBUF bounds it (Linux keeps twice the number, its bookkeeping included, and no more than
    net.core.rmem_max allows). TCP_WINDOW_CLAMP does not: measured on Linux 6.18, the kernel offers
    a clamped window again and again until the buffer is full, and lets the buffer grow past it.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if window:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
