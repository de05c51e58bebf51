"""The engine: takes an order, delivers it, says what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from segdl.core import events
from segdl.core.manifest import Manifest, Target
from segdl.core.options import Options
from segdl.core.report import Report
from segdl.core.selection import chosen
from segdl.edges.manifest_file import ManifestFile
from segdl.edges.receipts import Receipts
from segdl.edges.workspace import Workspace
from segdl.engine.control import Control
from segdl.engine.delivery import Delivery
from segdl.engine.loading import load
from segdl.engine.order import Listener, Order
from segdl.engine.premises import premises
from segdl.engine.salvage import salvage


def download(
    manifest: str | os.PathLike[str] | Manifest,
    into: str | os.PathLike[str],
    *,
    options: Options | None = None,
    on_event: Listener | None = None,
    control: Control | None = None,
) -> Report:
    """Deliver an order into a directory, going on with what is there already.

    `manifest` is a file, `-`, a bare URL or a parsed Manifest. `on_event` is called in this thread.
    Targets that fail are in the report (`raise_for_failures` raises for them). Raises ManifestError
    before anything is fetched, LockedError if another segdl is at work there, DiskError if the
    directory cannot be used, UsageError for a certificate or a proxy that cannot, and what
    `on_event` raises, after a clean end.
    """
    options, file = options or Options(), None
    if not isinstance(manifest, Manifest):
        file = ManifestFile.of(os.fspath(manifest))
        manifest = load(manifest, options)
    listener = on_event or _ignore
    return deliver(manifest, into, options, listener, control or Control(), file=file)


Beside = Callable[[int], AbstractContextManager[object]]


def deliver(
    manifest: Manifest,
    into: str | os.PathLike[str],
    options: Options,
    listener: Listener,
    control: Control,
    *,
    file: ManifestFile | None = None,
    beside: Beside | None = None,
) -> Report:
    """As `download`, of a manifest that was read from `file`, which may be replaced.

    `beside` is entered while the directory is ours, with its `.segdl` as a descriptor.
    """
    with premises(into) as workspace, (beside or nullcontext)(workspace.hidden):
        return _run(manifest, workspace, options, listener, control, file)


def _run(
    manifest: Manifest,
    workspace: Workspace,
    options: Options,
    listener: Listener,
    control: Control,
    file: ManifestFile | None,
) -> Report:
    targets = chosen(manifest, options)
    with salvage(options.sources, targets) as found:
        workspace.write_order(_facts(manifest, targets))
        receipts = Receipts(workspace.hidden)
        try:
            delivery = Delivery(workspace, receipts, overwrite=options.overwrite)
            order = Order(manifest, targets, workspace, delivery, options, found, listener, file)
            return order.run(receipts.read(), control)
        finally:
            receipts.close()


def _facts(manifest: Manifest, targets: tuple[Target, ...]) -> dict[str, object]:
    """What was asked for, without URLs."""
    files = [{"path": t.path, "size": t.size, "hash": dict(t.digests)} for t in targets]
    return {"segdl": 1, "order": manifest.order, "files": files}


def _ignore(event: events.Event) -> None:
    pass
