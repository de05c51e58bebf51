"""What is known of an order before its run."""

from __future__ import annotations

from segdl.core.dataclass import dataclass
from segdl.core.errors import SegdlError
from segdl.core.manifest.model import Target
from segdl.core.plan import Pin
from segdl.core.urls import ShareURL


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
