"""Ctrl-C, SIGTERM and SIGHUP: the first ends the run and keeps what is there, the second at once.

While a download runs, a signal cancels it through its control. Before and after, nothing is lost
by raising where the program stands.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from segdl.core.errors import ExitCode, StoppedError

if TYPE_CHECKING:
    from segdl.engine.control import Control

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """The signals that end a run, heard while the `with` lasts."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._control: Control | None = None
        self._heard = False

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
        for number, handler in self._before.items():
            signal.signal(number, handler)

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
        if self._heard:
            os._exit(code)
        self._heard = True
        if self._control is None:
            raise stopped(code)
        self._control.cancel(code)


def stopped(code: ExitCode) -> StoppedError:
    """The error of a run that a signal ended."""
    error = StoppedError("stopped; all that was fetched is kept")
    error.exit_code = code
    return error
