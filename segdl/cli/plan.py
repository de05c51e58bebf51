"""`segdl plan`: go or no-go, before anything is fetched to keep."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from segdl.cli import wording
from segdl.cli.arguments import Parser
from segdl.cli.get import NOTE, read_order
from segdl.cli.progress import on_terminal
from segdl.cli.settings import Settings, add_settings, read_settings
from segdl.cli.signals import Signals
from segdl.cli.summary import command, next_step, reason
from segdl.core.complaint import printable
from segdl.core.errors import DiskError, ExitCode, SegdlError, UsageError
from segdl.core.events import timestamp, trouble
from segdl.core.options import KIB, parse_size

if TYPE_CHECKING:
    from segdl.core.manifest import Manifest
    from segdl.core.outset import Link
    from segdl.core.preflight import Note, Preflight
    from segdl.core.prospect import Prospect

USAGE = "plan MANIFEST [option ...]     (MANIFEST: a file, - or a URL)"
UNCONCERNED = ("retries", "patience", "progress", "dry-run")  # settings of `get`
WIDTH = 79
SHOWN = 20  # targets that are told one by one, and reasons and notes


def run(arguments: list[str], signals: Signals) -> int:
    parser = Parser("plan", USAGE, "plan order.yaml -o out", NOTE)
    parser.add_argument("manifest", metavar="MANIFEST", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.add_argument("--rate", metavar="SIZE", help="bytes a second to count on; else measured")
    add_settings(parser, but=UNCONCERNED)
    given = parser.parse(arguments)
    rate = _rate_given(given.rate)
    settings = read_settings(given, os.environ)
    order, output = read_order(given.manifest, settings)
    found = _survey(order, output, settings, rate, signals)
    if given.json:
        print(json.dumps(as_json(found, order, output, time.time())))
    else:
        for line in told(found, order, output, given.manifest):
            print(line)
    return found.exit_code


def _rate_given(text: str | None) -> float | None:
    """Raises UsageError."""
    if text is None:
        return None
    try:
        rate = parse_size(text)
    except ValueError as error:
        raise UsageError(f"--rate: {error}") from None
    if rate < KIB:
        raise UsageError(f"--rate: expected at least 1KiB a second, found {text[:40]!r}")
    return rate


def _survey(
    order: Manifest, output: Path, settings: Settings, rate: float | None, signals: Signals
) -> Preflight:
    from segdl.engine.survey import survey

    counter = Counting() if on_terminal() else None
    try:
        return survey(
            order, output, options=settings.options, rate=rate, held_off=signals.held,
            on_progress=counter.show if counter else lambda done, total: None,
        )  # fmt: skip
    finally:
        if counter:
            counter.close()


class Counting:
    """How many links have been asked, on a line of the terminal that goes again."""

    def show(self, done: int, total: int) -> None:
        sys.stderr.write(f"\rasked {done} of {wording.count(total, 'link')}\x1b[K")
        sys.stderr.flush()

    def close(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


# -- for people --------------------------------------------------------------------------------


def told(found: Preflight, order: Manifest, output: Path, manifest: str) -> Iterator[str]:
    """What was found, in lines of at most 80 columns; the last one says go or no-go."""
    for label, text in _facts(found, order, output):
        yield from _row(label, text)
    yield from _problems(found)
    yield from _notes(found.notes)
    yield from textwrap.wrap(
        _last_word(found, output, manifest), WIDTH, subsequent_indent="  ",
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


def _row(label: str, text: str) -> Iterator[str]:
    for number, line in enumerate(_wrapped(text, WIDTH - 8)):
        yield f"{'' if number else label:<7} {line}"


def _facts(found: Preflight, order: Manifest, output: Path) -> Iterator[tuple[str, str]]:
    files = wording.count(len(found.prospects), "file")
    yield "Order", f"{order.order or 'without a name'}, {files}, into {printable(str(output))}"
    yield "Bytes", _bytes(found)
    hosts = [f"{host} {good} of {asked}" for host, (asked, good) in _hosts(found).items()]
    if hosts:
        more = f" and {len(hosts) - SHOWN} more hosts" if len(hosts) > SHOWN else ""
        yield "Links", f"good: {', '.join(hosts[:SHOWN])}{more}; {_first_end(found)}"
        yield "Ranges", _ranges(found)
        yield "Rate", _rate(found)
    if found.seconds:
        yield "Time", f"about {wording.span(found.seconds)}"
    if found.ground is not None:
        free, needed = wording.size(found.ground.free), wording.size(found.needed)
        yield "Disk", f"{free} free, {needed} needed at the peak; writing and renaming work"
    yield "Names", _names(found)


def _bytes(found: Preflight) -> str:
    here = sum(p.outset.delivered is not None for p in found.prospects)
    total, held = (wording.size(count) for count in _total_and_held(found))
    known = "in all, " if all(p.size is not None for p in found.prospects) else "as far as known, "
    delivered = f"{wording.count(here, 'file')} delivered, {held} held; "
    return f"{total} {known}{delivered}{wording.size(found.left)} can be fetched"


def _total_and_held(found: Preflight) -> tuple[int, int]:
    return sum(p.size or 0 for p in found.prospects), sum(p.held for p in found.prospects)


def _hosts(found: Preflight) -> dict[str, tuple[int, int]]:
    """How many links of each host were asked for, and how many are good."""
    asked: Counter[str] = Counter()
    good: Counter[str] = Counter()
    for link in _asked(found):
        asked[link.url.netloc] += 1
        good[link.url.netloc] += link.error is None
    return {host: (number, good[host]) for host, number in asked.items()}


def _asked(found: Preflight) -> Iterator[Link]:
    return (link for prospect in found.prospects for link in prospect.outset.links)


def _first_end(found: Preflight) -> str:
    end = min((p.end for p in found.prospects if p.left), default=inf)
    if end == inf:
        return "no good one says when it ends"
    return f"the first ends in {wording.span(max(end - found.date, 0.0))}"


def _ranges(found: Preflight) -> str:
    good = [link for link in _asked(found) if link.error is None]
    without = sum(not link.ranged for link in good)
    if not good:
        return "not known"
    return f"ignored by {without} of {wording.count(len(good), 'link')}" if without else "honoured"


def _rate(found: Preflight) -> str:
    if found.pace is None:
        return "not known"
    rate = wording.rate(found.pace.rate)
    match found.pace.source.value:
        case "given":
            return f"{rate}, as given"
        case "limit":
            return f"{rate}, the limit"
    count = sum(sample.bytes for sample in found.samples)
    strands = wording.count(sum(sample.connections for sample in found.samples), "connection")
    return f"about {rate}: an estimate, from {wording.size(count)} over {strands}"


def _names(found: Preflight) -> str:
    if any(type(p.error) is DiskError for p in found.prospects):
        return "not all can be stored here"
    return "legal here and on Windows"


def _problems(found: Preflight) -> Iterator[str]:
    """A line for each target that would fail; then why, each reason once."""
    failing = [(p.path, p.error) for p in found.prospects if p.error is not None]
    if failing:
        yield f"Would fail: {len(failing)} of {wording.count(len(found.prospects), 'file')}"
    for path, error in failing[:SHOWN]:
        yield f"  {error.cause:<12} {wording.shorten(printable(path, 1000), WIDTH - 15)}"
    if len(failing) > SHOWN:
        yield f"  and {len(failing) - SHOWN} more (--json tells all)"
    firsts = {reason(error): error for _, error in reversed(failing)}  # each has a request id
    yield from _grouped("Why", ((path, _why(firsts[reason(error)])) for path, error in failing))
    for error in (*found.bars, *filter(None, (found.full,))):
        yield from _row("Why", _why(error))


def _why(error: SegdlError) -> str:
    from segdl.core.prospect import worded

    return printable(worded(error), 600)


def _notes(notes: tuple[Note, ...]) -> Iterator[str]:
    return _grouped("Note", ((note.path, printable(note.text, 600)) for note in notes))


def _grouped(label: str, said: Iterable[tuple[str | None, str]]) -> Iterator[str]:
    """Each thing once, with the first of the files that it is said of."""
    about: dict[str, list[str]] = {}
    for path, text in said:
        about.setdefault(text, []).extend(filter(None, (path,)))
    for text, paths in list(about.items())[:SHOWN]:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        where = f"{printable(paths[0], 200)}{more}: " if paths else ""
        yield from _row(label, where + text)
    if len(about) > SHOWN:
        yield from _row(label, f"and {len(about) - SHOWN} more (--json tells all)")


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _last_word(found: Preflight, output: Path, manifest: str) -> str:
    code = found.exit_code
    if code == ExitCode.DONE:
        return f"GO: {command(manifest, output)}"
    if code == ExitCode.BUSY:
        return f"NO-GO ({code}): Wait for the other segdl"
    return f"NO-GO ({code}): {next_step(code, manifest, output)}"


# -- for programs ------------------------------------------------------------------------------


def as_json(found: Preflight, order: Manifest, output: Path, now: float) -> dict[str, object]:
    """What was found, as docs/plan.md describes it."""
    ground, (total, held) = found.ground, _total_and_held(found)
    return {
        "go": found.exit_code == ExitCode.DONE,
        "exit_code": int(found.exit_code),
        "order": order.order,
        "directory": str(output),
        "time": timestamp(now),
        "bytes": {
            "total": total,
            "held": held,
            "left": found.left,
        },
        "disk": None if ground is None else {
            "free": ground.free, "needed": found.needed, "longest_name": ground.longest_name,
            "longest_path": ground.longest_path, "case_sensitive": ground.cased,
        },
        "rate": None if found.pace is None else {
            "bytes_per_second": round(found.pace.rate), "source": found.pace.source.value,
        },
        "seconds": None if found.seconds is None else round(found.seconds, 1),
        "hosts": [
            {"host": host, "links": asked, "good": good, "rate": _rate_of(found, host)}
            for host, (asked, good) in _hosts(found).items()
        ],
        "problems": [_error(error) for error in (*found.bars, found.full) if error],
        "notes": [{"path": note.path, "text": note.text} for note in found.notes],
        "targets": [_target(prospect) for prospect in found.prospects],
    }  # fmt: skip


def _rate_of(found: Preflight, host: str) -> int | None:
    return next((round(s.rate) for s in found.samples if s.host == host), None)


def _target(prospect: Prospect) -> dict[str, object]:
    outset = prospect.outset
    return {
        "path": prospect.path,
        "size": prospect.size,
        "delivered": outset.delivered is not None,
        "held": prospect.held,
        "left": prospect.left,
        "ends_at": _date(prospect.end),
        "problem": _error(prospect.error),
        "links": [_link(link) for link in outset.links],
    }


def _link(link: Link) -> dict[str, object]:
    end, etag = link.url.ends_at, link.pin.etag if link.pin else None
    return {
        "url": f"{link.url.origin}{link.url.path}",  # without its query, which is a password
        "good": link.error is None,
        "size": link.pin and link.pin.total,
        "etag": link.url.mask(etag) if etag else None,
        "ranges": None if link.error else link.ranged,
        "ends_at": _date(inf if end is None else end),
        "problem": _error(link.error),
    }


def _date(end: float) -> str | None:
    return None if end == inf else timestamp(end)


def _error(error: SegdlError | None) -> dict[str, object] | None:
    if error is None:
        return None
    return {**trouble(error), "exit_code": int(error.exit_code)}
