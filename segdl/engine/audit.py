"""What is delivered, what is held, what is missing: from disk alone.

Nothing is locked, hashed or changed, and nothing is believed that a later run would not believe:
a delivered file by its receipt, size and time, held bytes by records whose files are long enough.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from segdl.core.dataclass import dataclass
from segdl.core.digests import ALGORITHMS
from segdl.core.errors import UsageError, disk_error
from segdl.core.manifest import Target
from segdl.core.plan import Layout, Place, Record, fits
from segdl.core.report import Receipt
from segdl.edges import merge
from segdl.edges.index import Heading, read_index
from segdl.edges.parts import part_name, tail_name
from segdl.edges.receipts import read_receipts
from segdl.edges.workspace import Depot, is_file, work_name
from segdl.engine.delivery import asked_for


class State(StrEnum):
    """Where a target stands."""

    DELIVERED = "delivered"
    CHANGED = "changed"  # a file is there, and no longer what its receipt says
    FOUND = "found"  # a file is there, and no receipt is
    HELD = "held"  # some of it is under way
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Standing:
    """One target: its size if that is known, and the bytes held of it while under way."""

    path: str
    state: State
    size: int | None
    held: int
    note: str = ""
    segments: int | None = None  # of it, where it is known how it is cut
    segments_held: int = 0  # whole ones, while under way


@dataclass(frozen=True, slots=True)
class Audit:
    """Where an order stands."""

    order: str | None
    standings: tuple[Standing, ...]

    def of(self, *states: State) -> tuple[Standing, ...]:
        """The targets in these states."""
        return tuple(standing for standing in self.standings if standing.state in states)

    @property
    def size(self) -> int | None:
        """The order's bytes, or None while a size is not known."""
        sizes = [standing.size for standing in self.standings]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    @property
    def present(self) -> int:
        """Bytes delivered or held."""
        delivered = sum(s.size or 0 for s in self.of(State.DELIVERED))
        return delivered + sum(s.held for s in self.standings if s.state is not State.DELIVERED)


