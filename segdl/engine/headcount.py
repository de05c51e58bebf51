"""How many workers are allowed at once: as many as the user says, or as the run itself shows."""

from __future__ import annotations

import time

from segdl.core.errors import SegdlError
from segdl.core.pace import Crowd
from segdl.edges.cores import cores

_CLOCKED = 0.2  # seconds between two looks at a worker's CPU time


class Headcount:
    """The number of workers, and what of a core they use. The desk holds its lock around every
    call, but for `allowed` and `clock`."""

    def __init__(self, fixed: int | None) -> None:
        """`fixed` is the number that the user says, None where it is to be found."""
        self._fixed = fixed
        self._crowd = Crowd(least=min(cores(), 2))
        self._worked: dict[int, float] = {}  # CPU seconds by worker, and ~worker: its runner
        self._clocked: dict[int, float] = {}  # by worker: when its CPU time was asked for

    @property
    def allowed(self) -> int:
        """How many workers may be at work now."""
        return self._fixed or self._crowd.allowed

    def expect_runners(self, count: int) -> None:
        """So many workers have a runner: they are not in each other's way."""
        self._crowd.least = max(self._crowd.least, count)

    def clock(self, worker: int) -> None:
        """Ask for the CPU time of the worker whose thread this is, now and then: of the time in
        which one held the interpreter's lock, three quarters were in this call, since the kernel
        takes the processor away there."""
        if (now := time.monotonic()) >= self._clocked.get(worker, 0.0) + _CLOCKED:
            self._clocked[worker], self._worked[worker] = now, time.thread_time()

    def ran(self, worker: int, seconds: float) -> None:
        """A worker's runner is back, and has used so many CPU seconds since it began."""
        self._worked[worker] = time.thread_time()
        self._worked[~worker] = max(self._worked.get(~worker, 0.0), seconds)

    @property
    def worked(self) -> float:
        """CPU seconds of all of them."""
        return sum(list(self._worked.values()))  # copied at once: workers go on counting

    def grows(self, now: float, landed: int, busy: int) -> bool:
        """Judge whether more workers bring more, `landed` bytes into the run with `busy` at work:
        whether more are allowed from now on."""
        before = self.allowed
        self._crowd.look(now, landed, busy, self.worked)
        return self.allowed > before

    def refused(self, error: SegdlError, now: float) -> None:
        """A host is down or busy: where it says that it is too much, fewer are allowed."""
        if error.status in (429, 503):
            self._crowd.refused(now)
