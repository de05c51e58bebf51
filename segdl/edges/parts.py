"""A part: the window on a file that one segment's bytes go into.

The window is a part file of its own, or, for a segment at the front (of a big target, near it), its
place in the merged file; who writes sees no difference. Its digests run along as bytes land, so
that a record can vouch for what is there at any time, without a flush.

While nothing else is to be done, the end of a part may be lent: it becomes a *tail*, a part with a
file of its own, whose bytes are taken in once the part has come to where the tail begins.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Sequence

from segdl.core.digests import RECORD, Hasher, hasher
from segdl.core.plan import Place, Record, Segment

_BLOCK = 1024 * 1024


def part_name(number: int) -> str:
    """The name of a segment's part file."""
    return f"{number:05d}.part"


def tail_name(number: int, start: int) -> str:
    """The name of the part file of a segment's tail that begins at `start`."""
    return f"{number:05d}-{start}.part"


def open_window(directory: int, name: str) -> int:
    """A descriptor of a part file or the merged file, made if it is not there. Raises OSError.

    Links are not followed, and what is no plain file, or has a second name somewhere, is not
    written to: it is taken out of the folder first.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    file = os.open(name, flags, 0o600, dir_fd=directory)
    found = os.fstat(file)
    if found.st_nlink > 1 or not stat.S_ISREG(found.st_mode):
        os.close(file)
        os.unlink(name, dir_fd=directory)
        file = os.open(name, flags | os.O_EXCL, 0o600, dir_fd=directory)
    return file


class Part:
    """A segment being written: the bytes from its start to `reached` are there.

    One thread writes, up to `limit`; any thread may ask it to lend.
    """

    def __init__(
        self, file: int, segment: Segment, place: Place, algorithms: Sequence[str] = ()
    ) -> None:
        """`file` is the part's own descriptor; `algorithms` run beside the record's digest."""
        self.segment = segment
        self.place = place
        self.reached = segment.start
        self.limit = segment.stop  # or where a tail begins
        self.flushed = time.monotonic()
        self._claimed = segment.start
        self._lock = threading.Lock()
        self._file = file
        self._shift = 0 if place is Place.FRONT else -segment.start
        self._algorithms = algorithms
        self._fresh()

    def _fresh(self) -> None:
        self._running: Hasher = hasher(RECORD)
        self._others = {name: hasher(name) for name in self._algorithms}

    def recover(self, record: Record) -> bool:
        """Go on after the bytes that a record vouches for, if they still give its digest."""
        self._read(record.stop)
        if self.reached == record.stop and self._running.hexdigest() == record.digest:
            return True
        self.reached = self.segment.start
        self._fresh()
        return False

    def _read(self, stop: int) -> None:
        block = memoryview(bytearray(min(_BLOCK, stop - self.reached)))
        while self.reached < stop:
            wanted = block[: stop - self.reached]
            count = os.preadv(self._file, [wanted], self.reached + self._shift)
            if not count:
                return
            self._take(wanted[:count])

    def claim(self, most: int) -> int:
        """How many of the next bytes, up to `most`, the caller may write: none of them is lent."""
        with self._lock:
            count = min(most, self.limit - self.reached)
            self._claimed = self.reached + count
            return count

    def lend(self, least: int, most: int) -> Segment | None:
        """Give away the later half of what is neither there nor claimed, but `most` bytes; None
        if that would be less than `least`."""
        with self._lock:
            length = min((self.limit - max(self._claimed, self.reached)) // 2, most)
            if length < least:
                return None
            self.limit -= length
            return Segment(self.segment.number, self.limit, self.limit + length)

    def take_in(self, tail: Part) -> None:
        """Go on with the bytes of a tail that begins here, if they are still what was written
        there; else nothing has happened. Raises OSError, and nothing has happened."""
        before = self.reached, self._running.copy(), {n: h.copy() for n, h in self._others.items()}
        check, whole = hasher(RECORD), False
        block = memoryview(bytearray(min(_BLOCK, tail.reached - tail.segment.start)))
        try:
            while count := tail.read_at(self.reached, block):
                check.update(block[:count])
                self.write(block[:count])
            whole = check.hexdigest() == tail.record().digest
        finally:
            if not whole:
                self.reached, self._running, self._others = before

    def read_at(self, offset: int, view: memoryview) -> int:
        """Bytes of the target from `offset` on, placed in `view`; 0 at the end of what is here."""
        view = view[: max(self.reached - offset, 0)]
        return os.preadv(self._file, [view], offset + self._shift) if view else 0

    def write(self, data: memoryview) -> None:
        """Put the next bytes in place. Raises OSError; what was reached before stays good."""
        left, at = data, self.reached + self._shift
        while left:
            count = os.pwrite(self._file, left, at)
            left, at = left[count:], at + count
        self._take(data)

    def _take(self, data: memoryview) -> None:
        self._running.update(data)
        for other in self._others.values():
            other.update(data)
        self.reached += len(data)

    def record(self) -> Record:
        """Vouches for what is there now."""
        segment = self.segment
        digest = self._running.hexdigest()
        return Record(segment.number, segment.start, self.reached, digest, self.place)

    def digests(self) -> dict[str, str]:
        """The digests so far that were asked for, beside the record's own."""
        return {name: running.hexdigest() for name, running in self._others.items()}

    def flush(self) -> None:
        """Make what was written survive a power cut. Raises OSError."""
        os.fdatasync(self._file)
        self.flushed = time.monotonic()

    def close(self) -> None:
        os.close(self._file)
