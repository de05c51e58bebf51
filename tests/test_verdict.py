# ruff: noqa: E501 -- a table has a row a line
"""Which answers are believed: one table of what was asked and what came, and a property over all.

The ids start with the row of FAULTS.md, or with the store of FIELD_NOTES.md, that a case is of.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segdl.core.complaint import actual_size, printable, read_complaint
from segdl.core.errors import (
    BusyError,
    ExpiredError,
    MisansweredError,
    NoRangesError,
    RefusedError,
    SegdlError,
    SizeError,
    StaleError,
    TransientError,
    UnreachableError,
)
from segdl.core.head import Head
from segdl.core.plan import Pin
from segdl.core.ranges import parse_content_range, parse_unsatisfied, range_header
from segdl.core.urls import ShareURL, parse_url
from segdl.core.verdict import Accepted, Ask, judge, retry_after, strong_etag

NOW = 1_702_454_400.0  # 2023-12-13 08:00:00
DATE = "Wed, 13 Dec 2023 08:00:00 GMT"
EARLIER = "Tue, 12 Dec 2023 08:00:00 GMT"
LATER = "Wed, 13 Dec 2023 07:00:00 GMT"


def ending(end: float) -> ShareURL:
    """A link that ends then."""
    return parse_url(f"https://store/o?AWSAccessKeyId=k&Expires={int(end)}&Signature=s")


PIN = Pin(1000, '"e"')
PROBE = Ask(0, 100)  # nothing is known yet
SIZED = Ask(0, 100, size=1000)  # the manifest tells the size
NEXT = Ask(100, 200, pin=PIN)  # in the middle of a pinned object
LAST = Ask(900, 1000, pin=PIN, size=1000)
BARE = Ask(100, 200, pin=Pin(1000, None))  # pinned without an ETag
DATED = Ask(100, 200, pin=Pin(1000, None, modified=EARLIER))
ZIPPED = Ask(100, 200, pin=Pin(1000, '"e"', "gzip"))
OPEN = Ask(0, 100, pin=Pin(None, '"e"'))  # of an object whose first answer had no length
NONE = Ask(0, 1, size=0)  # the manifest says that it is empty
ENDED = Ask(100, 200, pin=PIN, url=ending(NOW - 1))
LASTING = Ask(100, 200, pin=PIN, url=ending(NOW + 1000))
PROVEN = Ask(100, 200, pin=PIN, proven=True)


def h(status: int, body: bytes = b"", **headers: Any) -> Head:
    """A head; an underscore stands for a hyphen, and a list for a header that comes twice."""
    pairs: list[tuple[str, str]] = []
    for name, value in headers.items():
        values = value if isinstance(value, list) else [value]
        pairs += [(name.replace("_", "-"), str(each)) for each in values]
    return Head(status, tuple(pairs), body)


def part(start: int, stop: int, total: object = 1000, status: int = 206, **headers: Any) -> Head:
    """An honest answer of bytes [start, stop), and what a fault makes of it."""
    honest: dict[str, Any] = {
        "content_range": f"bytes {start}-{stop - 1}/{total}",
        "content_length": stop - start,
        "etag": '"e"',
    }
    changed = {**honest, **headers}
    return h(status, **{name: value for name, value in changed.items() if value is not None})


def s3(status: int, code: str, message: str, extra: str = "", **headers: Any) -> Head:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>{extra}"
        "<RequestId>REQ1</RequestId><HostId>h</HostId></Error>"
    )
    return h(status, body.encode(), content_type="application/xml", **headers)


def gave(start: int, stop: int | None, pin: Pin = PIN, *, whole: bool = False) -> Accepted:
    return Accepted(start, stop, pin, whole)


AZURE = (
    "<Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request. "
    "Make sure the value of Authorization header is formed correctly including the signature.\n"
    "RequestId:3ed9c6e5-001e-00a1-80d4-2d3f4c000000\nTime:2023-12-13T08:00:00.0000000Z</Message>"
    "<AuthenticationErrorDetail>{}</AuthenticationErrorDetail></Error>"
)
AZURE_EXPIRED = (
    "Signature not valid in the specified time frame: Start [Tue, 12 Dec 2023 07:00:00 GMT] - "
    "Expiry [Tue, 12 Dec 2023 08:00:00 GMT] - Current [Wed, 13 Dec 2023 08:00:00 GMT]"
)
RCLONE = (
    "The difference between the request time and the server's time exceeds the maximum allowed."
)
FUTURE = "Request is not valid yet"
WEAK = Pin(1000, None)

Expected = Accepted | type[SegdlError] | tuple[type[SegdlError], str]

# fmt: off
TABLE: list[tuple[str, Ask, Head, Expected]] = [
    # -- honest answers
    ("probe", PROBE, part(0, 100), gave(0, 100)),
    ("probe, the size known", SIZED, part(0, 100), gave(0, 100)),
    ("middle", NEXT, part(100, 200), gave(100, 200)),
    ("last", LAST, part(900, 1000), gave(900, 1000)),
    ("object shorter than the probe", PROBE, part(0, 7, 7), gave(0, 7, Pin(7, '"e"'))),
    ("chunked 206", NEXT, part(100, 200, content_length=None, transfer_encoding="chunked"), gave(100, 200)),
    ("unit in capitals", NEXT, part(100, 200, content_range="Bytes 100-199/1000"), gave(100, 200)),
    ("several spaces", NEXT, part(100, 200, content_range=" bytes   100-199/1000 "), gave(100, 200)),
    ("latin-1 etag", PROBE, part(0, 100, etag='"é"'), gave(0, 100, Pin(1000, '"é"'))),

    # -- S01: the whole object in answer to a range
    ("S01 from the start", PROBE, h(200, content_length=1000, etag='"e"'), gave(0, 1000, whole=True)),
    ("S01 chunked", PROBE, h(200, transfer_encoding="chunked"), gave(0, None, Pin(None, None), whole=True)),
    ("S01 in the middle", NEXT, h(200, content_length=1000, etag='"e"'), NoRangesError),
    ("S01 in the middle, another", NEXT, h(200, content_length=1000, etag='"f"'), StaleError),
    ("S01 in the middle, another length", NEXT, h(200, content_length=999, etag='"e"'), StaleError),
    ("S01 not the manifest's size", SIZED, h(200, content_length=999), SizeError),
    ("S01 a slice", Ask(5, 10), h(200, content_length=1000), NoRangesError),
    ("S01 two lengths", PROBE, h(200, content_length=[1000, 1000]), MisansweredError),

    # -- S02: 200 with a right Content-Range
    ("S02 rclone", NEXT, part(100, 200, status=200), gave(100, 200)),
    ("S02 rclone, the end", Ask(900, 1100), part(900, 1000, status=200), gave(900, 1000)),
    ("S02 start off by one", NEXT, part(101, 200, status=200), MisansweredError),
    ("S02 stop off by one less", NEXT, part(100, 199, status=200), MisansweredError),
    ("S02 stop off by one more", NEXT, part(100, 201, status=200), MisansweredError),
    ("S02 length off by one less", NEXT, part(100, 200, status=200, content_length=99), MisansweredError),
    ("S02 length off by one more", NEXT, part(100, 200, status=200, content_length=101), MisansweredError),
    ("S02 no length", NEXT, part(100, 200, status=200, content_length=None), MisansweredError),
    ("S02 the whole", NEXT, part(0, 1000, status=200), MisansweredError),

    # -- S03: 206 with another range than asked
    ("S03 from the start", NEXT, part(0, 1000), MisansweredError),
    ("S03 later", NEXT, part(101, 200), MisansweredError),
    ("S03 earlier", NEXT, part(99, 199), MisansweredError),
    ("S03 longer", NEXT, part(100, 201), MisansweredError),
    ("S03 no Content-Range", NEXT, part(100, 200, content_range=None), (MisansweredError, "'missing'")),
    ("S03 empty", NEXT, part(100, 200, content_range=""), MisansweredError),
    ("S03 unparsable", NEXT, part(100, 200, content_range="bytes 100-199"), MisansweredError),
    ("S03 negative", NEXT, part(100, 200, content_range="bytes -100-199/1000"), MisansweredError),
    ("S03 backwards", NEXT, part(100, 200, content_range="bytes 199-100/1000"), MisansweredError),
    ("S03 2^70", NEXT, part(100, 200, content_range=f"bytes 100-{2**70}/{2**70 + 1}"), MisansweredError),
    ("S03 total 2^63", NEXT, part(100, 200, total=2**63), MisansweredError),
    ("S03 unit items", NEXT, part(100, 200, content_range="items 100-199/1000"), MisansweredError),
    ("S03 other digits", NEXT, part(100, 200, content_range="bytes 100-١٩٩/1000"), MisansweredError),
    ("S03 beyond its total", NEXT, part(100, 200, total=150), MisansweredError),
    ("S03 with =", NEXT, part(100, 200, content_range="bytes=100-199/1000"), MisansweredError),
    ("S03 two ranges", NEXT, part(100, 200, content_range=["bytes 100-199/1000"] * 2), MisansweredError),
    ("S03 the header is not a message", NEXT, part(100, 200, content_range="\x1b[2J" * 99), (MisansweredError, "u001b")),

    # -- S04, S05: shorter, and totals
    ("S04 shorter", NEXT, part(100, 150), gave(100, 150)),
    ("S04 its length is of the rest", NEXT, part(100, 150, content_length=100), MisansweredError),
    ("S05 total *, known by the pin", NEXT, part(100, 200, "*"), gave(100, 200)),
    ("S05 total *, known by the manifest", SIZED, part(0, 100, "*"), gave(0, 100)),
    ("S05 total *, unknown", PROBE, part(0, 100, "*"), (MisansweredError, "how long")),
    ("S05 total *, beyond what is known", Ask(0, 100, size=50), part(0, 100, "*"), MisansweredError),
    ("S05 total *, of nothing", NONE, part(0, 1, "*"), MisansweredError),
    ("S05 another total", NEXT, part(100, 200, 1001), StaleError),
    ("S05 not the manifest's", SIZED, part(0, 100, 1001), (SizeError, "1001 bytes")),

    # -- S06, S08: several ranges, pages
    ("S06 chunked, another range", NEXT, part(0, 100, content_length=None, transfer_encoding="chunked"), MisansweredError),
    ("S06 multipart", NEXT, part(100, 200, content_range=None, content_type="multipart/byteranges; boundary=x"), MisansweredError),
    ("S06 multipart with a range", NEXT, part(100, 200, content_type="Multipart/ByteRanges; boundary=x"), (MisansweredError, "several")),
    ("S06 an object that is multipart", NEXT, part(100, 200, content_type="multipart/mixed"), gave(100, 200)),
    ("S08 login page", PROBE, h(200, b"<html>", content_type="text/html; charset=x", content_length=6), (MisansweredError, "login")),
    ("S08 login page, spelled", PROBE, h(200, b"<html>", content_type="Text/HTML"), MisansweredError),
    ("S08 a page was asked for", Ask(0, 100, name="a/index.HTML"), h(200, b"<html>", content_type="text/html", content_length=6), gave(0, 6, Pin(6, None), whole=True)),
    ("S08 206, padded", PROBE, part(0, 100, content_type="text/html"), gave(0, 100)),

    # -- S09, S10: another object, weak ETags
    ("S09 412", NEXT, h(412, etag='"f"'), (StaleError, "replaced")),
    ("S09 another ETag", NEXT, part(100, 200, etag='"f"'), StaleError),
    ("S09 no ETag any more", NEXT, part(100, 200, etag=None), MisansweredError),
    ("S09 a weak one now", NEXT, part(100, 200, etag='W/"e"'), MisansweredError),
    ("S09 two ETags", NEXT, part(100, 200, etag=['"e"', '"f"']), MisansweredError),
    ("S10 weak", PROBE, part(0, 100, etag='W/"e"'), gave(0, 100, WEAK)),
    ("S10 without quotes", PROBE, part(0, 100, etag="e"), gave(0, 100, WEAK)),
    ("S10 quotes within", PROBE, part(0, 100, etag='"e"e"'), gave(0, 100, WEAK)),
    ("S10 empty", PROBE, part(0, 100, etag='""'), gave(0, 100, WEAK)),
    ("S10 pinned by nothing", BARE, part(100, 200, etag=None), gave(100, 200, WEAK)),
    ("S10 a date that is old enough", PROBE, part(0, 100, etag=None, last_modified=EARLIER, date=DATE), gave(0, 100, Pin(1000, None, modified=EARLIER))),
    ("S10 a date that is too young", PROBE, part(0, 100, etag=None, last_modified=DATE, date=DATE), gave(0, 100, WEAK)),
    ("S10 a date without Date", PROBE, part(0, 100, etag=None, last_modified=EARLIER), gave(0, 100, WEAK)),
    ("S10 no date", PROBE, part(0, 100, etag=None, last_modified="yesterday", date=DATE), gave(0, 100, WEAK)),
    ("S10 another date", DATED, part(100, 200, etag=None, last_modified=LATER, date=DATE), StaleError),
    ("S10 the same date", DATED, part(100, 200, etag=None, last_modified=EARLIER, date=DATE), gave(100, 200, DATED.pin or WEAK)),
    ("S10 another total", BARE, part(100, 200, 999, etag=None), StaleError),

    # -- S11: codings
    ("S11 of all", ZIPPED, part(100, 200, content_encoding="gzip"), gave(100, 200, Pin(1000, '"e"', "gzip"))),
    ("S11 of the first", PROBE, part(0, 100, content_encoding="GZip"), gave(0, 100, Pin(1000, '"e"', "gzip"))),
    ("S11 all at once now", NEXT, part(100, 200, content_encoding="gzip"), (MisansweredError, "gzip")),
    ("S11 no more", ZIPPED, part(100, 200), (MisansweredError, "identity")),
    ("S11 another", ZIPPED, part(100, 200, content_encoding="br"), MisansweredError),
    ("S11 identity", NEXT, part(100, 200, content_encoding="identity"), gave(100, 200)),

    # -- S13: lengths (S12 is about bodies, S15 about sizes: the schedule and the engine)
    ("S13 two", NEXT, part(100, 200, content_length=[100, 100]), MisansweredError),
    ("S13 two that differ", NEXT, part(100, 200, content_length=[100, 7]), MisansweredError),
    ("S13 negative", NEXT, part(100, 200, content_length=-100), MisansweredError),
    ("S13 signed", NEXT, part(100, 200, content_length="+100"), MisansweredError),
    ("S13 with chunked", NEXT, part(100, 200, transfer_encoding="chunked"), MisansweredError),
    ("S13 nonsense", NEXT, part(100, 200, content_length="100 bytes"), MisansweredError),
    ("S13 2^63", PROBE, h(200, content_length=2**63), MisansweredError),

    # -- S14: 416
    ("S14 empty, told", PROBE, h(416, content_range="bytes */0"), gave(0, 0, Pin(0, None))),
    ("S14 empty, not told", PROBE, h(416), gave(0, 0, Pin(0, None))),
    ("S14 empty, as MinIO", PROBE, h(416, b"<Error><Code>InvalidRange</Code><ActualObjectSize>0</ActualObjectSize></Error>"), gave(0, 0, Pin(0, None))),
    ("S14 empty, as the manifest says", NONE, h(416, content_range="bytes */0", etag='"e"'), gave(0, 0, Pin(0, '"e"'))),
    ("S14 empty, with 200", PROBE, h(200, content_length=0, etag='"e"'), gave(0, 0, Pin(0, '"e"'), whole=True)),
    ("S14 not empty by the manifest", SIZED, h(416, content_range="bytes */0"), (SizeError, "empty")),
    ("S14 not empty by the manifest, not told", SIZED, h(416), (MisansweredError, "inside")),
    ("S14 not empty by itself", PROBE, h(416, content_range="bytes */1000"), (MisansweredError, "inside")),
    ("S14 not empty by MinIO", PROBE, h(416, b"<ActualObjectSize>1000</ActualObjectSize>"), MisansweredError),
    ("S14 in the middle", NEXT, h(416, content_range="bytes */1000"), (MisansweredError, "inside")),
    ("S14 in the middle, not told", NEXT, h(416), MisansweredError),
    ("S14 in the middle, of another", NEXT, h(416, content_range="bytes */100"), StaleError),
    ("S14 a slice beyond the end", Ask(5000, 5100), h(416, content_range="bytes */1000"), (SizeError, "5000")),
    ("S14 of unknown length", OPEN, h(416, etag='"e"'), gave(0, 0, Pin(None, '"e"'))),

    # -- S16: expired, in every dialect
    ("S16 MinIO", NEXT, s3(403, "AccessDenied", "Request has expired"), (ExpiredError, "fresh manifest")),
    ("S16 AWS", NEXT, s3(403, "AccessDenied", "Request has expired", "<X-Amz-Expires>60</X-Amz-Expires><Expires>2023-12-13T07:00:00Z</Expires><ServerTime>2023-12-13T08:00:00Z</ServerTime>"), ExpiredError),
    ("S16 AWS, temporary credentials", NEXT, s3(400, "ExpiredToken", "The provided token has expired."), ExpiredError),
    ("S16 SeaweedFS", NEXT, s3(403, "AccessDenied", "Request has expired"), ExpiredError),
    ("S16 Ceph RGW", NEXT, s3(403, "AccessDenied", "The pre-signed URL has expired"), ExpiredError),
    ("S16 Garage", NEXT, s3(400, "InvalidRequest", "Bad request: Date is too old"), ExpiredError),
    ("S16 Cloudflare R2", NEXT, s3(403, "ExpiredRequest", "Request has ended"), ExpiredError),
    ("S16 GCS", NEXT, s3(400, "ExpiredToken", "Invalid argument."), ExpiredError),
    ("S16 Azure", NEXT, h(403, AZURE.format(AZURE_EXPIRED).encode()), ExpiredError),
    ("S16 COS", NEXT, s3(403, "AccessDenied", "Request has expired"), ExpiredError),
    ("S16 rclone, by the URL's end", ENDED, s3(400, "AccessDenied", RCLONE), ExpiredError),
    ("S16 noobaa", NEXT, s3(403, "RequestExpired", "Request is over"), ExpiredError),
    ("S16 noobaa, older", NEXT, s3(403, "RequestTimeTooSkewed", "The difference is too large"), ExpiredError),
    ("S16 JSON", NEXT, h(401, b'{"code": "TokenExpired", "message": "no"}'), ExpiredError),
    ("S16 plain text", NEXT, h(403, b"URL signature expired\nsecond line"), ExpiredError),
    ("S16 by its own end, no body", ENDED, h(403), ExpiredError),
    ("S16 by the server's clock it lasts", ENDED, s3(403, "AccessDenied", "Access Denied.", date=EARLIER), RefusedError),
    ("S16 by the server's clock it is over", LASTING, s3(403, "AccessDenied", "Access Denied.", date="Wed, 13 Dec 2023 09:00:00 GMT"), (ExpiredError, "60 minutes behind")),
    ("S16 the end is no matter for 404", ENDED, s3(404, "NoSuchKey", "The specified key does not exist."), RefusedError),

    # -- S17: refused
    ("S17 signature", NEXT, s3(403, "SignatureDoesNotMatch", "The request signature we calculated does not match"), RefusedError),
    ("S17 signature, proven", PROVEN, s3(403, "SignatureDoesNotMatch", "x"), RefusedError),
    ("S17 key", NEXT, s3(403, "InvalidAccessKeyId", "The key does not exist in our records."), RefusedError),
    ("S17 policy", NEXT, s3(403, "AccessDenied", "Access Denied."), (RefusedError, "403 AccessDenied: Access Denied.")),
    ("S17 too early", NEXT, s3(403, "AccessDenied", FUTURE), RefusedError),
    ("S17 too early, the clocks differ", NEXT, s3(403, "AccessDenied", FUTURE, date=LATER), (RefusedError, "60 minutes ahead")),
    ("S17 over a week", NEXT, s3(400, "AuthorizationQueryParametersError", "X-Amz-Expires must be less than a week"), RefusedError),
    ("S17 rclone, before the URL's end", LASTING, s3(400, "AccessDenied", RCLONE), RefusedError),
    ("S17 Garage, unsigned header", NEXT, s3(400, "InvalidRequest", "Header `x-amz-x` is not signed"), RefusedError),
    ("S17 Azure, signature", NEXT, h(403, AZURE.format("Signature did not match.").encode()), (RefusedError, "did not match")),
    ("S17 no key", NEXT, s3(404, "NoSuchKey", "The specified key does not exist."), (RefusedError, "nothing is there")),
    ("S17 no bucket", NEXT, s3(404, "NoSuchBucket", "The specified bucket does not exist"), RefusedError),
    ("S17 no version", NEXT, s3(404, "NoSuchVersion", "The specified version does not exist."), RefusedError),
    ("S17 gone", NEXT, h(410), RefusedError),
    ("S17 401", NEXT, h(401), RefusedError),
    ("S17 405", NEXT, h(405), RefusedError),
    ("403 as a rate limit", PROVEN, h(403, b"<html><title> Slow down! </title>"), (TransientError, "403 Slow down!")),
    ("403 as a rate limit, expired", PROVEN, s3(403, "AccessDenied", "Request has expired"), ExpiredError),
    ("407", NEXT, h(407), (UnreachableError, "proxy")),

    # -- S18, S19: busy
    ("S18 MinIO", NEXT, s3(503, "SlowDownRead", "Resource requested is unreadable", retry_after=60), BusyError),
    ("S18 MinIO 429", NEXT, s3(429, "TooManyRequests", "x", retry_after=60), BusyError),
    ("S18 SeaweedFS", NEXT, s3(429, "ErrTooManyRequest", "x"), BusyError),
    ("S18 MinIO, shutting down", NEXT, h(503, b"shutting down", connection="close"), (BusyError, "shutting down")),
    ("S19 500", NEXT, s3(500, "InternalError", "x"), BusyError),
    ("S19 502", NEXT, h(502, b"<html><head><title>502 Bad Gateway</title></head>"), BusyError),
    ("S19 504", NEXT, h(504), BusyError),
    ("S19 an end that is over is no excuse", ENDED, h(503), BusyError),
    ("408", NEXT, h(408), TransientError),
    ("425", NEXT, h(425), TransientError),

    # -- S20 and answers that are none
    ("S20", PROBE, s3(200, "InternalError", "We encountered an internal error."), (MisansweredError, "InternalError: We encountered")),
    ("S20 in the middle", NEXT, s3(200, "SlowDown", "x"), MisansweredError),
    ("S20 no declaration", PROBE, h(200, b"\n <Error xmlns='x'><Code>X</Code></Error>", content_length=40), MisansweredError),
    ("S20 a mark first", PROBE, h(200, b"\xef\xbb\xbf<?xml version='1.0'?>\n<Error><Code>X</Code></Error>"), MisansweredError),
    ("S20 an object that is XML", PROBE, h(200, b"<?xml version='1.0'?><Errors/>", content_length=30), gave(0, 30, Pin(30, None), whole=True)),
    ("204", NEXT, h(204), (MisansweredError, "204")),
    ("304", NEXT, h(304, etag='"e"'), MisansweredError),
    ("201", PROBE, h(201, content_length=100), MisansweredError),
    ("302 that nobody followed", PROBE, h(302, location="/x"), MisansweredError),
]
# fmt: on


@pytest.mark.parametrize(("ask", "head", "expected"), [row[1:] for row in TABLE],
                         ids=[row[0] for row in TABLE])  # fmt: skip
def test_the_table(ask: Ask, head: Head, expected: Expected) -> None:
    verdict = judge(ask, head, NOW)
    if isinstance(expected, Accepted):
        assert verdict == expected
        return
    kind, words = expected if isinstance(expected, tuple) else (expected, "")
    assert type(verdict) is kind
    assert words in verdict.message


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row[0] for row in TABLE]
    assert len(set(names)) == len(names)
    rows = {f"S{n:02}" for n in (*range(1, 7), *range(8, 12), 13, 14, *range(16, 21))}
    assert rows <= {name.split()[0] for name in names}


def test_a_416_is_told_by_its_number() -> None:
    for ask in (Ask(5, 6), SIZED):  # from beyond the end; of an empty object that should not be
        verdict = judge(ask, h(416, content_range="bytes */0"), NOW)
        assert isinstance(verdict, SizeError) and verdict.status == 416


def test_an_answer_whose_labels_are_others_contradicts_its_pin() -> None:
    """One of the two answers erred; which of them, only a third can tell."""
    for head in (part(100, 200, etag=None), part(100, 200, content_encoding="gzip")):
        verdict = judge(NEXT, head, NOW)
        assert isinstance(verdict, MisansweredError) and verdict.contradicts
    verdict = judge(NEXT, part(101, 200), NOW)
    assert isinstance(verdict, MisansweredError) and not verdict.contradicts


def test_a_refusal_carries_its_facts() -> None:
    verdict = judge(NEXT, s3(404, "NoSuchKey", "gone"), NOW)
    assert isinstance(verdict, RefusedError)
    assert (verdict.status, verdict.code, verdict.request_id) == (404, "NoSuchKey", "REQ1")
    bare = judge(NEXT, h(403, x_amz_request_id="REQ2"), NOW)
    assert isinstance(bare, RefusedError)
    assert (bare.status, bare.code, bare.request_id) == (403, None, "REQ2")


# -- Retry-After ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        (" 60 ", 60.0),
        ("61", 60.0),
        ("9" * 5000, 60.0),
        ("Wed, 13 Dec 2023 08:00:20 GMT", 20.0),
        ("Wed, 13 Dec 2023 07:00:00 GMT", 0.0),
        ("Fri, 13 Dec 2199 08:00:00 GMT", 60.0),
        ("Wednesday, 13-Dec-23 08:00:20 GMT", 20.0),
        ("Wed, 13 Dec 2023 09:00:20 +0100", 20.0),
        ("13 Dec 2023 08:00:20", 20.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("Wed, 32 Dec 2023 08:00:20 GMT", None),
        ("Wed, 13 Dec 99999 08:00:20 GMT", None),
        ("١٢", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert retry_after(text, NOW) == seconds


@pytest.mark.parametrize(("date", "seconds"), [(None, 20.0), (LATER, 60.0), ("soon", 20.0)])
def test_retry_after_goes_by_the_server_s_clock(date: str | None, seconds: float) -> None:
    clock = {"date": date} if date else {}
    head = h(503, b"", retry_after="Wed, 13 Dec 2023 08:00:20 GMT", **clock)
    verdict = judge(NEXT, head, NOW)
    assert isinstance(verdict, BusyError)
    assert verdict.retry_after == seconds


@given(st.text(max_size=60) | st.floats(0, 2e11).map(formatdate), st.floats(0, 4e9))
def test_retry_after_is_bounded(text: str, now: float) -> None:
    seconds = retry_after(text, now)
    assert seconds is None or 0 <= seconds <= 60


# -- what a server says is shown, and does no harm ---------------------------------------------------


def test_a_message_is_escaped_and_cut() -> None:
    nasty = "\x1b]0;owned\x07" + "‮\r\nHTTP/1.1 200 OK\r\n" + "A" * 1500
    verdict = judge(PROBE, s3(200, "Evil\x00Code", nasty), NOW)
    assert isinstance(verdict, MisansweredError)
    assert verdict.message.isprintable()
    assert verdict.code is not None and verdict.code.isprintable()
    assert len(verdict.message) < 400
    assert verdict.message.endswith("…")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"", None, None),
        (b"  \n ", None, None),
        (b"<Error><Code>A</Code><Message>b &amp; c</Message></Error>", "A", "b & c"),
        (b"<Error><Code>  </Code><Message>\n  b\n c </Message></Error>", None, "b c"),
        (b'{"message": "no \\" way", "code" : "X", "requestId": "r"}', "X", 'no \\" way'),
        (b'{"code": 7}', None, None),
        (b"<html><TITLE> 502 Bad\nGateway </TITLE>", None, "502 Bad Gateway"),
        (b"Too busy\nsecond line", None, "Too busy"),
        (b"\xff\xfe", None, "��"),
        (b"<!DOCTYPE x [<!ENTITY y 'z'>]><Error>&y;</Error>", None, None),
    ],
)
def test_complaints(body: bytes, code: str | None, message: str | None) -> None:
    complaint = read_complaint(body)
    assert (complaint.code, complaint.message) == (code, message)


@pytest.mark.parametrize(
    "body",
    [
        b"<Code>" + b" " * 16384,
        b"<Code>" * 2730,
        b"<Message> a" * 1500,
        b"<title> " + b"\t" * 16384,
        b'"code"' + b" " * 16384,
        b'"code": "' + b"\\" * 16384,
        b'"message" : "' * 1300,
        b"<ActualObjectSize>" * 900,
    ],
    ids=lambda body: body[:18].decode(),
)
def test_a_hostile_body_takes_no_time(body: bytes) -> None:
    """Every pattern takes linear time, or nearly: the worst of these once took hours."""
    began = time.process_time()
    read_complaint(body)
    actual_size(body)
    assert time.process_time() - began < 1.0


@given(st.text(), st.integers(1, 300))
def test_printable_is_printable(text: str, longest: int) -> None:
    shown = printable(text, longest)
    assert len(shown) <= longest
    assert shown.isprintable()


# -- ranges ------------------------------------------------------------------------------------------


@given(st.integers(0, 2**62), st.integers(1, 2**40), st.integers(0, 2**40))
def test_ranges_go_out_and_come_back(start: int, length: int, more: int) -> None:
    assert range_header(start, start + length) == f"bytes={start}-{start + length - 1}"
    text = f"bytes {start}-{start + length - 1}/{start + length + more}"
    got = parse_content_range(text)
    assert got is not None
    assert (got.start, got.stop, got.total) == (start, start + length, start + length + more)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 5), (5, 4), (-1, 4)])
def test_an_empty_range_cannot_be_asked_for(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="no such range"):
        range_header(start, stop)


@pytest.mark.parametrize(
    ("text", "total"),
    [("bytes */7", 7), ("Bytes  */0", 0), ("bytes */*", None), ("bytes 0-1/7", None), ("", None)],
)
def test_unsatisfied(text: str, total: int | None) -> None:
    assert parse_unsatisfied(text) == total


@pytest.mark.parametrize(
    ("text", "etag"),
    [
        ('"a"', '"a"'),
        (' "a" ', '"a"'),
        ('"a b"', None),
        ('W/"a"', None),
        ("a", None),
        ('""', None),
        ('"a\x7f"', None),
        ('"' + "a" * 513 + '"', None),
        (None, None),
    ],
)
def test_strong_etag(text: str | None, etag: str | None) -> None:
    assert strong_etag(text) == etag


# -- any answer at all -----------------------------------------------------------------------------

small = st.integers(0, 12)
numbers = small | st.sampled_from([100, 2**31, 2**63 - 1, 2**63, 2**70, -1])
ranges = st.builds("bytes {}-{}/{}".format, numbers, numbers, numbers | st.just("*"))
etags = st.sampled_from(['"a"', '"b"', 'W/"a"', "a", ""])
dates = st.sampled_from([DATE, EARLIER, LATER, "nonsense"])
HEADERS: dict[str, st.SearchStrategy[str]] = {
    "content-range": ranges | st.builds("bytes */{}".format, numbers) | st.text(max_size=20),
    "content-length": numbers.map(str) | st.text(max_size=5),
    "transfer-encoding": st.sampled_from(["chunked", "identity", ""]),
    "content-encoding": st.sampled_from(["gzip", "identity", "br", ""]),
    "content-type": st.sampled_from(["text/html", "multipart/byteranges; boundary=x", "a/b", ""]),
    "etag": etags,
    "last-modified": dates,
    "date": dates,
    "retry-after": numbers.map(str) | dates,
}
header = st.one_of([st.tuples(st.just(name), values) for name, values in HEADERS.items()])
bodies = st.binary(max_size=30) | st.sampled_from(
    [b"<Error><Code>x</Code></Error>", b"<ActualObjectSize>7</ActualObjectSize>"]
)
statuses = st.sampled_from([200, 206, 206, 206, 200, 416])
pins = st.builds(
    Pin,
    total=st.none(),
    etag=st.sampled_from([None, '"a"', '"a"']),
    encoding=st.sampled_from([None, None, "gzip"]),
    modified=st.none() | st.just(EARLIER),
)
off = st.sampled_from([1, -1])


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    """A question, most often one whose pin, size and range agree."""
    start, length = draw(small), draw(st.integers(1, 12))
    total = start + length + draw(small)
    known = st.sampled_from([total, total, total, None, total - length])
    pin = draw(st.none() | pins)
    return Ask(
        start,
        start + length,
        pin=replace(pin, total=draw(known)) if pin else None,
        size=draw(known),
        proven=draw(st.booleans()),
    )


def near(ask: Ask, start: int, stop: int, more: int) -> dict[str, str]:
    """The headers of an answer to `ask` that gives [start, stop), and says `more` than it has."""
    known = [ask.size, ask.pin.total if ask.pin else None, ask.stop + 5]
    total = next(total for total in known if total is not None)
    right = {
        "content-range": f"bytes {start}-{stop - 1}/{total}",
        "content-length": str(stop - start + more),
        "etag": (ask.pin and ask.pin.etag) or '"a"',
    }
    return right | ({"content-encoding": "gzip"} if ask.pin and ask.pin.encoding else {})


TWEAKS: dict[str, tuple[str, str | None]] = {
    "another object": ("etag", '"b"'),
    "no ETag": ("etag", None),
    "no range": ("content-range", None),
    "no length": ("content-length", None),
    "chunked": ("transfer-encoding", "chunked"),
    "coded": ("content-encoding", "gzip"),
}


@st.composite
def answers(draw: st.DrawFn, ask: Ask) -> Head:
    """An answer that is right but for a few things."""
    kinds = ["start", "stop", "length", "total", *TWEAKS]
    wrong = draw(st.just(set[str]()) | st.sets(st.sampled_from([*kinds, *HEADERS]), max_size=2))
    start = ask.start + (draw(off) if "start" in wrong else 0)
    stop = ask.stop + (draw(off) if "stop" in wrong else 0)
    headers: dict[str, str | None] = dict(near(ask, start, stop, int("length" in wrong)))
    if "total" in wrong:
        headers["content-range"] = f"bytes {start}-{stop - 1}/*"
    headers |= dict(TWEAKS[name] for name in sorted(wrong & TWEAKS.keys()))
    headers |= {name: draw(HEADERS[name]) for name in sorted(wrong & HEADERS.keys())}
    pairs = [(name, value) for name, value in headers.items() if value is not None]
    pairs += [draw(header)] if draw(st.integers(0, 9)) == 0 else []
    return Head(draw(statuses), tuple(pairs), draw(bodies))


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_nothing_is_accepted_but_what_the_answer_says(data: st.DataObject) -> None:
    """Whatever comes: no exception, and no range but the one that the headers and the ask agree
    on."""
    ask = data.draw(asks())
    head = data.draw(answers(ask))
    verdict = judge(ask, head, NOW)
    if isinstance(verdict, SegdlError):
        return
    lengths = [value for name, value in head.headers if name == "content-length"]
    said = [value for name, value in head.headers if name == "content-range"]
    check_pin(ask, head, verdict)
    if head.status == 416:
        assert (verdict.start, verdict.stop, ask.start) == (0, 0, 0)
        assert not ask.size
    elif verdict.whole:
        assert (head.status, verdict.start, ask.start, said) == (200, 0, 0, [])
        assert [str(verdict.stop)] == lengths if verdict.stop is not None else not lengths
    else:
        check_range(ask, head, verdict, said, lengths)


def check_range(
    ask: Ask, head: Head, verdict: Accepted, said: list[str], lengths: list[str]
) -> None:
    assert head.status in (200, 206)
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", said[0])
    assert found is not None and len(said) == 1
    start, stop = int(found[1]), int(found[2]) + 1
    assert verdict.stop is not None
    assert (verdict.start, verdict.stop) == (start, stop)
    assert ask.start == start < stop <= ask.stop
    assert lengths == [str(stop - start)] if lengths or head.status == 200 else True
    known = {ask.size, ask.pin.total if ask.pin else None, verdict.pin.total} - {None}
    if found[3] != "*":
        known.add(int(found[3]))
    assert len(known) == 1
    assert all(total is not None and stop <= total for total in known)


def check_pin(ask: Ask, head: Head, verdict: Accepted) -> None:
    if ask.pin is None:
        return
    assert verdict.pin == ask.pin
    if ask.pin.etag is not None:
        assert [value for name, value in head.headers if name == "etag"] == [ask.pin.etag]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(100, 999),
    st.lists(st.tuples(st.sampled_from([*HEADERS, "x-amz-request-id"]), st.text(max_size=40))),
    st.binary(max_size=200),
    st.none() | st.floats(0, 1e10),
)
@example(403, [("date", "Wed, 13 Dec 2023 08:00:00 -9999")], b"", None)
@example(503, [("retry-after", "Wed, 13 Dec 9999 23:59:59 -2359")], b"", None)
def test_nothing_is_raised(
    status: int, headers: list[tuple[str, str]], body: bytes, ends_at: float | None
) -> None:
    ask = Ask(0, 10, url=None if ends_at is None else ending(ends_at))
    verdict = judge(ask, Head(status, tuple(headers), body), NOW)
    assert isinstance(verdict, Accepted | SegdlError)
