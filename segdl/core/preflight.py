"""Go or no-go: what is known of an order before its run, weighed.

Pure: what every link answered, where every target stands on disk, how much room there is and how
fast bytes came, against what the manifest asks for. What `get` would fail by is the error that it
would fail with, so that the codes are the same; what it would get over is a note.

Nothing here is certain, and the world may change before the run. A rate that was measured is an
estimate, and may be off by `DOUBT`: a target is only given up for a link that would end too early
even at so much more; what would end too early at the rate itself is a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from math import inf

from segdl.core.dataclass import dataclass
from segdl.core.diagnosis import SKEW
from segdl.core.digests import etag_md5
from segdl.core.errors import (
    DiskError,
    DiskFullError,
    ExitCode,
    ExpiredError,
    OccupiedError,
    SegdlError,
    SizeError,
    TransientError,
    UnreachableError,
)
from segdl.core.manifest.model import Target
from segdl.core.plan import Layout, Pin, aligned
from segdl.core.proof import Proof
from segdl.core.report import common_code
from segdl.core.runway import SPARE, SURE, Left, Short, forecast
from segdl.core.urls import ShareURL
from segdl.core.verdict import Ask

DOUBT = 2.0
_WINDOWS_PATH = 259  # characters: MAX_PATH, without the end that C wants


class ExpiringError(ExpiredError):
    """The URL is good now, and will end before the target is done."""


# -- what is known -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """What one link of a target gave when it was asked for the first byte."""

    url: ShareURL
    error: SegdlError | None = None
    pin: Pin | None = None  # of the object that answered
    ranged: bool = True  # it gave the range that it was asked for
    skew: float | None = None  # seconds by which its server's clock is ahead of this machine's


@dataclass(frozen=True, slots=True)
class Present:
    """What stands under a target's final name, and is not known to be the target."""

    size: int | None  # None: no regular file
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Outset:
    """All that is known of one target before the run."""

    target: Target
    links: tuple[Link, ...] = ()  # none where nothing has to be fetched
    delivered: int | None = None  # its bytes, where it is
    used: int = 0  # bytes on disk under way: the room that they take is there for the target
    pin: Pin | None = None  # of the object that they are of; None if they are of no use
    segment: int | None = None  # bytes; None leaves it to the object's ETag
    present: Present | None = None
    elsewhere: bool = False  # a file that is brought along may be all of it: a digest will tell
    blocked: SegdlError | None = None  # the disk gives no way to its name


@dataclass(frozen=True, slots=True)
class Ground:
    """What the output directory's file system was found to be like."""

    free: int  # bytes
    longest_name: int  # bytes
    longest_path: int  # bytes, the output directory's own included
    cased: bool  # `a` and `A` are two files


@dataclass(frozen=True, slots=True)
class Sample:
    """How fast bytes came from one host, over so many connections, together with all samples."""

    host: str
    connections: int
    bytes: int
    rate: float  # bytes a second


@dataclass(frozen=True, slots=True)
class Terms:
    """How the run is meant to be."""

    overwrite: bool = False
    at_once: int = 4  # targets
    ahead: int = 4  # segments of one target that may wait for its front
    renewable: bool = False  # fresh links come by themselves
    rate: float | None = None  # bytes a second to count on, and not those of the samples
    limit: int | None = None  # bytes a second


# -- what is made of it ------------------------------------------------------------------------


class Source(StrEnum):
    """Where a rate comes from."""

    GIVEN = "given"
    LIMIT = "limit"
    ESTIMATE = "estimate"


@dataclass(frozen=True, slots=True)
class Pace:
    """The bytes a second to count on."""

    rate: float
    source: Source

    @property
    def most(self) -> float:
        """The bytes a second that it will hardly be more than."""
        return self.rate * DOUBT if self.source is Source.ESTIMATE else self.rate


