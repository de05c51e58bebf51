"""The front of a target: its contiguous, verified beginning, and the segments that follow on.

A merger moves the front over every held segment that touches it: one from a part file is copied
into the merged file; one that was held before this process began, and every one where a digest of
the whole is wanted, is read back. What is read back and is not what its record says is lost, and
fetched again in its place.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from segdl.core.dataclass import dataclass
from segdl.core.digests import Hasher, hasher
from segdl.core.errors import DigestError
from segdl.core.options import MIB
from segdl.core.plan import Layout, Place, Record, held_bytes
from segdl.core.proof import Proof
from segdl.edges import merge
from segdl.edges.index import Index
from segdl.edges.parts import part_name

MOST_COPIED = 4  # part files that wait to be removed until their copy is flushed
# A big target comes over several connections at once: were each segment ahead of the front an
# island, most of it would be written twice. Near the front it goes straight to its place.
BIG = 128 * MIB
NEAR = 64 * MIB  # bytes: what of a hole a file system without holes would have to fill


@dataclass(frozen=True, slots=True)
class Files:
    """The open files of a target under way."""

    folder: int | None  # None: a draft, which has no part files
    merged: int
    index: Index

    @property
    def home(self) -> int:
        """The folder that part files are in."""
        assert self.folder is not None
        return self.folder


class Front:
    """Which segments are held, and how far they are merged. Thread-safe; one thread advances it."""

    def __init__(self, layout: Layout, proof: Proof, epoch: int, held: Mapping[int, Record]):
        self.layout = layout
        self.proof = proof
        self.epoch = epoch
        self.held = dict(held)
        self._bytes = held_bytes(self.held)
        self.digests: dict[int, Mapping[str, str]] = {}  # of segments, beside the record's own
        self.whole: dict[str, Hasher] = {name: hasher(name) for name in proof.of_whole}
        self._lock = threading.Lock()
        self._number = 0  # the first segment that is not merged
        self._reach = 0  # no segment before this one is missing, as far as was looked
        self._copied: list[int] = []

    def hold(self, record: Record, digests: Mapping[str, str]) -> None:
        """A segment is complete; its digests were taken as its bytes landed."""
        with self._lock:
            self._bytes += _length(record) - _length(self.held.get(record.number))
            self.held[record.number] = record
            self.digests[record.number] = digests

    def place(self, number: int) -> Place:
        """Where a segment's bytes go: at the front (of a big target, near it) straight into the
        merged file."""
        with self._lock:
            if self._is_near(number):
                return Place.FRONT
            before = (self.held.get(n) for n in range(self._number, number))
            at_front = all(r is not None and r.place is Place.FRONT for r in before)
            return Place.FRONT if at_front else Place.PART

    def _is_near(self, number: int) -> bool:
        size, ahead = self.layout.size or 0, number - self._number
        return size >= BIG and ahead * self.layout.segment_size < NEAR

    def bytes(self) -> int:
        """How many bytes the held segments have."""
        return self._bytes

    def backlog(self) -> int:
        """Bytes, up to one segment more, that could be merged by now and are not."""
        with self._lock:
            while self._reach in self.held:
                self._reach += 1
            return (self._reach - self._number) * self.layout.segment_size

    def advance(
        self,
        files: Files,
        lost: Callable[[int], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Move the front as far as it goes; True if that is the end of the target.

        `lost` hears of segments that must be fetched again. Raises OSError.
        """
        while not stopped() and (record := self.held.get(self._number)) is not None:
            self._step(record, files, lost)
        return self.layout.count == self._number

    def _step(self, record: Record, files: Files, lost: Callable[[int], None]) -> None:
        good = record.place is Place.FRONT or _copy_in(files, record)
        if good and (self.whole or record.number not in self.digests):
            good = self._read_back(files, record)
        if not good:
            self._lose(record, files)
            lost(record.number)
            return
        with self._lock:
            self._number += 1
            if record.place is Place.PART:
                self._copied.append(record.number)
        if len(self._copied) >= MOST_COPIED:
            self._settle_copies(files)

    def _read_back(self, files: Files, record: Record) -> bool:
        """Take the digests over bytes read back; a bad segment spoils none of them."""
        pieces = {name: hasher(name) for name in self.proof.of_segment}
        whole = {name: running.copy() for name, running in self.whole.items()}
        if not merge.read_back(files.merged, record, (*pieces.values(), *whole.values())):
            return False
        digests = {name: piece.hexdigest() for name, piece in pieces.items()}
        try:
            self.proof.check_segment(record.number, digests)
        except DigestError:
            return False
        self.whole, self.digests[record.number] = whole, digests
        return True

    def _lose(self, record: Record, files: Files) -> None:
        with self._lock:
            del self.held[record.number]
            self._bytes -= _length(record)
            self._reach = min(self._reach, record.number)
            self.digests.pop(record.number, None)
        files.index.lost(record.number, self.epoch)

    def _settle_copies(self, files: Files) -> None:
        """Part files go only after the merged file that holds their bytes is flushed."""
        done, self._copied = self._copied, []
        os.fdatasync(files.merged)
        files.index.front(self.layout.segment(self._number - 1).stop, self.epoch)
        files.index.flush()
        for number in done:
            with suppress(FileNotFoundError):
                os.unlink(part_name(number), dir_fd=files.home)


def _length(record: Record | None) -> int:
    return 0 if record is None else record.stop - record.start


def _copy_in(files: Files, record: Record) -> bool:
    """Copy a part file into the merged file; False if the part is not there, or too short."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        part = os.open(part_name(record.number), flags, dir_fd=files.home)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(part).st_size < record.stop - record.start:
            return False
        merge.copy_in(part, files.merged, record)
    finally:
        os.close(part)
    return True
