"""An output directory, tried out: whether segdl may write and rename there, and leaves nothing.

Rights cannot be told from modes alone (root, read-only mounts, quotas, access lists), so the steps
of a delivery are really done, under a name of segdl's own, and undone.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segdl.core.errors import DiskError
from segdl.core.outset import Ground

_HIDDEN = ".segdl"  # where it is there already, an order's parts lie in it
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def try_out(output: Path) -> Ground:
    """What the directory is like, made for the moment if it is missing. Raises OSError, DiskError
    where a run would."""
    with _made(output), _opened(output) as root:
        cased = _tried(root)
        room = os.fstatvfs(root)
        return Ground(
            free=room.f_bavail * room.f_frsize,
            longest_name=os.fpathconf(root, "PC_NAME_MAX"),
            longest_path=os.fpathconf(root, "PC_PATH_MAX"),
            cased=cased,
        )


@contextmanager
def _made(output: Path) -> Iterator[None]:
    """The folders down to the output directory; those that were missing go again."""
    missing = [folder for folder in (output, *output.parents) if not folder.exists()]
    made: list[Path] = []
    try:
        for folder in reversed(missing):
            folder.mkdir()
            made.append(folder)
        if not output.is_dir():
            raise FileExistsError
        yield
    except FileExistsError:
        raise DiskError(f"{output} is a file: give another folder with -o") from None
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # somebody uses it by now
                folder.rmdir()


@contextmanager
def _opened(path: str | Path, parent: int | None = None, flags: int = _FOLDER) -> Iterator[int]:
    file = os.open(path, flags, 0o600, dir_fd=parent)
    try:
        yield file
    finally:
        os.close(file)


def _tried(root: int) -> bool:
    """Write a file where a run would, and rename it to where targets go; whether names are cased.

    Raises OSError.
    """
    name = f".segdl-trial-{secrets.token_hex(8)}"
    with _base(root) as base:
        os.mkdir(name, 0o700, dir_fd=base)
        try:
            with _opened(name, base, _FOLDER | os.O_NOFOLLOW) as folder:
                return _delivered(folder, root, name)
        finally:
            with suppress(OSError):
                os.rmdir(name, dir_fd=base)


@contextmanager
def _base(root: int) -> Iterator[int]:
    """Where a run would make its folders: `.segdl`, or where it would make that."""
    try:
        hidden = os.open(_HIDDEN, _FOLDER | os.O_NOFOLLOW, dir_fd=root)
    except FileNotFoundError:
        yield root
        return
    try:
        yield hidden
    finally:
        os.close(hidden)


def _delivered(folder: int, root: int, final: str) -> bool:
    final = f"{final}.new"
    try:
        with _opened("trial", folder, _NEW) as file:
            os.write(file, b"segdl\n")
            os.fsync(file)  # some disks are full only now
        cased = not _is_there("TRIAL", folder)
        os.rename("trial", final, src_dir_fd=folder, dst_dir_fd=root)
    finally:
        for name, where in (("trial", folder), (final, root)):
            with suppress(OSError):
                os.unlink(name, dir_fd=where)
    return cased


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
