"""Whether an answer is believed: one pure function over what was asked and what came.

A byte is placed at an offset only if the answer says which bytes it holds (promise 3) and that
they are of the object that was pinned (promise 2):

- 206, or 200 with `Content-Range` (rclone's S3 server): `Content-Range` begins where it was asked,
  ends there or earlier, and agrees with `Content-Length`, the pin and the manifest's size;
- 200 without `Content-Range`: the server ignores ranges; one stream from the start, or not at all;
- 416 in answer to a probe of an empty object: an empty file;
- everything else is an error, sorted by what to do next.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from segdl.core.complaint import Complaint, actual_size, printable, read_complaint
from segdl.core.dataclass import dataclass
from segdl.core.diagnosis import Diagnosis, Kind
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
from segdl.core.head import Head, http_date
from segdl.core.plan import Pin
from segdl.core.ranges import LARGEST, parse_content_range, parse_unsatisfied
from segdl.core.traffic import Quota, read_quota
from segdl.core.urls import ShareURL

if TYPE_CHECKING:
    from segdl.core.doctor import Case

LONGEST_WAIT = 60.0  # seconds: Retry-After is obeyed up to here


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for [start, stop) of an object, and all that is known of it before."""

    start: int
    stop: int
    pin: Pin | None = None  # None for a probe
    size: int | None = None  # the object's size by the manifest
    name: str = ""  # the target's path: a page is expected where it ends in .html
    url: ShareURL | None = None  # what a refusal may be about
    proven: bool = False  # this URL has given bytes before in this run
    foreign: bool = False  # the pin is of another mirror's object, which has to be this one's too


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer's body is bytes [start, stop) of the object; `stop` is None if unknown."""

    start: int
    stop: int | None
    pin: Pin
    whole: bool = False  # the server ignored `Range`: one stream from the start
    quota: Quota | None = None  # how many more requests the server takes, if it says so


def judge(ask: Ask, head: Head, now: float) -> Accepted | SegdlError:
    """The verdict on an answer. `now` is unix seconds. Nothing is raised."""
    try:
        accepted = _accepted(ask, head, now)
    except SegdlError as verdict:
        return verdict
    quota = _quota(head, now)
    return accepted if quota is None else replace(accepted, quota=quota)


def _accepted(ask: Ask, head: Head, now: float) -> Accepted:
    match head.status:
        case 206:
            return _ranged(ask, head)
        case 200:
            ranged = head.get("content-range") is not None
            return _ranged(ask, head) if ranged else _whole(ask, head)
        case 416:
            return _unsatisfied(ask, head)
        case 412:
            raise _stale(ask, "the object was replaced on the server", "its ETag", status=412)
        case status if status < 400:
            raise MisansweredError(f"the server answered {status} to a GET", status=status)
    raise refusal(ask, head, now)


def _stale(ask: Ask, replaced: str, what: str, status: int | None = None) -> StaleError:
    """The object is not the pinned one: what that means depends on whose the pin is."""
    message = f"it has another object: {what} is another" if ask.foreign else replaced
    return StaleError(message, status=status)


def _quota(head: Head, now: float) -> Quota | None:
    if not any("ratelimit" in name for name, _ in head.headers):
        return None
    there = http_date(head.get("date"))
    return read_quota(head.headers, now if there is None else there)


def _ranged(ask: Ask, head: Head) -> Accepted:
    text = head.get("content-range")
    if (head.get("content-type") or "").strip().lower().startswith("multipart/byteranges"):
        raise _misanswered(head, "several ranges in one answer")
    got = parse_content_range(text) if text else None
    if got is None:
        raise _misanswered(head, f"Content-Range {printable(text or 'missing', 60)!r}")
    length = _length(head)
    if length is None and head.status == 200:
        raise _misanswered(head, "a Content-Range without Content-Length")
    if got.start != ask.start or got.stop > ask.stop:
        raise _misanswered(head, f"bytes {got.start} to {got.stop}")
    if length is not None and length != got.stop - got.start:
        raise _misanswered(head, f"{length} bytes as {got.stop - got.start}")
    if head.status == 200 and got.stop not in (ask.stop, got.total):
        raise _misanswered(head, f"bytes {got.start} to {got.stop}")
    total = got.total if got.total is not None else _known_total(ask)
    if total is None:
        raise MisansweredError("the server does not say how long the object is")
    if got.stop > total:
        raise _misanswered(head, f"bytes {got.start} to {got.stop} of {total}")
    _agree(ask, total)
    return Accepted(got.start, got.stop, _pinned(ask, head, total))


