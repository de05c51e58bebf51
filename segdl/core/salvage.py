"""What came by another way: which files may be a target or a part of it, and what proves them.

Only the manifest's digests prove a file that nobody vouches for. With `pieces` each segment is
proved alone, whatever the rest of the file is. With a digest of the whole, a file of the right
size is hashed before a byte of it is taken. A shorter one that has the target's name may be a copy
that was cut: its whole segments are taken on trial, since the whole is hashed before it is
delivered, and without them again if they were not the right ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from enum import Enum, auto

from segdl.core.dataclass import dataclass
from segdl.core.manifest.model import Target


class Use(Enum):
    """What may be taken from a file."""

    WHOLE = auto()  # all of it, once its digest holds
    PIECES = auto()  # the segments whose own digest holds
    PREFIX = auto()  # its whole segments, on trial


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that is here: `path` in the folder with that number, `size` in bytes."""

    folder: int
    path: str
    size: int


class Offers:
    """The files that may be of use for an order, found by name and by size."""

    def __init__(self, candidates: Iterable[Candidate], targets: Iterable[Target]) -> None:
        """Of the candidates those are kept that have a target's name or size: there may be many."""
        targets = tuple(targets)
        names, sizes = {_name(t.path) for t in targets}, {t.size for t in targets}
        self._by_name: dict[str, list[Candidate]] = defaultdict(list)
        self._by_size: dict[int, list[Candidate]] = defaultdict(list)
        for candidate in candidates:
            if (name := _name(candidate.path)) in names:
                self._by_name[name].append(candidate)
            if candidate.size in sizes:
                self._by_size[candidate.size].append(candidate)

    def of(self, target: Target) -> tuple[tuple[Candidate, Use], ...]:
        """What may be taken for a target, the likeliest first: the same path, the same name, the
        same size. Empty where nothing could prove it."""
        named = sorted(self._named(target), key=lambda c: (c.path != target.path, c.folder, c.path))
        alike = [] if target.size is None else self._by_size.get(target.size, [])
        uses = ((c, use(target, c)) for c in dict.fromkeys((*named, *alike)))
        return tuple((candidate, how) for candidate, how in uses if how is not None)

    def whole(self, target: Target) -> bool:
        """Whether there is a file that may be all of the target, and can be proved to be."""
        found = self.of(target)
        return any(u is not Use.PREFIX and target.size in (None, c.size) for c, u in found)

    def unproved(self, target: Target) -> bool:
        """Whether there is a file for the target that nothing in the manifest could prove."""
        return not target.provable and bool(self._named(target))

    def _named(self, target: Target) -> list[Candidate]:
        return self._by_name.get(_name(target.path), [])


def use(target: Target, candidate: Candidate) -> Use | None:
    """What may be taken for a target from a file that has its name or its size."""
    if target.pieces:
        return Use.PIECES if target.size is not None else None
    if not target.digests:
        return None
    if target.size in (None, candidate.size):
        return Use.WHOLE
    return Use.PREFIX if candidate.size < (target.size or 0) else None


def _name(path: str) -> str:
    return path.rpartition("/")[2]
