"""The engine: takes an order, delivers it, says what came of it."""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from segdl.core import events
from segdl.core.digests import digest
from segdl.core.errors import Fault, ManifestError
from segdl.core.manifest import Manifest, Target, manifest_of_url, parse_manifest
from segdl.core.options import Options
from segdl.core.report import Report
from segdl.edges.manifest_file import ManifestFile
from segdl.edges.receipts import Receipts
from segdl.edges.workspace import Workspace
from segdl.engine.control import Control
from segdl.engine.delivery import Delivery
from segdl.engine.order import Listener, Order
from segdl.engine.premises import premises
from segdl.engine.salvage import salvage

LARGEST_MANIFEST = 128 * 1024 * 1024  # bytes


def load(source: str | os.PathLike[str], options: Options | None = None) -> Manifest:
    """The manifest in a file, on standard input (`-`), or of one bare http(s) URL.

    Raises ManifestError with every fault.
    """
    name = os.fspath(source)
    return parse(read(name), name, options or Options())


def parse(data: bytes, source: str, options: Options) -> Manifest:
    """The manifest that was read from a source. Raises ManifestError with every fault."""
    if is_url(source):
        return manifest_of_url(source)
    shown = "<stdin>" if source == "-" else source
    return parse_manifest(data, shown, allow_env=options.allow_env, environment=os.environ)


def is_url(source: str) -> bool:
    """Whether a manifest is named by the URL of its one object."""
    return source[:8].lower().startswith(("http://", "https://"))


def read(source: str) -> bytes:
    """What stands in a file, on standard input (`-`), or is said by one bare URL: a list of one.

    Raises ManifestError.
    """
    if is_url(source):
        return source.encode("utf-8", "surrogatepass")
    try:
        if source == "-":
            return sys.stdin.buffer.read(LARGEST_MANIFEST + 1)
        with open(source, "rb") as file:
            return file.read(LARGEST_MANIFEST + 1)
    except OSError as error:
        problem = f"cannot be read ({error.strerror}): expected a manifest, `-`, or an http(s) URL"
        shown = source.partition("?")[0]  # it may be a share URL that was mistyped
        raise ManifestError((Fault(shown, "", problem),)) from None


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
