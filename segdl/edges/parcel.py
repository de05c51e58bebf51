"""A zip file: made under another name, complete before it has its own, and replacing nothing."""

from __future__ import annotations

import os
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

from segdl.core.errors import OccupiedError, UsageError


def require_free(file: Path) -> None:
    """Raises OccupiedError if something has that name, UsageError if its folder is not there."""
    if os.path.lexists(file):
        raise OccupiedError(f"{file} is here already: give another name, or move it away")
    if not file.parent.is_dir():
        raise UsageError(f"{file.parent} is not a folder: give a file in one that is there")


def pack(file: Path, contents: Mapping[str, bytes]) -> int:
    """Write a zip of `contents`, which its owner alone can read; returns its size in bytes.

    Raises as `require_free`, and OSError.
    """
    require_free(file)
    made, name = tempfile.mkstemp(prefix=".segdl-", suffix=".new", dir=file.parent)
    temporary = Path(name)
    try:
        with os.fdopen(made, "wb") as out:
            with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in contents.items():
                    archive.writestr(_entry(name), data)
            out.flush()
            os.fsync(out.fileno())
            size = os.fstat(out.fileno()).st_size
        _name(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return size


def _entry(name: str) -> zipfile.ZipInfo:
    now = time.localtime()[:6]
    entry = zipfile.ZipInfo(name, max(now, (1980, 1, 1, 0, 0, 0)))  # zip knows no earlier time
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    return entry


def _name(temporary: Path, file: Path) -> None:
    """Raises OccupiedError if something has the name by now, OSError."""
    try:
        os.link(temporary, file)
    except FileExistsError:
        require_free(file)
    except OSError:  # a file system without hard links
        require_free(file)
        temporary.rename(file)
