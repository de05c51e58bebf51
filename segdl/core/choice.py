"""Which of its mirrors one target goes to, and which are of no use to it.

The fastest is asked (`core.mirrors`); one whose host is held back (`core.hosts`) is left until it
is up again, one that refuses or has another object for good. Where all of a target was fetched
and is wrong, one mirror may be to blame: then each has to give all of it alone, one after the
other (it is *on trial*, and those that were of use before are spared until it has).
"""

from __future__ import annotations

from dataclasses import field

from segdl.core.dataclass import dataclass
from segdl.core.hosts import Hold, Hosts
from segdl.core.mirrors import STAY
from segdl.core.work import Fetch

WAITED = 3  # probes in a row that failed, after which a mirror on trial is passed over

HostNames = tuple[str, ...]  # a host for each mirror


@dataclass(slots=True)
class Choice:
    """One target's mirrors, by number."""

    hosts: HostNames
    mirror: int = 0  # that it goes to
    issue: int = 0  # of its URLs
    hold: Hold | None = None  # until the host answers for this target
    stays: float = 0.0  # with its mirror, until then
    trial: bool = False  # the next mirror that answers has to give all of it alone; ...
    _spared: set[int] | None = None  # ... and while one does, those that were of no use before
    _refused: set[int] = field(default_factory=set)  # mirrors that are of no use
    _astray: set[int] = field(default_factory=set)  # of those, which have another object
    _guilty: set[int] = field(default_factory=set)  # of those, which alone gave all of it wrongly

    @property
    def host(self) -> str:
        return self.hosts[self.mirror]

    def useful(self) -> list[int]:
        return [n for n in range(len(self.hosts)) if n not in self._refused]

    def is_at(self, work: Fetch) -> bool:
        """Whether the target is still asked for at the URL that this work is of."""
        return (work.issue, work.mirror) == (self.issue, self.mirror)

    def move(self, mirror: int) -> None:
        """Go to another mirror."""
        self.mirror, self.hold = mirror, None

    def move_on(self) -> bool:
        """Go to the next mirror that has not refused; False if there is none."""
        count = len(self.hosts)
        in_turn = ((self.mirror + step) % count for step in range(1, count + 1))
        found = next((n for n in in_turn if n not in self._refused), None)
        if found is None:
            return False
        self.move(found)
        return True

    # -- which is asked --------------------------------------------------------------------------

    def pick(self, hosts: Hosts, now: float, *, more: bool) -> int:
        """The mirror for a segment that was just taken: the target's own, a faster one where the
        target moves to from now on, or one that is tried with this segment alone, if there is
        `more` to do: else it would be waited for."""
        if self.trial:
            return self.mirror
        others = [n for n in self.useful() if self.hosts[n] != self.host]
        if more:
            for n in others:
                host = self.hosts[n]
                if hosts.speeds.is_due(host, now) and hosts.may_try(host, now):
                    hosts.speeds.tried(host, now)
                    return n
        if now >= self.stays:
            free = [n for n in others if hosts.is_open(self.hosts[n], now)]
            best = hosts.speeds.best(self.hosts, self.mirror, free)
            if best != self.mirror:
                self.move(best)
                self.stays = now + STAY
        return self.mirror

    def avoid_held(self, hosts: Hosts, now: float) -> None:
        """Leave a host that is held back for a mirror that is up, and of use; if there is none,
        for one that may be probed now."""
        if len(self.hosts) == 1 or hosts.is_open(self.host, now):
            return
        hold = hosts.hold(self.host)
        if self.trial and hold is not None and hold.probes < WAITED:
            return  # it may be the right one, and all of it from a wrong one costs more
        useful = self.useful()
        up = [n for n in useful if hosts.is_open(self.hosts[n], now)]
        if not up and not hosts.is_free(self.host, now):
            up = [n for n in useful if hosts.is_free(self.hosts[n], now)]
        if (found := hosts.speeds.fastest(self.hosts, up)) is not None:
            self.move(found)

    def for_helper(self, mirror: int, hosts: Hosts, now: float) -> int | None:
        """The best mirror for another worker, beside one at `mirror`; None if no host takes
        another request now."""
        free = [n for n in self.useful() if hosts.is_open(self.hosts[n], now)]
        if mirror in free:
            return hosts.speeds.best(self.hosts, mirror, free)
        return hosts.speeds.fastest(self.hosts, free)

    # -- what is of no use -----------------------------------------------------------------------

    def renew(self, hosts: HostNames) -> None:
        """Fresh URLs came."""
        self.hosts = hosts
        self.move(0)
        self.acquit()
        self.issue += 1

    def acquit(self) -> None:
        """Think nothing bad of any mirror."""
        self.trial, self._spared = self.trial or self._spared is not None, None
        for known in (self._refused, self._astray, self._guilty):
            known.clear()

    def leave(self, mirrors: set[int]) -> bool:
        """Never go back to some of them. False if there are no others."""
        self._refused |= mirrors
        return self.mirror not in self._refused or self.move_on()

    def leave_host(self, host: str) -> bool:
        """Never go back to the mirrors on a host. False if there are no others."""
        there = {n for n, name in enumerate(self.hosts) if name == host}
        return self.leave(there) or self.try_next_alone(there)

    def is_left(self, mirror: int) -> bool:
        """Whether a mirror is of no use."""
        return mirror in self._refused

    def has_other_object(self, mirror: int) -> None:
        """A mirror has another object than the target's."""
        self._astray.add(mirror)

    def is_other_object(self) -> None:
        """The target is another object now: those that seemed to have another may have it."""
        self._refused -= self._astray
        self._astray.clear()
        self.mirror = next(iter(self.useful()), self.mirror)

    # -- each alone ------------------------------------------------------------------------------

    def condemn(self) -> bool:
        """All of it was fetched, and is wrong: each has to give all of it alone from now on.
        False if every one that is of use has done so."""
        if self._spared is not None:
            self._guilty.add(self.mirror)
        return self._try_another(set())

    def keep_to(self, mirror: int) -> None:
        """A mirror has answered the probe: on trial it is kept to."""
        if self.trial and mirror < len(self.hosts):
            self.trial, self._spared = False, set(self._refused)
            self._refused = set(range(len(self.hosts))) - {mirror}
            self.move(mirror)

    def try_next_alone(self, refused: set[int]) -> bool:
        """The one that has to give all of it alone cannot: put another one on trial. False if
        none is left, or none has to."""
        return self._spared is not None and self._try_another(refused)

    def _try_another(self, refused: set[int]) -> bool:
        before = self._refused if self._spared is None else self._spared
        self._refused = before | self._guilty | refused
        self.trial, self._spared = True, None
        useful = self.useful()
        if useful:
            self.move(useful[0])
        return bool(useful)
