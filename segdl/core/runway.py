"""Which targets will outlive their links: the forecast, and what is to be told of it.

Pure: the rate that was measured and what is left say when each target will be done; its links say
when they end. The work is thought to be done as the schedule hands it out, so many targets at once,
each with its share of the rate; at the end idle connections help, so that nothing is done later
than all of it.

A target is told of once for a link, and of a fresh link only if it is much worse off than was told
before. Links are wanted when the first that will not do is near its end, so that one asks in time
and does not ask for more than is needed. Dates are unix seconds by the servers' clocks.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from math import inf
from typing import NamedTuple

from segdl.core.dataclass import dataclass
from segdl.core.pace import Rate
from segdl.core.urls import ShareURL

EVERY = 1.0  # seconds between two forecasts
RATE_OVER = 10.0  # seconds over which the rate is measured
_SOONEST = 2.0  # seconds of measuring before a forecast is believed; up to RATE_OVER, ...
_PATIENT = 10  # ... if this is less than a tenth of what the first link has left
SURE = 0.9  # of the rate is counted on, ...
SPARE = 1.0  # ... and this many seconds less than a link has left
_BREAK = 1.0  # seconds without anybody at work: a pause, or an outage
LEAD = 30.0  # seconds before the first end at which fresh links are wanted, or more if it was far


def last_end(urls: Iterable[ShareURL]) -> float:
    """When the last of a target's links ends, by their own words; infinite if one never does."""
    ends = [url.ends_at for url in urls]
    return max(inf if end is None else end for end in ends)


def lead(life: float) -> float:
    """How long before their end links are renewed that were good for so many seconds."""
    return min(max(LEAD, life / 4), life / 2)


class Left(NamedTuple):
    """What a target still needs. (An order may have a hundred thousand of them.)"""

    job: int
    bytes: float
    end: float


@dataclass(frozen=True, slots=True)
class Short:
    """A target that will not be done before its last link ends."""

    job: int
    end: float
    done: float

    @property
    def lack(self) -> float:
        """Seconds by which the link ends too early."""
        return self.done - self.end


def forecast(left: Sequence[Left], rate: float, at_once: int, now: float) -> list[Short]:
    """The targets of `left` that fall short, the first end first. `left` is in the order of the
    work, `rate` is bytes a second, `at_once` how many targets are under way."""
    if not left:
        return []
    every_byte = now + sum(target.bytes for target in left) / rate
    if min(target.end for target in left) >= every_byte:
        return []
    share = rate / min(at_once, len(left))
    free = [now] * min(at_once, len(left))  # when each connection takes the next target
    short = []
    for job, count, end in left:
        done = free[0] + count / share
        heapq.heapreplace(free, done)
        if min(done, every_byte) > end:
            short.append(Short(job, end, min(done, every_byte)))
    return sorted(short, key=lambda each: each.end)


class Runway:
    """The forecasts of one run. `now` is monotonic seconds, a date is unix seconds."""

    def __init__(self, now: float) -> None:
        """`now`: when the links came."""
        self.issue = 0  # of the links: fresh ones may come
        self.short = 0  # targets that fall short, by the last forecast
        self.first = inf  # the first end of theirs
        self._came = now
        self._measured = Rate(RATE_OVER)
        self._rate: float | None = None  # the last one that could be told
        self._age = 0.0  # seconds over which it was measured
        self._at_work = now
        self._due = 0.0
        self._told: dict[int, Short] = {}

    def measure(self, now: float, landed: int, busy: int) -> float | None:
        """The rate to count on, if a forecast is due, `landed` bytes into the run; else None.

        While nobody is at work the last rate counts.
        """
        if busy:
            self._at_work = now
        if now - self._at_work > _BREAK:
            self._measured.forget()
            return self._rate_if_due(now)
        rate, age = self._measured.look(now, landed), self._measured.age
        if rate and age >= min(_SOONEST, self._age):
            self._rate, self._age = rate, max(age, self._age)
        return self._rate_if_due(now)

    def _rate_if_due(self, now: float) -> float | None:
        if self._rate is None or self._age < _SOONEST or now < self._due:
            return None
        return self._rate * SURE

    def judge(
        self, issue: int, left: Sequence[Left], short: Sequence[Short], date: float
    ) -> list[Short]:
        """Take in a forecast made of the links of `issue`: what of it is to be told."""
        if issue != self.issue:
            return []
        short = [each for each in short if each.end > date]  # else the server will say it
        patience = min((short[0].end - date) / _PATIENT, RATE_OVER) if short else 0.0
        if self._age < patience:
            return []
        self.short, self.first = len(short), short[0].end if short else inf
        self._forget(left, short)
        news = [each for each in short if self._is_news(each)]
        self._told.update((each.job, each) for each in news)
        return news

    def _forget(self, left: Sequence[Left], short: Sequence[Short]) -> None:
        """A fresh link that will do: what was said of the one before is no longer of interest."""
        if self._told:
            well = {target.job: target.end for target in left}
            for each in short:
                well.pop(each.job, None)
            told = self._told.items()
            self._told = {job: each for job, each in told if well.get(job, each.end) == each.end}

    def _is_news(self, short: Short) -> bool:
        told = self._told.get(short.job)
        if told is None:
            return True
        return short.end != told.end and short.lack > told.lack + max(60.0, told.lack / 4)

    def rest(self, now: float, took: float) -> None:
        """A forecast took so many CPU seconds: the next is due when that hardly matters."""
        self._due = now + max(EVERY, 20 * took)

    def renewed(self, now: float) -> None:
        """Fresh links came."""
        self.issue += 1
        self.short, self.first = 0, inf
        self._came, self._due = now, 0.0

    def wanted(self, now: float, date: float) -> bool:
        """Whether fresh links are wanted by now: the first that will not do is near its end."""
        left = self.first - date
        return self.short > 0 and left <= lead(max(left + now - self._came, 0.0))
