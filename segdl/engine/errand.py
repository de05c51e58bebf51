"""An errand: what a worker asks of its runner, and what comes back.

Of a small file little is left but Python, and an interpreter runs one thread of it at a time. So an
order of many small files has *runners*: processes with one connection each, which do for a worker
what goes as it should. A runner decides nothing: whatever is out of the ordinary (a refusal,
another size, something in the way) it leaves undone, with all that comes after it, and the worker
does that itself. So the schedule, the events and the receipts stay in one process.
"""

from __future__ import annotations

from dataclasses import dataclass

from segdl.core.manifest import Target
from segdl.core.report import Receipt
from segdl.core.schedule import Fetch
from segdl.core.timeline import Exchange
from segdl.core.traffic import Quota
from segdl.core.transfer import by_fields
from segdl.edges.transport import Reach
from segdl.engine.task import DRAFT

WORTH = 1000  # small targets in an order: fewer are done before a runner has started
MOST = 16  # targets of an errand: each keeps a file open
READY = "ready"


@dataclass(frozen=True, slots=True)
class Errand:
    """Have several small targets fetched and delivered."""

    works: tuple[Fetch, ...]
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Brief:
    """What a runner is told first."""

    parent: int  # the process that it runs for
    number: int  # the worker's there
    root: int  # the output directory, an open descriptor
    segment_size: int | None
    reach: Reach


@dataclass(frozen=True, slots=True)
class Done:
    """A target that is delivered, but for its receipt, which is to be kept."""

    receipt: Receipt
    seconds: float
    request: Exchange
    quota: Quota | None  # what the answer said of it
    date: float | None  # and of the server's clock, in unix seconds

    __reduce__ = by_fields


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of an errand: `done` are its first targets; the others are as they were."""

    done: tuple[Done, ...]
    landed: int  # bytes from the network
    worked: float  # CPU seconds, since the runner began


def is_small(target: Target) -> bool:
    """Whether a target may go on an errand: the manifest says that it fits into a draft."""
    alone = len(target.urls) == 1 and target.slice is None and target.pieces is None
    return alone and target.size is not None and 0 < target.size <= DRAFT
