"""What a syntax and the schema have between them: a tree, places in it, and what is wrong there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from typing import Final, NamedTuple, Protocol

from segdl.core.dataclass import dataclass

MOST_TARGETS = 1_000_000
DEEPEST = 32

Path = tuple[str | int, ...]  # ("files", 3, "size")
Entry = Callable[[int, object], object]  # the schema's reader of one item of `files`


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest as its syntax sees it.

    `tree` holds dictionaries, lists, text, and from JSON also numbers, `true`, `false`, `null` and
    `Literal`. The items of `files` are already what `Entry` made of them, one by one, so that the
    tree of a long order never stands in memory. `refused` says that some places have a problem.
    """

    tree: object
    refused: bool = False


class Place(NamedTuple):
    """A path, the line where it stands, and what is wrong there as far as syntax goes."""

    path: Path
    line: int
    problem: str | None = None
    doubled: bool = False  # the mapping has the same key above


class Syntax(Protocol):
    """One way to write a manifest, as a module: a quick look, and a slow one that knows lines."""

    NAMED: bool  # whether keys stand in the text, so that a fault can name them

    def read(self, data: bytes, entry: Entry) -> Document:
        """The tree. Raises BrokenError if there is none."""
        ...

    def places(self, data: bytes) -> Iterator[Place]:
        """Every place of a text that could be read, in order."""
        ...


class BrokenError(Exception):
    """Nothing can be read, or nothing from this line on."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem


class Unreadable:
    """What stands in the tree where the syntax has a problem to report."""


UNREADABLE: Final = Unreadable()


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong at `path`; `other` is a second place that belongs to it."""

    path: Path
    text: str
    line: int | None = None  # where the syntax knows better than `path` does
    other: Path | None = None


class FullError(Exception):
    """So much is wrong that reading on helps nobody."""


@dataclass(slots=True)
class Log:
    """The problems of one manifest as they are found: a thousand kept, ten thousand counted."""

    kept: list[Problem] = field(default_factory=list)
    count: int = 0

    LISTED = 1_000
    COUNTED = 10_000

    def note(self, problem: Problem) -> None:
        """Raises FullError at the ten-thousandth."""
        if self.count < self.LISTED:
            self.kept.append(problem)
        self.count += 1
        if self.count == self.COUNTED:
            raise FullError


def problems_of(places: Iterable[Place]) -> Iterator[Problem]:
    """What the syntax has against a text that it could read."""
    for path, line, problem, doubled in places:
        if problem:
            yield Problem(path, problem, line)
        if doubled:
            yield Problem(path, "is given twice; the first one stands above", line, path)
