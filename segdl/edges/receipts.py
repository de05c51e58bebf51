"""Receipts: what was delivered, one self-checking line a target, appended and flushed."""

from __future__ import annotations

import os
import threading
from typing import Any

from segdl.core.journal import read_lines, seal
from segdl.core.report import Grade, Receipt, SegmentDigests

NAME = "receipts.jsonl"


class Receipts:
    """The receipts of an output directory, open for reading and appending."""

    def __init__(self, hidden: int) -> None:
        """Open `receipts.jsonl` in the folder `hidden`. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self._file = os.open(NAME, flags, 0o600, dir_fd=hidden)
        self._lock = threading.Lock()
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")  # the tail is torn: keep it off the next line

    def read(self) -> dict[str, Receipt]:
        """The latest receipt of each path; lines that do not prove themselves are passed over."""
        receipts: dict[str, Receipt] = {}
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            for line in read_lines(file):
                if (receipt := _receipt(line)) is not None:
                    receipts[receipt.path] = receipt
        return receipts

    def append(self, receipt: Receipt) -> None:
        """Add a receipt, durably. Raises OSError."""
        line = seal(_line(receipt))
        with self._lock:
            while line:
                line = line[os.write(self._file, line) :]
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


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
            etag=line["etag"],
            modified_ns=int(line["modified_ns"]),
            resumable=bool(line["resumable"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
