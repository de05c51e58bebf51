"""The rate limit of a run: how many bytes come, and when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

from segdl.core.options import KIB, RateLimit
from segdl.core.pace import Bucket

_MOMENT, _MORSEL = 0.25, 4 * KIB  # seconds between two takings; bytes of one


class Throttle:
    """What all workers may take together. Thread-safe; without a limit it takes no lock."""

    def __init__(self, change: threading.Condition, limit: RateLimit) -> None:
        """`change` is what workers wait for: somebody may want something else of them."""
        self._change = change
        self._limit = limit
        self._bucket = Bucket()

    def set(self, limit: RateLimit) -> None:
        """Another limit from now on, or none."""
        with self._change:
            self._limit = limit
            if not self.is_on:
                self._bucket = Bucket()  # nothing is owed of what came before
            self._change.notify_all()

    @property
    def is_on(self) -> bool:
        return self._rate() is not None

    def _rate(self) -> int | None:
        """Bytes a second that may come now; the time of day is asked for where it matters."""
        limit = self._limit
        return limit.at(datetime.now().time()) if limit.windows else limit.always

    def portion(self, most: int, workers: int) -> int:
        """How many bytes one of so many workers may take at once: its part of a moment's, so that
        it neither goes before the limit nor leaves its connection alone for long."""
        rate = self._rate()
        if rate is None:
            return most
        return min(most, max(int(rate * _MOMENT) // max(workers, 1), _MORSEL))

    def hold_back(self, count: int, stopped: Callable[[], bool]) -> bool:
        """So many bytes came: wait as the limit asks, or until something changes that may concern
        everybody. Returns whether it waited."""
        if not self.is_on:
            return False
        with self._change:
            # One hold of the lock: a limit that is lifted in between would not end the wait.
            limit, now = self._limit, time.monotonic()
            end = now + self._bucket.take(now, count, self._rate())
            held = end > now
            while not stopped() and self._limit is limit and now < end:
                self._change.wait(end - now)
                now = time.monotonic()
        return held
