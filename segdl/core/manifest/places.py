"""Where each key and item of a nested text stands, from its tokens.

YAML and JSON have the same bones: mappings, lists and text. Both give their tokens in order, and
here these become paths with lines. A mapping's entry stands where its key does, a list's item where
the item begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import field
from enum import Enum
from typing import NamedTuple

from segdl.core.dataclass import dataclass
from segdl.core.manifest.document import DEEPEST, Path, Place


class Bone(Enum):
    """What a token is."""

    MAPPING = "{"
    LIST = "["
    END = "}"
    TEXT = "text"


class Token(NamedTuple):
    """One token, the line on which it begins, from 1, and what its syntax has against it."""

    bone: Bone
    text: str
    line: int
    problem: str | None = None


@dataclass(slots=True)
class _Level:
    """A mapping or a list that is open, and the key or the number of what comes in it."""

    path: Path  # its own
    mapping: bool
    step: str | int = -1
    at_key: bool = True
    keys: set[str] = field(default_factory=set)

    @property
    def here(self) -> Path:
        return (*self.path, self.step)

    def enter(self, key: str) -> bool:
        """Go to the entry of this key. True if the mapping had it before."""
        doubled = key in self.keys
        self.keys.add(key)
        self.step, self.at_key = key, False
        return doubled

    def advance(self) -> None:
        """Go past a value: to the next key, or to the item that this is."""
        self.at_key = True
        if isinstance(self.step, int):
            self.step += 1


def places_of(tokens: Iterable[Token]) -> Iterator[Place]:
    """Every place, in the order of the text."""
    levels: list[_Level] = []
    for bone, text, line, problem in tokens:
        if bone is Bone.END:
            del levels[-1:]  # in a part that nobody has read, there may be too many
            continue
        level = levels[-1] if levels else None
        is_key = level is not None and level.mapping and level.at_key
        doubled = False
        if level and is_key:
            doubled = level.enter(text)
        elif level:
            level.advance()
        if problem or is_key or not (level and level.mapping):
            yield Place(level.here if level else (), line, problem, doubled)
        if bone is not Bone.TEXT:
            levels.append(_Level(level.here if level else (), bone is Bone.MAPPING))


def line_too_deep(tokens: Iterable[Token]) -> int:
    """The first line that is nested more than 32 deep; 1 if there is none."""
    depth = 0
    for token in tokens:
        depth += {Bone.TEXT: 0, Bone.END: -1}.get(token.bone, 1)
        if depth > DEEPEST:
            return token.line
    return 1
