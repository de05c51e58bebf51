"""What a manifest says, once it is valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from segdl.core.dataclass import dataclass
from segdl.core.urls import ShareURL


@dataclass(frozen=True, slots=True)
class Pieces:
    """A digest for each segment: `values[n]` covers bytes [n*size, (n+1)*size) of the target."""

    size: int
    algorithm: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """The target is bytes [offset, offset+size) of its object."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Target:
    """One file of the order. `path` is relative, with `/`, and legal here and on Windows."""

    path: str
    urls: tuple[ShareURL, ...]  # mirrors, best first; never empty
    size: int | None = None  # bytes; of the slice, where there is one
    digests: tuple[tuple[str, str], ...] = ()  # (algorithm, lower-case hex)
    pieces: Pieces | None = None
    slice: Slice | None = None

    @property
    def provable(self) -> bool:
        """Whether the manifest has a digest that tells right bytes from wrong ones."""
        return bool(self.digests or self.pieces)


@dataclass(frozen=True, slots=True)
class Manifest:
    """An order: its targets, and what holds for all of them."""

    targets: tuple[Target, ...]
    order: str | None = None  # a name by the rules of one path component
    segment_size: int | None = None  # bytes
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)  # by origin
    refresh: ShareURL | None = None
