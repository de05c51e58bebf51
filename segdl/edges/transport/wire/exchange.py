"""One request, and the head of its answer."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from segdl.edges.transport.faults import BadAnswer, Lost, TimedOut, Unanswered
from segdl.edges.transport.wire import plain
from segdl.edges.transport.wire.channel import Channel
from segdl.edges.transport.wire.heads import FinalHead, RawHeaders
from segdl.edges.transport.wire.patience import Patience

if TYPE_CHECKING:
    from segdl.edges.transport.wire.parsed import Parser

MAX_HEADS = 64 * 1024  # bytes of all heads of one exchange; h11 alone let 2 MB pass in one feed
FEED = 4 * 1024  # bytes read for a head: what comes of the body with it is copied once more


class Exchange:
    """One question and one answer on a channel.

    One deadline covers the request and every head, so that neither a slow head nor a flood of
    interim answers can hold it longer.
    """

    def __init__(self, channel: Channel, patience: Patience) -> None:
        self._channel = channel
        self._patience = patience
        self._end = patience.deadline()
        self._room = MAX_HEADS
        self.parser: Parser | None = None  # where head or body is not plain

    def answer(self, target: bytes, headers: RawHeaders) -> FinalHead:
        """The head of the final answer to a GET of `target`.

        Raises Unanswered or Lost when the connection is lost or the wait interrupted, TimedOut at
        the deadline, BadAnswer for a head that breaks a rule, BadRequest.
        """
        asked = plain.request(target, headers)
        if asked is None:
            self.parser = _parser(target, headers)
            asked = self.parser.request
        try:
            self._send(memoryview(asked))
            came = self._receive()
            if self.parser is None and (head := plain.head(came)) is not None:
                return head
            self.parser = self.parser or _parser(target, headers)
            return self._final_head(self.parser, came)
        except Lost:
            if self._room < MAX_HEADS or self._channel.woken or self._patience.interrupted():
                raise
            raise Unanswered("connection closed before an answer") from None

    def _send(self, data: memoryview) -> None:
        while data:
            self._go_on()
            with contextlib.suppress(TimeoutError):
                data = data[self._channel.send(data) :]

    def _receive(self) -> bytes:
        """What comes next: nothing at the peer's end of stream, in the middle of a head."""
        while True:
            self._go_on()
            with contextlib.suppress(TimeoutError):
                data = self._channel.receive(min(FEED, self._room))
                if not data and self._room == MAX_HEADS:
                    raise Lost("closed")
                self._room -= len(data)
                return data

    def _final_head(self, parser: Parser, came: bytes) -> FinalHead:
        while (head := parser.head(came)) is None:
            if not self._room:
                raise BadAnswer(f"heads longer than {MAX_HEADS} bytes")
            came = self._receive()
        return head

    def _go_on(self) -> None:
        if self._patience.interrupted():
            raise Lost("interrupted")
        if time.monotonic() >= self._end:
            raise TimedOut(f"no whole head within {self._patience.timeout:g} s")


def _parser(target: bytes, headers: RawHeaders) -> Parser:
    """Raises BadRequest."""
    from segdl.edges.transport.wire.parsed import Parser  # with h11, which takes time

    return Parser(target, headers, MAX_HEADS)
