"""Delivered files, hashed again: good, rotten (and in which segments), or missing.

Each file is read once, in blocks, for the digest of every segment and of the whole; as many files
at a time as there are cores.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import field
from enum import StrEnum

from segdl.core.dataclass import dataclass
from segdl.core.digests import RECORD, Hasher, hasher
from segdl.core.manifest import Manifest, Target
from segdl.core.options import Options
from segdl.core.plan import DEFAULT_SEGMENT, Layout, Segment
from segdl.core.report import Receipt
from segdl.core.selection import chosen
from segdl.edges.workspace import Depot, is_file
from segdl.engine.audit import Wanted, answers, depot, entries, receipts_in
from segdl.engine.delivery import asked_for

_BLOCK = 1024 * 1024
_TICK = 0.1  # seconds between two reports of progress

Ticker = Callable[[int, int], None]  # bytes read so far, bytes to read


class Verdict(StrEnum):
    """What became of a delivered file."""

    GOOD = "good"
    ROTTEN = "rotten"
    MISSING = "missing"
    UNPROVED = "unproved"  # it is there, and nothing says what it should be


@dataclass(frozen=True, slots=True)
class Check:
    """What a file is held against: any of its size, digests of its segments and of the whole."""

    path: str
    size: int | None = None
    segment_size: int = DEFAULT_SEGMENT
    algorithm: str = RECORD
    values: tuple[str, ...] = ()  # a digest a segment
    whole: Mapping[str, str] = field(default_factory=dict)
    delivered: bool = False  # a receipt says so


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `records` are the digests (`RECORD`) of the segments as they are now.

    `rotten` are the numbers of the rotten segments; where a file is rotten and there are none,
    its length is wrong or nothing tells where it rots.
    """

    check: Check
    verdict: Verdict
    note: str = ""
    rotten: tuple[int, ...] = ()
    records: tuple[str, ...] = ()
    located: bool = False  # what is not in `rotten` is proved

    @property
    def path(self) -> str:
        return self.check.path

    @property
    def ranges(self) -> Iterator[tuple[int, int]]:
        """The rotten bytes as ranges [start, stop), neighbours joined."""
        layout = Layout(self.check.size, self.check.segment_size)
        joined: tuple[int, int] | None = None
        for segment in map(layout.segment, self.rotten):
            if joined and joined[1] == segment.start:
                joined = joined[0], segment.stop
                continue
            if joined:
                yield joined
            joined = segment.start, segment.stop
        if joined:
            yield joined


def verify(
    directory: str | os.PathLike[str],
    manifest: Manifest | None = None,
    *,
    options: Options | None = None,
    on_progress: Ticker | None = None,
) -> tuple[Finding, ...]:
    """Hash what is delivered in a directory, against a manifest or else the receipts there.

    `on_progress` is called in this thread; what it or a signal raises ends the work. Raises
    UsageError if there is nothing to look at, DiskError.
    """
    with depot(directory, worked_in=manifest is None) as place:
        receipts = receipts_in(place)
        if manifest is None:
            checks = tuple(_by_receipts(place, receipts))
        else:
            targets = chosen(manifest, options or Options())
            checks = tuple(_by_target(target, receipts.get(target.path)) for target in targets)
        return _Run(place, checks).run(on_progress or (lambda done, total: None))


def _by_receipts(place: Depot, receipts: Mapping[str, Receipt]) -> Iterator[Check]:
    """What was asked for last, and all else that was delivered."""
    wanted = {entry.path: entry for entry in entries(place.read_order())}
    for path in (*wanted, *(path for path in receipts if path not in wanted)):
        yield _by_entry(path, wanted.get(path), receipts.get(path))


def _by_entry(path: str, wanted: Wanted | None, receipt: Receipt | None) -> Check:
    if wanted is not None and (receipt is None or not answers(wanted, receipt)):
        return Check(path, wanted.size, whole=wanted.digests)
    assert receipt is not None
    return _by_receipt(receipt)


def _by_receipt(receipt: Receipt) -> Check:
    segments = receipt.segments
    return Check(
        receipt.path, receipt.size, segments.size, segments.algorithm, segments.values,
        receipt.digests, delivered=True,
    )  # fmt: skip


def _by_target(target: Target, receipt: Receipt | None) -> Check:
    """The manifest's digests, and the receipt's where it is of what the manifest asks for."""
    if receipt is not None and not asked_for(target, receipt):
        receipt = None
    pieces, digests = target.pieces, dict(target.digests)
    if pieces is not None:
        size = receipt.size if receipt else target.size
        return Check(target.path, size, pieces.size, pieces.algorithm, pieces.values, digests,
                     delivered=receipt is not None)  # fmt: skip
    if receipt is not None:
        return _by_receipt(receipt)
    return Check(target.path, target.size, whole=digests)


