"""What an error body says: the store's code, message and request id, made safe to show.

Bodies come as S3's XML, as JSON, as HTML or as plain text, and may be hostile: they are searched,
never parsed as documents, escaped, and cut.
"""

from __future__ import annotations

import re

from segdl.core.dataclass import dataclass

_LONGEST = 200
_FIELD = (
    r"<{0}>([^<]{{1,2000}})</{0}>"  # XML; a `\s*` at its ends would take cubic time
    r'|"{0}"\s*:\s*"((?:[^"\\]|\\.){{1,2000}})"'  # JSON
)
_SIGNED_HOST = re.compile(r"\bhost:([A-Za-z0-9.:\[\]_-]{1,255})")
_PAGE = re.compile(r"\s*(<!doctype html|<html|<head)", re.IGNORECASE)
_TITLE = re.compile(r"<title>([^<]{1,500})</title>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Complaint:
    """A server's own words about a refusal; each None if it did not say."""

    code: str | None = None
    message: str | None = None
    request_id: str | None = None
    server_time: str | None = None  # ISO 8601, as AWS and OSS have it
    signed_host: str | None = None  # the host that it was asked for, as it took part in a signature
    page: bool = False  # for people, and not of a store's API

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.code, self.message)))


def read_complaint(body: bytes) -> Complaint:
    """What the beginning of an error body says."""
    text = body[:16384].decode("utf-8", "replace")
    words = (
        _field(text, "AuthenticationErrorDetail", "Message", "message", "error"),
        _field(text, "Details"),
    )
    message = " ".join(filter(None, words)) or _summary(text)
    canonical = _field(text, "CanonicalRequest") or ""
    host = _SIGNED_HOST.search(canonical)
    return Complaint(
        code=_shown(_field(text, "Code", "code", "reason"), 80),
        message=_shown(message, _LONGEST),
        request_id=_shown(_field(text, "RequestId", "RequestID", "requestId"), 120),
        server_time=_field(text, "ServerTime"),
        signed_host=host[1].lower() if host else None,
        page=bool(_PAGE.match(text)),
    )


def actual_size(body: bytes) -> int | None:
    """The `ActualObjectSize` that MinIO and AWS put into a 416, or None."""
    found = re.search(rb"<ActualObjectSize>(\d{1,19})</ActualObjectSize>", body[:16384])
    return int(found[1]) if found else None


def printable(text: str, longest: int = _LONGEST) -> str:
    """`text` on one line, without anything that moves a terminal's cursor, cut to `longest`."""
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _field(text: str, *names: str) -> str | None:
    for name in names:
        if found := re.search(_FIELD.format(name), text):
            return _unescaped(found[1] or found[2])
    return None


def _summary(text: str) -> str | None:
    """A page's title, or a plain text's first line."""
    if found := _TITLE.search(text):
        return _unescaped(found[1])
    start = text.lstrip()
    return None if not start or start[0] in "<{[" else start.splitlines()[0]


def _shown(text: str | None, longest: int) -> str | None:
    return (printable(text, longest) or None) if text else None


def _unescaped(text: str) -> str:
    import html  # most runs meet no complaint

    return html.unescape(text)
