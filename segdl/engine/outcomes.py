"""What becomes of each target: it is known, begins anew, waits for a link, fails or is delivered.

What the schedule decides of a target is done here to its task, kept for the report, and told as
events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from segdl.core import events
from segdl.core.errors import DigestError, SegdlError, StoppedError, disk_error
from segdl.core.manifest import Manifest, Target
from segdl.core.renewal import Renewed, same_file
from segdl.core.report import LeftOut, Receipt
from segdl.core.runway import last_end
from segdl.core.schedule import Schedule
from segdl.core.urls import ShareURL
from segdl.core.work import Again, Decision, Fetch, GiveUp, Ignore, Pause, Restart, Work
from segdl.engine.bell import Bell
from segdl.engine.stakes import Stakes
from segdl.engine.tally import Tally
from segdl.engine.task import Task

Emit = Callable[[events.Event], None]


class Outcomes:
    """What came of the targets of one run, under the desk's lock. Every method is thread-safe."""

    def __init__(
        self,
        bell: Bell,
        schedule: Schedule,
        targets: list[Target],
        tasks: dict[int, Task],
        stakes: Stakes,
        emit: Emit,
    ) -> None:
        self.tally = Tally(targets)
        self.receipts: dict[int, Receipt] = {}
        self.recognised: set[str] = set()  # paths that were there, without a receipt
        self.failures: dict[int, SegdlError] = {}
        self.left_out: dict[tuple[str, str], LeftOut] = {}  # mirrors, by host and cause
        self._put_off: dict[int, Target] = {}  # with fresh links of other objects
        self._bell = bell
        self._schedule = schedule
        self._targets = targets
        self._tasks = tasks
        self._stakes = stakes
        self._emit = emit

    # -- known -----------------------------------------------------------------------------------

    def looked(self, job: int, task: Task) -> None:
        """What was on disk of a target, here or elsewhere, is known."""
        if task.offered:
            with self._bell.lock:
                self._schedule.learn(job, task.layout.count, task.front.held)
                self._bell.change.notify_all()
        self.started(job, task)

    def started(self, job: int, task: Task) -> None:
        """It is known what a target is."""
        self.tally.learn(job, task.target, task.layout.size)
        etag = task.pin.etag if task.pin else None
        self._emit(
            events.TargetStarted(
                target=task.target.path, size=task.layout.size, etag=etag, held=task.present()
            )
        )

    def lost(self, job: int, segment: int) -> None:
        """A segment that was held is not what its record said."""
        with self._bell.lock:
            self._schedule.lost(job, segment)
            self._bell.change.notify_all()

    # -- delivered -------------------------------------------------------------------------------

    def delivered_before(self, job: int, receipt: Receipt) -> None:
        """A target was delivered by an earlier run."""
        self.receipts[job] = receipt
        self._count(job, receipt)

    def delivered(self, job: int, task: Task, receipt: Receipt, *, fetched: bool) -> None:
        """A target is delivered, or was there already."""
        with self._bell.lock:
            if not fetched and not task.brought:
                self.recognised.add(receipt.path)
            self.received(job, receipt)
            del self._tasks[job]
            task.over = True
            self._bell.ring()
        self._emit(target_done(receipt, time.monotonic() - task.began, fetched=fetched))

    def received(self, job: int, receipt: Receipt) -> None:
        """There is a receipt of a target. The caller holds the lock."""
        self.receipts[job] = receipt
        self._count(job, receipt)
        self.failures.pop(job, None)
        self._schedule.delivered(job)

    def _count(self, job: int, receipt: Receipt) -> None:
        self.tally.delivered += receipt.size
        self.tally.learn(job, self._targets[job], receipt.size)

    def present(self) -> int:
        """Bytes of the order that are on disk, delivered or held."""
        with self._bell.lock:
            under_way = list(self._tasks.values())
            return self.tally.delivered + sum(task.present() for task in under_way)

    # -- decided ---------------------------------------------------------------------------------

    def act(self, work: Work, error: SegdlError, decision: Decision) -> None:
        """Do what the schedule decided on failed work. The caller holds the lock."""
        match decision:
            case Again(wait, host) if host is not None:
                self._emit(events.Throttled(host=host, wait=round(wait, 3), message=error.message))
            case Again(left=str() as left) if isinstance(work, Fetch):
                self._leave_out(work, left, error)
            case Again(wait) if isinstance(work, Fetch):
                self.tell_retry(work, error, wait)
            case Restart(wait) if isinstance(work, Fetch):
                self.tell_retry(work, error, wait)
                self._restart(work.job, wait)
            case Pause():
                self._pause(work.job, error)
            case GiveUp(jobs, final):
                for job in jobs:
                    self._fail(job, final)
            case Ignore():
                pass

    def condemn(self, job: int, task: Task, error: DigestError) -> None:
        """The whole is not what the manifest says: fetch it again once, then give up."""
        with self._bell.lock:
            if brought := task.forget_brought():
                for segment in brought:
                    self._schedule.lost(job, segment)
                return
            if task.pinning.condemned > len(task.urls) or not self._schedule.condemn(job):
                self._schedule.over(job)
                self._fail(job, error)
                return
            task.pinning.condemned += 1
            self._restart(job, 0.0)

    def _leave_out(self, work: Fetch, host: str, error: SegdlError) -> None:
        """A target goes on without one of its mirrors: that is told, and stands in the report."""
        path = self._targets[work.job].path
        mirror = self.left_out.get((host, error.cause))
        if mirror is None:
            mirror = LeftOut(host, error.cause, error.message, path, 0)
        self.left_out[host, error.cause] = replace(mirror, targets=mirror.targets + 1)
        self._emit(events.MirrorLeft(target=path, host=host, **events.trouble(error)))

    def _restart(self, job: int, wait: float) -> bool:
        """Begin a target again from nothing; False if the disk does not let it, and it is over."""
        task = self._tasks[job]
        try:
            task.restart()
        except OSError as error:
            self._schedule.over(job)
            self._fail(job, disk_error(error))
            return False
        self._schedule.restarted(job, task.layout.count, time.monotonic() + wait)
        self._bell.change.notify_all()
        return True

    def _pause(self, job: int, error: SegdlError) -> None:
        path = self._targets[job].path
        self.failures[job] = error.with_traceback(None)  # all may pause: none may cost a stack
        if (task := self._tasks.get(job)) is not None and task.blank:
            del self._tasks[job]
        self._emit(events.UrlExpired(target=path, **events.trouble(error)))
        self._emit(events.TargetPaused(target=path, cause=error.cause))

    def _fail(self, job: int, error: SegdlError) -> None:
        self.failures[job] = error
        self._stakes.drop(job)
        if (task := self._tasks.get(job)) is not None:
            task.over = True
        self.tell_failure(self._targets[job], error)

    # -- taken up again --------------------------------------------------------------------------

    def retry_failed(self) -> None:
        """Take up the targets that failed, while the run lasts."""
        with self._bell.lock:
            for job in list(self.failures):
                self._take_up(job)
            self._bell.ring()

    def _take_up(self, job: int) -> None:
        """Go on with a target that failed."""
        del self.failures[job]
        if (task := self._tasks.get(job)) is not None:
            task.over, task.pinning.condemned = False, 0
        self._schedule.reopen(job)

    def refresh(self, manifest: Manifest) -> Renewed:
        """Fresh URLs for the targets that are the same files. The caller holds the lock."""
        fresh = {target.path: target for target in manifest.targets}
        taken = same = lacking = delivered = 0
        for job, target in enumerate(self._targets):
            other = fresh.pop(target.path, None)
            if other is not None:
                self._put_off.pop(job, None)
            if job in self.receipts:
                delivered += other is not None
            elif other is None or not same_file(target, self._size(job), other):
                lacking += 1
            elif other.urls == target.urls:
                same += 1
            else:
                self._renew(job, target, other)
                taken += 1
        self._schedule.replace_untouched(
            lambda job: hosts_of(self._targets[job].urls),
            lambda job: last_end(self._targets[job].urls),
        )
        return Renewed(taken, same, lacking, delivered, other=len(fresh))

    def _size(self, job: int) -> int | None:
        task = self._tasks.get(job)
        return task.layout.size if task else self._targets[job].size

    def _renew(self, job: int, target: Target, other: Target) -> None:
        task = self._tasks.get(job)
        if task and self._schedule.is_merging(job) and not task.pinning.is_of(other.urls):
            self._put_off[job] = other  # to begin again would take away what is being delivered
            return
        self._targets[job] = replace(target, urls=other.urls)
        if task is not None and not task.relink(other.urls) and not self._restart(job, 0.0):
            return
        resumed = self._schedule.replace_hosts(job, hosts_of(other.urls), last_end(other.urls))
        if resumed:
            del self.failures[job]
        elif job in self.failures:
            self._take_up(job)
            resumed = True
        if resumed:
            self._emit(events.TargetResumed(target=target.path))

    def merged(self, job: int) -> None:
        """No merger is at a target any more. The caller holds the lock."""
        other = self._put_off.pop(job, None)
        if other is not None and job not in self.receipts:
            self._renew(job, self._targets[job], other)

    # -- told ------------------------------------------------------------------------------------

    def tell_retry(self, work: Fetch, error: SegdlError, wait: float) -> None:
        """The event of a segment that will be tried again."""
        self._emit(
            events.Retry(
                target=self._targets[work.job].path,
                segment=work.segment,
                wait=round(wait, 3),
                **events.trouble(error),
            )
        )

    def tell_segment(self, work: Fetch, length: int, seconds: float) -> None:
        """The event of a segment that is committed."""
        self._emit(
            events.SegmentDone(
                target=self._targets[work.job].path,
                segment=work.segment,
                bytes=length,
                seconds=round(seconds, 3),
            )
        )

    def tell_failure(self, target: Target, error: SegdlError) -> None:
        """The event of a target that will not be delivered in this run."""
        self._emit(events.TargetFailed(target=target.path, **events.trouble(error)))

    def unfinished(self, *, stopped: bool) -> dict[int, SegdlError]:
        """Every target that was not delivered, with the reason."""
        if not stopped:
            return dict(self.failures)
        error = StoppedError("stopped before it was complete: run again to go on")
        missing = {n: error for n in range(len(self._targets)) if n not in self.receipts}
        return missing | self.failures


def target_done(receipt: Receipt, seconds: float, *, fetched: bool) -> events.TargetDone:
    """The event of a target that is delivered."""
    return events.TargetDone(
        target=receipt.path,
        size=receipt.size,
        seconds=round(seconds, 3),
        digests=receipt.digests,
        grade=receipt.grade,
        fetched=fetched,
    )


def hosts_of(urls: tuple[ShareURL, ...]) -> tuple[str, ...]:
    """A host for each mirror."""
    return tuple(url.netloc for url in urls)
