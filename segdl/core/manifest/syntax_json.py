"""JSON, read by the C scanner, with everything refused that RFC 8259 leaves open.

The scanner tells no positions and keeps the last of two equal keys. So lines are found by a second,
slower look at the text, which is taken only when there is something to report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache

from segdl.core.manifest.document import DEEPEST, BrokenError, Document, Entry, Place
from segdl.core.manifest.json_window import Window
from segdl.core.manifest.places import Bone, Token, line_too_deep, places_of
from segdl.core.manifest.wording import Literal

NAMED = True

_MOST_DIGITS = 20  # of 2**63 and its sign; `int` takes quadratic time, and raises from 4,300 on
_TOKEN = re.compile(rb'[{}\[\]]|"([^"\\]*+(?:\\.[^"\\]*+)*+)"|[^\s{}\[\],:"]+', re.DOTALL)
_BONES = {b"{": Bone.MAPPING, b"[": Bone.LIST, b"}": Bone.END, b"]": Bone.END}


class _Hooks:
    """What the scanner asks about on its way."""

    def __init__(self) -> None:
        self.doubled = False

    def mapping(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        self.doubled |= len(made) < len(pairs)
        return made


def _integer(text: str) -> int | Literal:
    return _number(text) if len(text) <= _MOST_DIGITS else Literal(text)


_number = lru_cache(maxsize=256)(int)  # files of one size share the number


def read(data: bytes, entry: Entry) -> Document:
    """The tree of a JSON text that is UTF-8. Raises BrokenError."""
    hooks = _Hooks()
    decoder = json.JSONDecoder(
        object_pairs_hook=hooks.mapping,
        parse_int=_integer,
        parse_float=Literal,
        parse_constant=Literal,
    )
    window = Window(data, decoder)
    try:
        tree = (
            hooks.mapping(list(_pairs(window, entry))) if window.peek() == "{" else window.value()
        )
        if window.peek():
            raise window.error("Extra data")
    except json.JSONDecodeError as error:
        line = window.line + error.lineno - 1
        raise BrokenError(line, f"is not valid JSON: {error.msg}") from None
    except RecursionError:
        line = line_too_deep(_tokens(data))
        raise BrokenError(line, f"is nested more than {DEEPEST} deep") from None
    return Document(tree, hooks.doubled)


def _pairs(window: Window, entry: Entry) -> Iterator[tuple[str, object]]:
    """The keys of the manifest with their values; each of `files` is handed on at once."""
    for _ in window.members("{}"):
        key = window.key()
        if key == "files" and window.peek() == "[":
            yield key, [entry(number, window.value()) for number in window.members("[]")]
        else:
            yield key, window.value()


def places(data: bytes) -> Iterator[Place]:
    """Every place of a text, as far as it can be read."""
    return places_of(_tokens(data))


def _tokens(data: bytes) -> Iterator[Token]:
    line, before = 1, 0
    for found in _TOKEN.finditer(data):
        line += data.count(b"\n", before, found.start())
        before = found.start()
        quoted = found[1]
        if quoted is None:
            yield Token(_BONES.get(found[0], Bone.TEXT), "", line)
        else:
            yield Token(Bone.TEXT, _text(found[0], quoted), line)


def _text(string: bytes, quoted: bytes) -> str:
    """What a string says; nothing where it says nothing, in a part that nobody has read."""
    try:
        return str(json.loads(string)) if b"\\" in quoted else quoted.decode()
    except ValueError:
        return ""