@dataclass(frozen=True, slots=True)
class Held:
    """What the index of a target under way is of, and what it vouches for."""

    heading: Heading | None = None
    bytes: int = 0
    segments: int = 0  # whole ones

    @property
    def of(self) -> int | None:
        """How many segments the target has, if that is known."""
        heading = self.heading
        return Layout(heading.size, heading.segment_size).count if heading else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What order.json says of one target."""

    path: str
    size: int | None
    digests: Mapping[str, str]


def status(directory: str | os.PathLike[str]) -> Audit:
    """Where the order in a directory stands: what it asked for last, and all that was delivered.

    Raises UsageError if no segdl has worked there, DiskError.
    """
    with depot(directory) as place:
        return audit(place)


def audit(place: Depot) -> Audit:
    """Where the order in an open directory stands. Raises OSError."""
    facts, receipts = place.read_order(), receipts_in(place)
    wanted = {entry.path: entry for entry in entries(facts)}
    paths = [*wanted, *(p for p in receipts if p not in wanted)]
    standings = [_of_entry(place, p, wanted.get(p), receipts.get(p)) for p in paths]
    standings += _strays(place, set(paths))
    order = facts.get("order")
    return Audit(order if isinstance(order, str) else None, tuple(standings))


def rehearse(targets: Iterable[Target], directory: str | os.PathLike[str]) -> Audit:
    """Where these targets stand in a directory that need not exist. Raises DiskError."""
    try:
        place = Depot(Path(directory))
    except FileNotFoundError:
        return Audit(None, tuple(Standing(t.path, State.MISSING, t.size, 0) for t in targets))
    except OSError as error:
        raise disk_error(error) from None
    try:
        receipts = receipts_in(place)
        return Audit(None, tuple(_of_target(place, t, receipts.get(t.path)) for t in targets))
    finally:
        place.close()


@contextmanager
def depot(directory: str | os.PathLike[str], *, worked_in: bool = True) -> Iterator[Depot]:
    """A directory to look at. Raises UsageError if it is not there or, unless `worked_in` is
    false, if no segdl has worked in it; DiskError."""
    shown = os.fspath(directory)
    try:
        place = Depot(Path(directory))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{shown} is not a folder") from None
    except OSError as error:
        raise disk_error(error) from None
    try:
        with place.look() as hidden:
            if worked_in and hidden is None:
                raise UsageError(f"no segdl has worked in {shown}: name the folder of an order")
        yield place
    except OSError as error:
        raise disk_error(error) from None
    finally:
        place.close()


def receipts_in(place: Depot) -> dict[str, Receipt]:
    """The receipts of a directory, by path; only of paths within it."""
    with place.look() as hidden:
        receipts = {} if hidden is None else read_receipts(hidden)
    return {path: receipt for path, receipt in receipts.items() if _within(path)}


def entries(facts: Mapping[str, Any]) -> Iterator[Wanted]:
    """What order.json asks for; entries that make no sense are passed over."""
    files = facts.get("files")
    for entry in files if isinstance(files, list) else ():
        match entry:
            case {"path": str(path), "size": int() | None as size} if _within(path):
                yield Wanted(path, size, _digests(entry.get("hash")))


def _digests(given: object) -> dict[str, str]:
    pairs = given.items() if isinstance(given, dict) else ()
    return {name: str(value) for name, value in pairs if name in ALGORITHMS}


def _within(path: str) -> bool:
    return all(name not in ("", ".", "..") for name in path.split("/")) and "\0" not in path


def _of_entry(place: Depot, path: str, wanted: Wanted | None, receipt: Receipt | None) -> Standing:
    """Where a target of order.json stands; None is one that an earlier order delivered."""
    if wanted is None or receipt is None or answers(wanted, receipt):
        return _standing(place, path, wanted.size if wanted else None, receipt)
    standing = _standing(place, path, wanted.size, None)
    return replace(standing, size=wanted.size, note="of an earlier order")


def answers(wanted: Wanted, receipt: Receipt) -> bool:
    """Whether a receipt is of what order.json asks for."""
    same = all(receipt.digests.get(name) == value for name, value in wanted.digests.items())
    return same and wanted.size in (None, receipt.size)


def _of_target(place: Depot, target: Target, receipt: Receipt | None) -> Standing:
    if receipt is not None and not asked_for(target, receipt):
        receipt = None
    return _standing(place, target.path, target.size, receipt)


def _standing(place: Depot, path: str, size: int | None, receipt: Receipt | None) -> Standing:
    held = held_of(place, work_name(path))
    if size is None:
        size = receipt.size if receipt else held.heading.size if held.heading else None
    state, note = _state(place, path, receipt, under_way=held.heading is not None)
    segments = held.of
    if receipt is not None and held.heading is None:
        segments = len(receipt.segments.values)
    return Standing(path, state, size, held.bytes, note, segments, held.segments)


def _state(
    place: Depot, path: str, receipt: Receipt | None, *, under_way: bool
) -> tuple[State, str]:
    try:
        found = place.find(path)
    except OSError:  # ENOTDIR, ELOOP
        return State.MISSING, "a link or a file is in its folder's way"
    if found is not None:
        return _of_file(found, receipt)
    note = "gone since it was delivered" if receipt else ""
    return State.HELD if under_way else State.MISSING, note


def _of_file(found: os.stat_result, receipt: Receipt | None) -> tuple[State, str]:
    if not is_file(found):
        return State.FOUND, "no file: a folder, a link or a device"
    if receipt is None:
        return State.FOUND, "here without a receipt"
    if (found.st_size, found.st_mtime_ns) != (receipt.size, receipt.modified_ns):
        return State.CHANGED, "changed since it was delivered"
    return State.DELIVERED, ""


def held_of(place: Depot, work: str) -> Held:
    """What the index in a folder under `work` is of, and what it vouches for."""
    with place.look("work", work) as folder:
        if folder is None:
            return Held()
        contents = read_index(folder)
        if contents.heading is None:
            return Held()
        layout = Layout(contents.heading.size, contents.heading.segment_size)
        sizes = {merge.NAME: _renamed(place, work, contents.heading), **dict(_sizes(folder))}
        records = (*contents.records.values(), *contents.live_tails())
        there = [r for r in records if fits(layout, r) and _there(r, sizes)]
        whole = sum(r.covers(layout.segment(r.number)) for r in there)
        return Held(contents.heading, sum(r.stop - r.start for r in there), whole)


def _renamed(place: Depot, work: str, heading: Heading) -> int:
    """The length of a merged file that has its final name already, and no receipt yet; else 0."""
    if not _within(heading.path) or work_name(heading.path) != work:
        return 0
    with suppress(OSError):
        found = place.find(heading.path)
        if found is not None and is_file(found) and found.st_size == heading.size:
            return heading.size
    return 0


def _sizes(folder: int) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as found:
        for entry in found:
            with suppress(FileNotFoundError):
                yield entry.name, entry.stat(follow_symlinks=False).st_size


def _there(record: Record, sizes: Mapping[str, int]) -> bool:
    """Whether the file that a record vouches for is long enough to hold its bytes."""
    if record.place is Place.FRONT:
        return sizes.get(merge.NAME, 0) >= record.stop
    tail = record.place is Place.TAIL
    name = tail_name(record.number, record.start) if tail else part_name(record.number)
    return sizes.get(name, 0) >= record.stop - record.start


def _strays(place: Depot, known: set[str]) -> Iterator[Standing]:
    """What is under way for targets that the last order did not ask for."""
    names = {work_name(path) for path in known}
    for name in sorted(set(work_names(place)) - names):
        held = held_of(place, name)
        if (heading := held.heading) is not None and _within(heading.path):
            yield Standing(
                heading.path, State.HELD, heading.size, held.bytes, "of an earlier order",
                held.of, held.segments,
            )  # fmt: skip


def work_names(place: Depot) -> list[str]:
    """The names under `work`, one for each target under way."""
    with place.look("work") as folder:
        return [] if folder is None else sorted(os.listdir(folder))
