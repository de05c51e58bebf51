"""Faults in what an answer carries: another range, another label, other bytes (S01 to S11).

A fault in the content leaves an honest refusal (412, 416, 404) as it is.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import md5
from itertools import pairwise

from tests.faults import answers
from tests.faults.answers import Answer, Seen, Stored, content_range
from tests.faults.wire import Fault, Wire, send_chunked


@dataclass(frozen=True, slots=True)
class Content:
    """What an answer carries: the bytes [start, stop) of a stored object."""

    stored: Stored
    start: int
    stop: int


def _reshaped(shape: Callable[[Seen, Answer, Content], Answer]) -> Fault:
    """A fault in answers that carry content; refusals stay what they are."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        if answer.of is None or answer.range is None:
            return answer
        return shape(request, answer, Content(answer.of, *answer.range))

    return fault


def _labelled(label: Callable[[Content], str]) -> Fault:
    """The same content under another `Content-Range`."""
    return _reshaped(lambda request, answer, has: answer.having(Content_Range=label(has)))


# S01, S02: 200 where 206 is due.


def whole_200() -> Fault:
    """S01: 200 and the whole object, whatever range was asked for."""
    return _reshaped(lambda request, answer, has: answers.whole(request, has.stored))


def range_200(off_by: int = 0, length_off_by: int = 0) -> Fault:
    """S02: 200 with the range's bytes and `Content-Range`, as rclone's S3 server answers.

    `off_by` moves the label alone; `length_off_by` makes `Content-Length` and the body longer
    (with zeros) or shorter than the label says.
    """

    def shape(request: Seen, answer: Answer, has: Content) -> Answer:
        length = max(0, has.stop - has.start + length_off_by)
        body = bytes(answer.body[:length]).ljust(length, b"\0")
        label = content_range(has.start + off_by, has.stop + off_by, has.stored.size)
        return replace(answer, status=200).having(Content_Range=label).carrying(body)

    return _reshaped(shape)


# S03 to S06: 206 that is not the one that was asked for.


def whole_206() -> Fault:
    """S03: 206 with the whole object, honestly labelled `bytes 0-N/N`."""
    return _reshaped(
        lambda request, answer, has: answers.partial(request, has.stored, 0, has.stored.size)
    )


def wrong_range(start_by: int = 0, stop_by: int = 0) -> Fault:
    """S03: 206 with another range than asked, honestly labelled, within the object."""

    def shape(request: Seen, answer: Answer, has: Content) -> Answer:
        start = min(max(0, has.start + start_by), has.stored.size - 1)
        stop = min(max(start + 1, has.stop + stop_by), has.stored.size)
        return answers.partial(request, has.stored, start, stop)

    return _reshaped(shape)


def mislabelled(by: int) -> Fault:
    """S03: the bytes that were asked for, under a `Content-Range` that is off by `by`."""
    return _labelled(lambda has: content_range(has.start + by, has.stop + by, has.stored.size))


def no_content_range() -> Fault:
    """S03: 206 that does not say which range it is."""
    return lambda wire, request, answer: answer.without("Content-Range")


def unparsable_range(text: str) -> Fault:
    """S03: 206 whose `Content-Range` is `text`; UNPARSABLE_RANGES has the usual ones."""
    return _labelled(lambda has: text)


UNPARSABLE_RANGES = (
    "",
    "bytes",
    "bytes 0-9",
    "bytes -1-9/100",
    "bytes 0--9/100",
    "bytes 9-0/100",
    "bytes 0-1180591620717411303424/1180591620717411303425",
    "bytes 0-9/-100",
    "bytes 0-9/1e2",
    "bytes 0x0-0x9/100",
    "bytes \u00b2-9/100",
    "bytes 0 - 9 / 100",
    "bytes 0-9,10-19/100",
    "bytes */100",
    "items 0-9/100",
)


def short_206(n: int) -> Fault:
    """S04: an honest 206 with the first `n` bytes of the range."""
    return _reshaped(
        lambda request, answer, has: answers.partial(
            request, has.stored, has.start, min(has.stop, has.start + n)
        )
    )


