"""An order surveyed before its run: every link asked once, the disk tried, the rate sampled.

Nothing is kept and nothing is changed. A handful of connections ask every link that a run could
need for the first byte of its object. Then, together and for a moment, they read from the largest
target of each host: that is the estimate of the rate.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from segdl.core.errors import SegdlError, attempted
from segdl.core.manifest import Manifest, Target
from segdl.core.options import Options
from segdl.core.outset import Ground, Outset, Present, Terms
from segdl.core.pace import FIRST
from segdl.core.plan import segment_size
from segdl.core.preflight import Preflight, weigh
from segdl.core.selection import chosen
from segdl.edges.lock import require_free
from segdl.edges.trial import try_out
from segdl.edges.workspace import Depot, is_file, work_name
from segdl.engine.audit import State, held_of, rehearse
from segdl.engine.crew import Ticker, crew
from segdl.engine.front import MOST_COPIED
from segdl.engine.inquiry import Inquiry
from segdl.engine.order import reach_of
from segdl.engine.salvage import salvage
from segdl.engine.sampling import Sampling
from segdl.engine.task import goes_on

ASKING = 8  # connections
LONGEST_WAIT = 10.0  # seconds for an answer, if the stall window is longer


def survey(
    manifest: Manifest,
    output: Path,
    *,
    options: Options,
    rate: float | None = None,
    held_off: Callable[[], AbstractContextManager[None]],
    on_progress: Ticker,
) -> Preflight:
    """What is to be expected of `get` with this manifest. No target's failure is raised.

    `rate`: bytes a second to count on, and none is measured.
    The disk is tried within `held_off()`, which keeps signals from tearing that apart.
    `on_progress` is called in this thread; what it or a signal raises ends the work.
    """
    targets, reach = chosen(manifest, options), reach_of(manifest, options)
    with held_off():
        ground, bars = _try_ground(output)
    outsets = _outsets(targets, manifest, output, options, bars)
    with salvage(options.sources, targets) as brought:
        outsets = [replace(o, elsewhere=brought.has_whole(o.target)) for o in outsets]
    limit = options.limit_rate.at(datetime.now().time())
    size = min(options.connections or ASKING, ASKING)
    reach = replace(reach, timeout=min(reach.timeout, LONGEST_WAIT))
    with crew(reach, size) as hands:
        inquiry = Inquiry(outsets, reach.timeout)
        hands.run(inquiry.calls(), on_progress)
        outsets = inquiry.outsets()
        sampling = Sampling(outsets if rate is None else (), size, limit)
        hands.run(sampling.calls(), lambda done, total: None)
    terms = Terms(
        overwrite=options.overwrite,
        at_once=options.connections or FIRST,
        ahead=MOST_COPIED,
        renewable=manifest.refresh is not None or bool(options.refresh_command),
        rate=rate,
        limit=limit,
    )
    root = os.path.abspath(output)
    return weigh(outsets, terms, ground, sampling.samples(), bars, root, time.time())


# -- the disk ----------------------------------------------------------------------------------


def _try_ground(output: Path) -> tuple[Ground | None, list[SegdlError]]:
    """What the output directory is like, and what keeps a run from beginning there at all."""
    ground = attempted(try_out, output)
    bars = [ground] if isinstance(ground, SegdlError) else []
    if output.is_dir() and isinstance(found := attempted(_require_free, output), SegdlError):
        bars.append(found)
    return (None if isinstance(ground, SegdlError) else ground), bars


def _require_free(output: Path) -> None:
    place = Depot(output)
    try:
        with place.look() as hidden:
            if hidden is not None:
                require_free(hidden, os.fspath(output))
    finally:
        place.close()


def _outsets(
    targets: Sequence[Target],
    manifest: Manifest,
    output: Path,
    options: Options,
    bars: list[SegdlError],
) -> list[Outset]:
    """Where every target stands; where that cannot be told, they stand at their beginning."""
    blank = [Outset(t, segment=segment_size(t, manifest, options)) for t in targets]
    if not output.is_dir():
        return blank
    known = attempted(_looked_at, blank, output)
    if isinstance(known, SegdlError):
        bars.append(known)
        return blank
    return known


def _looked_at(blank: Sequence[Outset], output: Path) -> list[Outset]:
    """Raises OSError, DiskError."""
    states = rehearse([outset.target for outset in blank], output).standings
    place = Depot(output)
    try:
        return [
            Outset(outset.target, delivered=standing.size)
            if standing.state is State.DELIVERED
            else _standing(place, outset.target, outset.segment)
            for outset, standing in zip(blank, states, strict=True)
        ]
    finally:
        place.close()


def _standing(place: Depot, target: Target, segment: int | None) -> Outset:
    """Where a target that is not delivered stands."""
    held, pin = held_of(place, work_name(target.path)), None
    if (heading := held.heading) is not None and goes_on(target, target.urls, heading):
        pin, segment = heading.pin, heading.segment_size
    outset = Outset(target, used=held.bytes, pin=pin, segment=segment)
    found = attempted(place.find, target.path)
    if isinstance(found, SegdlError):
        return replace(outset, blocked=found)
    return outset if found is None else replace(outset, present=_present(found))


def _present(found: os.stat_result) -> Present:
    size = found.st_size if is_file(found) else None
    return Present(size, folder=stat.S_ISDIR(found.st_mode))
