"""Fresh links for an order under way: of which files they are, and when they are asked for.

Pure. Whoever brings a manifest (its own file, `segdl refresh`, a control) is believed: a link of
the same file is taken, whatever it says of its end. What segdl fetches by itself (`refresh:`,
`--refresh-command`) is taken only where it ends later, or the order would ask, and be refused, in
turns for ever.

Asking again: at the end of the links that came last, by their own words; before that only after a
pause, which grows with every asking in a row that was of no use. Once that has gone on for as long
as patience lasts, no target is kept waiting for fresh links any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from segdl.core.dataclass import dataclass
from segdl.core.manifest import Manifest, Target
from segdl.core.runway import last_end
from segdl.core.urls import ShareURL

PAUSES = (30.0, 60.0, 120.0, 240.0, 300.0)  # seconds between two askings in a row


@dataclass(frozen=True, slots=True)
class Renewed:
    """What came of a manifest that was given to a run: numbers of files."""

    taken: int = 0  # with a fresh link now
    same: int = 0  # that have these very links already
    lacking: int = 0  # not delivered, and without a link in it that is of the same file
    delivered: int = 0  # that need none
    other: int = 0  # of the manifest, not of this run

    @property
    def foreign(self) -> bool:
        """Whether it is of another order: nothing in it is of this run."""
        return not (self.taken or self.same or self.delivered)


def same_file(ours: Target, size: int | None, fresh: Target) -> bool:
    """Whether a file of the same path can be the target, whose size is known as `size` by now.

    What this leaves to chance, `If-Match` and digests settle.
    """
    theirs = dict(fresh.digests)
    return (
        (size is None or fresh.size in (None, size))
        and ours.slice == fresh.slice
        and all(theirs.get(name, value) == value for name, value in ours.digests)
    )


def only_later(ours: Sequence[Target], fresh: Manifest) -> Manifest:
    """A manifest with those files alone whose links end later than ours; where neither says when,
    those whose links are others."""
    present = {target.path: target.urls for target in ours}
    later = (t for t in fresh.targets if t.path in present and _ends_later(t, present[t.path]))
    return replace(fresh, targets=tuple(later))


def _ends_later(fresh: Target, present: tuple[ShareURL, ...]) -> bool:
    before = last_end(present)
    return fresh.urls != present and (before == inf or last_end(fresh.urls) > before)


def first_end(targets: Sequence[Target]) -> float:
    """When the first of them has no link any more, in unix seconds."""
    return min((last_end(target.urls) for target in targets), default=inf)


class Turns:
    """When fresh links are asked for. `now` is monotonic seconds, a date is unix seconds."""

    def __init__(self, patience: float) -> None:
        """`patience`: the seconds for which askings in a row may be of no use."""
        self._patience = patience
        self._row = 0  # askings that were of no use
        self._since = 0.0  # the first of them
        self._asked = -inf
        self._end: float | None = None  # of the links that came last, if any did

    def due(self, now: float, date: float) -> bool:
        """Whether to ask, if links are wanted."""
        ended = self._end is not None and date >= self._end
        return ended or now >= self._asked + self.pause

    @property
    def pause(self) -> float:
        """Seconds between the last asking and the next."""
        return PAUSES[min(max(self._row - 1, 0), len(PAUSES) - 1)]

    def asked(self, now: float, date: float, end: float | None) -> None:
        """It was asked: links came, of which the first ends at `end`, or none (None)."""
        before = self._end
        soon = now < self._asked + 2 * self.pause
        no_good = soon and before is not None and date < before  # what came last was refused
        if end is not None and not no_good:
            self._row = 0
        else:
            self._since = self._since if self._row else now
            self._row += 1
        self._asked, self._end = now, end

    def hopeful(self, now: float) -> bool:
        """Whether it is worth to wait for fresh links with nothing else to do."""
        return not self._row or now < self._since + self._patience
