"""A runner's own process, which `engine.runner` starts.

The parts are those of any target (`Connection`, `Task`, `Delivery`), and so are the steps; several
drafts are flushed and named together. It holds nothing but files without a name: a kill leaves
nothing of them, and a runner ends with whom it runs for.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection as Channel
from pathlib import Path
from types import FrameType
from typing import NoReturn

from segdl.core.dataclass import dataclass
from segdl.core.errors import BrokenError, MisansweredError, SegdlError, attempted
from segdl.core.manifest import Target
from segdl.core.pace import StallWatch
from segdl.core.report import Receipt
from segdl.core.timeline import Exchange, exchange
from segdl.edges.transport import Answer, Connection
from segdl.edges.workspace import Workspace
from segdl.engine.delivery import Delivery
from segdl.engine.runner import READY, Brief, Done, Reply
from segdl.engine.task import DRAFT, Task

_PR_SET_PDEATHSIG = 1  # of prctl(2)
_LINGER = 1.0  # seconds that a connection is kept while nothing is to be done


class _NoReceipts:
    def append(self, *receipts: Receipt) -> None:
        """Receipts are the worker's to keep."""


@dataclass(slots=True)
class _Fetched:
    """A draft that is complete."""

    task: Task
    request: Exchange
    answer: Answer
    seconds: float


class _Runner:
    """The runner's own side."""

    def __init__(self, brief: Brief) -> None:
        self._brief = brief
        self._workspace = Workspace(Path(f"/proc/self/fd/{brief.root}"), drafts=True)
        self._delivery = Delivery(self._workspace, _NoReceipts(), overwrite=False)
        self._connection = Connection(brief.reach, self._interrupted)
        self._buffer = memoryview(bytearray(DRAFT))
        self._recalled = False
        self._landed = 0

    def serve(self, channel: Channel) -> NoReturn:
        """Errands in, replies out. Raises EOFError when there is nobody left to run for."""
        signal.signal(signal.SIGTERM, self._recall)
        # Whom it runs for may block it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _end_with_parent()
        channel.send(READY)
        while True:
            while not channel.poll(_LINGER):
                self._connection.hang_up()
                self._require_parent()
            reply = self._run(channel.recv())
            self._recalled = False
            channel.send(reply)

    def _require_parent(self) -> None:
        """Raises EOFError when whom it runs for has gone, whoever may still hold the channel."""
        if os.getppid() != self._brief.parent:
            raise EOFError

    def _recall(self, number: int, frame: FrameType | None) -> None:
        self._recalled = True

    def _interrupted(self) -> bool:
        return self._recalled

    def _run(self, targets: Sequence[Target]) -> Reply:
        self._landed = 0
        fetched: list[_Fetched] = []
        with self._workspace.staying():
            for target in targets:
                task = Task(target, self._workspace, self._brief.segment_size)
                found = attempted(self._fetch, task)
                if isinstance(found, SegdlError):
                    _let_go(task)
                    break
                fetched.append(found)
        with self._workspace.staying():  # a folder may have moved while bytes came
            done = attempted(self._deliver, fetched)
        for each in fetched:
            _let_go(each.task)
        kept = () if isinstance(done, SegdlError) else done
        if not targets or len(kept) < len(targets) or None in kept:
            self._connection.hang_up()  # the worker goes on, with a connection of its own
        return Reply(kept, self._landed, time.process_time())

    def _fetch(self, task: Task) -> _Fetched:
        """Raises SegdlError or OSError for whatever is not as it should be."""
        url, size = task.urls[0], task.target.size
        assert size is not None
        if self._delivery.in_the_way(task.target):
            raise MisansweredError("something is in the way")
        at, began = time.time(), time.monotonic()
        answer = self._connection.open(url, task.pinning.ask(0, size, 0))
        try:
            span, spent = (0, size), time.monotonic() - began
            name, heard = task.target.path, self._connection.heard
            request = exchange(url, span, name, self._brief.number, (at, spent), heard, None)
            self._take(task, answer)
        finally:
            answer.close()
        return _Fetched(task, request, answer, time.monotonic() - began)

    def _take(self, task: Task, answer: Answer) -> None:
        if answer.accepted.whole:
            raise MisansweredError("the server ignores Range")
        task.admit(answer.accepted)
        part = task.window(0, task.epoch)
        if part is None or not task.draft:
            raise MisansweredError("it is no draft")
        data = self._buffer[: part.limit - part.reached]
        self._receive(answer, data)
        part.write(data)
        task.commit(part, task.epoch)

    def _receive(self, answer: Answer, data: memoryview) -> None:
        """All of it before any is written: what a kill leaves of a draft is nothing anyhow."""
        watch, filled = StallWatch(self._brief.reach.timeout), 0
        while filled < len(data):
            count: int | None = None
            with suppress(TimeoutError):
                count = answer.readinto(data[filled:])
            if count == 0:
                raise BrokenError("the body ended before the target")
            filled += count or 0
            self._landed += count or 0
            if self._interrupted() or watch.stalled(time.monotonic(), filled):
                raise BrokenError("it takes too long")

    def _deliver(self, fetched: Sequence[_Fetched]) -> tuple[Done | None, ...]:
        """Verify, flush and name what is complete; None for what is not well. Raises OSError."""
        for each in fetched:
            each.task.front.advance(each.task.files, lambda number: None)
        self._require_parent()
        receipts = self._delivery.deliver_drafts([each.task for each in fetched])
        done: list[Done | None] = []
        for each, receipt in zip(fetched, receipts, strict=True):
            if isinstance(receipt, SegdlError):
                done.append(None)
                continue
            quota = each.answer.accepted.quota
            date = None if done else each.answer.date
            done.append(Done(receipt, each.seconds, each.request, quota, date))
        return tuple(done)


def _end_with_parent() -> None:
    """Have the kernel say SIGTERM when the thread that started this process has gone, where it can:
    an errand whose worker was killed then ends at once."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _let_go(task: Task) -> None:
    task.over = True
    task.close_if_over()


def main() -> NoReturn:
    """Run for whoever is at the other end of the descriptor that the first argument names."""
    channel = Channel(int(sys.argv[1]))
    code = 0
    try:
        _Runner(channel.recv()).serve(channel)
    except (EOFError, OSError):
        pass
    except BaseException:
        code = 1
    os._exit(code)
