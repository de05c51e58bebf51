"""A plain list of share URLs, one a line; blank lines and comments (#) are passed over."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from segdl.core.manifest.document import Document, Entry, Place

NAMED = False


def read(data: bytes, entry: Entry) -> Document:
    """A file for each URL, named by the URL."""
    files = [entry(number, {"url": text}) for number, (_, text) in enumerate(_urls(data))]
    return Document({"segdl": "1", "files": files})


def places(data: bytes) -> Iterator[Place]:
    """Where each URL stands."""
    for number, (line, _) in enumerate(_urls(data)):
        yield Place(("files", number), line)


def _urls(data: bytes) -> Iterator[tuple[int, str]]:
    for line, raw in enumerate(BytesIO(data), 1):
        text = raw.decode().strip(" \t\r\n")
        if text and not text.startswith("#"):
            yield line, text
