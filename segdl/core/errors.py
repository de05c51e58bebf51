"""Every failure, sorted by what to do next.

`SegdlError` is the root. Under it stand families, each named for the next move:

- `TransientError`  the same work, later (the schedule says when)
- `StaleError`      the world changed: the object is another one now, start it again
- `ExpiredError`    needs a fresh URL; what is held stays
- `RefusedError`    this URL will never give the object: next mirror, or a fresh manifest
- `ContentError`    the bytes are not what the manifest promised
- `DiskError`       the local disk is in the way
- `ManifestError`   before any of it: nothing was fetched

Errors carry facts as attributes; the message is one sentence that names the next step.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from copy import copy
from enum import IntEnum
from io import UnsupportedOperation
from typing import Any, ParamSpec, Self, TypeVar

from segdl.core.dataclass import dataclass
from segdl.core.diagnosis import Diagnosis

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound="SegdlError")


class ExitCode(IntEnum):
    """What a run ends with, as scripts see it (the contract's table)."""

    DONE = 0
    MIXED = 1
    USAGE = 2
    LINKS = 3
    CONTENT = 4
    DISK = 5
    BUSY = 6
    NETWORK = 7
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


class SegdlError(Exception):
    """The root of everything that segdl raises on purpose.

    Attributes: `target` (path within the order, or None), `status` (HTTP status, or None), `code`
    (the server's own error code, or None), `request_id` (the server's, to quote to its operator),
    `diagnosis` (why a link is refused and who must act, or None), `exit_code` (what a run ends
    with, if this is what ended it).
    """

    exit_code: ExitCode = ExitCode.MIXED
    diagnosis: Diagnosis | None = None

    def __init__(
        self,
        message: str,
        *,
        target: str | None = None,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.target = target
        self.status = status
        self.code = code
        self.request_id = request_id

    @property
    def cause(self) -> str:
        """The kind of failure in one word, for programs: `expired`, `disk_full`, `digest`, …"""
        return _snake(type(self).__name__.removesuffix("Error"))

    def become(self, kind: type[E], message: str | None = None) -> E:
        """The same facts as an error of another kind: what it is for the work has changed."""
        error = kind(self.message if message is None else message)
        error.target, error.status, error.code = self.target, self.status, self.code
        error.request_id, error.diagnosis = self.request_id, self.diagnosis
        return error

    def about(self, target: str) -> Self:
        """The same error as of `target`: one failure of a host is many targets' failure."""
        twin = copy(self)
        twin.target = target
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """What `copy` and `pickle` ask: it is made anew of its facts, since each kind's `__init__`
        wants arguments of its own."""
        return _anew, (type(self), self.args), self.__dict__


def _anew(kind: type[E], words: tuple[Any, ...]) -> E:
    return kind.__new__(kind, *words)


class UsageError(SegdlError):
    """An option or an argument is wrong; nothing was done."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a manifest: where, and what was expected."""

    where: str  # "order.yaml:12"
    field: str  # "files[3].size", or "" for the whole
    problem: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.field, self.problem)))


class ManifestError(SegdlError):
    """The manifest is not valid; nothing was fetched. `faults` holds every fault, in order."""

    exit_code = ExitCode.USAGE

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


class LockedError(SegdlError):
    """Another segdl is at work in that directory."""

    exit_code = ExitCode.BUSY


class TransientError(SegdlError):
    """The same work, later. `retry_after` is what the server asked for, in seconds, or None."""

    exit_code = ExitCode.NETWORK

    def __init__(
        self, message: str, *, retry_after: float | None = None, status: int | None = None,
        code: str | None = None, request_id: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, status=status, code=code, request_id=request_id)
        self.retry_after = retry_after


class BrokenError(TransientError):
    """The connection broke, stalled or was cut short; the bytes that came are kept."""


class MisansweredError(TransientError):
    """The answer is not the one that was asked for; no byte of it was believed.

    `contradicts` is set where its labels are not those that the object was pinned with.
    """

    contradicts = False


class BusyError(TransientError):
    """The host is down or overloaded: hold it back, ask with one probe (uses up no retries)."""


class UnreachableError(SegdlError):
    """Retries or patience are used up, TLS is not valid, or a redirect was refused."""

    exit_code = ExitCode.NETWORK


class StaleError(SegdlError):
    """The object is not the one whose bytes are held: it was replaced on the server."""

    exit_code = ExitCode.NETWORK


class NoRangesError(SegdlError):
    """The server ignores `Range`: this target comes as one stream from the start."""

    exit_code = ExitCode.NETWORK


class ExpiredError(SegdlError):
    """The URL has ended. Get a fresh manifest and run again; what is held stays.

    `ends_at` is the end by the URL's own words, `server_time` the answer's date: both unix seconds,
    or None.
    """

    ends_at: float | None = None
    server_time: float | None = None

    exit_code = ExitCode.LINKS


class RefusedError(SegdlError):
    """The server refuses this URL, or has nothing there (401, 403, 404, 410, …).

    `doubtful` is set where a server may say so when it means "too many at once".
    """

    exit_code = ExitCode.LINKS
    doubtful = False


class ContentError(SegdlError):
    """The content is not what the manifest promised, even fetched again."""

    exit_code = ExitCode.CONTENT


class SizeError(ContentError):
    """The object's size is not the manifest's."""


class DigestError(ContentError):
    """A digest does not match. `algorithm`, `expected` and `found` say which."""

    def __init__(self, message: str, *, algorithm: str, expected: str, found: str) -> None:
        super().__init__(message)
        self.algorithm = algorithm
        self.expected = expected
        self.found = found


class DiskError(SegdlError):
    """The local disk is read-only, broken, or not ours to write to."""

    exit_code = ExitCode.DISK


class DiskFullError(DiskError):
    """No space left. `missing` is the number of bytes to free, as far as is known."""

    def __init__(self, found: str, *, missing: int | None = None) -> None:
        """`found` is what the disk said; the message adds what to do."""
        room = "some room" if missing is None else f"{missing} bytes"
        super().__init__(f"{found}: free {room} and run again")
        self.found = found
        self.missing = missing


_MISFITS = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ESPIPE, errno.ENXIO}


def disk_error(error: OSError) -> DiskError:
    """What an error of the local disk means, in one sentence that says what to do."""
    reason = os.strerror(error.errno) if error.errno else "it failed"
    named = isinstance(error.filename, str) and not error.filename.isdigit()  # no descriptor's
    where = f"{reason}: {error.filename}" if named else reason
    if error.errno == errno.EFBIG:
        return DiskError(
            "no file may be that large here: raise `ulimit -f`, or use another file system"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"the disk takes no more ({reason})")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return DiskError(f"too many files are open ({reason}): raise `ulimit -n` and run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DiskError(f"segdl may not work there ({where}): mend the rights and run again")
    if error.errno in _MISFITS or isinstance(error, UnsupportedOperation):
        what = f" ({error.filename})" if isinstance(error.filename, str) else ""
        return OccupiedError(
            f"something else stands where a file or a folder of segdl's should be{what}: "
            "take it away"
        )
    return DiskError(f"the disk failed ({where}): mend it and run again")


class OccupiedError(DiskError):
    """A file with other content stands where the target should go."""


class StoppedError(SegdlError):
    """The run was stopped from outside; all that was fetched is kept."""

    exit_code = ExitCode.INTERRUPTED


def attempted(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | SegdlError:
    """What a step gives, or the error that it ended with, one of the disk's translated."""
    try:
        return step(*args, **kwargs)
    except SegdlError as error:
        return error
    except OSError as error:
        return disk_error(error)


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
