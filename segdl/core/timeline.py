"""The timeline of a run: every request, and what the run made of it, for whoever has to help.

No share URL's query and no header's value can be in it by construction: an entry is one of two
frozen dataclasses without a field for either. Where a server's own words stand (`code`,
`request_id`, `etag`, `message`), what they echo of a secret was blotted out before. What is read
back goes through the same fields, so that a timeline that somebody has written into holds no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, ClassVar

from segdl.core.complaint import printable
from segdl.core.dataclass import dataclass
from segdl.core.errors import SegdlError
from segdl.core.events import Event, Progress, SegmentDone, TargetDone, TargetStarted
from segdl.core.urls import ShareURL

_LONGEST = 500  # characters of any text
_ROUTINE = (Progress, SegmentDone, TargetStarted, TargetDone)  # told by requests and receipts


@dataclass(frozen=True, slots=True)
class Heard:
    """What an answer's head said of itself; echoed secrets are blotted out."""

    host: str  # that answered: another one than the URL's after a redirect
    status: int
    request_id: str | None
    etag: str | None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, until the head of its answer or the failure. Built by `exchange`."""

    kind: ClassVar[str] = "request"
    at: float  # unix seconds
    seconds: float  # until the answer was accepted or refused
    connection: int
    target: str
    object: str  # host and path
    start: int  # of the object, in bytes
    stop: int
    redirected: str | None = None  # the host that answered
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    etag: str | None = None
    cause: str | None = None  # why the answer was not accepted
    diagnosis: str | None = None  # why a link was refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """What the run made of it: an event, and of its facts those that tell the story."""

    kind: str  # the event's
    time: str  # RFC 3339
    target: str | None = None
    host: str | None = None
    segment: int | None = None
    cause: str | None = None
    diagnosis: str | None = None
    who: str | None = None
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    message: str | None = None
    wait: float | None = None  # seconds
    targets: int | None = None
    bytes: int | None = None
    held: int | None = None
    delivered: int | None = None
    failed: int | None = None
    seconds: float | None = None
    exit_code: int | None = None


Entry = Exchange | Incident
Line = dict[str, Any]


def exchange(
    url: ShareURL,
    span: tuple[int, int],
    target: str,
    connection: int,
    began: tuple[float, float],
    heard: Heard | None,
    error: SegdlError | None,
) -> Exchange:
    """The entry of a request for bytes `span` of an object. `began` is when (unix seconds), and
    how long it took; `heard` is None where no answer came, `error` where one was accepted."""
    at, seconds = began
    netloc = url.netloc
    return Exchange(
        at=at,
        seconds=seconds,
        connection=connection,
        target=target,
        object=netloc + url.path,
        start=span[0],
        stop=span[1],
        redirected=heard.host if heard and heard.host != netloc else None,
        status=heard.status if heard else error.status if error else None,
        code=error.code if error else None,
        request_id=(error.request_id if error else None) or (heard.request_id if heard else None),
        etag=heard.etag if heard else None,
        cause=error.cause if error else None,
        diagnosis=error.diagnosis.kind.value if error and error.diagnosis else None,
    )


def incident(event: Event) -> Incident | None:
    """The entry of an event; None for those that requests and receipts tell already."""
    if isinstance(event, _ROUTINE):
        return None
    facts: Line = {}
    for name, wanted in _INCIDENT.items():
        if isinstance(value := getattr(event, name, None), wanted):
            facts[name] = value
    return Incident(kind=event.event, **facts)


def as_line(entry: Entry) -> Line:
    """The entry as it stands in the timeline: what is unknown left out, what is long cut."""
    line: Line = {"kind": entry.kind}
    if isinstance(entry, Exchange):
        line["time"] = _time(entry.at)
    names = _EXCHANGE if isinstance(entry, Exchange) else _INCIDENT
    for name in names:
        if name not in ("at", "kind") and (value := getattr(entry, name)) is not None:
            line[name] = _shown(value)
    return line


def read_line(line: Mapping[str, Any]) -> Line | None:
    """A line of a timeline with nothing in it but what `as_line` could have written; None if it is
    none."""
    kind, time = line.get("kind"), line.get("time")
    if not isinstance(kind, str) or not isinstance(time, str):
        return None
    kinds = _EXCHANGE if kind == Exchange.kind else _INCIDENT
    read: Line = {"kind": _shown(kind), "time": _shown(time)}
    for name, wanted in kinds.items():
        value = line.get(name)
        if name not in ("at", *read) and isinstance(value, wanted) and not isinstance(value, bool):
            read[name] = _shown(value)
    return read


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if not isinstance(value, str) or (len(value) <= _LONGEST and value.isprintable()):
        return value
    return printable(value, _LONGEST)


def _time(at: float) -> str:
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _kinds(entry: type[Exchange] | type[Incident]) -> dict[str, type | tuple[type, ...]]:
    """The fields of an entry, and what their values are."""
    kinds: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float)}
    return {f.name: kinds[str(f.type).removesuffix(" | None")] for f in fields(entry)}


_EXCHANGE, _INCIDENT = _kinds(Exchange), _kinds(Incident)
