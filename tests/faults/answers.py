"""What an honest object store answers, as values: no socket is touched here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from xml.sax.saxutils import escape

MODIFIED = "Wed, 13 Dec 2023 08:00:00 GMT"


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the store holds it. `headers` are stored with it (`Content-Encoding`, …)."""

    data: memoryview
    etag: str
    headers: Mapping[str, str]

    @property
    def size(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came over the wire.

    `range` is half-open and not cut to the object's size; `number` counts the requests for this
    path from 1, `serial` those of the whole server; `time` is monotonic, in seconds; `sent` is how
    many bytes of body have been handed to the kernel so far.
    """

    method: str
    target: str
    path: str
    query: str
    version: str
    headers: Mapping[str, str]
    range: tuple[int, int] | None
    number: int
    serial: int
    connection: int
    time: float
    sent: int = 0

    @property
    def request_id(self) -> str:
        return f"REQ{self.serial:08d}"

    @property
    def closes(self) -> bool:
        """Whether the client wants no further answer on this connection."""
        wish = self.headers.get("connection", "").lower()
        return wish == "close" or (self.version == "HTTP/1.0" and wish != "keep-alive")


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, headers and a body.

    `of` is the stored object, if there is one; `range` what of it the body has: None in a refusal.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: memoryview
    of: Stored | None = None
    range: tuple[int, int] | None = None
    version: str = "HTTP/1.1"

    def get(self, name: str) -> str | None:
        """The first value of the header `name`, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def without(self, *names: str) -> Answer:
        gone = {name.lower() for name in names}
        kept = tuple(header for header in self.headers if header[0].lower() not in gone)
        return replace(self, headers=kept)

    def having(self, **headers: str) -> Answer:
        """With these headers instead of the old ones of the same name: `having(ETag='"x"')`.

        An underscore stands for a hyphen.
        """
        fresh = {name.replace("_", "-"): value for name, value in headers.items()}
        bare = self.without(*fresh)
        return replace(bare, headers=bare.headers + tuple(fresh.items()))

    def adding(self, name: str, value: str) -> Answer:
        """With one more header, whatever is there already."""
        return replace(self, headers=(*self.headers, (name, value)))

    def carrying(self, body: bytes | memoryview) -> Answer:
        """With another body and its exact length."""
        view = memoryview(body)
        return replace(self, body=view).having(Content_Length=str(len(view)))

    @property
    def head(self) -> bytes:
        lines = [f"{self.version} {self.status} {reason(self.status)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this answer, by its own words."""
        return self.version == "HTTP/1.0" or (self.get("connection") or "").lower() == "close"


def honest(request: Seen, stored: Stored | None, *, conditions: bool = True) -> Answer:
    """The answer of a well-behaved S3 to `request`, as MinIO gives it.

    `conditions=False` ignores `If-Match`, as rclone's S3 server does. The condition is checked
    before the range; several ranges or a malformed one get the whole object; HEAD is refused,
    because the method is signed.
    """
    if request.method == "HEAD":
        return error(request, 403, "SignatureDoesNotMatch", "The method is part of the signature.")
    if request.method != "GET":
        return error(request, 405, "MethodNotAllowed", "This store is only read.")
    if stored is None:
        return error(request, 404, "NoSuchKey", "The specified key does not exist.")
    if conditions and not matches(request.headers.get("if-match"), stored.etag):
        refused = error(request, 412, "PreconditionFailed", "A pre-condition did not hold.")
        return replace(refused.having(ETag=stored.etag), of=stored)
    if request.range is None:
        return whole(request, stored)
    start, stop = request.range
    if start >= stored.size:
        missed = error(request, 416, "InvalidRange", "The requested range is not satisfiable.")
        return missed.having(Content_Range=f"bytes */{stored.size}")
    return partial(request, stored, start, min(stop, stored.size))


def whole(request: Seen, stored: Stored) -> Answer:
    """200 and the whole object."""
    return _object(request, stored, 200, (0, stored.size))


def partial(request: Seen, stored: Stored, start: int, stop: int) -> Answer:
    """206 and the bytes [start, stop), with the exact `Content-Range`."""
    answer = _object(request, stored, 206, (start, stop))
    return answer.having(Content_Range=content_range(start, stop, stored.size))


def _object(request: Seen, stored: Stored, status: int, range_: tuple[int, int]) -> Answer:
    start, stop = range_
    headers = (
        *_always(request),
        ("Content-Type", "application/octet-stream"),
        ("Accept-Ranges", "bytes"),
        ("ETag", stored.etag),
        ("Last-Modified", MODIFIED),
        *stored.headers.items(),
    )
    answer = Answer(status, headers, memoryview(b""), of=stored, range=range_)
    return answer.carrying(stored.data[start:stop])


def error(request: Seen, status: int, code: str, message: str, **facts: str) -> Answer:
    """An S3 error with an XML body; `facts` are further elements (`ServerTime`, …)."""
    elements = {"Code": code, "Message": message, **facts}
    elements |= {"Resource": request.path, "RequestId": request.request_id}
    inner = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in elements.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
    return plain(request, status, body, content_type="application/xml")


def plain(request: Seen, status: int, body: str, *, content_type: str = "text/plain") -> Answer:
    """Any status with a short text."""
    headers = (*_always(request), ("Content-Type", content_type))
    return Answer(status, headers, memoryview(b"")).carrying(body.encode())


def _always(request: Seen) -> tuple[tuple[str, str], ...]:
    return (
        ("Date", formatdate(usegmt=True)),
        ("Server", "FaultServer"),
        ("x-amz-request-id", request.request_id),
    )


def matches(condition: str | None, etag: str) -> bool:
    """RFC 9110, 13.1.1: `If-Match` compares strongly: a weak tag on either side never matches."""
    if condition is None or condition.strip() == "*":
        return True
    tags = [tag.strip() for tag in condition.split(",")]
    return etag in tags and not etag.startswith("W/")


def asked_range(header: str | None, size: int | None) -> tuple[int, int] | None:
    """The one range that a `Range` header asks for, half-open; None: none, several or malformed.

    Without a size (no such object) an open or a suffix range cannot be told: None.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").strip())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if first and last:
        return (int(first), int(last) + 1) if int(first) <= int(last) else None
    if size is None:
        return None
    return (int(first), max(size, int(first))) if first else (max(0, size - int(last)), size)


def content_range(start: int, stop: int, total: int | str) -> str:
    return f"bytes {start}-{stop - 1}/{total}"


def reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
