"""The one connection of a worker: made, kept while that is safe, closed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from segdl.edges.transport.faults import Unanswered
from segdl.edges.transport.wire.bodies import Reply, body_of
from segdl.edges.transport.wire.channel import Channel, Origin
from segdl.edges.transport.wire.dial import dial
from segdl.edges.transport.wire.exchange import Exchange
from segdl.edges.transport.wire.heads import RawHeaders
from segdl.edges.transport.wire.patience import Patience

if TYPE_CHECKING:
    import ssl


class WireTransport:
    """GETs with at most one connection open. One thread; `abort` from any.

    A connection is used again only for the same origin, and only if the last body was read to its
    end, nothing came after it, the server goes on, and the idle socket is silent. Where a kept
    connection dies all the same before its answer's first byte, a new one is tried once: servers
    close idle connections without saying so.
    """

    def __init__(
        self,
        *,
        tls: Callable[[], ssl.SSLContext],
        timeout: float,
        interrupted: Callable[[], bool],
        connect_to: Mapping[tuple[str, int], tuple[str, int]] = {},
        tick: float = 0.2,
        window: int = 512 * 1024,
    ) -> None:
        """`timeout` and `tick` in seconds, `window` in bytes (0: as the kernel likes).

        `timeout` bounds connecting, then again the request with its head. `connect_to` redirects
        the TCP connection alone, by host and port; host names are in lower case, IPv6 ones without
        brackets.
        """
        self._tls = tls
        self._patience = Patience(timeout, tick, interrupted)
        self._connect_to = connect_to
        self._window = window
        self._channel: Channel | None = None
        self._current: Exchange | None = None  # whose body is still out; None: the channel is idle

    def get(self, origin: Origin, target: bytes, headers: RawHeaders) -> Reply:
        """The answer to a GET of `target`, exactly as it is given, its body unread.

        Raises ConnectFailed before the connection stands, and as `Exchange.answer` after.
        """
        kept = self._kept(origin)
        if kept is not None:
            with suppress(Unanswered):
                return self._ask(kept, target, headers)
        return self._ask(self._dial(origin), target, headers)

    def abort(self) -> None:
        """Wake a blocked read from any thread; the connection is lost, the transport is not."""
        channel = self._channel
        if channel is not None:
            channel.wake()

    def close(self) -> None:
        """Close the connection, if there is one."""
        channel, self._channel, self._current = self._channel, None, None
        if channel is not None:
            channel.close()

    def _kept(self, origin: Origin) -> Channel | None:
        channel = self._channel
        idle = channel is not None and self._current is None
        if channel and idle and channel.origin == origin and channel.silent():
            return channel
        self.close()
        return None

    def _dial(self, origin: Origin) -> Channel:
        here = (origin.host, origin.port)
        place = self._connect_to.get(here, here)
        return dial(origin, place, self._tls, self._window, self._patience)

    def _ask(self, channel: Channel, target: bytes, headers: RawHeaders) -> Reply:
        exchange = Exchange(channel, self._patience)
        self._channel, self._current = channel, exchange
        try:
            head = exchange.answer(target, headers)
            body = body_of(head, exchange.parser, channel, partial(self._release, exchange))
            return Reply(head.status, head.headers, body)
        except BaseException:
            self.close()
            raise

    def _release(self, exchange: Exchange, kept: bool) -> None:
        if exchange is not self._current:
            return  # released before; the channel may serve a later exchange by now
        self._current = None
        if not kept:
            self.close()
