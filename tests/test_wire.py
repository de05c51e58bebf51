"""edges.transport.wire against real sockets: a scripted server for every rule of its modules."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import fcntl
import gc
import itertools
import os
import select
import socket
import ssl
import struct
import sys
import termios
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trustme

from segdl import process
from segdl.edges.transport import wire
from segdl.edges.transport.faults import (
    BadAnswer,
    BadRequest,
    ConnectFailed,
    ConnectTimedOut,
    LookupFailed,
    Lost,
    TimedOut,
    TLSRejected,
)
from segdl.edges.transport.wire import Reply, WireTransport, plain, records
from segdl.edges.transport.wire.channel import Origin
from segdl.edges.transport.wire.dial import Address, dial, first_to_answer
from segdl.edges.transport.wire.exchange import MAX_HEADS
from segdl.edges.transport.wire.parsed import MAX_INTERIM
from segdl.edges.transport.wire.patience import Patience
from segdl.edges.transport.wire.secured import SecuredChannel
from tests.orders import HANGS, SOON, until
from tests.scripted import Handler, RawServer, answers, forever, raw_server, read_head, reset

SECRET = "X-Amz-Signature=5ec2e7"
TARGET = f"/key?{SECRET}".encode()
TICK = 0.05
OK = b"HTTP/1.1 200 OK\r\n"
FIVE = OK + b"Content-Length: 5\r\n\r\nhello"
Make = Callable[..., WireTransport]


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


@pytest.fixture
def make() -> Iterator[Make]:
    """`make(**options)`: a WireTransport that is closed at the end of the test.

    It is interrupted when a test takes longer than any should, for no failure to hang.
    """
    over = after(HANGS)
    with contextlib.ExitStack() as stack:

        def made(
            *,
            tls: ssl.SSLContext | None = None,
            timeout: float = 60.0,
            interrupted: Callable[[], bool] = over,
            connect_to: dict[tuple[str, int], tuple[str, int]] | None = None,
            tick: float = SOON,
            window: int = 512 * 1024,
        ) -> WireTransport:
            transport = WireTransport(
                tls=lambda: tls or ssl.create_default_context(),
                timeout=timeout,
                interrupted=interrupted,
                connect_to=connect_to or {},
                tick=tick,
                window=window,
            )
            return stack.enter_context(contextlib.closing(transport))

        yield made


@pytest.fixture(params=["plain", "h11"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads heads that are plain."""
    if request.param == "h11":
        monkeypatch.setattr(plain, "head", lambda data: None)


by_both = pytest.mark.usefixtures("reader")


def get(
    transport: WireTransport,
    server: RawServer,
    *,
    scheme: str = "http",
    host: str = "127.0.0.1",
    target: bytes | None = None,
) -> Reply:
    return asked(transport, scheme, host, server.port, target)


def asked(
    transport: WireTransport, scheme: str, host: str, port: int, target: bytes | None = None
) -> Reply:
    headers = [(b"Host", f"{host}:{port}".encode())]
    return transport.get(Origin(scheme, host.strip("[]"), port), target or TARGET, headers)


def drained(reply: Reply, size: int = 4096) -> bytes:
    """The whole body, read through views of `size` bytes, its connection given back."""
    body, view, found = reply.body, memoryview(bytearray(size)), b""
    over = after(HANGS)
    with contextlib.closing(body):
        while True:
            assert not over(), f"no end after {len(found)} bytes"
            with contextlib.suppress(TimeoutError):
                count = body.readinto(view)
                if not count:
                    return found
                found += view[:count]


def fetched(transport: WireTransport, server: RawServer, **how: str) -> bytes:
    return drained(get(transport, server, **how))  # type: ignore[arg-type]


