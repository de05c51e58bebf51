"""What a crash may cost: drafts, of which nothing is kept before they are delivered."""

from __future__ import annotations

from collections.abc import Sequence

from segdl.core.manifest import Target
from segdl.core.options import KIB, MIB

# Bytes a connection that a crash may cost: of segments under way, which a worker has not recorded
# and the kernel not handed over, and of drafts that are not delivered.
MOST_LOST, MOST_UNRECORDED = 896 * KIB, 768 * KIB
MOST_OPEN = 16  # drafts a connection that are not delivered: each keeps a file open


class Stakes:
    """The drafts that are complete or on errands, by job. The desk holds its lock around every
    call."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._drafts: dict[int, int] = {}  # bytes
        self._under_way = min(_longest(targets), MOST_UNRECORDED)  # bytes a connection, beside them

    def put(self, job: int, size: int) -> None:
        """A draft is complete, or goes on an errand."""
        self._drafts[job] = size

    def drop(self, job: int) -> None:
        """It is delivered, or over."""
        self._drafts.pop(job, None)

    @property
    def bytes(self) -> int:
        return sum(self._drafts.values())

    def are_too_many(self, connections: int) -> bool:
        """Whether no more drafts may be begun."""
        many = len(self) > MOST_OPEN * connections
        return many or self.bytes > self._most(connections)

    def room(self, connections: int) -> int:
        """Bytes that one more errand may have, with one target under way of each other worker."""
        return min(self._most(connections) + self._under_way - self.bytes, MOST_LOST)

    def _most(self, connections: int) -> int:
        return (MOST_LOST - self._under_way) * connections

    def __len__(self) -> int:
        return len(self._drafts)


def _longest(targets: Sequence[Target]) -> int:
    """The size of the longest target in bytes; that of unknown size may be it."""
    return max((MIB if t.size is None else t.size for t in targets), default=0)