class _Run:
    """One pass over the files."""

    def __init__(self, place: Depot, checks: tuple[Check, ...]) -> None:
        self._place = place
        self._checks = checks
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._read = 0

    def run(self, on_progress: Ticker) -> tuple[Finding, ...]:
        total = sum(check.size or 0 for check in self._checks)
        with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="segdl-verify") as pool:
            try:
                futures = [pool.submit(self._examine, check) for check in self._checks]
                left = set(futures)
                while left:
                    _, left = wait(left, timeout=_TICK)
                    on_progress(self._read, total)
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
        return tuple(future.result() for future in futures)

    def _examine(self, check: Check) -> Finding:
        try:
            found = self._place.find(check.path)
            if found is None:
                gone = "gone since it was delivered" if check.delivered else "not delivered"
                return Finding(check, Verdict.MISSING, gone)
            if not is_file(found):
                return Finding(check, Verdict.MISSING, "a folder, a link or a device is there")
            return self._hash(check, found.st_size)
        except OSError as error:
            return Finding(check, Verdict.UNPROVED, f"cannot be read ({error.strerror})")

    def _hash(self, check: Check, size: int) -> Finding:
        expected = size if check.size is None else check.size
        if not (check.delivered or check.values or check.whole):
            return _by_size(check, size)
        layout = Layout(expected, check.segment_size)
        file = self._place.open_final(check.path)
        try:
            scan = _Scan(file, check, layout, self._go_on)
            for number in layout.numbers():
                if self._stop.is_set():
                    break  # nobody hears of this finding
                scan.read(layout.segment(number))
        finally:
            os.close(file)
        return scan.finding(size)

    def _go_on(self, count: int) -> bool:
        """Count bytes that were read; False if the run is to end."""
        with self._lock:
            self._read += count
        return not self._stop.is_set()


def _by_size(check: Check, size: int) -> Finding:
    if check.size not in (None, size):
        return Finding(check, Verdict.ROTTEN, f"{size} bytes long, expected {check.size}")
    return Finding(check, Verdict.UNPROVED, "neither a digest nor a receipt says what it should be")


class _Scan:
    """The digests of one file, segment after segment."""

    def __init__(
        self, file: int, check: Check, layout: Layout, go_on: Callable[[int], bool]
    ) -> None:
        self._file = file
        self._check = check
        self._layout = layout
        self._go_on = go_on
        self._values = check.values if len(check.values) == layout.count else ()
        self._whole = {name: hasher(name) for name in check.whole}
        self._block = memoryview(bytearray(_BLOCK))
        self._records: list[str] = []
        self._rotten: list[int] = []
        self._unread = 0

    def read(self, segment: Segment) -> None:
        """Take the next segment's digests."""
        own = {name: hasher(name) for name in (RECORD, self._check.algorithm)}
        complete = self._feed(segment, (*own.values(), *self._whole.values()))
        self._records.append(own[RECORD].hexdigest())
        good = not self._values or (
            own[self._check.algorithm].hexdigest() == self._values[segment.number]
        )
        self._unread += not complete
        if not (complete and good):
            self._rotten.append(segment.number)

    def _feed(self, segment: Segment, hashers: tuple[Hasher, ...]) -> bool:
        """Whether all bytes of a segment could be read."""
        at = segment.start
        while at < segment.stop:
            wanted = self._block[: segment.stop - at]
            try:
                count = os.preadv(self._file, [wanted], at)
            except OSError:
                return False
            if not count or not self._go_on(count):
                return False
            for running in hashers:
                running.update(wanted[:count])
            at += count
        return True

    def finding(self, size: int) -> Finding:
        """What was found in a file of `size` bytes."""
        wrong = [n for n, h in self._whole.items() if h.hexdigest() != self._check.whole[n]]
        expected = self._layout.size
        notes = []
        if size != expected:
            notes.append(f"{size} bytes long, expected {expected}")
        elif self._unread:
            notes.append("the disk fails to read it")
        elif wrong:
            notes.append(f"its {' and '.join(wrong)} is another")
        rotten = bool(self._rotten or notes)
        proved = bool(self._values) and (bool(self._rotten) or size != expected or not wrong)
        return Finding(
            check=self._check,
            verdict=Verdict.ROTTEN if rotten else Verdict.GOOD,
            note=", ".join(notes),
            rotten=tuple(self._rotten),
            records=tuple(self._records),
            located=proved,
        )
