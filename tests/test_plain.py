"""edges.transport.wire.plain beside h11: what is read without it, it reads alike."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segdl.edges.transport.faults import BadAnswer, BadRequest
from segdl.edges.transport.wire import plain
from segdl.edges.transport.wire.exchange import MAX_HEADS
from segdl.edges.transport.wire.parsed import Parser
from segdl.edges.transport.wire.plain import FinalHead, RawHeaders

HOST = (b"Host", b"127.0.0.1:9000")
USUAL = [HOST, (b"User-Agent", b"segdl/1"), (b"Accept", b"*/*"), (b"Range", b"bytes=0-4")]
NGINX = (
    b"HTTP/1.1 206 Partial Content\r\nServer: nginx/1.22.1\r\n"
    b"Date: Sun, 29 Nov 2026 05:55:00 GMT\r\nContent-Type: application/octet-stream\r\n"
    b'Content-Length: 5\r\nConnection: keep-alive\r\nETag: "692a8b1c-5"\r\n'
    b"Content-Range: bytes 0-4/5\r\n\r\nhello"
)
MINIO = (
    b"HTTP/1.1 206 Partial Content\r\nAccept-Ranges: bytes\r\nContent-Length: 5\r\n"
    b'Content-Range: bytes 0-4/104857600\r\nETag: "5d41402abc4b2a76b9719d911017c592-7"\r\n'
    b"Strict-Transport-Security: max-age=31536000; includeSubDomains\r\nVary: Origin\r\n"
    b"Vary: Accept-Encoding\r\nX-Amz-Request-Id: 187C1F2E9A\r\nx-amz-meta-name: \xc3\xa9\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\n"


def by_h11(data: bytes) -> FinalHead | None:
    """What h11 makes of an answer that has come so far."""
    return Parser(b"/", [HOST], MAX_HEADS).head(data)


def same(head: FinalHead) -> tuple[object, ...]:
    return head.status, list(head.headers), head.early, head.length, head.keeps


@pytest.mark.parametrize(
    "data",
    [
        NGINX,
        MINIO,
        OK + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200\r\ncontent-length:5\r\n\r\n",
        b"HTTP/1.1 200 \r\nContent-LENGTH: \t 007 \t\r\nX:\r\nY: a: b\r\n\r\nhello",
        OK + b"connection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello, and more",
    ],
)
def test_a_plain_head_is_read(data: bytes) -> None:
    head, parsed = plain.head(data), by_h11(data)
    assert head is not None and parsed is not None
    assert same(head) == same(parsed)


@pytest.mark.parametrize("stop", range(len(NGINX) - len("hello")))
def test_a_head_that_is_not_there_as_a_whole_is_left(stop: int) -> None:
    assert plain.head(NGINX[:stop]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + NGINX,
        b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\n",
        b"\r\n" + NGINX,
        NGINX.replace(b"\r\n", b"\n"),
        NGINX.replace(b"keep-alive", b"close"),
        NGINX.replace(b"keep-alive", b"keep-alive, close"),
        NGINX.replace(b"Connection", b"Transfer-Encoding"),
        NGINX.replace(b"Content-Length: 5", b"Content-Length: 5, 5"),
        NGINX.replace(b"Content-Length: 5", b"Content-Length: "),
        NGINX.replace(b"Content-Length: 5", b"Content-Length: +5"),
        NGINX.replace(b"Content-Length: 5", b"Content-Length: " + b"9" * 19),
        NGINX.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 5"),
        NGINX.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 6"),
        NGINX.replace(b"Content-Length: 5", b"X: 5"),
        NGINX.replace(b"Content-Length: 5", b"Content-Length : 5"),
        NGINX.replace(b"Content-Length: 5", b" Content-Length: 5"),
        NGINX.replace(b"Date: ", b"Date: \r\n "),
        NGINX.replace(b"Date: ", b"Date: \x01"),
        NGINX.replace(b"Date: ", b"Date: \x00"),
        NGINX.replace(b"Date: ", b"Date: \r"),
        NGINX.replace(b"Date: ", b"Date: \n"),
        NGINX.replace(b"Date: ", b"Date: \x7f"),
        NGINX.replace(b"Date: ", b": "),
        NGINX.replace(b"Date: ", b"Da\xe9te: "),
        OK + b"\r\n",
    ],
)
def test_what_is_not_plain_is_left(data: bytes) -> None:
    assert plain.head(data) is None


NAMES = [b"Content-Length", b"content-length", b"Connection", b"Transfer-Encoding", b"ETag", b"X"]
VALUES = [b"5", b" 5 ", b"05", b"5,5", b"close", b"keep-alive", b"chunked", b"", b'"a"', b"\xe9\t."]
ODD_NAMES = st.sampled_from(NAMES) | st.binary(max_size=3)
ODD_VALUES = st.sampled_from(VALUES) | st.binary(max_size=3)
PIECES = st.tuples(
    st.sampled_from([OK, b"HTTP/1.1 206\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 \xe9\r\n"]),
    st.lists(
        st.tuples(ODD_NAMES, st.sampled_from([b":", b": ", b" : "]), ODD_VALUES).map(b"".join),
        max_size=5,
    ).map(lambda lines: b"".join(line + b"\r\n" for line in lines)),
    st.sampled_from([b"Content-Length: 5\r\n", b""]),
    st.sampled_from([b"\r\n", b"\r\nhello", b"\r\nhello and more", b""]),
)


@given(PIECES.map(b"".join))
@example(NGINX)
def test_what_is_read_here_h11_reads_alike(data: bytes) -> None:
    head = plain.head(data)
    if head is not None:
        parsed = by_h11(data)
        assert parsed is not None
        assert same(head) == same(parsed)


@given(PIECES.map(b"".join), st.binary(max_size=8), st.integers(0, 200), st.integers(0, 4))
def test_so_it_is_with_a_head_that_is_damaged(data: bytes, put: bytes, at: int, gone: int) -> None:
    damaged = data[:at] + put + data[at + gone :]
    head = plain.head(damaged)
    if head is not None:
        parsed = by_h11(damaged)
        assert parsed is not None
        assert same(head) == same(parsed)


def test_h11_refuses_what_it_is_left_with() -> None:
    """The tests above would pass if it refused nothing."""
    with pytest.raises(BadAnswer):
        by_h11(NGINX.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 6"))


@pytest.mark.parametrize("target", [b"/", b"/a/./../b%2f'c\"?X-Amz-Signature=%7e~&x=|", b"*"])
@pytest.mark.parametrize(
    "headers", [USUAL, [HOST], [HOST, (b"If-Match", b'"\xe9"'), (b"X", b""), (b"X", b"a \t b")]]
)
def test_a_plain_request_is_what_h11_writes(target: bytes, headers: RawHeaders) -> None:
    assert plain.request(target, headers) == Parser(target, headers, MAX_HEADS).request


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"", USUAL),
        (b"/a b", USUAL),
        (b"/a\r\nX: 1", USUAL),
        (b"/\xe9", USUAL),
        (b"/", []),
        (b"/", USUAL[1:]),
        (b"/", [HOST, HOST]),
        (b"/", [*USUAL, (b"X: 1\r\nY", b"1")]),
        (b"/", [*USUAL, (b"X: 1", b"1")]),
        (b"/", [*USUAL, (b"", b"1")]),
        (b"/", [*USUAL, (b"X", b"1\r\nY: 1")]),
        (b"/", [*USUAL, (b"X", b"1\n")]),
        (b"/", [*USUAL, (b"X", b" 1")]),
        (b"/", [*USUAL, (b"X", b"1\x00")]),
        (b"/", [*USUAL, (b"Content-Length", b"5")]),
    ],
)
def test_an_odd_request_is_left_to_h11_and_refused(target: bytes, headers: RawHeaders) -> None:
    assert plain.request(target, headers) is None
    with pytest.raises(BadRequest):
        Parser(target, headers, MAX_HEADS)


@pytest.mark.parametrize(
    "headers", [[USUAL[1], HOST], [*USUAL, (b"Connection", b"close")], [*USUAL, (b"X", b"\x01")]]
)
def test_an_odd_request_may_still_be_one(headers: RawHeaders) -> None:
    assert plain.request(b"/", headers) is None
    assert Parser(b"/", headers, MAX_HEADS).request.startswith(b"GET / HTTP/1.1\r\nHost: ")


TEXT = st.text(st.characters(max_codepoint=255), max_size=6).map(lambda t: t.encode("latin-1"))


@given(TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=3))
def test_what_is_written_here_h11_writes_alike(target: bytes, more: RawHeaders) -> None:
    asked = plain.request(b"/" + target, [HOST, *more])
    if asked is not None:
        assert asked == Parser(b"/" + target, [HOST, *more], MAX_HEADS).request
