"""A file system of its own, in an image file, whose power can be cut.

The cut is the file system's own shutdown (its ioctl, without a flush of the log): from that moment
nothing reaches the image any more, and what is mounted again is what was on it, after the journal's
replay. Needs root, a loop device and the file system's mkfs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.torture.campaign import Impossible

MIB = 2**20
_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, struct.pack("I", 2)
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What an image is made with; `options` are ways to mount it, all of which keep what fsync
    promises."""

    name: str
    size: int  # bytes of the image, which is sparse
    mkfs: tuple[str, ...]
    options: tuple[str, ...]


EXT4 = FileSystem(
    "ext4", 96 * MIB, ("mkfs.ext4", "-q", "-F"),
    ("rw", "rw", "commit=1", "data=writeback", "nodelalloc", "data=journal"),
)  # fmt: skip
XFS = FileSystem("xfs", 320 * MIB, ("mkfs.xfs", "-q", "-f"), ("rw", "rw", "wsync"))


class Disk:
    """An image, mounted at `folder`; unmounted at the end, which also frees its loop device."""

    def __init__(self, kind: FileSystem, image: Path, folder: Path, options: str) -> None:
        """Make the image. Raises Impossible."""
        self.folder = folder
        self._image, self._kind, self._options = image, kind, options
        self._mounted = False
        if os.geteuid() != 0:
            raise Impossible("it mounts images: that takes root")
        if shutil.which(kind.mkfs[0], path=_PATH) is None:
            raise Impossible(f"{kind.mkfs[0]} is missing")
        folder.mkdir()
        with image.open("xb") as file:
            file.truncate(kind.size)
        made = _call(*kind.mkfs, str(image))
        if made:
            raise Impossible(f"{kind.mkfs[0]}: {made}")

    def __enter__(self) -> Self:
        if refused := self._mount():
            raise Impossible(f"an image cannot be mounted: {refused}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._mounted:
            self._unmount()
        self._image.unlink()

    def cut(self) -> None:
        """Cut the power: what is not on the image by now never will be."""
        opened = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(opened, _SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(opened)

    def restore(self) -> None:
        """The power is back. Whoever has files open there must have ended."""
        self._unmount()
        refused = self._mount()
        assert not refused, f"the image cannot be mounted again: {refused}"

    def _mount(self) -> str:
        # The loop device goes with the mount, whoever takes that away.
        options = f"loop,{self._options}"
        refused = _call(
            "mount", "-t", self._kind.name, "-o", options, str(self._image), str(self.folder)
        )
        self._mounted = not refused
        return refused

    def _unmount(self) -> None:
        """Raises AssertionError if somebody keeps it busy; even then nothing is left mounted."""
        deadline = time.monotonic() + 5
        while refused := _call("umount", str(self.folder)):
            if time.monotonic() > deadline:
                _call("umount", "--lazy", str(self.folder))
                self._mounted = False
                raise AssertionError(refused)
            time.sleep(0.01)
        self._mounted = False


def _call(*command: str) -> str:
    """Run it in a session of its own, which Ctrl-C does not reach: why it failed, if it did."""
    ended = subprocess.run(
        command, env={"PATH": _PATH, "LC_ALL": "C"}, capture_output=True, text=True, check=False,
        start_new_session=True,
    )  # fmt: skip
    said = " ".join(ended.stderr.split()) or f"ended with {ended.returncode}"
    return said if ended.returncode else ""
