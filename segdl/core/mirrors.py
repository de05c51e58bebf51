"""Which of an object's hosts is asked: the fastest; in the manifest's order until that is known.

What is measured is what one connection brought, over all work that a host was given; the latest
minute counts for most. A target moves only to a host that is far faster than its own, and then
stays for a while, so that connections are not made and dropped for nothing.

What is not measured, or was long ago, or has failed, is tried: with one segment at a time, once
the run has lasted for a little, and ever more rarely while it fails.

Pure; times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field

from segdl.core.dataclass import dataclass

FASTER = 1.5  # times faster than its own host must another one be for a target to move
STAY = 10.0  # seconds that a target stays where it has moved to
TRY_FIRST = 5.0  # seconds into a run that what is not measured is tried
TRY_MOST = 300.0  # seconds between two tries of what fails, and after which a measure is old
_HALF = 30.0  # seconds after which what was measured counts for half
_TOLD, _LARGE = 0.25, 1 << 20  # seconds of work, or bytes, without which nothing is measured


@dataclass(slots=True)
class Measure:
    """What one host's connections brought."""

    count: float = 0.0  # bytes, ...
    seconds: float = 0.0  # ... in so many seconds of one connection
    at: float = 0.0

    def add(self, now: float, count: int, seconds: float) -> None:
        kept = 0.5 ** ((now - self.at) / _HALF)
        self.count = self.count * kept + count
        self.seconds = self.seconds * kept + seconds
        self.at = now

    @property
    def rate(self) -> float | None:
        """Bytes a second, None while too little is known."""
        told = self.seconds >= _TOLD or self.count >= _LARGE
        return self.count / max(self.seconds, 1e-6) if told else None


@dataclass(slots=True)
class Mirrors:
    """The hosts of an order whose targets have several."""

    _measures: dict[str, Measure] = field(default_factory=dict)
    _try_at: dict[str, float] = field(default_factory=dict)
    _waits: dict[str, float] = field(default_factory=dict)
    _began: float | None = None

    def measured(self, host: str, now: float, count: int, seconds: float) -> None:
        """A host's connection brought `count` bytes in `seconds`."""
        self._began = now if self._began is None else self._began
        self._measures.setdefault(host, Measure(at=now)).add(now, count, seconds)
        if count:
            self._waits.pop(host, None)
            self._try_at[host] = now if self.rate(host) is None else now + TRY_MOST

    def failed(self, host: str, now: float) -> None:
        """A host is down or busy: what it brought before says nothing any more."""
        self._measures.pop(host, None)
        if host not in self._waits:
            self.tried(host, now)

    def rate(self, host: str) -> float | None:
        """Bytes a second of one connection, None where that is not known."""
        measure = self._measures.get(host)
        return None if measure is None else measure.rate

    def best(self, hosts: Sequence[str], current: int, others: Iterable[int]) -> int:
        """The one to go on with: `current`, unless one of `others` is far faster."""
        here = self.rate(hosts[current])
        if here is None:
            return current
        rates = {n: rate for n in others if (rate := self.rate(hosts[n])) is not None}
        fastest = max(rates, key=lambda n: rates[n], default=current)
        return fastest if rates.get(fastest, 0.0) > FASTER * here else current

    def fastest(self, hosts: Sequence[str], among: Iterable[int]) -> int | None:
        """The fastest of some, by the manifest's order where that is not known."""
        return min(among, key=lambda n: (-(self.rate(hosts[n]) or 0.0), n), default=None)

    def is_due(self, host: str, now: float) -> bool:
        """Whether a host is to be tried, although there is a better one."""
        if self._began is None:
            return False
        return now >= self._try_at.get(host, self._began + TRY_FIRST)

    def tried(self, host: str, now: float) -> None:
        """A host is tried; if it fails, not again so soon."""
        wait = self._waits[host] = min(2 * self._waits.get(host, TRY_FIRST), TRY_MOST)
        self._try_at[host] = now + wait
