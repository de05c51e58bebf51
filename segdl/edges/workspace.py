"""The output directory, by descriptors: nothing outside it is created, changed or removed.

Every path is walked component by component from one open descriptor, and no link is followed, so
that a link planted while segdl runs leads nowhere. Only the output directory itself may be
reached through links: the user named it.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import stat
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdl.core.digests import digest
from segdl.core.errors import DiskError, OccupiedError, UsageError

if TYPE_CHECKING:
    import ctypes

HIDDEN = ".segdl"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_TMPFILE this opens a folder for writing, and fails.
_DRAFT = getattr(os, "O_TMPFILE", os.O_DIRECTORY) | os.O_RDWR | os.O_CLOEXEC
_NOREPLACE = 1  # RENAME_NOREPLACE of renameat2(2)


def work_name(path: str) -> str:
    """The name of a target's folder under `work`: a digest, so that any path fits."""
    return digest("sha256", path.encode())[:32]


class Depot:
    """An output directory that is only looked at: nothing in it is made or changed."""

    def __init__(self, output: Path) -> None:
        """Open the output directory. Raises OSError, also if it is not there."""
        self.output = output
        self.root = os.open(output, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stayed: dict[str, int] | None = None  # folders kept open meanwhile, by path

    def close(self) -> None:
        os.close(self.root)

    def find(self, path: str) -> os.stat_result | None:
        """What stands under a target's final name; a link is not followed. Raises OSError."""
        try:
            with self._parent(path) as (folder, name):
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open_final(self, path: str) -> int:
        """A delivered file, open for reading. Raises OSError."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with self._parent(path) as (folder, name):
            return os.open(name, flags, dir_fd=folder)

    def files(self) -> Iterator[tuple[str, int]]:
        """Every plain file below, but segdl's own, with its size in bytes; links are not followed,
        and what cannot be read is passed over."""
        for folder, inner, names, here in os.fwalk(".", dir_fd=self.root):
            if HIDDEN in inner:
                inner.remove(HIDDEN)
            for name in names:
                with suppress(OSError):
                    found = os.stat(name, dir_fd=here, follow_symlinks=False)
                    if is_file(found):
                        yield f"{folder}/{name}".removeprefix("./"), found.st_size

    @contextmanager
    def look(self, *names: str) -> Iterator[int | None]:
        """The folder `.segdl`, or one in it, as a descriptor; None if it is not there."""
        with ExitStack() as walked:
            found = None
            with suppress(FileNotFoundError):
                found, _ = walked.enter_context(self._parent("/".join((HIDDEN, *names, ""))))
            yield found

    def read_order(self) -> dict[str, Any]:
        """What was asked for in the last run; empty if that cannot be read."""
        with suppress(OSError, ValueError), self.look() as hidden:
            if hidden is not None:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                with open(
                    "order.json", "rb", opener=lambda name, _: os.open(name, flags, dir_fd=hidden)
                ) as file:
                    facts = json.load(file)
                    return facts if isinstance(facts, dict) else {}
        return {}

    @contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The open folder that a target lies in, and its name there."""
        folder, _, name = path.rpartition("/")
        stayed = self._stayed
        if stayed is not None and folder in stayed:
            yield stayed[folder], name
            return
        folders = folder.split("/") if folder else []
        if ".." in folders:
            raise UsageError(f"{path} leads out of the output directory")
        here = self._walk(folders, make)
        if stayed is not None:
            stayed[folder] = here
        try:
            yield here, name
        finally:
            if stayed is None:
                self._leave(here)

    def _walk(self, folders: Sequence[str], make: bool) -> int:
        here = self.root
        try:
            for folder in folders:
                inner = self._subfolder(here, folder, 0o777) if make else _open_folder(here, folder)
                self._leave(here)
                here = inner
        except BaseException:
            self._leave(here)
            raise
        return here

    @contextmanager
    def staying(self) -> Iterator[None]:
        """Walk to each folder once only, for all that is done meanwhile. For one thread."""
        self._stayed = {}
        try:
            yield
        finally:
            stayed, self._stayed = self._stayed, None
            for folder in stayed.values():
                self._leave(folder)

    def _leave(self, folder: int) -> None:
        if folder != self.root:
            os.close(folder)

    @staticmethod
    def _subfolder(parent: int, name: str, mode: int) -> int:
        try:
            return _open_folder(parent, name)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=parent)
            os.fsync(parent)
            return _open_folder(parent, name)


