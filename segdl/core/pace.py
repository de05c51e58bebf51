"""How fast and how patiently: backoff, the stall window, the rate limit."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

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
class Bucket:
    """A rate limit shared by all connections: bytes are paid for after they came."""

    _paid_until: float = 0.0

    def take(self, now: float, count: int, rate: int | None) -> float:
        """Seconds to wait after `count` more bytes at `rate` bytes a second (None: no limit)."""
        if rate is None:
            self._paid_until = now
            return 0.0
        self._paid_until = max(self._paid_until, now - 0.1) + count / rate
        return max(0.0, self._paid_until - now)
