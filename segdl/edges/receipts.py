"""Receipts: what was delivered, one self-checking line a target, appended and flushed."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any, BinaryIO

from segdl.core.journal import damaged_lines, read_lines, seal
from segdl.core.report import Grade, Receipt, SegmentDigests

NAME = "receipts.jsonl"
_COPY = "receipts.new"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Receipts:
    """The receipts of an output directory, open for reading and appending."""

    def __init__(self, hidden: int) -> None:
        """Open `receipts.jsonl` in the folder `hidden`. Raises OSError."""
        self._file = os.open(NAME, _FLAGS, 0o600, dir_fd=hidden)
        if os.fstat(self._file).st_nlink > 1:
            self._file = _part_company(self._file, hidden)
        self._lock = threading.Lock()
        size = os.fstat(self._file).st_size
        if not size:  # its name must outlast a power cut, or what is in it will not
            os.fsync(hidden)
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def read(self) -> dict[str, Receipt]:
        """The latest receipt of each path; lines that do not prove themselves are passed over."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            return _read(file)

    def append(self, *receipts: Receipt) -> None:
        """Add receipts, durably, with one flush; none costs nothing. Raises OSError."""
        if not receipts:
            return
        with self._lock:
            self._append(b"".join(seal(_line(receipt)) for receipt in receipts))
        os.fdatasync(self._file)

    def _append(self, lines: bytes) -> None:
        """Add lines; where a full disk took a part of them, end that and say them again."""
        text = b"\n" + lines if self._torn else lines
        self._torn = os.write(self._file, text) < len(text)
        if self._torn:
            self._append(lines)

    def close(self) -> None:
        os.close(self._file)


def _part_company(file: int, hidden: int) -> int:
    """A copy in the place of a file that has a name elsewhere too: what that leads to is not ours
    to change. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(_COPY, dir_fd=hidden)
    copy = os.open(_COPY, _FLAGS | os.O_EXCL, 0o600, dir_fd=hidden)
    import shutil

    with os.fdopen(file, "rb") as source, os.fdopen(os.dup(copy), "wb") as sink:
        shutil.copyfileobj(source, sink)
    os.fsync(copy)
    os.rename(_COPY, NAME, src_dir_fd=hidden, dst_dir_fd=hidden)
    return copy


def read_receipts(hidden: int) -> dict[str, Receipt]:
    """The latest receipt of each path in the folder `hidden`, which is only looked at.

    Empty if there are none to be read.
    """
    try:
        with _opened(hidden) as file:
            return _read(file)
    except OSError:
        return {}


def receipts_damage(hidden: int) -> int:
    """How many lines of the receipts in the folder `hidden` cannot be read. Raises OSError."""
    with _opened(hidden) as file:
        return damaged_lines(file)


def _opened(hidden: int) -> BinaryIO:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    return open(NAME, "rb", opener=lambda name, _: os.open(name, flags, dir_fd=hidden))


def _read(file: BinaryIO) -> dict[str, Receipt]:
    receipts = (_receipt(line) for line in read_lines(file))
    return {receipt.path: receipt for receipt in receipts if receipt is not None}


def _line(receipt: Receipt) -> dict[str, Any]:
    segments = receipt.segments
    return {
        "path": receipt.path,
        "size": receipt.size,
        "digests": dict(receipt.digests),
        "segments": {
            "size": segments.size,
            "algorithm": segments.algorithm,
            "values": list(segments.values),
        },
        "grade": receipt.grade,
        "delivered": receipt.delivered,
        "object": receipt.object,
        "offset": receipt.offset,
        "etag": receipt.etag,
        "modified_ns": receipt.modified_ns,
        "resumable": receipt.resumable,
    }


def _receipt(line: dict[str, Any]) -> Receipt | None:
    try:
        segments = line["segments"]
        return Receipt(
            path=str(line["path"]),
            size=int(line["size"]),
            digests={str(k): str(v) for k, v in line["digests"].items()},
            segments=SegmentDigests(
                int(segments["size"]),
                str(segments["algorithm"]),
                tuple(map(str, segments["values"])),
            ),
            grade=Grade(line["grade"]),
            delivered=str(line["delivered"]),
            object=str(line["object"]),
            offset=int(line["offset"]),
            etag=line["etag"],
            modified_ns=int(line["modified_ns"]),
            resumable=bool(line["resumable"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
