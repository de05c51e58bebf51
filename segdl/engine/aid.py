"""Who could be helped, and who lags: what the desk knows of connections at work.

When nothing else is left to do, an idle worker fetches the end of the segment that would take
longest, and a connection that is far slower than the others is given up for a new one. The desk
holds its lock around every call.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress

from segdl.core.dataclass import dataclass
from segdl.core.pace import Flows
from segdl.core.schedule import Schedule
from segdl.core.work import NOBODY, Fetch
from segdl.edges.parts import Part
from segdl.engine.task import Task

HELP_FROM = 0.25  # seconds that a segment must still take: less is not worth a request
_HELPLESS = 5.0  # seconds without help after help that failed


@dataclass(frozen=True, slots=True)
class Assist:
    """Fetch a tail: the end of what another worker fetches."""

    fetch: Fetch  # that worker's
    task: Task
    tail: Part


class Aid:
    """The connections at work, by worker. Not thread-safe, but for a worker's own `landed`."""

    def __init__(self, schedule: Schedule, tasks: Mapping[int, Task]) -> None:
        self.busy: dict[int, Fetch] = {}  # worker: what it fetches, or helps with
        self.landed: Counter[int] = Counter()  # worker: its bytes from the network in this run
        self._schedule = schedule
        self._tasks = tasks
        self._flows = Flows()
        self._since: dict[int, tuple[float, int]] = {}  # when work began, and bytes then
        self._windows: dict[int, Part] = {}  # that the bytes go into
        self._lagging: set[int] = set()  # workers whose connection is given up
        self._recalled: set[Part] = set()  # tails that are wanted back
        self._not_before = 0.0

    # -- a worker's course -----------------------------------------------------------------------

    def begin(self, worker: int, work: Fetch) -> None:
        """A worker takes work."""
        self.busy[worker] = work
        self._lagging.discard(worker)
        if self._schedule.mirrored:
            self._since[worker] = time.monotonic(), self.landed[worker]

    def streaming(self, worker: int, window: Part) -> None:
        """A worker's bytes go into `window` from now on."""
        self._windows[worker] = window

    def end(self, worker: int) -> None:
        """A worker's work is over."""
        work, since = self.busy.pop(worker, None), self._since.pop(worker, None)
        if work is not None and since is not None:
            now, count = time.monotonic(), self.landed[worker] - since[1]
            self._schedule.measured(work.host, now, count, now - since[0])
        self._windows.pop(worker, None)

    # -- help ------------------------------------------------------------------------------------

    def find(self, now: float) -> Assist | None:
        """The end of the segment that would take longest, for a worker with nothing else to do.
        To be given back by `given_back`."""
        for worker, window in self._slowest(now):
            fetch = self.busy[worker]
            task = self._tasks.get(fetch.job)
            if task is None or not self._schedule.current(fetch):
                continue
            with suppress(OSError):  # whoever is at it will meet the disk's error, and tell it
                if (help_ := self._help(fetch, task, window, now)) is not None:
                    return help_
        return None

    def _slowest(self, now: float) -> Iterator[tuple[int, Part]]:
        """The workers that are worth helping, with their windows, the slowest first."""
        if now >= self._not_before:
            for worker in sorted(self._windows, key=self._seconds_left, reverse=True):
                if self._seconds_left(worker) >= HELP_FROM:
                    yield worker, self._windows[worker]

    def _help(self, fetch: Fetch, task: Task, window: Part, now: float) -> Assist | None:
        if (helper := self._schedule.helper(fetch, now)) is None:
            return None
        tail = None
        try:
            tail = task.lend(window, fetch.epoch)
        finally:
            if tail is None:
                self._schedule.helped(helper, NOBODY)
        if tail is None:
            return None
        task.enter()
        return Assist(helper, task, tail)

    def _seconds_left(self, worker: int) -> float:
        """How long a worker still needs for its window; 0 while it is too early to tell."""
        window, rate = self._windows[worker], self._flows.rate(worker)
        return 0.0 if rate is None else (window.limit - window.reached) / max(rate, 1.0)

    def recall(self, tail: Part) -> None:
        """A tail is wanted back from whoever fetches it."""
        self._recalled.add(tail)

    def is_recalled(self, tail: Part) -> bool:
        return tail in self._recalled

    def given_back(self, tail: Part, now: float, *, failed: bool) -> None:
        """Nobody fetches a tail any more; after a failure there is no help for a while."""
        self._recalled.discard(tail)
        if failed:
            self._not_before = now + _HELPLESS

    # -- lag -------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Judge the connections at work by what has landed."""
        landed = {worker: self.landed[worker] for worker in self.busy}
        self._lagging.update(self._flows.look(now, landed))

    def lags(self, worker: int) -> bool:
        """Whether a worker shall give its connection up."""
        return worker in self._lagging

    def forget_lag(self, worker: int) -> bool:
        """A worker has given its work back: whether that was for its lag."""
        if worker not in self._lagging:
            return False
        self._flows.forget(worker)
        return True
