"""The one lock of a run, and who waits under it to be woken."""

from __future__ import annotations

import threading


class Bell:
    """One lock for everything that the threads of a run share, with its conditions."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.change = threading.Condition(self.lock)  # workers: something to fetch, or the end
        self.spare = threading.Condition(self.lock)  # and those beyond what is allowed
        self.due = threading.Condition(self.lock)  # mergers: something to merge, or the end

    def ring(self) -> None:
        """Wake everybody. The caller holds the lock."""
        self.change.notify_all()
        self.spare.notify_all()
        self.due.notify_all()
