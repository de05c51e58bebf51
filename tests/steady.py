"""A clock that stands still while the machine does, for what lasts a few seconds."""

from __future__ import annotations

import threading
import time
from typing import Self

OFTEN = 0.02  # seconds between two looks at the real clock
MOST = 0.2  # seconds that may pass between two looks: more is time in which nothing moved


class Steady:
    """The clocks of this process, without the time in which nobody was here to look at them.

    It is for tests that wait for ends of their own making, such as those of links: segdl and the
    server that judges it read the same clock. Waits for sockets and locks last as long as ever.
    """

    def __init__(self) -> None:
        self._monotonic, self._time = time.monotonic, time.time
        self._lock = threading.Lock()
        self._seen = self._monotonic()
        self.lost = 0.0  # seconds in which this process stood still
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="steady", daemon=True)

    def monotonic(self) -> float:
        with self._lock:
            now = self._monotonic()
            self.lost += max(0.0, now - self._seen - MOST)
            self._seen = now
            return now - self.lost

    def time(self) -> float:
        self.monotonic()
        return self._time() - self.lost

    def _look(self) -> None:
        while not self._over.wait(OFTEN):
            self.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
