"""The sidecar index of a target under way: what is held, one self-checking line a record.

Appended to, never rewritten. A `pin` line says of which object all that follows is, and so makes
everything before it void; `held` vouches for a prefix of a segment, the latest for a segment wins;
`front` says how far the merged file reaches; `lost` takes a segment's record back. The record of a
tail vouches for bytes from somewhere in its segment on, and counts until the segment's own record
has come that far. A line that is torn, rotten or of a future version is passed over: its bytes are
fetched again. What follows a pin carries its epoch, so that it is void with a pin that cannot be
read, and not taken for an earlier one's; hence no two pins of an index may have the same epoch,
unless they are of the same bytes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import field
from typing import Any, BinaryIO, TypeVar

from segdl.core.dataclass import dataclass
from segdl.core.journal import damaged_lines, read_lines, seal
from segdl.core.plan import Pin, Place, Record

NAME = "index.jsonl"
VERSION = 1
_SHORT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Heading:
    """What a pin line says: the object, and how the target is cut."""

    path: str
    size: int | None  # bytes of the target
    segment_size: int
    object: str  # ShareURL.object_name
    pin: Pin
    epoch: int
    offset: int = 0  # where in the object the target begins (a slice)


@dataclass(slots=True)
class Contents:
    """All that an index says, replayed."""

    heading: Heading | None = None
    records: dict[int, Record] = field(default_factory=dict)  # by segment
    tails: dict[tuple[int, int], Record] = field(default_factory=dict)  # by segment and start
    unused: int = 0  # an epoch that no line has had, nor any later one

    def take(self, line: dict[str, Any]) -> None:
        """Replay one line. Raises KeyError, TypeError or ValueError if it makes no sense."""
        self.unused = max(self.unused, _natural(line["epoch"]) + 1)
        match line["kind"]:
            case "pin":
                self.heading = _heading(line)
                self.records.clear()
                self.tails.clear()
            case "held" if self.heading and line["epoch"] == self.heading.epoch:
                self._held(_record(line))
            case "front" if self.heading and line["epoch"] == self.heading.epoch:
                self._merged(_natural(line["stop"]))
            case "lost" if self.heading and line["epoch"] == self.heading.epoch:
                self._lost(_natural(line["segment"]))

    def _held(self, record: Record) -> None:
        if record.place is Place.TAIL:
            self.tails[record.number, record.start] = record
        else:
            self.records[record.number] = record

    def _lost(self, number: int) -> None:
        self.records.pop(number, None)
        self.tails = {key: record for key, record in self.tails.items() if key[0] != number}

    def live_tails(self) -> Iterator[Record]:
        """The tails that no segment's own record has reached, in order, without overlaps."""
        reached = {number: record.stop for number, record in self.records.items()}
        for (number, start), record in sorted(self.tails.items()):
            if start >= reached.get(number, 0):
                reached[number] = record.stop
                yield record

    def _merged(self, stop: int) -> None:
        for number, r in self.records.items():
            if r.stop <= stop and r.place is Place.PART:
                self.records[number] = Record(number, r.start, r.stop, r.digest, Place.FRONT)


def read_index(directory: int) -> Contents:
    """What the index in the folder `directory` says; empty if there is none to be read.

    Raises OSError where this process or the system lacks what it takes: that says nothing of it.
    """
    contents = Contents()
    try:
        with _opened(directory) as file:
            for line in read_lines(file):
                with suppress(KeyError, TypeError, ValueError):
                    contents.take(line)
    except OSError as error:  # an unreadable rest is a damaged rest
        if error.errno in _SHORT_OF:
            raise
    return contents


def index_damage(directory: int) -> int:
    """How many lines of the index in the folder `directory` cannot be read. Raises OSError."""
    with _opened(directory) as file:
        return damaged_lines(file)


def _opened(directory: int) -> BinaryIO:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    return open(NAME, "rb", opener=lambda name, _: os.open(name, flags, dir_fd=directory))


class Index:
    """The index, open for appending. Every method is one write, so threads need no lock."""

    def __init__(self, directory: int) -> None:
        """Open or make the index in the folder `directory`. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self._file = os.open(NAME, flags, 0o600, dir_fd=directory)
        found = os.fstat(self._file)
        if found.st_nlink > 1:  # it has a name elsewhere: what that leads to is not ours to change
            os.close(self._file)
            os.unlink(NAME, dir_fd=directory)
            self._file = os.open(NAME, flags | os.O_EXCL, 0o600, dir_fd=directory)
            found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._file)
            raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))
        size = found.st_size
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def pin(self, heading: Heading) -> None:
        """Start anew: all that was said before is void."""
        pin = heading.pin
        self._append(seal({
            "kind": "pin", "version": VERSION, "epoch": heading.epoch,
            "path": heading.path, "size": heading.size, "segment_size": heading.segment_size,
            "object": heading.object, "offset": heading.offset, "total": pin.total,
            "etag": pin.etag, "encoding": pin.encoding, "modified": pin.modified,
            "by_digest": pin.by_digest,
        }))  # fmt: skip

    def held(self, record: Record, epoch: int) -> None:
        """Vouch for a segment's bytes, from its start."""
        self._append(seal({
            "kind": "held", "epoch": epoch, "segment": record.number, "start": record.start,
            "stop": record.stop, "digest": record.digest, "place": record.place,
        }))  # fmt: skip

    def front(self, stop: int, epoch: int) -> None:
        """The merged file holds all bytes before `stop`."""
        self._append(seal({"kind": "front", "epoch": epoch, "stop": stop}))

    def lost(self, segment: int, epoch: int) -> None:
        """Nothing is vouched for in this segment any more."""
        self._append(seal({"kind": "lost", "epoch": epoch, "segment": segment}))

    def flush(self) -> None:
        """Make what was appended survive a power cut. Raises OSError."""
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def _append(self, line: bytes) -> None:
        """Add a line; where a full disk took a part of it, end that and say it again."""
        text = b"\n" + line if self._torn else line
        self._torn = os.write(self._file, text) < len(text)
        if self._torn:
            self._append(line)


class NoIndex(Index):
    """In the place of an index for a target that is too small to be gone on with."""

    def __init__(self) -> None:
        pass

    def held(self, record: Record, epoch: int) -> None:
        pass

    def front(self, stop: int, epoch: int) -> None:
        pass

    def lost(self, segment: int, epoch: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _heading(line: dict[str, Any]) -> Heading:
    if line["version"] != VERSION:
        raise ValueError("a future version")
    return Heading(
        path=_text(line["path"]),
        size=_optional(line["size"], _natural),
        segment_size=max(_natural(line["segment_size"]), 1),
        object=_text(line["object"]),
        pin=Pin(
            total=_optional(line["total"], _natural),
            etag=_optional(line["etag"], _text),
            encoding=_optional(line["encoding"], _text),
            modified=_optional(line["modified"], _text),
            by_digest=line.get("by_digest") is True,
        ),
        epoch=_natural(line["epoch"]),
        offset=_natural(line["offset"]),
    )


def _record(line: dict[str, Any]) -> Record:
    return Record(
        number=_natural(line["segment"]),
        start=_natural(line["start"]),
        stop=_natural(line["stop"]),
        digest=_text(line["digest"]),
        place=Place(line["place"]),
    )


def _natural(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise ValueError("not a number")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("not text")


def _optional(value: object, kind: Callable[[object], T]) -> T | None:
    return None if value is None else kind(value)
