"""Problems become faults: each with its file, line and field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from segdl.core.errors import Fault
from segdl.core.manifest.document import BrokenError, Log, Path, Place, Problem
from segdl.core.manifest.wording import printable, shown

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)
_LONGEST_KEY = 24  # twice the longest that is known; what is longer may be a piece of a URL
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,100}", re.ASCII)


def faults(log: Log, places: Callable[[], Iterable[Place]], source: str) -> tuple[Fault, ...]:
    """Every problem that the log kept, by line, and how many more there were."""
    lines = _lines(log, places)
    name = printable(source)
    placed = sorted(((_line(p, lines), p) for p in log.kept), key=lambda pair: pair[0])
    listed = [Fault(f"{name}:{line}", field(p.path), _text(p, lines)) for line, p in placed]
    if more := log.count - len(log.kept):
        some = "at least " if log.count == log.COUNTED else ""
        listed.append(Fault(name, "", f"{some}{more:,} more faults are not listed"))
    return tuple(listed)


def field(path: Path) -> str:
    """`files[3].size`. A key that is no plain word is quoted, and may be hidden below `headers`."""
    return "".join(_step(path, n) for n in range(len(path))).removeprefix(".")


def _step(path: Path, number: int) -> str:
    step = path[number]
    if isinstance(step, int):
        return f"[{step}]"
    if number and path[0] == "headers":
        return f"[{_header_key(step)}]"
    if len(step) > _LONGEST_KEY:
        return "['…']"
    return f".{step}" if _PLAIN.fullmatch(step) else f"[{shown(step)}]"


def _header_key(key: str) -> str:
    """An origin or a header's name; anything else there may be a value in the wrong place."""
    return f"'{key}'" if _ORIGIN.fullmatch(key) or _PLAIN.fullmatch(key) else "'…'"


def _lines(log: Log, places: Callable[[], Iterable[Place]]) -> Mapping[Path, int]:
    """The lines of all paths that are spoken of, and of what they lie in."""
    spoken = {p.path for p in log.kept if p.line is None}
    spoken |= {p.other for p in log.kept if p.other is not None}
    wanted = {path[:n] for path in spoken for n in range(len(path) + 1)}
    lines: dict[Path, int] = {}
    with suppress(BrokenError):  # too many faults end the reading before what follows is looked at
        for place in places() if wanted else ():
            if place.path in wanted:
                lines.setdefault(place.path, place.line)
                if len(lines) == len(wanted):
                    break
    return lines


def _line(problem: Problem, lines: Mapping[Path, int]) -> int:
    return problem.line or _nearest(problem.path, lines)


def _nearest(path: Path, lines: Mapping[Path, int]) -> int:
    """The line of `path`, or of the smallest thing around it that is there."""
    around = (path[:n] for n in range(len(path), -1, -1))
    return next((lines[p] for p in around if p in lines), 1)


def _text(problem: Problem, lines: Mapping[Path, int]) -> str:
    if problem.other is None:
        return problem.text
    return f"{problem.text} (line {_nearest(problem.other, lines)})"
