"""An errand: what a worker asks of its runner.

Of a small file little is left but Python, and an interpreter runs one thread of it at a time. So an
order of many small files has *runners*: processes with one connection each, which do for a worker
what goes as it should. A runner decides nothing: whatever is out of the ordinary (a refusal,
another size, something in the way) it leaves undone, with what it has not come to, and the worker
does that itself. So the schedule, the events and the receipts stay in one process.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from segdl.core.dataclass import dataclass
from segdl.core.manifest import Target
from segdl.core.work import Fetch
from segdl.engine.task import DRAFT

if TYPE_CHECKING:
    from segdl.core.schedule import Schedule
    from segdl.engine.outlook import Outlook
    from segdl.engine.stakes import Stakes

WORTH = 1000  # small targets in an order: fewer are done before a runner has started


@dataclass(frozen=True, slots=True)
class Errand:
    """Have several small targets fetched and delivered."""

    works: tuple[Fetch, ...]
    targets: tuple[Target, ...]


def is_small(target: Target) -> bool:
    """Whether a target may go on an errand: the manifest says that it fits into a draft."""
    alone = len(target.urls) == 1 and target.slice is None and target.pieces is None
    return alone and target.size is not None and 0 < target.size <= DRAFT


class Errands:
    """Which targets go on errands. The desk holds its lock around every call."""

    def __init__(
        self,
        schedule: Schedule,
        targets: Sequence[Target],
        begun: Container[int],
        outlook: Outlook,
        stakes: Stakes,
    ) -> None:
        """A target that is `begun` has a task, and goes on none."""
        self._schedule = schedule
        self._targets = targets
        self._begun = begun
        self._outlook = outlook
        self._stakes = stakes
        self._odd: set[int] = set()  # small targets that are no errand, as it turned out

    def may_have(self, job: int) -> bool:
        """Whether a target may go on an errand."""
        target, fresh = self._targets[job], job not in self._begun and job not in self._odd
        return fresh and is_small(target) and not self._outlook.is_over(target.urls[0])

    def gather(self, worker: int, first: Fetch, most: int, allowed: int, now: float) -> Errand:
        """`first`, and the targets that come after it: no more than a crash may cost, with the
        drafts that are not delivered, and one under way of each other of `allowed` workers."""
        works, room = [first], self._stakes.room(allowed) - self._put(first.job)

        def fits(job: int) -> bool:
            return self.may_have(job) and (self._targets[job].size or 0) <= room

        while len(works) < most and (work := self._schedule.take_next(first, worker, now, fits)):
            works.append(work)
            room -= self._put(work.job)
        return Errand(tuple(works), tuple(self._targets[work.job] for work in works))

    def _put(self, job: int) -> int:
        """A target goes on an errand: the bytes that are at stake with it."""
        size = self._targets[job].size or 0
        self._stakes.put(job, size)
        return size

    def left_undone(self, job: int) -> None:
        """A runner has not done it: its worker will."""
        self._odd.add(job)
