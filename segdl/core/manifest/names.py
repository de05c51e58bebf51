"""Which names every system can store, and which of them would be one file.

A target's path is judged by the strictest rules of Linux, macOS and Windows at once, since an order
is often downloaded on one and read on another. What could be taken for something else by a person
or a terminal (control, zero-width and direction characters) is refused with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from unicodedata import category, normalize

from segdl.core.dataclass import dataclass

LONGEST_COMPONENT = 255  # bytes: NAME_MAX
LONGEST_PATH = 1024  # bytes: PATH_MAX of macOS, and the longest key of an S3 object

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FORBIDDEN = re.compile(r'[<>:"|?*]')
_OURS = re.compile(r"\.segdl|segdl~[0-9]")  # the second is its short name on NTFS
_DEVICES = {
    "con", "prn", "aux", "nul", "conin$", "conout$",
    *(port + digit for port in ("com", "lpt") for digit in "123456789¹²³"),
}  # fmt: skip
# What most names are, and what no rule has anything against: a shortcut, for long orders.
_PLAIN_TEXT = r"(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:[./]|$))[a-z0-9_-]+(?:\.[a-z0-9_-]+)*+"
_PLAIN = re.compile(_PLAIN_TEXT, re.ASCII | re.IGNORECASE)
_PLAIN_PATH = re.compile(f"{_PLAIN_TEXT}(?:/{_PLAIN_TEXT})*+", re.ASCII | re.IGNORECASE)
_UNSEEN_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_UNSEEN = set("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffe\uffff")


def path_problem(path: str) -> str | None:
    """Why this is no path for a target, as the end of a sentence; None if it is one."""
    if len(path) <= LONGEST_COMPONENT and _PLAIN_PATH.fullmatch(path):
        return None
    if path.startswith("/"):
        return "is absolute"
    if len(path.encode(errors="replace")) > LONGEST_PATH:
        return f"has more than {LONGEST_PATH} bytes"
    return next(filter(None, map(component_problem, path.split("/"))), None)


def component_problem(name: str) -> str | None:
    """Why this is no name of a file or a folder, as the end of a sentence; None if it is one."""
    if len(name) <= LONGEST_COMPONENT and _PLAIN.fullmatch(name):
        return None
    return next((problem for wrong, problem in _RULES if wrong(name)), None)


def _is_device(name: str) -> bool:
    """Whether Windows takes this for a device: `nul`, `NUL.txt`, `nul .txt`."""
    return name.partition(".")[0].rstrip(" ").lower() in _DEVICES


def _has_unseen(name: str) -> bool:
    if name.isascii():
        return bool(_CONTROL.search(name))
    return any(c in _UNSEEN or category(c) in _UNSEEN_CATEGORIES for c in name)


_RULES: tuple[tuple[Callable[[str], object], str], ...] = (
    (lambda name: not name, "has an empty component"),
    (lambda name: name in (".", ".."), "has a component that is `.` or `..`"),
    (lambda name: "/" in name, "holds a `/`"),
    (lambda name: "\\" in name, "holds a backslash"),
    (_has_unseen, "holds a control, zero-width or direction character"),
    (_FORBIDDEN.search, 'holds one of < > : " | ? *'),
    (lambda name: name[-1] in ". ", "has a component that ends in a dot or a space"),
    (_is_device, "has a component that Windows keeps for a device"),
    (lambda name: _OURS.fullmatch(_fold(name)), "has a component that is segdl's own"),
    (
        lambda name: len(name.encode()) > LONGEST_COMPONENT,
        f"has a component of more than {LONGEST_COMPONENT} bytes",
    ),
)


@dataclass(frozen=True, slots=True)
class Collision:
    """Two targets that cannot both be: path `number` is path `other` again, or lies in it."""

    number: int
    other: int
    inside: bool


def collisions(paths: Iterable[str | None]) -> Iterator[Collision]:
    """Each path that cannot stand beside another; None holds the place of a path that is missing.

    Sorted with the separator first, what lies in a folder follows the folder at once. So one walk
    finds everything in linear memory, however deep the paths are. A list of files is often sorted
    already, and hardly ever holds a collision: only for one are the numbers sorted too.
    """
    paths = tuple(paths)
    if not _apart(_keys(paths)) and not _apart(sorted(_keys(paths))):
        yield from _sorted_collisions(paths)


def _keys(paths: Iterable[str | None]) -> Iterator[str]:
    return (_fold(path) for path in paths if path)


def _apart(keys: Iterable[str]) -> bool:
    """Whether these are sorted, and no two of them are equal or one in the other."""
    return all(one < other and not other.startswith(one + "\0") for one, other in pairwise(keys))


def _sorted_collisions(paths: Iterable[str | None]) -> Iterator[Collision]:
    file, file_number = "\0", -1  # the last path that is no other's, nor lies in one
    before, before_number = "\0", -1
    for key, number in sorted((_fold(path), n) for n, path in enumerate(paths) if path):
        if key == before:
            yield Collision(number, before_number, inside=False)
            continue
        before, before_number = key, number
        if key.startswith(file + "\0"):
            yield Collision(number, file_number, inside=True)
        else:
            file, file_number = key, number


def _fold(path: str) -> str:
    """What paths have in common that are one on a system ignoring case or form (Unicode D145)."""
    if path.isascii():
        return path.lower().replace("/", "\0")
    return normalize("NFD", normalize("NFD", path).casefold()).replace("/", "\0")
