"""Standard streams that may vanish: a closed pipe or a lost terminal never stops a download."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Shelter(io.TextIOBase):
    """A text stream whose reader may leave: from then on, what is written goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.full: OSError | None = None  # what was written did not fit

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has a plain attribute
        return self._stream.encoding

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._vanish(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._vanish(error)

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def _vanish(self, error: OSError) -> None:
        """Put /dev/null in its place, so that what is still buffered fails nowhere else."""
        if error.errno in _FULL:
            self.full = error
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, self._stream.fileno(), inheritable=True)
            os.close(null)


@contextmanager
def sheltered() -> Iterator[None]:
    """Shelter standard output and standard error; what no encoding can show is escaped."""
    _fill_standard_descriptors()
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = before[0] or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout, sys.stderr = _shelter(before[1]), _shelter(before[2])
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def require_written() -> None:
    """Raises OSError if the disk that standard output goes to did not take all of it.

    That a reader has left is no error: it has what it wanted.
    """
    sys.stdout.flush()
    if isinstance(sys.stdout, Shelter) and sys.stdout.full is not None:
        raise sys.stdout.full


def _shelter(stream: TextIO | None) -> TextIO:
    stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return cast(TextIO, Shelter(stream))


def _fill_standard_descriptors() -> None:
    """Where 0, 1 or 2 is closed, the next file opened would be taken for a standard stream."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(file, True)
    os.close(file)
