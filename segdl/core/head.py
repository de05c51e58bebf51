"""An answer without its body: what its head says of itself.

Header names are lower case here, and what the headers echo of a secret was blotted out before.
"""

from __future__ import annotations

from datetime import UTC

from segdl.core.complaint import printable
from segdl.core.dataclass import dataclass

REQUEST_IDS = (  # the best to quote first
    "x-amz-request-id", "x-oss-request-id", "x-cos-request-id", "x-obs-request-id",
    "x-ms-request-id", "x-guploader-uploadid", "x-request-id", "x-amz-cf-id", "cf-ray",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Head:
    """An answer's status, its headers, and the body's beginning."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    excerpt: bytes = b""  # for refusals and pages; empty for data

    def get(self, name: str) -> str | None:
        """The value of a header, several joined by commas, or None."""
        values = [v for k, v in self.headers if k == name]
        return ", ".join(values) if values else None

    @property
    def date(self) -> float | None:
        """When the server gave it, in unix seconds by its own clock, if it says so."""
        return http_date(self.get("date"))

    @property
    def request_id(self) -> str | None:
        """What the server's operator finds it by, if it says so."""
        told = dict(self.headers)
        return next((printable(told[n], 120) or None for n in REQUEST_IDS if n in told), None)


def http_date(text: str | None) -> float | None:
    """Unix seconds, of a header's date in any of HTTP's forms; None if it is none."""
    from email.utils import parsedate_to_datetime  # which takes time, and few answers need it

    try:
        when = parsedate_to_datetime(text or "")
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, LookupError, OverflowError):
        return None
