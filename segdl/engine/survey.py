"""An order surveyed before its run: every link asked once, the disk tried, the rate sampled.

Nothing is kept and nothing is changed. A handful of connections ask every link that a run could
need for the first byte of its object. Then, together and for a moment, they read from the largest
target of each host: that is the estimate of the rate.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from segdl.core.dataclass import dataclass
from segdl.core.errors import (
    BrokenError,
    BusyError,
    ExpiredError,
    SegdlError,
    UnreachableError,
    attempted,
)
from segdl.core.manifest import Manifest, Target
from segdl.core.options import KIB, MIB, Options
from segdl.core.outset import Ground, Link, Outset, Present, Sample, Terms
from segdl.core.pace import FIRST, Bucket
from segdl.core.plan import segment_size
from segdl.core.preflight import Preflight, steady, weigh
from segdl.core.prospect import question, size_of, to_be_hashed
from segdl.core.urls import ShareURL
from segdl.core.verdict import Ask
from segdl.edges.lock import require_free
from segdl.edges.transport import Answer, Connection, Reach
from segdl.edges.trial import try_out
from segdl.edges.workspace import Depot, is_file, work_name
from segdl.engine import chosen
from segdl.engine.audit import State, held_of, rehearse
from segdl.engine.front import MOST_COPIED
from segdl.engine.order import reach_of
from segdl.engine.salvage import salvage
from segdl.engine.task import goes_on

ASKING = 8  # connections
LONGEST_WAIT = 10.0  # seconds for an answer, if the stall window is longer
QUICK = 1.0  # seconds: what fails sooner is asked for once more, ...
BREATH = 0.25  # ... after so many
SILENCES = 4  # in a row, after which a host is not asked any more
STRANDS = 4  # connections that sample one host
SAMPLED = 8 * MIB  # bytes at most, of all hosts
SAMPLED_FOR = 1.5  # seconds
_BUFFER = 256 * KIB
_SILENT = (UnreachableError, BrokenError)

Errand = Callable[[Connection], None]
Ticker = Callable[[int, int], None]  # links asked so far, links to ask


def survey(
    manifest: Manifest,
    output: Path,
    *,
    options: Options,
    rate: float | None = None,
    held_off: Callable[[], AbstractContextManager[None]],
    on_progress: Ticker,
) -> Preflight:
    """What is to be expected of `get` with this manifest. No target's failure is raised.

    `rate`: bytes a second to count on, and none is measured.
    The disk is tried within `held_off()`, which keeps signals from tearing that apart.
    `on_progress` is called in this thread; what it or a signal raises ends the work.
    """
    targets, reach = chosen(manifest, options), reach_of(manifest, options)
    with held_off():
        ground, bars = _try_ground(output)
    outsets = _outsets(targets, manifest, output, options, bars)
    with salvage(options.sources, targets) as brought:
        outsets = [replace(o, elsewhere=brought.has_whole(o.target)) for o in outsets]
    limit = options.limit_rate.at(datetime.now().time())
    size = min(options.connections or ASKING, ASKING)
    reach = replace(reach, timeout=min(reach.timeout, LONGEST_WAIT))
    with crew(reach, size) as hands:
        inquiry = Inquiry(outsets, reach.timeout)
        hands.run(inquiry.errands(), on_progress)
        outsets = inquiry.outsets()
        sampling = Sampling(outsets if rate is None else (), size, limit)
        hands.run(sampling.errands(), lambda done, total: None)
    terms = Terms(
        overwrite=options.overwrite,
        at_once=options.connections or FIRST,
        ahead=MOST_COPIED,
        renewable=manifest.refresh is not None or bool(options.refresh_command),
        rate=rate,
        limit=limit,
    )
    root = os.path.abspath(output)
    return weigh(outsets, terms, ground, sampling.samples(), bars, root, time.time())


# -- the disk ----------------------------------------------------------------------------------


def _try_ground(output: Path) -> tuple[Ground | None, list[SegdlError]]:
    """What the output directory is like, and what keeps a run from beginning there at all."""
    ground = attempted(try_out, output)
    bars = [ground] if isinstance(ground, SegdlError) else []
    if output.is_dir() and isinstance(found := attempted(_require_free, output), SegdlError):
        bars.append(found)
    return (None if isinstance(ground, SegdlError) else ground), bars


def _require_free(output: Path) -> None:
    place = Depot(output)
    try:
        with place.look() as hidden:
            if hidden is not None:
                require_free(hidden, os.fspath(output))
    finally:
        place.close()


def _outsets(
    targets: Sequence[Target],
    manifest: Manifest,
    output: Path,
    options: Options,
    bars: list[SegdlError],
) -> list[Outset]:
    """Where every target stands; where that cannot be told, they stand at their beginning."""
    blank = [Outset(t, segment=segment_size(t, manifest, options)) for t in targets]
    if not output.is_dir():
        return blank
    known = attempted(_looked_at, blank, output)
    if isinstance(known, SegdlError):
        bars.append(known)
        return blank
    return known


def _looked_at(blank: Sequence[Outset], output: Path) -> list[Outset]:
    """Raises OSError, DiskError."""
    states = rehearse([outset.target for outset in blank], output).standings
    place = Depot(output)
    try:
        return [
            Outset(outset.target, delivered=standing.size)
            if standing.state is State.DELIVERED
            else _standing(place, outset.target, outset.segment)
            for outset, standing in zip(blank, states, strict=True)
        ]
    finally:
        place.close()


def _standing(place: Depot, target: Target, segment: int | None) -> Outset:
    """Where a target that is not delivered stands."""
    held, pin = held_of(place, work_name(target.path)), None
    if (heading := held.heading) is not None and goes_on(target, target.urls, heading):
        pin, segment = heading.pin, heading.segment_size
    outset = Outset(target, used=held.bytes, pin=pin, segment=segment)
    found = attempted(place.find, target.path)
    if isinstance(found, SegdlError):
        return replace(outset, blocked=found)
    return outset if found is None else replace(outset, present=_present(found))


def _present(found: os.stat_result) -> Present:
    size = found.st_size if is_file(found) else None
    return Present(size, folder=stat.S_ISDIR(found.st_mode))


# -- the connections ---------------------------------------------------------------------------


class Crew:
    """A handful of connections, each with a thread of its own while there are errands."""

    def __init__(self, reach: Reach, size: int) -> None:
        self._stop = threading.Event()
        self._connections = [Connection(reach, self._stop.is_set) for _ in range(size)]
        self._threads: list[threading.Thread] = []
        self._crash: BaseException | None = None

    def run(self, errands: Iterable[Errand], on_progress: Ticker) -> None:
        """Do all of them. Raises what one of them, `on_progress` or a signal raises."""
        waiting = deque(errands)
        total = len(waiting)
        self._threads = [
            threading.Thread(
                target=self._work, args=(connection, waiting), name=f"segdl-survey-{n}", daemon=True
            )
            for n, connection in enumerate(self._connections[:total])
        ]
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            while thread.is_alive():
                on_progress(total - len(waiting), total)
                thread.join(0.1)
        if self._crash is not None:
            raise self._crash

    def _work(self, connection: Connection, waiting: deque[Errand]) -> None:
        try:
            while not self._stop.is_set():
                try:
                    errand = waiting.popleft()
                except IndexError:
                    return
                errand(connection)
        except BaseException as error:
            self._crash = self._crash or error
            self._stop.set()

    def dismiss(self) -> None:
        """End what is under way, but for a name look-up, and close every connection."""
        self._stop.set()
        deadline = time.monotonic() + 1.0
        for thread in self._threads:
            for connection in self._connections:
                connection.abort()
            thread.join(max(deadline - time.monotonic(), 0.0))
        if not any(thread.is_alive() for thread in self._threads):
            for connection in self._connections:
                connection.close()


@contextmanager
def crew(reach: Reach, size: int) -> Iterator[Crew]:
    """Connections while the block lasts."""
    hands = Crew(reach, size)
    try:
        yield hands
    finally:
        hands.dismiss()


# -- the links ---------------------------------------------------------------------------------


class Inquiry:
    """Every link that a run could need, asked once. A host that is silent is not asked for ever."""

    def __init__(self, outsets: Sequence[Outset], timeout: float) -> None:
        """`timeout`: seconds for an answer's head, and again for its byte."""
        self._outsets = list(outsets)
        self._timeout = timeout
        self._links: dict[tuple[int, int], Link] = {}
        self._silences: dict[str, int] = {}
        self._dead: dict[str, SegdlError] = {}
        self._lock = threading.Lock()

    def errands(self) -> Iterator[Errand]:
        """One for every link. The mirrors of one target come one after the other."""
        for number, outset in enumerate(self._outsets):
            if outset.delivered is None and not to_be_hashed(outset.target, outset.present):
                for mirror in range(len(outset.target.urls)):
                    yield self._errand(number, mirror)

    def _errand(self, number: int, mirror: int) -> Errand:
        target = self._outsets[number].target

        def ask(connection: Connection) -> None:
            self._links[number, mirror] = self._ask(connection, target, target.urls[mirror])

        return ask

    def outsets(self) -> list[Outset]:
        """What was known before, with what the links gave."""
        return [
            replace(outset, links=tuple(self._of(number, len(outset.target.urls))))
            for number, outset in enumerate(self._outsets)
        ]

    def _of(self, number: int, count: int) -> Iterator[Link]:
        found = (self._links.get((number, mirror)) for mirror in range(count))
        return (link for link in found if link is not None)

    def _ask(self, connection: Connection, target: Target, url: ShareURL) -> Link:
        if (dead := self._dead.get(url.netloc)) is not None:
            return Link(url, dead.about(target.path))
        began = time.monotonic()
        link = self._tried(connection, target, url)
        if _may_pass(link.error) and time.monotonic() - began < QUICK:
            time.sleep(BREATH)
            link = self._tried(connection, target, url)
        self._heard(url.netloc, link.error)
        return link

    def _tried(self, connection: Connection, target: Target, url: ShareURL) -> Link:
        try:
            answer = connection.open(url, question(target, url))
            return _answered(target, url, answer, self._timeout)
        except SegdlError as error:
            return Link(url, error.about(target.path), skew=_skew(_date(error)))

    def _heard(self, host: str, error: SegdlError | None) -> None:
        """A host that is down, busy or silent several times in a row is asked no more."""
        silent = isinstance(error, BusyError) or (
            isinstance(error, _SILENT) and error.status is None
        )
        with self._lock:
            self._silences[host] = self._silences.get(host, 0) + 1 if silent else 0
            if error is not None and self._silences[host] >= SILENCES:
                self._dead[host] = error