@dataclass(frozen=True, slots=True)
class Note:
    """Something to know before the run that does not stop it; of the order if `path` is None."""

    path: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is to be expected of one target. `error` is what it would fail with."""

    outset: Outset
    size: int | None  # bytes
    held: int = 0  # bytes that are gone on with
    left: int = 0  # bytes to fetch, as far as is known
    room: int = 0  # bytes that they take of what is free
    ahead: int = 0  # bytes that its segments ahead of the front may take beside them
    end: float = inf  # unix seconds: when the last of its good links ends
    error: SegdlError | None = None
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return self.outset.target.path


@dataclass(frozen=True, slots=True)
class Preflight:
    """Go or no-go."""

    prospects: tuple[Prospect, ...]
    notes: tuple[Note, ...]
    bars: tuple[SegdlError, ...]  # nothing at all would be fetched
    full: DiskFullError | None  # all together do not fit
    needed: int  # bytes of room at the peak
    pace: Pace | None  # None: not known, or nothing to fetch
    left: int  # bytes of what can be fetched
    ground: Ground | None  # None where the output directory cannot be used
    samples: tuple[Sample, ...]
    date: float  # unix seconds by the servers' clocks: what the end of a link is held against

    @property
    def seconds(self) -> float | None:
        """How long the run will take, as far as can be told."""
        if not self.left:
            return 0.0
        return self.left / self.pace.rate if self.pace else None

    @property
    def failing(self) -> tuple[Prospect, ...]:
        """The targets that would fail."""
        return tuple(prospect for prospect in self.prospects if prospect.error is not None)

    @property
    def exit_code(self) -> ExitCode:
        """0 to go, else the code that `get` would end with."""
        if self.bars:
            return self.bars[0].exit_code
        errors = (self.full, *(prospect.error for prospect in self.prospects))
        return common_code(error for error in errors if error is not None)


def question(target: Target, link: ShareURL) -> Ask:
    """What a link is asked for: the first byte of its target. (Asked for more than there is, OSS
    answers with 200 and all of it.)"""
    start = target.slice.offset if target.slice else 0
    return Ask(
        start=start,
        stop=start + 1,
        size=None if target.slice else target.size,
        name=target.path,
        url=link,
    )


def size_of(target: Target, pin: Pin) -> int | None:
    """The target's size by an answer. Raises SizeError if it cannot be the manifest's target."""
    part, size = target.slice, pin.total
    if part is not None:
        if size is not None and part.offset + part.size > size:
            raise SizeError(f"the object has {size} bytes, and the slice ends beyond them")
        size = part.size
    if size is not None:
        Proof(target, Layout(size, 1), pin).check_size(size)
    return target.size if size is None else size


def weigh(
    outsets: Sequence[Outset],
    terms: Terms,
    ground: Ground | None,
    samples: Sequence[Sample],
    bars: Sequence[SegdlError],
    root: str,
    now: float,
) -> Preflight:
    """Go or no-go. `root` is the output directory, `now` unix seconds by this machine's clock."""
    prospects = [_prospect(outset, terms, ground) for outset in outsets]
    pace = _pace(samples, terms)
    date = now + max((skew for _, skew in _skews(outsets)), default=0.0)
    prospects = _judged(prospects, terms, pace, date)
    notes = [*_order_notes(prospects, ground, root), *_clock_notes(outsets)]
    good = [prospect for prospect in prospects if prospect.error is None]
    left, needed = sum(p.left for p in good), _peak(good, terms)
    full = _full(needed, ground)
    if ground is not None and full is None and (total := _peak(prospects, terms)) > ground.free:
        more = total - ground.free
        notes.append(Note(None, f"with what cannot be fetched now, {more} bytes of room lack"))
    if left and pace is None:
        notes.append(Note(None, "no rate could be measured, so nothing is said of when it ends"))
    notes.extend(Note(p.path, text) for p in prospects for text in p.notes)
    return Preflight(
        prospects=tuple(prospects),
        notes=tuple(notes),
        bars=tuple(bars),
        full=full,
        needed=needed,
        pace=pace,
        left=left,
        ground=ground,
        samples=tuple(samples),
        date=date,
    )


