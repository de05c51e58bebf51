"""The desk between the schedule and the workers: hands work out, takes results in.

Everything that workers share is here, behind one condition: the schedule, what came of each
target, the rate limit, and whether the run pauses or stops. What the schedule decides is acted on
here, and told as events. Steering from outside (`control`) ends here too.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial

from segdl.core import events
from segdl.core.errors import DigestError, DiskFullError, ExitCode, SegdlError, StoppedError
from segdl.core.manifest import Manifest, Target
from segdl.core.options import Options, RateLimit
from segdl.core.pace import Bucket, Crowd
from segdl.core.report import Receipt
from segdl.core.schedule import (
    Again,
    Decision,
    Fetch,
    Finished,
    GiveUp,
    Ignore,
    Pause,
    Recheck,
    Restart,
    Schedule,
    Wait,
    Work,
)
from segdl.core.urls import ShareURL
from segdl.engine.delivery import Delivery
from segdl.engine.task import Task

Emit = Callable[[events.Event], None]


class Desk:
    """What the workers of one run share. Every method is thread-safe."""

    def __init__(self, options: Options, delivery: Delivery, emit: Emit) -> None:
        self.tasks: dict[int, Task] = {}
        self.receipts: dict[int, Receipt] = {}
        self.recognised: set[str] = set()  # paths that were there, without a receipt
        self.failures: dict[int, SegdlError] = {}
        self.busy: dict[int, Fetch] = {}  # worker: what it fetches
        self.landed = 0  # bytes from the network in this run
        self.stopped: ExitCode | None = None
        self.crash: BaseException | None = None
        self._schedule = Schedule(
            retries=options.retries, patience=options.patience, chance=random.random
        )
        self._delivery = delivery
        self._emit = emit
        self._change = threading.Condition()
        self._bucket = Bucket()
        self._fixed = options.connections
        self._crowd = Crowd()
        self._finished = False
        self._limit = options.limit_rate
        self._paused = False

    def enter(self, number: int, task: Task, *, recheck: bool) -> None:
        """Put a target into the schedule. `recheck`: something of it is on disk already."""
        pinned = task.pin is not None
        self.tasks[number] = task
        self._schedule.add(
            number,
            _hosts(task.urls),
            task.layout.count,
            task.front.held,
            pinned=pinned,
            recheck=recheck or pinned,
            epoch=task.epoch,
        )

    # -- work out --------------------------------------------------------------------------------

    def next_work(
        self, worker: int, current: int | None, hang_up: Callable[[], None]
    ) -> Work | None:
        """The next work for a worker, waited for; None when the run is over for it.

        `hang_up` is called before a pause, which may be long.
        """
        with self._change:
            while self.stopped is None and not self._finished:
                spare = worker >= self.allowed and not self._schedule.owns(worker)
                if self._paused or spare:
                    hang_up()
                    self._change.wait()
                    continue
                now = time.monotonic()
                match self._schedule.take(worker, now, current):
                    case Finished():
                        self._finished = True
                        self._change.notify_all()
                    case Wait(until):
                        self._change.wait(None if until is None else max(until - now, 0.0))
                    case Fetch() as work:
                        self.busy[worker] = work
                        return work
                    case Recheck() as work:
                        return work
            return None

    @property
    def allowed(self) -> int:
        """How many workers may be at work now."""
        return self._fixed or self._crowd.allowed

    def look(self) -> None:
        """Let `auto` judge whether more connections bring more. Called now and then."""
        if self._fixed is None:
            with self._change:
                before = self.allowed
                if self._crowd.look(time.monotonic(), self.landed, len(self.busy)) > before:
                    self._change.notify_all()

    def wanted(self, work: Work) -> bool:
        """Whether to go on with work under way."""
        return self.stopped is None and not self._paused and self._schedule.current(work)

    def landed_more(self, count: int) -> float:
        """Bytes came; the seconds to hold back for, by the rate limit."""
        with self._change:
            self.landed += count
            rate = self._limit.at(datetime.now().time())
            return self._bucket.take(time.monotonic(), count, rate)

    def rest(self, seconds: float) -> None:
        """Hold back for a while, or until something changes that may concern everybody."""
        with self._change:
            deadline, limit = time.monotonic() + seconds, self._limit
            while self.stopped is None and self._limit is limit:
                if (left := deadline - time.monotonic()) <= 0:
                    return
                self._change.wait(left)

    # -- results in ------------------------------------------------------------------------------

    def answered(self, worker: int, work: Fetch) -> None:
        """The host gave an answer that was believed."""
        with self._change:
            self._schedule.answered(work, worker)
            self._change.notify_all()
        self.tasks[work.job].proven = True

    def admitted(self, worker: int, work: Fetch) -> None:
        """The probe was answered, and the target is pinned: other workers may join."""
        task = self.tasks[work.job]
        self._delivery.require_room(task)
        with self._change:
            self._schedule.learn(work.job, task.layout.count)
            if task.whole:
                self._schedule.dedicate(work.job, worker)
            self._change.notify_all()
        self._started(task)

    def _started(self, task: Task) -> None:
        etag = task.pin.etag if task.pin else None
        self._emit(
            events.TargetStarted(
                target=task.target.path, size=task.layout.size, etag=etag, held=task.present()
            )
        )

    def segment_done(self, work: Fetch, length: int, seconds: float) -> None:
        """A segment is committed: move the front, and deliver if that was the last."""
        task = self.tasks[work.job]
        self._emit(
            events.SegmentDone(
                target=task.target.path,
                segment=work.segment,
                bytes=length,
                seconds=round(seconds, 3),
            )
        )
        self.advance(work)

    def recheck(self, work: Recheck) -> None:
        """Look at what is on disk already: the target itself, or what an index holds of it."""
        task = self.tasks[work.job]
        try:
            receipt = self._delivery.examine(task, self._is_stopped)
        except StoppedError:
            return  # the run ends, and says so of every target that is left
        if receipt is not None:
            self._delivered(work.job, receipt, fetched=False)
        elif task.pin is not None:
            self._delivery.require_room(task)
            self._started(task)
            self.advance(work)

    def advance(self, work: Work) -> None:
        """Move a target's front; deliver it if that was the end. Raises OSError, SegdlError."""
        task = self.tasks[work.job]
        lost = partial(self._lost, work.job)
        if not task.front.advance(task.files, lost, self._is_stopped):
            return
        try:
            receipt = self._delivery.deliver(task)
        except DigestError as error:
            self._condemn(work.job, task, error)
        except BaseException:
            task.front.undo_completion()
            raise
        else:
            self._delivered(work.job, receipt, fetched=True)

    def _condemn(self, job: int, task: Task, error: DigestError) -> None:
        """The whole is not what the manifest says: fetch it again once, then give up."""
        with self._change:
            if task.condemned:
                task.front.undo_completion()
                self._schedule.over(job)
                self._fail(job, error)
            else:
                task.condemned = True
                self._restart(job, 0.0)

    def _is_stopped(self) -> bool:
        return self.stopped is not None

    def _lost(self, job: int, segment: int) -> None:
        with self._change:
            self._schedule.lost(job, segment)
            self._change.notify_all()

    def _delivered(self, job: int, receipt: Receipt, *, fetched: bool) -> None:
        task = self.tasks[job]
        with self._change:
            self.receipts[job] = receipt
            if not fetched:
                self.recognised.add(receipt.path)
            self.failures.pop(job, None)
            self._schedule.over(job)
            task.over = True
            self._change.notify_all()
        self._emit(
            events.TargetDone(
                target=receipt.path,
                size=receipt.size,
                seconds=round(time.monotonic() - task.began, 3),
                digests=receipt.digests,
                grade=receipt.grade,
                fetched=fetched,
            )
        )

    def done(self, worker: int, work: Work) -> None:
        """The work is over."""
        with self._change:
            self.busy.pop(worker, None)
            self._schedule.done(work, worker)
            self._change.notify_all()

    def dropped(self, worker: int, work: Work) -> None:
        """The work was given back as it was."""
        with self._change:
            self.busy.pop(worker, None)
            self._schedule.release(work, worker)
            self._change.notify_all()

    def failed(self, worker: int, work: Work, error: SegdlError, *, progress: bool) -> None:
        """The work failed: the schedule decides what becomes of it."""
        if isinstance(error, DiskFullError) and error.missing is None:
            error = self._delivery.no_room(self.tasks[work.job], error.message)
        with self._change:
            self.busy.pop(worker, None)
            if progress and isinstance(work, Fetch):
                self._schedule.progressed(work)
            decision = self._schedule.settle(work, worker, error, time.monotonic())
            self._act(work, error, decision)
            self._change.notify_all()

    def crashed(self, error: BaseException) -> None:
        """A worker met what nobody expected: the run ends cleanly."""
        with self._change:
            self.crash = self.crash or error
            self.stopped = self.stopped or ExitCode.MIXED
            self._change.notify_all()

    # -- decisions -------------------------------------------------------------------------------

    def _act(self, work: Work, error: SegdlError, decision: Decision) -> None:
        match decision:
            case Again(wait, host) if host is not None:
                if error.status in (429, 503):
                    self._crowd.refused(time.monotonic())
                self._emit(events.Throttled(host=host, wait=round(wait, 3), message=error.message))
            case Again(wait) if isinstance(work, Fetch):
                self._tell_retry(work, error, wait)
            case Restart(wait) if isinstance(work, Fetch):
                self._tell_retry(work, error, wait)
                self._restart(work.job, wait)
            case Pause():
                self._pause_target(work.job, error)
            case GiveUp(jobs, final):
                for job in jobs:
                    self._fail(job, final)
            case Ignore():
                pass

    def _tell_retry(self, work: Fetch, error: SegdlError, wait: float) -> None:
        self._emit(
            events.Retry(
                target=self.tasks[work.job].target.path,
                segment=work.segment,
                cause=error.cause,
                message=error.message,
                wait=round(wait, 3),
                request_id=error.request_id,
            )
        )

    def _restart(self, job: int, wait: float) -> None:
        task = self.tasks[job]
        with self._change:
            task.restart()
            self._schedule.restarted(job, task.layout.count, time.monotonic() + wait)
            self._change.notify_all()

    def _pause_target(self, job: int, error: SegdlError) -> None:
        path = self.tasks[job].target.path
        self.failures[job] = error
        self._emit(
            events.UrlExpired(target=path, message=error.message, request_id=error.request_id)
        )
        self._emit(events.TargetPaused(target=path, cause=error.cause))

    def _fail(self, job: int, error: SegdlError) -> None:
        task = self.tasks[job]
        self.failures[job] = error
        task.over = True
        self.tell_failure(task.target, error)

    def tell_failure(self, target: Target, error: SegdlError) -> None:
        """The event of a target that will not be delivered in this run."""
        self._emit(
            events.TargetFailed(
                target=target.path,
                cause=error.cause,
                code=error.code,
                status=error.status,
                message=error.message,
                request_id=error.request_id,
            )
        )

    # -- steering --------------------------------------------------------------------------------

    def stop(self, code: ExitCode) -> None:
        """End the run; what is under way is kept."""
        with self._change:
            self.stopped = self.stopped or code
            self._change.notify_all()

    def set_paused(self, paused: bool) -> None:
        """Stop fetching, or go on."""
        with self._change:
            self._paused = paused
            self._change.notify_all()

    def set_limit(self, limit: RateLimit) -> None:
        with self._change:
            self._limit = limit
            self._change.notify_all()

    def retry_failed(self) -> None:
        """Take up the targets that failed, while the run lasts."""
        with self._change:
            for job in [job for job in self.failures if job in self.tasks]:
                task = self.tasks[job]
                del self.failures[job]
                task.over = task.condemned = False
                self._schedule.reopen(job)
            self._change.notify_all()

    def refresh(self, manifest: Manifest) -> int:
        """Fresh URLs for the targets of the same object, or of the same path and size."""
        fresh = {target.path: target for target in manifest.targets}
        taken = 0
        with self._change:
            for job, task in self.tasks.items():
                other = fresh.get(task.target.path)
                if other is None or job in self.receipts:
                    continue
                if other.size is not None and task.layout.size not in (None, other.size):
                    continue
                taken += 1
                task.urls = other.urls
                resumed = self._schedule.replace_hosts(job, _hosts(other.urls))
                if self.failures.pop(job, None) is not None and not resumed:
                    task.over = task.condemned = False
                    resumed = True
                    self._schedule.reopen(job)
                if resumed:
                    self._emit(events.TargetResumed(target=task.target.path))
            self._change.notify_all()
        return taken

    def unfinished(self) -> dict[int, SegdlError]:
        """Every target that was not delivered, with the reason."""
        stopped = StoppedError("stopped before it was complete: run again to go on")
        if self.stopped is None:
            return dict(self.failures)
        missing = {n: stopped for n in self.tasks if n not in self.receipts}
        return missing | self.failures


def _hosts(urls: tuple[ShareURL, ...]) -> tuple[str, ...]:
    return tuple(url.netloc for url in urls)
