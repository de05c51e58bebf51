"""YAML, read from libyaml's events (pyyaml): every scalar is text, and nothing is clever.

Never `load` or `compose`: they expand aliases (324 bytes become gigabytes), construct what tags ask
for, let the last of two equal keys win, and recurse, so that 100,000 open brackets end the process.
Events are flat. Tags, anchors and aliases are refused, but read past, so that one run names every
fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from segdl.core.manifest.document import (
    DEEPEST,
    UNREADABLE,
    BrokenError,
    Document,
    Entry,
    Place,
)
from segdl.core.manifest.places import Bone, Token, places_of
from segdl.core.manifest.wording import printable

NAMED = True

# YAML 1.1 ends a line at U+0085, U+2028 and U+2029; YAML 1.2 and editors do not.
_ODD_BREAK = re.compile(b"\xc2\x85|\xe2\x80[\xa8\xa9]")


def read(data: bytes, entry: Entry) -> Document:
    """The tree of a YAML text that is UTF-8. Raises BrokenError."""
    if odd := _ODD_BREAK.search(data):
        code = _code(ord(odd[0].decode()))
        raise BrokenError(
            _line_at(data, odd.start()), f"holds {code}, a line end to some; remove it"
        )
    builder = _Builder(entry)
    with _translated(data):
        for event in _events(data):
            builder.take(event)
    if builder.tree is None:
        raise BrokenError(1, "holds nothing; expected `segdl: 1` and `files`")
    return Document(builder.tree, builder.refused)


@contextmanager
def _translated(data: bytes) -> Iterator[None]:
    """PyYAML's errors as BrokenError."""
    try:
        yield
    except yaml.reader.ReaderError as error:
        problem = f"holds the character {_code(error.character)}, which YAML does not allow"
        raise BrokenError(_line_at(data, error.position), problem) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error) from None
    except (yaml.YAMLError, ValueError, OverflowError):  # the pure loader's, on "\U99999999"
        raise BrokenError(1, "is not valid YAML") from None


def places(data: bytes) -> Iterator[Place]:
    """Every place of a text, as far as it can be read. Raises BrokenError."""
    with _translated(data):
        yield from places_of(_tokens(data))


class _Builder:
    """The tree, as it grows event by event, and whether anything refused was met."""

    def __init__(self, entry: Entry) -> None:
        self.tree: object = None
        self.refused = False
        self._entry = entry
        self._open: list[dict[str, object] | list[object]] = []
        self._keys: list[str | None] = []  # of each of these, the key whose value comes next
        self._files: list[object] | None = None  # the list whose items are handed on
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """One more event. Raises BrokenError where reading on makes no sense."""
        match event:
            case ScalarEvent():
                self._place(event.value, event)
                self._complete()
            case CollectionEndEvent():
                self._open.pop()
                self._keys.pop()
                self._complete()
            case MappingStartEvent():
                self._enter({}, event)
            case SequenceStartEvent():
                self._enter([], event)
            case AliasEvent():
                self._place(UNREADABLE, event)
                self._complete()
            case DocumentStartEvent():
                self._begin(event)

    def _begin(self, event: yaml.Event) -> None:
        self._documents += 1
        if self._documents > 1:
            raise BrokenError(_line(event), "begins a second document; a manifest is one")

    def _enter(self, made: dict[str, object] | list[object], event: NodeEvent) -> None:
        if len(self._open) == DEEPEST:
            raise BrokenError(_line(event), f"is nested more than {DEEPEST} deep")
        if self._keys == ["files"] and isinstance(made, list):
            self._files = made
        self._place(made, event)
        self._open.append(made)
        self._keys.append(None)

    def _place(self, node: object, event: NodeEvent) -> None:
        """Put a node where it belongs: as the root, an item, a key or a value."""
        if event.anchor is not None or getattr(event, "tag", None) is not None:
            self.refused = True
        if not self._open:
            self.tree = node
            return
        around, key = self._open[-1], self._keys[-1]
        if isinstance(around, list):
            around.append(node)
        elif key is None:
            self._keys[-1] = self._key(node, around, event)
        else:
            around[key] = node
            self._keys[-1] = None

    def _key(self, node: object, around: dict[str, object], event: NodeEvent) -> str:
        if not isinstance(node, str):
            raise BrokenError(_line(event), "expected a key that is text; put it into quotes")
        if node in around:
            self.refused = True
        return node

    def _complete(self) -> None:
        """A node is complete: if it is an item of `files`, replace it by what the schema makes."""
        files = self._files
        if files is not None and len(self._open) == 2 and self._open[1] is files:
            files[-1] = self._entry(len(files) - 1, files[-1])


def _events(data: bytes) -> Iterator[yaml.Event]:
    """The events of a text, from libyaml where pyyaml was built with it."""
    return yaml.parse(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _tokens(data: bytes) -> Iterator[Token]:
    for event in _events(data):
        match event:
            case ScalarEvent():
                yield Token(Bone.TEXT, event.value, _line(event), _refusal(event))
            case CollectionEndEvent():
                yield Token(Bone.END, "", _line(event))
            case MappingStartEvent():
                yield Token(Bone.MAPPING, "", _line(event), _refusal(event))
            case SequenceStartEvent():
                yield Token(Bone.LIST, "", _line(event), _refusal(event))
            case AliasEvent():
                yield Token(Bone.TEXT, "", _line(event), "is an alias; write the value out")


def _refusal(event: ScalarEvent | CollectionStartEvent) -> str | None:
    """What a manifest has against this node, or None."""
    if event.tag is not None:
        return "has a tag; every value is read as its key asks, without one"
    return "has an anchor; a manifest has none" if event.anchor is not None else None


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return int(mark.line) + 1 if mark else 1


def _line_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _syntax_error(error: yaml.MarkedYAMLError) -> BrokenError:
    """The line and libyaml's own words, which never quote the text."""
    context, mark = error.context_mark, error.problem_mark or error.context_mark
    words = printable(", ".join(filter(None, (error.context, error.problem))))[:200]
    if context and mark and context.line != mark.line:
        words += f" (begun on line {context.line + 1})"
    return BrokenError(mark.line + 1 if mark else 1, f"is not valid YAML: {words}")


def _code(character: int) -> str:
    return f"U+{character:04X}"
