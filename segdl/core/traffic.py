"""How many requests a host takes: by its own word, and by what it refuses.

Two rules, each undone as soon as what it was for is over:

- *Its word*: `X-RateLimit-Remaining` and its kin. Where it also says when the count begins anew,
  what remains is spread over that time; where it does not (MinIO: what remains of the requests that
  it serves at once), a quarter of what remains is left to others.
- *What it refuses*: a host that serves some requests and refuses others takes as many at once as it
  was serving then, but no fewer than half of what was asked. From time to time it is asked for one
  more: later each time that it says no, sooner each time that it serves. One that serves none is
  busy or down, and that is the schedule's to wait out.

Pure; times are monotonic seconds, but for those of headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from segdl.core.dataclass import dataclass

PLENTY = 4  # requests for each one under way: with fewer left, a host is asked more slowly
LONGEST = 60.0  # seconds: a host's word is heeded up to here
SLOWLY = 0.5  # seconds between two requests where little remains, and nobody says of what
FIRST_STEP, LONGEST_STEP = 5.0, 60.0  # seconds until one request more is tried
SHORTEST_STEP = 1.0  # seconds, once that has gone well
_BURST = 1.0  # seconds: refusals that come together count as one
_EPOCH = 1e9  # a time of reset beyond this is no number of seconds, but unix time


@dataclass(frozen=True, slots=True)
class Quota:
    """What a host says that it still takes: `remaining` requests, for `reset` seconds if known."""

    remaining: int
    reset: float | None = None


def read_quota(headers: Iterable[tuple[str, str]], now: float) -> Quota | None:
    """What an answer's headers (lower-case names) say; `now` is the server's unix time.

    `X-RateLimit-*` is everybody's custom and nobody's standard: its reset is a number of seconds or
    unix time. `RateLimit-*` is draft-ietf-httpapi-ratelimit-headers-06.
    """
    told = {k.removeprefix("x-"): v for k, v in headers if "ratelimit" in k}
    if not told or (remaining := _number(told.get("ratelimit-remaining"))) is None:
        return None
    reset = _number(told.get("ratelimit-reset"))
    if reset is not None and reset > _EPOCH:
        reset = max(reset - now, 0.0)
    return Quota(int(remaining), reset)


def _number(text: str | None) -> float | None:
    found = re.match(r"\s*(\d{1,12})(?![\d.])", text or "", re.ASCII)
    return float(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Course:
    """How a host is to be asked: at most so many at once, so many seconds from one to the next."""

    most: int | None = None
    gap: float = 0.0


FREELY = Course()


def course(quota: Quota | None, under_way: int) -> Course:
    """What follows from a host's word, with `under_way` requests to it."""
    if quota is None or quota.remaining >= PLENTY * max(under_way, 1):
        return FREELY
    if quota.reset == 0:
        return FREELY
    if quota.reset is not None:
        return Course(gap=min(quota.reset / max(quota.remaining, 1), LONGEST))
    most = max((quota.remaining + under_way) * 3 // 4, 1)
    return Course(most, 0.0 if quota.remaining else SLOWLY)


@dataclass(slots=True)
class Traffic:
    """The requests to one host."""

    under_way: int = 0
    served: int = 0  # of those, by how many the host gave what was asked for
    most: int | None = None  # at once, by what it refused
    word: Course = FREELY
    disguises: bool = False  # it has said 403 where it meant "too many"
    _next: float = 0.0  # no request before this time
    _step: float = FIRST_STEP
    _more_at: float = 0.0  # when one more may be tried
    _refused_at: float = float("-inf")
    _tried_at: float = float("-inf")  # when one more was tried

    def is_free(self, now: float) -> bool:
        """Whether another request may go now."""
        if now < self._next and self.word.gap:
            return False
        if self.word.most is not None and self.under_way >= self.word.most:
            return False
        return self.most is None or self.under_way < self.most or now >= self._more_at

    def when(self) -> list[float]:
        """The times at which another may go that may not go now."""
        times = [self._next] if self.word.gap else []
        return times if self.most is None else [*times, self._more_at]

    def begin(self, now: float) -> None:
        """A request goes."""
        self.under_way += 1
        self._next = now + self.word.gap
        if self.most is not None and self.under_way > self.most:  # the one more
            if self._refused_at < self._tried_at:  # the one before went well
                self._step = max(self._step / 2, SHORTEST_STEP)
            self.most = self.under_way
            self._tried_at, self._more_at = now, now + self._step

    def answered(self, quota: Quota | None, now: float) -> float | None:
        """The host gives what was asked for. Returns the seconds between two requests, if it is
        from now on that its word slows them down."""
        self.served += 1
        if self.most is not None:
            self.most = max(self.most, self.served)
        before, self.word = self.word, course(quota, self.under_way)
        self._next = now + self.word.gap
        return self.word.gap if before is FREELY and self.word is not FREELY else None

    def end(self, *, served: bool) -> None:
        """A request is over."""
        self.under_way -= 1
        self.served -= served

    def refused(self, now: float) -> bool:
        """The host refused a request, which is over: whether that may be because of others."""
        if not self.under_way:
            return False
        self.most = max(self.served, self.under_way // 2, 1)
        if now - self._refused_at > _BURST:
            self._step = min(2 * self._step, LONGEST_STEP)
        self._refused_at, self._more_at = now, now + self._step
        return True