# -- one target --------------------------------------------------------------------------------


def _prospect(outset: Outset, terms: Terms, ground: Ground | None) -> Prospect:
    if outset.delivered is not None:
        return Prospect(outset, outset.delivered)
    good = [link for link in outset.links if link.pin is not None]
    size = size_of(outset.target, good[0].pin) if good and good[0].pin else outset.target.size
    if to_be_hashed(outset.target, outset.present):
        return Prospect(outset, size, notes=(_hashed(outset, terms),))
    held = _held(outset, good)
    etag = good[0].pin.etag if good and good[0].pin else None
    segment = outset.segment or aligned(size or 0, etag)
    room = max((size or 0) - outset.used, 0)
    return Prospect(
        outset,
        size,
        held=held,
        left=0 if outset.elsewhere else max((size or 0) - held, 0),
        room=room,
        # The segment at the front is written where it belongs.
        ahead=min(terms.ahead * segment, max((size or 0) - segment, 0)) if room else 0,
        end=max((inf if (end := link.url.ends_at) is None else end for link in good), default=inf),
        error=_error(outset, size, terms, ground),
        notes=tuple(_notes(outset, good, terms, held)),
    )


def _held(outset: Outset, good: Sequence[Link]) -> int:
    """Bytes that a run goes on with: while nobody answers, what is there is believed."""
    if outset.pin is None:
        return 0
    if not good:
        return outset.used
    same = any(link.pin and same_object(outset.pin, link.pin) for link in good)
    return outset.used if same and good[0].ranged else 0


def _error(
    outset: Outset, size: int | None, terms: Terms, ground: Ground | None
) -> SegdlError | None:
    error = outset.blocked or _in_the_way(outset, size, terms) or _long_name(outset.target, ground)
    if error is not None:
        return error
    if outset.elsewhere or any(link.pin is not None for link in outset.links):
        return None
    error = _refused(outset)
    return None if isinstance(error, ExpiredError) and terms.renewable else error


def _refused(outset: Outset) -> SegdlError | None:
    """What a target ends with whose links are all bad: a host that is down is waited for last."""
    errors = [link.error for link in outset.links if link.error is not None]
    down = (error for error in errors if isinstance(error, TransientError))
    return next((_exhausted(error) for error in down), errors[-1] if errors else None)


def _exhausted(error: TransientError) -> UnreachableError:
    """What a run ends with if that does not change as long as it is patient."""
    return error.become(UnreachableError)


def to_be_hashed(target: Target, present: Present | None) -> bool:
    """Whether `get` will hash a file that is there, before it asks for any link."""
    if present is None or present.size is None or not target.provable:
        return False
    return target.size in (None, present.size)


def _hashed(outset: Outset, terms: Terms) -> str:
    other = "replaced" if terms.overwrite else "refused"
    return f"a file is here without a receipt: it is hashed, and {other} if it is another"


def _in_the_way(outset: Outset, size: int | None, terms: Terms) -> OccupiedError | None:
    present, path = outset.present, outset.target.path
    if present is None:
        return None
    if present.folder:
        return OccupiedError(f"{path} is a folder here: move it away")
    if terms.overwrite or (present.size is not None and size in (None, present.size)):
        return None
    return OccupiedError(
        f"{path} is here already with other content: move it away, or give --overwrite"
    )


def _long_name(target: Target, ground: Ground | None) -> DiskError | None:
    if ground is None:
        return None
    longest = max(len(name.encode()) for name in target.path.split("/"))
    if longest <= ground.longest_name:
        return None
    return DiskError(
        f"a name of {longest} bytes, where this file system takes {ground.longest_name}: "
        "give another folder with -o"
    )