class Workspace(Depot):
    """An output directory to deliver into: `hidden` is its `.segdl`, an open descriptor."""

    def __init__(self, output: Path, *, drafts: bool | None = None) -> None:
        """Open the output directory, made if it is missing. `drafts` says whether there can be any,
        if that is known. Raises OSError, DiskError."""
        _make_folders(output)
        super().__init__(output)
        with ExitStack() as failed:
            failed.callback(os.close, self.root)
            self.hidden = self._subfolder(self.root, HIDDEN, 0o700)
            failed.callback(os.close, self.hidden)
            self._work = self._subfolder(self.hidden, "work", 0o700)
            failed.callback(os.close, self._work)
            for folder in (self.hidden, self._work):
                os.fchmod(folder, 0o700)  # it may have been made by another hand, or umask
            failed.pop_all()
        self.file_mode = 0o666 & ~_umask()
        self._drafts = drafts  # None: not tried yet
        self._trying = threading.Lock()

    def close(self) -> None:
        for folder in (self._work, self.hidden, self.root):
            os.close(folder)

    # -- targets under way -------------------------------------------------------------------

    def under_way(self) -> set[str]:
        """The names under `work`, one for each target under way."""
        return set(os.listdir(self._work))

    def open_work(self, path: str) -> int:
        """A descriptor of a target's own folder, made if it is missing. Raises OSError."""
        return self._subfolder(self._work, work_name(path), 0o700)

    def remove_work(self, path: str) -> None:
        """Take a target's folder away, with all that is in it. Raises OSError."""
        self.remove_work_named(work_name(path))

    def remove_work_named(self, name: str) -> int:
        """Take a folder under `work` away; returns the bytes that it held. Raises OSError."""
        try:
            folder = os.open(name, _FOLDER, dir_fd=self._work)
        except FileNotFoundError:
            return 0
        try:
            found = [os.lstat(entry, dir_fd=folder) for entry in os.listdir(folder)]
        finally:
            os.close(folder)
        import shutil

        shutil.rmtree(name, dir_fd=self._work)  # follows no link, whoever plants one meanwhile
        return sum(entry.st_blocks for entry in found) * 512

    def free(self) -> int:
        """Bytes that may still be written to this file system. Raises OSError."""
        room = os.fstatvfs(self.root)
        return room.f_bavail * room.f_frsize

    def open_draft(self) -> int | None:
        """A file without a name, which a crash leaves nothing of; None where there are none, or
        where they cannot be named later. Raises OSError."""
        return os.open(".", _DRAFT, 0o600, dir_fd=self._work) if self.can_draft() else None

    def can_draft(self) -> bool:
        """Whether there can be drafts here."""
        with self._trying:
            if self._drafts is None:
                self._drafts = self._try_draft()
            return self._drafts

    def _try_draft(self) -> bool:
        """Whether this file system, and /proc, can do what drafts need."""
        trial = "draft.new"
        with suppress(OSError):
            os.unlink(trial, dir_fd=self.hidden)  # of a run that was killed
        try:
            draft = os.open(".", _DRAFT, 0o600, dir_fd=self._work)
        except OSError:
            return False
        try:
            _link(draft, trial, self.hidden)
            os.unlink(trial, dir_fd=self.hidden)
        except OSError:
            return False
        finally:
            os.close(draft)
        return True

    # -- delivered targets -------------------------------------------------------------------

    def deliver(self, work: int, name: str, path: str, *, overwrite: bool) -> None:
        """Give a finished file in the folder `work` its final name, durably.

        Raises OccupiedError if something stands there and `overwrite` is not set, or if it is a
        folder; OSError otherwise.
        """
        with self._parent(path, make=True) as (folder, final):
            try:
                _rename(work, name, folder, final, replace=overwrite)
            except FileExistsError:
                raise occupied(path) from None
            except IsADirectoryError:
                raise occupied(path, folder=True) from None
            os.fsync(folder)

    def name(self, draft: int, path: str) -> None:
        """Give a finished draft its final name, for `flush_folders` to make durable.

        Raises FileExistsError if something stands there, OSError.
        """
        with self._parent(path, make=True) as (folder, final):
            _link(draft, final, folder)

    def replace(self, draft: int, path: str, *, overwrite: bool) -> None:
        """Give a finished draft a final name that something else has. Raises as `deliver`."""
        work = self.open_work(path)  # which a later run finds, and takes away
        try:
            with suppress(FileNotFoundError):
                os.unlink("front", dir_fd=work)
            _link(draft, "front", work)
            self.deliver(work, "front", path, overwrite=overwrite)
        finally:
            os.close(work)
            with suppress(OSError):  # delivered is delivered: what is left goes with a later run
                self.remove_work(path)

    def flush_final(self, path: str) -> None:
        """Make a file that another hand has put under a final name survive a power cut: its bytes,
        and every name on the way to it. Raises OSError."""
        file = self.open_final(path)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        for end in (at for at, letter in enumerate(path) if letter == "/"):
            with self._parent(path[: end + 1]) as (folder, _):
                os.fsync(folder)
        os.fsync(self.root)

    def flush_folders(self, paths: Iterable[str]) -> dict[str, OSError]:
        """Make the names of delivered targets survive a power cut; returns which of their folders
        could not be flushed, and why."""
        failed: dict[str, OSError] = {}
        for folder in {path.rpartition("/")[0] for path in paths}:
            try:
                with self._parent(f"{folder}/" if folder else "") as (opened, _):
                    os.fsync(opened)
            except OSError as error:
                failed[folder] = error
        return failed

    def sync(self) -> None:
        """Flush the whole file system: cheaper than many files one by one. Raises OSError."""
        if code := _called("syncfs", self.root):
            raise OSError(code, os.strerror(code))

    # -- segdl's own files -------------------------------------------------------------------

    def write_order(self, facts: dict[str, Any]) -> None:
        """Keep what was asked for, for `status`. Raises OSError."""
        temporary = "order.new"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self.hidden)  # of a run that was killed, or planted
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(temporary, flags, 0o600, dir_fd=self.hidden)
        with os.fdopen(file, "w", encoding="utf-8") as out:
            # `json.dump` would take four times as long: it goes through Python for every value.
            out.write(json.dumps(facts, ensure_ascii=True, separators=(",", ":")))
        os.rename(temporary, "order.json", src_dir_fd=self.hidden, dst_dir_fd=self.hidden)


