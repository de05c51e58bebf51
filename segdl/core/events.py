"""What happened: facts with absolute counts, for listeners that the engine does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from datetime import UTC, datetime
from typing import Any, ClassVar

from segdl.core.dataclass import dataclass
from segdl.core.errors import SegdlError


def timestamp(seconds: float | None = None) -> str:
    """A time (now, or unix seconds) as RFC 3339 has it, in UTC, to the millisecond."""
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(_sane(seconds), UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _sane(seconds: float) -> float:
    """Within the years that RFC 3339 can write: what a link says of its end may be anything."""
    return min(max(seconds, 0.0), 253_402_300_799.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The root of all events. `event` is the kind's name in NDJSON."""

    event: ClassVar[str] = ""
    time: str = field(default_factory=timestamp)

    def as_dict(self) -> dict[str, Any]:
        """The event as NDJSON has it."""
        facts = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"event": self.event, **facts}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble(Event):
    """An error, as an event tells it: `message` is for people, the rest for programs.

    `diagnosis` is why a link was refused and `who` has to act, as `core.diagnosis` names them, and
    `skew` the seconds that this machine's clock is ahead of the server's.
    """

    cause: str
    message: str
    code: str | None = None
    status: int | None = None
    request_id: str | None = None
    diagnosis: str | None = None
    who: str | None = None
    skew: float | None = None


def trouble(error: SegdlError) -> dict[str, Any]:
    """The fields of a `Trouble`."""
    why = error.diagnosis
    return {
        "cause": error.cause,
        "message": error.message,
        "code": error.code,
        "status": error.status,
        "request_id": error.request_id,
        "diagnosis": why.kind.value if why else None,
        "who": why.who.value if why else None,
        "skew": round(why.skew, 1) if why and why.skew is not None else None,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderStarted(Event):
    """`bytes` is the order's size as far as it is known, `held` what is on disk already."""

    event: ClassVar[str] = "order_started"
    targets: int
    bytes: int | None
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStarted(Event):
    """The first answer (or the index) told what the target is."""

    event: ClassVar[str] = "target_started"
    target: str
    size: int | None
    etag: str | None
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """At most ten a second. `rate` is bytes a second over the last seconds."""

    event: ClassVar[str] = "progress"
    bytes: int
    total: int | None
    rate: float
    connections: int
    in_flight: Mapping[str, tuple[int, int | None]]  # path: (bytes, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDone(Event):
    """A segment is verified as far as it can be alone, and recorded."""

    event: ClassVar[str] = "segment_done"
    target: str
    segment: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Trouble):
    """A segment will be tried again in `wait` seconds."""

    event: ClassVar[str] = "retry"
    target: str
    segment: int
    wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttled(Event):
    """A host is down or busy: it is held back for `wait` seconds, then asked with one probe."""

    event: ClassVar[str] = "throttled"
    host: str
    wait: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorLeft(Trouble):
    """A target has done with one of its mirrors, which refuses or has another object, and goes on
    with another."""

    event: ClassVar[str] = "mirror_left"
    target: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlExpiring(Event):
    """At the rate that is measured, a target will outlive its share URLs."""

    event: ClassVar[str] = "url_expiring"
    target: str
    ends_at: str  # RFC 3339: the last end of its mirrors, by the servers' clocks
    minutes_left: float
    minutes_needed: float
    targets: int  # of the order that will outlive theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlExpired(Trouble):
    """A share URL has ended; its target waits for a fresh one."""

    event: ClassVar[str] = "url_expired"
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPaused(Event):
    """It waits for something that segdl has not in hand."""

    event: ClassVar[str] = "target_paused"
    target: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetResumed(Event):
    """It waits no longer."""

    event: ClassVar[str] = "target_resumed"
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksRefreshed(Event):
    """A fresh manifest came, with links for `targets` that are not delivered; `lacking` of those
    have none in it, and `other` files of it are none of them."""

    event: ClassVar[str] = "links_refreshed"
    targets: int
    lacking: int
    other: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshFailed(Event):
    """No fresh links came from where they were looked for: the old ones stay."""

    event: ClassVar[str] = "refresh_failed"
    source: str
    message: str
    wait: float | None  # seconds until it is asked again at the soonest; None: when it changes


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetDone(Event):
    """The file is delivered, verified, and survives a power cut from now on."""

    event: ClassVar[str] = "target_done"
    target: str
    size: int
    seconds: float
    digests: Mapping[str, str]
    grade: str
    fetched: bool  # False if it was there already


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFailed(Trouble):
    """It is not delivered by this run."""

    event: ClassVar[str] = "target_failed"
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFinished(Event):
    """The last event of a run."""

    event: ClassVar[str] = "order_finished"
    delivered: int
    failed: int
    bytes: int
    seconds: float
    exit_code: int
