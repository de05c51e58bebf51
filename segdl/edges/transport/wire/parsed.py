"""Heads that are not plain, and bodies of no told length, as h11 takes them apart."""

from __future__ import annotations

import re

import h11

from segdl.edges.transport.faults import BadAnswer, BadRequest
from segdl.edges.transport.wire.heads import FinalHead, RawHeaders

MAX_INTERIM = 16


class Parser:
    """A fresh h11 connection, for one exchange."""

    def __init__(self, target: bytes, headers: RawHeaders, largest: int) -> None:
        """For a GET of `target`, exactly as it is given, and heads of at most `largest` bytes.
        Raises BadRequest."""
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=largest)
        self._interim = 0
        self.framed = False  # whether the end of the body proves that it is whole
        self.request = self._asked(target, headers)  # its bytes

    def _asked(self, target: bytes, headers: RawHeaders) -> bytes:
        try:
            asked = h11.Request(method="GET", target=target, headers=list(headers))
            return self._connection.send(asked) + self._connection.send(h11.EndOfMessage())
        except h11.LocalProtocolError as error:
            raise BadRequest(f"bad request: {_without_bytes(error)}") from None

    def head(self, data: bytes) -> FinalHead | None:
        """The head of the final answer, once what comes completes it; nothing came at the peer's
        end of stream. Raises BadAnswer for what breaks a rule."""
        self.feed(data)
        while True:
            match self._next_event():
                case h11.Response() as head:
                    return self._final(head)
                case h11.InformationalResponse():  # 101 is an error in h11: none was offered
                    self._interim += 1
                    if self._interim > MAX_INTERIM:
                        raise BadAnswer(f"more than {MAX_INTERIM} interim answers")
                case _:
                    return None

    def _final(self, head: h11.Response) -> FinalHead:
        length, headers = _declared_length(head), head.headers.raw_items()
        self.framed = any(name == b"transfer-encoding" for name, _ in head.headers)
        return FinalHead(head.status_code, headers, self.surplus, length, self.keeps)

    def feed(self, data: bytes) -> None:
        """Take what came; nothing is the peer's end of stream."""
        self._connection.receive_data(data)

    def body(self) -> bytes | None:
        """The next bytes of the body, of which there are none once it has ended; None until more
        has come. Raises BadAnswer for what breaks a rule."""
        match self._next_event():
            case h11.Data(data=found):
                return found
            case h11.EndOfMessage():
                return b""
        return None

    def _next_event(self) -> object:
        try:
            return self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise BadAnswer(f"bad answer: {_without_bytes(error)}") from None

    @property
    def keeps(self) -> bool:
        """Whether the server takes another request: no `Connection: close`, no HTTP/1.0."""
        return self._connection.our_state is h11.DONE

    @property
    def surplus(self) -> bytes:
        """What came and is not taken apart."""
        return self._connection.trailing_data[0]


def _declared_length(head: h11.Response) -> int | None:
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