def _may_pass(error: SegdlError | None) -> bool:
    """Whether a second try may well go better: a connection that broke, a server that is busy."""
    if isinstance(error, BusyError):
        return error.status is not None
    return isinstance(error, BrokenError)


def _answered(target: Target, url: ShareURL, answer: Answer, timeout: float) -> Link:
    """A link that gave an answer. Raises SizeError if it is not of the target, BrokenError."""
    accepted, skew = answer.accepted, _skew(answer.date)
    try:
        if not accepted.whole:
            _read_out(answer, timeout)
        size_of(target, accepted.pin)
    finally:
        answer.close()
    return Link(url, pin=accepted.pin, ranged=not accepted.whole, skew=skew)


def _read_out(answer: Answer, timeout: float) -> None:
    """Read a byte, so that the connection can be used again. Raises BrokenError if it does not
    come."""
    room = memoryview(bytearray(1))
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if not answer.readinto(room):
                return
        except TimeoutError:
            continue
    raise BrokenError("the first byte did not come in time")


def _date(error: SegdlError) -> float | None:
    return error.server_time if isinstance(error, ExpiredError) else None


def _skew(date: float | None) -> float | None:
    return None if date is None else date - time.time()


# -- the rate ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Strand:
    """What one connection reads for the sample: bytes [start, stop) of a target's object."""

    target: Target
    url: ShareURL
    ask: Ask


