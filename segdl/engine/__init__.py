"""The engine: takes an order, delivers it, says what came of it."""

from __future__ import annotations

import fnmatch
import os
import sys

from segdl.core import events
from segdl.core.digests import digest
from segdl.core.errors import Fault, ManifestError
from segdl.core.manifest import Manifest, Target, manifest_of_url, parse_manifest
from segdl.core.options import Options
from segdl.core.report import Report
from segdl.edges.receipts import Receipts
from segdl.edges.workspace import Workspace
from segdl.engine.control import Control
from segdl.engine.delivery import Delivery
from segdl.engine.order import Listener, Order
from segdl.engine.premises import premises

LARGEST_MANIFEST = 128 * 1024 * 1024  # bytes


def load(source: str | os.PathLike[str], options: Options | None = None) -> Manifest:
    """The manifest in a file, on standard input (`-`), or of one bare http(s) URL.

    Raises ManifestError with every fault.
    """
    name, options = os.fspath(source), options or Options()
    if name.startswith(("http://", "https://")):
        return manifest_of_url(name)
    data = _read(name)
    shown = "<stdin>" if name == "-" else name
    return parse_manifest(data, shown, allow_env=options.allow_env, environment=os.environ)


def _read(name: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read(LARGEST_MANIFEST + 1)
        with open(name, "rb") as file:
            return file.read(LARGEST_MANIFEST + 1)
    except OSError as error:
        problem = f"cannot be read ({error.strerror}): expected a manifest, `-`, or a URL"
        raise ManifestError((Fault(name, "", problem),)) from None


def chosen(manifest: Manifest, options: Options) -> tuple[Target, ...]:
    """The targets that `--select`, `--exclude` and `--shard` leave, in the manifest's order."""
    return tuple(target for target in manifest.targets if _wanted(target.path, options))


def _wanted(path: str, options: Options) -> bool:
    if options.select and not any(fnmatch.fnmatchcase(path, glob) for glob in options.select):
        return False
    if any(fnmatch.fnmatchcase(path, glob) for glob in options.exclude):
        return False
    if options.shard is None:
        return True
    part, parts = options.shard
    return int(digest("xxh3_64", path.encode()), 16) % parts == part - 1


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
    options = options or Options()
    if not isinstance(manifest, Manifest):
        manifest = load(manifest, options)
    with premises(into) as workspace:
        return _run(manifest, workspace, options, on_event or _ignore, control or Control())


def _run(
    manifest: Manifest,
    workspace: Workspace,
    options: Options,
    listener: Listener,
    control: Control,
) -> Report:
    targets = chosen(manifest, options)
    workspace.write_order(_facts(manifest, targets))
    receipts = Receipts(workspace.hidden)
    try:
        delivery = Delivery(workspace, receipts, overwrite=options.overwrite)
        order = Order(manifest, targets, workspace, delivery, options, listener)
        return order.run(receipts.read(), control)
    finally:
        receipts.close()


def _facts(manifest: Manifest, targets: tuple[Target, ...]) -> dict[str, object]:
    """What was asked for, without URLs."""
    files = [{"path": t.path, "size": t.size, "hash": dict(t.digests)} for t in targets]
    return {"segdl": 1, "order": manifest.order, "files": files}


def _ignore(event: events.Event) -> None:
    pass
