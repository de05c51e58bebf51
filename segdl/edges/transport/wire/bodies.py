"""The bytes of an answer's body, into the caller's view."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from segdl.core.dataclass import dataclass
from segdl.edges.transport.faults import BadAnswer
from segdl.edges.transport.wire.channel import Channel
from segdl.edges.transport.wire.heads import FinalHead, RawHeaders

if TYPE_CHECKING:
    from segdl.edges.transport.wire.parsed import Parser

FEED = 64 * 1024
Release = Callable[[bool], None]  # gives the connection back; True: it may be used again


class Body(Protocol):
    """The seam through which all bodies are read. One thread."""

    @property
    def framed(self) -> bool:
        """False where the body ends with the connection: then its end proves nothing."""

    def readinto(self, view: memoryview) -> int:
        """Bytes placed in `view` (not empty), 0 once the body has ended properly.

        Raises TimeoutError when no byte came within a tick and the connection is still good: call
        again, or lose patience. Raises Lost or BadAnswer when the body is cut short or
        broken.
        """

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it. Idempotent."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's answer: its status, its headers as they came, and its body, unread."""

    status: int
    headers: RawHeaders
    body: Body

    def get(self, name: bytes) -> str | None:
        """The first value of a header, whose name is in lower case, or None."""
        values = (v.decode("latin-1") for k, v in self.headers if k.lower() == name)
        return next(values, None)


def body_of(head: FinalHead, parser: Parser | None, channel: Channel, release: Release) -> Body:
    """The body that follows `head`, which `parser` has read, if one has."""
    if head.length is None:
        assert parser is not None  # nobody else reads such a head
        return ParsedBody(channel, parser, release)
    return CountedBody(channel, head.length, head.early, head.keeps, release)


class CountedBody:
    """A body of known length: received straight into the caller's view, never past its end."""

    framed = True

    def __init__(
        self, channel: Channel, length: int, early: bytes, kept: bool, release: Release
    ) -> None:
        self._channel = channel
        self._early = memoryview(early)[:length]
        self._left = length
        self._kept = kept and len(early) <= length  # what came after the body belongs to nobody
        self._release = release

    def readinto(self, view: memoryview) -> int:
        _require_room(view)
        if not self._left:
            return 0
        count = self._take(view) if self._early else self._receive(view)
        self._left -= count
        return count

    def close(self) -> None:
        self._release(self._kept and not self._left)

    def _take(self, view: memoryview) -> int:
        count = _copy(self._early, view)
        self._early = self._early[count:]
        return count

    def _receive(self, view: memoryview) -> int:
        count = self._channel.readinto(view[: self._left])
        if not count:
            raise BadAnswer("body cut short")
        return count


class ParsedBody:
    """A chunked body, or one that ends with the connection."""

    def __init__(self, channel: Channel, parser: Parser, release: Release) -> None:
        self.framed = parser.framed
        self._channel = channel
        self._parser = parser
        self._held = memoryview(b"")
        self._ended = False
        self._release = release

    def readinto(self, view: memoryview) -> int:
        _require_room(view)
        self._fill()
        count = _copy(self._held, view)
        self._held = self._held[count:]
        return count

    def close(self) -> None:
        kept = self._ended and not self._parser.surplus and self._parser.keeps
        self._release(kept and self.framed)

    def _fill(self) -> None:
        """Hold some data, unless the body has ended."""
        end = time.monotonic() + self._channel.tick
        while not self._held and not self._ended:
            if (data := self._parser.body()) is None:
                self._feed(end)
            self._held, self._ended = memoryview(data or b""), data == b""

    def _feed(self, end: float) -> None:
        # Framing alone is no progress: trailers at a byte a second must not hold the caller.
        if time.monotonic() >= end:
            raise TimeoutError("no data within a tick")
        self._parser.feed(self._channel.receive(FEED))


def _copy(source: memoryview, view: memoryview) -> int:
    count = min(len(source), len(view))
    view[:count] = source[:count]
    return count


def _require_room(view: memoryview) -> None:
    if not len(view):
        raise ValueError("an empty view: 0 would pass for the end of the body")
