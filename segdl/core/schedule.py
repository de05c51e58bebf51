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
  then asked with one probe at a time.
- `settle` sorts every failure by what to do next, and says what it decided.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from segdl.core.errors import (
    BusyError,
    ContentError,
    ExpiredError,
    NoRangesError,
    RefusedError,
    SegdlError,
    StaleError,
    TransientError,
    UnreachableError,
)
from segdl.core.pace import backoff, probe_wait

STRIKES = 3  # times that content may be wrong before it is believed to be what the server has
DENIALS = 3  # whole answers to a range before what is held is given up for one stream
_STREAM = -2  # the key of a one-stream target's tries: they are the target's, not a segment's
RESTARTS = 5  # times that an object may be replaced during one run


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch a segment. `epoch` tells a restarted target's work from what went before."""

    job: int
    segment: int
    epoch: int
    mirror: int
    probe: bool  # the target is not pinned yet


@dataclass(frozen=True, slots=True)
class Recheck:
    """Read back and verify what is held, merge it, deliver it if it is all there."""

    job: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until`, or until something changes (None)."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is left to do: every job is delivered, failed or paused."""


Work = Fetch | Recheck
Answer = Work | Wait | Finished


@dataclass(frozen=True, slots=True)
class Again:
    """Try it again in `wait` seconds; `host` is set if the whole host is held back."""

    wait: float
    host: str | None = None


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
    """The work was of an epoch that has passed."""


Decision = Again | Restart | Pause | GiveUp | Ignore


class State(Enum):
    OPEN = auto()
    PAUSED = auto()
    OVER = auto()  # delivered or failed


@dataclass(slots=True)
class Job:
    """One target's place in the schedule."""

    hosts: tuple[str, ...]  # a host for each mirror
    missing: list[int]  # a heap
    count: int | None  # segments; None while unknown
    pinned: bool = False
    recheck: bool = False
    state: State = State.OPEN
    epoch: int = 0
    mirror: int = 0
    refused: int = 0  # mirrors that have refused
    restarts: int = 0
    denials: int = 0
    owner: int | None = None  # the worker that reads the one stream
    stream: bool = False  # the server ignores ranges
    started: bool = False
    busy: dict[int, int] = field(default_factory=dict)  # segment: worker
    waiting: dict[int, float] = field(default_factory=dict)  # segment: not before
    tries: dict[int, int] = field(default_factory=dict)
    strikes: dict[int, int] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.hosts[self.mirror]


@dataclass(slots=True)
class Hold:
    """A host that is down or busy."""

    since: float
    until: float
    probes: int = 1
    probing: int | None = None  # the worker that asks


class Schedule:
    """The order's queue. Not thread-safe: callers hold one lock around every call."""

    def __init__(self, *, retries: int, patience: float, chance: Callable[[], float]) -> None:
        self._retries = retries
        self._patience = patience
        self._chance = chance
        self._jobs: dict[int, Job] = {}
        self._fresh: dict[int, None] = {}  # open and never taken, in order
        self._active: dict[int, None] = {}  # open and taken at least once
        self._holds: dict[str, Hold] = {}

    # -- filling ---------------------------------------------------------------------------------

    def add(
        self, job: int, hosts: tuple[str, ...], count: int | None, held: Iterable[int], *,
        pinned: bool, recheck: bool,
    ) -> None:  # fmt: skip
        """Enter a target: `count` segments (None: unknown), of which `held` are on disk.

        `recheck`: something of it is on disk, and is looked at before anything is merged.
        """
        have = set(held)
        missing = [n for n in range(1 if count is None else max(count, 1)) if n not in have]
        if count == 0 and pinned:
            missing = []
        self._jobs[job] = Job(hosts, missing, count, pinned=pinned, recheck=recheck)
        self._fresh[job] = None

    def learn(self, job: int, count: int | None, held: Iterable[int] = ()) -> None:
        """The probe was answered: there are `count` segments. The probe itself stays busy."""
        entry = self._jobs[job]
        entry.pinned, entry.count = True, count
        if count is not None:
            have = {*held, *entry.busy, *entry.waiting}
            entry.missing = [n for n in range(count) if n not in have]
        elif not entry.missing:
            entry.missing = [max(entry.busy, default=-1) + 1]

    def dedicate(self, job: int, worker: int) -> None:
        """The server ignores ranges: the target is read by `worker` alone, from the start."""
        self._jobs[job].stream, self._jobs[job].owner = True, worker

    def replace_hosts(self, job: int, hosts: tuple[str, ...]) -> bool:
        """Fresh URLs for a target. Returns whether it was paused and goes on now."""
        entry = self._jobs[job]
        entry.hosts, entry.mirror, entry.refused = hosts, 0, 0
        if entry.state is not State.PAUSED:
            return False
        self._open(job)
        return True

    def reopen(self, job: int) -> None:
        """Take up a failed target again."""
        entry = self._jobs[job]
        entry.tries.clear()
        entry.strikes.clear()
        entry.restarts = entry.refused = 0
        entry.recheck = entry.pinned
        self._open(job)

    def _open(self, job: int) -> None:
        entry = self._jobs[job]
        entry.state = State.OPEN
        for segment in entry.waiting:
            heapq.heappush(entry.missing, segment)
        entry.waiting.clear()
        (self._active if entry.started else self._fresh)[job] = None

    # -- taking ----------------------------------------------------------------------------------

    def take(self, worker: int, now: float, current: int | None) -> Answer:
        """The next work for `worker`, whose last job was `current`."""
        chosen = self._choose(worker, now, current)
        if chosen is None:
            return self._rest(now)
        entry = self._jobs[chosen]
        entry.started = True
        self._fresh.pop(chosen, None)
        self._active[chosen] = None
        if entry.recheck:
            entry.recheck = False
            entry.busy[-1] = worker
            return Recheck(chosen, entry.epoch)
        if (hold := self._holds.get(entry.host)) is not None:
            hold.probing = worker
        segment = heapq.heappop(entry.missing)
        entry.busy[segment] = worker
        return Fetch(chosen, segment, entry.epoch, entry.mirror, probe=not entry.pinned)

    def _choose(self, worker: int, now: float, current: int | None) -> int | None:
        best: tuple[int, bool, bool, int] | None = None
        for job in self._active:
            entry = self._jobs[job]
            self._wake(entry, now)
            self._elsewhere(entry)
            if not self._ready(entry, worker, now):
                continue
            rank = (len(entry.busy), job != current, False, job)
            if best is None or rank < best:
                best = rank
        if best is not None and best[:2] == (0, False):
            return best[3]
        for job in self._fresh:
            if self._ready(self._jobs[job], worker, now):
                return best[3] if best is not None and best[0] == 0 else job
        return best[3] if best is not None else None

    def _ready(self, entry: Job, worker: int, now: float) -> bool:
        if entry.recheck:
            return True
        if not entry.missing or (not entry.pinned and (entry.busy or entry.missing[0] != 0)):
            return False
        if entry.stream and (entry.busy or entry.owner not in (None, worker)):
            return False
        hold = self._holds.get(entry.host)
        return hold is None or (hold.probing is None and now >= hold.until)

    def _wake(self, entry: Job, now: float) -> None:
        due = [segment for segment, when in entry.waiting.items() if when <= now]
        for segment in due:
            del entry.waiting[segment]
            heapq.heappush(entry.missing, segment)

    def _elsewhere(self, entry: Job) -> None:
        """Move a job whose host is held back to a mirror that is not."""
        if len(entry.hosts) > 1 and entry.host in self._holds:
            free = [n for n, host in enumerate(entry.hosts) if host not in self._holds]
            entry.mirror = free[0] if free else entry.mirror

    def _rest(self, now: float) -> Wait | Finished:
        if not self._active and not self._fresh:
            return Finished()
        times = [t for job in self._active for t in self._jobs[job].waiting.values()]
        times += [h.until for h in self._holds.values() if h.probing is None]
        later = [t for t in times if t > now]
        return Wait(min(later) if later else None)

    # -- reporting back --------------------------------------------------------------------------

    def current(self, work: Work) -> bool:
        """Whether the work still counts: its target is not over and was not started again."""
        entry = self._jobs[work.job]
        return entry.state is not State.OVER and entry.epoch == work.epoch

    def answered(self, work: Fetch, worker: int) -> None:
        """The host gave an answer that was believed."""
        hold = self._holds.get(self._host(work))
        if hold is not None and hold.probing in (worker, None):
            del self._holds[self._host(work)]

    def progressed(self, work: Fetch) -> None:
        """A byte came beyond the furthest that was reached: the tries start from none again."""
        entry = self._jobs[work.job]
        entry.tries.pop(_STREAM if entry.stream else work.segment, None)

    def done(self, work: Work) -> None:
        """The work is over: the segment is held, or what was held is rechecked."""
        entry = self._jobs[work.job]
        if entry.epoch != work.epoch:
            return
        number = work.segment if isinstance(work, Fetch) else -1
        entry.busy.pop(number, None)
        if isinstance(work, Fetch) and entry.count is None and not entry.missing:
            entry.missing = [number + 1]

    def release(self, work: Work, worker: int) -> None:
        """The work was not done and nothing is wrong with it (a pause, a stop)."""
        self._unprobe(work, worker)
        entry = self._jobs[work.job]
        if entry.epoch == work.epoch:
            self._put_back(entry, work)

    def lost(self, job: int, segment: int) -> None:
        """A segment that was held is not what its record said: it is missing again."""
        entry = self._jobs[job]
        if segment not in entry.busy and segment not in entry.missing:
            heapq.heappush(entry.missing, segment)

    def over(self, job: int) -> None:
        """The target is delivered, or failed for good."""
        self._jobs[job].state = State.OVER
        self._close(job)

    def unfinished(self) -> list[int]:
        """The jobs that are neither delivered nor failed."""
        return [job for job, entry in self._jobs.items() if entry.state is not State.OVER]

    def restarted(self, job: int, count: int | None, not_before: float = 0.0) -> None:
        """The target starts again from nothing, without a pin; work under way no longer counts."""
        entry = self._jobs[job]
        entry.epoch += 1
        entry.busy.clear()
        entry.waiting.clear()
        entry.missing = list(range(1, count or 1))
        entry.waiting[0] = not_before
        entry.count, entry.pinned, entry.recheck = count, False, False
        entry.stream, entry.owner = False, None

    def settle(self, work: Fetch, worker: int, error: SegdlError, now: float) -> Decision:
        """What becomes of failed work. The segment has been put back where that is right."""
        held_back = self._unprobe(work, worker)
        entry = self._jobs[work.job]
        if not self.current(work):
            return Ignore()
        match error:
            case BusyError():
                return self._busy(work, entry, error, now)
            case TransientError():
                return self._again(work, entry, error, now, held_back)
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

    def _busy(self, work: Fetch, entry: Job, error: BusyError, now: float) -> Decision:
        self._put_back(entry, work)
        host = self._host(work)
        hold = self._holds.get(host)
        if hold is not None and now < hold.until:  # others failed with the one that was counted
            return Again(hold.until - now, host)
        wait = probe_wait(hold.probes if hold else 1) * (0.9 + self._chance() / 10)
        wait = max(wait, error.retry_after or 0.0)
        if hold is None:
            hold = self._holds[host] = Hold(now, now + wait)
        else:
            hold.probes, hold.until = hold.probes + 1, now + wait
        if now - hold.since >= self._patience:
            return self._forsake(host, error)
        return Again(wait, host)

    def _forsake(self, host: str, error: SegdlError) -> Decision:
        """Patience with a host is used up: its targets move to a mirror, or are over."""
        del self._holds[host]
        open_jobs = [j for j in (*self._active, *self._fresh) if self._jobs[j].host == host]
        ended = tuple(j for j in open_jobs if not self._next_mirror(self._jobs[j]))
        for job in ended:
            self.over(job)
        return GiveUp(ended, _exhausted(error, "patience is used up"))

    def _again(
        self, work: Fetch, entry: Job, error: SegdlError, now: float, held_back: bool
    ) -> Decision:
        if held_back:  # the host is up again, if not well: patience is no longer what is asked
            self._holds.pop(self._host(work), None)
        key = _STREAM if entry.stream else work.segment
        tries = entry.tries[key] = entry.tries.get(key, 0) + 1
        if tries > self._retries:
            entry.tries.pop(key)
            return self._mirror(work, entry) or self._give_up(
                work, _exhausted(error, f"given up after {tries} tries")
            )
        wait = backoff(tries, self._chance())
        return Restart(wait) if entry.stream else self._later(work, entry, now + wait, now)

    def _strike(self, work: Fetch, entry: Job, error: SegdlError, now: float) -> Decision:
        strikes = entry.strikes[work.segment] = entry.strikes.get(work.segment, 0) + 1
        if strikes >= STRIKES:
            return self._mirror(work, entry) or self._give_up(work, error)
        self._next_mirror(entry)
        return self._later(work, entry, now + backoff(strikes, self._chance()), now)

    def _restart(self, work: Fetch, entry: Job, error: SegdlError) -> Decision:
        entry.restarts += 1
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
        entry.waiting[work.segment] = when
        return Again(when - now)

    def _pause(self, work: Fetch, entry: Job) -> Decision:
        self._put_back(entry, work)
        entry.state = State.PAUSED
        self._close(work.job)
        return Pause()

    def _give_up(self, work: Fetch, error: SegdlError) -> Decision:
        self._put_back(self._jobs[work.job], work)
        self.over(work.job)
        return GiveUp((work.job,), error)

    def _mirror(self, work: Fetch, entry: Job) -> Decision | None:
        """Go on with the next mirror, if one is left that has not refused."""
        if entry.mirror == work.mirror and not self._next_mirror(entry):
            return None
        entry.strikes.pop(work.segment, None)
        self._put_back(entry, work)
        return Again(0.0)

    def _next_mirror(self, entry: Job) -> bool:
        entry.refused += 1
        if entry.refused >= len(entry.hosts):
            return False
        entry.mirror = (entry.mirror + 1) % len(entry.hosts)
        return True

    def _put_back(self, entry: Job, work: Work) -> None:
        if isinstance(work, Recheck):
            entry.busy.pop(-1, None)
            entry.recheck = True
        elif entry.busy.pop(work.segment, None) is not None:
            heapq.heappush(entry.missing, work.segment)

    def _unprobe(self, work: Work, worker: int) -> bool:
        """Whether this work was the probe of a host that is held back; it is no longer."""
        hold = self._holds.get(self._host(work)) if isinstance(work, Fetch) else None
        if hold is None or hold.probing != worker:
            return False
        hold.probing = None
        return True

    def _host(self, work: Fetch) -> str:
        hosts = self._jobs[work.job].hosts
        return hosts[work.mirror % len(hosts)]

    def _close(self, job: int) -> None:
        self._active.pop(job, None)
        self._fresh.pop(job, None)


def _exhausted(error: SegdlError, how: str) -> SegdlError:
    """The last error of many, as one that is final."""
    kind = RefusedError if error.status in (401, 403) else UnreachableError
    return kind(
        f"{error.message}; {how}",
        status=error.status,
        code=error.code,
        request_id=error.request_id,
    )
