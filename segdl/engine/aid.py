"""Who could be helped, and who lags: what the desk knows of connections at work.

When nothing else is left to do, an idle worker fetches the end of the segment that would take
longest, and a connection that is far slower than the others is given up for a new one. The desk
holds its lock around every call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from segdl.core.pace import Flows
from segdl.core.work import Fetch
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
    """The connections at work, by worker. Not thread-safe."""

    def __init__(self) -> None:
        self._flows = Flows()
        self._landed: Counter[int] = Counter()  # bytes
        self._windows: dict[int, Part] = {}  # that the bytes go into
        self._lagging: set[int] = set()  # workers whose connection is given up
        self._recalled: set[Part] = set()  # tails that are wanted back
        self._not_before = 0.0

    # -- a worker's course -----------------------------------------------------------------------

    def begin(self, worker: int) -> None:
        """A worker takes work."""
        self._lagging.discard(worker)

    def streaming(self, worker: int, window: Part) -> None:
        """A worker's bytes go into `window` from now on."""
        self._windows[worker] = window

    def landed(self, worker: int, count: int) -> None:
        self._landed[worker] += count

    def landed_by(self, worker: int) -> int:
        """Bytes that a worker has brought in this run."""
        return self._landed[worker]

    def end(self, worker: int) -> None:
        """A worker's work is over."""
        self._windows.pop(worker, None)

    # -- help ------------------------------------------------------------------------------------

    def slowest(self, now: float) -> Iterator[tuple[int, Part]]:
        """The workers that are worth helping, with their windows, the slowest first."""
        if now >= self._not_before:
            for worker in sorted(self._windows, key=self._seconds_left, reverse=True):
                if self._seconds_left(worker) >= HELP_FROM:
                    yield worker, self._windows[worker]

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

    def look(self, now: float, at_work: Iterable[int]) -> None:
        """Judge the connections of these workers by what has landed."""
        landed = {worker: self._landed[worker] for worker in at_work}
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
