"""A merger: one thread without a connection. It merges, hashes and delivers what workers commit.

So no connection waits for a digest, a copy or a flush, and digests of different targets are taken
on all cores at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from segdl.core.errors import DigestError, SegdlError, StoppedError, attempted
from segdl.core.report import Receipt
from segdl.core.work import Merge
from segdl.engine.delivery import Delivery
from segdl.engine.desk import Desk
from segdl.engine.salvage import Salvage
from segdl.engine.task import Task


class Merger(threading.Thread):
    """One thread that takes merges, until there is no more work."""

    def __init__(
        self,
        number: int,
        desk: Desk,
        delivery: Delivery,
        salvage: Salvage,
        leave: Callable[[], None],
    ) -> None:
        """`leave` is called last of all, in the merger's own thread."""
        super().__init__(name=f"segdl-merger-{number}", daemon=True)
        self._desk = desk
        self._delivery = delivery
        self._salvage = salvage
        self._leave = leave

    def run(self) -> None:
        try:
            while works := self._desk.next_merges():
                self._do(works)
        except BaseException as error:
            self._desk.crashed(error)
        finally:
            self._leave()

    def _do(self, works: Sequence[Merge]) -> None:
        with ExitStack() as in_use:
            pairs = [(work, self._desk.tasks[work.job]) for work in works]
            for _, task in pairs:
                in_use.enter_context(task.in_use())
            complete = [(work, task) for work, task in pairs if self._advance(work, task)]
            others = [(work, task) for work, task in complete if not task.draft]
            # A draft that is condemned begins anew, and is none any more: so `others` comes first.
            self._deliver_drafts([(work, task) for work, task in complete if task.draft])
            for work, task in others:
                self._settle(work, task, attempted(self._delivery.deliver, task))

    def _advance(self, work: Merge, task: Task) -> bool:
        """Look at what is on disk, move the front; True if that was the end of its target."""
        complete = attempted(self._complete, work, task)
        if isinstance(complete, SegdlError):
            self._desk.merge_failed(work, complete)
            return False
        if not complete:
            self._desk.merged(work)
        return complete

    def _complete(self, work: Merge, task: Task) -> bool:
        if (task.unseen and not self._look(work, task)) or task.pin is None:
            return False
        stopped = _never if task.draft else self._desk.is_stopped
        return task.front.advance(task.files, partial(self._desk.outcomes.lost, work.job), stopped)

    def _look(self, work: Merge, task: Task) -> bool:
        """Whether to go on with a target of which something was on disk before this run."""
        try:
            receipt = self._delivery.examine(task, self._desk.is_stopped)
            if receipt is None:
                self._delivery.require_room(task)
                self._salvage.plant(task, self._desk.is_stopped)
        except StoppedError:
            return False  # the run ends, and says so of every target that is left
        task.unseen = False
        if receipt is not None:
            self._desk.outcomes.delivered(work.job, task, receipt, fetched=False)
        elif task.pin is not None:
            self._desk.outcomes.looked(work.job, task)
        return receipt is None

    def _deliver_drafts(self, drafts: Sequence[tuple[Merge, Task]]) -> None:
        if not drafts:
            return
        outcomes = attempted(self._delivery.deliver_drafts, [task for _, task in drafts])
        if isinstance(outcomes, SegdlError):
            outcomes = [outcomes] * len(drafts)
        for (work, task), outcome in zip(drafts, outcomes, strict=True):
            self._settle(work, task, outcome)

    def _settle(self, work: Merge, task: Task, outcome: Receipt | SegdlError) -> None:
        """What becomes of a target that was to be delivered."""
        match outcome:
            case Receipt():
                fetched = not task.brought or task.brought < outcome.size
                self._desk.outcomes.delivered(work.job, task, outcome, fetched=fetched)
            case DigestError():
                self._desk.outcomes.condemn(work.job, task, outcome)
            case error:
                self._desk.merge_failed(work, error)
                return
        self._desk.merged(work)


def _never() -> bool:
    return False
