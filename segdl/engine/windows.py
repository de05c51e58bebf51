"""The open parts of a target: of each segment the one from its start, and the tails behind it.

A *tail* is the end of a segment that another worker fetches when nothing else is left to do, into
a part file of its own, with records of its own. Windows never overlap: each ends where the next
begins. The worker that comes to a tail's start takes its bytes in and goes on after them, so there
is one commit, by whoever writes the segment's own part.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from segdl.core.options import KIB, MIB
from segdl.core.plan import Layout, Place, Record, Segment
from segdl.edges.parts import Part, open_window, part_name, tail_name
from segdl.engine.front import Files

LEAST_LENT, MOST_LENT = 128 * KIB, 16 * MIB  # bytes of a tail: what is worth a request, and a copy


class Windows:
    """The open parts of one target, as long as it is of one object.

    Thread-safe. The lock is taken after the task's, never before it.
    """

    def __init__(self, partial: Mapping[int, Record], tails: Iterable[Record]) -> None:
        """What the index vouches for of segments that are not complete."""
        self._partial = dict(partial)
        self._left: dict[int, list[Record]] = {}
        for record in tails:
            self._left.setdefault(record.number, []).append(record)
        self._parts: dict[int, Part] = {}
        self._tails: dict[int, list[Part]] = {}
        self._out: set[Part] = set()  # tails that a worker fetches
        self._lock = threading.RLock()

    def bytes(self) -> int:
        """Bytes that are there, of segments that are not complete."""
        with self._lock:
            tails = [tail for tails in self._tails.values() for tail in tails]
            there = sum(p.reached - p.segment.start for p in (*self._parts.values(), *tails))
            left = [record for records in self._left.values() for record in records]
            return there + sum(r.stop - r.start for r in (*self._partial.values(), *left))

    def find(self, number: int) -> Part | None:
        """The open part of a segment."""
        return self._parts.get(number)

    def open(
        self,
        number: int,
        layout: Layout,
        files: Files,
        place: Callable[[int], Place],
        algorithms: Sequence[str],
    ) -> tuple[Part, Record | None]:
        """The part of a segment, opened; and the record that it goes on from, which has still to
        be recovered. Raises OSError."""
        with self._lock:
            record = self._partial.pop(number, None)
            where = record.place if record else place(number)
            if where is Place.FRONT:
                file = os.dup(files.merged)
            else:
                file = open_window(files.home, part_name(number))
            part = self._parts[number] = Part(file, layout.segment(number), where, algorithms)
            for tail in self._left.pop(number, []):
                self._reopen(part, tail, files)
            return part, record

    def _reopen(self, part: Part, record: Record, files: Files) -> None:
        """Go on with a tail of an earlier run, if its bytes are good."""
        window = Segment(record.number, record.start, record.stop)
        tail = self._open_tail(window, files)
        if tail.recover(record):
            self._chain(part, tail)
        else:
            tail.close()

    def _open_tail(self, window: Segment, files: Files) -> Part:
        file = open_window(files.home, tail_name(window.number, window.start))
        return Part(file, window, Place.TAIL)

    def _chain(self, part: Part, tail: Part) -> None:
        tails = self._tails.setdefault(part.segment.number, [])
        tails.append(tail)
        tails.sort(key=lambda tail: tail.segment.start)
        part.limit = tails[0].segment.start

    def lend(self, window: Part, files: Files) -> Part | None:
        """The later half of what a window still lacks, as a tail for another worker; None if that
        is not worth it. Raises OSError."""
        with self._lock:
            part = self._parts.get(window.segment.number)
            if part is None or (window is not part and window not in self._out):
                return None
            lent = window.lend(LEAST_LENT, MOST_LENT)
            if lent is None:
                return None
            try:
                tail = self._open_tail(lent, files)
            except BaseException:
                window.limit = lent.stop
                raise
            self._chain(part, tail)
            self._out.add(tail)
            return tail

    def is_out(self, tail: Part) -> bool:
        """Whether a tail is still to be fetched by whom it was lent to."""
        return tail in self._out

    def give_back(self, tail: Part) -> None:
        """A worker writes a tail no more."""
        with self._lock:
            self._out.discard(tail)

    def next_tail(self, part: Part) -> Part | None:
        """The tail that begins where `part` has come to."""
        with self._lock:
            tails = self._tails.get(part.segment.number)
            return tails[0] if tails and part.reached == part.limit else None

    def absorb(self, part: Part, record: Callable[[Part], None], folder: int) -> None:
        """Take in the tails that begin where `part` has come to and are not out, and `record` it:
        only then do their files go. Raises OSError."""
        with self._lock:
            tails = self._tails.get(part.segment.number, [])
            while tails and part.reached == part.limit and tails[0] not in self._out:
                tail = tails[0]
                part.take_in(tail)
                del tails[0]
                part.limit = tails[0].segment.start if tails else part.segment.stop
                record(part)
                self._discard(tail, folder)

    def _discard(self, tail: Part, folder: int) -> None:
        tail.close()
        with suppress(FileNotFoundError):
            os.unlink(tail_name(tail.segment.number, tail.segment.start), dir_fd=folder)

    def forget(self, number: int) -> None:
        """A segment came by another way, before anybody was at it."""
        with self._lock:
            self._partial.pop(number, None)
            self._left.pop(number, None)

    def drop(self, part: Part) -> None:
        """A segment is complete, or lost: close its part."""
        with self._lock:
            if self._parts.get(part.segment.number) is part:
                del self._parts[part.segment.number]
                part.close()

    def close(self) -> None:
        """Close all; what is there may be opened again."""
        with self._lock:
            for number, part in self._parts.items():
                if part.reached > part.segment.start:
                    self._partial[number] = part.record()
                part.close()
            for number, tails in self._tails.items():
                begun = [tail for tail in tails if tail.reached > tail.segment.start]
                self._left[number] = [tail.record() for tail in begun]
                for tail in tails:
                    tail.close()
            self._parts.clear()
            self._tails.clear()
            self._out.clear()