def seconds_of(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def failing(transport: WireTransport, server: RawServer, error: type[Exception]) -> Exception:
    """The error of a GET: exactly of that type, with nothing of the URL's query in it."""
    with pytest.raises(error) as caught:
        fetched(transport, server)
    assert caught.type is error
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in repr(caught.value.args)
    return caught.value


# The request


def test_the_target_goes_out_untouched_and_the_host_header_stays(make: Make) -> None:
    heads: list[bytes] = []
    target = b"/a/./../b%2f'c\"?X-Amz-Signature=%7e~&x=|"

    def handler(sock: socket.socket) -> None:
        heads.append(read_head(sock))
        sock.sendall(FIVE)

    with raw_server(handler) as server:
        assert drained(get(make(), server, target=target)) == b"hello"
        assert heads[0].startswith(b"GET " + target + b" HTTP/1.1\r\n")
        assert b"Host: 127.0.0.1:%d\r\n" % server.port in heads[0]


def test_a_target_of_100_kb_arrives(make: Make) -> None:
    target, lines = b"/" + b"k" * 100_000, []

    def handler(sock: socket.socket) -> None:
        lines.append(read_head(sock).partition(b"\r\n")[0])
        sock.sendall(FIVE)

    with raw_server(handler) as server:
        assert drained(get(make(), server, target=target)) == b"hello"
    assert lines == [b"GET " + target + b" HTTP/1.1"]


@pytest.mark.parametrize("target", [b"/a b", b"/a\r\nX: 1", b""])
def test_a_target_that_would_break_the_head_is_not_sent(make: Make, target: bytes) -> None:
    with raw_server(answers(FIVE)) as server, pytest.raises(BadRequest):
        get(make(), server, target=target + SECRET.encode() + b" ")


@by_both
def test_the_answer_says_what_came(make: Make) -> None:
    reply = b'HTTP/1.1 206 Partial Thing\r\nETag: "a"\r\nX-Two: 1\r\nX-Two: 2\r\nContent-Length: 0'
    with raw_server(answers(reply + b"\r\n\r\n")) as server:
        response = get(make(), server)
        assert response.status == 206
        assert list(response.headers) == [
            (b"ETag", b'"a"'),
            (b"X-Two", b"1"),
            (b"X-Two", b"2"),
            (b"Content-Length", b"0"),
        ]
        response.body.close()


# The connection kept


@by_both
def test_a_connection_is_used_again(make: Make) -> None:
    with raw_server(forever(FIVE)) as server:
        transport = make()
        assert [fetched(transport, server) for _ in range(3)] == [b"hello"] * 3
        assert server.accepted == 1


def test_another_origin_closes_the_connection_first(make: Make) -> None:
    gone = threading.Event()

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(FIVE)
        assert read_head(sock) == b""
        gone.set()

    def other(sock: socket.socket) -> None:
        assert read_head(sock)
        assert gone.wait(SOON)
        sock.sendall(FIVE)

    with raw_server(handler) as first, raw_server(other) as second:
        transport = make()
        fetched(transport, first)
        assert fetched(transport, second) == b"hello"


@by_both
@pytest.mark.parametrize(
    "reply",
    [
        FIVE + b"surplus",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nsurplus",
        OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
        OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["surplus", "chunked surplus", "close", "chunked close", "1.0", "1.0 keep-alive"],
)
def test_a_connection_in_doubt_is_not_used_again(make: Make, reply: bytes) -> None:
    with raw_server(forever(reply)) as server:
        transport = make()
        assert [fetched(transport, server) for _ in range(3)] == [b"hello"] * 3
        assert server.accepted == 3


@by_both
def test_surplus_that_comes_later_is_noticed(make: Make) -> None:
    sent = threading.Event()

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(FIVE)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        sent.set()
        read_head(sock)

    with raw_server(handler) as server:
        transport = make()
        fetched(transport, server)
        assert sent.wait(SOON)
        assert fetched(transport, server) == b"hello"
        assert server.accepted == 2


@by_both
def test_keep_alive_that_lies_costs_a_new_connection(make: Make) -> None:
    with raw_server(answers(FIVE)) as server:
        transport = make()
        assert [fetched(transport, server) for _ in range(3)] == [b"hello"] * 3
        assert server.accepted == 3


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["closed", "reset"])
def test_a_kept_connection_that_dies_before_its_answer_is_replaced_once(
    make: Make, end: Callable[[socket.socket], None]
) -> None:
    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(FIVE)
        read_head(sock)
        end(sock)

    with raw_server(handler) as server:
        transport = make()
        assert fetched(transport, server) == b"hello"
        assert fetched(transport, server) == b"hello"
        assert server.accepted == 2


@by_both
def test_it_is_replaced_only_once(make: Make) -> None:
    def handler(sock: socket.socket) -> None:
        if server.accepted == 1:
            read_head(sock)
            sock.sendall(FIVE)
        read_head(sock)

    with raw_server(handler) as server:
        transport = make()
        fetched(transport, server)
        with pytest.raises(Lost):
            fetched(transport, server)
        assert server.accepted == 2


@by_both
def test_a_new_connection_that_dies_is_not_replaced(make: Make) -> None:
    with raw_server(read_head_only) as server:
        with pytest.raises(Lost):
            fetched(make(), server)
        assert server.accepted == 1


@by_both
def test_a_kept_connection_that_dies_in_its_head_is_not_replaced(make: Make) -> None:
    with raw_server(answers(FIVE, FIVE[:20])) as server:
        transport = make()
        fetched(transport, server)
        with pytest.raises(BadAnswer):
            fetched(transport, server)
        assert server.accepted == 1


@by_both
def test_a_body_left_unread_closes_the_connection(make: Make) -> None:
    with raw_server(forever(FIVE)) as server:
        transport = make()
        get(transport, server).body.close()
        assert fetched(transport, server) == b"hello"
        assert server.accepted == 2


@by_both
def test_a_request_while_a_body_is_out_closes_that_body(make: Make) -> None:
    with raw_server(forever(FIVE)) as server:
        transport = make()
        first = get(transport, server)
        second = get(transport, server)
        first.body.close()  # late: must not touch the second's connection
        assert drained(second) == b"hello"
        assert fetched(transport, server) == b"hello"
        assert server.accepted == 2


def test_closing_a_body_twice_does_not_free_the_next_ones_connection(make: Make) -> None:
    with raw_server(forever(FIVE)) as server:
        transport = make()
        first = get(transport, server).body
        assert first.readinto(memoryview(bytearray(9))) == 5
        first.close()
        second = get(transport, server)
        first.close()
        get(transport, server).body.close()
        second.body.close()
        assert server.accepted == 2


# The head


def read_head_only(sock: socket.socket) -> None:
    read_head(sock)


def silence(sock: socket.socket) -> None:
    read_head(sock)
    read_head(sock)


def drip(data: bytes, pause: float) -> Handler:
    """A handler that sends `data` a byte at a time, every `pause` seconds, then waits."""

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        for value in data:
            sock.send(bytes([value]))
            time.sleep(pause)
        read_head(sock)

    return handler


def flood(unit: bytes, start: bytes = b"") -> Handler:
    """A handler that sends `start`, then `unit` for ever."""

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(start)
        while True:
            sock.sendall(unit * 100)

    return handler


INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize(
    "handler",
    [
        silence,
        drip(OK + b"X: " + b"x" * 10_000, 0.02),
        drip(INTERIM * 100, 0.02),
        answers(b"HTTP/1.1 200 OK\r\nX: 1\r\n", b""),
    ],
    ids=["silence", "a byte at a time", "interim answers at a byte a time", "half a head"],
)
def test_a_slow_head_ends_at_the_deadline(make: Make, handler: Handler) -> None:
    with raw_server(handler) as server:
        transport = make(timeout=0.4, tick=TICK)  # the drops would go on for minutes
        assert seconds_of(lambda: failing(transport, server, TimedOut)) > 0.3


def test_waiting_for_a_head_can_be_interrupted(make: Make) -> None:
    stop = threading.Event()

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        stop.set()
        read_head(sock)

    with raw_server(handler) as server:
        transport = make(interrupted=stop.is_set, tick=TICK)
        with pytest.raises(Lost, match="interrupted"):
            fetched(transport, server)


@by_both
def test_an_interrupted_head_on_a_kept_connection_is_not_asked_again(make: Make) -> None:
    stop = threading.Event()

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(FIVE)
        read_head(sock)
        stop.set()
        read_head(sock)

    with raw_server(handler) as server:
        transport = make(interrupted=stop.is_set, tick=TICK)
        fetched(transport, server)
        with pytest.raises(Lost, match="interrupted"):
            fetched(transport, server)
        assert server.accepted == 1


@pytest.mark.parametrize("count", [1, MAX_INTERIM])
def test_some_interim_answers_are_passed_over(make: Make, count: int) -> None:
    with raw_server(forever(INTERIM * count + FIVE)) as server:
        transport = make()
        assert fetched(transport, server) == fetched(transport, server) == b"hello"
        assert server.accepted == 1


@pytest.mark.parametrize(
    "handler",
    [
        answers(INTERIM * (MAX_INTERIM + 1) + FIVE),
        flood(INTERIM),
        flood(b"X-Header: something\r\n", OK),
        flood(b"x", OK + b"X: "),
        flood(b"x"),
        answers(b"HTTP/1.1 103 E\r\nX: " + b"x" * (MAX_HEADS - 60) + b"\r\n\r\n" + FIVE),
    ],
    ids=["17 interim", "interim flood", "headers", "one header", "status line", "heads together"],
)
def test_heads_without_an_end_are_refused(make: Make, handler: Handler) -> None:
    with raw_server(handler) as server:
        failing(make(), server, BadAnswer)


def test_a_head_just_under_the_cap_is_taken(make: Make) -> None:
    start, end = OK + b"Content-Length: 5\r\nX: ", b"\r\n\r\n"
    head = start + b"x" * (MAX_HEADS - len(start) - len(end)) + end
    with raw_server(answers(head + b"hello")) as server:
        assert fetched(make(), server) == b"hello"
    with raw_server(answers(head.replace(b"X: ", b"X:  ") + b"hello")) as server:
        failing(make(), server, BadAnswer)


ECHO = b"/key?" + SECRET.encode()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"<html>no such path " + ECHO + b"</html>\r\n\r\n",
        OK + b"not a header " + ECHO + b"\r\n\r\n",
        OK + b"X : " + ECHO + b"\r\n\r\n",
        b"HTTP/1.1 999999 " + ECHO + b"\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50",
        OK + b"X: half a head",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        OK + b"Content-Length: 5, 6\r\n\r\nhello!",
        OK + b"Content-Length: -5\r\n\r\nhello",
        OK + b"Content-Length: +5\r\n\r\nhello",
        OK + b"Content-Length: 0x5\r\n\r\nhello",
        OK + b"Content-Length: \r\n\r\nhello",
        OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nhello",
    ],
)
def test_an_impossible_answer_is_refused(make: Make, reply: bytes) -> None:
    with raw_server(answers(reply)) as server:
        failing(make(), server, BadAnswer)


