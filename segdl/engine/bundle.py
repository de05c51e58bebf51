"""A support bundle: what whoever has to help asks for first, in one zip, with no secret in it.

Everything is written anew from named fields; no file of an order goes in as it is. So there is no
place for a link, a header's value or a password, whatever somebody wrote into those files. What
cannot be read is named in the bundle, and the rest of it made: it is for orders that are damaged.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from segdl.core.complaint import printable
from segdl.core.dataclass import dataclass
from segdl.core.errors import SegdlError, disk_error
from segdl.core.events import timestamp
from segdl.core.report import Receipt
from segdl.core.timeline import Exchange, read_line
from segdl.edges import machine, timeline
from segdl.edges.index import index_damage
from segdl.edges.parcel import pack, require_free
from segdl.edges.receipts import receipts_damage
from segdl.edges.workspace import Depot, work_name
from segdl.engine import audit
from segdl.version import VERSION

README = "README.txt"
_ABOUT = {
    "timeline.jsonl": "every request (when, seconds until the answer, target, host and path, bytes "
    "start to stop, status, request id, ETag, and the cause where the answer was not accepted) "
    "and what the run made of it; the last 4 to 8 MiB",
    "versions.json": "segdl, Python, the libraries, the kernel",
    "system.json": "processors, memory, the disk, limits, the clock, as they are for this command; "
    "which proxy variables are set, by name",
    "order.json": "what was asked for last: paths, sizes, digests",
    "plan.json": "where each file stands: delivered, held, missing; its segments",
    "receipts.json": "what was delivered, and what proved it",
}
_HEADING = """\
A support bundle of segdl {version}, made {when}.

