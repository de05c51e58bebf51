"""Self-checking lines: what is torn, rotten or foreign is seen and passed over.

A line is one JSON object whose last member, `check`, is the xxh3_64 of the text before it. Readers
take each line on its own: a bad one costs what it said, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from segdl.core.digests import digest

_encoded = json.JSONEncoder(separators=(",", ":")).encode
_MARK = b',"check":"'
_LONGEST = 64 * 1024 * 1024  # a receipt of 100 GiB holds some 400 KiB; no line of ours is longer


def seal(fields: dict[str, Any]) -> bytes:
    """One line, newline included. `fields` must not be empty."""
    body = _encoded(fields).encode("ascii")[:-1]
    return body + _MARK + digest("xxh3_64", body).encode("ascii") + b'"}\n'


def unseal(line: bytes) -> dict[str, Any] | None:
    """What a line says, or None if it is not one that `seal` wrote, whole."""
    body, mark, check = line.rstrip(b"\n").rpartition(_MARK)
    if not mark or check != digest("xxh3_64", body).encode("ascii") + b'"}':
        return None
    try:
        fields = json.loads(body + b"}")
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def damaged_lines(file: BinaryIO) -> int:
    """How many lines of a journal do not prove themselves."""
    damaged = 0
    while line := file.readline(_LONGEST):
        damaged += line != b"\n" and unseal(line) is None  # an empty one ends a torn one
    return damaged


def read_lines(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """The good lines of a journal, in order, in bounded memory."""
    while line := file.readline(_LONGEST):
        fields = unseal(line)
        if fields is not None:
            yield fields
