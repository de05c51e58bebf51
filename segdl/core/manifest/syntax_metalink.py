"""Metalink 4 (RFC 5854), by expat, into the tree that the schema reads.

Only what names an object is taken: `file` with its `size`, `hash`, `pieces` and `url`. What the RFC
lets a client ignore is ignored: other elements, hash types that segdl does not know, and `metaurl`
and other schemes where there is an HTTP one. A DOCTYPE is refused before anything in it is read,
and so entities never expand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import NamedTuple
from xml.parsers import expat

from segdl.core.dataclass import dataclass
from segdl.core.manifest.document import DEEPEST, BrokenError, Document, Entry, Path, Place

NAMED = True

_SPACE = "urn:ietf:params:xml:ns:metalink"
_HASHES = {"md5": "md5", "sha-1": "sha1", "sha-256": "sha256", "sha-512": "sha512"}
_WORST = 999_999  # the priority of a URL that has none (RFC 5854, 4.2.17)


def read(data: bytes, entry: Entry) -> Document:
    """The tree of a Metalink that is UTF-8, whatever it declares. Raises BrokenError."""
    order = _parse(data, entry)
    return Document({"segdl": "1", "files": order.files}, order.refused)


def places(data: bytes) -> Iterator[Place]:
    """Where each thing stands that was taken."""
    return iter(_parse(data, lambda number, tree: None, keep=True).places)


def _parse(data: bytes, entry: Entry, *, keep: bool = False) -> _Order:
    order = _Order(entry, keep)
    reader = _Reader(order)
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        problem = f"is not valid XML: {expat.ErrorString(error.code)}"
        raise BrokenError(error.lineno, problem) from None
    return order


class _Element(NamedTuple):
    name: str  # without its name space, or "" if that is not Metalink's
    attributes: dict[str, str]
    line: int

    @property
    def algorithm(self) -> str | None:
        return _HASHES.get(self.attributes.get("type", "").lower())


class _URL(NamedTuple):
    priority: int
    line: int
    text: str

    @property
    def usable(self) -> bool:
        return self.text[:8].lower().startswith(("http://", "https://"))


@dataclass(slots=True)
class _File:
    """One file as it grows: what each element that counts adds to its tree."""

    tree: dict[str, object]
    places: list[Place]
    path: Path
    hashes: dict[str, str] = field(default_factory=dict)
    urls: list[_URL] = field(default_factory=list)
    pieces: list[str] | None = None

    def put(self, key: str, value: object, line: int) -> None:
        self.places.append(Place((*self.path, key), line, doubled=key in self.tree))
        self.tree[key] = value

    def add_hash(self, algorithm: str | None, value: str, line: int) -> None:
        if algorithm is None:
            return
        path = (*self.path, "hash", algorithm)
        self.places.append(Place(path, line, doubled=algorithm in self.hashes))
        self.hashes[algorithm] = value
        self.tree["hash"] = self.hashes

    def begin_pieces(self, algorithm: str | None, length: str, line: int) -> None:
        """The first `pieces` of a known type counts; the hashes that follow are its own."""
        self.pieces = None
        if algorithm is not None and "pieces" not in self.tree:
            self.pieces = []
            tree = {"size": length, "algorithm": algorithm, "values": self.pieces}
            self.put("pieces", tree, line)

    def add_piece(self, value: str, line: int) -> None:
        if self.pieces is not None:
            path = (*self.path, "pieces", "values", len(self.pieces))
            self.places.append(Place(path, line))
            self.pieces.append(value)

    def add_url(self, priority: str, text: str, line: int) -> None:
        rank = int(priority) if priority.isdecimal() and len(priority) <= 6 else _WORST
        self.urls.append(_URL(rank, line, text))

    def end(self) -> None:
        """Rank the URLs, best first; without any of HTTP, the others stay to be reported."""
        ranked = sorted(self.urls, key=lambda url: url.priority)
        urls = [url for url in ranked if url.usable] or ranked
        for number, url in enumerate(urls):
            self.places.append(Place((*self.path, "urls", number), url.line))
        if urls:
            self.tree["urls"] = [url.text for url in urls]


class _Order:
    """The files, each handed on when it is complete."""

    def __init__(self, entry: Entry, keep: bool) -> None:
        self.files: list[object] = []
        self.places: list[Place] = []
        self.refused = False
        self._entry = entry
        self._keep = keep  # whether the places are what is wanted
        self.file = _File({}, [], ())

    def begin(self, name: str, line: int) -> None:
        path = ("files", len(self.files))
        self.file = _File({"path": name}, [Place(path, line)], path)

    def end(self) -> None:
        self.file.end()
        self.refused |= any(place.doubled for place in self.file.places)
        self.files.append(self._entry(len(self.files), self.file.tree))
        if self._keep:
            self.places += self.file.places


class _Reader:
    """The handlers of one parse: which elements count, and where."""

    def __init__(self, order: _Order) -> None:
        self._order = order
        self._open: list[_Element] = []
        self._text: list[str] = []
        self.parser = expat.ParserCreate("utf-8", " ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text.append
        self.parser.StartDoctypeDeclHandler = self._doctype

    def _refuse(self, problem: str) -> BrokenError:
        return BrokenError(self.parser.CurrentLineNumber, problem)

    def _doctype(self, *_: object) -> None:
        raise self._refuse("has a DOCTYPE; a Metalink needs none")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._open and tag != f"{_SPACE} metalink":
            raise self._refuse(f'expected <metalink xmlns="{_SPACE}"> (Metalink 4) at the top')
        if len(self._open) == DEEPEST:
            raise self._refuse(f"is nested more than {DEEPEST} deep")
        space, _, name = tag.rpartition(" ")
        line = self.parser.CurrentLineNumber
        element = _Element(name if space == _SPACE else "", attributes, line)
        self._open.append(element)
        self._text.clear()
        match self._names():
            case ["file"]:
                self._order.begin(attributes.get("name", ""), line)
            case ["file", "pieces"]:
                length = attributes.get("length", "")
                self._order.file.begin_pieces(element.algorithm, length, line)

    def _end(self, _: str) -> None:
        names, element, text = self._names(), self._open.pop(), "".join(self._text).strip()
        file = self._order.file
        match names:
            case ["file", "size"]:
                file.put("size", text, element.line)
            case ["file", "hash"]:
                file.add_hash(element.algorithm, text, element.line)
            case ["file", "url"]:
                file.add_url(element.attributes.get("priority", ""), text, element.line)
            case ["file", "pieces", "hash"]:
                file.add_piece(text, element.line)
            case ["file"]:
                self._order.end()

    def _names(self) -> list[str]:
        """The elements that are open below the root, outermost first."""
        return [element.name for element in self._open[1:]]
