"""segdl gets an order of large files from share URLs onto a disk: fast, exact, resumable.

    import segdl
    report = segdl.download("order.yaml", "out/", on_event=print)
    report.raise_for_failures()

Public names are loaded at first use, so that `segdl --version` costs nothing.
"""

from __future__ import annotations

from importlib import import_module

from segdl.version import VERSION as __version__  # noqa: N811

# As type checkers know it: to import `typing` takes longer than all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from segdl.core.errors import (
        ContentError,
        DigestError,
        DiskError,
        DiskFullError,
        ExitCode,
        ExpiredError,
        Fault,
        LockedError,
        ManifestError,
        OccupiedError,
        RefusedError,
        SegdlError,
        SizeError,
        StaleError,
        StoppedError,
        TransientError,
        UnreachableError,
        UsageError,
    )
    from segdl.core.events import Event
    from segdl.core.manifest import Manifest, Target
    from segdl.core.options import Options
    from segdl.core.report import Failure, Grade, OrderError, Receipt, Report
    from segdl.engine import download
    from segdl.engine.control import Control
    from segdl.engine.loading import load

_HOMES = {
    "segdl.core.errors": (
        "ContentError", "DigestError", "DiskError", "DiskFullError", "ExitCode", "ExpiredError",
        "Fault", "LockedError", "ManifestError", "OccupiedError", "RefusedError", "SegdlError",
        "SizeError", "StaleError", "StoppedError", "TransientError", "UnreachableError",
        "UsageError",
    ),
    "segdl.core.events": ("Event",),
    "segdl.core.manifest": ("Manifest", "Target"),
    "segdl.core.options": ("Options",),
    "segdl.core.report": ("Failure", "Grade", "OrderError", "Receipt", "Report"),
    "segdl.engine": ("download",),
    "segdl.engine.control": ("Control",),
    "segdl.engine.loading": ("load",),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Control", "ContentError", "DigestError", "DiskError", "DiskFullError", "Event", "ExitCode",
    "ExpiredError", "Failure", "Fault", "Grade", "LockedError", "Manifest", "ManifestError",
    "OccupiedError", "Options", "OrderError", "Receipt", "RefusedError", "Report", "SegdlError",
    "SizeError", "StaleError", "StoppedError", "Target", "TransientError", "UnreachableError",
    "UsageError", "__version__", "download", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'segdl' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
