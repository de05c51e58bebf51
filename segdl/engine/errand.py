"""An errand: what a worker asks of its runner.

Of a small file little is left but Python, and an interpreter runs one thread of it at a time. So an
order of many small files has *runners*: processes with one connection each, which do for a worker
what goes as it should. A runner decides nothing: whatever is out of the ordinary (a refusal,
another size, something in the way) it leaves undone, with what it has not come to, and the worker
does that itself. So the schedule, the events and the receipts stay in one process.
"""

from __future__ import annotations

from dataclasses import dataclass

from segdl.core.manifest import Target
from segdl.core.work import Fetch
from segdl.engine.task import DRAFT

WORTH = 1000  # small targets in an order: fewer are done before a runner has started
MOST = 16  # targets of an errand: each keeps a file open


@dataclass(frozen=True, slots=True)
class Errand:
    """Have several small targets fetched and delivered."""

    works: tuple[Fetch, ...]
    targets: tuple[Target, ...]


def is_small(target: Target) -> bool:
    """Whether a target may go on an errand: the manifest says that it fits into a draft."""
    alone = len(target.urls) == 1 and target.slice is None and target.pieces is None
    return alone and target.size is not None and 0 < target.size <= DRAFT
