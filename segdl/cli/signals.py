"""Ctrl-C, SIGTERM and SIGHUP: the first ends the run and keeps what is there, the second at once.

While a download runs, a signal cancels it through its control. Before and after, nothing is lost
by raising where the program stands. A download that has not ended when its grace is over is left as
it stands, which costs no more than a kill -9 does: whoever stops segdl waits two seconds at most.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from segdl.core.errors import ExitCode, StoppedError

if TYPE_CHECKING:
    from segdl.engine.control import Control

GRACE = 1.5  # seconds
HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """The signals that end a run, heard while the `with` lasts."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._control: Control | None = None
        self._heard: ExitCode | None = None
        self._holding = False

    def __enter__(self) -> Signals:
        """Whoever started segdl with a signal ignored (nohup, `&` in a script) meant it."""
        for number in HEARD:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._heard is not None:  # within the grace too: there may be nobody who reads it
            sys.stdout.flush()
            sys.stderr.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What must not be torn apart: a signal that comes meanwhile raises at its end."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._heard is not None:
            raise stopped(self._heard)

    @contextmanager
    def steering(self, control: Control) -> Iterator[None]:
        """Signals cancel the run of `control`, instead of raising here."""
        self._control = control
        try:
            yield
        finally:
            self._control = None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        code = ExitCode(128 + number)
        if self._heard is not None:
            _leave(code)
        self._heard = code
        if self._holding:
            return
        if self._control is None:
            raise stopped(code)
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: _leave(code))
        signal.setitimer(signal.ITIMER_REAL, GRACE)
        self._control.cancel(code)


def _leave(code: ExitCode) -> NoReturn:
    """End at once, where nothing may be taken for granted: a write below all buffers, and none
    to a pipe that is full, as under a pager."""
    with suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, b"\nsegdl: stopped; all that was fetched is kept\n")
    os._exit(code)


def stopped(code: ExitCode) -> StoppedError:
    """The error of a run that a signal ended."""
    error = StoppedError("stopped; all that was fetched is kept")
    error.exit_code = code
    return error
