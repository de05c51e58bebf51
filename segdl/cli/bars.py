"""Bars on a terminal, by tqdm: one for the order, one for each file in flight.

tqdm draws, and nothing more: counts, rates and times come from the events, so that a resumed
order begins where it stands and its rate is that of new bytes. No colours, no threads, and at the
end every bar is wiped away: the summary says what was.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm

from segdl.cli import wording
from segdl.cli.incidents import Incidents
from segdl.core.events import Event, OrderStarted, Progress, TargetDone

MOST = 16  # bars of files
SPARE = 3  # rows for the order's bar, a line above and the cursor
LINGER = 1.0  # seconds that a file between two segments keeps its bar
ECHO = 2  # columns at the end: `^C`, echoed there, must not begin a new line
NARROW = 60  # columns: below, only what matters most


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar with facts of our own behind it."""

    monitor_interval = 0  # no thread that watches over bars
    facts = ""

    @property
    def format_dict(self) -> Any:
        return {**super().format_dict, "facts": self.facts}


class _Seen(NamedTuple):
    """When a file was last in flight, and how much of it was there: bytes, and its size."""

    last: float
    amount: tuple[int, int | None]


class Bars:
    """The bars of one run."""

    def __init__(self, out: TextIO) -> None:
        _Bar.set_lock(threading.RLock())  # tqdm's own default is a semaphore of the whole system
        self._out = out
        self._ascii = (out.encoding or "").lower().replace("-", "") != "utf8"
        self._mark = "..." if self._ascii else wording.ELLIPSIS
        self._incidents = Incidents()
        self._bars: list[_Bar] = []  # the order's first
        self._seen: dict[str, _Seen] = {}  # the files that have a bar
        self._targets = self._done = 0

    def __call__(self, event: Event, /) -> None:
        match event:
            case OrderStarted():
                self._targets = event.targets
            case Progress():
                self._show(event)
            case TargetDone():
                self._done += 1
                self._seen.pop(event.target, None)
            case _:
                if line := self._incidents.line(event):
                    _Bar.write(line, file=self._out)

    def close(self) -> None:
        self._fit(0)
        if self._out.isatty():
            print("\r\x1b[K", end="", file=self._out, flush=True)  # and the `^C` that was echoed

    def draw_first(self, name: str, count: int, total: int | None, facts: str = "") -> None:
        """Draw the bar that stands first."""
        self._fit(max(1, len(self._bars)))
        self._draw(self._bars[0], _screen(self._out)[0], name, count, total, facts)

    def _show(self, event: Progress) -> None:
        columns, rows = _screen(self._out)
        shown = self._in_flight(event, min(MOST, max(rows - SPARE, 0)))
        self._fit(1 + len(shown))
        self.draw_first("order", event.bytes, event.total, self._facts(event))
        for bar, path in zip(self._bars[1:], shown, strict=True):
            self._draw(bar, columns, path, *self._seen[path].amount, "")

    def _in_flight(self, event: Progress, most: int) -> list[str]:
        """The files to show, each in the place that it had."""
        now = time.monotonic()
        self._seen |= {path: _Seen(now, amount) for path, amount in event.in_flight.items()}
        for path in [path for path, seen in self._seen.items() if now - seen.last > LINGER]:
            del self._seen[path]
        return list(self._seen)[:most]

    def _fit(self, count: int) -> None:
        """As many bars as are wanted: further ones below, surplus ones wiped away."""
        while len(self._bars) > count:
            self._bars.pop().close()
        while len(self._bars) < count:
            bar = _Bar(
                total=1, position=len(self._bars), leave=False, file=self._out, ascii=self._ascii,
                bar_format=" ", nrows=MOST + SPARE,
            )  # fmt: skip
            bar.bar_format = "{desc} {bar} {facts}"  # from now on: it has nothing to show yet
            self._bars.append(bar)

    def _facts(self, event: Progress) -> str:
        """What the order's bar says at its end: rate, time left, files."""
        files = f"{self._done}/{self._targets} files"
        left = ""
        if event.total and event.rate:
            left = f", {wording.clock((event.total - event.bytes) / event.rate)} left"
        return f"{wording.rate(event.rate)}{left}, {files}"

    def _draw(
        self, bar: _Bar, columns: int, name: str, count: int, total: int | None, facts: str
    ) -> None:
        bar.ncols, bar.total, bar.n = columns, total, min(count, total or count)
        width = max(columns * 3 // 10, 8)
        bar.desc = name if facts else wording.shorten(name, width, self._mark).ljust(width)
        bar.facts = facts if columns >= NARROW else ""
        bar.facts = ", ".join(filter(None, (_amount(count, total, columns), bar.facts)))
        bar.refresh()


class Meter:
    """One bar for one thing."""

    def __init__(self, out: TextIO, name: str) -> None:
        self._bars = Bars(out)
        self._name = name

    def show(self, count: int, total: int) -> None:
        """Draw `count` of `total` bytes."""
        self._bars.draw_first(self._name, count, total)

    def close(self) -> None:
        self._bars.close()


def _amount(count: int, total: int | None, columns: int) -> str:
    if not total:
        return wording.size(count)
    percent = f"{count * 100 // total:3} %"
    return percent if columns < NARROW else f"{percent} of {wording.size(total)}"


def _screen(out: TextIO) -> tuple[int, int]:
    """Columns to draw in, and rows, of the terminal; those of 80 by 24 where none is."""
    try:
        screen = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return 80 - ECHO, 24
    return max((screen.columns or 80) - ECHO, 1), screen.lines or 24
