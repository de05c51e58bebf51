"""Which work goes next, and when: one queue for the whole order.

Pure: it opens nothing and sleeps for nothing; times are monotonic seconds that the caller passes.
Workers share it behind one lock.

A *job* is one target's place in the schedule. Its segments are missing, busy (one worker each), or
held. `take` hands out the lowest missing segment of the job that the fewest others work on: a
worker so stays with its target, most segments are written at the front, and connections advance
different files at once. Only when every job has a worker do further ones help, ahead of the front.

- A job without a pin gives out segment 0 alone: its GET is the probe.
- A job whose server ignores ranges belongs to one worker, which reads one stream.
- A failed try waits in its job until its time; a busy host is held back once for all workers, and
  then asked with one probe at a time. The job that met it is held back too, and asked for last: a
  host that answers only for others must not be taken to be down.
- Of a target's mirrors the fastest is asked (`core.mirrors`); one that is held back, or has another
  object, is left for the next. How many requests a host takes at once is `core.traffic`'s to say.
- `settle` sorts every failure by what to do next, and says what it decided.
- What needs no connection (looking at what is on disk, merging, delivering) is handed out apart, by
  `take_merge`: one thread at a time for a target, so that no connection waits for a digest.
- A target that nothing is known of yet costs one number in a queue until its turn comes, and one
  that is delivered nothing: an order may have a hundred thousand.
- Of targets that are otherwise alike the one whose link ends first goes first.
- A target whose links have ended is paused. It ends the run when nothing else is left, unless
  fresh links may come: then it waits, as long as patience lasts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from math import inf

from segdl.core.errors import (
    BusyError,
    ContentError,
    ExpiredError,
    MisansweredError,
    NoRangesError,
    RefusedError,
    SegdlError,
    SizeError,
    StaleError,
    TransientError,
    UnreachableError,
)
from segdl.core.mirrors import STAY, Mirrors
from segdl.core.pace import backoff, probe_wait
from segdl.core.traffic import Quota, Traffic

STRIKES = 3  # times that content may be wrong before it is believed to be what the server has
DENIALS = 3  # whole answers to a range before what is held is given up for one stream
_STREAM = -2  # the key of a one-stream target's tries: they are the target's, not a segment's
MEANT = 6  # refusals in a row, over more than a minute, before a link that worked is given up
DOUBTED = 2  # refusals of a link that others got past, before it is believed to be meant
RESTARTS = 5  # times that an object may be replaced during one run
WAITED = 3  # probes in a row that failed, after which a mirror on trial is passed over


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch a segment. `epoch` tells a restarted target's work from what went before."""

    job: int
    segment: int
    epoch: int
    mirror: int
    probe: bool  # the target is not pinned yet
    host: str
    issue: int  # of the target's URLs: fresh ones may come while this is under way


