"""One request, and the head of its answer."""

import contextlib
import functools
import re
import time
from collections.abc import Sequence

import h11
from h11._headers import Headers

from segdl.edges.transport.faults import BadAnswer, BadRequest, Lost, TimedOut, Unanswered
from segdl.edges.transport.wire.channel import Channel
from segdl.edges.transport.wire.patience import Patience

MAX_HEADS = 64 * 1024  # bytes of all heads of one exchange; h11 alone let 2 MB pass in one feed
MAX_INTERIM = 16
RawHeaders = Sequence[tuple[bytes, bytes]]
FEED = 4 * 1024  # bytes read for a head: what comes of the body with it is copied once more


class Exchange:
    """A fresh h11 connection on a channel: `answer` once, then `parser` and `early` for the body.

    One deadline covers the request and every head, so that neither a slow head nor a flood of
    interim answers can hold it longer.
    """

    def __init__(self, channel: Channel, patience: Patience) -> None:
        self.parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADS)
        self._channel = channel
        self._patience = patience
        self._end = patience.deadline()
        self._room = MAX_HEADS

    def answer(self, target: bytes, headers: RawHeaders) -> h11.Response:
        """The head of the final answer to a GET of `target`.

        Raises Unanswered or Lost when the connection is lost or the wait interrupted, TimedOut at
        the deadline, BadAnswer for a head that breaks a rule, BadRequest.
        """
        data = encoded(self.parser, target, headers)
        try:
            self._send(memoryview(data))
            return self._final_head()
        except Lost:
            if self._room < MAX_HEADS or self._channel.woken or self._patience.interrupted():
                raise
            raise Unanswered("connection closed before an answer") from None

    def early(self) -> bytes:
        """The bytes that came after the head, in the same feed."""
        return self.parser.trailing_data[0]

    def _send(self, data: memoryview) -> None:
        while data:
            self._go_on()
            with contextlib.suppress(TimeoutError):
                data = data[self._channel.send(data) :]

    def _final_head(self) -> h11.Response:
        interim = 0
        while interim <= MAX_INTERIM:
            match next_event(self.parser):
                case h11.Response() as head:
                    return head
                case h11.InformationalResponse():  # 101 is an error in h11: none was offered
                    interim += 1
                case _:
                    self._feed()
        raise BadAnswer(f"more than {MAX_INTERIM} interim answers")

    def _feed(self) -> None:
        self._go_on()
        if not self._room:
            raise BadAnswer(f"heads longer than {MAX_HEADS} bytes")
        with contextlib.suppress(TimeoutError):
            data = self._channel.receive(min(FEED, self._room))
            if not data and self._room == MAX_HEADS:
                raise Lost("closed")
            self._room -= len(data)
            self.parser.receive_data(data)

    def _go_on(self) -> None:
        if self._patience.interrupted():
            raise Lost("interrupted")
        if time.monotonic() >= self._end:
            raise TimedOut(f"no whole head within {self._patience.timeout:g} s")


def encoded(parser: h11.Connection, target: bytes, headers: RawHeaders) -> bytes:
    """The request's bytes, its target exactly as the caller gave it. Raises BadRequest."""
    try:
        head = h11.Request(method="GET", target=target, headers=_normalised(tuple(headers)))
        return parser.send(head) + parser.send(h11.EndOfMessage())
    except h11.LocalProtocolError as error:
        raise BadRequest(f"bad request: {_without_bytes(error)}") from None


@functools.lru_cache(maxsize=64)
def _normalised(headers: tuple[tuple[bytes, bytes], ...]) -> Headers:
    """Headers as h11 has them once it has looked at them: most requests have the same ones."""
    return h11.Request(method="GET", target="/", headers=list(headers)).headers


def next_event(parser: h11.Connection) -> object:
    """h11's next event, its protocol error translated to BadAnswer."""
    try:
        return parser.next_event()
    except h11.RemoteProtocolError as error:
        raise BadAnswer(f"bad answer: {_without_bytes(error)}") from None


def declared_length(head: h11.Response) -> int | None:
    """Bytes of the body, None where only its framing or the close will tell (RFC 9112, 6.3).

    h11 has refused lengths that differ or are no number. Raises BadAnswer for a length
    beside a transfer coding, which h11 would pass (request smuggling, RFC 9112, 6.1).
    """
    fields = dict(head.headers)
    length = fields.get(b"content-length")
    coded = b"transfer-encoding" in fields
    if coded and length is not None:
        raise BadAnswer("bad answer: both a length and a transfer coding")
    if head.status_code in (204, 304):
        return 0
    return None if length is None else int(length)


def _without_bytes(error: Exception) -> str:
    """h11's words without the bytes it quotes: a server may echo the URL there."""
    return re.split(r":? b(?:ytearray\(b)?['\"]", str(error), maxsplit=1)[0]