def _notes(outset: Outset, good: Sequence[Link], terms: Terms, held: int) -> Iterator[str]:
    if good and not good[0].ranged:
        yield "its server ignores ranges: one stream from the start, which cannot be resumed"
    elif outset.pin and outset.used and not held:
        yield f"the object was replaced: the {outset.used} bytes that are held start again"
    if outset.present is not None:
        yield "a file is here: " + (
            "it is replaced" if terms.overwrite else "it is compared when all is fetched"
        )
    if outset.elsewhere:
        yield "a file in --from may be all of it: it is taken if its digest holds"
    if good:
        yield from _etag_notes(outset.target, good[0])
        yield from _mirror_notes(outset, good)
    elif outset.elsewhere and (error := _refused(outset)):
        yield f"if it is not, nothing else is good: {worded(error)}"
    elif terms.renewable and isinstance(_refused(outset), ExpiredError):
        yield "its link has expired: `refresh` has to give a fresh one"


def _etag_notes(target: Target, link: Link) -> Iterator[str]:
    """An ETag that is not the content's MD5 proves nothing (SSE-C, SSE-KMS), but may tell."""
    found, wanted = etag_md5(link.pin.etag if link.pin else None), dict(target.digests).get("md5")
    if None not in (found, wanted) and found != wanted and target.slice is None:
        yield "its ETag is not the manifest's md5: it may be another object, or an encrypted one"


def _mirror_notes(outset: Outset, good: Sequence[Link]) -> Iterator[str]:
    """Mirrors that will not do, and those that have another object than the first that does."""
    first, provable = good[0].pin, outset.target.provable
    for link in outset.links:
        if link.error is not None:
            yield f"the mirror {link.url.netloc} is of no use: {worded(link.error)}"
        elif first and link.pin and not _mirrors(first, link.pin, provable=provable):
            yield f"the mirror {link.url.netloc} has another object than {good[0].url.netloc}"


def _mirrors(first: Pin, other: Pin, *, provable: bool) -> bool:
    """Whether two hosts may have one object. Each may have an ETag of its own where a digest will
    tell whether the bytes are the same."""
    return same_object(replace(first, by_digest=True) if provable else first, other)


def same_object(held: Pin, found: Pin) -> bool:
    """Whether an answer may be of the object that a pin says (see `verdict`)."""
    if None not in (held.total, found.total) and held.total != found.total:
        return False
    if held.encoding != found.encoding:
        return False
    if held.etag is not None or found.etag is not None:
        return held.by_digest or held.etag == found.etag
    return None in (held.modified, found.modified) or held.modified == found.modified


def worded(error: SegdlError) -> str:
    """What is wrong, with the request id to quote to the server's operator."""
    quoted = error.request_id and error.request_id not in error.message
    return error.message + (f" (request id {error.request_id})" if quoted else "")


# -- the whole order ---------------------------------------------------------------------------


def _pace(samples: Sequence[Sample], terms: Terms) -> Pace | None:
    """The rate that was given, else that of the samples, which were taken together and so add up;
    neither beyond the limit."""
    rate = sum(sample.rate for sample in samples) if terms.rate is None else terms.rate
    if not rate:
        return None
    if terms.limit is not None and terms.limit <= rate:
        return Pace(terms.limit, Source.LIMIT)
    return Pace(rate, Source.ESTIMATE if terms.rate is None else Source.GIVEN)


def steady(seen: Sequence[tuple[float, int]]) -> float | None:
    """Bytes a second from (seconds, bytes so far), the first of them with 0 bytes.

    By the later half of the bytes, for a connection begins slowly; None where nothing came.
    """
    (began, _), (ended, total) = seen[0], seen[-1]
    half, so_far = next(each for each in seen if 2 * each[1] >= total)
    if 0 < so_far < total and ended > half:
        return (total - so_far) / (ended - half)
    return total / max(ended - began, 1e-6) if total else None


