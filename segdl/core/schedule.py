"""Which work goes next, and when: one queue for the whole order.

Pure: it opens nothing and sleeps for nothing; times are monotonic seconds that the caller passes.
Workers share it behind one lock.

`take` hands out the lowest missing segment of the *job* (`core.job`: one target's place here) that
the fewest others work on: a worker so stays with its target, most segments are written at the
front, and connections advance different files at once. Only when every job has a worker do further
ones help, ahead of the front.

- A job without a pin gives out segment 0 alone: its GET is the probe.
- A job whose server ignores ranges belongs to one worker, which reads one stream.
- A failed try waits in its job until its time; a busy host is held back for all (`core.hosts`), and
  the job that met it is held back too, and asked for last.
- Of a target's mirrors the fastest is asked (`core.mirrors`); one that is held back, or has another
  object (`core.choice`), is left for the next.
- `settle` sorts every failure by what to do next (`core.settling`), and says what it decided.
- What needs no connection (looking at what is on disk, merging, delivering) is handed out apart, by
  `take_merge`: one thread at a time for a target, so that no connection waits for a digest.
- A target that nothing is known of yet costs one number in a queue until its turn comes, and one
  that is delivered nothing: an order may have a hundred thousand.
- Of targets that are otherwise alike the one whose link ends first goes first.
- A target whose links have ended is paused. It ends the run when nothing else is left, unless
  fresh links may come: then it waits, as long as patience lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf

from segdl.core.choice import Choice, HostNames
from segdl.core.errors import SegdlError
from segdl.core.hosts import Hosts
from segdl.core.job import Job, Missing, State
from segdl.core.settling import Forsake, Settling
from segdl.core.traffic import Quota
from segdl.core.untouched import Untouched
from segdl.core.work import (
    Answer,
    Decision,
    Fetch,
    Finished,
    GiveUp,
    Ignore,
    Merge,
    Pause,
    Wait,
    Work,
)


class Schedule:
    """The order's queue. Not thread-safe: callers hold one lock around every call."""

    def __init__(self, *, retries: int, patience: float, chance: Callable[[], float]) -> None:
        self._patience = patience
        self._jobs: dict[int, Job] = {}
        self._untouched = Untouched()
        self._fresh: dict[int, None] = {}  # open and never taken, in order
        self._active: dict[int, None] = {}  # open and taken at least once
        self._due: dict[int, None] = {}  # to be merged, and nobody is at it
        self._paused: dict[int, None] = {}
        self._hosts = Hosts(patience, chance)
        self._settling = Settling(self._hosts, retries, chance)
        self.mirrored = False  # there is a target with several mirrors
        self._ending = False  # some link says when it ends
        self._links_may_come = False
        self._links_until: float | None = None  # how long they are waited for, with nothing else

    # -- filling ---------------------------------------------------------------------------------

    def expect(self, job: int, hosts: HostNames, end: float = inf) -> None:
        """Enter a target that nothing is known of yet: its first answer will tell. `end` is that
        of its last link, in unix seconds."""
        self._note_links(hosts, end)
        self._untouched.push(job, hosts, end)

    def add(
        self, job: int, hosts: HostNames, count: int | None, held: Iterable[int], *,
        pinned: bool, merge: bool, epoch: int = 0, end: float = inf,
    ) -> None:  # fmt: skip
        """Enter a target: `count` segments (None: unknown), of which `held` are on disk.

        `merge`: something of it is on disk, and is looked at before anything is merged.
        """
        least = 0 if pinned else 1  # even an empty target has to be asked for
        missing = Missing.without(max(count or 0, least), set(held))
        choice = Choice(hosts)
        entry = self._jobs[job] = Job(choice, missing, count, pinned=pinned, epoch=epoch, end=end)
        self._note_links(hosts, end)
        self._fresh[job] = None
        if merge:
            self._want_merge(job, entry)

    def _note_links(self, hosts: HostNames, end: float) -> None:
        self._ending = self._ending or end < inf
        self.mirrored = self.mirrored or len(hosts) > 1

    def learn(self, job: int, count: int | None, held: Iterable[int] = ()) -> None:
        """The probe was answered: there are `count` segments. The probe itself stays busy."""
        self._jobs[job].learn(count, held)

    def dedicate(self, job: int, worker: int) -> None:
        """The server ignores ranges: the target is read by `worker` alone, from the start."""
        self._jobs[job].stream, self._jobs[job].owner = True, worker

    def replace_untouched(
        self, hosts: Callable[[int], HostNames], end: Callable[[int], float] = lambda job: inf
    ) -> None:
        """Fresh URLs for the targets that nothing is known of yet."""
        for job in self._untouched.drain():
            self.expect(job, hosts(job), end(job))

    def replace_hosts(self, job: int, hosts: HostNames, end: float = inf) -> bool:
        """Fresh URLs for a target. Returns whether it was paused and goes on now."""
        entry = self._entry(job)
        entry.choice.renew(hosts)
        entry.end = end
        self._note_links(hosts, end)
        if entry.state is not State.PAUSED:
            return False
        self._open(job)
        return True

    def reopen(self, job: int) -> None:
        """Take up a failed target again."""
        entry = self._jobs[job]
        entry.forgive()
        self._open(job)
        if entry.pinned:
            self._want_merge(job, entry)

    def _open(self, job: int) -> None:
        entry, self._links_until = self._jobs[job], None
        self._paused.pop(job, None)
        entry.take_up()
        (self._active if entry.started else self._fresh)[job] = None

    # -- taking ----------------------------------------------------------------------------------

    def take(self, worker: int, now: float, current: int | None) -> Answer:
        """The next segment for `worker`, whose last job was `current`."""
        chosen = self._choose(worker, now, current)
        if chosen is None:
            return self._rest(now)
        work = self._issue(chosen, worker, now)
        self._hosts.begin(work.host, now)
        return work

    def take_next(
        self, after: Fetch, worker: int, now: float, fits: Callable[[int], bool]
    ) -> Fetch | None:
        """The untouched target whose turn comes after that of `after`, if it has the same host and
        `fits`, and its host is up. It is asked for when the one before is over: see `began`."""
        hosts = (after.host,)
        job = self._untouched.first(hosts)
        if job is None or not fits(job) or not self._hosts.is_open(after.host, now):
            return None
        return self._issue(self._touch(hosts), worker, now)

    def began(self, work: Fetch, now: float) -> None:
        """What `take_next` gave has been asked for."""
        self._hosts.begin(work.host, now)

    def _issue(self, chosen: int, worker: int, now: float) -> Fetch:
        entry = self._jobs[chosen]
        choice = entry.choice
        self._start(chosen, entry)
        segment = entry.missing.pop()
        entry.busy[segment] = worker
        mirror = choice.mirror
        if len(choice.hosts) > 1 and not entry.stream:
            more = bool(entry.missing or self._fresh or self._untouched)
            mirror = choice.pick(self._hosts, now, more=more)
        host = choice.hosts[mirror]
        self._hosts.probe(host, worker)
        return Fetch(
            chosen, segment, entry.epoch, mirror,
            probe=not entry.pinned, host=host, issue=choice.issue,
        )  # fmt: skip

    def _choose(self, worker: int, now: float, current: int | None) -> int | None:
        best: tuple[int, int, bool, float, int] | None = None
        for job in self._active:
            entry = self._jobs[job]
            entry.wake(now)
            if not self._ready(entry, worker, now):
                continue
            choice = entry.choice
            doubted = entry.doubts and self._hosts.hold(choice.host) is None  # soon: it tells much
            snubs = choice.hold.probes if choice.hold and not doubted else 0
            rank = (snubs, len(entry.busy), job != current, entry.end, job)
            if best is None or rank < best:
                best = rank
        if best is None or best[:2] != (0, 0):
            fresh = (job for job in self._fresh if self._ready(self._jobs[job], worker, now))
            if (found := next(fresh, None)) is not None:
                return found
            hosts = self._untouched.next_hosts(lambda host: self._hosts.is_free(host, now))
            if hosts is not None:
                job = self._touch(hosts)
                self._jobs[job].choice.avoid_held(self._hosts, now)
                return job
        return best[-1] if best is not None else None

    def _ready(self, entry: Job, worker: int, now: float) -> bool:
        if not entry.missing:
            return False
        if not entry.pinned and (entry.busy or entry.merge or entry.merging):
            return False
        if not entry.pinned and entry.missing.lowest:
            return False
        if entry.stream and (entry.busy or entry.owner not in (None, worker)):
            return False
        choice = entry.choice
        choice.avoid_held(self._hosts, now)
        if choice.hold is not None and now < choice.hold.until:
            return False
        return self._hosts.is_free(choice.host, now)

    def _touch(self, hosts: HostNames) -> int:
        """Enter the first of the untouched targets with these hosts."""
        end, job = self._untouched.pop(hosts)
        self.add(job, hosts, None, (), pinned=False, merge=False, end=end)
        return job

    def _start(self, job: int, entry: Job) -> None:
        entry.started = True
        self._fresh.pop(job, None)
        self._active[job] = None

    def helper(self, work: Fetch, now: float) -> Fetch | None:
        """The same work for another worker, at the mirror that is best for it; None if no host
        takes another request now. To be given back by `helped`."""
        choice = self._jobs[work.job].choice
        if (mirror := choice.for_helper(work.mirror, self._hosts, now)) is None:
            return None
        host = choice.hosts[mirror]
        self._hosts.begin(host, now)
        return replace(work, mirror=mirror, host=host, issue=choice.issue)

    def helped(self, work: Fetch, worker: int) -> None:
        """What `helper` gave is over."""
        self._hosts.end(work.host, worker)

    def measured(self, host: str, now: float, count: int, seconds: float) -> None:
        """A host's connection brought `count` bytes in `seconds`."""
        self._hosts.speeds.measured(host, now, count, seconds)

    # -- merging ---------------------------------------------------------------------------------

    def take_merge(self) -> Merge | None:
        """The next target to merge, which is nobody else's until `done`."""
        job = next(iter(self._due), None)
        if job is None:
            return None
        entry = self._jobs[job]
        del self._due[job]
        entry.merge, entry.merging = False, True
        if entry.state is State.OPEN:
            self._start(job, entry)
        return Merge(job, entry.epoch)

    def look(self, job: int) -> None:
        """Something stands where a target that nothing is known of shall go: look at that first."""
        self._want_merge(job, self._jobs[job])

    def is_merging(self, job: int) -> bool:
        """Whether somebody is at it who took it by `take_merge`."""
        return self._entry(job).merging

    def _want_merge(self, job: int, entry: Job) -> None:
        entry.merge = True
        if not entry.merging and entry.state is not State.OVER:
            self._due[job] = None

    def _merged(self, job: int, entry: Job) -> None:
        entry.merging = False
        if entry.merge and entry.state is not State.OVER:  # more has come meanwhile
            self._due[job] = None

    # -- waiting, and what is left ---------------------------------------------------------------

    def _rest(self, now: float) -> Wait | Finished:
        if not (self._active or self._fresh or self._untouched):
            return self._rest_for_links(now)
        active = [self._jobs[job] for job in self._active]
        times = [t for entry in active for t in entry.waiting.values()]
        times += [hold.until for entry in active if (hold := entry.choice.hold)]
        times += self._hosts.when()
        later = [t for t in times if t > now]
        return Wait(min(later) if later else None)

    def _rest_for_links(self, now: float) -> Wait | Finished:
        """Nothing is left but what waits for fresh links."""
        if not (self._links_may_come and self._paused):
            return Finished()
        if self._links_until is None:
            self._links_until = now + self._patience
        return Wait(self._links_until) if now < self._links_until else Finished()

    def expect_links(self, may_come: bool) -> None:
        """Whether paused targets may yet go on: the run then waits for them."""
        self._links_may_come, self._links_until = may_come, None

    @property
    def paused(self) -> int:
        """How many targets wait for fresh links."""
        return len(self._paused)

    @property
    def ending(self) -> bool:
        """Whether any link says when it ends."""
        return self._ending

    def ahead(self) -> list[tuple[float, int]]:
        """The targets that are open, with their links' ends, as they will be done."""
        begun = [(self._jobs[job].end, job) for job in (*self._active, *self._fresh)]
        return begun + self._untouched.ahead()

    def owns(self, worker: int) -> bool:
        """Whether a target waits for this worker alone: it reads the one stream."""
        streams = (self._jobs[job] for job in self._active if self._jobs[job].stream)
        return any(entry.owner == worker for entry in streams)

    # -- reporting back --------------------------------------------------------------------------

    def _entry(self, job: int) -> Job:
        """A job; of one that is delivered there is only this left."""
        return self._jobs.get(job) or Job(Choice(()), Missing(0, 0), 0, state=State.OVER, epoch=-1)

    def current(self, work: Work) -> bool:
        """Whether the work still counts: its target is not over and was not started again."""
        entry = self._jobs.get(work.job)
        return entry is not None and entry.state is not State.OVER and entry.epoch == work.epoch

    def answered(
        self, work: Fetch, worker: int, quota: Quota | None = None, now: float = 0.0
    ) -> float | None:
        """The host gave an answer that was believed. Returns the seconds between two requests, if
        from now on they are fewer by what it said.

        Of a host that is held back only the probe's answer counts: others were asked for before.
        """
        if self._hosts.unprobe(work.host, worker):
            self._hosts.let_go(work.host)
        entry = self._entry(work.job)
        if entry.choice.is_at(work):
            traffic = self._hosts.traffic(work.host)
            traffic.disguises = traffic.disguises or entry.doubts > 0
            entry.choice.hold, entry.doubts = None, 0
        if not work.probe and work.epoch == entry.epoch:
            entry.confirmed = True
        return self._hosts.answered(work.host, worker, quota, now)

    def progressed(self, work: Fetch) -> None:
        """A byte came beyond the furthest that was reached: the tries start from none again."""
        self._settling.progressed(work, self._entry(work.job))

    def committed(self, work: Fetch, count: int | None) -> None:
        """The segment is held, or the target ended before it: its front may move. `count`: how
        many segments there are, as far as is known by now."""
        entry = self._entry(work.job)
        if entry.epoch == work.epoch:
            if entry.count is None and count is not None:
                entry.end_at(count)
            self._want_merge(work.job, entry)

    def done(self, work: Work, worker: int) -> None:
        """The work is over: the segment is held, or the front has moved."""
        self._end(work, worker)  # what was held already has asked nobody
        entry = self._entry(work.job)
        if entry.epoch != work.epoch:
            return
        if isinstance(work, Merge):
            self._merged(work.job, entry)
        else:
            entry.done(work.segment)

    def release(self, work: Work, worker: int) -> None:
        """The work was not done and nothing is wrong with it (a pause, a stop)."""
        self._end(work, worker)
        entry = self._entry(work.job)
        if entry.epoch == work.epoch:
            self._put_back(entry, work)

    def lost(self, job: int, segment: int) -> None:
        """A segment that was held is not what its record said: it is missing again."""
        self._entry(job).lose(segment)

    def condemn(self, job: int) -> bool:
        """All of it was fetched, and is wrong: one mirror may be to blame, so each has to give all
        of it alone from now on. False if every one that is of use has done so."""
        return self._jobs[job].choice.condemn()

    def pinned_by(self, job: int, mirror: int) -> None:
        """A mirror has answered the probe: on trial it is kept to."""
        self._jobs[job].choice.keep_to(mirror)

    def delivered(self, job: int) -> None:
        """The target is delivered: nothing of it is left here."""
        self._close(job)
        self._due.pop(job, None)
        del self._jobs[job]

    def over(self, job: int) -> None:
        """The target has failed for good, unless it is taken up again."""
        self._jobs[job].state = State.OVER
        self._due.pop(job, None)
        self._close(job)

    def restarted(self, job: int, count: int | None, not_before: float = 0.0) -> None:
        """The target starts again from nothing, without a pin; work under way no longer counts."""
        self._jobs[job].restart(count, not_before)
        self._due.pop(job, None)

    def settle(self, work: Work, worker: int, error: SegdlError, now: float) -> Decision:
        """What becomes of failed work. The segment has been put back where that is right."""
        probed = self._end(work, worker)
        entry = self._entry(work.job)
        if not self.current(work):
            if entry.epoch == work.epoch:  # it is over, but may be taken up again
                self._put_back(entry, work)
            return Ignore()
        if isinstance(work, Merge):
            self._put_back(entry, work)
            self.over(work.job)
            return GiveUp((work.job,), error)
        match self._settling.settle(work, entry, error, now, probed=probed):
            case Forsake(host, final):
                return self._forsake(host, final)
            case GiveUp() as decision:
                self.over(work.job)
            case Pause() as decision:
                self._pause(work.job, entry)
            case decision:
                pass
        return decision

    def _forsake(self, host: str, error: SegdlError) -> GiveUp:
        """Patience with a host is used up: its targets move to a mirror, or are over."""
        self._hosts.let_go(host)
        for hosts in self._untouched.preferring(host):
            while hosts in self._untouched:
                self._touch(hosts)
        choices = [(job, self._jobs[job].choice) for job in (*self._active, *self._fresh)]
        waiting = [(job, choice) for job, choice in choices if self._needs(choice, host)]
        ended = tuple(job for job, choice in waiting if not choice.leave_host(host))
        for job in ended:
            self.over(job)
        return GiveUp(ended, error)

    def _needs(self, choice: Choice, host: str) -> bool:
        """Whether a job waits for a host, there or at another one that is down too."""
        held = self._hosts.hold(choice.host) is not None
        return choice.host == host or (host in choice.hosts and held)

    def _pause(self, job: int, entry: Job) -> None:
        entry.state = State.PAUSED
        self._close(job)
        self._paused[job] = None

    def _put_back(self, entry: Job, work: Work) -> None:
        if isinstance(work, Merge):
            entry.merge = True
            self._merged(work.job, entry)
        else:
            entry.put_back(work.segment)

    def _end(self, work: Work, worker: int) -> bool:
        """A worker asks the host of its work no more. Returns whether it was the probe of a host
        that is held back."""
        if isinstance(work, Merge):
            return False
        probed = self._hosts.unprobe(work.host, worker)
        self._hosts.end(work.host, worker)
        return probed

    def _close(self, job: int) -> None:
        self._active.pop(job, None)
        self._fresh.pop(job, None)
        self._paused.pop(job, None)