def test_the_same_length_twice_is_one_length(make: Make) -> None:
    reply = OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"
    with raw_server(answers(reply)) as server:
        assert fetched(make(), server) == b"hello"


# The body


@by_both
def test_a_body_arrives_exactly_through_any_view(make: Make, made: Callable[..., bytes]) -> None:
    data = made(300_000, 1)
    reply = OK + b"Content-Length: %d\r\n\r\n" % len(data) + data
    with raw_server(forever(reply)) as server:
        transport = make()
        for size in (1000, 65536, 1_000_000):
            assert drained(get(transport, server), size) == data
        assert server.accepted == 1


@by_both
def test_nothing_is_placed_past_the_length(make: Make) -> None:
    with raw_server(answers(FIVE + b"x" * 100)) as server:
        buffer = bytearray(64)
        assert get(make(), server).body.readinto(memoryview(buffer)) == 5
        assert buffer == b"hello" + bytes(59)


@by_both
def test_nothing_is_taken_past_the_length(make: Make) -> None:
    """The bytes of a surplus that comes with the body's end stay in the socket, and are noticed."""
    begun = threading.Event()

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(FIVE[:-2])
        assert begun.wait(SOON)
        sock.sendall(b"lo, and more")
        read_head(sock)

    with raw_server(handler) as server:
        transport = make()
        response = get(transport, server)
        begun.set()
        buffer = bytearray(64)
        body, got = response.body, 0
        while got < 5:
            with contextlib.suppress(TimeoutError):
                got += body.readinto(memoryview(buffer)[got:])
        assert got == 5
        assert buffer == b"hello" + bytes(59)
        response.body.close()
        get(transport, server).body.close()
        assert server.accepted == 2


def test_an_empty_view_is_a_mistake_of_the_caller(make: Make) -> None:
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    with raw_server(answers(FIVE, chunked)) as server:
        transport = make()
        for _ in range(2):
            with pytest.raises(ValueError, match="empty view"):
                get(transport, server).body.readinto(memoryview(b""))


def test_a_tick_without_bytes_leaves_the_connection_usable(make: Make) -> None:
    ticked = threading.Event()

    def handler(sock: socket.socket) -> None:
        while read_head(sock):
            sock.sendall(FIVE[:-3])
            assert ticked.wait(SOON)
            sock.sendall(FIVE[-3:])

    with raw_server(handler) as server:
        transport = make(tick=TICK)
        response = get(transport, server)
        body, view = response.body, memoryview(bytearray(9))
        assert body.readinto(view) == 2
        with pytest.raises(TimeoutError):
            body.readinto(view)
        ticked.set()
        assert drained(response) == b"llo"
        assert fetched(transport, server) == b"hello"
        assert server.accepted == 1


