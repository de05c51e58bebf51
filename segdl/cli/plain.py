"""A line now and then, for logs: no cursor moves, every line with its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TextIO

from segdl.cli import wording
from segdl.cli.incidents import Incidents
from segdl.core.events import Event, OrderFinished, OrderStarted, Progress, TargetDone

EVERY = 30.0  # seconds: a log of days stays readable
SOONEST = 1.0  # seconds between two lines of progress, however fast it goes
STEPS = 10  # parts of the order: the other occasion for a line


class Plain:
    """Tells the start, each tenth of the order, each file that is done or failed, the end."""

    def __init__(self, out: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._now = now
        self._incidents = Incidents(now)
        self._last = now()
        self._step = 0
        self._done = 0
        self._targets = 0

    def __call__(self, event: Event, /) -> None:
        match event:
            case OrderStarted():
                self._start(event)
            case Progress():
                self._progress(event)
            case TargetDone():
                self._done += 1
                if event.fetched:
                    self._say(f"done {event.target}: {wording.size(event.size)}, {event.grade}")
            case OrderFinished():
                self._say(f"end: {event.delivered} delivered, {event.failed} not")
            case _:
                if line := self._incidents.line(event):
                    self._say(line)

    def close(self) -> None:
        pass

    def _start(self, event: OrderStarted) -> None:
        self._targets = event.targets
        size = "size not known yet" if event.bytes is None else wording.size(event.bytes)
        held = f", {wording.size(event.held)} of it here already" if event.held else ""
        self._step = _steps(event.held, event.bytes)
        self._say(f"start: {wording.count(event.targets, 'file')}, {size}{held}")

    def _progress(self, event: Progress) -> None:
        waited = self._now() - self._last
        step = _steps(event.bytes, event.total)
        if waited >= EVERY or (step > self._step and waited >= SOONEST):
            self._last, self._step = self._now(), step
            self._say(f"{_amount(event)}, {wording.rate(event.rate)}{_left(event)}")

    def _say(self, line: str) -> None:
        print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}", file=self._out, flush=True)


def _steps(count: int, total: int | None) -> int:
    return count * STEPS // total if total else 0


def _amount(event: Progress) -> str:
    if not event.total:
        return wording.size(event.bytes)
    percent = event.bytes * 100 // event.total
    return f"{percent} %, {wording.size(event.bytes)} of {wording.size(event.total)}"


def _left(event: Progress) -> str:
    if not event.total or not event.rate:
        return ""
    return f", {wording.span((event.total - event.bytes) / event.rate)} left"
