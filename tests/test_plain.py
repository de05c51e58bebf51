"""edges.transport.wire.plain beside h11: what is read without it, it reads alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdl.edges.transport.faults import BadAnswer, BadRequest
from segdl.edges.transport.wire import plain
from segdl.edges.transport.wire.exchange import MAX_HEADS
from segdl.edges.transport.wire.heads import FinalHead, RawHeaders
from segdl.edges.transport.wire.parsed import Parser

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


def read_alike(data: bytes) -> None:
    """What is read without h11, if it is, is what h11 reads."""
    head = plain.head(data)
    if head is not None:
        parsed = by_h11(data)
        assert parsed is not None
        assert same(head) == same(parsed)


TOKENS = st.text("-!#$%&'*+.^_`|~09AZaz", min_size=1, max_size=6).map(str.encode)
TEXTS = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=8)
VALUES = TEXTS.map(lambda text: bytes(c for c in text.encode("latin-1") if c > 31 and c != 127))
EXTRA = st.tuples(TOKENS, st.sampled_from([b":", b": ", b":\t"]), VALUES).map(b"".join)
TELLING = st.sampled_from([b"Connection: keep-alive", b'ETag: W/"a"', b"Age:", b"Vary: a ,b"])
GOOD = st.builds(
    lambda status, lines, length, place, body: b"\r\n".join(
        [status, *lines[:place], length, *lines[place:], b"", body]
    ),
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 206", b"HTTP/1.1 206 \xe9\t!"]),
    st.lists(EXTRA | TELLING, max_size=5),
    st.sampled_from([b"Content-Length: 5", b"content-length:05", b"CONTENT-LENGTH:\t 123 "]),
    st.integers(0, 5),
    st.sampled_from([b"", b"hello", b"hello and more", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]),
)


@given(GOOD)
def test_good_heads_are_plain_and_h11_reads_them_alike(data: bytes) -> None:
    assert plain.head(data) is not None
    read_alike(data)


ODD = st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\x00", b"\x0b", b"\x7f", b"1"])
LINES = st.sampled_from(
    [b"\r\nContent-Length: 5", b"\r\nTransfer-Encoding: chunked", b"\r\nConnection: close"]
)


@given(GOOD, ODD | LINES | st.binary(max_size=3), st.integers(0, 10**6), st.integers(0, 2))
def test_so_they_are_with_a_little_damage(data: bytes, put: bytes, at: int, gone: int) -> None:
    at %= len(data) + 1
    read_alike(data[:at] + put + data[at + gone :])


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


PATHS = st.text(st.characters(min_codepoint=32, max_codepoint=127), max_size=6).map(str.encode)


@given(PATHS, st.lists(st.tuples(TOKENS, VALUES.map(bytes.strip)), max_size=3))
def test_what_is_written_here_h11_writes_alike(target: bytes, more: RawHeaders) -> None:
    asked = plain.request(b"/" + target, [HOST, *more])
    assert (asked is None) is (b" " in target or b"\x7f" in target)
    if asked is not None:
        assert asked == Parser(b"/" + target, [HOST, *more], MAX_HEADS).request