class Sampling:
    """How fast bytes come, all hosts at once, bounded in bytes and in seconds."""

    def __init__(self, outsets: Sequence[Outset], most: int, limit: int | None) -> None:
        """`most` connections, `limit` bytes a second."""
        self._strands = tuple(_strands(outsets, most))
        self._limit = limit
        self._bucket = Bucket()
        self._lock = threading.Lock()
        self._read: dict[int, tuple[int, float]] = {}  # by strand: bytes, and bytes a second

    def errands(self) -> Iterator[Errand]:
        for number in range(len(self._strands)):
            yield partial(self._sample, number)

    def samples(self) -> tuple[Sample, ...]:
        """What was found, by host; a host that gave nothing is not in it."""
        found: dict[str, Sample] = {}
        for number, (count, rate) in self._read.items():
            host = self._strands[number].url.netloc
            one = found.get(host, Sample(host, 0, 0, 0.0))
            found[host] = Sample(host, one.connections + 1, one.bytes + count, one.rate + rate)
        return tuple(found.values())

    def _sample(self, number: int, connection: Connection) -> None:
        """Read one strand. It was good a moment ago: an error now only spoils the estimate."""
        strand, began = self._strands[number], time.monotonic()
        deadline, count = began + SAMPLED_FOR, 0
        seen = [(began, 0)]
        with suppress(SegdlError):
            answer = connection.open(strand.url, strand.ask)
            try:
                for got in _read_until(answer, strand.ask.stop - strand.ask.start, deadline):
                    count += got
                    seen.append((time.monotonic(), count))
                    self._pay(got, deadline)
            finally:
                answer.close()
        if (rate := steady(seen)) is not None:
            self._read[number] = count, rate

    def _pay(self, count: int, deadline: float) -> None:
        now = time.monotonic()
        with self._lock:
            wait = self._bucket.take(now, count, self._limit)
        time.sleep(max(min(wait, deadline - now), 0.0))


