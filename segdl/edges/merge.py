"""The merged file: parts becoming the target, in order.

It follows the front: bytes [0, front) are merged and verified. What lies beyond is a part in place
and proves itself like any other.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from segdl.core.digests import RECORD, Hasher, hasher
from segdl.core.plan import Record

NAME = "front"
_BLOCK = 1024 * 1024
_NO_COPY = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


def copy_in(part: int, merged: int, record: Record) -> None:
    """Copy a part file's bytes to their place in the merged file, by reflink where the file
    system can. Raises OSError, also if the part is shorter than its record says."""
    copy_range(part, 0, merged, record.start, record.stop - record.start)


def copy_range(source: int, at: int, sink: int, to: int, length: int) -> None:
    """Copy `length` bytes from one file's offset to another's, by reflink where the file system
    can. Raises OSError, also if the source is too short."""
    done = 0
    while done < length:
        count = _copy(source, sink, at + done, to + done, length - done)
        if not count:
            raise OSError(errno.EIO, "the file is shorter than what is to be copied")
        done += count


def _copy(source: int, sink: int, at: int, to: int, count: int) -> int:
    try:
        if copied := os.copy_file_range(source, sink, count, at, to):
            return copied  # some file systems copy nothing and say so; only a read tells the end
    except OSError as error:
        if error.errno not in _NO_COPY:
            raise
    data = os.pread(source, min(count, _BLOCK), at)
    left = memoryview(data)
    while left:
        written = os.pwrite(sink, left, to)
        left, to = left[written:], to + written
    return len(data)


def read_back(merged: int, record: Record, digests: Iterable[Hasher]) -> bool:
    """Feed a segment's bytes, read back from the merged file, to `digests`.

    Returns whether they still are what the record says; if not, `digests` are of no more use.
    Raises OSError.
    """
    own = hasher(RECORD)
    whole = feed(merged, record.start, record.stop, (own, *digests))
    return whole and own.hexdigest() == record.digest


def feed(file: int, start: int, stop: int, digests: Iterable[Hasher]) -> bool:
    """Feed a file's bytes [start, stop) to `digests`; False if it ends before. Raises OSError."""
    hashers = tuple(digests)
    block = memoryview(bytearray(min(_BLOCK, stop - start)))
    while start < stop:
        wanted = block[: stop - start]
        count = os.preadv(file, [wanted], start)
        if not count:
            return False
        for running in hashers:
            running.update(wanted[:count])
        start += count
    return True


def seal(merged: int, size: int, mode: int) -> os.stat_result:
    """Make the merged file exactly the target, in length and mode; not durable yet. Raises
    OSError."""
    os.fchmod(merged, mode)
    found = os.fstat(merged)
    if found.st_size < size:
        raise OSError(errno.EIO, "the merged file is shorter than what was merged")
    if found.st_size == size:
        return found
    os.ftruncate(merged, size)
    return os.fstat(merged)


def same(one: int, other: int, size: int) -> bool:
    """Whether two files hold the same `size` bytes. Raises OSError."""
    for at in range(0, size, _BLOCK):
        if os.pread(one, _BLOCK, at) != os.pread(other, _BLOCK, at):
            return False
    return True