def occupied(path: str, *, folder: bool = False) -> OccupiedError:
    """The error for what is in the way: a folder is never replaced."""
    if folder:
        return OccupiedError(f"{path} is a folder here: move it away, then run again")
    return OccupiedError(
        f"{path} is here already with other content: move it away, or give --overwrite"
    )


def is_file(found: os.stat_result) -> bool:
    """Whether it is a regular file (no folder, link, pipe or device)."""
    return stat.S_ISREG(found.st_mode)


def _link(draft: int, name: str, folder: int) -> None:
    """linkat(2) of a file without a name (open(2), O_TMPFILE). Raises OSError."""
    os.link(f"/proc/self/fd/{draft}", name, dst_dir_fd=folder, follow_symlinks=True)


def _open_folder(parent: int, name: str) -> int:
    return os.open(name, _FOLDER, dir_fd=parent)


def _make_folders(output: Path) -> None:
    missing = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise DiskError(f"{output} is a file: give another folder with -o") from None
    except FileNotFoundError:  # in a folder that was removed, or in none of a disk's
        raise DiskError(f"{output} cannot be made here: give another folder with -o") from None
    for folder in missing:  # or a power cut takes it away, with all that is delivered by then
        above = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(above)
        finally:
            os.close(above)


def _rename(source: int, name: str, sink: int, final: str, *, replace: bool) -> None:
    """rename(2) within open folders, which refuses to replace unless told so."""
    if replace:
        os.rename(name, final, src_dir_fd=source, dst_dir_fd=sink)
        return
    names = source, os.fsencode(name), sink, os.fsencode(final)
    if not (code := _called("renameat2", *names, _NOREPLACE)):
        return
    if code not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code))
    try:
        os.stat(final, dir_fd=sink, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(name, final, src_dir_fd=source, dst_dir_fd=sink)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _called(name: str, *arguments: int | bytes) -> int:
    """The errno of a call that Python does not have, 0 if it went well."""
    import ctypes

    call = getattr(_libc(), name, None)
    if call is None:
        return errno.ENOSYS
    return (ctypes.get_errno() or errno.EIO) if call(*arguments) else 0


@functools.cache
def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def sync_tells() -> bool:
    """Whether `Workspace.sync` is there and says what could not be written (Linux 5.8)."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    version = (int(release[1]), int(release[2])) if release else (0, 0)
    return sys.platform == "linux" and version >= (5, 8) and hasattr(_libc(), "syncfs")


def _umask() -> int:
    """The process's umask, without the race of setting it to read it, where /proc tells."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            line = next(line for line in status if line.startswith("Umask:"))
            return int(line.split()[1], 8)
    except (OSError, StopIteration):
        mask = os.umask(0o077)
        os.umask(mask)
        return mask
