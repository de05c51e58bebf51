"""What is noted of a run for its timeline: from any thread, written by one.

Workers note a request with one append; the thread that delivers events writes what has gathered
once a second. A kill loses what was noted since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from segdl.core.events import Event, timestamp
from segdl.core.timeline import Entry, Exchange, Incident, as_line, incident
from segdl.edges.timeline import Timeline

_EVERY = 1.0  # seconds between two batches
_MOST = 10_000  # entries of a batch: more of them say nothing new, and must not grow


class Chronicle:
    """The entries of one run on their way into the timeline."""

    def __init__(self, hidden: int) -> None:
        """`hidden` is the folder `.segdl`, an open descriptor that outlives this."""
        self._timeline = Timeline(hidden)
        self._entries: deque[Entry] = deque()
        self._due = 0.0
        self._left_out = 0

    def note(self, request: Exchange) -> None:
        """A request was answered or failed. Thread-safe."""
        self._add(request)

    def heard_by(self, listener: Callable[[Event], None]) -> Callable[[Event], None]:
        """`listener`, with what it hears noted before."""

        def listen(event: Event) -> None:
            if (entry := incident(event)) is not None:
                self._add(entry)
            listener(event)

        return listen

    def _add(self, entry: Entry) -> None:
        if len(self._entries) < _MOST:
            self._entries.append(entry)
        else:
            self._left_out += 1

    def keep_up(self, now: float) -> None:
        """Write what has gathered, if it is time (monotonic seconds)."""
        if now >= self._due:
            self._due = now + _EVERY
            self._write()

    def close(self) -> None:
        """Write the rest."""
        self._write()
        self._timeline.close()

    def _write(self) -> None:
        taken = [self._entries.popleft() for _ in range(len(self._entries))]
        if left_out := self._left_out:
            self._left_out = 0
            words = f"{left_out} more entries at once were left out"
            taken.append(Incident(kind="left_out", time=timestamp(), message=words))
        self._timeline.append(map(as_line, taken))
