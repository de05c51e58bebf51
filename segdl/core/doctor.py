"""Why a server refuses a link: which of the reasons it is, who must act, and one sentence.

A refusal is read from four witnesses, and the first that knows decides:

1. the link's own term, held against the server's clock (`ServerTime`, or the answer's `Date`, or
   else this machine's): what rclone calls a difference of clocks is mostly an end;
2. the store's words, in the dialects that stores were seen to speak: a code is unmistakable, a
   message is searched for what is known of it, and neither is trusted further than to choose;
3. what the link did before: one that gave bytes a moment ago, and is refused without a reason, is
   asked for too much at once;
4. the link's own form: one that was cut short or copied from a web page cannot be good.

Nothing here names a value of the link's query.
"""

from __future__ import annotations

import math
from dataclasses import replace

from segdl.core.complaint import Complaint
from segdl.core.dataclass import dataclass
from segdl.core.diagnosis import (
    ALTERED,
    ENDED,
    EXPIRED,
    FILTER,
    FRESH,
    GATEWAY,
    LIMITED,
    LOGIN,
    LOST,
    MISSING,
    POLICY,
    REVOKED,
    UNKNOWN,
    WORKED,
    Diagnosis,
    Kind,
    Who,
)
from segdl.core.dialects import (
    BY_CODE,
    BY_PAGES,
    BY_WORDS,
    EARLY,
    FILTERS,
    FRAME,
    GATEWAYS,
    NAME,
)
from segdl.core.head import Head, http_date
from segdl.core.term import iso_date
from segdl.core.urls import ShareURL

LONGEST_WAIT = 24 * 3600.0  # seconds: a link that begins later than that is not worth waiting for


@dataclass(frozen=True, slots=True)
class Case:
    """A refused link, and all that bears on it."""

    head: Head
    complaint: Complaint
    url: ShareURL | None
    now: float  # unix seconds by this machine's clock
    proven: bool  # it gave bytes before in this run

    @property
    def code(self) -> str:
        return self.complaint.code or self.head.get("x-ms-error-code") or ""

    @property
    def words(self) -> str:
        return self.complaint.message or ""

    @property
    def date(self) -> float | None:
        """Unix seconds by the server's clock, if it told."""
        told = iso_date(self.complaint.server_time)
        return self.head.date if told is None else told

    @property
    def there(self) -> float:
        """The same; by this machine's clock if it did not tell."""
        return self.now if self.date is None else self.date

    @property
    def temporary(self) -> bool:
        """Whether temporary credentials signed the link."""
        return self.url is not None and self.url.temporary

    @property
    def ended(self) -> bool:
        """By the link's own words."""
        end = self.url.ends_at if self.url else None
        return end is not None and self.there >= end

    @property
    def lasting(self) -> bool:
        """By the link's own words."""
        end = self.url.ends_at if self.url else None
        return end is not None and self.there < end


def diagnose(case: Case) -> Diagnosis:
    """Why a link was refused, by an answer of 400 or more."""
    skew = None if case.date is None else case.now - case.date
    return replace(_finding(case), skew=skew)


def _finding(case: Case) -> Diagnosis:
    if case.head.status in (404, 410):
        return _missing(case)
    if case.ended and case.head.status in (400, 401, 403):
        return EXPIRED
    if (early := _early(case)) is not None:
        return early
    told = _told(case)
    if told is not None:
        return told
    if case.head.status == 403 and case.proven:
        return WORKED
    return replace(_flaw(case) or _untold(case), guessed=True)


def _missing(case: Case) -> Diagnosis:
    what = {
        "NoSuchBucket": "there is no such bucket", "ContainerNotFound": "there is no such bucket",
        "NoSuchVersion": "there is no such version of the object",
    }.get(case.code)  # fmt: skip
    return replace(MISSING, finding=f"nothing is there: {what}") if what else MISSING


def _early(case: Case) -> Diagnosis | None:
    """A link that has not begun: by the store's words, or by its own in a frame of time."""
    frame = FRAME.search(case.words)
    if frame is None and not EARLY.search(case.words):
        return None
    begins, there = case.url.begins_at if case.url else None, case.there
    if frame is not None:
        told, current = http_date(frame[1]), http_date(frame[3])
        begins, there = begins if told is None else told, there if current is None else current
        if begins is None or there >= begins:
            return EXPIRED
    return _not_yet(None if begins is None else begins - there)


