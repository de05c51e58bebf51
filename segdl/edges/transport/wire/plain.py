"""The head of a request, and of its answer, where both are as nearly all are.

An order of small files is mostly heads, and h11 takes seven times as long over them. So what is
plain to see is read here: a 200 or 206 of HTTP/1.1, all in the bytes that came first, in the
strictest grammar, with one length, and with nothing that changes how the body is framed or whether
the connection is kept. Of whatever is not (another status, a coding, `Connection: close`, a folded
line, a bare line feed) nothing is said here, and h11 takes it up from its first byte (`parsed`).
What is read here, h11 would read alike.
"""

from __future__ import annotations

import re
from functools import lru_cache

from segdl.edges.transport.wire.heads import FinalHead, RawHeaders

_NAME = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"(?:[!-~\x80-\xff]+(?:[\t ]+[!-~\x80-\xff]+)*)?")
_TARGET = re.compile(rb"[!-~]+")
_TEXT = rb"[\t -~\x80-\xff]*"
_HEAD = re.compile(  # RFC 9112, 4 and 5, without what it allows for old servers
    rb"HTTP/1\.1 (20[06])(?: %b)?\r\n((?:%b:%b\r\n)+)\r\n" % (_TEXT, _NAME.pattern, _TEXT)
)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ODD = {b"connection", b"content-length", b"expect", b"transfer-encoding", b"upgrade"}


def request(target: bytes, headers: RawHeaders) -> bytes | None:
    """The bytes of a GET, its target exactly as it is given; None if anything in it is odd."""
    fields = _fields(tuple(headers))
    if fields is None or not _TARGET.fullmatch(target):
        return None
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (target, fields)


@lru_cache(maxsize=64)  # most requests have the same ones
def _fields(headers: tuple[tuple[bytes, bytes], ...]) -> bytes | None:
    names = [name.lower() for name, _ in headers]
    hosts_first = names[:1] == [b"host"] and names.count(b"host") == 1
    good = all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers)
    if not (hosts_first and good) or not _ODD.isdisjoint(names):
        return None
    return b"".join(b"%b: %b\r\n" % field for field in headers)


def head(data: bytes) -> FinalHead | None:
    """The head that `data` begins with, if it is there as a whole, and plain."""
    found = _HEAD.match(data)
    if found is None:
        return None
    headers, lengths = [], []
    for line in found[2].splitlines():
        name, _, value = line.partition(b":")
        value = value.strip(b"\t ")
        headers.append((name, value))
        match name.lower():
            case b"content-length":
                lengths.append(value)
            case b"transfer-encoding":
                return None
            case b"connection" if value.lower() != b"keep-alive":
                return None
    if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
        return None
    early = data[found.end() :]
    return FinalHead(int(found[1]), headers, early, int(lengths[0]), keeps=True)
