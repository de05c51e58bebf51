"""The desk between the schedule and the workers and mergers: hands work out, takes results in.

Everything that they share is here, behind one lock: the schedule, what came of each target, the
rate limit, and whether the run pauses or stops. What the schedule decides is acted on here, and
told as events. Steering from outside (`control`) ends here too.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from segdl.core import events
from segdl.core.errors import (
    BrokenError,
    DigestError,
    DiskFullError,
    ExitCode,
    SegdlError,
    StoppedError,
    attempted,
    disk_error,
)
from segdl.core.manifest import Manifest, Target
from segdl.core.options import KIB, MIB, Options, RateLimit
from segdl.core.pace import Bucket, Crowd
from segdl.core.renewal import Renewed, same_file
from segdl.core.report import LeftOut, Receipt
from segdl.core.runway import last_end
from segdl.core.schedule import Schedule
from segdl.core.traffic import Quota
from segdl.core.urls import ShareURL
from segdl.core.work import (
    Again,
    Decision,
    Fetch,
    Finished,
    GiveUp,
    Ignore,
    Merge,
    Pause,
    Restart,
    Wait,
    Work,
)
from segdl.edges.cores import cores
from segdl.edges.parts import Part
from segdl.engine.aid import Aid, Assist
from segdl.engine.delivery import Delivery
from segdl.engine.errand import MOST, Errand, is_small
from segdl.engine.outlook import LinksWanted, Outlook
from segdl.engine.tally import Tally
from segdl.engine.task import Task

if TYPE_CHECKING:
    from segdl.engine.runner import Done, Reply

Emit = Callable[[events.Event], None]
_IDLE_LOOK = 0.1  # seconds between two looks of an idle worker for somebody to help
_MEET = 0.5  # seconds that a worker waits for one who helps it, before it calls that one back
_GATHER = 0.02  # seconds that a merger waits for more drafts
# Bytes a connection that a crash may cost: of segments under way, which a worker has not recorded
# and the kernel not handed over, and of drafts that are not delivered.
MOST_LOST, MOST_UNRECORDED = 896 * KIB, 768 * KIB
MOST_OPEN = MOST  # drafts a connection that are not delivered: each keeps a file open
MOST_BEHIND = 256 * MIB  # bytes that a target's front may lag: what is not merged takes room twice


class Desk:
    """What the workers of one run share. Every method is thread-safe."""

    def __init__(
        self,
        targets: Sequence[Target],
        make_task: Callable[[Target], Task],
        options: Options,
        delivery: Delivery,
        emit: Emit,
    ) -> None:
        """`targets` are the order's; their numbers are those of the schedule's jobs."""
        self.targets = list(targets)
        self.tasks: dict[int, Task] = {}  # under way, paused, or failed with work done
        self.tally = Tally(targets)
        self.receipts: dict[int, Receipt] = {}
        self.recognised: set[str] = set()  # paths that were there, without a receipt
        self.failures: dict[int, SegdlError] = {}
        self.left_out: dict[tuple[str, str], LeftOut] = {}  # mirrors, by host and cause
        self.busy: dict[int, Fetch] = {}  # worker: what it fetches, or helps with
        self.landed = 0  # bytes from the network in this run
        self.stopped: ExitCode | None = None
        self.crash: BaseException | None = None
        self._schedule = Schedule(
            retries=options.retries, patience=options.patience, chance=random.random
        )
        self._make_task = make_task
        self._delivery = delivery
        self._emit = emit
        lock = threading.RLock()
        self.outlook = Outlook(lock, self._schedule, self.targets, self.tasks, self.tally, emit)
        self._change = threading.Condition(lock)
        self._due = threading.Condition(lock)  # there is something to merge, or the end
        self._bucket = Bucket()
        self._fixed = options.connections
        self._crowd = Crowd(least=min(cores(), 2))
        self._worked: dict[int, float] = {}  # CPU seconds by worker, and ~worker: its runner
        self._since: dict[int, tuple[float, int]] = {}  # worker: when its work began, bytes then
        self._aid = Aid()
        self._odd: set[int] = set()  # small targets that are no errand, as it turned out
        self._offered: dict[int, None] = {}  # in order; they cost a number until their turn comes
        self._drafts: dict[int, int] = {}  # bytes of those that are complete or on errands
        self._most_drafted = MOST_LOST - min(_longest(targets), MOST_UNRECORDED)  # a connection
        self._gathering = 0  # mergers that wait for more drafts
        self._held_back = 0  # workers that wait for mergers
        self._finished = False
        self._limit = options.limit_rate
        self._paused = False

    def expect(self, number: int) -> None:
        """Put a target into the schedule of which nothing is known to be on disk."""
        urls = self.targets[number].urls
        self._schedule.expect(number, _hosts(urls), last_end(urls))

    def enter(self, number: int, task: Task, *, offered: bool = False) -> None:
        """Put a target into the schedule that an index is there for; or more of it is `offered`
        elsewhere, which is looked at before anything is fetched."""
        self.tasks[number] = task
        task.unseen, task.offered = True, offered
        self._schedule.add(
            number,
            _hosts(task.urls),
            task.layout.count,
            task.front.held,
            pinned=task.pin is not None and not offered,
            merge=True,
            epoch=task.epoch,
            end=last_end(task.urls),
        )

    def offer(self, number: int) -> None:
        """Put a target aside that may be here, in part or whole: a merger looks for it there, and
        then puts it into the schedule."""
        self._offered[number] = None

    def _enter_offered(self) -> None:
        number = next(iter(self._offered))
        del self._offered[number]
        self.enter(number, self._make_task(self.targets[number]), offered=True)

    def deliver_before(self, number: int, receipt: Receipt) -> None:
        """A target was delivered by an earlier run."""
        self.receipts[number] = receipt
        self._count_delivered(number, receipt)

    # -- work out --------------------------------------------------------------------------------

    def next_work(
        self, worker: int, current: int | None, hang_up: Callable[[], None], most: int = 0
    ) -> Fetch | Assist | Errand | None:
        """The next work for a worker, waited for; None when the run is over for it.

        `hang_up` is called before a pause, which may be long; `most` is how many targets an errand
        of its runner may have.
        """
        while (work := self._take(worker, current, hang_up, most)) is not None:
            if (
                isinstance(work, (Assist, Errand))
                or work.job in self.tasks
                or self._touch(worker, work)
            ):
                return work
        return None

    def _take(
        self, worker: int, current: int | None, hang_up: Callable[[], None], most: int
    ) -> Fetch | Assist | Errand | None:
        with self._change:
            while self.stopped is None and not self._finished:
                spare = worker >= self.allowed and not self._schedule.owns(worker)
                if self._paused or spare:
                    hang_up()
                    self._change.wait()
                    continue
                now = time.monotonic()
                match self._schedule.take(worker, now, current):
                    case Finished() if self._offered:
                        self._change.wait()
                    case Finished():
                        self._finished = True
                        self._notify_all()
                    case Wait(until):
                        if (assist := self._find_assist(now)) is not None:
                            self._begin(worker, assist.fetch)
                            return assist
                        self._change.wait(self._pause(until, now))
                    case Fetch() as work:
                        self._begin(worker, work)
                        errand = most and self._is_errand(work.job) and not self._is_limited()
                        return self._errand(worker, work, most, now) if errand else work
            return None

    def _is_errand(self, job: int) -> bool:
        target, fresh = self.targets[job], job not in self.tasks and job not in self._odd
        return fresh and is_small(target) and not self.outlook.is_over(target.urls[0])

    def _errand(self, worker: int, first: Fetch, most: int, now: float) -> Errand:
        """`first`, and the targets that come after it: no more than a crash may cost, with the
        drafts that are not delivered, and one under way of each other worker."""
        longest, at_stake = MOST_LOST - self._most_drafted, sum(self._drafts.values())
        left = self._most_drafted * self.allowed + longest - at_stake
        works, room = [first], min(left, MOST_LOST) - self._stake(first.job)

        def fits(job: int) -> bool:
            return self._is_errand(job) and (self.targets[job].size or 0) <= room

        while len(works) < most and (work := self._schedule.take_next(first, worker, now, fits)):
            works.append(work)
            room -= self._stake(work.job)
        return Errand(tuple(works), tuple(self.targets[work.job] for work in works))

    def _stake(self, job: int) -> int:
        """A target goes on an errand: the bytes that are at stake with it."""
        self._drafts[job] = size = self.targets[job].size or 0
        return size

    def _begin(self, worker: int, work: Fetch) -> None:
        self.busy[worker] = work
        self._aid.begin(worker)
        if self._schedule.mirrored:
            self._since[worker] = time.monotonic(), self._aid.landed_by(worker)

    def _end(self, worker: int) -> None:
        work, since = self.busy.pop(worker, None), self._since.pop(worker, None)
        if work is not None and since is not None:
            now, count = time.monotonic(), self._aid.landed_by(worker) - since[1]
            self._schedule.measured(work.host, now, count, now - since[0])
        self._aid.end(worker)

    def _find_assist(self, now: float) -> Assist | None:
        """The end of the segment that would take longest, for a worker with nothing else to do."""
        if self._is_limited():
            return None  # the limit is what bounds it
        for worker, window in self._aid.slowest(now):
            fetch = self.busy[worker]
            task = self.tasks.get(fetch.job)
            if task is None or not self._schedule.current(fetch):
                continue
            with suppress(OSError):  # whoever is at it will meet the disk's error, and tell it
                if (help_ := self._help(fetch, task, window, now)) is not None:
                    return help_
        return None

    def _help(self, fetch: Fetch, task: Task, window: Part, now: float) -> Assist | None:
        if (helper := self._schedule.helper(fetch, now)) is None:
            return None
        tail = None
        try:
            tail = task.lend(window, fetch.epoch)
        finally:
            if tail is None:
                self._schedule.helped(helper, _NOBODY)
        if tail is None:
            return None
        task.enter()
        return Assist(helper, task, tail)

    def _is_limited(self) -> bool:
        return self._limit.at(datetime.now().time()) is not None

    def _pause(self, until: float | None, now: float) -> float | None:
        """How long an idle worker waits, unless something changes."""
        left = None if until is None else max(until - now, 0.0)
        if not self.busy:
            return left
        return _IDLE_LOOK if left is None else min(left, _IDLE_LOOK)

    def _touch(self, worker: int, work: Fetch) -> bool:
        """Make the task of a target at its first turn; False if something stands in its way,
        which is looked at first."""
        task = self._make_task(self.targets[work.job])
        try:
            task.unseen = self._delivery.in_the_way(task.target)
        except OSError as error:
            self.failed(worker, work, disk_error(error), progress=False)
            return False
        self.tasks[work.job] = task
        if task.unseen:
            self.dropped(worker, work)
            with self._change:
                self._schedule.look(work.job)
                self._due.notify()
        return not task.unseen

    def next_merges(self) -> list[Merge]:
        """The next target to merge, waited for, or several drafts; none when the run is over.

        A run that is stopped delivers the drafts that are complete: nothing else is kept of them.
        """
        with self._due:
            while not self._finished and (self.stopped is None or self._drafts):
                if (work := self._schedule.take_merge()) is None:
                    if self.stopped is not None:
                        break
                    if self._offered:
                        self._enter_offered()
                    else:
                        self._due.wait()
                elif self._is_draft(work):
                    return self._gather(work)
                elif self.stopped is None:
                    return [work]
            return []

    def _gather(self, first: Merge) -> list[Merge]:
        """More drafts, for a moment: they are flushed together. Nobody is woken for each."""
        works, deadline = [first], time.monotonic() + _GATHER
        self._gathering += 1
        while self._is_draft(works[-1]) and self.stopped is None:
            if (work := self._schedule.take_merge()) is not None:
                works.append(work)
            elif self.busy and not self._held_back and (left := deadline - time.monotonic()) > 0:
                self._due.wait(left)
            else:
                break
        self._gathering -= 1
        return works

    def _is_draft(self, work: Merge) -> bool:
        return self.tasks[work.job].draft

    def _notify_all(self) -> None:
        self._change.notify_all()
        self._due.notify_all()

    @property
    def allowed(self) -> int:
        """How many workers may be at work now."""
        return self._fixed or self._crowd.allowed

    def expect_runners(self, count: int) -> None:
        """So many workers have a runner: they are not in each other's way."""
        self._crowd.least = max(self._crowd.least, count)

    def look(self) -> None:
        """Judge whether more connections bring more, which of them lag, and whether the links
        last. Called now and then."""
        with self._change:
            now, before = time.monotonic(), self.allowed
            worked = sum(self._worked.values())
            if self._crowd.look(now, self.landed, len(self.busy), worked) > before:
                self._change.notify_all()
            if not self._is_limited():  # else segdl itself holds them back
                self._aid.look(now, self.busy)
        self.outlook.look(now, self.landed, len(self.busy), self.allowed)

    def streaming(self, worker: int, window: Part) -> None:
        """A worker's bytes go into `window` from now on."""
        with self._change:
            self._aid.streaming(worker, window)

    def wanted(self, work: Fetch | Assist | Errand, worker: int) -> bool:
        """Whether a worker goes on with work under way."""
        if self.stopped is not None or self._paused or self._aid.lags(worker):
            return False
        if isinstance(work, Assist):
            return not self._aid.is_recalled(work.tail) and self._schedule.current(work.fetch)
        if isinstance(work, Errand):
            return any(map(self._schedule.current, work.works))
        return self._schedule.current(work)

    def landed_more(self, worker: int, count: int) -> float:
        """Bytes came; the seconds to hold back for, by the rate limit."""
        with self._change:
            self.landed += count
            self._aid.landed(worker, count)
            self._worked[worker] = time.thread_time()
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

    def answered(self, worker: int, work: Fetch, quota: Quota | None) -> None:
        """The host gave an answer that was believed, and perhaps said how many more it gives."""
        with self._change:
            gap = self._schedule.answered(work, worker, quota, time.monotonic())
            self._change.notify_all()
        if gap is not None and quota is not None:
            said = f"it takes {quota.remaining} more requests for now, by its own word"
            self._emit(events.Throttled(host=work.host, wait=round(gap, 3), message=said))

    def admitted(self, worker: int, work: Fetch, task: Task) -> None:
        """The probe was answered, and the target is pinned: other workers may join."""
        self._delivery.require_room(task)
        with self._change:
            self._schedule.learn(work.job, task.layout.count)
            self._schedule.pinned_by(work.job, work.mirror)
            if task.whole:
                self._schedule.dedicate(work.job, worker)
            self._change.notify_all()
        self.started(work.job, task)

    def looked(self, job: int, task: Task) -> None:
        """What was on disk of a target, here or elsewhere, is known."""
        if task.offered:
            with self._change:
                self._schedule.learn(job, task.layout.count, task.front.held)
                self._change.notify_all()
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

    def segment_done(self, work: Fetch, length: int, seconds: float) -> None:
        """A segment is committed: a merger moves the front over it."""
        self._tell_segment(work, length, seconds)
        self.committed(work)

    def _tell_segment(self, work: Fetch, length: int, seconds: float) -> None:
        self._emit(
            events.SegmentDone(
                target=self.targets[work.job].path,
                segment=work.segment,
                bytes=length,
                seconds=round(seconds, 3),
            )
        )

    def committed(self, work: Fetch) -> None:
        """There is something to merge: a segment, or the end of a target before one."""
        with self._change:
            task = self.tasks.get(work.job)
            self._schedule.committed(work, task.layout.count if task else None)
            if task is None or not task.draft:
                self._due.notify()
                return
            self._drafts[work.job] = task.layout.size or 0
            if not self._gathering:
                self._due.notify()

    def keep_up(self, work: Fetch, task: Task) -> None:
        """Hold a worker back while the front of its target lags far behind, or more drafts are
        not delivered than a crash may cost."""
        with self._change:
            while self._too_far(task) and self.wanted(work, _NOBODY):
                self._held_back += 1
                self._due.notify_all()
                self._change.wait(0.5)
                self._held_back -= 1

    def _too_far(self, task: Task) -> bool:
        if not task.draft:
            return task.front.backlog() > MOST_BEHIND
        many = len(self._drafts) > MOST_OPEN * self.allowed
        return many or sum(self._drafts.values()) > self._most_drafted * self.allowed

    def meet(self, work: Fetch, worker: int, task: Task, part: Part) -> None:
        """A worker has come to a tail: wait a little for whoever fetches it, then call it back."""
        with self._change:
            deadline = time.monotonic() + _MEET
            while (tail := task.is_waited_for(part)) is not None and self.wanted(work, worker):
                left = deadline - time.monotonic()
                if left <= 0:
                    self._aid.recall(tail)
                self._change.wait(left if left > 0 else None)

    def assisted(self, worker: int, work: Assist, error: SegdlError | None) -> None:
        """A tail is fetched, or given back with an error, which its segment's worker will meet."""
        with self._change:
            self._end(worker)
            self._schedule.helped(work.fetch, worker)
            work.task.give_back(work.tail)
            self._aid.given_back(work.tail, time.monotonic(), failed=error is not None)
            if error is not None and error.status in (429, 503):
                self._crowd.refused(time.monotonic())
            self._change.notify_all()
        work.task.leave()

    def merged(self, work: Merge) -> None:
        """The merge is over."""
        with self._change:
            self._drafts.pop(work.job, None)
            self._schedule.done(work, _NOBODY)
            self._notify_all()

    def merge_failed(self, work: Merge, error: SegdlError) -> None:
        """The merge failed, and so its target."""
        self.failed(_NOBODY, work, error, progress=False)

    def condemn(self, job: int, task: Task, error: DigestError) -> None:
        """The whole is not what the manifest says: fetch it again once, then give up."""
        with self._change:
            if brought := task.forget_brought():
                for segment in brought:
                    self._schedule.lost(job, segment)
                return
            if task.condemned > len(task.urls) or not self._schedule.condemn(job):
                self._schedule.over(job)
                self._fail(job, error)
                return
            task.condemned += 1
            self._restart(job, 0.0)

    def is_stopped(self) -> bool:
        return self.stopped is not None

    def lost(self, job: int, segment: int) -> None:
        """A segment that was held is not what its record said."""
        with self._change:
            self._schedule.lost(job, segment)
            self._change.notify_all()

    def delivered(self, job: int, task: Task, receipt: Receipt, *, fetched: bool) -> None:
        """A target is delivered, or was there already."""
        with self._change:
            if not fetched and not task.brought:
                self.recognised.add(receipt.path)
            self._receive(job, receipt)
            del self.tasks[job]
            task.over = True
            self._notify_all()
        self._emit(_done(receipt, time.monotonic() - task.began, fetched=fetched))

    def _receive(self, job: int, receipt: Receipt) -> None:
        self.receipts[job] = receipt
        self._count_delivered(job, receipt)
        self.failures.pop(job, None)
        self._schedule.delivered(job)

    def ran(self, worker: int, errand: Errand, reply: Reply) -> None:
        """A runner is back: what it delivered has still to get its receipts."""
        told = dict(zip(errand.works, reply.done, strict=False))
        pairs = [(work, done) for work, done in told.items() if done is not None]
        kept = attempted(self._delivery.keep, [done.receipt for _, done in pairs])
        with self._change:
            self.landed += reply.landed
            self._aid.landed(worker, reply.landed)
            self._worked[worker] = time.thread_time()
            self._worked[~worker] = max(self._worked.get(~worker, 0.0), reply.worked)
            for work in errand.works:
                if work is not errand.works[0]:
                    self._schedule.began(work, time.monotonic())
                self._drafts.pop(work.job, None)
                self._take_over(worker, work, told.get(work), kept)
            self._end(worker)
            self._notify_all()
        if kept is None:
            for work, done in pairs:
                self._tell_done(work, done)

    def _take_over(
        self, worker: int, work: Fetch, done: Done | None, kept: SegdlError | None
    ) -> None:
        """What became of one target of an errand, whose receipt was `kept`, or not."""
        if done is None:
            self._odd.add(work.job)
            self.dropped(worker, work)
            return
        self.answered(worker, work, done.quota)
        if kept is not None:
            self.failed(worker, work, kept, progress=False)
            return
        self._schedule.done(work, worker)
        self._receive(work.job, done.receipt)

    def _tell_done(self, work: Fetch, done: Done) -> None:
        path, size, etag = done.receipt.path, done.receipt.size, done.receipt.etag
        self._emit(events.TargetStarted(target=path, size=size, etag=etag, held=0))
        self._tell_segment(work, size, done.seconds)
        self._emit(_done(done.receipt, done.seconds, fetched=True))

    def confirmed(self, work: Fetch, task: Task, offer: Receipt) -> None:
        """What was there is of the object that its links lead to now. Raises OSError."""
        name = task.urls[work.mirror % len(task.urls)].object_name
        self.delivered(work.job, task, self._delivery.confirm(offer, name), fetched=False)

    def _count_delivered(self, job: int, receipt: Receipt) -> None:
        self.tally.delivered += receipt.size
        self.tally.learn(job, self.targets[job], receipt.size)

    def present(self) -> int:
        """Bytes of the order that are on disk, delivered or held."""
        with self._change:
            under_way = list(self.tasks.values())
            return self.tally.delivered + sum(task.present() for task in under_way)

    def done(self, worker: int, work: Fetch) -> None:
        """The segment is held."""
        with self._change:
            self._end(worker)
            self._schedule.done(work, worker)
            self._change.notify_all()

    def dropped(self, worker: int, work: Fetch) -> None:
        """The work was given back as it was."""
        with self._change:
            if self._aid.forget_lag(worker):
                lag = BrokenError("its connection was far slower than others")
                self._tell_retry(work, lag, 0.0)
            self._end(worker)
            self._schedule.release(work, worker)
            self._change.notify_all()

    def failed(self, worker: int, work: Work, error: SegdlError, *, progress: bool) -> None:
        """The work failed: the schedule decides what becomes of it."""
        if isinstance(error, DiskFullError) and error.missing is None:
            task = self.tasks.get(work.job)
            error = self._delivery.no_room(task, error.found) if task else error
        with self._change:
            self._end(worker)
            if isinstance(work, Merge):
                self._drafts.pop(work.job, None)
            if progress and isinstance(work, Fetch):
                self._schedule.progressed(work)
            decision = self._schedule.settle(work, worker, error, time.monotonic())
            self._act(work, error, decision)
            self._notify_all()

    def crashed(self, error: BaseException) -> None:
        """A worker met what nobody expected: the run ends cleanly."""
        with self._change:
            self.crash = self.crash or error
            self.stopped = self.stopped or ExitCode.MIXED
            self._notify_all()

    # -- decisions -------------------------------------------------------------------------------

    def _act(self, work: Work, error: SegdlError, decision: Decision) -> None:
        match decision:
            case Again(wait, host) if host is not None:
                if error.status in (429, 503):
                    self._crowd.refused(time.monotonic())
                self._emit(events.Throttled(host=host, wait=round(wait, 3), message=error.message))
            case Again(left=str() as left) if isinstance(work, Fetch):
                self._leave_out(work, left, error)
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
                target=self.targets[work.job].path,
                segment=work.segment,
                wait=round(wait, 3),
                **events.trouble(error),
            )
        )

    def _leave_out(self, work: Fetch, host: str, error: SegdlError) -> None:
        """A target goes on without one of its mirrors: that is told, and stands in the report."""
        path = self.targets[work.job].path
        mirror = self.left_out.get((host, error.cause))
        if mirror is None:
            mirror = LeftOut(host, error.cause, error.message, path, 0)
        self.left_out[host, error.cause] = replace(mirror, targets=mirror.targets + 1)
        self._emit(events.MirrorLeft(target=path, host=host, **events.trouble(error)))

    def _restart(self, job: int, wait: float) -> bool:
        """Begin a target again from nothing; False if the disk does not let it, and it is over."""
        task = self.tasks[job]
        with self._change:
            try:
                task.restart()
            except OSError as error:
                self._schedule.over(job)
                self._fail(job, disk_error(error))
                return False
            self._schedule.restarted(job, task.layout.count, time.monotonic() + wait)
            self._change.notify_all()
            return True

    def _pause_target(self, job: int, error: SegdlError) -> None:
        path = self.targets[job].path
        self.failures[job] = error.with_traceback(None)  # all may pause: none may cost a stack
        if (task := self.tasks.get(job)) is not None and task.blank:
            del self.tasks[job]
        self._emit(events.UrlExpired(target=path, **events.trouble(error)))
        self._emit(events.TargetPaused(target=path, cause=error.cause))

    def _fail(self, job: int, error: SegdlError) -> None:
        self.failures[job] = error
        self._drafts.pop(job, None)
        if (task := self.tasks.get(job)) is not None:
            task.over = True
        self.tell_failure(self.targets[job], error)

    def tell_failure(self, target: Target, error: SegdlError) -> None:
        """The event of a target that will not be delivered in this run."""
        self._emit(events.TargetFailed(target=target.path, **events.trouble(error)))

    # -- steering --------------------------------------------------------------------------------

    def stop(self, code: ExitCode) -> None:
        """End the run; what is under way is kept."""
        with self._change:
            self.stopped = self.stopped or code
            self._notify_all()

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
            for job in list(self.failures):
                self._take_up(job)
            self._notify_all()

    def _take_up(self, job: int) -> None:
        """Go on with a target that failed."""
        del self.failures[job]
        if (task := self.tasks.get(job)) is not None:
            task.over, task.condemned = False, 0
        self._schedule.reopen(job)

    def refresh(self, manifest: Manifest) -> Renewed:
        """Fresh URLs for the targets that are the same files."""
        fresh = {target.path: target for target in manifest.targets}
        taken = same = lacking = delivered = 0
        with self._change:
            for job, target in enumerate(self.targets):
                other = fresh.pop(target.path, None)
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
                lambda job: _hosts(self.targets[job].urls),
                lambda job: last_end(self.targets[job].urls),
            )
            if taken:
                self.outlook.renewed()
                self._emit(events.LinksRefreshed(targets=taken, lacking=lacking, other=len(fresh)))
            self._notify_all()
        return Renewed(taken, same, lacking, delivered, other=len(fresh))

    def _size(self, job: int) -> int | None:
        task = self.tasks.get(job)
        return task.layout.size if task else self.targets[job].size

    def expect_links(self, may_come: bool) -> None:
        """Whether somebody gets fresh links when they are wanted: paused targets then keep the run
        alive, with nothing else left to do for as long as patience lasts."""
        with self._change:
            self._schedule.expect_links(may_come)
            self._notify_all()

    def links_wanted(self) -> LinksWanted | None:
        """Whether the order needs fresh links now. Cheap, and nothing follows from asking."""
        return self.outlook.wanted()

    def _renew(self, job: int, target: Target, other: Target) -> None:
        self.targets[job] = replace(target, urls=other.urls)
        task = self.tasks.get(job)
        if task is not None and not task.relink(other.urls) and not self._restart(job, 0.0):
            return
        resumed = self._schedule.replace_hosts(job, _hosts(other.urls), last_end(other.urls))
        if resumed:
            del self.failures[job]
        elif job in self.failures:
            self._take_up(job)
            resumed = True
        if resumed:
            self._emit(events.TargetResumed(target=target.path))

    def unfinished(self) -> dict[int, SegdlError]:
        """Every target that was not delivered, with the reason."""
        stopped = StoppedError("stopped before it was complete: run again to go on")
        if self.stopped is None:
            return dict(self.failures)
        missing = {n: stopped for n in range(len(self.targets)) if n not in self.receipts}
        return missing | self.failures


_NOBODY = -1  # a merger, where a worker is asked for


def _done(receipt: Receipt, seconds: float, *, fetched: bool) -> events.TargetDone:
    return events.TargetDone(
        target=receipt.path,
        size=receipt.size,
        seconds=round(seconds, 3),
        digests=receipt.digests,
        grade=receipt.grade,
        fetched=fetched,
    )


def _longest(targets: Sequence[Target]) -> int:
    """The size of the longest target in bytes; that of unknown size may be it."""
    return max((MIB if t.size is None else t.size for t in targets), default=0)


def _hosts(urls: tuple[ShareURL, ...]) -> tuple[str, ...]:
    return tuple(url.netloc for url in urls)
