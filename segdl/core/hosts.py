"""Which hosts may be asked now: one that is down or busy is held back, others take so many at once.

A busy host is held back once for all workers, and then asked with one probe at a time, ever more
rarely, until patience with it is used up. How many requests a host takes at once is
`core.traffic`'s to say.

Pure; times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable

from segdl.core.dataclass import dataclass
from segdl.core.errors import BusyError
from segdl.core.mirrors import Mirrors
from segdl.core.pace import probe_wait
from segdl.core.traffic import Quota, Traffic


@dataclass(slots=True)
class Hold:
    """A host that is down or busy; or one job that its host was busy for."""

    since: float
    until: float
    probes: int  # that failed in a row
    probing: int | None = None  # the worker that asks


class Hosts:
    """The hosts of an order."""

    def __init__(self, patience: float, chance: Callable[[], float]) -> None:
        self._patience = patience
        self._chance = chance
        self._holds: dict[str, Hold] = {}
        self._traffic: dict[str, Traffic] = {}
        self.speeds = Mirrors()
        self._served: dict[int, str] = {}  # workers that a host gives what they asked for

    # -- asking ----------------------------------------------------------------------------------

    def is_free(self, host: str, now: float) -> bool:
        """Whether a host may be asked now, be it with the one probe."""
        hold, traffic = self._holds.get(host), self._traffic.get(host)
        if hold is not None and (hold.probing is not None or now < hold.until):
            return False
        return traffic is None or traffic.is_free(now)

    def is_open(self, host: str, now: float) -> bool:
        """Whether a host may be asked now, as one that is up."""
        return host not in self._holds and self.is_free(host, now)

    def may_try(self, host: str, now: float) -> bool:
        """Whether a host may be tried now: one that is held back only while others are at work,
        and go on."""
        return self.is_free(host, now) and (host not in self._holds or bool(self._served))

    def begin(self, host: str, now: float) -> None:
        """A request goes."""
        traffic = self._traffic.get(host)
        if traffic is None:
            traffic = self._traffic[host] = Traffic()
        traffic.begin(now)

    def answered(self, host: str, worker: int, quota: Quota | None, now: float) -> float | None:
        """A worker is given what it asked for. Returns the seconds between two requests, if from
        now on they are fewer by what the host said."""
        if worker in self._served:
            return None
        self._served[worker] = host
        return self._traffic[host].answered(quota, now)

    def end(self, host: str, worker: int) -> None:
        """A worker asks a host no more."""
        self._traffic[host].end(served=self._served.pop(worker, None) is not None)

    def traffic(self, host: str) -> Traffic:
        """The requests to a host that was asked before."""
        return self._traffic[host]

    def crowd(self, host: str, error: BusyError, now: float) -> None:
        """A 429 is about others, one dressed as 403 too, and S3's SlowDown; a 503 is, if the host
        serves others."""
        traffic = self._traffic[host]
        too_many = error.status in (403, 429) or (error.code or "").startswith("SlowDown")
        if too_many or (error.status == 503 and traffic.served):
            traffic.refused(now)

    # -- holding back ----------------------------------------------------------------------------

    def hold(self, host: str) -> Hold | None:
        """What a host is held back by."""
        return self._holds.get(host)

    def hold_back(self, host: str, retry_after: float | None, now: float) -> Hold:
        """A host is down or busy, by one more probe."""
        hold = self._holds[host] = self.longer(self._holds.get(host), retry_after, now)
        return hold

    def let_go(self, host: str) -> None:
        """A host is held back no more: it is up, or given up."""
        self._holds.pop(host, None)

    def longer(self, hold: Hold | None, retry_after: float | None, now: float) -> Hold:
        """The hold after one more probe that failed. The last probe goes as patience ends."""
        since, probes = (hold.since, hold.probes + 1) if hold else (now, 1)
        wait = probe_wait(probes) * (0.95 + self._chance() / 20)
        wait = min(wait, max(since + self._patience - now, 0.0))
        until = now + max(wait, retry_after or 0.0)
        return Hold(since, until, probes, hold.probing if hold else None)

    def is_used_up(self, hold: Hold, now: float) -> bool:
        """Whether patience is, for what is held."""
        return now - hold.since >= self._patience

    def probe(self, host: str, worker: int) -> None:
        """A worker's request is the probe, if the host is held back."""
        if (hold := self._holds.get(host)) is not None:
            hold.probing = worker

    def unprobe(self, host: str, worker: int) -> bool:
        """Whether a worker's request was the probe of a host that is held back; it is no longer."""
        hold = self._holds.get(host)
        if hold is None or hold.probing != worker:
            return False
        hold.probing = None
        return True

    def when(self) -> list[float]:
        """The times at which a host may be asked that may not be asked now."""
        times = [hold.until for hold in self._holds.values() if hold.probing is None]
        return times + [t for traffic in self._traffic.values() for t in traffic.when()]