@pytest.mark.parametrize(
    "reply",
    [
        FIVE[:-1],
        OK + b"Content-Length: 5\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: 1\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz " + ECHO + b"\r\nhello\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 21 + b"\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n6\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_a_body_cut_or_broken_is_an_error(make: Make, reply: bytes) -> None:
    with raw_server(answers(reply)) as server:
        failing(make(), server, BadAnswer)


def test_what_came_before_the_cut_is_kept(make: Make) -> None:
    with raw_server(answers(FIVE[:-1])) as server:
        body, view = get(make(), server).body, memoryview(bytearray(9))
        assert body.readinto(view) == 4
        for _ in range(2):
            with pytest.raises(BadAnswer):
                body.readinto(view)


def test_a_reset_is_a_read_error(make: Make) -> None:
    taken = threading.Event()

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(FIVE[:-1])
        assert taken.wait(SOON)
        reset(sock)

    with raw_server(handler) as server:
        body, view = get(make(tick=5), server).body, memoryview(bytearray(9))
        assert body.readinto(view) == 4
        taken.set()
        with pytest.raises(Lost, match="reset"):
            body.readinto(view)


@pytest.mark.parametrize(
    "chunks",
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"1\r\nh\r\n4;name=value\r\nello\r\n00\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n",
    ],
    ids=["one", "extensions", "trailers"],
)
def test_a_chunked_body_arrives_and_its_connection_is_used_again(make: Make, chunks: bytes) -> None:
    with raw_server(forever(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)) as server:
        transport = make()
        response = get(transport, server)
        assert response.body.framed
        assert drained(response, 3) == fetched(transport, server) == b"hello"
        assert server.accepted == 1


def test_a_large_chunked_body_is_exact(make: Make, made: Callable[..., bytes]) -> None:
    data = made(300_000, 2)
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece)
        for piece in (data[at : at + 7777] for at in range(0, len(data), 7777))
    )
    reply = OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    with raw_server(answers(reply)) as server:
        assert drained(get(make(), server), 5000) == data


def test_framing_without_data_does_not_hold_the_caller(make: Make) -> None:
    start = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(start)
        while True:
            sock.sendall(b"X")
            time.sleep(0.01)

    def ticks() -> None:
        with pytest.raises(TimeoutError):
            body.readinto(view)

    with raw_server(handler) as server:
        body, view = get(make(tick=TICK), server).body, memoryview(bytearray(9))
        assert body.readinto(view) == 5
        ticks()


def test_trailers_without_an_end_are_refused(make: Make) -> None:
    start = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
    with raw_server(flood(b"X: 1\r\n", start)) as server:
        failing(make(), server, BadAnswer)


def test_a_body_that_ends_with_its_connection_says_that_this_proves_nothing(make: Make) -> None:
    with raw_server(answers(OK + b"\r\nhello")) as server:
        transport = make()
        response = get(transport, server)
        assert not response.body.framed
        assert drained(response, 3) == b"hello"
        assert fetched(transport, server) == b"hello"
        assert server.accepted == 2


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("length", [b"", b"Content-Length: 5\r\n"])
def test_some_statuses_have_no_body(make: Make, status: bytes, length: bytes) -> None:
    with raw_server(forever(b"HTTP/1.1 " + status + b"\r\n" + length + b"\r\n")) as server:
        transport = make()
        assert fetched(transport, server) == fetched(transport, server) == b""
        assert server.accepted == 1


# Being woken


def stalled(asked: threading.Event, start: bytes) -> Handler:
    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(start)
        asked.set()
        read_head(sock)

    return handler


def woken(transport: WireTransport, asked: threading.Event, act: Callable[[], object]) -> float:
    """Seconds that `act` takes, which has blocked by the time that another thread aborts it."""

    def abort() -> None:
        assert asked.wait(SOON)
        time.sleep(0.1)  # nothing tells that a thread has gone into recv()
        transport.abort()

    thread = threading.Thread(target=abort)
    thread.start()
    took = seconds_of(act)
    thread.join()
    return took