def total_star() -> Fault:
    """S05: `Content-Range: bytes A-B/*`."""
    return _labelled(lambda has: content_range(has.start, has.stop, "*"))


def total_other(n: int) -> Fault:
    """S05: `Content-Range: bytes A-B/n`."""
    return _labelled(lambda has: content_range(has.start, has.stop, n))


def chunked_206(content_range: str | None = None) -> Fault:
    """S06: the same answer chunked, without a length, under the given `Content-Range` if any."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        if content_range is not None:
            answer = answer.having(Content_Range=content_range)
        send_chunked(wire, answer, answer.body)
        return None

    return fault


def chunked() -> Fault:
    """S12: no length, but a chunked body that ends properly."""
    return chunked_206()


def multipart(parts: int = 1) -> Fault:
    """S06: `multipart/byteranges` with the range in one part, or split into several."""
    kind = "multipart/byteranges; boundary=PART"

    def shape(request: Seen, answer: Answer, has: Content) -> Answer:
        body = b"".join(_byteranges(has, parts))
        bare = replace(answer, status=206).without("Content-Range")
        return bare.having(Content_Type=kind).carrying(body)

    return _reshaped(shape)


def _byteranges(has: Content, parts: int) -> Iterator[bytes]:
    length = has.stop - has.start
    edges = [has.start + length * i // parts for i in range(parts + 1)]
    for low, high in pairwise(edges):
        label = content_range(low, high, has.stored.size)
        yield f"\r\n--PART\r\nContent-Type: x/y\r\nContent-Range: {label}\r\n\r\n".encode()
        yield bytes(has.stored.data[low:high])
    yield b"\r\n--PART--\r\n"


# S07 to S11: other content than the one that was asked for.


def flip_bit(at: int) -> Fault:
    """S07: the lowest bit of the object's byte `at` is wrong in every answer that has that byte."""

    def shape(request: Seen, answer: Answer, has: Content) -> Answer:
        if not has.start <= at < has.stop:
            return answer
        body = bytearray(answer.body)
        body[at - has.start] ^= 1
        return replace(answer, body=memoryview(body))

    return _reshaped(shape)


LOGIN = b"<!DOCTYPE html><title>Log in</title><form>Your session has ended. Password: </form>\n"


def login_page(status: int = 200) -> Fault:
    """S08: a portal's page instead of the object."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        page = answers.plain(request, status, LOGIN.decode(), content_type="text/html")
        return page.without("x-amz-request-id")

    return fault


def padded_login_page(etag: str | None = None) -> Fault:
    """S08: the page, padded to the length and under the label that were asked for."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        length = len(answer.body)
        body = LOGIN[:length].ljust(length, b" ")
        page = answer.without("ETag", "x-amz-request-id").having(Content_Type="text/html")
        return (page.having(ETag=etag) if etag else page).carrying(body)

    return fault


def replaced(data: bytes, etag: str | None = None, *, conditions: bool = True) -> Fault:
    """S09: another object now: 412 to an `If-Match` of the old one, or conditions ignored."""
    now = Stored(memoryview(data), etag or f'"{md5(data).hexdigest()}"', {})

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        return answers.honest(request, now, conditions=conditions)

    return fault


def unconditional() -> Fault:
    """S09: `If-Match` ignored, whatever the object is now."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        return answers.honest(request, answer.of, conditions=False)

    return fault


def weak_etag() -> Fault:
    """S10: the ETag is weak; sent back in an `If-Match` it fails with 412, as with real servers."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        etag = answer.get("ETag")
        return answer if etag is None else answer.having(ETag=f"W/{etag.removeprefix('W/')}")

    return fault


def no_etag() -> Fault:
    """No ETag at all."""
    return lambda wire, request, answer: answer.without("ETag")


def gzip_label() -> Fault:
    """S11: `Content-Encoding: gzip` over the same bytes."""
    return lambda wire, request, answer: answer.having(Content_Encoding="gzip")


def gzip_body() -> Fault:
    """S11: the answer's bytes really compressed, with their compressed length."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        return answer.having(Content_Encoding="gzip").carrying(gzip.compress(answer.body, mtime=0))

    return fault
