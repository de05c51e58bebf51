"""What becomes of work that failed: every error is sorted by what to do next.

It is put back or put off, goes to another mirror, or its target starts again, pauses, or is given
up. What an error says of its host is noted there. The queue is the schedule's: it acts on what is
decided here of whole targets.

- A busy host is held back, and the job that met it too: a host that answers only for others must
  not be taken to be down.
- A refusal by a host that serves others, of a link that has worked, may mean "too many".
- Wrong content, tries without a byte, refusals: each has its count, and then its target goes to
  another mirror, or is given up.
"""

from __future__ import annotations

from collections.abc import Callable

from segdl.core.dataclass import dataclass
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
from segdl.core.hosts import Hosts
from segdl.core.job import Job, State
from segdl.core.pace import backoff
from segdl.core.work import Again, Decision, Fetch, GiveUp, Ignore, Pause, Restart

STRIKES = 3  # times that content may be wrong before it is believed to be what the server has
DENIALS = 3  # whole answers to a range before what is held is given up for one stream
_STREAM = -2  # the key of a one-stream target's tries: they are the target's, not a segment's
MEANT = 6  # refusals in a row, over more than a minute, before a link that worked is given up
DOUBTED = 2  # refusals of a link that others got past, before it is believed to be meant
RESTARTS = 5  # times that an object may be replaced during one run


@dataclass(frozen=True, slots=True)
class Forsake:
    """Patience with a host is used up, and so for all its targets."""

    host: str
    error: SegdlError


