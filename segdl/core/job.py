"""One target's place in the schedule: which of its segments are missing, and who is at the others.

A segment is missing, busy (one worker each), waiting for the time of its next try, or held.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from dataclasses import field
from enum import Enum, auto
from math import inf

from segdl.core.choice import Choice
from segdl.core.dataclass import dataclass


class State(Enum):
    OPEN = auto()
    PAUSED = auto()
    OVER = auto()  # delivered or failed


@dataclass(slots=True)
class Missing:
    """Segments that are missing, lowest first, in memory that does not grow with the target."""

    beyond: int  # this one and all after it are missing, ...
    count: int  # ... before this one
    gaps: list[int] = field(default_factory=list)  # those before `beyond`, as a heap

    @classmethod
    def without(cls, count: int, held: Collection[int]) -> Missing:
        """All of `count` segments that are not in `held`."""
        beyond = min(max(held, default=-1) + 1, count)
        return cls(beyond, count, [n for n in range(beyond) if n not in held])

    @property
    def lowest(self) -> int:
        return self.gaps[0] if self.gaps else self.beyond

    def pop(self) -> int:
        """Take the lowest out."""
        if self.gaps:
            return heapq.heappop(self.gaps)
        self.beyond += 1
        return self.beyond - 1

    def add(self, number: int) -> None:
        heapq.heappush(self.gaps, number)

    def __contains__(self, number: int) -> bool:
        return self.beyond <= number < self.count or number in self.gaps

    def __bool__(self) -> bool:
        return bool(self.gaps) or self.beyond < self.count


@dataclass(slots=True)
class Job:
    """One target's place in the schedule."""

    choice: Choice
    missing: Missing
    count: int | None  # segments; None while unknown
    pinned: bool = False
    merge: bool = False  # something is to be merged, or to be looked at
    merging: bool = False  # a thread is at it
    state: State = State.OPEN
    epoch: int = 0
    end: float = inf  # of its last link, in unix seconds
    restarts: int = 0
    doubts: int = 0  # refusals that may not have been meant
    denials: int = 0
    owner: int | None = None  # the worker that reads the one stream
    stream: bool = False  # the server ignores ranges
    confirmed: bool = False  # a second answer in this run was of the pinned object
    doubted: bool = False  # the pin was given up once, for it was contradicted and not confirmed
    started: bool = False
    busy: dict[int, int] = field(default_factory=dict)  # segment: worker
    waiting: dict[int, float] = field(default_factory=dict)  # segment: not before
    tries: dict[int, int] = field(default_factory=dict)
    strikes: dict[int, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)  # busy, and to be fetched again after that

    def learn(self, count: int | None, held: Iterable[int]) -> None:
        """The probe was answered: there are `count` segments. The probe itself stays busy."""
        self.pinned, self.count = True, count
        if count is not None:
            self.missing = Missing.without(count, {*held, *self.busy, *self.waiting})
        elif not self.missing:
            self._expect_after(max(self.busy, default=-1))

    def end_at(self, count: int) -> None:
        """It is known by now how many segments there are, and none is missing."""
        self.count, self.missing = count, Missing(count, count)

    def _expect_after(self, number: int) -> None:
        """A target of unknown size: what follows `number` is missing, as far as is known."""
        self.missing = Missing(number + 1, number + 2)

    def wake(self, now: float) -> None:
        """What has waited until `now` is missing again."""
        due = [segment for segment, when in self.waiting.items() if when <= now]
        for segment in due:
            del self.waiting[segment]
            self.missing.add(segment)

    def put_back(self, segment: int) -> None:
        """Nobody is at a segment any more, and it is missing."""
        if self.busy.pop(segment, None) is not None:
            self.lost.discard(segment)
            self.missing.add(segment)

    def put_off(self, segment: int, until: float) -> None:
        """Nobody is at a segment any more, and it is not to be fetched before `until`."""
        self.busy.pop(segment, None)
        self.lost.discard(segment)
        self.waiting[segment] = until

    def done(self, segment: int) -> None:
        """A segment is held, unless it was lost meanwhile."""
        self.busy.pop(segment, None)
        self.tries.pop(segment, None)
        if segment in self.lost:
            self.lost.discard(segment)
            self.missing.add(segment)
        if self.count is None and not self.missing:
            self._expect_after(segment)

    def lose(self, segment: int) -> None:
        """A segment that was held is missing again."""
        if segment in self.busy:  # its worker has committed it, and is not done yet
            self.lost.add(segment)
        elif segment not in self.waiting and segment not in self.missing:
            self.missing.add(segment)

    def restart(self, count: int | None, not_before: float) -> None:
        """Nothing is held any more, and no pin; work under way no longer counts."""
        self.epoch += 1
        self.busy.clear()
        self.waiting.clear()
        self.lost.clear()
        self.missing = Missing(1, count or 1)
        self.waiting[0] = not_before
        self.count, self.pinned = count, False
        self.merge = self.merging = False
        self.stream, self.owner, self.confirmed = False, None, False

    def take_up(self) -> None:
        """It goes on: nothing waits any longer."""
        self.state = State.OPEN
        for segment in self.waiting:
            self.missing.add(segment)
        self.waiting.clear()

    def forgive(self) -> None:
        """It has failed, and shall be tried as if it had not."""
        self.tries.clear()
        self.strikes.clear()
        self.restarts = 0
        self.choice.acquit()
        self.choice.trial, self.choice.hold = False, None
