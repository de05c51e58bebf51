"""The manifest's own file, which may be replaced while its order is under way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_Mark = tuple[int, int, int, int]


class ManifestFile:
    """Looks at a file now and then, by its device, inode, size and time; what it holds is read
    once it has stood still."""

    @classmethod
    def of(cls, source: str) -> ManifestFile | None:
        """The file that a source names; None if it is standard input, a URL, or a pipe."""
        return None if source == "-" or _mark(source) is None else cls(source)

    def __init__(self, path: str) -> None:
        """Note how the file stands now: construct this before the manifest is read from it."""
        self.path = path
        self._read = self._last = _mark(path)

    def replaced(self) -> bool:
        """Whether it is another file than was read, and the same as at the last look.

        A file that is gone is about to come back, or not: there is nothing to read.
        """
        now, before = _mark(self.path), self._last
        self._last = now
        if now is None or now != before or now == self._read:
            return False
        self._read = now
        return True

    def read(self, largest: int) -> bytes:
        """What it holds, at most `largest` bytes and one more. Raises OSError."""
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(file, "rb") as opened:
            return opened.read(largest + 1)


def _mark(path: str) -> _Mark | None:
    """What tells a regular file from the one that replaces it; None if there is none."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):  # a URL may be too long for a name, or none at all
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