def _judged(
    prospects: list[Prospect], terms: Terms, pace: Pace | None, date: float
) -> list[Prospect]:
    """The same, those judged whose links end before they would be done."""
    if pace is None:
        return prospects
    open_ = [n for n, p in enumerate(prospects) if p.left and p.error is None]
    open_.sort(key=lambda n: (not prospects[n].outset.used, prospects[n].end))
    left = [Left(n, prospects[n].left, prospects[n].end) for n in open_]
    late = forecast(left, pace.rate * SURE, terms.at_once, date + SPARE)
    certain = forecast(left, pace.most, terms.at_once, date + SPARE)
    firm = {short.job: short for short in certain}
    for short in late:
        prospect = prospects[short.job]
        if terms.renewable:
            doubt = "`refresh` has to give a fresh one"
        elif short.job not in firm:
            doubt = "it may not last"
        else:
            error = _expiring(firm[short.job], date)
            prospects[short.job] = replace(prospect, error=error)
            continue
        notes = (*prospect.notes, f"{_too_early(short, date)}: {doubt}")
        prospects[short.job] = replace(prospect, notes=notes)
    return prospects


def _expiring(short: Short, date: float) -> ExpiringError:
    error = ExpiringError(f"{_too_early(short, date)}: get a manifest whose links last longer")
    error.ends_at = short.end
    return error


def _too_early(short: Short, date: float) -> str:
    ends, done = max(short.end - date, 0.0), short.done - date
    return f"its link ends in {_span(ends)}, and it takes {_span(done)} until it is done"


def _span(seconds: float) -> str:
    return f"{seconds:.1f} seconds" if seconds < 100 else f"{seconds / 60:.1f} minutes"


def _peak(prospects: Sequence[Prospect], terms: Terms) -> int:
    """Bytes of room that a run needs at most: all that is left, and the segments ahead of the
    fronts of as many targets as are under way at once. What can never be fetched needs none."""
    wanted = [p for p in prospects if not isinstance(p.error, SizeError | DiskError)]
    ahead = sorted((p.ahead for p in wanted), reverse=True)
    return sum(p.room for p in wanted) + sum(ahead[: terms.at_once])


def _full(needed: int, ground: Ground | None) -> DiskFullError | None:
    if ground is None or needed <= ground.free:
        return None
    missing = needed - ground.free
    return DiskFullError(
        f"the disk has too little room: {needed} bytes are needed at the peak, {ground.free} are "
        "free",
        missing=missing,
    )


def _order_notes(prospects: Sequence[Prospect], ground: Ground | None, root: str) -> Iterator[Note]:
    unknown = sum(p.size is None for p in prospects)
    if unknown:
        yield Note(None, f"the size of {unknown} of {len(prospects)} files is not known")
    if ground is not None and not ground.cased:
        yield Note(None, "this file system takes `a` and `A` for one name")
    longest = max((p.path for p in prospects), key=len, default="")
    if len(longest) > _WINDOWS_PATH:
        yield Note(longest, f"has more than {_WINDOWS_PATH} characters: Windows may not open it")
    whole = max((len(p.path.encode()) for p in prospects), default=0) + len(root.encode()) + 1
    if ground is not None and whole > ground.longest_path:
        yield Note(None, f"a path of {whole} bytes: many programs here open {ground.longest_path}")


def _clock_notes(outsets: Sequence[Outset]) -> Iterator[Note]:
    """A clock that is off makes links seem to end when they do not."""
    furthest: dict[str, float] = {}
    for host, skew in _skews(outsets):
        furthest[host] = max(furthest.get(host, skew), skew, key=abs)
    for host, skew in furthest.items():
        if abs(skew) >= SKEW:
            way = "behind" if skew > 0 else "ahead of"
            text = f"this machine's clock is {abs(skew) / 60:.0f} minutes {way} that of {host}"
            yield Note(None, text)


def _skews(outsets: Sequence[Outset]) -> Iterator[tuple[str, float]]:
    links = (link for outset in outsets for link in outset.links)
    return ((link.url.netloc, link.skew) for link in links if link.skew is not None)
