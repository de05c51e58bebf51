"""The fault server and the proxy: they do what they say, or no other test means anything."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable

import httpx
import pytest

from tests.faults import Answer, Fault, FaultServer, Seen, TCPProxy, Wire, ask, faults, raw
from tests.faults.answers import asked_range, matches
from tests.orders import SOON, until

DATA = bytes(range(256)) * 4
SIZE = len(DATA)
PATH = "/orders/a.7z"


@pytest.fixture
def server(fault_server: FaultServer) -> FaultServer:
    fault_server.put(PATH, DATA, etag='"abc"')
    return fault_server


@pytest.fixture
def url(server: FaultServer) -> str:
    return server.url(PATH)


# The honest store.


def test_a_whole_object(url: str) -> None:
    reply = ask(url)
    assert (reply.status, reply.body) == (200, DATA)
    assert reply.headers["etag"] == '"abc"'
    assert reply.headers["content-length"] == str(SIZE)
    assert reply.headers["accept-ranges"] == "bytes"
    assert "last-modified" in reply.headers
    assert "date" in reply.headers


def test_the_etag_is_the_md5_unless_given(server: FaultServer) -> None:
    server.put("/b", b"hello")
    assert ask(server.url("/b")).headers["etag"] == f'"{hashlib.md5(b"hello").hexdigest()}"'


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        (f"bytes=5-{SIZE - 1}", 5, SIZE),
        (f"bytes={SIZE - 1}-{SIZE + 99}", SIZE - 1, SIZE),
        ("bytes=1000-", 1000, SIZE),
        ("bytes=-10", SIZE - 10, SIZE),
        ("bytes=-9999", 0, SIZE),
    ],
)
def test_a_range(url: str, asked: str, start: int, stop: int) -> None:
    reply = ask(url, {"Range": asked})
    assert (reply.status, reply.body) == (206, DATA[start:stop])
    assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert reply.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "bytes=9-5", "items=0-5", "bytes=-", "bytes"])
def test_several_or_malformed_ranges_get_the_whole(url: str, asked: str) -> None:
    reply = ask(url, {"Range": asked})
    assert (reply.status, reply.body) == (200, DATA)
    assert "content-range" not in reply.headers


@pytest.mark.parametrize("size", [0, 10])
def test_a_range_past_the_end_is_416(server: FaultServer, size: int) -> None:
    server.put("/b", bytes(size))
    reply = ask(server.url("/b"), span=(size, size + 5))
    assert (reply.status, reply.says("Code")) == (416, "InvalidRange")
    assert reply.headers["content-range"] == f"bytes */{size}"


def test_if_match(url: str) -> None:
    assert ask(url, {"If-Match": '"abc"'}).status == 200
    assert ask(url, {"If-Match": '"x", "abc"'}).status == 200
    refused = ask(url, {"If-Match": '"old"', "Range": "bytes=99999-"})
    assert (refused.status, refused.says("Code")) == (412, "PreconditionFailed")
    assert refused.headers["etag"] == '"abc"'


def test_a_condition_compares_strongly() -> None:
    assert matches("*", '"a"')
    assert matches(None, 'W/"a"')
    assert not matches('W/"a"', 'W/"a"')
    assert not matches('W/"a"', '"a"')


def test_refusals(server: FaultServer) -> None:
    assert ask(server.url(PATH), method="HEAD").status == 403
    assert ask(server.url(PATH), method="DELETE").status == 405
    missing = ask(server.url("/nothing"))
    assert (missing.status, missing.says("Code")) == (404, "NoSuchKey")
    assert missing.says("RequestId") == missing.headers["x-amz-request-id"]


def test_another_object_and_none(server: FaultServer, url: str) -> None:
    server.put(PATH, b"new")
    assert ask(url).body == b"new"
    server.remove(PATH)
    assert ask(url).status == 404


def test_other_clients_agree(server: FaultServer, url: str) -> None:
    with urllib.request.urlopen(url) as response:
        assert response.read() == DATA
    with httpx.Client() as client:
        for _ in range(3):
            assert client.get(url, headers={"Range": "bytes=1-4"}).content == DATA[1:5]
    assert server.requests[1].connection == server.requests[3].connection  # kept alive


def test_a_request_with_a_body_keeps_the_connection_usable(server: FaultServer) -> None:
    connection = http.client.HTTPConnection(server.host, server.port)
    for _ in range(2):
        connection.request("PUT", PATH, body=b"x" * 100_000)
        assert connection.getresponse().read().startswith(b"<?xml")
    connection.close()
    assert [seen.method for seen in server.requests] == ["PUT", "PUT"]


def test_an_answer_to_head_has_no_body(server: FaultServer) -> None:
    with socket.create_connection((server.host, server.port), SOON) as client:
        client.sendall(f"HEAD {PATH} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        with client.makefile("rb") as answer:
            head = answer.read()
    assert head.startswith(b"HTTP/1.1 403")
    assert head.endswith(b"\r\n\r\n")


def test_http10_clients_are_let_go(server: FaultServer) -> None:
    with socket.create_connection((server.host, server.port), SOON) as sock:
        sock.sendall(f"GET {PATH} HTTP/1.0\r\n\r\n".encode())
        with sock.makefile("rb") as answer:
            assert answer.read().endswith(DATA)


def test_it_speaks_tls(server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with FaultServer(tls=server_tls) as server:
        server.put(PATH, DATA)
        assert ask(server.url(PATH), span=(0, 9), tls=trusting).body == DATA[:9]
        named = server.url(PATH, host="localhost")
        assert named == f"https://localhost:{server.port}{PATH}"
        assert ask(named, tls=trusting).body == DATA
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(server.url(PATH), tls=ssl.create_default_context())


# What it saw.


def test_the_log(server: FaultServer) -> None:
    url = server.url(PATH, query="X-Amz-Signature=12%2F&X=%41")
    ask(url, {"X-Thing": "One"}, span=(5, 99999))
    ask(server.url("/b"))
    ask(server.url(PATH))
    first, second, third = server.requests
    assert (first.method, first.path, first.query) == ("GET", PATH, "X-Amz-Signature=12%2F&X=%41")
    assert first.headers["x-thing"] == "One"
    assert (first.range, third.range) == ((5, 99999), None)
    assert [seen.number for seen in (first, second, third)] == [1, 1, 2]
    assert [seen.serial for seen in (first, second, third)] == [1, 2, 3]
    assert (first.sent, third.sent) == (SIZE - 5, SIZE)
    assert first.time <= second.time <= third.time
    assert server.sent(PATH) == 2 * SIZE - 5
    assert server.sent() == server.sent(PATH) + second.sent


def test_paths_are_raw(server: FaultServer) -> None:
    server.put("/a/./%7e/../b%20c", b"raw")
    assert ask(server.url("/a/./%7e/../b%20c")).body == b"raw"
    assert ask(server.url("/a/b%20c")).status == 404


def test_a_proxys_request(server: FaultServer) -> None:
    connection = http.client.HTTPConnection(server.host, server.port)
    connection.request("GET", f"http://store.example{PATH}?q=1")
    assert connection.getresponse().read() == DATA
    connection.close()
    assert server.requests[0].target == f"http://store.example{PATH}?q=1"
    assert server.requests[0].path == PATH


def test_forget(server: FaultServer, url: str) -> None:
    ask(url)
    server.forget()
    assert (server.requests, server.sent()) == ([], 0)
    ask(url)
    assert server.requests[0].number == 1


def test_sent_is_near_what_the_client_got(server: FaultServer) -> None:
    """Not what was meant to be sent: a client that reads nothing costs the buffers, no more."""
    server.put("/big", bytes(16 << 20))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect((server.host, server.port))
        client.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        server.until(lambda: server.sent() > 0)
        before = -1
        while server.sent() > before:  # until both buffers are full
            before = server.sent()
            time.sleep(0.05)
        assert 0 < before < 1 << 20


def test_open_and_peak(server: FaultServer, url: str) -> None:
    clients = [socket.create_connection((server.host, server.port)) for _ in range(3)]
    server.until(lambda: server.open == 3)
    for client in clients:
        client.close()
    server.until(lambda: server.open == 0)
    assert server.peak == 3


def test_who_is_not_let_in_yet_is_counted(server: FaultServer) -> None:
    """Nobody who has come, asked and gone is missed, however late the server is."""
    with server._changed:  # it can let nobody in
        with socket.create_connection((server.host, server.port)) as client:
            client.sendall(f"GET {PATH} HTTP/1.1\r\n\r\n".encode())
        until(lambda: server.open == 1)
        assert server.requests == []
    server.let_in()
    server.until(lambda: server.open == 0)
    assert [seen.path for seen in server.requests] == [PATH]


def test_until_gives_up(server: FaultServer) -> None:
    with pytest.raises(TimeoutError):
        server.until(lambda: False, 0.01)


@pytest.mark.parametrize(
    ("header", "size", "range_"),
    [
        (None, 10, None),
        ("bytes=0-9", None, (0, 10)),
        ("bytes=3-", 10, (3, 10)),
        ("bytes=30-", 10, (30, 30)),
        ("bytes=3-", None, None),
        ("bytes=-3", 10, (7, 10)),
        ("bytes=1-2,5-6", 10, None),
    ],
)
def test_asked_range(header: str | None, size: int | None, range_: tuple[int, int] | None) -> None:
    assert asked_range(header, size) == range_


# Scripts.


def statuses(url: str, count: int) -> list[int]:
    return [ask(url).status for _ in range(count)]


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        (2, [200, 503, 200, 200]),
        ([1, 3], [503, 200, 503, 200]),
        (range(2, 10**12), [200, 503, 503, 503]),
        (None, [503, 503, 503, 503]),
        (lambda seen: seen.number % 2 == 0, [200, 503, 200, 503]),
    ],
)
def test_when_a_rule_fits(
    server: FaultServer, url: str, on: int | list[int] | None, expected: list[int]
) -> None:
    server.script(PATH, faults.status(503), on=on)
    assert statuses(url, 4) == expected


def test_numbers_count_one_path(server: FaultServer, url: str) -> None:
    server.put("/b", b"b")
    server.script(PATH, faults.status(503), on=2)
    assert statuses(server.url("/b"), 3) + statuses(url, 2) == [200, 200, 200, 200, 503]


def test_the_newest_rule_wins_and_mend_forgets(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.status(503))
    server.script(PATH, faults.honest(), on=2)
    assert statuses(url, 3) == [503, 200, 503]
    server.mend()
    assert statuses(url, 1) == [200]


def test_every_path_counts_all_requests(server: FaultServer, url: str) -> None:
    server.put("/b", b"b")
    server.script("*", faults.status(503), on=[2, 3])
    assert statuses(url, 2) + statuses(server.url("/b"), 2) == [200, 503, 503, 200]


def test_a_chain(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.chain(faults.weak_etag(), faults.cut(7), faults.status(500)))
    reply = ask(url)
    assert (reply.body, reply.complete) == (DATA[:7], False)
    assert reply.headers["etag"] == 'W/"abc"'


# Ends.


def await_requests(server: FaultServer, count: int) -> None:
    server.until(lambda: len(server.requests) == count)


def test_clients_that_vanish_leave_nothing(server: FaultServer, url: str) -> None:
    server.put("/big", bytes(8 << 20))
    server.script("/slow", faults.trickle(1))
    server.script("/dark", faults.blackhole())
    server.put("/slow", DATA)
    for count, path in enumerate(("/big", "/slow", "/dark"), 1):
        with socket.create_connection((server.host, server.port)) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
            await_requests(server, count)
    server.until(lambda: server.open == 0)
    assert ask(url).status == 200


ENDLESS = [
    faults.blackhole(),
    faults.blackhole(5),
    faults.trickle(1),
    faults.slow_head(),
    faults.endless_1xx(),
    faults.endless_headers(),
    faults.endless_body(),
    faults.pause(3600),
    faults.held(threading.Event()),
    faults.lying_keep_alive(late=True),
    faults.honest(),
]


def test_it_ends_at_once_whatever_goes_on(server_tls: ssl.SSLContext) -> None:
    clients = []
    for tls in (None, server_tls):
        with FaultServer(tls=tls) as server:
            server.put(PATH, bytes(8 << 20))
            for number, fault in enumerate(ENDLESS, 1):
                server.script(PATH, fault, on=number)
            for _ in ENDLESS:
                client = socket.create_connection((server.host, server.port))
                clients.append(client)
                if tls is None:
                    client.sendall(f"GET {PATH} HTTP/1.1\r\n\r\n".encode())
            awaited = len(ENDLESS) if tls is None else 0
            await_requests(server, awaited)
            server.until(lambda: server.open == len(ENDLESS))
        assert not [each for each in threading.enumerate() if each.name.startswith("faults-")]
    for client in clients:
        client.close()


def test_a_crash_of_a_fault_is_not_lost() -> None:
    def crash(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), FaultServer() as server:
        server.script(PATH, crash)
        with pytest.raises(http.client.RemoteDisconnected):
            ask(server.url(PATH))


def test_garbage_is_hung_up_on(server: FaultServer) -> None:
    with socket.create_connection((server.host, server.port), SOON) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert client.recv(100) == b""


# Faults in the content.


def answered(server: FaultServer, fault: Fault, span: tuple[int, int] | None = (100, 200)) -> str:
    """Status, range, length label and body length of the answer to a range under `fault`."""
    server.script(PATH, fault)
    reply = ask(server.url(PATH), span=span)
    label, length = reply.headers.get("content-range"), reply.headers.get("content-length")
    place = DATA.find(reply.body) if reply.body in DATA else "?"
    return f"{reply.status} {label} {length} {len(reply.body)}@{place}"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.honest(), "206 bytes 100-199/1024 100 100@100"),
        (faults.whole_200(), "200 None 1024 1024@0"),
        (faults.whole_206(), "206 bytes 0-1023/1024 1024 1024@0"),
        (faults.range_200(), "200 bytes 100-199/1024 100 100@100"),
        (faults.range_200(off_by=1), "200 bytes 101-200/1024 100 100@100"),
        (faults.range_200(length_off_by=-1), "200 bytes 100-199/1024 99 99@100"),
        (faults.range_200(length_off_by=1), "200 bytes 100-199/1024 101 101@?"),
        (faults.wrong_range(start_by=7), "206 bytes 107-199/1024 93 93@107"),
        (faults.wrong_range(start_by=-7, stop_by=5), "206 bytes 93-204/1024 112 112@93"),
        (faults.wrong_range(start_by=-999, stop_by=9999), "206 bytes 0-1023/1024 1024 1024@0"),
        (faults.mislabelled(5), "206 bytes 105-204/1024 100 100@100"),
        (faults.no_content_range(), "206 None 100 100@100"),
        (faults.short_206(30), "206 bytes 100-129/1024 30 30@100"),
        (faults.total_star(), "206 bytes 100-199/* 100 100@100"),
        (faults.total_other(5000), "206 bytes 100-199/5000 100 100@100"),
        (faults.chunked_206(), "206 bytes 100-199/1024 None 100@100"),
        (faults.chunked_206("bytes 0-99/1024"), "206 bytes 0-99/1024 None 100@100"),
        (faults.empty_416(), "416 bytes */0 {length} {length}@?"),
        (faults.empty_416(with_range=False), "416 None {length} {length}@?"),
    ],
)
def test_other_content(server: FaultServer, fault: Fault, expected: str) -> None:
    found = answered(server, fault)
    length = found.split()[-2]
    assert found == expected.replace("{length}", length)


@pytest.mark.parametrize("text", faults.UNPARSABLE_RANGES)
def test_unparsable_ranges(server: FaultServer, text: str) -> None:
    server.script(PATH, faults.unparsable_range(text))
    reply = ask(server.url(PATH), span=(0, 10))
    assert (reply.status, reply.headers["content-range"], reply.body) == (206, text, DATA[:10])


@pytest.mark.parametrize(
    "fault", [faults.whole_200(), faults.short_206(1), faults.range_200(), faults.multipart()]
)
def test_a_refusal_stays_one(server: FaultServer, url: str, fault: Fault) -> None:
    server.script(PATH, fault)
    assert ask(url, {"If-Match": '"old"'}, span=(0, 9)).status == 412
    assert ask(url, span=(SIZE, SIZE + 9)).status == 416


@pytest.mark.parametrize("parts", [1, 3])
def test_multipart(server: FaultServer, url: str, parts: int) -> None:
    server.script(PATH, faults.multipart(parts))
    reply = ask(url, span=(0, 90))
    kind, _, boundary = reply.headers["content-type"].partition("; boundary=")
    assert (reply.status, kind) == (206, "multipart/byteranges")
    assert "content-range" not in reply.headers
    _, *pieces, end = reply.body.split(b"\r\n--" + boundary.encode())
    assert end.strip() == b"--"
    assert b"".join(each.partition(b"\r\n\r\n")[2] for each in pieces) == DATA[:90]
    assert f"Content-Range: bytes 0-{90 // parts - 1}/1024".encode() in pieces[0]


def test_a_flipped_bit_is_one_bit_of_the_object(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.flip_bit(150))
    rotten = DATA[:150] + bytes([DATA[150] ^ 1]) + DATA[151:]
    assert ask(url).body == rotten
    assert ask(url, span=(150, 151)).body == rotten[150:151]
    assert ask(url, span=(151, 300)).body == DATA[151:300]


def test_login_pages(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.login_page(), on=1)
    server.script(PATH, faults.padded_login_page(), on=2)
    server.script(PATH, faults.padded_login_page('"abc"'), on=3)
    page, padded, sly = (ask(url, span=(0, 500)) for _ in range(3))
    assert (page.status, page.headers["content-type"]) == (200, "text/html")
    assert "etag" not in page.headers
    assert (padded.status, padded.headers["content-range"]) == (206, "bytes 0-499/1024")
    assert (len(padded.body), padded.body.rstrip()) == (500, page.body.rstrip())
    assert "etag" not in padded.headers
    assert (sly.headers["etag"], sly.body) == ('"abc"', padded.body)


def test_replaced(server: FaultServer, url: str) -> None:
    pinned = {"If-Match": '"abc"'}
    server.script(PATH, faults.replaced(b"other", '"new"'), on=[1, 2])
    server.script(PATH, faults.replaced(b"other", '"new"', conditions=False), on=3)
    assert ask(url, pinned).status == 412
    assert ask(url).body == b"other"
    ignored = ask(url, pinned)
    assert (ignored.status, ignored.headers["etag"], ignored.body) == (200, '"new"', b"other")


def test_unconditional(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.unconditional())
    reply = ask(url, {"If-Match": '"old"'}, span=(0, 5))
    assert (reply.status, reply.body, reply.headers["etag"]) == (206, DATA[:5], '"abc"')


def test_etags(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.weak_etag())
    etag = ask(url).headers["etag"]
    assert etag == 'W/"abc"'
    assert ask(url, {"If-Match": etag}).status == 412
    server.script(PATH, faults.no_etag())
    assert "etag" not in ask(url).headers


def test_encodings(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.gzip_label(), on=1)
    server.script(PATH, faults.gzip_body(), on=2)
    label, body = ask(url), ask(url)
    assert label.headers["content-encoding"] == body.headers["content-encoding"] == "gzip"
    assert (label.body, gzip.decompress(body.body)) == (DATA, DATA)
    server.put("/stored", DATA, headers={"Content-Encoding": "gzip"})
    assert ask(server.url("/stored")).headers["content-encoding"] == "gzip"


# Faults of the wire.


def parts(answer: bytes) -> tuple[str, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode("latin-1"), body


@pytest.mark.parametrize("after", [0, 1, 500, SIZE - 1])
@pytest.mark.parametrize("fault", [faults.cut, faults.reset])
def test_exactly_so_many_bytes(
    server: FaultServer, url: str, fault: Callable[[int], Fault], after: int
) -> None:
    server.script(PATH, fault(after))
    head, body = parts(raw(url))
    assert f"Content-Length: {SIZE}" in head
    assert body == DATA[:after]
    assert server.sent() == after


def test_a_reset_is_a_reset_and_a_cut_is_not(server: FaultServer, url: str) -> None:
    endings = []
    server.script(PATH, faults.reset(10), on=1)
    server.script(PATH, faults.cut(10), on=2)
    for _ in range(2):
        with socket.create_connection((server.host, server.port), SOON) as client:
            client.sendall(f"GET {PATH} HTTP/1.1\r\n\r\n".encode())
            try:
                while client.recv(65536):
                    pass
                endings.append("end")
            except ConnectionResetError:
                endings.append("reset")
    assert endings == ["reset", "end"]


def read_slowly(port: int) -> int:
    """How many bytes come before the reset, to a client whose small buffer is often full."""
    came = 0
    with socket.socket() as client, pytest.raises(ConnectionResetError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(SOON)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        while True:
            came += len(client.recv(1024))
            time.sleep(0.001)
    return came


def test_a_reset_waits_for_what_is_on_the_way(server: FaultServer) -> None:
    server.put("/big", bytes(1 << 20))
    server.script("/big", faults.reset(60_000))
    assert read_slowly(server.port) > 60_000  # the head, too


def test_a_cut_over_tls(server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with FaultServer(tls=server_tls) as server:
        server.put(PATH, DATA)
        server.script(PATH, faults.cut(100))
        reply = ask(server.url(PATH), tls=trusting)
        assert (reply.body, reply.complete) == (DATA[:100], False)


def test_a_close_is_heard_at_once(server: FaultServer, url: str) -> None:
    heard = threading.Event()

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        wire.close()
        heard.wait()
        return None

    server.script(PATH, fault)
    try:
        assert raw(url) == b""
    finally:
        heard.set()


@pytest.mark.parametrize("by_reset", [False, True])
def test_hang_up(server: FaultServer, url: str, by_reset: bool) -> None:
    server.script(PATH, faults.hang_up(by_reset=by_reset))
    with pytest.raises(ConnectionResetError) as caught:
        ask(url)
    assert isinstance(caught.value, http.client.RemoteDisconnected) != by_reset


@pytest.mark.parametrize("after", [None, 0, 100])
def test_no_length(server: FaultServer, url: str, after: int | None) -> None:
    server.script(PATH, faults.no_length(after))
    head, body = parts(raw(url))
    assert "Content-Length" not in head
    assert body == DATA[:after]


def test_chunked(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.chunked(), on=1)
    server.script(PATH, faults.cut_chunked(100), on=2)
    server.script(PATH, faults.bad_chunk(100), on=3)
    reply = ask(url)
    assert reply.headers["transfer-encoding"] == "chunked"
    assert (reply.body, reply.complete) == (DATA, True)
    assert "content-length" not in reply.headers
    assert parts(raw(url))[1] == b"64\r\n" + DATA[:100] + b"\r\n"
    assert parts(raw(url))[1] == b"64\r\n" + DATA[:100] + b"\r\nnot hex\r\n" + DATA[100:]


def test_lengths_that_contradict(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.two_lengths(), on=1)
    server.script(PATH, faults.negative_length(), on=2)
    server.script(PATH, faults.length_and_chunked(), on=3)
    two, negative, both = (parts(raw(url, "Connection: close")) for _ in range(3))
    assert "Content-Length: 1024\r\n" in two[0]
    assert two[0].endswith("Content-Length: 1025")
    assert "Content-Length: -1" in negative[0]
    assert "Content-Length: 1024" in both[0]
    assert "Transfer-Encoding: chunked" in both[0]
    assert (two[1], negative[1]) == (DATA, DATA)
    assert both[1] == b"400\r\n" + DATA + b"\r\n0\r\n\r\n"


def test_endless_interims(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.endless_1xx())
    came = raw(url, stop=300_000)
    assert came.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert came.count(b"HTTP/1.1 103") > 1000
    assert b"HTTP/1.1 200" not in came


def test_endless_headers(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.endless_headers())
    came = raw(url, stop=300_000)
    assert came.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n" not in came


@pytest.mark.parametrize("declared", [True, False])
def test_endless_bodies(server: FaultServer, url: str, declared: bool) -> None:
    server.script(PATH, faults.endless_body(declared=declared))
    head, body = parts(raw(url, stop=300_000))
    assert (f"Content-Length: {SIZE}" in head) == declared
    assert body.startswith(DATA)
    assert len(body) > 200_000
    assert server.sent() >= len(body)


def test_connections_that_end(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.connection_close(), on=1)
    server.script(PATH, faults.http10(), on=2)
    server.script(PATH, faults.lying_keep_alive(), on=3)
    close, http10, lying = (parts(raw(url)) for _ in range(3))  # each ends by itself
    assert "Connection: close" in close[0]
    assert http10[0].startswith("HTTP/1.0 200")
    assert "Connection: keep-alive" in lying[0]
    assert close[1] == http10[1] == lying[1] == DATA


def test_a_keep_alive_that_lies_late(server: FaultServer) -> None:
    server.script(PATH, faults.lying_keep_alive(late=True), on=1)
    connection = http.client.HTTPConnection(server.host, server.port, timeout=SOON)
    connection.request("GET", PATH)
    assert connection.getresponse().read() == DATA
    assert server.open == 1
    connection.request("GET", PATH)
    with pytest.raises(ConnectionError):
        connection.getresponse()
    connection.close()
    assert len(server.requests) == 1


# Slow and silent.


def test_trickle(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.trickle(100))
    began = time.monotonic()
    assert len(ask(url, span=(0, 20)).body) == 20
    assert time.monotonic() - began >= 0.2


def test_a_slow_head(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.slow_head(100))
    began = time.monotonic()
    assert raw(url, stop=20).startswith(b"HTTP/1.1 200 OK\r\n")
    assert time.monotonic() - began >= 0.17
    server.script(PATH, faults.slow_head(100_000))
    assert ask(url).body == DATA


def test_blackholes(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.blackhole(), on=1)
    server.script(PATH, faults.blackhole(10), on=2)
    with pytest.raises(TimeoutError):
        raw(url, timeout=0.2, stop=1)
    server.until(lambda: len(server.requests) == 1)
    head = raw(url, stop=50)
    assert head.startswith(b"HTTP/1.1 200 OK")
    server.until(lambda: server.sent() == 10)
    server.script(PATH, faults.blackhole(10))
    with pytest.raises(TimeoutError):
        ask(url, timeout=0.2)
    server.until(lambda: server.requests[-1].sent == 10)


@pytest.mark.parametrize("after", [None, 10])
def test_pauses_and_gates(server: FaultServer, url: str, after: int | None) -> None:
    gate = threading.Event()
    server.script(PATH, faults.pause(0.2, after), on=1)
    server.script(PATH, faults.held(gate, after), on=2)
    began = time.monotonic()
    assert ask(url).body == DATA
    assert time.monotonic() - began >= 0.2
    asking = threading.Thread(target=ask, args=(url,))
    asking.start()
    server.until(lambda: len(server.requests) == 2 and server.requests[1].sent == (after or 0))
    assert asking.is_alive()
    gate.set()
    asking.join(SOON)
    assert server.requests[1].sent == SIZE


# Refusals.


def test_status(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.status(502, {"X-Thing": "1"}, b"bad gateway"))
    reply = ask(url)
    assert (reply.status, reply.headers["x-thing"], reply.body) == (502, "1", b"bad gateway")


def test_s3_errors(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.s3_error(403, "SignatureDoesNotMatch", "a <b> & c", "R7", Host="h"))
    reply = ask(url)
    assert (reply.status, reply.says("Code")) == (403, "SignatureDoesNotMatch")
    assert (reply.says("Message"), reply.says("Host")) == ("a &lt;b&gt; &amp; c", "h")
    assert reply.says("RequestId") == reply.headers["x-amz-request-id"] == "R7"
    assert int(reply.headers["content-length"]) == len(reply.body)


@pytest.mark.parametrize("dialect", faults.EXPIRED)
def test_expired_in_every_dialect(server: FaultServer, url: str, dialect: str) -> None:
    server.script(PATH, faults.EXPIRED[dialect])
    reply = ask(url)
    assert reply.status in (400, 403)
    assert reply.says("Code")
    words = ("expire", "Expiry", "too old", "too far", "exceeds the maximum")
    assert any(word in reply.text for word in words)


@pytest.mark.parametrize("after", [60, "soon", "99999999999999999999", None])
def test_slow_down(server: FaultServer, url: str, after: int | str | None) -> None:
    server.script(PATH, faults.slow_down(after, status=429, code="TooManyRequests"))
    reply = ask(url)
    assert (reply.status, reply.says("Code")) == (429, "TooManyRequests")
    assert reply.headers.get("retry-after") == (None if after is None else str(after))


def test_slow_down_until_a_date(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.slow_down(faults.in_seconds(30)))
    reply = ask(url)
    assert reply.status == 503
    assert reply.headers["retry-after"].endswith("GMT")


def test_an_error_with_200(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.error_200(message="sorry"))
    reply = ask(url)
    assert (reply.status, reply.says("Message")) == (200, "sorry")
    assert reply.text.startswith("<?xml")


def test_redirect(server: FaultServer, url: str) -> None:
    server.script(PATH, faults.redirect("file:///etc/passwd", 307))
    reply = ask(url)
    assert (reply.status, reply.headers["location"]) == (307, "file:///etc/passwd")


# The proxy.


def test_the_proxy_carries_and_counts(server: FaultServer) -> None:
    data = bytes(range(256)) * 20_000
    server.put("/big", data)
    with TCPProxy(server.host, server.port) as proxy:
        came = raw(f"http://127.0.0.1:{proxy.port}/big", "Connection: close")
        assert parts(came)[1] == data
        assert (proxy.sent, proxy.connections) == (len(came), 1)


@pytest.mark.parametrize("after", [0, 1, 777])
@pytest.mark.parametrize("reset", [False, True])
def test_the_proxy_ends_connections_exactly(server: FaultServer, after: int, reset: bool) -> None:
    with TCPProxy(server.host, server.port) as proxy:
        (proxy.reset if reset else proxy.cut)(after, times=2)
        for _ in range(2):
            came, ending = b"", "end"
            with socket.create_connection(("127.0.0.1", proxy.port), SOON) as client:
                client.sendall(f"GET {PATH} HTTP/1.1\r\n\r\n".encode())
                try:
                    while data := client.recv(65536):
                        came += data
                except ConnectionResetError:
                    ending = "reset"
            assert (len(came), ending) == (after, "reset" if reset else "end")
        assert proxy.sent == 2 * after
        assert ask(f"http://127.0.0.1:{proxy.port}{PATH}").body == DATA  # twice, and no more


def test_a_reset_by_the_proxy_waits_for_what_is_on_the_way(server: FaultServer) -> None:
    server.put("/big", bytes(1 << 20))
    with TCPProxy(server.host, server.port) as proxy:
        proxy.reset(60_000)
        assert read_slowly(proxy.port) == 60_000


def test_the_proxy_goes_down_and_up(server: FaultServer) -> None:
    server.script(PATH, faults.blackhole(10), on=1)
    with TCPProxy(server.host, server.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}{PATH}"
        with socket.create_connection(("127.0.0.1", proxy.port), SOON) as client:
            client.sendall(f"GET {PATH} HTTP/1.1\r\n\r\n".encode())
            server.until(lambda: server.sent() == 10)
            proxy.down()
            with pytest.raises(ConnectionResetError):
                while client.recv(65536):
                    pass
        with pytest.raises(ConnectionRefusedError):
            ask(url)
        proxy.down()  # down already
        proxy.up()
        assert ask(url).body == DATA
        server.until(lambda: server.open == 0)


def test_the_proxy_falls_silent_and_goes_on(server: FaultServer) -> None:
    with TCPProxy(server.host, server.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}{PATH}"
        proxy.blackhole(after=500)
        with pytest.raises(TimeoutError):
            ask(url, timeout=0.2)
        until(lambda: proxy.sent == 500)
        replies: list[bytes] = []
        asking = threading.Thread(target=lambda: replies.append(ask(url).body))
        asking.start()
        until(lambda: proxy.sent >= 1000)
        proxy.clear()
        asking.join(SOON)
        assert replies == [DATA]


def test_the_proxys_rate_and_delay(server: FaultServer) -> None:
    server.put("/b", bytes(100_000))
    with TCPProxy(server.host, server.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/b"
        proxy.limit(250_000)
        began = time.monotonic()
        assert len(ask(url).body) == 100_000
        assert time.monotonic() - began >= 0.3
        proxy.clear()
        proxy.delay(0.2)
        began = time.monotonic()
        assert len(ask(url).body) == 100_000
        assert time.monotonic() - began >= 0.2


def test_the_proxy_passes_a_reset_on(server: FaultServer) -> None:
    server.script(PATH, faults.reset(10))
    with (
        TCPProxy(server.host, server.port) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), SOON) as client,
        pytest.raises(ConnectionResetError),
    ):
        client.sendall(f"GET {PATH} HTTP/1.1\r\n\r\n".encode())
        while client.recv(65536):
            pass


def test_the_proxy_without_an_upstream() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with TCPProxy("127.0.0.1", port) as proxy, pytest.raises(ConnectionError):
        ask(f"http://127.0.0.1:{proxy.port}/")


def test_the_proxy_ends_at_once(server: FaultServer) -> None:
    server.script(PATH, faults.blackhole(10))
    with TCPProxy(server.host, server.port) as proxy:
        clients = [socket.create_connection(("127.0.0.1", proxy.port), SOON) for _ in range(5)]
        for client in clients:
            client.sendall(f"GET {PATH} HTTP/1.1\r\n\r\n".encode())
        server.until(lambda: server.sent() == 50)
    assert not [each for each in threading.enumerate() if each.name == "proxy"]
    for client in clients:
        client.close()
