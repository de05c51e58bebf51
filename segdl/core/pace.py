"""How fast and how patiently: backoff, stall window, rate limit, how many at once, who lags."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import field

from segdl.core.dataclass import dataclass

FLOOR = 1024  # bytes a second: a connection below it over the whole stall window is dead
_FIRST, _MOST = 0.25, 5.0
_SAMPLES = 16
PROBE_WAITS = (0.5, 2.0, 8.0, 30.0)  # seconds between the probes of a host that is down


def backoff(tries: int, chance: float) -> float:
    """Seconds before try number `tries` + 1; `chance` in [0, 1) spreads it over the upper half."""
    return float(min(_MOST, _FIRST * 2 ** min(tries - 1, 16)) * (0.5 + chance / 2))


def probe_wait(probes: int) -> float:
    """Seconds before the next probe of a host that failed `probes` in a row."""
    return PROBE_WAITS[min(probes, len(PROBE_WAITS)) - 1]


@dataclass(slots=True)
class StallWatch:
    """Tells a connection that is dead from one that is slow, by forward progress alone.

    A read timeout is defeated by a trickle; this is not. Times are monotonic seconds.
    """

    window: float
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def stalled(self, now: float, total: int) -> bool:
        """Whether less than FLOOR bytes a second came over the last window, at `total` in all."""
        seen = self._seen
        if not seen or now - seen[-1][0] >= self.window / _SAMPLES:
            seen.append((now, total))
        while len(seen) > 1 and seen[1][0] <= now - self.window:
            seen.popleft()
        since, before = seen[0]
        return now - since >= self.window and total - before < FLOOR * self.window

    def excuse(self) -> None:
        """Forget what was seen: segdl itself held the connection back."""
        self._seen.clear()


@dataclass(slots=True)
class Rate:
    """Bytes a second over the last `span` seconds."""

    span: float
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def look(self, now: float, total: int) -> float:
        """The rate now, at `total` bytes in all; 0 while it is too early to tell."""
        self._seen.append((now, total))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self.span:
            self._seen.popleft()
        return _rate(self._seen) if self.age else 0.0

    @property
    def age(self) -> float:
        """Seconds over which it was measured."""
        return _age(self._seen)

    def forget(self) -> None:
        """What comes next is not to be measured by what was."""
        self._seen.clear()


_CREDIT = 0.1  # seconds of the rate that idle time can save up


@dataclass(slots=True)
class Bucket:
    """A rate limit shared by all connections: bytes are paid for after they came."""

    _owed: float = 0.0  # bytes; below 0 is credit
    _since: float = 0.0

    def take(self, now: float, count: int, rate: int | None) -> float:
        """Seconds to wait after `count` more bytes at `rate` bytes a second (None: no limit)."""
        passed, self._since = now - self._since, now
        if rate is None:
            self._owed = 0.0
            return 0.0
        self._owed = max(self._owed - passed * rate, -_CREDIT * rate) + count
        return max(0.0, self._owed / rate)


FEWEST, FIRST, MOST = 1, 4, 16  # connections of `auto`
_LOOK = 1.0  # seconds over which a rate is measured
_GLANCE = 0.25  # seconds after which it can be told whether the workers are busy
_GAIN = 1.08  # a step up must bring this much, or it is taken back
_LOSS = 0.95  # a step down may cost this much
_LOADED = 0.5  # of one core, by all workers
_MOVING = 200e6  # bytes a CPU second; measured: 700e6 to 1000e6 for large files, 120e6 for small
_SETTLED = 15.0  # seconds before another step up is tried after one that brought nothing


@dataclass(slots=True)
class Crowd:
    """How many connections `auto` allows: more while the whole order's rate grows with them.

    Hill climbing on the rate of the whole order, one step a second. A step that brings nothing is
    taken back, and the next one waits; a server that says 429 or 503 halves the number at once.
    While the workers themselves are busy, the line is not what bounds them: then there is no step
    up. Where few bytes come of it (small files; a slow processor too), steps go down, for threads
    that share one interpreter get in each other's way; one that costs is taken back. A short order
    is over by the first step, so that one is not waited for.
    """

    allowed: int = FIRST
    least: int = FEWEST  # that there are while the workers are busy
    _since: float | None = None
    _glanced: bool = False
    _landed: int = 0
    _worked: float = 0.0
    _before: float = 0.0  # the rate before the last step
    _step: int = 0  # what the last step added, while it is judged
    _hold: float = 0.0  # no step before this time

    def look(self, now: float, landed: int, busy: int, worked: float = 0.0) -> int:
        """The number that is allowed now, `landed` bytes into the run with `busy` at work;
        `worked` is the workers' CPU time in seconds."""
        if self._since is None:
            self._since, self._landed, self._worked = now, landed, worked
        elif (passed := now - self._since) >= (_LOOK if self._glanced else _GLANCE):
            rate, load = (landed - self._landed) / passed, (worked - self._worked) / passed
            if passed >= _LOOK or load >= _LOADED:
                self._since, self._landed, self._worked = now, landed, worked
                self._judge(now, rate, busy, load)
            self._glanced = True
        return self.allowed

    def _judge(self, now: float, rate: float, busy: int, load: float) -> None:
        if self._step and rate < self._before * (_GAIN if self._step > 0 else _LOSS):
            self.allowed -= self._step
            self._hold = now + (_SETTLED if self._step > 0 else 4 * _SETTLED)
            self._step = 0
            return
        self._step = 0
        if now >= self._hold:
            self._step = self._next_step(busy, load, rate)
            self.allowed += self._step
            self._before = rate

    def _next_step(self, busy: int, load: float, rate: float) -> int:
        if load >= _LOADED:
            if rate >= _MOVING * load:
                return 0
            return -min(self.allowed // 2, max(self.allowed - self.least, 0))
        if busy < self.allowed:
            return 0
        return min(max(2, self.allowed // 2), MOST - self.allowed)

    def refused(self, now: float) -> None:
        """The server says that it is too much."""
        self.allowed = max(FEWEST, self.allowed // 2)
        self._step, self._hold = 0, now + _SETTLED


_SPAN = 3.0  # seconds over which a connection's rate is judged
_YOUNG = 0.3  # seconds after which it can be told at all
_LAG = 8  # times slower than usual: then a new connection is worth its handshakes
_FEW = 3  # connections, without which nothing is usual


@dataclass(slots=True)
class Flows:
    """How fast each connection at work is, and which ones lag far behind the others.

    What is usual outlives the connections that it was seen of: the last one left is judged by it.
    A connection that was dropped for its lag and lags again has four times as long each time, for
    the server may give no more.
    """

    usual: float = 0.0  # bytes a second: the median of those at work
    _seen: dict[int, deque[tuple[float, int]]] = field(default_factory=dict)
    _spared: dict[int, tuple[float, float]] = field(default_factory=dict)  # until, for how long

    def look(self, now: float, landed: Mapping[int, int]) -> list[int]:
        """Those that lag, by `landed`: the bytes so far of each that is at work, by number."""
        self._seen = {number: self._seen.get(number, deque()) for number in landed}
        for number, seen in self._seen.items():
            seen.append((now, landed[number]))
            while len(seen) > 2 and seen[1][0] <= now - _SPAN:
                seen.popleft()
        rates = {n: rate for n in landed if (rate := self.rate(n)) is not None}
        if len(rates) >= _FEW:
            self.usual = _median(rates.values())
        lagging = [n for n, rate in rates.items() if rate * _LAG < self.usual]
        return [n for n in lagging if _age(self._seen[n]) >= _SPAN and self._due(n, now)]

    def rate(self, number: int) -> float | None:
        """Bytes a second of a connection at work, None while it is too early to tell."""
        seen = self._seen.get(number, deque())
        return _rate(seen) if _age(seen) >= _YOUNG else None

    def forget(self, number: int) -> None:
        """The connection is another one from now on."""
        self._seen.pop(number, None)

    def _due(self, number: int, now: float) -> bool:
        until, length = self._spared.get(number, (0.0, _SPAN))
        if now < until:
            return False
        self._spared[number] = (now + 4 * length, 4 * length)
        return True


def _median(values: Iterable[float]) -> float:
    """`statistics` has it too, and takes milliseconds to import."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return (ordered[half] + ordered[~half]) / 2


def _age(seen: deque[tuple[float, int]]) -> float:
    return seen[-1][0] - seen[0][0] if seen else 0.0


def _rate(seen: deque[tuple[float, int]]) -> float:
    return (seen[-1][1] - seen[0][1]) / _age(seen)