@pytest.mark.parametrize(
    "start",
    [b"", FIVE[:-1], OK + b"\r\nhell", OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhell\r\n"],
    ids=["head", "body", "body until close", "chunked"],
)
def test_abort_wakes_a_blocked_read_and_looks_like_no_end(make: Make, start: bytes) -> None:
    asked = threading.Event()
    with raw_server(stalled(asked, start)) as server:
        transport = make(tick=4 * SOON)

        def act() -> None:
            with pytest.raises(Lost, match="interrupted"):
                fetched(transport, server)

        assert woken(transport, asked, act) < SOON
        assert server.accepted == 1


def test_abort_wakes_a_blocked_read_under_tls(
    make: Make, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    asked = threading.Event()
    with raw_server(stalled(asked, OK + b"\r\nhell"), tls=server_tls) as server:
        transport = make(tick=4 * SOON, tls=trusting)
        response = get(transport, server, scheme="https")
        body, buffer = response.body, bytearray(64)
        assert body.readinto(memoryview(buffer)) == 4

        def act() -> None:
            with pytest.raises(Lost):
                body.readinto(memoryview(buffer)[4:])

        assert woken(transport, asked, act) < SOON
        assert buffer == b"hell" + bytes(60)
        response.body.close()


def test_abort_never_passes_ciphertext_for_body(
    make: Make, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """`SSLSocket.shutdown()` would: it drops the TLS layer, and what has come in is read raw."""
    begun, sent = threading.Event(), threading.Event()

    def handler(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(OK + b"Content-Length: 9999\r\n\r\nh")
        assert begun.wait(SOON)
        sock.sendall(b"h" * 1000)
        sent.set()
        read_head(sock)

    with raw_server(handler, tls=server_tls) as server:
        transport = make(tls=trusting)
        response = get(transport, server, scheme="https")
        begun.set()
        assert sent.wait(SOON)
        transport.abort()
        with contextlib.closing(response.body), pytest.raises(Lost):
            body, view = response.body, memoryview(bytearray(4096))
            while count := body.readinto(view):
                assert view[:count] == b"h" * count


def test_the_transport_goes_on_after_abort(make: Make) -> None:
    with raw_server(forever(FIVE)) as server:
        transport = make()
        transport.abort()  # nothing open: nothing happens
        fetched(transport, server)
        transport.abort()
        assert fetched(transport, server) == b"hello"
        assert server.accepted == 2


# Connecting


@pytest.fixture
def full() -> Iterator[tuple[str, int]]:
    """An address that lets nobody in: its queue of connections is full, so Linux drops the SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        place: tuple[str, int] = listener.getsockname()
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(place)
        yield place


@pytest.fixture
def refusing() -> Iterator[tuple[str, int]]:
    """An address that refuses: bound, and not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        place: tuple[str, int] = bound.getsockname()
        yield place


def ask(transport: WireTransport, host: str, port: int, scheme: str = "http") -> None:
    asked(transport, scheme, host, port).body.close()


def failed(act: Callable[[], object], error: type[Exception]) -> Exception:
    with pytest.raises(error) as caught:
        act()
    assert caught.type is error
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return caught.value


def test_refused_is_a_connect_error(make: Make, refusing: tuple[str, int]) -> None:
    error = failed(lambda: ask(make(), *refusing), ConnectFailed)
    assert "127.0.0.1" in str(error)
    assert "refused" in str(error)


def test_no_answer_is_a_connect_timeout(make: Make, full: tuple[str, int]) -> None:
    transport = make(timeout=0.3, tick=TICK)
    took = seconds_of(lambda: failed(lambda: ask(transport, *full), ConnectTimedOut))
    assert took > 0.25


def test_connecting_can_be_interrupted(make: Make, full: tuple[str, int]) -> None:
    stop = threading.Event()
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    transport = make(interrupted=stop.is_set, tick=TICK)
    failed(lambda: ask(transport, *full), ConnectFailed)  # not ConnectTimedOut, after a minute
    timer.join()


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "fe80::1%nosuchinterface"])
def test_a_name_without_an_address_is_a_failed_lookup(make: Make, host: str) -> None:
    transport = make(connect_to={("bucket.example", 80): (host, 80)})
    error = failed(lambda: ask(transport, "bucket.example", 80), LookupFailed)
    assert host in str(error)


def address(place: tuple[str, int]) -> Address:
    return Address(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, place)


@pytest.mark.parametrize("first", ["full", "refusing"])
def test_a_dead_first_address_leaves_time_for_the_second(
    request: pytest.FixtureRequest, first: str
) -> None:
    patience = Patience(SOON, TICK, after(HANGS))
    dead: tuple[str, int] = request.getfixturevalue(first)
    with raw_server(silence) as server:
        addresses = [address(dead), address(("127.0.0.1", server.port))]
        first_to_answer(addresses, "h", patience.deadline(), 0, patience).close()


def test_the_last_address_gets_the_time_that_is_left(
    refusing: tuple[str, int], full: tuple[str, int]
) -> None:
    patience = Patience(0.4, TICK, after(HANGS))
    addresses = [address(refusing), address(refusing), address(full)]

    def connect() -> None:
        with pytest.raises(ConnectTimedOut):
            first_to_answer(addresses, "h", patience.deadline(), 0, patience)

    assert seconds_of(connect) > 0.35


def test_an_interruption_is_not_taken_for_a_dead_address(full: tuple[str, int]) -> None:
    patience = Patience(SOON, TICK, lambda: True)
    with pytest.raises(ConnectFailed, match="interrupted"):
        first_to_answer([address(full)] * 2, "h", patience.deadline(), 0, patience)


def test_connect_to_moves_the_connection_and_not_the_host_header(make: Make) -> None:
    heads: list[bytes] = []

    def handler(sock: socket.socket) -> None:
        heads.append(read_head(sock))
        sock.sendall(FIVE)

    with raw_server(handler) as server:
        moved = make(connect_to={("bucket.example", 80): ("127.0.0.1", server.port)})
        ask(moved, "bucket.example", 80)
    assert b"Host: bucket.example:80\r\n" in heads[0]


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")
def test_an_ipv6_literal_is_reached(make: Make) -> None:
    with raw_server(answers(FIVE), host="::1") as server:
        assert fetched(make(), server, host="[::1]") == b"hello"


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")
def test_an_ipv6_literal_is_reached_over_tls(
    make: Make, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    with raw_server(answers(FIVE), host="::1", tls=tls_for(authority, "::1")) as server:
        assert fetched(make(tls=trusting), server, scheme="https", host="[::1]") == b"hello"


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="needs Linux's receive buffer rules")
def test_a_stalled_reader_stops_the_sender_within_two_windows(make: Make) -> None:
    window, sent = 128 * 1024, [0]
    stopped, stuck = threading.Event(), threading.Event()

    def handler(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        read_head(sock)
        sock.sendall(OK + b"Content-Length: 999999999\r\n\r\n")
        sock.settimeout(0.3)
        over = False
        while not over:
            over = stopped.is_set()
            with contextlib.suppress(TimeoutError):
                while True:
                    sent[0] += sock.send(bytes(16 * 1024))
        stuck.set()
        sock.settimeout(SOON)
        read_head(sock)

    with raw_server(handler) as server:
        response = get(make(window=window), server)
        body, view, got = response.body, memoryview(bytearray(64 * 1024)), 0
        while got < 64 * 1024 * 1024:  # fast enough to let the kernel grow what it may
            got += body.readinto(view)
        stopped.set()
        assert stuck.wait(SOON)
        response.body.close()
    assert window / 4 < sent[0] - got < 2 * window + 64 * 1024


# TLS


def tls_for(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert(*names).configure_cert(context)
    return context


def test_a_tls_connection_is_used_again_in_spite_of_its_tickets(
    make: Make, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    versions: list[str | None] = []

    def handler(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        versions.append(sock.version())
        while read_head(sock):
            sock.sendall(FIVE)

    with raw_server(handler, tls=server_tls) as server:
        transport = make(tls=trusting)
        bodies = [fetched(transport, server, scheme="https") for _ in range(3)]
        assert bodies == [b"hello"] * 3
        assert server.accepted == 1
    assert versions == ["TLSv1.3"]


def test_tickets_alone_do_not_make_an_idle_connection_doubtful(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """Before its first exchange a connection under TLS 1.3 holds tickets, and nothing else."""
    patience = Patience(SOON, TICK, after(HANGS))
    with raw_server(silence, tls=server_tls) as server:
        place = ("127.0.0.1", server.port)
        channel = dial(Origin("https", *place), place, lambda: trusting, 0, patience)
        with contextlib.closing(channel):
            assert select.select([channel._sock], [], [], SOON)[0]
            assert channel.silent()
            assert channel.silent()


def test_surplus_under_tls_is_noticed(
    make: Make, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    with raw_server(forever(FIVE + b"surplus"), tls=server_tls) as server:
        transport = make(tls=trusting)
        assert fetched(transport, server, scheme="https") == b"hello"
        assert fetched(transport, server, scheme="https") == b"hello"
        assert server.accepted == 2


def test_a_large_body_under_tls_is_exact(
    make: Make,
    server_tls: ssl.SSLContext,
    trusting: ssl.SSLContext,
    made: Callable[..., bytes],
) -> None:
    data = made(300_000, 3)
    reply = OK + b"Content-Length: %d\r\n\r\n" % len(data) + data
    with raw_server(forever(reply), tls=server_tls) as server:
        transport = make(tls=trusting)
        for size in (1000, 262144):
            assert drained(get(transport, server, scheme="https"), size) == data
        assert server.accepted == 1


class Closed:
    """An SSLSocket of a Python that keeps nothing inside that could be read instead."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._closed = sock

    def __getattr__(self, name: str) -> Any:
        if name == "_sslobj":
            raise AttributeError(name)
        return getattr(self._closed, name)


def test_a_large_body_under_tls_is_exact_where_records_cannot_be_read_directly(
    make: Make,
    server_tls: ssl.SSLContext,
    trusting: ssl.SSLContext,
    made: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare = SecuredChannel._prepare

    def hide(channel: SecuredChannel) -> None:
        prepare(channel)
        channel._sock = Closed(channel._sock)  # type: ignore[assignment]

    monkeypatch.setattr(SecuredChannel, "_prepare", hide)
    data = made(300_000, 3)
    reply = OK + b"Content-Length: %d\r\n\r\n" % len(data) + data
    with raw_server(forever(reply), tls=server_tls) as server:
        assert drained(get(make(tls=trusting), server, scheme="https"), 262144) == data


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1000, 4096, 4097, 262144])
@pytest.mark.usefixtures("ours")
def test_bodies_under_tls_are_exact_and_the_connection_is_kept(
    make: Make,
    server_tls: ssl.SSLContext,
    trusting: ssl.SSLContext,
    made: Callable[..., bytes],
    version: ssl.TLSVersion,
    size: int,
) -> None:
    """Where records are read many at a time, nothing of one answer is left for the next."""
    server_tls.minimum_version = server_tls.maximum_version = version
    data = made(600_000, 3)
    reply = OK + b"Content-Length: %d\r\n\r\n" % len(data) + data
    with raw_server(forever(reply), tls=server_tls) as server:
        transport = make(tls=trusting)
        for _ in range(5):
            assert drained(get(transport, server, scheme="https"), size) == data
        assert server.accepted == 1


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is segdl's own, as on the command line."""
    monkeypatch.setattr(process, "_ours", [True])


def secured(server: RawServer, trusting: ssl.SSLContext) -> SecuredChannel:
    place = ("127.0.0.1", server.port)
    patience = Patience(HANGS, TICK, after(HANGS))
    channel = dial(Origin("https", *place), place, lambda: trusting, 0, patience)
    assert isinstance(channel, SecuredChannel)
    return channel


RECORD = 22  # bytes that a record of TLS 1.3 has beside its data


def arrived(channel: SecuredChannel) -> int:
    """Bytes that lie in the kernel to be read."""
    answer = fcntl.ioctl(channel._sock, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])


def came(channel: SecuredChannel, view: memoryview) -> int:
    """What comes next, however many ticks that takes."""
    over = after(HANGS)
    while not over():
        with contextlib.suppress(TimeoutError):
            return channel.readinto(view)
    raise AssertionError("nothing comes")


needs_openssl = pytest.mark.skipif(
    records._openssl() is None, reason="this Python's OpenSSL cannot be called from outside"
)


@needs_openssl
@pytest.mark.usefixtures("ours")
def test_many_records_are_read_in_one_call(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext, made: Callable[..., bytes]
) -> None:
    data = made(50_000, 5)  # 4 records
    sent = threading.Event()

    def handler(sock: socket.socket) -> None:
        sock.sendall(data)
        sent.set()
        read_head(sock)

    with raw_server(handler, tls=server_tls) as server:
        channel = secured(server, trusting)
        with contextlib.closing(channel):
            assert sent.wait(20)
            until(lambda: arrived(channel) >= len(data) + 4 * RECORD)
            view = memoryview(bytearray(len(data)))
            count = channel._read(view, 0)
            assert count == 16384
            assert channel._records is not None
            assert channel._records.read(view[count:]) == len(data) - count
            assert view == data
            assert channel._records.read(view) == 0


@needs_openssl
@pytest.mark.usefixtures("ours")
def test_threads_that_shake_hands_together_read_each_its_own(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext, made: Callable[..., bytes]
) -> None:
    heard = itertools.count()

    def handler(sock: socket.socket) -> None:
        sock.sendall(made(50_000, next(heard)))
        sent.release()
        read_head(sock)

    def read(_: object) -> bytes:
        channel, view = secured(server, trusting), memoryview(bytearray(50_000))
        with contextlib.closing(channel):
            assert sent.acquire(timeout=20)
            assert channel._records is not None
            count = 0
            while count < len(view):
                count += came(channel, view[count:])
        return bytes(view)

    sent = threading.Semaphore(0)
    with raw_server(handler, tls=server_tls) as server, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(100))) == {made(50_000, n) for n in range(100)}


@needs_openssl
@pytest.mark.usefixtures("ours")
def test_records_of_a_connection_that_was_closed_are_no_more(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """Its SSL is still there: who reads it in that moment must not meet freed memory."""
    with raw_server(forever(FIVE), tls=server_tls) as server:
        channel = secured(server, trusting)
        kept = channel._records
        channel.close()
        del channel
        gc.collect()
        assert kept is not None
        assert kept.read(memoryview(bytearray(1 << 20))) == 0


@needs_openssl
@pytest.mark.usefixtures("ours")
def test_what_is_freed_late_writes_nothing_to_another_file(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """Freeing its BIO, OpenSSL 1.1.1 says goodbye on a descriptor, whoever has that by then."""
    openssl, made = records._openssl(), ctypes.c_void_p()
    assert openssl is not None
    ours, theirs = socket.socketpair()
    with raw_server(forever(FIVE), tls=server_tls) as server, ours, theirs:
        channel = secured(server, trusting)
        number = channel._sock.fileno()
        channel.close()
        os.dup2(ours.fileno(), number)
        try:
            assert channel._records is not None
            openssl.BIO_ctrl(channel._records._bio, 110, 0, ctypes.byref(made))  # BIO_get_ssl
            openssl.SSL_shutdown(made)
            del channel
            gc.collect()
            theirs.setblocking(False)
            with pytest.raises(BlockingIOError):
                theirs.recv(100)
        finally:
            os.close(number)


@needs_openssl
@pytest.mark.usefixtures("ours")
def test_a_broken_record_is_that_connection_s_trouble_alone(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """OpenSSL keeps its errors by thread, and Python takes the last one for its own."""

    def handler(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        sock.sendall(b"x" * 16384)
        with socket.socket(fileno=sock.detach()) as raw:
            raw.sendall(b"\x17\x03\x03\x00\x20" + b"y" * 32)
            sent.set()
            read_head(raw)

    sent = threading.Event()
    with (
        raw_server(handler, tls=server_tls) as broken,
        raw_server(forever(FIVE), tls=server_tls) as good,
    ):
        one, other = secured(broken, trusting), secured(good, trusting)
        with contextlib.closing(one), contextlib.closing(other):
            view = memoryview(bytearray(65536))
            other.send(memoryview(b"GET / HTTP/1.1\r\n\r\n"))
            assert came(other, view) == len(FIVE)
            assert sent.wait(20)
            assert came(one, view) == 16384
            with pytest.raises(TimeoutError):
                other.readinto(view)
            with pytest.raises(Lost):
                came(one, view)


class Deaf:
    """Where OpenSSL tells of a new SSL, and nobody hears it."""

    made = property(lambda self: set(), lambda self, made: None)


def test_the_process_of_another_program_is_left_as_it_is(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL's callback would be called for every connection of that program."""
    monkeypatch.setattr(records, "wrapped", None)
    with raw_server(forever(FIVE), tls=server_tls) as server:
        channel = secured(server, trusting)
        with contextlib.closing(channel):
            assert channel._records is None


def refuse(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("why", ["no ctypes", "no symbols", "no callbacks", "LibreSSL", "no SSL"])
@pytest.mark.usefixtures("ours")
def test_a_large_body_under_tls_is_exact_where_openssl_cannot_be_called(
    make: Make,
    server_tls: ssl.SSLContext,
    trusting: ssl.SSLContext,
    made: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    why: str,
) -> None:
    match why:
        case "no ctypes":
            monkeypatch.delitem(sys.modules, records.__name__)
            monkeypatch.delattr(wire, "records")
            monkeypatch.setitem(sys.modules, "ctypes", None)
        case "no symbols":
            monkeypatch.setitem(records._CALLS, "BIO_f_no_such", (None,))
        case "no callbacks":
            monkeypatch.setattr(records, "_NEW", refuse)
        case "LibreSSL":
            monkeypatch.setattr(ssl, "OPENSSL_VERSION", "LibreSSL 3.3.6")
        case _:
            monkeypatch.setattr(records, "_new", Deaf())
    records._openssl.cache_clear()
    monkeypatch.setattr(records, "Records", None)  # nobody may make one
    data = made(300_000, 3)
    reply = OK + b"Content-Length: %d\r\n\r\n" % len(data) + data
    try:
        with raw_server(forever(reply), tls=server_tls) as server:
            transport = make(tls=trusting)
            for _ in range(2):
                assert drained(get(transport, server, scheme="https"), 262144) == data
    finally:
        records._openssl.cache_clear()


def test_a_tick_under_tls_leaves_the_connection_usable(
    make: Make, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    ticked = threading.Event()

    def handler(sock: socket.socket) -> None:
        while read_head(sock):
            sock.sendall(FIVE[:-3])
            assert ticked.wait(SOON)
            sock.sendall(FIVE[-3:])

    with raw_server(handler, tls=server_tls) as server:
        transport = make(tick=TICK, tls=trusting)
        response = get(transport, server, scheme="https")
        body, view = response.body, memoryview(bytearray(9))
        assert body.readinto(view) == 2
        with pytest.raises(TimeoutError):
            body.readinto(view)
        ticked.set()
        assert drained(response) == b"llo"
        assert fetched(transport, server, scheme="https") == b"hello"
        assert server.accepted == 1


def test_the_server_hears_the_urls_host_and_http_1_1(
    make: Make, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    heard: list[str | None] = []
    context = tls_for(authority, "bucket.example")
    context.sni_callback = lambda sock, name, context: heard.append(name)

    def handler(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        heard.append(sock.selected_alpn_protocol())
        answers(FIVE)(sock)

    with raw_server(handler, tls=context) as server:
        here = ("127.0.0.1", server.port)
        ask(
            make(tls=trusting, connect_to={("bucket.example", 443): here}),
            "bucket.example",
            443,
            "https",
        )
    assert heard == ["bucket.example", "http/1.1"]


def expired(authority: trustme.CA) -> ssl.SSLContext:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_before=past, not_after=past).configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (lambda authority: tls_for(trustme.CA(), "127.0.0.1"), "issuer certificate"),
        (lambda authority: tls_for(authority, "other.example"), "mismatch"),
        (expired, "expired"),
    ],
    ids=["unknown authority", "wrong host", "expired"],
)
def test_a_bad_certificate_is_named(
    make: Make,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
    context: Callable[[trustme.CA], ssl.SSLContext],
    words: str,
) -> None:
    with raw_server(answers(FIVE), tls=context(authority)) as server:
        transport = make(tls=trusting)
        error = failed(lambda: ask(transport, "127.0.0.1", server.port, "https"), TLSRejected)
        assert isinstance(error, TLSRejected)
        assert words in error.reason


def cut_after_hello(sock: socket.socket) -> None:
    sock.recv(1)


def reset_after_hello(sock: socket.socket) -> None:
    sock.recv(1)
    reset(sock)


@pytest.mark.parametrize(
    "handler",
    [cut_after_hello, reset_after_hello, answers(FIVE), flood(b"HTTP/1.1 400 Bad\r\n")],
    ids=["closed", "reset", "no answer", "plain text"],
)
def test_a_broken_handshake_is_a_connect_error(
    make: Make, trusting: ssl.SSLContext, handler: Handler
) -> None:
    def spoken(sock: socket.socket) -> None:
        sock.settimeout(0.3)  # a client's hello never ends like a head
        handler(sock)

    with raw_server(spoken) as server:
        transport = make(tls=trusting)
        failed(lambda: ask(transport, "127.0.0.1", server.port, "https"), ConnectFailed)


def test_a_handshake_without_an_answer_ends_at_the_deadline(
    make: Make, trusting: ssl.SSLContext
) -> None:
    with raw_server(silence) as server:
        transport = make(tls=trusting, timeout=0.3, tick=TICK)

        def act() -> None:
            failed(lambda: ask(transport, "127.0.0.1", server.port, "https"), ConnectTimedOut)

        assert seconds_of(act) > 0.25


def test_a_handshake_can_be_interrupted(make: Make, trusting: ssl.SSLContext) -> None:
    stop = threading.Event()

    def handler(sock: socket.socket) -> None:
        sock.recv(1)
        stop.set()
        read_head(sock)

    with raw_server(handler) as server:
        transport = make(tls=trusting, interrupted=stop.is_set, tick=TICK)
        error = failed(lambda: ask(transport, "127.0.0.1", server.port, "https"), ConnectFailed)
        assert "interrupted" in str(error)


@pytest.mark.parametrize(
    "start",
    [OK + b"\r\nhell", OK + b"Content-Length: 5\r\n\r\nhell"],
    ids=["until close", "counted"],
)
def test_an_unclean_end_under_tls_is_an_error(
    make: Make, server_tls: ssl.SSLContext, trusting: ssl.SSLContext, start: bytes
) -> None:
    with raw_server(answers(start), tls=server_tls) as server:  # closes without close_notify
        transport = make(tls=trusting)
        with pytest.raises(Lost):
            fetched(transport, server, scheme="https")


def test_a_clean_end_under_tls_ends_the_body(
    make: Make, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    def handler(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        read_head(sock)
        sock.sendall(OK + b"\r\nhello")
        sock.unwrap()

    with raw_server(handler, tls=server_tls) as server:
        assert fetched(make(tls=trusting), server, scheme="https") == b"hello"


def test_what_comes_before_a_short_end_under_tls_is_kept(
    make: Make, server_tls: ssl.SSLContext, trusting: ssl.SSLContext, made: Callable[..., bytes]
) -> None:
    """However many records one read takes up, the end that comes with them costs none."""
    data = made(100_000, 4)

    def handler(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        read_head(sock)
        sock.sendall(OK + b"Content-Length: 300000\r\n\r\n" + data)
        sock.unwrap()

    with raw_server(handler, tls=server_tls) as server:
        response = get(make(tls=trusting), server, scheme="https")
        body, view, found = response.body, memoryview(bytearray(300_000)), b""
        with contextlib.closing(response.body), pytest.raises(BadAnswer, match="short"):
            while True:
                with contextlib.suppress(TimeoutError):
                    found += view[: body.readinto(view)]
        assert found == data


def test_a_context_that_hides_a_cut_is_set_right(
    make: Make, server_tls: ssl.SSLContext, authority: trustme.CA
) -> None:
    lenient = ssl.create_default_context()
    authority.configure_trust(lenient)
    lenient.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    with raw_server(answers(OK + b"\r\nhell"), tls=server_tls) as server:
        transport = make(tls=lenient)
        with pytest.raises(Lost):
            fetched(transport, server, scheme="https")


def spliced(sock: socket.socket, upstream: tuple[str, int], limit: int) -> None:
    """Pass a TLS conversation on to `upstream`, and end it `limit` bytes into the answers."""
    with socket.create_connection(upstream, timeout=SOON) as behind:

        def up() -> None:
            with contextlib.suppress(OSError):
                while data := sock.recv(4096):
                    behind.sendall(data)

        thread = threading.Thread(target=up)
        thread.start()
        left = limit
        while left and (data := behind.recv(min(left, 4096))):
            sock.sendall(data)
            left -= len(data)
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
        thread.join()


def test_a_tls_record_cut_in_the_middle_is_a_read_error(
    make: Make, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    reply = OK + b"Content-Length: 64000\r\n\r\n" + bytes(64000)
    with raw_server(answers(reply), tls=server_tls) as server:
        behind = ("127.0.0.1", server.port)
        with raw_server(lambda sock: spliced(sock, behind, 40_000)) as front:
            response = get(make(tls=trusting), front, scheme="https")
            body, view, got = response.body, memoryview(bytearray(65536)), 0
            with pytest.raises(Lost):
                while True:
                    with contextlib.suppress(TimeoutError):
                        got += body.readinto(view)
            assert 16_000 < got < 40_000
            response.body.close()
