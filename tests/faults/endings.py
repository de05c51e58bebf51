"""Faults of the wire itself: early ends, no ends, silence (S12, S13, S22, S23, N02 to N04)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.faults import answers
from tests.faults.answers import Answer, Seen
from tests.faults.wire import Fault, Wire, send_chunked

SCRAP = bytes(65536)
_LATE = 0.1  # seconds that a line makes up for: more after a standstill, and it would not be slow


# S12, S13: bodies that end too early, or not where they say.


def hang_up(*, by_reset: bool = False) -> Fault:
    """S12, N02: the connection ends without a byte of an answer."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        wire.reset() if by_reset else wire.close()
        return None

    return fault


def cut(after: int) -> Fault:
    """S12, N02: an orderly end after `after` bytes of the body."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        _send_first(wire, answer, after)
        wire.close()
        return None

    return fault


def reset(after: int) -> Fault:
    """N02: a TCP reset after exactly `after` bytes of the body have reached the client."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        _send_first(wire, answer, after)
        wire.reset()
        return None

    return fault


def no_length(after: int | None = None) -> Fault:
    """S12: no length; the end of the connection ends the body, complete or after `after` bytes."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        bare = answer.without("Content-Length").having(Connection="close")
        _send_first(wire, bare, len(answer.body) if after is None else after)
        wire.close()
        return None

    return fault


def cut_chunked(after: int) -> Fault:
    """S12: chunked, and the connection ends after `after` bytes without the last chunk."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        send_chunked(wire, answer, answer.body[:after], ended=False)
        wire.close()
        return None

    return fault


def bad_chunk(after: int = 0, size_line: bytes = b"not hex") -> Fault:
    """S12: chunked, and after `after` bytes the size of the next chunk is nonsense."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        send_chunked(wire, answer, answer.body[:after], ended=False)
        wire.send(size_line + b"\r\n")
        wire.body(answer.body[after:])
        wire.close()
        return None

    return fault


def two_lengths() -> Fault:
    """S13: two `Content-Length`s that differ; the body has the first."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        return answer.adding("Content-Length", str(len(answer.body) + 1))

    return fault


def negative_length() -> Fault:
    """S13: `Content-Length: -1`."""
    return lambda wire, request, answer: answer.having(Content_Length="-1")


def length_and_chunked() -> Fault:
    """S13: `Content-Length` and chunked together."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        send_chunked(wire, answer, answer.body, length=True)
        return None

    return fault


# S22: without an end. They end when the client hangs up or the server ends.


def endless_1xx(status: int = 103) -> Fault:
    """S22: interim answers for ever."""
    interim = f"HTTP/1.1 {status} {answers.reason(status)}\r\nLink: <x>\r\n\r\n".encode()

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        while True:
            wire.send(interim)

    return fault


def endless_headers() -> Fault:
    """S22: a head that never ends."""
    lines = b"".join(b"X-Padding-%03d: %s\r\n" % (i, b"x" * 60) for i in range(100))

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        wire.send(answer.head.removesuffix(b"\r\n"))
        while True:
            wire.send(lines)

    return fault


def endless_body(*, declared: bool = True) -> Fault:
    """S22: more and more bytes after the honest body; `declared=False` also drops its length."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        wire.send((answer if declared else answer.without("Content-Length")).head)
        wire.body(answer.body)
        while True:
            wire.body(SCRAP)

    return fault


# S23: connections that end.


def connection_close() -> Fault:
    """S23: `Connection: close`, and done."""
    return lambda wire, request, answer: answer.having(Connection="close")


def http10() -> Fault:
    """S23: HTTP/1.0, which closes."""
    return lambda wire, request, answer: replace(answer, version="HTTP/1.0")


def lying_keep_alive(*, late: bool = False) -> Fault:
    """S23: promises to keep the connection and closes it; `late`: as the next request arrives."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        wire.answer(answer.having(Connection="keep-alive", Keep_Alive="timeout=60, max=1000"))
        if late:
            wire.hear()
        wire.close()
        return None

    return fault


# N03, N04: slow and silent.


def trickle(bytes_per_second: float) -> Fault:
    """N04: the head at once, the body at this rate: 1 is a trickle, 1e6 a slow line."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        wire.send(answer.head)
        _at_rate(wire, answer.body, bytes_per_second)
        return None

    return fault


def slow_head(bytes_per_second: float = 1.0) -> Fault:
    """N03: the head at one byte a second."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        for i in range(len(answer.head)):
            wire.pause(1 / bytes_per_second)
            wire.send(answer.head[i : i + 1])
        wire.body(answer.body)
        return None

    return fault


def blackhole(after: int | None = None) -> Fault:
    """N03: `after` bytes of the body and then silence for ever; None: not even a head."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        if after is not None:
            _send_first(wire, answer, after)
        wire.pause()
        return None

    return fault


def pause(seconds: float, after: int | None = None) -> Fault:
    """Silence of some seconds after `after` bytes of the body (None: before the head)."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        with _interrupted(wire, answer, after):
            wire.pause(seconds)
        return None

    return fault


def held(gate: threading.Event, after: int | None = None) -> Fault:
    """Like `pause`, until the test opens the gate: for tests that must not sleep."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        with _interrupted(wire, answer, after):
            while not gate.is_set():
                wire.pause(0.005)
        return None

    return fault


@contextmanager
def _interrupted(wire: Wire, answer: Answer, after: int | None) -> Iterator[None]:
    """The answer, with something in the middle of it."""
    if after is None:
        yield
        return wire.answer(answer)
    _send_first(wire, answer, after)
    yield
    wire.body(answer.body[after:])


def _at_rate(wire: Wire, body: memoryview, bytes_per_second: float) -> None:
    due = time.monotonic()
    step = max(1, int(bytes_per_second / 50))
    for i in range(0, len(body), step):
        piece = body[i : i + step]
        due = max(due + len(piece) / bytes_per_second, time.monotonic() - _LATE)
        wire.pause(max(0.0, due - time.monotonic()))
        wire.body(piece)


def _send_first(wire: Wire, answer: Answer, count: int) -> None:
    wire.send(answer.head)
    wire.body(answer.body[:count])
