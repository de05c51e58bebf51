"""One writer: the lock of an output directory."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from types import TracebackType

from segdl.core.errors import LockedError


class Lock:
    """An advisory lock on an open file in `.segdl`, held until closed or until the process ends.

    It saves bandwidth; correctness rests on digests, as some network file systems lock nothing.
    """

    def __init__(self, directory: int, where: str) -> None:
        """Take the lock in the folder with descriptor `directory`. Raises LockedError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open("lock", flags, 0o600, dir_fd=directory)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked = _locked(self._file, where)
            os.close(self._file)
            raise locked from None
        except OSError:
            pass  # a file system without locks: digests still hold promises 1 to 3
        with suppress(OSError):  # who holds it is only said for people
            if os.fstat(self._file).st_nlink == 1:  # else what it leads to is not ours to change
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def require_free(directory: int, where: str) -> None:
    """Raises LockedError if somebody holds the lock in the folder `directory`, which is only
    looked at; nothing is said of a folder whose lock cannot be read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        file = os.open("lock", flags, dir_fd=directory)
    except OSError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for a moment, and beside others
    except BlockingIOError:
        raise _locked(file, where) from None
    except OSError:
        pass  # a file system without locks
    finally:
        os.close(file)


def _locked(file: int, where: str) -> LockedError:
    holder = os.pread(file, 20, 0).decode("ascii", "replace").strip()
    return LockedError(
        f"another segdl is at work in {where} (process {holder or 'unknown'}): "
        "wait for it, or stop it"
    )