def _not_yet(wait: float | None) -> Diagnosis:
    finding = "the link is not valid yet"
    if wait is None or not 0 < wait <= LONGEST_WAIT:
        advice = f"{FRESH}; the clock of whoever signed it, or the server's, may be off"
        return Diagnosis(Kind.NOT_YET_VALID, Who.PUBLISHER, finding, advice)
    minutes = math.ceil(wait / 60)
    advice = f"run again in {minutes} minutes, by the server's clock"
    return Diagnosis(Kind.NOT_YET_VALID, Who.CUSTOMER, finding, advice)


def _told(case: Case) -> Diagnosis | None:
    """What the store's own words say, seen in the light of the link."""
    found = BY_CODE.get(case.code) or _by_words(case)
    match found:
        case Diagnosis(kind=Kind.CREDENTIALS_ENDED) if not case.temporary:
            return EXPIRED  # GCS calls the link itself a token
        case Diagnosis(kind=Kind.EXPIRED) if case.lasting and case.temporary:
            return ENDED
        case Diagnosis(kind=Kind.KEY_REVOKED) if case.temporary:
            return ENDED
        case Diagnosis(kind=Kind.CLOCK) if case.url is None or case.url.ends_at is None:
            return EXPIRED if case.code in BY_CODE else found
        case Diagnosis(kind=Kind.ALTERED):
            return _altered(case)
        case Diagnosis(kind=Kind.MALFORMED):
            return _flaw(case) or found
        case Diagnosis(kind=Kind.MISSING):
            return _missing(case)
        case Diagnosis(kind=Kind.LOGIN) if case.url and case.url.presigned:
            return LOST
    return found


def _by_words(case: Case) -> Diagnosis | None:
    said = f"{case.code} {NAME.sub(' ', case.words)}"
    found = (diagnosis for pattern, diagnosis in BY_WORDS if pattern.search(said))
    return next((d for d in found if not case.complaint.page or d.kind in BY_PAGES), None)


def _altered(case: Case) -> Diagnosis:
    if (flaw := _flaw(case)) is not None:
        return flaw
    if "not signed" in case.words.lower():
        return replace(
            ALTERED, who=Who.CUSTOMER,
            finding="the request has a header that the link's signature does not cover",
            advice="leave out --header for share URLs, or let the proxy on the way add none",
        )  # fmt: skip
    asked, signed = case.complaint.signed_host, case.url.netloc if case.url else None
    if asked and signed and asked != signed:
        return replace(
            ALTERED, who=Who.CUSTOMER,
            finding=f"the server was asked as {asked}, and the link is for {signed}: "
            "a proxy or NAT on the way changes the host",
            advice="let it keep the Host header, or go around it with --connect-to",
        )  # fmt: skip
    return ALTERED


def _flaw(case: Case) -> Diagnosis | None:
    flaw = case.url.flaw if case.url else None
    if flaw is None:
        return None
    return Diagnosis(
        Kind.MALFORMED, Who.CUSTOMER, f"the link is not whole: {flaw}",
        "copy the manifest again as it was sent, all of it",
    )  # fmt: skip


def _untold(case: Case) -> Diagnosis:
    """A refusal without a reason that is known: who spoke, and with what status."""
    head, signed = case.head, case.url is None or case.url.presigned
    if head.status == 403 and head.get("retry-after"):
        return LIMITED
    if head.status == 401 or head.get("www-authenticate"):
        return REVOKED if signed and case.url else LOGIN
    if case.code in ("AccessDenied", "Forbidden"):
        return POLICY if signed else LOGIN
    if not case.code and _filtered(case):
        return FILTER
    if not case.code and (case.complaint.page or GATEWAYS.match(case.words)):
        return GATEWAY
    if head.status == 451:
        return replace(POLICY, finding="the law keeps the server from giving it")
    return UNKNOWN


def _filtered(case: Case) -> bool:
    """Whether a web filter of the customer's own network has answered."""
    head = case.head
    told = [name for name, _ in head.headers]
    told += filter(None, (head.get("server"), case.words))  # `Via` has proxies that only pass on
    told += [head.excerpt.decode("latin-1")] if case.complaint.page else []
    return bool(FILTERS.search(" ".join(told)))
