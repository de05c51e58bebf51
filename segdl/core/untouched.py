"""The targets that nothing is known of yet: one number each, until their turn comes.

Those of the same hosts stand in one queue, and the one whose link ends first goes first. An order
may have a hundred thousand.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from segdl.core.choice import HostNames


class Untouched:
    """Queues of jobs, by their hosts."""

    def __init__(self) -> None:
        self._queues: dict[HostNames, list[tuple[float, int]]] = {}  # heaps of ends and jobs

    def push(self, job: int, hosts: HostNames, end: float) -> None:
        """Enter a job; `end` is that of its last link."""
        heapq.heappush(self._queues.setdefault(hosts, []), (end, job))

    def pop(self, hosts: HostNames) -> tuple[float, int]:
        """Take the first job with these hosts out: its end, and its number."""
        queue = self._queues[hosts]
        first = heapq.heappop(queue)
        if not queue:
            del self._queues[hosts]
        return first

    def first(self, hosts: HostNames) -> int | None:
        """The job with these hosts whose turn is next."""
        queue = self._queues.get(hosts)
        return queue[0][1] if queue else None

    def next_hosts(self, is_free: Callable[[str], bool]) -> HostNames | None:
        """The hosts of the job whose turn is next, of those with a host that is free."""
        free = (hosts for hosts in self._queues if any(map(is_free, hosts)))
        return min(free, key=lambda hosts: self._queues[hosts][0], default=None)

    def preferring(self, host: str) -> list[HostNames]:
        """The hosts of those jobs whose first mirror is on `host`."""
        return [hosts for hosts in self._queues if hosts[0] == host]

    def drain(self) -> list[int]:
        """Take all out, by number."""
        jobs = sorted(job for queue in self._queues.values() for _, job in queue)
        self._queues.clear()
        return jobs

    def ahead(self) -> list[tuple[float, int]]:
        """All jobs with their ends, as they will be done."""
        return sorted(pair for queue in self._queues.values() for pair in queue)

    def __contains__(self, hosts: HostNames) -> bool:
        return hosts in self._queues

    def __bool__(self) -> bool:
        return bool(self._queues)