It holds no links: of a URL there are host and path, never the query; no header value, no password
and no value of a variable. The names of files and hosts are in it.
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was packed."""

    contents: tuple[str, ...]  # the names in the zip
    requests: int  # in its timeline
    unreadable: tuple[str, ...]  # what could not be read, and why
    bytes: int  # of the zip


def bundle(directory: str | os.PathLike[str], file: Path) -> Bundle:
    """Pack the support bundle of the order in a directory, which may be running or damaged.

    Raises UsageError if no segdl has worked there, OccupiedError if `file` exists, DiskError.
    """
    try:
        require_free(file)
        with audit.depot(directory) as place:
            gathered = _Gathered(place)
            gathered.all()
        size = pack(file, {README: gathered.readme(), **gathered.contents})
    except OSError as error:
        raise disk_error(error) from None
    return Bundle((README, *gathered.contents), gathered.requests, tuple(gathered.unreadable), size)


class _Gathered:
    """The pieces as they come, and what could not be read of them."""

    def __init__(self, place: Depot) -> None:
        self.contents: dict[str, bytes] = {}
        self.unreadable: list[str] = []
        self.requests = 0
        self._place = place

    def all(self) -> None:
        self._add("timeline.jsonl", self._timeline)
        self._add("versions.json", lambda: _as_json(machine.versions()))
        self._add("system.json", self._system)
        self._add("order.json", self._order)
        self._add("plan.json", self._plan)
        self._add("receipts.json", self._receipts)
        self._look("the indexes", self._indexes)

    def readme(self) -> bytes:
        lines = [_HEADING.format(version=VERSION, when=timestamp())]
        lines += [f"{name}: {_ABOUT[name]}" for name in self.contents]
        if self.unreadable:
            lines += ["", "Could not be read, in whole or in part:"]
            lines += [f"- {what}" for what in self.unreadable]
        return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")

    def _add(self, name: str, make: Callable[[], bytes]) -> None:
        def add() -> None:
            self.contents[name] = make()

        self._look(name, add)

    def _look(self, name: str, look: Callable[[], None]) -> None:
        """One piece. Whatever is wrong with it, the others are wanted all the more."""
        try:
            look()
        except OSError as error:
            self.unreadable.append(f"{name}: {os.strerror(error.errno or 0)}")
        except SegdlError as error:
            self.unreadable.append(f"{name}: {printable(error.message)}")
        except Exception as error:  # its text may be of what was read, and is told to nobody
            self.unreadable.append(f"{name}: unexpected {type(error).__name__}")

    def _damaged(self, name: str, lines: int) -> None:
        if lines:
            self.unreadable.append(f"{name}: {lines} line{'s' * (lines > 1)} cannot be read")

    # -- the pieces ------------------------------------------------------------------------------

    def _timeline(self) -> bytes:
        kept: list[str] = []
        for name in (timeline.BEFORE, timeline.NAME):
            damaged = 0
            with self._place.look() as hidden:
                for sealed in timeline.read_timeline(hidden, name) if hidden is not None else ():
                    line = read_line(sealed) if sealed is not None else None
                    if line is None:
                        damaged += 1
                        continue
                    self.requests += line["kind"] == Exchange.kind
                    kept.append(json.dumps(line, separators=(",", ":")) + "\n")
            self._damaged(name, damaged)
        if not kept:
            self.unreadable.append("timeline.jsonl: there is none yet")
        return "".join(kept).encode("ascii")

    def _system(self) -> bytes:
        return _as_json(machine.system(self._place.root, self._place.output))

    def _order(self) -> bytes:
        facts = self._place.read_order()
        if not facts:
            self.unreadable.append("order.json: what was asked for cannot be read")
        files = [asdict(wanted) for wanted in audit.entries(facts)]
        return _as_json({"order": _name(facts.get("order")), "files": files})

    def _plan(self) -> bytes:
        found = audit.audit(self._place)
        counts = Counter(standing.state.value for standing in found.standings)
        return _as_json(
            {
                "order": _name(found.order),
                "counts": counts,
                "bytes": found.size,
                "present": found.present,
                "targets": [_standing(standing) for standing in found.standings],
            }
        )

    def _receipts(self) -> bytes:
        receipts = audit.receipts_in(self._place).values()
        with self._place.look() as hidden:
            if hidden is not None:
                self._damaged("receipts.jsonl", receipts_damage(hidden))
        return _as_json(
            {
                "delivered": len(receipts),
                "bytes": sum(receipt.size for receipt in receipts),
                "grades": Counter(receipt.grade.value for receipt in receipts),
                "targets": [_receipt(receipt) for receipt in receipts],
            }
        )

    def _indexes(self) -> None:
        """What is damaged of the indexes of targets under way, by the target's path."""
        paths = {work_name(w.path): w.path for w in audit.entries(self._place.read_order())}
        for work in audit.work_names(self._place):
            shown = f"the index of {printable(paths.get(work, work))}"
            self._look(shown, partial(self._index, work, shown))

    def _index(self, work: str, shown: str) -> None:
        with self._place.look("work", work) as folder:
            if folder is None:  # delivered since
                return
            self._damaged(shown, index_damage(folder))
        if audit.held_of(self._place, work).heading is None:
            self.unreadable.append(f"{shown}: it does not say what it is of")


def _standing(standing: audit.Standing) -> dict[str, Any]:
    facts = asdict(standing)
    if standing.segments is not None:
        delivered = standing.state is audit.State.DELIVERED
        missing = 0 if delivered else standing.segments - standing.segments_held
        facts["segments_missing"] = missing
    return facts


def _receipt(receipt: Receipt) -> dict[str, Any]:
    """Of a receipt what proves nothing about the link: an ETag is the server's own text."""
    return {
        "path": receipt.path,
        "size": receipt.size,
        "grade": receipt.grade.value,
        "delivered": printable(receipt.delivered),
        "segments": len(receipt.segments.values),
        "segment_size": receipt.segments.size,
        "resumable": receipt.resumable,
    }


def _name(order: object) -> str | None:
    return printable(order) if isinstance(order, str) else None


def _as_json(facts: object) -> bytes:
    return (json.dumps(facts, indent=1, ensure_ascii=True) + "\n").encode("ascii")
