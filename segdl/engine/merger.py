"""A merger: one thread without a connection. It merges, hashes and delivers what workers commit.

So no connection waits for a digest, a copy or a flush, and digests of different targets are taken
on all cores at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from segdl.engine.desk import Desk


class Merger(threading.Thread):
    """One thread that takes merges, until there is no more work."""

    def __init__(self, number: int, desk: Desk, leave: Callable[[], None]) -> None:
        """`leave` is called last of all, in the merger's own thread."""
        super().__init__(name=f"segdl-merger-{number}", daemon=True)
        self._desk = desk
        self._leave = leave

    def run(self) -> None:
        try:
            while works := self._desk.next_merges():
                self._desk.merge(works)
        except BaseException as error:
            self._desk.crashed(error)
        finally:
            self._leave()
