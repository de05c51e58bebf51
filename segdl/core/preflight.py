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

from segdl.core.dataclass import dataclass
from segdl.core.diagnosis import SKEW
from segdl.core.errors import (
    DiskError,
    DiskFullError,
    ExitCode,
    ExpiredError,
    SegdlError,
    SizeError,
)
from segdl.core.outset import Ground, Outset, Sample, Terms
from segdl.core.prospect import Prospect, expected
from segdl.core.report import common_code
from segdl.core.runway import SPARE, SURE, Left, Short, forecast

DOUBT = 2.0
_WINDOWS_PATH = 259  # characters: MAX_PATH, without the end that C wants


class ExpiringError(ExpiredError):
    """The URL is good now, and will end before the target is done."""


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
    prospects = [expected(outset, terms, ground) for outset in outsets]
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
        bars=tuple({error.message: error for error in bars}.values()),  # each told once
        full=full,
        needed=needed,
        pace=pace,
        left=left,
        ground=ground,
        samples=tuple(samples),
        date=date,
    )


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
    whole = max((len(p.path.encode()) for p in prospects), default=0) + 1
    whole += len(root.encode(errors="surrogateescape"))  # a folder's name may be any bytes
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
