"""The last steps of a target: verify the whole, flush, rename, flush the folder, write the receipt.

And the first question: whether what stands under the final name is the target already.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from segdl.core.digests import RECORD, Hasher, hasher
from segdl.core.errors import (
    ContentError,
    DiskFullError,
    SegdlError,
    StoppedError,
    attempted,
    disk_error,
)
from segdl.core.events import timestamp
from segdl.core.manifest import Target
from segdl.core.plan import Layout, Place, Record
from segdl.core.report import Grade, Receipt, SegmentDigests
from segdl.edges import merge
from segdl.edges.workspace import Workspace, is_file, occupied, sync_tells
from segdl.engine.front import MOST_COPIED
from segdl.engine.task import Task


class Ledger(Protocol):
    """Where receipts are kept."""

    def append(self, *receipts: Receipt) -> None: ...


FEW = 4  # drafts: more are flushed by one call


class Delivery:
    """Where targets are delivered to. Thread-safe."""

    def __init__(self, workspace: Workspace, receipts: Ledger, *, overwrite: bool) -> None:
        self._workspace = workspace
        self._receipts = receipts
        self._overwrite = overwrite
        self._syncing = threading.Lock()
        self._sync_works = True  # as far as is known
        self._touched: dict[str, Receipt] = {}  # of targets whose file has another time by now

    def believed(self, target: Target, receipt: Receipt) -> bool:
        """Whether a target is there still: receipt, size and time agree. Raises OSError.

        Where they do not, `examine` hashes what is there, and may find the receipt to be right.
        """
        if not asked_for(target, receipt):
            return False
        stands = self._stands(receipt)
        if not stands:
            self._touched[target.path] = receipt
        return stands

    def perhaps(self, target: Target, receipt: Receipt) -> bool:
        """Whether a target that is not believed was delivered from another place, by an object of
        the same ETag: its server can tell. Raises OSError."""
        offset = target.slice.offset if target.slice else 0
        same = target.size in (None, receipt.size) and receipt.offset == offset
        asks = same and receipt.size and receipt.etag and not target.provable
        return bool(asks) and self._stands(receipt)

    def _stands(self, receipt: Receipt) -> bool:
        found = self._workspace.find(receipt.path)
        return (
            found is not None
            and is_file(found)
            and (found.st_size, found.st_mtime_ns) == (receipt.size, receipt.modified_ns)
        )

    def confirm(self, receipt: Receipt, object_name: str) -> Receipt:
        """The receipt anew, with the name that its object has by now. Raises OSError."""
        confirmed = replace(receipt, object=object_name)
        self._receipts.append(confirmed)
        return confirmed

    def keep(self, receipts: Sequence[Receipt]) -> None:
        """Keep the receipts of targets that another process has delivered. Raises OSError."""
        self._receipts.append(*receipts)

    def in_the_way(self, target: Target) -> bool:
        """Whether something stands under the final name. Raises OSError."""
        return self._workspace.find(target.path) is not None

    def examine(self, task: Task, stopped: Callable[[], bool]) -> Receipt | None:
        """The receipt of a target that is there already; None if it has to be fetched.

        Raises OccupiedError if something else is in the way, StoppedError if `stopped` says so
        before it is known, OSError.
        """
        target = task.target
        found = self._workspace.find(target.path)
        if found is None:
            return None
        if stat.S_ISDIR(found.st_mode):
            raise occupied(target.path, folder=True)
        same_size = is_file(found) and target.size in (None, found.st_size)
        if same_size and (receipt := self._recognise(task, found, stopped)) is not None:
            return receipt
        if self._overwrite or (same_size and not target.provable):
            return None  # without a digest the content is compared when all of it is here
        raise occupied(target.path)

    def _recognise(
        self, task: Task, found: os.stat_result, stopped: Callable[[], bool]
    ) -> Receipt | None:
        """Hash a file that is there against the manifest, its receipt, or a complete index.

        The index alone is enough: then a crash came between the rename and the receipt.
        """
        target = task.target
        known = None if target.provable else self._touched.get(target.path)
        if known is not None and self._is_still(task, known, found, stopped):
            return self._recognised(target, replace(known, modified_ns=found.st_mtime_ns))
        layout = Layout(found.st_size, task.layout.segment_size)
        ours = layout == task.layout and len(task.front.held) == layout.count
        if not (target.provable or ours):
            return None
        file = self._workspace.open_final(target.path)
        try:
            digests, segments, own = _hash_file(file, task, layout, stopped)
        finally:
            os.close(file)
        try:
            task.proof.check_size(found.st_size)
            task.proof.check_whole(digests)
            for number, values in segments.items():
                task.proof.check_segment(number, values)
        except ContentError:
            return None
        if not target.provable and own != _own(task):
            return None
        receipt = _receipt(task, found, digests, own, task.proof.grade(digests, segments))
        return self._recognised(target, receipt)

    def _is_still(
        self, task: Task, receipt: Receipt, found: os.stat_result, stopped: Callable[[], bool]
    ) -> bool:
        """Whether a file of another time has the content that its receipt tells of."""
        if found.st_size != receipt.size or receipt.segments.algorithm != RECORD:
            return False
        layout = Layout(receipt.size, receipt.segments.size)
        file = self._workspace.open_final(receipt.path)
        try:
            _, _, own = _hash_file(file, task, layout, stopped)
        finally:
            os.close(file)
        return own == receipt.segments.values

    def _recognised(self, target: Target, receipt: Receipt) -> Receipt:
        self._workspace.flush_final(target.path)  # nobody has, perhaps: it may just be copied here
        self._receipts.append(receipt)
        self._clean_up(target.path)
        return receipt

    def require_room(self, task: Task) -> None:
        """Raises DiskFullError if what is missing of a target does not fit; OccupiedError if a
        file of another size is in the way."""
        size = task.layout.size
        if size is None:
            return
        if task.target.size is None and not self._overwrite:  # else that is known by now
            found = self._workspace.find(task.target.path)
            if found is not None and found.st_size != size:
                raise occupied(task.target.path)
        if self._missing(task) > 0:
            raise self.no_room(task, "the disk has too little room")

    def no_room(self, task: Task, found: str) -> DiskFullError:
        """The error for a full disk, with the bytes that are missing for this target, unless it
        is a quota that is full: nothing tells how much of that is left."""
        missing = self._missing(task)
        return DiskFullError(found, missing=missing if missing > 0 else None)

    def _missing(self, task: Task) -> int:
        """Bytes that a target and a few islands need beyond what is free. Raises OSError."""
        size, segment = task.layout.size or 0, task.layout.segment_size
        islands = min(MOST_COPIED * segment, max(size - segment, 0))  # the front's is none
        return size - task.present() + islands - self._workspace.free()

    def deliver(self, task: Task) -> Receipt:
        """Deliver a target that is merged to its end; when it returns, the file survives a power
        cut. Raises DigestError (and nothing is delivered), OccupiedError, OSError."""
        found, path = self._sealed(task), task.target.path
        os.fsync(task.files.merged)
        task.files.index.flush()
        there = self._same_content(task)
        if there is None:
            self._workspace.deliver(task.files.home, merge.NAME, path, overwrite=self._overwrite)
        receipt = self._receipt(task, there or found)
        self._receipts.append(receipt)
        self._clean_up(path)
        return receipt

    def deliver_drafts(self, tasks: Sequence[Task]) -> list[Receipt | SegdlError]:
        """The same for several drafts, with a few flushes for all of them: a receipt or the error
        of each. Raises OSError if the flushes fail, and what they are of counts for nothing."""
        pairs = [(task, attempted(self._sealed, task)) for task in tasks]
        self._flush([task.files.merged for task, s in pairs if not isinstance(s, SegdlError)])
        outcomes = [
            sealed if isinstance(sealed, SegdlError) else attempted(self._name, task, sealed)
            for task, sealed in pairs
        ]
        receipts = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
        unflushed = self._workspace.flush_folders([receipt.path for receipt in receipts])
        outcomes = [_durable(outcome, unflushed) for outcome in outcomes]
        self._receipts.append(*(o for o in outcomes if isinstance(o, Receipt)))
        return outcomes

    def _sealed(self, task: Task) -> os.stat_result:
        """A merged file that is exactly the target, if its digests are the manifest's."""
        size, files = task.layout.size, task.files
        assert size is not None
        task.proof.check_whole(_values(task.front.whole))
        return merge.seal(files.merged, size, self._workspace.file_mode)

    def _flush(self, drafts: Sequence[int]) -> None:
        if len(drafts) <= FEW or not self._synced():
            for draft in drafts:
                os.fsync(draft)

    def _synced(self) -> bool:
        """Whether the whole file system was flushed. After an error never again: it is told once,
        to whoever asks first, while each file keeps its own."""
        with self._syncing:
            if self._sync_works and sync_tells():
                try:
                    self._workspace.sync()
                except OSError:
                    self._sync_works = False
                return self._sync_works
        return False

    def _name(self, task: Task, found: os.stat_result) -> Receipt:
        """Give a draft its final name, unless the same content has it already."""
        try:
            self._workspace.name(task.files.merged, task.target.path)
        except FileExistsError:
            there = self._same_content(task)
            if there is None:
                self._workspace.replace(
                    task.files.merged, task.target.path, overwrite=self._overwrite
                )
            return self._receipt(task, there or found)
        return self._receipt(task, found)

    def _same_content(self, task: Task) -> os.stat_result | None:
        """What stands under the final name, if it is the same content, and now durable; other
        content is refused, or replaced on request."""
        found = self._workspace.find(task.target.path)
        if found is None:
            return None
        if is_file(found) and found.st_size == task.layout.size:
            file = self._workspace.open_final(task.target.path)
            try:
                if merge.same(file, task.files.merged, found.st_size):
                    self._workspace.flush_final(task.target.path)
                    return found
            finally:
                os.close(file)
        if not self._overwrite:
            raise occupied(task.target.path)
        return None

    def _receipt(self, task: Task, found: os.stat_result) -> Receipt:
        """The receipt of a target whose front has come to its end."""
        whole, own = _values(task.front.whole), _own(task)
        return _receipt(task, found, whole, own, task.proof.grade(whole, task.front.digests))

    def _clean_up(self, path: str) -> None:
        with suppress(OSError):  # delivered is delivered: what is left goes with the next run
            self._workspace.remove_work(path)


