"""HTTP's byte ranges, whose inclusive end exists only here (RFC 9110, section 14).

Everywhere else in segdl a range is half-open: [start, stop).
"""

from __future__ import annotations

import re

from segdl.core.dataclass import dataclass

_FLAGS = re.ASCII | re.IGNORECASE  # units are case-insensitive (RFC 9110, 14.1)
_CONTENT_RANGE = re.compile(r"bytes +(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", _FLAGS)
_UNSATISFIED = re.compile(r"bytes +\*/(\d{1,19})", _FLAGS)
LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Which bytes an answer holds: [start, stop) of `total`, which is None for `*`."""

    start: int
    stop: int
    total: int | None


def range_header(start: int, stop: int) -> str:
    """The `Range` value that asks for [start, stop). An empty range cannot be asked for."""
    if not 0 <= start < stop:
        raise ValueError(f"no such range: [{start}, {stop})")
    return f"bytes={start}-{stop - 1}"


def parse_content_range(text: str) -> ContentRange | None:
    """What a `Content-Range` says, or None if it says nothing that can be believed."""
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if not found:
        return None
    start, stop = int(found[1]), int(found[2]) + 1
    total = None if found[3] == "*" else int(found[3])
    if start >= stop or stop > LARGEST or (total is not None and not stop <= total <= LARGEST):
        return None
    return ContentRange(start, stop, total)


def parse_unsatisfied(text: str) -> int | None:
    """The total of a 416's `Content-Range: bytes */N`, or None."""
    found = _UNSATISFIED.fullmatch(text.strip())
    return int(found[1]) if found else None