def _known_total(ask: Ask) -> int | None:
    return ask.pin.total if ask.pin and ask.pin.total is not None else ask.size


def _agree(ask: Ask, total: int) -> None:
    """Raises if the object's total is not the one that is known already."""
    if ask.pin and ask.pin.total is not None and total != ask.pin.total:
        replaced = f"the object is now {total} bytes long, it was {ask.pin.total}"
        raise _stale(ask, replaced, f"its length of {total} bytes")
    if ask.size is not None and total != ask.size:
        raise SizeError(f"the object is {total} bytes long, the manifest says {ask.size}")


def _whole(ask: Ask, head: Head) -> Accepted:
    _refuse_page(ask, head)
    total = _length(head)
    if total is not None:
        _agree(ask, total)
    pin = _pinned(ask, head, total)
    if ask.start:
        raise NoRangesError("the server ignores Range and sent the whole object", status=200)
    return Accepted(0, total, pin, whole=True)


def _refuse_page(ask: Ask, head: Head) -> None:
    """A 200 that is a store's error or a login page, and not the object."""
    kind = (head.get("content-type") or "").partition(";")[0].strip().lower()
    if re.match(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<Error[\s>]", head.excerpt):
        complaint = read_complaint(head.excerpt)
        raise MisansweredError(
            f"the server answered 200 with an error: {complaint}",
            status=200,
            code=complaint.code,
            request_id=complaint.request_id,
        )
    if kind == "text/html" and not ask.name.lower().endswith((".html", ".htm")):
        raise _misanswered(head, "a web page (a login page?)")


def _unsatisfied(ask: Ask, head: Head) -> Accepted:
    told = parse_unsatisfied(head.get("content-range") or "")
    total = told if told is not None else actual_size(head.excerpt)
    if ask.pin is not None and ask.pin.total is not None:
        if total is not None and total != ask.pin.total:
            raise StaleError(f"the object is now {total} bytes long, it was {ask.pin.total}")
        raise _misanswered(head, "416 for a range inside the object")
    known = ask.size if total is None else total
    if known and known > ask.start:
        raise _misanswered(head, "416 for a range inside the object")
    if ask.start:
        raise SizeError(f"the object has no byte {ask.start}", status=416)
    if ask.size:
        raise SizeError(f"the object is empty, the manifest says {ask.size} bytes", status=416)
    return Accepted(0, 0, _pinned(ask, head, 0))


def _pinned(ask: Ask, head: Head, total: int | None) -> Pin:
    """The pin that this answer confirms, or makes if it is the first."""
    found = Pin(total, strong_etag(head.get("etag")), _encoding(head), _modified(head))
    if ask.pin is None:
        return found
    if ask.pin.etag is not None:
        if found.etag is None:
            if ask.foreign:
                raise StaleError("it may have another object: it has no strong ETag")
            raise _contradiction(head, "no strong ETag, where the object had one")
        if found.etag != ask.pin.etag:
            replaced = "the object was replaced on the server: its ETag is another"
            raise _stale(ask, replaced, "its ETag")
    elif found.etag is not None and not ask.pin.by_digest:
        raise StaleError("the object has an ETag now, and had none: it may be another one")
    elif ask.pin.modified and found.modified and found.modified != ask.pin.modified:
        raise _stale(ask, "the object was replaced on the server: its date is another", "its date")
    if found.encoding != ask.pin.encoding:
        if ask.foreign:
            raise StaleError("it has another object: its Content-Encoding is another")
        raise _contradiction(head, f"Content-Encoding {found.encoding or 'identity'}")
    return replace(ask.pin, etag=found.etag) if ask.pin.by_digest else ask.pin


def strong_etag(text: str | None) -> str | None:
    """The ETag with its quotes, if it is strong; a weak one always fails in `If-Match`."""
    found = re.fullmatch(r'"[\x21\x23-\x7e\x80-\xff]{1,512}"', (text or "").strip())
    return found[0] if found else None


def _encoding(head: Head) -> str | None:
    value = (head.get("content-encoding") or "").strip().lower()
    return None if value in ("", "identity") else printable(value, 60)


def _modified(head: Head) -> str | None:
    """`Last-Modified`, where it is a strong validator: older than `Date` (RFC 9110, 8.8.2.2)."""
    if strong_etag(head.get("etag")):
        return None
    modified, date = http_date(head.get("last-modified")), http_date(head.get("date"))
    if modified is None or date is None or modified >= date - 1:
        return None
    return head.get("last-modified")


def _length(head: Head) -> int | None:
    """The body's length; None where it is chunked or ends with the connection."""
    text = head.get("content-length")
    if text is None:
        return None
    if head.get("transfer-encoding") or not re.fullmatch(r"\d{1,19}", text, re.ASCII):
        raise _misanswered(head, "lengths that contradict each other")
    if int(text) > LARGEST:
        raise _misanswered(head, "a length that no file can have")
    return int(text)


def _misanswered(head: Head, what: str) -> MisansweredError:
    return MisansweredError(f"the server sent {what} with {head.status}", status=head.status)


def _contradiction(head: Head, what: str) -> MisansweredError:
    error = _misanswered(head, what)
    error.contradicts = True
    return error


def refusal(ask: Ask, head: Head, now: float) -> SegdlError:
    """What a status of 400 or more means for the work. Why a link is refused, `doctor` decides."""
    complaint = read_complaint(head.excerpt)
    error = _refusal(ask, head, complaint, now)
    error.status, error.code = head.status, complaint.code
    error.request_id = complaint.request_id or head.request_id
    return error


def _refusal(ask: Ask, head: Head, complaint: Complaint, now: float) -> SegdlError:
    from segdl.core.doctor import Case, diagnose  # late: most runs meet no refusal

    words = str(complaint).removeprefix(str(head.status)).strip()  # nginx's title repeats it
    said = f"{head.status} {words}".strip()
    case = Case(head, complaint, ask.url, now, ask.proven)
    if head.status >= 500 or head.status == 429:
        return BusyError(f"the server is busy: {said}", retry_after=_wait(head, case.there))
    if head.status in (408, 425):
        return TransientError(f"the server asks for another try: {said}")
    if head.status == 407:
        return UnreachableError(f"the proxy wants other credentials: {said}")
    diagnosis = diagnose(case)
    error = _refused(case, diagnosis, diagnosis.sentence(said))
    error.diagnosis = diagnosis
    return error


def _refused(case: Case, diagnosis: Diagnosis, message: str) -> SegdlError:
    match diagnosis.kind:
        case Kind.EXPIRED | Kind.CREDENTIALS_ENDED:
            expired = ExpiredError(message)
            expired.ends_at = case.url.ends_at if case.url else None
            expired.server_time = case.date
            return expired
        case Kind.RATE_LIMIT if case.proven:
            return TransientError(message)
        case Kind.RATE_LIMIT:
            return BusyError(message, retry_after=_wait(case.head, case.there))
    refused = RefusedError(message)
    refused.doubtful = case.head.status == 403 and diagnosis.guessed
    return refused


def _wait(head: Head, there: float) -> float | None:
    """How long a busy server asks to be left alone, in either way to say it."""
    wait, quota = retry_after(head.get("retry-after"), there), read_quota(head.headers, there)
    if wait is None and quota is not None and not quota.remaining and quota.reset is not None:
        return min(quota.reset, LONGEST_WAIT)
    return wait


def retry_after(text: str | None, now: float) -> float | None:
    """Seconds to wait by a `Retry-After` of either form, at most LONGEST_WAIT; None if absurd."""
    if text is None:
        return None
    if re.fullmatch(r"\d+", text.strip(), re.ASCII):
        return min(float(text), LONGEST_WAIT)
    when = http_date(text)
    return None if when is None else min(max(when - now, 0.0), LONGEST_WAIT)