def _receipt(
    task: Task, found: os.stat_result, digests: dict[str, str], own: tuple[str, ...], grade: Grade
) -> Receipt:
    return Receipt(
        path=task.target.path,
        size=found.st_size,
        digests=digests,
        segments=SegmentDigests(task.layout.segment_size, RECORD, own),
        grade=grade,
        delivered=timestamp(),
        object=task.pinning.object_name,
        offset=task.pinning.offset,
        etag=task.pin.etag if task.pin else None,
        modified_ns=found.st_mtime_ns,
        resumable=not task.whole,
    )


def _durable(
    outcome: Receipt | SegdlError, unflushed: Mapping[str, OSError]
) -> Receipt | SegdlError:
    """The outcome of a draft, whose folder may be one of those that could not be flushed."""
    if isinstance(outcome, SegdlError):
        return outcome
    error = unflushed.get(outcome.path.rpartition("/")[0])
    return outcome if error is None else disk_error(error)


def _own(task: Task) -> tuple[str, ...]:
    """The records' own digests of what is held, in order."""
    return tuple(record.digest for _, record in sorted(task.front.held.items()))


def _values(hashers: Mapping[str, Hasher]) -> dict[str, str]:
    return {name: running.hexdigest() for name, running in hashers.items()}


def asked_for(target: Target, receipt: Receipt) -> bool:
    """Whether a receipt is of what the manifest asks for now."""
    if target.size not in (None, receipt.size):
        return False
    if target.digests:
        return all(receipt.digests.get(name) == value for name, value in target.digests)
    offset = target.slice.offset if target.slice else 0
    return receipt.offset == offset and receipt.object in {u.object_name for u in target.urls}


def _hash_file(
    file: int, task: Task, layout: Layout, stopped: Callable[[], bool]
) -> tuple[dict[str, str], dict[int, dict[str, str]], tuple[str, ...]]:
    """The digests of a file: of the whole, of each segment, and the records' own."""
    whole = {name: hasher(name) for name in task.proof.of_whole}
    segments: dict[int, dict[str, str]] = {}
    own = []
    for number in range(layout.count or 0):
        if stopped():
            raise StoppedError("stopped before it was known")
        segment = layout.segment(number)
        pieces = {name: hasher(name) for name in (*task.proof.of_segment, RECORD)}
        record = Record(number, segment.start, segment.stop, "", Place.FRONT)
        merge.read_back(file, record, (*pieces.values(), *whole.values()))
        segments[number] = {name: piece.hexdigest() for name, piece in pieces.items()}
        own.append(segments[number][RECORD])
    return {n: h.hexdigest() for n, h in whole.items()}, segments, tuple(own)
