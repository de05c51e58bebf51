"""What bytes are: the digests that segdl knows (xxhash and hashlib).

Names are those of the manifest. Values are lower-case hexadecimal text. The digest of records and
receipts is `RECORD`, chosen for speed: it guards against rot and mix-ups, not against an attacker,
who is stopped only by a digest from a trusted channel.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from typing import Protocol, Self

import xxhash

Buffer = bytes | bytearray | memoryview


class Hasher(Protocol):
    """A digest under way: feed it bytes in order, ask for the value at any time."""

    def update(self, data: Buffer, /) -> None: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Self: ...


class Crc32:
    """CRC-32 as zip and gzip count it (ISO 3309), big-endian like every other value here."""

    def __init__(self, value: int = 0) -> None:
        self._value = value

    def update(self, data: Buffer, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"

    def copy(self) -> Crc32:
        return Crc32(self._value)


RECORD = "xxh3_128"

_MAKERS: dict[str, tuple[int, Callable[[], Hasher]]] = {  # name: (hex digits, maker), best first
    "sha512": (128, lambda: hashlib.sha512(usedforsecurity=False)),
    "sha256": (64, lambda: hashlib.sha256(usedforsecurity=False)),
    "blake2b": (128, lambda: hashlib.blake2b(usedforsecurity=False)),
    "sha1": (40, lambda: hashlib.sha1(usedforsecurity=False)),
    "md5": (32, lambda: hashlib.md5(usedforsecurity=False)),
    "xxh3_128": (32, xxhash.xxh3_128),
    "xxh3_64": (16, xxhash.xxh3_64),
    "xxh64": (16, xxhash.xxh64),
    "crc32": (8, Crc32),
}

ALGORITHMS: tuple[str, ...] = tuple(_MAKERS)


def hasher(algorithm: str) -> Hasher:
    """A fresh hasher. `algorithm` is one of `ALGORITHMS`, else KeyError."""
    return _MAKERS[algorithm][1]()


def hex_digits(algorithm: str) -> int:
    """How many hexadecimal digits a value of this algorithm has."""
    return _MAKERS[algorithm][0]


def digest(algorithm: str, data: Buffer) -> str:
    """The digest of bytes that are all at hand."""
    running = hasher(algorithm)
    running.update(data)
    return running.hexdigest()


def digest_of_parts(digests: list[str]) -> str:
    """S3's multipart ETag: the MD5 of the parts' binary MD5s, then `-` and their number."""
    joined = hashlib.md5(b"".join(map(bytes.fromhex, digests)), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(digests)}"


_MIB = 1024 * 1024
_USUAL_PARTS = tuple(n * _MIB for n in (8, 16, 5, 64, 15))  # most used first: many sizes fit two
_MULTIPART = re.compile(r'"([0-9a-f]{32})-([1-9][0-9]{0,4})"')
_MD5 = re.compile(r'"([0-9a-f]{32})"')


def etag_md5(etag: str | None) -> str | None:
    """The MD5 that a one-PUT S3 ETag may be, or None. A miss proves nothing (SSE-C, SSE-KMS)."""
    found = _MD5.fullmatch(etag or "")
    return found[1] if found else None


def etag_parts(etag: str | None, size: int) -> tuple[str, int] | None:
    """What a multipart ETag `"…-N"` may be: (its text, the part size in bytes), or None.

    S3 does not tell the part size. Candidates are the sizes that clients use by default and
    size/N rounded up to a MiB; the first that gives N parts is taken. A miss proves nothing.
    """
    found = _MULTIPART.fullmatch(etag or "")
    if not found or not size:
        return None
    count = int(found[2])
    rounded = -(-size // count // _MIB) * _MIB
    for part in (*_USUAL_PARTS, rounded):
        if -(-size // part) == count:
            return f"{found[1]}-{count}", part
    return None