def _read_until(answer: Answer, most: int, deadline: float) -> Iterator[int]:
    """The counts of bytes as they come. Raises BrokenError."""
    room = memoryview(bytearray(_BUFFER))
    while most and time.monotonic() < deadline:
        try:
            count = answer.readinto(room[:most])
        except TimeoutError:
            continue
        if not count:
            return
        most -= count
        yield count


def _strands(outsets: Sequence[Outset], most: int) -> Iterator[Strand]:
    """The largest target of each host that is asked first, in a few pieces."""
    largest: dict[str, tuple[int, Target, Link]] = {}
    for outset in outsets:
        link = next((link for link in outset.links if link.pin is not None), None)
        if link is None or outset.blocked is not None:
            continue
        size = size_of(outset.target, link.pin) if link.pin else None
        if size and size > largest.get(link.url.netloc, (0,))[0]:
            largest[link.url.netloc] = (size, outset.target, link)
    chosen = sorted(largest.values(), key=lambda each: each[0], reverse=True)[:most]
    for size, target, link in chosen:
        count = min(STRANDS, most // len(chosen), max(size // MIB, 1)) if link.ranged else 1
        share = min(SAMPLED // len(chosen), size) // count
        for number in range(count):
            yield Strand(target, link.url, _piece(target, link, number * share, share))


def _piece(target: Target, link: Link, start: int, length: int) -> Ask:
    first = question(target, link.url)
    at = first.start + start
    return replace(first, start=at, stop=at + max(length, 1), pin=link.pin, proven=True)
