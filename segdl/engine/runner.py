"""A runner, as its worker sees it: a process that does errands (`engine.running`).

It costs a start of the interpreter, for which the worker waits a little: it would only be in its
way. Where a runner takes longer, cannot be started, or dies, the worker does everything itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from segdl.core.dataclass import dataclass
from segdl.core.manifest import Target
from segdl.core.report import Receipt
from segdl.core.timeline import Exchange
from segdl.core.traffic import Quota
from segdl.edges.cores import cores
from segdl.edges.transport import Reach
from segdl.edges.workspace import Workspace
from segdl.engine.stakes import MOST_OPEN

READY = "ready"
# Nearly all that a start makes stays: collections would take a tenth of it.
_START = "import gc; gc.set_threshold(50_000); from segdl.engine.running import main; main()"
_START_UP = 0.5  # seconds that a worker waits for its runner
_LOOK = 0.1  # seconds between two looks whether an errand is still wanted
_SHORT, _LONG = 0.1, 0.4  # seconds: the next errand is larger, or smaller
_GRACE = 3.0  # seconds from the recall of an errand until its runner is killed


@dataclass(frozen=True, slots=True)
class Brief:
    """What a runner is told first."""

    parent: int  # the process that it runs for
    number: int  # the worker's there
    root: int  # the output directory, an open descriptor
    segment_size: int | None
    reach: Reach


@dataclass(frozen=True, slots=True)
class Done:
    """A target that is delivered, but for its receipt, which is to be kept."""

    receipt: Receipt
    seconds: float
    request: Exchange
    quota: Quota | None  # what the answer said of it
    date: float | None  # and of the server's clock, in unix seconds


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of an errand: for each of its targets, unless that is as it was (None)."""

    done: tuple[Done | None, ...]
    landed: int  # bytes from the network
    worked: float  # CPU seconds, since the runner began


def can_run() -> bool:
    """Whether this interpreter can be started again, and there is a core for it."""
    frozen = getattr(sys, "frozen", False)
    told = not any(os.pathsep in place for place in _places())  # by PYTHONPATH, which splits there
    return bool(sys.executable) and not frozen and told and cores() > 1


def _places() -> list[str]:
    """Where modules come from: what is no text is passed over by imports as well."""
    return [place for place in sys.path if isinstance(place, str)]


class Runner:
    """One process, from `start` to `close`. For one thread."""

    def __init__(
        self, number: int, workspace: Workspace, segment_size: int | None, reach: Reach
    ) -> None:
        """`number` is the worker's; `segment_size` is what is asked for, in bytes."""
        self._brief = Brief(os.getpid(), number, workspace.root, segment_size, reach)
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._connected = False  # perhaps
        self._most = 1  # targets of the next errand

    def start(self) -> None:
        """Start the process, if that can be done, and wait a moment until it is ready."""
        with suppress(OSError), ExitStack() as failed:
            self._start(failed)
            failed.pop_all()

    def _start(self, failed: ExitStack) -> None:
        from multiprocessing.connection import Pipe  # costs what few orders are to pay

        places = [place or str(Path.cwd()) for place in _places()]
        self._channel, theirs = Pipe()
        failed.callback(self._channel.close)
        command = [sys.executable, "-P", "-c", _START, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
                pass_fds=(theirs.fileno(), self._brief.root),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the worker to act on
            )
        failed.callback(self.close)
        self._channel.send(self._brief)
        self._channel.poll(_START_UP)

    def takes(self) -> int:
        """How many targets the next errand may have by now; 0 where there is no runner."""
        if self._process is None:
            return 0
        if not self._ready and self._channel.poll():
            self._ready = self._heard() == READY
            if not self._ready:
                self.close()
        return self._most if self._ready else 0

    def run(self, targets: Sequence[Target], wanted: Callable[[], bool]) -> Reply:
        """Have an errand done; it ends early once it is not `wanted`."""
        began = time.monotonic()
        reply = self._ask(targets, wanted)
        if not isinstance(reply, Reply):
            self.close()
            return Reply((), 0, 0.0)
        self._connected = bool(targets)
        if targets:
            well = len(reply.done) == len(targets) and None not in reply.done
            self._learn(time.monotonic() - began, well=well)
        return reply

    def hang_up(self, wanted: Callable[[], bool]) -> None:
        """Have it close the connection that it keeps: its worker is to open one."""
        if self._process is not None and self._connected:
            self.run((), wanted)

    def _ask(self, targets: Sequence[Target], wanted: Callable[[], bool]) -> object:
        """What comes of an errand; None from a runner that has died, or hears nothing."""
        try:
            self._channel.send(tuple(targets))
        except OSError:
            return None
        return self._heard() if self._await(wanted) else None

    def _await(self, wanted: Callable[[], bool]) -> bool:
        """Wait for an answer: whether there is one. The errand is recalled once: signal after
        signal would begin a wait of the runner's anew."""
        assert self._process is not None
        recalled: float | None = None
        while not self._channel.poll(_LOOK):
            now = time.monotonic()
            if recalled is None and not wanted():
                recalled = now
                self._process.terminate()
            late = recalled is not None and now - recalled > _GRACE
            if late or self._process.poll() is not None:
                return self._channel.poll()
        return True

    def _heard(self) -> object:
        """What the process says, which has begun to; None if it is gone, or makes no sense."""
        try:
            return self._channel.recv()
        except Exception:  # unpickling raises whatever it likes
            return None

    def _learn(self, seconds: float, *, well: bool) -> None:
        """Errands are short, so that what is there can be told, and small after trouble."""
        if not well:
            self._most = 1
        elif seconds < _SHORT:
            self._most = min(2 * self._most, MOST_OPEN)
        elif seconds > _LONG:
            self._most = max(self._most // 2, 1)

    def close(self) -> None:
        """End the process, at once: it holds nothing that is worth a wait."""
        process, self._process = self._process, None
        if process is None:
            return
        self._channel.close()
        process.kill()
        process.wait()
