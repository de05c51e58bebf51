"""An output directory to work in: opened, locked, and given back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segdl.core.errors import disk_error
from segdl.edges.lock import Lock
from segdl.edges.workspace import Workspace


@contextmanager
def premises(into: str | os.PathLike[str]) -> Iterator[Workspace]:
    """The output directory, made if it is missing, while nobody else works in it.

    Raises LockedError if another segdl does, DiskError for every OSError on the way.
    """
    try:
        workspace = Workspace(Path(into))
    except OSError as error:
        raise disk_error(error) from None
    try:
        with Lock(workspace.hidden, os.fspath(into)):
            yield workspace
    except OSError as error:
        raise disk_error(error) from None
    finally:
        workspace.close()
