"""What a target consists of: its segments, and which of them are missing."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from segdl.core.dataclass import dataclass
from segdl.core.digests import etag_parts
from segdl.core.manifest.model import Manifest, Target
from segdl.core.options import LARGEST_SEGMENT, MIB, Options

DEFAULT_SEGMENT = 8 * MIB


@dataclass(frozen=True, slots=True)
class Segment:
    """A numbered byte range [start, stop) of a target."""

    number: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Layout:
    """A target cut into segments of one size. `size` is None until an answer tells it."""

    size: int | None
    segment_size: int

    @property
    def count(self) -> int | None:
        """How many segments there are. An empty target has none."""
        return None if self.size is None else -(-self.size // self.segment_size)

    def segment(self, number: int) -> Segment:
        start = number * self.segment_size
        stop = start + self.segment_size
        return Segment(number, start, stop if self.size is None else min(stop, self.size))

    def numbers(self) -> range:
        """All segment numbers; of a target of unknown size only the first, which is the probe."""
        return range(1 if self.count is None else self.count)


class Place(StrEnum):
    """Which file holds a segment's bytes."""

    FRONT = "front"  # the merged file, at the segment's own offset
    PART = "part"  # a part file of its own, from 0
    TAIL = (
        "tail"  # a part file too, of the end of a segment: from 0, that is from the record's start
    )


@dataclass(frozen=True, slots=True)
class Record:
    """Vouches for bytes [start, stop) of a target: they have this digest (`digests.RECORD`)."""

    number: int
    start: int
    stop: int
    digest: str
    place: Place

    def covers(self, segment: Segment) -> bool:
        return (self.start, self.stop) == (segment.start, segment.stop)


@dataclass(frozen=True, slots=True)
class Pin:
    """Which object the bytes are of, as its first answer said. All later answers must agree."""

    total: int | None  # bytes of the whole object
    etag: str | None  # strong, with its quotes; else None
    encoding: str | None = None  # a stored Content-Encoding, kept raw
    modified: str | None = None  # Last-Modified, where it is a strong validator and no ETag is
    by_digest: bool = False  # what answers have was never seen; the manifest's digests settle it


def asked_size(manifest: Manifest, options: Options) -> int | None:
    """The segment size in bytes that is asked for of the whole order; None where nobody asks."""
    return options.segment_size or manifest.segment_size


def segment_size(target: Target, manifest: Manifest, options: Options) -> int | None:
    """The segment size in bytes that is asked for: by the pieces, then the option, then the
    manifest; None where nobody asks. An index under way goes before the option."""
    pieces = target.pieces.size if target.pieces else None
    return pieces or asked_size(manifest, options)


def aligned(size: int, etag: str | None) -> int:
    """The segment size that lets a multipart ETag be checked as bytes land, else the default."""
    parts = etag_parts(etag, size)
    return parts[1] if parts and parts[1] <= LARGEST_SEGMENT else DEFAULT_SEGMENT


def held_bytes(records: Mapping[int, Record]) -> int:
    """How many bytes the records vouch for."""
    return sum(r.stop - r.start for r in records.values())


def fits(layout: Layout, record: Record) -> bool:
    """Whether a record can be of this layout at all (an index may be damaged or foreign)."""
    if record.number < 0 or (layout.count is not None and record.number >= layout.count):
        return False
    segment = layout.segment(record.number)
    if record.place is Place.TAIL:
        return segment.start < record.start < record.stop <= segment.stop
    return record.start == segment.start and segment.start < record.stop <= segment.stop
