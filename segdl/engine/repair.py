"""Rotten files made good: only what `verify` found rotten is fetched again.

The good segments are copied into a work folder and recorded there, as if they had just been
fetched; then an ordinary download fetches the rest. The rotten file keeps its name until the
repaired one, verified, is renamed over it.

A mix of old and new bytes must be provable. Either the receipt has the strong ETag that all new
answers must have too, or the manifest has digests. Where there is neither, all is fetched again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from segdl.core.manifest import Manifest, Target
from segdl.core.options import Options
from segdl.core.plan import Layout, Pin, Place, Record
from segdl.core.report import Receipt, Report
from segdl.edges import merge
from segdl.edges.index import Contents, Heading, Index, read_index
from segdl.edges.parts import open_window
from segdl.edges.receipts import Receipts
from segdl.edges.workspace import Workspace, work_name
from segdl.engine.control import Control
from segdl.engine.delivery import Delivery, asked_for
from segdl.engine.order import Listener, Order
from segdl.engine.premises import premises
from segdl.engine.salvage import salvage
from segdl.engine.verify import Finding, Verdict


def repair(
    manifest: Manifest,
    into: str | os.PathLike[str],
    findings: Iterable[Finding],
    *,
    options: Options | None = None,
    on_event: Listener | None = None,
    control: Control | None = None,
) -> Report:
    """Make the rotten targets among `findings` good again; nothing else is touched.

    Raises LockedError, DiskError, and what `on_event` raises, after a clean end.
    """
    rotten = {f.path: f for f in findings if f.verdict is Verdict.ROTTEN}
    targets = tuple(target for target in manifest.targets if target.path in rotten)
    options, control = options or Options(), control or Control()
    with premises(into) as workspace, salvage(options.sources, targets) as found:
        receipts = Receipts(workspace.hidden)
        try:
            known = receipts.read()
            for target in targets:
                if control.stopped is None:
                    finding, receipt = rotten[target.path], known.get(target.path)
                    _Seed(workspace, target, finding, receipt).plant(control)
            delivery = Delivery(workspace, receipts, overwrite=True)
            listener = on_event or (lambda event: None)
            order = Order(manifest, targets, workspace, delivery, options, found, listener)
            return order.run({}, control)  # no receipt is believed here
        finally:
            receipts.close()


class _Seed:
    """What is good of one rotten target, on its way into its work folder."""

    def __init__(
        self, workspace: Workspace, target: Target, finding: Finding, receipt: Receipt | None
    ) -> None:
        self._workspace = workspace
        self._target = target
        self._finding = finding
        of_this = receipt is not None and asked_for(target, receipt)
        self._receipt = receipt if of_this else None

    def plant(self, control: Control) -> None:
        """Copy and record the good segments, if a mix can be proved. Raises OSError.

        What an interrupted repair has fetched already is kept.
        """
        heading = self._heading()
        if heading is None:
            return
        known = self._known()
        fresh = known.heading is None or not _alike(known.heading, heading)
        if fresh:
            self._workspace.remove_work(self._target.path)
        try:
            self._fill(heading, Contents() if fresh else known, control)
        except OSError:
            if fresh:
                self._workspace.remove_work(self._target.path)
            raise

    def _heading(self) -> Heading | None:
        """Which object the good segments are of; None if they cannot be mixed with new ones."""
        target, receipt, check = self._target, self._receipt, self._finding.check
        ours = {url.object_name for url in target.urls}
        etag = receipt.etag if receipt and receipt.object in ours else None
        provable = etag or target.provable
        if not (self._finding.located and provable and check.size):
            return None
        if receipt is not None and not receipt.resumable:
            return None
        return Heading(
            path=target.path,
            size=check.size,
            segment_size=check.segment_size,
            object=receipt.object if receipt and receipt.object in ours else min(ours),
            pin=Pin(None if target.slice else check.size, etag, by_digest=etag is None),
            epoch=0,
            offset=target.slice.offset if target.slice else 0,
        )

    def _known(self) -> Contents:
        with self._workspace.look("work", work_name(self._target.path)) as folder:
            return Contents() if folder is None else read_index(folder)

    def _fill(self, heading: Heading, known: Contents, control: Control) -> None:
        folder = self._workspace.open_work(self._target.path)
        source = self._workspace.open_final(self._target.path)
        merged, index = open_window(folder, merge.NAME), Index(folder)
        try:
            if known.heading is None:
                index.pin(heading)
            for record in self._good(heading):
                if control.stopped is not None:
                    return
                if record.number not in known.records:
                    length = record.stop - record.start
                    merge.copy_range(source, record.start, merged, record.start, length)
                    index.held(record, (known.heading or heading).epoch)
        finally:
            index.close()
            for file in (merged, source, folder):
                os.close(file)

    def _good(self, heading: Heading) -> Iterable[Record]:
        layout = Layout(heading.size, heading.segment_size)
        for number, value in enumerate(self._finding.records):
            if number not in self._finding.rotten:
                segment = layout.segment(number)
                yield Record(number, segment.start, segment.stop, value, Place.FRONT)


def _alike(one: Heading, other: Heading) -> bool:
    """Whether two headings are of one object, cut in one way."""
    pins = [Pin(None, heading.pin.etag) for heading in (one, other)]
    return replace(one, pin=pins[0], epoch=0) == replace(other, pin=pins[1], epoch=0)