class Settling:
    """The decisions on failed work; what they count is each job's."""

    def __init__(self, hosts: Hosts, retries: int, chance: Callable[[], float]) -> None:
        self._hosts = hosts
        self._retries = retries
        self._chance = chance

    def progressed(self, work: Fetch, job: Job) -> None:
        """A byte came beyond the furthest that was reached: the tries start from none again."""
        job.tries.pop(_key(work, job), None)

    def settle(
        self, work: Fetch, job: Job, error: SegdlError, now: float, *, probed: bool
    ) -> Decision | Forsake:
        """What becomes of work that counts still; `probed`: it was the probe of a held host.

        The segment has been put back where that is right.
        """
        match error:
            case BusyError():
                self._hosts.crowd(work.host, error, now)
                return self._busy(work, job, error, now)
            case TransientError(status=403):
                return self._crowded(work, job, error, now)
            case RefusedError(doubtful=True) if self._doubts(work, job):
                return self._doubted(work, job, error, now)
            case TransientError():
                return self._again(work, job, error, now, probed)
            case StaleError() | SizeError() if (other := self._astray(work, job)) is not None:
                return other
            case ContentError():
                return self._strike(work, job, error, now)
            case StaleError():
                return self._restart(work, job, error)
            case NoRangesError():
                return self._denied(work, job, now)
            case ExpiredError():
                return self._mirror(work, job) or _pause(work, job)
            case RefusedError() | UnreachableError():
                return self._mirror(work, job) or _give_up(work, job, error)
        return _give_up(work, job, error)

    # -- a host that is down, busy, or serves others -----------------------------------------------

    def _busy(self, work: Fetch, job: Job, error: TransientError, now: float) -> Decision | Forsake:
        job.put_back(work.segment)
        self._hosts.speeds.failed(work.host, now)
        hold = self._hosts.hold(work.host)
        if hold is not None and now < hold.until:  # others failed with the one that was counted
            hold.until = max(hold.until, now + (error.retry_after or 0.0))
            return Again(hold.until - now, work.host)
        hold = self._hosts.hold_back(work.host, error.retry_after, now)
        if self._hosts.is_used_up(hold, now):
            return Forsake(work.host, _exhausted(error, "patience is used up"))
        choice = job.choice
        if choice.is_at(work):
            choice.hold = self._hosts.longer(choice.hold, error.retry_after, now)
        if choice.hold and self._hosts.is_used_up(choice.hold, now):  # it answers for others
            final = _exhausted(error, "patience is used up")
            return self._mirror(work, job) or _give_up(work, job, final)
        return Again(hold.until - now, work.host)

    def _crowded(
        self, work: Fetch, job: Job, error: TransientError, now: float
    ) -> Decision | Forsake:
        """A link that has worked is refused: some say so to whoever asks for too much at once.

        The host takes fewer from now on; it is held back only if it serves nobody.
        """
        traffic, choice = self._hosts.traffic(work.host), job.choice
        traffic.disguises = True
        counted = choice.hold is None or now >= choice.hold.until
        if not traffic.refused(now):
            decision = self._busy(work, job, error, now)
        else:
            decision = self._snub(work, job, error, now)
        if not isinstance(decision, Again) or not counted or not choice.hold:
            return decision
        if choice.hold.probes < MEANT:
            return decision
        final = _exhausted(error, f"refused {MEANT} times in a row")
        return self._mirror(work, job) or _give_up(work, job, final)

    def _snub(self, work: Fetch, job: Job, error: TransientError, now: float) -> Again:
        """Hold one job back, and not its host."""
        job.put_back(work.segment)
        choice = job.choice
        if not choice.is_at(work):
            return Again(0.0)
        if choice.hold is None or now >= choice.hold.until:  # else it failed with one that counted
            choice.hold = self._hosts.longer(choice.hold, error.retry_after, now)
        return Again(choice.hold.until - now)

    def _doubts(self, work: Fetch, job: Job) -> bool:
        """Whether a first refusal may be the host's way to say that it is too much."""
        traffic = self._hosts.traffic(work.host)
        return job.choice.is_at(work) and (
            traffic.disguises or (traffic.under_way > 0 and job.doubts < DOUBTED)
        )

    def _doubted(self, work: Fetch, job: Job, error: SegdlError, now: float) -> Decision | Forsake:
        job.doubts += 1
        transient = error.become(TransientError)
        if self._hosts.traffic(work.host).disguises:
            return self._crowded(work, job, transient, now)
        return self._snub(work, job, transient, now)

    # -- what is counted ---------------------------------------------------------------------------

    def _again(
        self, work: Fetch, job: Job, error: SegdlError, now: float, probed: bool
    ) -> Decision:
        if probed:  # the host is up again, if not well: patience is no longer what is asked
            self._hosts.let_go(work.host)
            job.choice.hold = None
        key = _key(work, job)
        tries = job.tries[key] = job.tries.get(key, 0) + 1
        if tries > self._retries:
            job.tries.pop(key)
            if _contradicts(error) and not (job.confirmed or job.doubted):
                job.doubted = True  # perhaps it was the pin's own answer that erred
                return Restart()
            final = _exhausted(error, f"given up after {tries} tries")
            return self._mirror(work, job) or _give_up(work, job, final)
        if tries > 1 and len(job.choice.hosts) > 1 and job.choice.mirror == work.mirror:
            job.choice.move_on()  # a silent host must not use up every try
        return self._later_or_anew(work, job, tries, now)

    def _strike(self, work: Fetch, job: Job, error: SegdlError, now: float) -> Decision:
        strikes = job.strikes[work.segment] = job.strikes.get(work.segment, 0) + 1
        if strikes >= STRIKES:
            return self._mirror(work, job) or _give_up(work, job, error)
        if job.choice.mirror == work.mirror:
            job.choice.move_on()
        return self._later_or_anew(work, job, strikes, now)

    def _later_or_anew(self, work: Fetch, job: Job, times: int, now: float) -> Decision:
        """The segment is tried again; one stream can only begin anew."""
        wait = backoff(times, self._chance())
        return Restart(wait) if job.stream else _later(work, job, now + wait, now)

    def _denied(self, work: Fetch, job: Job, now: float) -> Decision:
        """One whole answer may be an accident; held bytes are not given up for the first."""
        job.denials += 1
        if job.denials >= DENIALS:
            return Restart()
        return _later(work, job, now + backoff(job.denials, self._chance()), now)

    # -- another mirror, or another object ---------------------------------------------------------

    def _mirror(self, work: Fetch, job: Job) -> Decision | None:
        """Go on with another mirror, if one is left that has not refused; or with fresh URLs, if
        they came while this was under way."""
        choice, left = job.choice, None
        if work.issue == choice.issue:
            left = None if choice.is_left(work.mirror) else work.host
            if not choice.leave({work.mirror}):
                return Restart() if choice.try_next_alone({work.mirror}) else None
        job.strikes.pop(work.segment, None)
        job.put_back(work.segment)
        return Again(0.0, left=left)

    def _astray(self, work: Fetch, job: Job) -> Decision | None:
        """A mirror has another object: leave it out, as long as another one may have the right
        one. None if there is none: then the object itself is another now."""
        if len(job.choice.hosts) == 1:
            return None
        if work.issue == job.choice.issue:
            job.choice.has_other_object(work.mirror)
        return self._mirror(work, job)

    def _restart(self, work: Fetch, job: Job, error: SegdlError) -> Decision:
        job.restarts += 1
        job.choice.is_other_object()
        if job.restarts > RESTARTS:
            final = _exhausted(error, f"started again {RESTARTS} times")
            return _give_up(work, job, final)
        return Restart()


def _key(work: Fetch, job: Job) -> int:
    """What the tries of work are counted by."""
    return _STREAM if job.stream else work.segment


def _later(work: Fetch, job: Job, when: float, now: float) -> Again:
    job.put_off(work.segment, when)
    return Again(when - now)


def _pause(work: Fetch, job: Job) -> Decision:
    job.put_back(work.segment)
    return Ignore() if job.state is State.PAUSED else Pause()


def _give_up(work: Fetch, job: Job, error: SegdlError) -> Decision:
    job.put_back(work.segment)
    return GiveUp((work.job,), error)


def _contradicts(error: SegdlError) -> bool:
    return isinstance(error, MisansweredError) and error.contradicts


def _exhausted(error: SegdlError, how: str) -> SegdlError:
    """The last error of many, as one that is final."""
    kind = RefusedError if error.status in (401, 403) else UnreachableError
    return error.become(kind, f"{error.message}; {how}")
