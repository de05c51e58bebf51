"""A handful of connections that make calls, each in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from segdl.edges.transport import Connection, Reach

Call = Callable[[Connection], None]  # to be made over whichever connection is free
Ticker = Callable[[int, int], None]  # calls made so far, calls in all


class Crew:
    """A handful of connections, each with a thread of its own while there are calls."""

    def __init__(self, reach: Reach, size: int) -> None:
        self._stop = threading.Event()
        self._connections = [Connection(reach, self._stop.is_set) for _ in range(size)]
        self._threads: list[threading.Thread] = []
        self._crash: BaseException | None = None

    def run(self, calls: Iterable[Call], on_progress: Ticker) -> None:
        """Make all of them. Raises what one of them, `on_progress` or a signal raises."""
        waiting = deque(calls)
        total = len(waiting)
        self._threads = [
            threading.Thread(
                target=self._work, args=(connection, waiting), name=f"segdl-survey-{n}", daemon=True
            )
            for n, connection in enumerate(self._connections[:total])
        ]
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            while thread.is_alive():
                on_progress(total - len(waiting), total)
                thread.join(0.1)
        if self._crash is not None:
            raise self._crash

    def _work(self, connection: Connection, waiting: deque[Call]) -> None:
        try:
            while not self._stop.is_set():
                try:
                    call = waiting.popleft()
                except IndexError:
                    return
                call(connection)
        except BaseException as error:
            self._crash = self._crash or error
            self._stop.set()

    def dismiss(self) -> None:
        """End what is under way, but for a name look-up, and close every connection."""
        self._stop.set()
        deadline = time.monotonic() + 1.0
        for thread in self._threads:
            for connection in self._connections:
                connection.abort()
            thread.join(max(deadline - time.monotonic(), 0.0))
        if not any(thread.is_alive() for thread in self._threads):
            for connection in self._connections:
                connection.close()


@contextmanager
def crew(reach: Reach, size: int) -> Iterator[Crew]:
    """Connections while the block lasts."""
    hands = Crew(reach, size)
    try:
        yield hands
    finally:
        hands.dismiss()
