"""Faults that refuse, fail or send elsewhere (S14 to S21)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from tests.faults import answers
from tests.faults.answers import Answer, Seen
from tests.faults.wire import Fault, Wire


def empty_416(with_range: bool = True) -> Fault:
    """S14: 416 as for an empty object, with `Content-Range: bytes */0` or without one."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        missed = answers.error(request, 416, "InvalidRange", "The range is not satisfiable.")
        return missed.having(Content_Range="bytes */0") if with_range else missed

    return fault


def status(code: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Fault:
    """S19 and others: any status, headers and body."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        bare = answers.plain(request, code, "").without("x-amz-request-id")
        return bare.having(**dict(headers or {})).carrying(body)

    return fault


def s3_error(
    status: int,
    code: str,
    message: str = "",
    request_id: str | None = None,
    **facts: str,
) -> Fault:
    """S16, S17: an S3 error document. `facts` are further elements of it (`ServerTime`, …)."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        if request_id is None:
            return answers.error(request, status, code, message, **facts)
        named = answers.error(request, status, code, message, **facts)
        body = bytes(named.body).replace(request.request_id.encode(), request_id.encode())
        return named.having(**{"x-amz-request-id": request_id}).carrying(body)

    return fault


_RCLONE = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>The difference between the request time and the server\
&#39;s time exceeds the maximum allowed.</Message></Error>"""
_ENDED = "2023-12-13T08:00:00Z"

EXPIRED: Mapping[str, Fault] = {
    "MinIO": s3_error(403, "AccessDenied", "Request has expired", HostId="dd9025bab4ad464b"),
    "AWS": s3_error(
        403,
        "AccessDenied",
        "Request has expired",
        **{"X-Amz-Expires": "3600", "Expires": _ENDED, "ServerTime": "2023-12-13T09:00:00Z"},
    ),
    "AWS STS": s3_error(400, "ExpiredToken", "The provided token has expired."),
    "SeaweedFS": s3_error(403, "AccessDenied", "Request has expired"),
    "Ceph": s3_error(403, "AccessDenied", "The pre-signed URL has expired"),
    "Garage": s3_error(400, "InvalidRequest", "Bad request: Date is too old"),
    "R2": s3_error(403, "ExpiredRequest", "Request has expired"),
    "GCS": s3_error(
        400,
        "ExpiredToken",
        "The provided token has expired.",
        Details=f"Request signature expired at: {_ENDED}",
    ),
    "Azure": s3_error(
        403,
        "AuthenticationFailed",
        "Server failed to authenticate the request.",
        AuthenticationErrorDetail=f"Signature not valid in the time frame: Expiry [{_ENDED}]",
    ),
    "COS": s3_error(403, "AccessDenied", "Request has expired"),
    "rclone": status(400, {"Content-Type": "text/xml; charset=utf-8"}, _RCLONE),
    "noobaa": s3_error(403, "RequestExpired", "Request has expired."),
    "s3proxy": s3_error(403, "RequestTimeTooSkewed", "The request time is too far from ours."),
}
"""S16: an expired link in every dialect. MinIO's, SeaweedFS' and rclone's are recorded ones."""


def slow_down(
    retry_after: int | str | datetime | None = 60, status: int = 503, code: str = "SlowDownRead"
) -> Fault:
    """S18: busy. `Retry-After` in seconds, as a date (a datetime), absurd (any text), or none."""
    if isinstance(retry_after, datetime):
        retry_after = format_datetime(retry_after, usegmt=True)

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        busy = answers.error(request, status, code, "Please reduce your request rate.")
        return busy if retry_after is None else busy.having(Retry_After=str(retry_after))

    return fault


def in_seconds(seconds: float) -> datetime:
    """A time from now, for `slow_down`."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


def error_200(
    code: str = "InternalError", message: str = "We encountered an internal error."
) -> Fault:
    """S20: 200 whose body is an `<Error>`."""
    return s3_error(200, code, message)


def redirect(location: str, status: int = 302) -> Fault:
    """S21: elsewhere."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        return answers.plain(request, status, "Moved.\n").having(Location=location)

    return fault
