"""How long the links of a run last, against what is left to do: who is told, and who is asked.

A forecast goes over every target that is left, so it is made seldom, and without the desk's lock,
which is held only for what the schedule says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from segdl.core import events
from segdl.core.clocks import Clocks
from segdl.core.dataclass import dataclass
from segdl.core.diagnosis import EXPIRED
from segdl.core.errors import ExpiredError
from segdl.core.manifest import Target
from segdl.core.runway import SPARE, Left, Runway, Short, forecast
from segdl.core.schedule import Schedule
from segdl.core.urls import ShareURL
from segdl.engine.tally import Tally
from segdl.engine.task import Task


class Dated(Protocol):
    """An answer, with the time by its server's clock in unix seconds, if it said so."""

    @property
    def date(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class LinksWanted:
    """An order needs fresh links. It is to be asked for once for an `issue` of links."""

    issue: int
    waiting: int  # targets that have stopped, for their links have ended
    expiring: int  # targets that will, at the rate that is measured


class Outlook:
    """The links of one run. Every method is thread-safe."""

    def __init__(
        self,
        desk: threading.RLock,
        schedule: Schedule,
        targets: Sequence[Target],
        tasks: Mapping[int, Task],
        tally: Tally,
        emit: Callable[[events.Event], None],
    ) -> None:
        self._desk = desk
        self._lock = threading.RLock()  # taken last, where both are; a signal may come within
        self._schedule = schedule
        self._targets = targets
        self._tasks = tasks
        self._tally = tally
        self._emit = emit
        self._clocks = Clocks()
        self._runway = Runway(time.monotonic())

    # -- what servers say ------------------------------------------------------------------------

    def check(self, url: ShareURL) -> None:
        """Raises ExpiredError for a link that its host is known to refuse: it is not asked for."""
        if (end := url.ends_at) is not None and self.is_over(url):
            ended = f"the link has expired (it ended at {events.timestamp(end)}"
            error = ExpiredError(f"{ended}, by its server's clock): get a fresh manifest")
            error.ends_at, error.diagnosis = end, EXPIRED
            raise error

    def is_over(self, url: ShareURL) -> bool:
        """Whether a link's host is known to refuse it."""
        return self._clocks.over(url.netloc, url.ends_at, time.monotonic())

    def refused(self, url: ShareURL, error: ExpiredError) -> None:
        """A link was refused as one that has ended."""
        if error.ends_at is not None and error.server_time is not None:
            with self._lock:
                self._clocks.refused(url.netloc, error.ends_at, error.server_time, time.monotonic())

    def answered(self, url: ShareURL, answer: Dated) -> None:
        """A link was good."""
        now = time.monotonic()
        if not self._schedule.ending or not self._clocks.wants(url.netloc, now):
            return
        if (date := answer.date) is not None:
            with self._lock:
                self._clocks.told(url.netloc, date, now)

    # -- the forecast ----------------------------------------------------------------------------

    def look(self, now: float, landed: int, busy: int, at_once: int) -> None:
        """Tell which targets will outlive their links, if that is due and can be told by now."""
        with self._lock:
            rate = self._runway.measure(now, landed, busy) if self._schedule.ending else None
            issue, date = self._runway.issue, self._date(now)
        if rate is None:
            return
        began = time.thread_time()
        with self._desk:
            ahead = self._schedule.ahead()
        left = [Left(job, self._bytes_left(job), end) for end, job in ahead]
        short = forecast(left, rate, at_once, date + SPARE)
        with self._lock:
            news = self._runway.judge(issue, left, short, date)
            self._runway.rest(now, time.thread_time() - began)
        for each in news:
            self._tell(each, date)

    def _date(self, now: float) -> float:
        return self._clocks.there(time.time(), now)

    def _bytes_left(self, job: int) -> float:
        """Of a target whose size is not known yet, what others have."""
        task, size = self._tasks.get(job), self._targets[job].size
        if task is not None and task.layout.size is not None:
            return task.layout.size - task.present()
        return self._tally.typical if size is None else size

    def _tell(self, short: Short, date: float) -> None:
        self._emit(
            events.UrlExpiring(
                target=self._targets[short.job].path,
                ends_at=events.timestamp(short.end),
                minutes_left=round((short.end - date) / 60, 2),
                minutes_needed=round((short.done - date) / 60, 2),
                targets=self._runway.short,
            )
        )

    # -- fresh links -----------------------------------------------------------------------------

    def renewed(self) -> None:
        """Fresh links came."""
        with self._lock:
            self._runway.renewed(time.monotonic())

    def wanted(self) -> LinksWanted | None:
        """Whether fresh links are wanted now: a target waits for one, or will soon."""
        now = time.monotonic()
        with self._lock:
            waiting = self._schedule.paused
            if not waiting and not self._runway.wanted(now, self._date(now)):
                return None
            return LinksWanted(self._runway.issue, waiting, self._runway.short)
