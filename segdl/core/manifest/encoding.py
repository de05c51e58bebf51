"""Bytes that are text, as far as a manifest goes: UTF-8, all of it, and not too much."""

from __future__ import annotations

from codecs import utf_8_decode

from segdl.core.manifest.document import BrokenError

LARGEST = 128 * 1024 * 1024  # bytes; whoever reads a manifest needs to read no more than one more
_PIECE = 1024 * 1024
_SAVE = "save it as UTF-8 without a byte order mark"
_MARKS = ((b"\xef\xbb\xbf", "UTF-8"), (b"\xff\xfe", "UTF-16 or UTF-32"), (b"\xfe\xff", "UTF-16"))


def check(data: bytes) -> None:
    """Raises BrokenError if these bytes are no manifest in any syntax."""
    if len(data) > LARGEST:
        raise BrokenError(1, f"is larger than {LARGEST >> 20} MiB; split the order")
    for mark, name in _MARKS:
        if data.startswith(mark):
            raise BrokenError(1, f"begins with the byte order mark of {name}; {_SAVE}")
    if (nul := data.find(0)) >= 0:
        problem = f"holds a NUL, as binary files and UTF-16 do; {_SAVE}"
        raise BrokenError(_line(data, nul), problem)
    if not data.isascii():
        _check_utf8(data)


def _check_utf8(data: bytes) -> None:
    """Piece by piece: text that is not ASCII can take four times its bytes."""
    at = 0
    while at < len(data):
        piece = data[at : at + _PIECE]
        try:
            at += utf_8_decode(piece, "strict", at + len(piece) == len(data))[1]
        except UnicodeDecodeError as error:
            raise _not_utf8(data, at + error.start) from None


def _not_utf8(data: bytes, at: int) -> BrokenError:
    column = at - data.rfind(b"\n", 0, at)
    problem = f"is not UTF-8 (byte {column} of the line, 0x{data[at]:02x}); {_SAVE}"
    return BrokenError(_line(data, at), problem)


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1
