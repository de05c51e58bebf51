"""The desk between the schedule and the workers and mergers: hands work out, takes results in.

Who waits, and who is woken, is decided here, under the one lock of the run (`engine.bell`), as is
whether the run pauses or stops. Behind the same lock are

- `core.schedule`: which work goes next, and what becomes of work that failed;
- `engine.outcomes`: what becomes of each target, kept for the report and told as events;
- `engine.outlook`: how long the links last;
- `engine.headcount` and `engine.throttle`: how many work at once, and how fast;
- `engine.aid`: who is at work, who could be helped, who lags;
- `engine.errand` and `engine.stakes`: what runners are sent for, and what a crash may cost.

Steering from outside (`control`) ends here too.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from segdl.core import events
from segdl.core.errors import (
    BrokenError,
    DiskFullError,
    ExitCode,
    SegdlError,
    attempted,
)
from segdl.core.manifest import Manifest, Target
from segdl.core.options import MIB, Options, RateLimit
from segdl.core.renewal import Renewed
from segdl.core.report import Receipt
from segdl.core.runway import last_end
from segdl.core.schedule import Schedule
from segdl.core.traffic import Quota
from segdl.core.work import (
    NOBODY,
    Again,
    Fetch,
    Finished,
    Merge,
    Wait,
    Work,
)
from segdl.edges.parts import Part
from segdl.engine.aid import Aid, Assist
from segdl.engine.bell import Bell
from segdl.engine.delivery import Delivery
from segdl.engine.errand import Errand, Errands
from segdl.engine.headcount import Headcount
from segdl.engine.outcomes import Emit, Outcomes, hosts_of, target_done
from segdl.engine.outlook import LinksWanted, Outlook
from segdl.engine.stakes import Stakes
from segdl.engine.task import Task
from segdl.engine.throttle import Throttle

if TYPE_CHECKING:
    from segdl.engine.runner import Done, Reply

_IDLE_LOOK = 0.1  # seconds between two looks of an idle worker for somebody to help
_MEET = 0.5  # seconds that a worker waits for one who helps it, before it calls that one back
_GATHER = 0.02  # seconds that a merger waits for more drafts
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
        self.stopped: ExitCode | None = None
        self.crash: BaseException | None = None
        self._make_task = make_task
        self._delivery = delivery
        self._emit = emit
        self._bell = bell = Bell()
        self._change, self._due = bell.change, bell.due
        self._schedule = schedule = Schedule(
            retries=options.retries, patience=options.patience, chance=random.random
        )
        self._stakes = Stakes(targets)
        self.outcomes = Outcomes(bell, schedule, self.targets, self.tasks, self._stakes, emit)
        tally = self.outcomes.tally
        self.outlook = Outlook(bell.lock, schedule, self.targets, self.tasks, tally, emit)
        self._errands = Errands(schedule, self.targets, self.tasks, self.outlook, self._stakes)
        self._aid = Aid(schedule, self.tasks)
        self.busy = self._aid.busy  # worker: what it fetches, or helps with
        self._headcount = Headcount(options.connections)
        self._throttle = Throttle(self._change, options.limit_rate)
        self._offered: dict[int, None] = {}  # in order; they cost a number until their turn comes
        self._gathering = 0  # mergers that wait for more drafts
        self._held_back = 0  # workers that wait for mergers
        self._finished = False
        self._full = False  # the disk, by what last did not fit
        self._paused = False

    def expect(self, number: int) -> None:
        """Put a target into the schedule of which nothing is known to be on disk."""
        urls = self.targets[number].urls
        self._schedule.expect(number, hosts_of(urls), last_end(urls))

    def enter(self, number: int, task: Task, *, offered: bool = False) -> None:
        """Put a target into the schedule that an index is there for; or more of it is `offered`
        elsewhere, which is looked at before anything is fetched."""
        self.tasks[number] = task
        task.unseen, task.offered = True, offered
        self._schedule.add(
            number,
            hosts_of(task.urls),
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

    # -- work for workers --------------------------------------------------------------------------

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
                    (self._bell.spare if spare else self._change).wait()
                    continue
                now = time.monotonic()
                match self._schedule.take(worker, now, current):
                    case Finished() if self._offered:
                        self._change.wait()
                    case Finished():
                        self._finished = True
                        self._bell.ring()
                    case Wait(until):
                        # Where there is a limit, that is what bounds it.
                        assist = None if self._throttle.is_on else self._aid.find(now)
                        if assist is not None:
                            self._aid.begin(worker, assist.fetch)
                            return assist
                        self._change.wait(self._pause(until, now))
                    case Fetch() as work:
                        self._aid.begin(worker, work)
                        if most and self._may_send(work):
                            return self._errands.gather(worker, work, most, self.allowed, now)
                        return work
            return None

    def _may_send(self, work: Fetch) -> bool:
        """Whether a runner may do it: it knows of no limit, and not that the disk is full."""
        return not (self._full or self._throttle.is_on) and self._errands.may_have(work.job)

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
        error = attempted(self._look_around, task)
        if error is not None:
            self.failed(worker, work, error, progress=False)
            return False
        self.tasks[work.job] = task
        if task.unseen:
            with self._change:
                # One hold of the lock: in between, another worker would ask for it all the same.
                self.dropped(worker, work)
                self._schedule.look(work.job)
                self._due.notify()
        return not task.unseen

    def _look_around(self, task: Task) -> None:
        """Raises OSError, and SegdlError for what is not worth a request: while the disk is full,
        what is to come of a target has to fit."""
        task.unseen = self._delivery.in_the_way(task.target)
        if self._full and not task.unseen:
            self._delivery.require_room(task)
            self._full = False

    # -- while they are at it ----------------------------------------------------------------------

    @property
    def landed(self) -> int:
        """Bytes from the network in this run."""
        return sum(list(self._aid.landed.values()))  # copied at once: workers go on counting

    @property
    def allowed(self) -> int:
        """How many workers may be at work now."""
        return self._headcount.allowed

    def expect_runners(self, count: int) -> None:
        """So many workers have a runner: they are not in each other's way."""
        self._headcount.expect_runners(count)

    def look(self) -> None:
        """Judge whether more connections bring more, which of them lag, and whether the links
        last. Called now and then."""
        with self._change:
            now = time.monotonic()
            if self._headcount.grows(now, self.landed, len(self.busy)):
                self._bell.spare.notify_all()
            if not self._throttle.is_on:  # else segdl itself holds them back
                self._aid.look(now)
        self.outlook.look(now, self.landed, len(self.busy), self.allowed)

    def wanted(self, work: Fetch | Assist | Errand, worker: int) -> bool:
        """Whether a worker goes on with work under way."""
        if self.stopped is not None or self._paused or self._aid.lags(worker):
            return False
        if isinstance(work, Assist):
            return not self._aid.is_recalled(work.tail) and self._schedule.current(work.fetch)
        if isinstance(work, Errand):
            return any(map(self._schedule.current, work.works))
        return self._schedule.current(work)

    def streaming(self, worker: int, window: Part) -> None:
        """A worker's bytes go into `window` from now on."""
        with self._change:
            self._aid.streaming(worker, window)

    def landed_more(self, worker: int, count: int) -> bool:
        """Bytes came: hold back as the rate limit asks. Returns whether it did.

        Without a limit it takes no lock: each worker counts under its own number.
        """
        self._aid.landed[worker] += count
        self._headcount.clock(worker)
        return self._throttle.hold_back(count, self.is_stopped)

    def portion(self, most: int) -> int:
        """How many bytes a worker may take at once, up to `most`."""
        return self._throttle.portion(most, len(self.busy))

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
        self.outcomes.started(work.job, task)

    def meet(self, work: Fetch, worker: int, task: Task, part: Part) -> None:
        """A worker has come to a tail: wait a little for whoever fetches it, then call it back."""
        with self._change:
            deadline = time.monotonic() + _MEET
            while (tail := task.is_waited_for(part)) is not None and self.wanted(work, worker):
                left = deadline - time.monotonic()
                if left <= 0:
                    self._aid.recall(tail)
                self._change.wait(left if left > 0 else None)

    # -- what came of their work -------------------------------------------------------------------

    def segment_done(self, work: Fetch, length: int, seconds: float) -> None:
        """A segment is committed: a merger moves the front over it."""
        self.outcomes.tell_segment(work, length, seconds)
        self.committed(work)

    def confirmed(self, work: Fetch, task: Task, offer: Receipt) -> None:
        """What was there is of the object that its links lead to now. Raises OSError."""
        name = task.urls[work.mirror % len(task.urls)].object_name
        receipt = self._delivery.confirm(offer, name)
        self.outcomes.delivered(work.job, task, receipt, fetched=False)

    def done(self, worker: int, work: Fetch) -> None:
        """The segment is held."""
        with self._change:
            self._aid.end(worker)
            self._schedule.done(work, worker)
            self._change.notify_all()

    def dropped(self, worker: int, work: Fetch) -> None:
        """The work was given back as it was."""
        with self._change:
            if self._aid.forget_lag(worker):
                lag = BrokenError("its connection was far slower than others")
                self.outcomes.tell_retry(work, lag, 0.0)
            self._aid.end(worker)
            self._schedule.release(work, worker)
            self._change.notify_all()

    def failed(self, worker: int, work: Work, error: SegdlError, *, progress: bool) -> None:
        """The work failed: the schedule decides what becomes of it."""
        self._full = self._full or isinstance(error, DiskFullError)
        if isinstance(error, DiskFullError) and error.missing is None:
            task = self.tasks.get(work.job)
            error = self._delivery.no_room(task, error.found) if task else error
        with self._change:
            self._aid.end(worker)
            if isinstance(work, Merge):
                self._stakes.drop(work.job)
            if progress and isinstance(work, Fetch):
                self._schedule.progressed(work)
            decision = self._schedule.settle(work, worker, error, time.monotonic())
            if isinstance(decision, Again) and decision.host is not None:
                self._headcount.refused(error, time.monotonic())
            self.outcomes.act(work, error, decision)
            self._bell.ring()

    def assisted(self, worker: int, work: Assist, error: SegdlError | None) -> None:
        """A tail is fetched, or given back with an error, which its segment's worker will meet."""
        with self._change:
            self._aid.end(worker)
            self._schedule.helped(work.fetch, worker)
            work.task.give_back(work.tail)
            self._aid.given_back(work.tail, time.monotonic(), failed=error is not None)
            if error is not None:
                self._headcount.refused(error, time.monotonic())
            self._change.notify_all()
        work.task.leave()

    def ran(self, worker: int, errand: Errand, reply: Reply) -> None:
        """A runner is back: what it delivered has still to get its receipts."""
        told = dict(zip(errand.works, reply.done, strict=False))
        pairs = [(work, done) for work, done in told.items() if done is not None]
        kept = attempted(self._delivery.keep, [done.receipt for _, done in pairs])
        with self._change:
            self._aid.landed[worker] += reply.landed
            self._headcount.ran(worker, reply.worked)
            for work in errand.works:
                if work is not errand.works[0]:
                    self._schedule.began(work, time.monotonic())
                self._stakes.drop(work.job)
                self._take_over(worker, work, told.get(work), kept)
            self._aid.end(worker)
            self._change.notify_all()
        if kept is None:
            for work, done in pairs:
                self._tell_done(work, done)

    def _take_over(
        self, worker: int, work: Fetch, done: Done | None, kept: SegdlError | None
    ) -> None:
        """What became of one target of an errand, whose receipt was `kept`, or not."""
        if done is None:
            self._errands.left_undone(work.job)
            self.dropped(worker, work)
            return
        self.answered(worker, work, done.quota)
        if kept is not None:
            self.failed(worker, work, kept, progress=False)
            return
        self._schedule.done(work, worker)
        self.outcomes.received(work.job, done.receipt)

    def _tell_done(self, work: Fetch, done: Done) -> None:
        path, size, etag = done.receipt.path, done.receipt.size, done.receipt.etag
        self._emit(events.TargetStarted(target=path, size=size, etag=etag, held=0))
        self.outcomes.tell_segment(work, size, done.seconds)
        self._emit(target_done(done.receipt, done.seconds, fetched=True))

    def crashed(self, error: BaseException) -> None:
        """A worker met what nobody expected: the run ends cleanly."""
        with self._change:
            self.crash = self.crash or error
            self.stopped = self.stopped or ExitCode.MIXED
            self._bell.ring()

    # -- work for mergers --------------------------------------------------------------------------

    def next_merges(self) -> list[Merge]:
        """The next target to merge, waited for, or several drafts; none when the run is over.

        A run that is stopped delivers the drafts that are complete: nothing else is kept of them.
        """
        with self._due:
            while not self._finished and (self.stopped is None or self._stakes):
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

    def committed(self, work: Fetch) -> None:
        """There is something to merge: a segment, or the end of a target before one."""
        with self._change:
            task = self.tasks.get(work.job)
            self._schedule.committed(work, task.layout.count if task else None)
            if task is None or not task.draft:
                self._due.notify()
                return
            self._stakes.put(work.job, task.layout.size or 0)
            if not self._gathering:
                self._due.notify()

    def keep_up(self, work: Fetch, task: Task) -> None:
        """Hold a worker back while the front of its target lags far behind, or more drafts are
        not delivered than a crash may cost."""
        with self._change:
            while self._too_far(task) and self.wanted(work, NOBODY):
                self._held_back += 1
                self._due.notify_all()
                self._change.wait(0.5)
                self._held_back -= 1

    def _too_far(self, task: Task) -> bool:
        if not task.draft:
            return task.front.backlog() > MOST_BEHIND
        return self._stakes.are_too_many(self.allowed)

    def merged(self, work: Merge) -> None:
        """The merge is over."""
        with self._change:
            self._stakes.drop(work.job)
            self._schedule.done(work, NOBODY)
            self.outcomes.merged(work.job)
            self._bell.ring()

    def merge_failed(self, work: Merge, error: SegdlError) -> None:
        """The merge failed, and so its target."""
        with self._change:
            self.failed(NOBODY, work, error, progress=False)
            self.outcomes.merged(work.job)

    # -- steering ----------------------------------------------------------------------------------

    def stop(self, code: ExitCode) -> None:
        """End the run; what is under way is kept."""
        with self._change:
            self.stopped = self.stopped or code
            self._bell.ring()

    def is_stopped(self) -> bool:
        return self.stopped is not None

    def set_paused(self, paused: bool) -> None:
        """Stop fetching, or go on."""
        with self._change:
            self._paused = paused
            self._change.notify_all()

    def set_limit(self, limit: RateLimit) -> None:
        self._throttle.set(limit)

    def retry_failed(self) -> None:
        """Take up the targets that failed, while the run lasts."""
        self.outcomes.retry_failed()

    def refresh(self, manifest: Manifest) -> Renewed:
        """Fresh URLs for the targets that are the same files."""
        with self._change:
            renewed = self.outcomes.refresh(manifest)
            if taken := renewed.taken:
                self.outlook.renewed()
                lacking, other = renewed.lacking, renewed.other
                self._emit(events.LinksRefreshed(targets=taken, lacking=lacking, other=other))
            self._bell.ring()
        return renewed

    def expect_links(self, may_come: bool) -> None:
        """Whether somebody gets fresh links when they are wanted: paused targets then keep the run
        alive, with nothing else left to do for as long as patience lasts."""
        with self._change:
            self._schedule.expect_links(may_come)
            self._bell.ring()

    def links_wanted(self) -> LinksWanted | None:
        """Whether the order needs fresh links now. Cheap, and nothing follows from asking."""
        return self.outlook.wanted()
