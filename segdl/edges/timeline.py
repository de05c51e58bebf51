"""The timeline's file: lines appended in batches, in bounded room, and never worth a failure.

Two files of at most 4 MiB: when the one is full it takes the place of the other. It is not
flushed: a power cut may cost its last seconds.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from segdl.core.journal import seal, unseal

NAME = "timeline.jsonl"
BEFORE = "timeline.1.jsonl"  # what came before
LARGEST = 4 * 1024 * 1024  # bytes of each
_LONGEST = 64 * 1024  # bytes of a line
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Timeline:
    """The timeline of an output directory, opened at the first line. Not thread-safe.

    What cannot be written is lost, without a word: a full disk has its own error elsewhere.
    """

    def __init__(self, hidden: int, largest: int = LARGEST) -> None:
        """`hidden` is the folder `.segdl`, an open descriptor that outlives this."""
        self._hidden = hidden
        self._largest = largest
        self._file: int | None = None
        self._size = 0
        self._torn = False

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        """Add lines, none of which is empty."""
        with suppress(OSError):
            batch = bytearray()
            for line in map(seal, lines):
                if self._begun() + len(batch) + len(line) >= self._largest:
                    self._write(bytes(batch))
                    self._turn()
                    batch.clear()
                batch += line
            self._write(bytes(batch))

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _begun(self) -> int:
        """Open the file if it is not; its bytes. Raises OSError."""
        if self._file is None:
            self._file = file = os.open(NAME, _APPEND, 0o600, dir_fd=self._hidden)
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                self.close()  # what another name leads to is not ours to change
                os.unlink(NAME, dir_fd=self._hidden)
                self._file = file = os.open(NAME, _APPEND | os.O_EXCL, 0o600, dir_fd=self._hidden)
                found = os.fstat(file)
            os.fchmod(file, 0o600)
            self._size, self._torn = found.st_size, found.st_size > 0
        return self._size

    def _write(self, lines: bytes) -> None:
        """Raises OSError."""
        if not lines or self._file is None:
            return
        text = b"\n" + lines if self._torn else lines
        self._torn = True  # unless all of it was taken
        count = os.write(self._file, text)
        self._size += count
        self._torn = count < len(text)

    def _turn(self) -> None:
        """The full file takes the place of the one before it. Raises OSError."""
        self.close()
        os.rename(NAME, BEFORE, src_dir_fd=self._hidden, dst_dir_fd=self._hidden)
        self._begun()


def read_timeline(hidden: int, name: str) -> Iterator[dict[str, Any] | None]:
    """The lines of one of the two files in the folder `hidden`, None for each that does not prove
    itself; nothing if the file is not there. Raises OSError."""
    try:
        file = os.open(name, _READ, dir_fd=hidden)
    except FileNotFoundError:
        return
    with os.fdopen(file, "rb") as lines:
        while line := lines.readline(_LONGEST):
            if line != b"\n":  # a run begins its lines on a new one
                yield unseal(line)
