"""The catalogue of faults, by name.

A fault takes the wire, the request and the honest answer, and returns the answer to send, or None
when it has spoken on the wire itself. Faults of the first kind can be chained:
`chain(weak_etag(), cut(100))`. To write a new one, write such a function.
"""

from __future__ import annotations

from tests.faults.answers import Answer, Seen
from tests.faults.content import (
    UNPARSABLE_RANGES,
    chunked,
    chunked_206,
    flip_bit,
    gzip_body,
    gzip_label,
    login_page,
    mislabelled,
    multipart,
    no_content_range,
    no_etag,
    padded_login_page,
    range_200,
    replaced,
    short_206,
    total_other,
    total_star,
    unconditional,
    unparsable_range,
    weak_etag,
    whole_200,
    whole_206,
    wrong_range,
)
from tests.faults.endings import (
    bad_chunk,
    blackhole,
    connection_close,
    cut,
    cut_chunked,
    endless_1xx,
    endless_body,
    endless_headers,
    hang_up,
    held,
    http10,
    length_and_chunked,
    lying_keep_alive,
    negative_length,
    no_length,
    pause,
    reset,
    slow_head,
    trickle,
    two_lengths,
)
from tests.faults.refusals import (
    EXPIRED,
    empty_416,
    error_200,
    in_seconds,
    redirect,
    s3_error,
    slow_down,
    status,
)
from tests.faults.wire import Fault, Wire

__all__ = [
    "EXPIRED",
    "UNPARSABLE_RANGES",
    "bad_chunk",
    "blackhole",
    "chain",
    "chunked",
    "chunked_206",
    "connection_close",
    "cut",
    "cut_chunked",
    "empty_416",
    "endless_1xx",
    "endless_body",
    "endless_headers",
    "error_200",
    "flip_bit",
    "gzip_body",
    "gzip_label",
    "hang_up",
    "held",
    "honest",
    "http10",
    "in_seconds",
    "length_and_chunked",
    "login_page",
    "lying_keep_alive",
    "mislabelled",
    "multipart",
    "negative_length",
    "no_content_range",
    "no_etag",
    "no_length",
    "padded_login_page",
    "pause",
    "range_200",
    "redirect",
    "replaced",
    "reset",
    "s3_error",
    "short_206",
    "slow_down",
    "slow_head",
    "status",
    "total_other",
    "total_star",
    "trickle",
    "two_lengths",
    "unconditional",
    "unparsable_range",
    "weak_etag",
    "whole_200",
    "whole_206",
    "wrong_range",
]


def honest() -> Fault:
    """No fault: to let single requests through under a wider rule."""
    return lambda wire, request, answer: answer


def chain(*faults: Fault) -> Fault:
    """One fault after the other, each given what the one before made of the answer."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        left: Answer | None = answer
        for each in faults:
            if left is None:
                return None
            left = each(wire, request, left)
        return left

    return fault