@dataclass(frozen=True, slots=True)
class Merge:
    """Look at what is on disk of a target, move its front, deliver it if it is all there."""

    job: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until`, or until something changes (None)."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is left to do: every job is delivered, failed or paused."""


Work = Fetch | Merge
Answer = Fetch | Wait | Finished
Hosts = tuple[str, ...]  # a host for each mirror


@dataclass(frozen=True, slots=True)
class Again:
    """Try it again in `wait` seconds; `host` is set if the whole host is held back, `left` if it is
    tried at another mirror, and the target has done with the one of this name."""

    wait: float
    host: str | None = None
    left: str | None = None


@dataclass(frozen=True, slots=True)
class Restart:
    """What is held of the target is of no use: start it again in `wait` seconds."""

    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """The target waits for a fresh URL."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The targets are over: of this failure alone, or of a host whose patience is used up."""

    jobs: tuple[int, ...]
    error: SegdlError


@dataclass(frozen=True, slots=True)
class Ignore:
    """The work was of an epoch that has passed, or its target is over or paused already."""


Decision = Again | Restart | Pause | GiveUp | Ignore


class State(Enum):
    OPEN = auto()
    PAUSED = auto()
    OVER = auto()  # delivered or failed


@dataclass(slots=True)
class Missing:
    """Segments that are missing, lowest first, in memory that does not grow with the target."""

    beyond: int  # this one and all after it are missing, ...
    count: int  # ... before this one
    gaps: list[int] = field(default_factory=list)  # those before `beyond`, as a heap

    @classmethod
    def without(cls, count: int, held: Collection[int]) -> Missing:
        """All of `count` segments that are not in `held`."""
        beyond = min(max(held, default=-1) + 1, count)
        return cls(beyond, count, [n for n in range(beyond) if n not in held])

    @property
    def lowest(self) -> int:
        return self.gaps[0] if self.gaps else self.beyond

    def pop(self) -> int:
        """Take the lowest out."""
        if self.gaps:
            return heapq.heappop(self.gaps)
        self.beyond += 1
        return self.beyond - 1

    def add(self, number: int) -> None:
        heapq.heappush(self.gaps, number)

    def __contains__(self, number: int) -> bool:
        return self.beyond <= number < self.count or number in self.gaps

    def __bool__(self) -> bool:
        return bool(self.gaps) or self.beyond < self.count


@dataclass(slots=True)
class Hold:
    """A host that is down or busy; or one job that its host was busy for."""

    since: float
    until: float
    probes: int  # that failed in a row
    probing: int | None = None  # the worker that asks


@dataclass(slots=True)
class Job:
    """One target's place in the schedule."""

    hosts: Hosts
    missing: Missing
    count: int | None  # segments; None while unknown
    pinned: bool = False
    merge: bool = False  # something is to be merged, or to be looked at
    merging: bool = False  # a thread is at it
    state: State = State.OPEN
    epoch: int = 0
    issue: int = 0
    end: float = inf  # of its last link, in unix seconds
    mirror: int = 0
    refused: set[int] = field(default_factory=set)  # mirrors that are of no use
    astray: set[int] = field(default_factory=set)  # of those, which have another object
    guilty: set[int] = field(default_factory=set)  # of those, which alone gave all of it wrongly
    trial: bool = False  # the next mirror that answers has to give all of it alone; ...
    spared: set[int] | None = None  # ... and while one does, those that were of no use before
    stays: float = 0.0  # with its mirror, until then
    hold: Hold | None = None  # until the host answers for this job
    restarts: int = 0
    doubts: int = 0  # refusals that may not have been meant
    denials: int = 0
    owner: int | None = None  # the worker that reads the one stream
    stream: bool = False  # the server ignores ranges
    confirmed: bool = False  # a second answer in this run was of the pinned object
    doubted: bool = False  # the pin was given up once, for it was contradicted and not confirmed
    started: bool = False
    busy: dict[int, int] = field(default_factory=dict)  # segment: worker
    waiting: dict[int, float] = field(default_factory=dict)  # segment: not before
    tries: dict[int, int] = field(default_factory=dict)
    strikes: dict[int, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)  # busy, and to be fetched again after that

    @property
    def host(self) -> str:
        return self.hosts[self.mirror]


class Schedule:
    """The order's queue. Not thread-safe: callers hold one lock around every call."""

    def __init__(self, *, retries: int, patience: float, chance: Callable[[], float]) -> None:
        self._retries = retries
        self._patience = patience
        self._chance = chance
        self._jobs: dict[int, Job] = {}
        # Nothing is known of these yet: for each hosts a heap of ends and jobs.
        self._untouched: dict[Hosts, list[tuple[float, int]]] = {}
        self._fresh: dict[int, None] = {}  # open and never taken, in order
        self._active: dict[int, None] = {}  # open and taken at least once
        self._due: dict[int, None] = {}  # to be merged, and nobody is at it
        self._paused: dict[int, None] = {}
        self._holds: dict[str, Hold] = {}
        self._traffic: dict[str, Traffic] = {}
        self._served: dict[int, str] = {}  # workers that a host gives what they asked for
        self._mirrors = Mirrors()
        self.mirrored = False  # there is a target with several mirrors
        self._ending = False  # some link says when it ends
        self._links_may_come = False
        self._links_until: float | None = None  # how long they are waited for, with nothing else

    # -- filling ---------------------------------------------------------------------------------

    def expect(self, job: int, hosts: Hosts, end: float = inf) -> None:
        """Enter a target that nothing is known of yet: its first answer will tell. `end` is that
        of its last link, in unix seconds."""
        self._ending = self._ending or end < inf
        self.mirrored = self.mirrored or len(hosts) > 1
        heapq.heappush(self._untouched.setdefault(hosts, []), (end, job))

    def add(
        self, job: int, hosts: Hosts, count: int | None, held: Iterable[int], *,
        pinned: bool, merge: bool, epoch: int = 0, end: float = inf,
    ) -> None:  # fmt: skip
        """Enter a target: `count` segments (None: unknown), of which `held` are on disk.

        `merge`: something of it is on disk, and is looked at before anything is merged.
        """
        least = 0 if pinned else 1  # even an empty target has to be asked for
        missing = Missing.without(max(count or 0, least), set(held))
        entry = self._jobs[job] = Job(hosts, missing, count, pinned=pinned, epoch=epoch, end=end)
        self._ending = self._ending or end < inf
        self.mirrored = self.mirrored or len(hosts) > 1
        self._fresh[job] = None
        if merge:
            self._want_merge(job, entry)

    def learn(self, job: int, count: int | None, held: Iterable[int] = ()) -> None:
        """The probe was answered: there are `count` segments. The probe itself stays busy."""
        entry = self._jobs[job]
        entry.pinned, entry.count = True, count
        if count is not None:
            entry.missing = Missing.without(count, {*held, *entry.busy, *entry.waiting})
        elif not entry.missing:
            self._add_next(entry, max(entry.busy, default=-1))

    @staticmethod
    def _add_next(entry: Job, number: int) -> None:
        """A target of unknown size: what follows `number` is missing, as far as is known."""
        entry.missing = Missing(number + 1, number + 2)

    def dedicate(self, job: int, worker: int) -> None:
        """The server ignores ranges: the target is read by `worker` alone, from the start."""
        self._jobs[job].stream, self._jobs[job].owner = True, worker

    def replace_untouched(
        self, hosts: Callable[[int], Hosts], end: Callable[[int], float] = lambda job: inf
    ) -> None:
        """Fresh URLs for the targets that nothing is known of yet."""
        jobs = sorted(job for queue in self._untouched.values() for _, job in queue)
        self._untouched.clear()
        for job in jobs:
            self.expect(job, hosts(job), end(job))

    def replace_hosts(self, job: int, hosts: Hosts, end: float = inf) -> bool:
        """Fresh URLs for a target. Returns whether it was paused and goes on now."""
        entry = self._entry(job)
        entry.hosts, entry.mirror, entry.hold, entry.end = hosts, 0, None, end
        self._ending = self._ending or end < inf
        self._acquit(entry)
        entry.issue += 1
        self.mirrored = self.mirrored or len(hosts) > 1
        if entry.state is not State.PAUSED:
            return False
        self._open(job)
        return True

    def reopen(self, job: int) -> None:
        """Take up a failed target again."""
        entry = self._jobs[job]
        entry.tries.clear()
        entry.strikes.clear()
        self._acquit(entry)
        entry.trial = False
        entry.restarts, entry.hold = 0, None
        self._open(job)
        if entry.pinned:
            self._want_merge(job, entry)

    @staticmethod
    def _acquit(entry: Job) -> None:
        """Think nothing bad of any mirror."""
        entry.trial, entry.spared = entry.trial or entry.spared is not None, None
        for known in (entry.refused, entry.astray, entry.guilty):
            known.clear()

    def _open(self, job: int) -> None:
        entry = self._jobs[job]
        entry.state, self._links_until = State.OPEN, None
        self._paused.pop(job, None)
        for segment in entry.waiting:
            entry.missing.add(segment)
        entry.waiting.clear()
        (self._active if entry.started else self._fresh)[job] = None

    # -- taking ----------------------------------------------------------------------------------

    def take(self, worker: int, now: float, current: int | None) -> Answer:
        """The next segment for `worker`, whose last job was `current`."""
        chosen = self._choose(worker, now, current)
        if chosen is None:
            return self._rest(now)
        work = self._issue(chosen, worker, now)
        self._begin(work.host, now)
        return work

    def take_next(
        self, after: Fetch, worker: int, now: float, fits: Callable[[int], bool]
    ) -> Fetch | None:
        """The untouched target whose turn comes after that of `after`, if it has the same host and
        `fits`, and its host is up. It is asked for when the one before is over: see `began`."""
        hosts = (after.host,)
        queue = self._untouched.get(hosts)
        if not queue or not fits(queue[0][1]) or not self._is_open(after.host, now):
            return None
        return self._issue(self._touch(hosts), worker, now)

    def began(self, work: Fetch, now: float) -> None:
        """What `take_next` gave has been asked for."""
        self._begin(work.host, now)

    def _issue(self, chosen: int, worker: int, now: float) -> Fetch:
        entry = self._jobs[chosen]
        self._start(chosen, entry)
        segment = entry.missing.pop()
        entry.busy[segment] = worker
        mirror = self._pick(entry, now) if len(entry.hosts) > 1 else entry.mirror
        host = entry.hosts[mirror]
        if (hold := self._holds.get(host)) is not None:
            hold.probing = worker
        return Fetch(
            chosen, segment, entry.epoch, mirror,
            probe=not entry.pinned, host=host, issue=entry.issue,
        )  # fmt: skip

    def _begin(self, host: str, now: float) -> None:
        traffic = self._traffic.get(host)
        if traffic is None:
            traffic = self._traffic[host] = Traffic()
        traffic.begin(now)

    def _pick(self, entry: Job, now: float) -> int:
        """The mirror for a segment that was just taken: the target's own, a faster one where the
        target moves to from now on, or one that is tried with this segment alone."""
        if entry.stream or entry.trial:
            return entry.mirror
        others = [n for n in self._useful(entry) if entry.hosts[n] != entry.host]
        if entry.missing or self._fresh or self._untouched:  # else it would be waited for
            for n in others:
                if self._mirrors.is_due(entry.hosts[n], now) and self._may_try(n, entry, now):
                    self._mirrors.tried(entry.hosts[n], now)
                    return n
        if now >= entry.stays:
            free = [n for n in others if self._is_open(entry.hosts[n], now)]
            best = self._mirrors.best(entry.hosts, entry.mirror, free)
            if best != entry.mirror:
                entry.mirror, entry.hold, entry.stays = best, None, now + STAY
        return entry.mirror

    def _may_try(self, mirror: int, entry: Job, now: float) -> bool:
        """A host that is held back is tried only while others are at work, and go on."""
        host = entry.hosts[mirror]
        return self._is_free(host, now) and (host not in self._holds or bool(self._served))

    @staticmethod
    def _useful(entry: Job) -> list[int]:
        return [n for n in range(len(entry.hosts)) if n not in entry.refused]

    def helper(self, work: Fetch, now: float) -> Fetch | None:
        """The same work for another worker, at the mirror that is best for it; None if no host
        takes another request now. To be given back by `helped`."""
        entry = self._jobs[work.job]
        free = [n for n in self._useful(entry) if self._is_open(entry.hosts[n], now)]
        mirror = self._mirrors.best(entry.hosts, work.mirror, free) if work.mirror in free else None
        if mirror is None and (mirror := self._mirrors.fastest(entry.hosts, free)) is None:
            return None
        self._begin(entry.hosts[mirror], now)
        return replace(work, mirror=mirror, host=entry.hosts[mirror], issue=entry.issue)

    def helped(self, work: Fetch, worker: int) -> None:
        """What `helper` gave is over."""
        self._traffic[work.host].end(served=self._served.pop(worker, None) is not None)

    def measured(self, host: str, now: float, count: int, seconds: float) -> None:
        """A host's connection brought `count` bytes in `seconds`."""
        self._mirrors.measured(host, now, count, seconds)

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

    def _start(self, job: int, entry: Job) -> None:
        entry.started = True
        self._fresh.pop(job, None)
        self._active[job] = None

    def look(self, job: int) -> None:
        """Something stands where a target that nothing is known of shall go: look at that first."""
        self._want_merge(job, self._jobs[job])

    def _want_merge(self, job: int, entry: Job) -> None:
        entry.merge = True
        if not entry.merging and entry.state is not State.OVER:
            self._due[job] = None

    def _choose(self, worker: int, now: float, current: int | None) -> int | None:
        best: tuple[int, int, bool, float, int] | None = None
        for job in self._active:
            entry = self._jobs[job]
            self._wake(entry, now)
            if not self._ready(entry, worker, now):
                continue
            doubted = entry.doubts and entry.host not in self._holds  # soon: it tells much
            snubs = entry.hold.probes if entry.hold and not doubted else 0
            rank = (snubs, len(entry.busy), job != current, entry.end, job)
            if best is None or rank < best:
                best = rank
        if best is None or best[:2] != (0, 0):
            fresh = (job for job in self._fresh if self._ready(self._jobs[job], worker, now))
            if (found := next(fresh, None)) is not None:
                return found
            free = [hosts for hosts in self._untouched if self._could_ask(hosts, now)]
            if free:
                job = self._touch(min(free, key=lambda hosts: self._untouched[hosts][0]))
                self._elsewhere(self._jobs[job], now)
                return job
        return best[-1] if best is not None else None

    def _touch(self, hosts: Hosts) -> int:
        """Enter the first of the untouched targets with these hosts."""
        queue = self._untouched[hosts]
        end, job = heapq.heappop(queue)
        if not queue:
            del self._untouched[hosts]
        self.add(job, hosts, None, (), pinned=False, merge=False, end=end)
        return job

    def _could_ask(self, hosts: Hosts, now: float) -> bool:
        return any(self._is_free(host, now) for host in hosts)

    def _is_free(self, host: str, now: float) -> bool:
        """Whether a host may be asked now, be it with the one probe."""
        hold, traffic = self._holds.get(host), self._traffic.get(host)
        if hold is not None and (hold.probing is not None or now < hold.until):
            return False
        return traffic is None or traffic.is_free(now)

    def _is_open(self, host: str, now: float) -> bool:
        """Whether a host may be asked now, as one that is up."""
        return host not in self._holds and self._is_free(host, now)

    def _ready(self, entry: Job, worker: int, now: float) -> bool:
        if not entry.missing:
            return False
        if not entry.pinned and (entry.busy or entry.merge or entry.merging):
            return False
        if not entry.pinned and entry.missing.lowest:
            return False
        if entry.stream and (entry.busy or entry.owner not in (None, worker)):
            return False
        self._elsewhere(entry, now)
        if entry.hold is not None and now < entry.hold.until:
            return False
        return self._is_free(entry.host, now)

    def _wake(self, entry: Job, now: float) -> None:
        due = [segment for segment, when in entry.waiting.items() if when <= now]
        for segment in due:
            del entry.waiting[segment]
            entry.missing.add(segment)

    def _elsewhere(self, entry: Job, now: float) -> None:
        """Move a job whose host is held back to a mirror that is up, and of use; if there is none,
        to one that may be probed now."""
        if len(entry.hosts) == 1 or self._is_open(entry.host, now):
            return
        hold = self._holds.get(entry.host)
        if entry.trial and hold is not None and hold.probes < WAITED:
            return  # it may be the right one, and all of it from a wrong one costs more
        useful = self._useful(entry)
        up = [n for n in useful if self._is_open(entry.hosts[n], now)]
        if not up and not self._is_free(entry.host, now):
            up = [n for n in useful if self._is_free(entry.hosts[n], now)]
        if (found := self._mirrors.fastest(entry.hosts, up)) is not None:
            entry.mirror, entry.hold = found, None

    def _rest(self, now: float) -> Wait | Finished:
        if not (self._active or self._fresh or self._untouched):
            return self._rest_for_links(now)
        active = [self._jobs[job] for job in self._active]
        times = [t for entry in active for t in entry.waiting.values()]
        times += [entry.hold.until for entry in active if entry.hold]
        times += [h.until for h in self._holds.values() if h.probing is None]
        times += [t for traffic in self._traffic.values() for t in traffic.when()]
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
        return begun + sorted(pair for queue in self._untouched.values() for pair in queue)

    def owns(self, worker: int) -> bool:
        """Whether a target waits for this worker alone: it reads the one stream."""
        streams = (self._jobs[job] for job in self._active if self._jobs[job].stream)
        return any(entry.owner == worker for entry in streams)

    # -- reporting back --------------------------------------------------------------------------

    def _entry(self, job: int) -> Job:
        """A job; of one that is delivered there is only this left."""
        return self._jobs.get(job) or Job((), Missing(0, 0), 0, state=State.OVER, epoch=-1)

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
        if self._unprobe(work, worker):
            del self._holds[work.host]
        entry, traffic = self._entry(work.job), self._traffic[work.host]
        if self._still(work, entry):
            traffic.disguises = traffic.disguises or entry.doubts > 0
            entry.hold, entry.doubts = None, 0
        if worker not in self._served:
            self._served[worker] = work.host
            return traffic.answered(quota, now)
        return None

    @staticmethod
    def _still(work: Fetch, entry: Job) -> bool:
        """Whether the job is still asked for at the URL that this work is of."""
        return (work.issue, work.mirror) == (entry.issue, entry.mirror)

    def progressed(self, work: Fetch) -> None:
        """A byte came beyond the furthest that was reached: the tries start from none again."""
        entry = self._entry(work.job)
        entry.tries.pop(_STREAM if entry.stream else work.segment, None)

    def committed(self, work: Fetch, count: int | None) -> None:
        """The segment is held, or the target ended before it: its front may move. `count`: how
        many segments there are, as far as is known by now."""
        entry = self._entry(work.job)
        if entry.epoch == work.epoch:
            if entry.count is None and count is not None:
                entry.count, entry.missing = count, Missing(count, count)
            self._want_merge(work.job, entry)

    def done(self, work: Work, worker: int) -> None:
        """The work is over: the segment is held, or the front has moved."""
        self._unprobe(work, worker)  # what was held already has asked nobody
        self._end(work, worker)
        entry = self._entry(work.job)
        if entry.epoch != work.epoch:
            return
        if isinstance(work, Merge):
            self._merged(work.job, entry)
            return
        number = work.segment
        entry.busy.pop(number, None)
        entry.tries.pop(number, None)
        if number in entry.lost:
            entry.lost.discard(number)
            entry.missing.add(number)
        if entry.count is None and not entry.missing:
            self._add_next(entry, number)

    def _merged(self, job: int, entry: Job) -> None:
        entry.merging = False
        if entry.merge and entry.state is not State.OVER:  # more has come meanwhile
            self._due[job] = None

    def release(self, work: Work, worker: int) -> None:
        """The work was not done and nothing is wrong with it (a pause, a stop)."""
        self._unprobe(work, worker)
        self._end(work, worker)
        entry = self._entry(work.job)
        if entry.epoch == work.epoch:
            self._put_back(entry, work)

    def lost(self, job: int, segment: int) -> None:
        """A segment that was held is not what its record said: it is missing again."""
        entry = self._entry(job)
        if segment in entry.busy:  # its worker has committed it, and is not done yet
            entry.lost.add(segment)
        elif segment not in entry.waiting and segment not in entry.missing:
            entry.missing.add(segment)

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
        entry = self._jobs[job]
        entry.epoch += 1
        entry.busy.clear()
        entry.waiting.clear()
        entry.lost.clear()
        entry.missing = Missing(1, count or 1)
        entry.waiting[0] = not_before
        entry.count, entry.pinned = count, False
        entry.merge = entry.merging = False
        self._due.pop(job, None)
        entry.stream, entry.owner, entry.confirmed = False, None, False

    def settle(self, work: Work, worker: int, error: SegdlError, now: float) -> Decision:
        """What becomes of failed work. The segment has been put back where that is right."""
        held_back = self._unprobe(work, worker)
        self._end(work, worker)
        entry = self._entry(work.job)
        if not self.current(work):
            if entry.epoch == work.epoch:  # it is over, but may be taken up again
                self._put_back(entry, work)
            return Ignore()
        if isinstance(work, Merge):
            return self._give_up(work, error)
        match error:
            case BusyError():
                self._crowd(work.host, error, now)
                return self._busy(work, entry, error, now)
            case TransientError(status=403):
                return self._crowded(work, entry, error, now)
            case RefusedError(doubtful=True) if self._doubts(work, entry):
                return self._doubted(work, entry, error, now)
            case TransientError():
                return self._again(work, entry, error, now, held_back)
            case StaleError() | SizeError() if (other := self._astray(work, entry)) is not None:
                return other
            case ContentError():
                return self._strike(work, entry, error, now)
            case StaleError():
                return self._restart(work, entry, error)
            case NoRangesError():
                return self._denied(work, entry, now)
            case ExpiredError():
                return self._mirror(work, entry) or self._pause(work, entry)
            case RefusedError() | UnreachableError():
                return self._mirror(work, entry) or self._give_up(work, error)
        return self._give_up(work, error)

    def _crowd(self, host: str, error: BusyError, now: float) -> None:
        """A 429 is about others, one dressed as 403 too, and S3's SlowDown; a 503 is, if the host
        serves others."""
        traffic = self._traffic[host]
        too_many = error.status in (403, 429) or (error.code or "").startswith("SlowDown")
        if too_many or (error.status == 503 and traffic.served):
            traffic.refused(now)

    def _crowded(self, work: Fetch, entry: Job, error: TransientError, now: float) -> Decision:
        """A link that has worked is refused: some say so to whoever asks for too much at once.

        The host takes fewer from now on; it is held back only if it serves nobody.
        """
        traffic = self._traffic[work.host]
        traffic.disguises = True
        counted = entry.hold is None or now >= entry.hold.until
        if not traffic.refused(now):
            decision = self._busy(work, entry, error, now)
        else:
            decision = self._snub(work, entry, error, now)
        if not isinstance(decision, Again) or not counted or not entry.hold:
            return decision
        if entry.hold.probes < MEANT:
            return decision
        final = _exhausted(error, f"refused {MEANT} times in a row")
        return self._mirror(work, entry) or self._give_up(work, final)

    def _snub(self, work: Fetch, entry: Job, error: TransientError, now: float) -> Again:
        """Hold one job back, and not its host."""
        self._put_back(entry, work)
        if not self._still(work, entry):
            return Again(0.0)
        if entry.hold is None or now >= entry.hold.until:  # else it failed with one that counted
            entry.hold = self._longer(entry.hold, error.retry_after, now)
        return Again(entry.hold.until - now)

    def _doubts(self, work: Fetch, entry: Job) -> bool:
        """Whether a first refusal may be the host's way to say that it is too much."""
        traffic = self._traffic[work.host]
        return self._still(work, entry) and (
            traffic.disguises or (traffic.under_way > 0 and entry.doubts < DOUBTED)
        )

    def _doubted(self, work: Fetch, entry: Job, error: SegdlError, now: float) -> Decision:
        entry.doubts += 1
        transient = error.become(TransientError)
        if self._traffic[work.host].disguises:
            return self._crowded(work, entry, transient, now)
        return self._snub(work, entry, transient, now)

    def _busy(self, work: Fetch, entry: Job, error: TransientError, now: float) -> Decision:
        self._put_back(entry, work)
        self._mirrors.failed(work.host, now)
        hold = self._holds.get(work.host)
        if hold is not None and now < hold.until:  # others failed with the one that was counted
            hold.until = max(hold.until, now + (error.retry_after or 0.0))
            return Again(hold.until - now, work.host)
        hold = self._holds[work.host] = self._longer(hold, error.retry_after, now)
        if now - hold.since >= self._patience:
            return self._forsake(work.host, error)
        if self._still(work, entry):
            entry.hold = self._longer(entry.hold, error.retry_after, now)
        if entry.hold and now - entry.hold.since >= self._patience:  # the host answers for others
            final = _exhausted(error, "patience is used up")
            return self._mirror(work, entry) or self._give_up(work, final)
        return Again(hold.until - now, work.host)

    def _longer(self, hold: Hold | None, retry_after: float | None, now: float) -> Hold:
        """The hold after one more probe that failed. The last probe goes as patience ends."""
        since, probes = (hold.since, hold.probes + 1) if hold else (now, 1)
        wait = probe_wait(probes) * (0.95 + self._chance() / 20)
        wait = min(wait, max(since + self._patience - now, 0.0))
        until = now + max(wait, retry_after or 0.0)
        return Hold(since, until, probes, hold.probing if hold else None)

    def _forsake(self, host: str, error: SegdlError) -> Decision:
        """Patience with a host is used up: its targets move to a mirror, or are over."""
        del self._holds[host]
        for hosts in [hosts for hosts in self._untouched if hosts[0] == host]:
            while hosts in self._untouched:
                self._touch(hosts)
        jobs = [j for j in (*self._active, *self._fresh) if self._needs(self._jobs[j], host)]
        ended = tuple(j for j in jobs if not self._leave(self._jobs[j], host))
        for job in ended:
            self.over(job)
        return GiveUp(ended, _exhausted(error, "patience is used up"))

    def _needs(self, entry: Job, host: str) -> bool:
        """Whether a job waits for a host, there or at another one that is down too."""
        return entry.host == host or (host in entry.hosts and entry.host in self._holds)

    def _leave(self, entry: Job, host: str) -> bool:
        """Never go back to the mirrors on a host. False if there are no others."""
        there = {n for n, name in enumerate(entry.hosts) if name == host}
        entry.refused |= there
        if entry.mirror not in entry.refused or self._next_mirror(entry):
            return True
        return entry.spared is not None and self._try_another(entry, there)

    def _again(
        self, work: Fetch, entry: Job, error: SegdlError, now: float, held_back: bool
    ) -> Decision:
        if held_back:  # the host is up again, if not well: patience is no longer what is asked
            self._holds.pop(work.host, None)
            entry.hold = None
        key = _STREAM if entry.stream else work.segment
        tries = entry.tries[key] = entry.tries.get(key, 0) + 1
        if tries > self._retries:
            entry.tries.pop(key)
            if _contradicts(error) and not (entry.confirmed or entry.doubted):
                entry.doubted = True  # perhaps it was the pin's own answer that erred
                return Restart()
            return self._mirror(work, entry) or self._give_up(
                work, _exhausted(error, f"given up after {tries} tries")
            )
        if tries > 1 and len(entry.hosts) > 1 and entry.mirror == work.mirror:
            self._next_mirror(entry)  # a silent host must not use up every try
        wait = backoff(tries, self._chance())
        return Restart(wait) if entry.stream else self._later(work, entry, now + wait, now)

    def _strike(self, work: Fetch, entry: Job, error: SegdlError, now: float) -> Decision:
        strikes = entry.strikes[work.segment] = entry.strikes.get(work.segment, 0) + 1
        if strikes >= STRIKES:
            return self._mirror(work, entry) or self._give_up(work, error)
        if entry.mirror == work.mirror:
            self._next_mirror(entry)
        wait = backoff(strikes, self._chance())
        return Restart(wait) if entry.stream else self._later(work, entry, now + wait, now)

    def _astray(self, work: Fetch, entry: Job) -> Decision | None:
        """A mirror has another object: leave it out, as long as another one may have the right
        one. None if there is none: then the object itself is another now."""
        if len(entry.hosts) == 1:
            return None
        if work.issue == entry.issue:
            entry.astray.add(work.mirror)
        return self._mirror(work, entry)

    def condemn(self, job: int) -> bool:
        """All of it was fetched, and is wrong: one mirror may be to blame, so each has to give all
        of it alone from now on. False if every one that is of use has done so."""
        entry = self._jobs[job]
        if entry.spared is not None:
            entry.guilty.add(entry.mirror)
        return self._try_another(entry, set())

    def pinned_by(self, job: int, mirror: int) -> None:
        """A mirror has answered the probe: on trial it is kept to."""
        entry = self._jobs[job]
        if entry.trial and mirror < len(entry.hosts):
            entry.trial, entry.spared = False, set(entry.refused)
            entry.refused = set(range(len(entry.hosts))) - {mirror}
            entry.mirror, entry.hold = mirror, None

    def _try_another(self, entry: Job, refused: set[int]) -> bool:
        """Put another mirror on trial, if one is left."""
        before = entry.refused if entry.spared is None else entry.spared
        entry.refused = before | entry.guilty | refused
        entry.trial, entry.spared = True, None
        useful = self._useful(entry)
        if useful:
            entry.mirror, entry.hold = useful[0], None
        return bool(useful)

    def _restart(self, work: Fetch, entry: Job, error: SegdlError) -> Decision:
        entry.restarts += 1
        entry.refused -= entry.astray
        entry.astray.clear()
        entry.mirror = next(iter(self._useful(entry)), entry.mirror)
        if entry.restarts > RESTARTS:
            return self._give_up(work, _exhausted(error, f"started again {RESTARTS} times"))
        return Restart()

    def _denied(self, work: Fetch, entry: Job, now: float) -> Decision:
        """One whole answer may be an accident; held bytes are not given up for the first."""
        entry.denials += 1
        if entry.denials >= DENIALS:
            return Restart()
        return self._later(work, entry, now + backoff(entry.denials, self._chance()), now)

    def _later(self, work: Fetch, entry: Job, when: float, now: float) -> Again:
        entry.busy.pop(work.segment, None)
        entry.lost.discard(work.segment)
        entry.waiting[work.segment] = when
        return Again(when - now)

    def _pause(self, work: Fetch, entry: Job) -> Decision:
        self._put_back(entry, work)
        if entry.state is State.PAUSED:
            return Ignore()
        entry.state = State.PAUSED
        self._close(work.job)
        self._paused[work.job] = None
        return Pause()

    def _give_up(self, work: Work, error: SegdlError) -> Decision:
        self._put_back(self._jobs[work.job], work)
        self.over(work.job)
        return GiveUp((work.job,), error)

    def _mirror(self, work: Fetch, entry: Job) -> Decision | None:
        """Go on with another mirror, if one is left that has not refused; or with fresh URLs, if
        they came while this was under way."""
        left = None
        if work.issue == entry.issue:
            left = None if work.mirror in entry.refused else work.host
            entry.refused.add(work.mirror)
            if entry.mirror in entry.refused and not self._next_mirror(entry):
                kept = entry.spared is not None
                return Restart() if kept and self._try_another(entry, {work.mirror}) else None
        entry.strikes.pop(work.segment, None)
        self._put_back(entry, work)
        return Again(0.0, left=left)

    @staticmethod
    def _next_mirror(entry: Job) -> bool:
        """Move on to the next mirror that has not refused; False if there is none."""
        count = len(entry.hosts)
        in_turn = ((entry.mirror + step) % count for step in range(1, count + 1))
        found = next((n for n in in_turn if n not in entry.refused), None)
        if found is None:
            return False
        entry.mirror, entry.hold = found, None
        return True

    def _put_back(self, entry: Job, work: Work) -> None:
        if isinstance(work, Merge):
            entry.merge = True
            self._merged(work.job, entry)
        elif entry.busy.pop(work.segment, None) is not None:
            entry.lost.discard(work.segment)
            entry.missing.add(work.segment)

    def _end(self, work: Work, worker: int) -> None:
        """A worker asks the host of its work no more."""
        if isinstance(work, Fetch):
            self.helped(work, worker)

    def _unprobe(self, work: Work, worker: int) -> bool:
        """Whether this work was the probe of a host that is held back; it is no longer."""
        hold = self._holds.get(work.host) if isinstance(work, Fetch) else None
        if hold is None or hold.probing != worker:
            return False
        hold.probing = None
        return True

    def _close(self, job: int) -> None:
        self._active.pop(job, None)
        self._fresh.pop(job, None)
        self._paused.pop(job, None)


def _contradicts(error: SegdlError) -> bool:
    return isinstance(error, MisansweredError) and error.contradicts


def _exhausted(error: SegdlError, how: str) -> SegdlError:
    """The last error of many, as one that is final."""
    kind = RefusedError if error.status in (401, 403) else UnreachableError
    return error.become(kind, f"{error.message}; {how}")
