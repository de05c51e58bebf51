"""One target under way: its index, its parts and its front, brought together.

States of a segment: missing, partial (a record vouches for a prefix), held (a record covers it),
merged (it lies in the merged file, before the front). What a record says is believed only after its
bytes gave its digest, in this process or again after a restart.

Workers call from several threads; `_lock` guards the fields. Every part has a descriptor of its
own, and a restart makes new files, so that a worker that was overtaken writes where nobody reads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial

from segdl.core.dataclass import dataclass
from segdl.core.digests import RECORD, hasher
from segdl.core.errors import DigestError, SizeError
from segdl.core.manifest import Target
from segdl.core.options import KIB
from segdl.core.pinning import Pinning
from segdl.core.plan import DEFAULT_SEGMENT, Layout, Pin, Place, Record, aligned, fits
from segdl.core.proof import Proof
from segdl.core.report import Receipt
from segdl.core.urls import ShareURL
from segdl.core.verdict import Accepted
from segdl.edges import merge
from segdl.edges.index import Contents, Heading, Index, NoIndex
from segdl.edges.parts import Part, open_window
from segdl.edges.workspace import Workspace
from segdl.engine.front import Files, Front
from segdl.engine.windows import Windows

DRAFT = 256 * KIB  # bytes: a target up to this is not worth a folder and an index of its own
FLUSH_EVERY = 2.0  # seconds: what a power cut may cost is counted from the last flush


@dataclass(frozen=True, slots=True)
class Source:
    """A segment's bytes elsewhere: in an open file, from `at` on; and their RECORD digest, where
    somebody vouches for one."""

    file: int
    at: int
    digest: str | None = None


class Task:
    """A target on its way to the disk."""

    def __init__(self, target: Target, workspace: Workspace, segment_size: int | None) -> None:
        """`segment_size` is None where the object's ETag may choose it."""
        self.target = target
        self.pinning = Pinning(target)
        self.layout = Layout(target.size, segment_size or DEFAULT_SEGMENT)
        self.epoch = 0
        self.over = False
        self.unseen = False  # something was on disk before this run, and is not looked at yet
        self.began = time.monotonic()
        self.ranged = False  # a range was honoured in this run
        self.whole = False  # the server ignores ranges
        self.offer: Receipt | None = None  # of what is there, and is the same object, perhaps
        self.offered = False  # some of it may be elsewhere on disk
        self.brought = 0  # bytes that came by another way, in this run
        self._trial: set[int] = set()  # segments of them that no digest of their own has proved
        self._workspace = workspace
        self._furthest = 0
        self._alignable = segment_size is None
        self._lock = threading.RLock()
        self._users = 0
        self._windows = Windows({}, ())
        self._files: Files | None = None
        self._begun = False  # it has a folder of its own
        self._retired: list[int] = []  # descriptors that an overtaken worker may still use
        self._orphans: list[Windows] = []
        self._flushed = time.monotonic()
        self.front = self._new_front({})

    def _new_front(self, held: dict[int, Record]) -> Front:
        return Front(self.layout, self.proof, self.epoch, held)

    @property
    def proof(self) -> Proof:
        return Proof(self.target, self.layout, self.pin)

    @property
    def pin(self) -> Pin | None:
        """Of the object, once an answer or an index has told it."""
        return self.pinning.pin

    @property
    def urls(self) -> tuple[ShareURL, ...]:
        """One for each mirror."""
        return self.pinning.urls

    # -- what is known ---------------------------------------------------------------------------

    def adopt(self, contents: Contents) -> None:
        """Take over what an index says, if it can be of this target. Nothing is read yet."""
        heading, self._begun = contents.heading, True
        if heading is None or not goes_on(self.target, self.urls, heading):
            self.epoch = contents.unused
            return
        self.layout = Layout(heading.size, heading.segment_size)
        self.epoch = heading.epoch
        self.pinning.go_on(heading.pin, heading.object)
        held: dict[int, Record] = {}
        begun: dict[int, Record] = {}
        for number, record in contents.records.items():
            if fits(self.layout, record):
                complete = record.covers(self.layout.segment(number))
                (held if complete else begun)[number] = record
        unproved = not (self.pinning.is_known or self.target.provable)
        if unproved and held and len(held) == self.layout.count:
            del held[max(held)]  # of another link's object: one answer has to say that it is this
        tails = (record for record in contents.live_tails() if fits(self.layout, record))
        self._windows = Windows(begun, tails)
        self.front = self._new_front(held)

    def present(self) -> int:
        """Bytes on disk, as far as is known now."""
        with self._lock:
            return self.front.bytes() + self._windows.bytes()

    def relink(self, urls: tuple[ShareURL, ...]) -> bool:
        """Take fresh links. False if nothing says that they are of the object that is held."""
        with self._lock:
            return self.pinning.relink(urls)

    # -- files -------------------------------------------------------------------------------------

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the files open while somebody is at it."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Keep the files open until as many have left as have entered."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        """The last to leave closes what is over."""
        with self._lock:
            self._users -= 1
        self.close_if_over()

    def close_if_over(self) -> None:
        """Close the files of a target that is over, once no worker uses them."""
        with self._lock:
            if self._users or not self.over:
                return
            for windows in (self._windows, *self._orphans):
                windows.close()
            if self._files is not None:
                self._close_files(self._files)
            for file in self._retired:
                os.close(file)
            self._orphans.clear()
            self._retired.clear()
            self._files = None

    def _close_files(self, files: Files) -> None:
        files.index.close()
        self._retired.append(files.merged)
        if files.folder is not None:
            self._retired.append(files.folder)
        else:  # what was held went with the file: the front will find that out
            self.front = self._new_front(self.front.held)

    @property
    def files(self) -> Files:
        """The target's files, opened at first use, made if they are missing. Raises OSError."""
        with self._lock:
            if self._files is None:
                self._files = self._open_draft() or self._open_files()
            return self._files

    @property
    def blank(self) -> bool:
        """Whether nothing is known of the target, and nothing of it is on disk."""
        return self.pin is None and self._files is None and not (self._begun or self.epoch)

    @property
    def draft(self) -> bool:
        """Whether the target is written to a file without a name, in one go."""
        files = self._files
        return files is not None and files.folder is None

    def _open_draft(self) -> Files | None:
        size = self.layout.size
        if self._begun or size is None or size > min(DRAFT, self.layout.segment_size):
            return None
        file = self._workspace.open_draft()
        return None if file is None else Files(None, file, NoIndex())

    def _open_files(self) -> Files:
        self._begun = True
        with ExitStack() as failed:
            folder = self._workspace.open_work(self.target.path)
            failed.callback(os.close, folder)
            merged = open_window(folder, merge.NAME)
            failed.callback(os.close, merged)
            files = Files(folder, merged, Index(folder))
            failed.pop_all()
        return files

    # -- the object --------------------------------------------------------------------------------

    def admit(self, accepted: Accepted, mirror: int = 0) -> None:
        """The probe was answered: pin the object and learn its size. Raises SizeError, OSError."""
        size = self._size_of(accepted.pin.total)
        if size is not None:
            self.proof.check_size(size)
        with self._lock:
            segment_size = self.layout.segment_size
            if self._alignable and size:
                segment_size = aligned(size, accepted.pin.etag)
            self.layout = Layout(size, segment_size)
            self.pinning.admit(accepted.pin, mirror)
            self.whole = accepted.whole
            self.front = self._new_front({})
            self._tell_index()

    def _size_of(self, total: int | None) -> int | None:
        part = self.target.slice
        if part is None:
            return self.target.size if total is None else total
        if total is not None and part.offset + part.size > total:
            raise SizeError(f"the object has {total} bytes, and the slice ends beyond them")
        return part.size

    def _tell_index(self) -> None:
        """Which object it is; a draft has no index to keep that. Raises OSError."""
        files = self.files
        assert self.pin is not None
        if files.folder is None:
            return
        heading = Heading(
            path=self.target.path,
            size=self.layout.size,
            segment_size=self.layout.segment_size,
            object=self.pinning.object_name,
            pin=self.pin,
            epoch=self.epoch,
            offset=self.pinning.offset,
        )
        files.index.pin(heading)

    def learn_end(self, size: int) -> None:
        """A body of unknown length ended properly: that is the size. Raises SizeError, OSError."""
        if self.target.size not in (None, size):
            raise SizeError(f"the object has {size} bytes, the manifest says {self.target.size}")
        self.proof.check_size(size)
        with self._lock:
            self.layout = Layout(size, self.layout.segment_size)
            self.front.layout, self.front.proof = self.layout, self.proof
            self._tell_index()
            for record in self.front.held.values():
                self.files.index.held(record, self.epoch)

    def restart(self) -> None:
        """Forget what is held: the object is another one now. Raises OSError."""
        with self._lock:
            self.epoch += 1
            self.pinning.let_go()
            self._trial.clear()
            self.brought = 0
            self.layout = Layout(self.target.size, self.layout.segment_size)
            self.ranged = self.whole = False
            self._orphans.append(self._windows)
            self._windows = Windows({}, ())
            self.front = self._new_front({})
            self._renew()

    def _renew(self) -> None:
        """New files for the same names; what still writes to the old ones does no harm."""
        old, folder = self.files, self.files.folder
        if folder is None:
            self._files = None
        else:
            for name in os.listdir(folder):
                if name == merge.NAME or name.endswith(".part"):
                    with suppress(FileNotFoundError):  # a merger removes what it has copied
                        os.unlink(name, dir_fd=folder)
            self._files = Files(folder, open_window(folder, merge.NAME), old.index)
        self._retired.append(old.merged)

    # -- parts -------------------------------------------------------------------------------------

    def window(self, number: int, epoch: int) -> Part | None:
        """The part for a segment, gone on with where it was left; None if the target was started
        again since `epoch`: what the caller reads may be of the old object. Raises OSError."""
        with self._lock:
            if epoch != self.epoch:
                return None
            if (part := self._windows.find(number)) is not None:
                return part
            part, record = self._windows.open(
                number, self.layout, self.files, self.front.place, self.proof.of_segment
            )
        if record is not None and not part.recover(record):
            self.files.index.lost(number, epoch)
        return part

    # -- tails -------------------------------------------------------------------------------------

    def lend(self, window: Part, epoch: int) -> Part | None:
        """The later half of what a window lacks, for another worker, who has to `give_back`."""
        with self._lock:
            if epoch != self.epoch or not self.ranged or self.layout.size is None or self.draft:
                return None
            return self._windows.lend(window, self.files)

    def give_back(self, tail: Part) -> None:
        """Whoever fetched a tail is done with it, at its end or before."""
        for windows in (self._windows, *self._orphans):
            windows.give_back(tail)

    def is_waited_for(self, part: Part) -> Part | None:
        """The tail that `part` has come to while somebody is at it."""
        tail = self._windows.next_tail(part)
        return tail if tail is not None and self._windows.is_out(tail) else None

    def absorb(self, part: Part, epoch: int) -> None:
        """Take in the tails that `part` has come to. Raises OSError."""
        with self._lock:
            if epoch != self.epoch:
                return
            record = partial(self.checkpoint, epoch=epoch)
            self._windows.absorb(part, record, self.files.home)

    # -- what came by another way ------------------------------------------------------------------

    def seed(self, layout: Layout, pin: Pin) -> None:
        """Begin with bytes that no server gave in this run, unless it has begun already. Raises
        SizeError, OSError."""
        if layout.size is not None:
            self.proof.check_size(layout.size)
        with self._lock:
            if self.pin is None:
                self.layout, self.pinning.pin = layout, pin
                self.front = self._new_front({})
                self._tell_index()

    def seed_by_digest(self, size: int | None) -> None:
        """The same, of bytes that only the manifest's digests settle. Raises SizeError, OSError"""
        pin = Pin(None if self.target.slice else size, None, by_digest=True)
        self.seed(Layout(size, self.layout.segment_size), pin)

    def bring(self, source: Source, number: int) -> bool:
        """Copy a segment that is missing to its place, and vouch for the copy, if it is what the
        source and the manifest's pieces say. Raises OSError, and SizeError by `seed`."""
        segment, merged = self.layout.segment(number), self.files.merged
        merge.copy_range(source.file, source.at, merged, segment.start, segment.length)
        own, pieces = hasher(RECORD), {name: hasher(name) for name in self.proof.of_segment}
        merge.feed(merged, segment.start, segment.stop, (own, *pieces.values()))
        found = own.hexdigest()
        digests = {name: piece.hexdigest() for name, piece in pieces.items()}
        try:
            self.proof.check_segment(number, digests)
        except DigestError:
            return False
        if source.digest not in (None, found):
            return False
        self.seed_by_digest(self.layout.size)
        record = Record(number, segment.start, segment.stop, found, Place.FRONT)
        self.files.index.held(record, self.epoch)
        self._flush_front_if_due()
        self._windows.forget(number)
        self.front.hold(record, digests)
        self.brought += segment.length
        if not pieces:
            self._trial.add(number)
        return True

    def is_held(self, number: int) -> bool:
        return number in self.front.held

    def is_complete(self) -> bool:
        """Whether every segment is held."""
        return self.pin is not None and self.layout.count == len(self.front.held)

    def forget_brought(self) -> tuple[int, ...]:
        """The whole is not what the manifest says: forget what came by another way and had no
        digest of its own. Returns those segments; what was fetched stays."""
        with self._lock:
            trial, held = self._trial & set(self.front.held), self.front.held
            self._trial.clear()
            for number in trial:
                self.files.index.lost(number, self.epoch)
                self.brought -= self.layout.segment(number).length
            if trial:  # the front had come to the end, so that all lies in the merged file
                kept = {n: replace(r, place=Place.FRONT) for n, r in held.items() if n not in trial}
                self.front = self._new_front(kept)
            return tuple(sorted(trial))

    # -- records -----------------------------------------------------------------------------------

    def came(self, part: Part, count: int) -> int:
        """How many of the bytes just written are new: a stream that started again gains only
        beyond where it broke."""
        again = max(0, self._furthest - (part.reached - count)) if self.whole else 0
        self._furthest = max(self._furthest, part.reached)
        return max(0, count - again)

    def checkpoint(self, part: Part, epoch: int) -> None:
        """Vouch for what a part holds by now, and flush now and then. Raises OSError."""
        if part.reached > part.segment.start:
            self.files.index.held(part.record(), epoch)
        self._flush_if_due(part)

    def _flush_if_due(self, part: Part) -> None:
        now = time.monotonic()
        if part.place is not Place.FRONT and now - part.flushed >= FLUSH_EVERY:
            part.flush()
        self._flush_front_if_due()

    def _flush_front_if_due(self) -> None:
        now = time.monotonic()
        if now - self._flushed >= FLUSH_EVERY:
            self._flushed = now
            os.fdatasync(self.files.merged)
            self.files.index.flush()

    def commit(self, part: Part, epoch: int) -> None:
        """A segment is complete: check its own digests, then vouch for all of it.

        Raises DigestError, and the segment is missing again; OSError.
        """
        number = part.segment.number
        digests = part.digests()
        try:
            self.proof.check_segment(number, digests)
        except DigestError:
            self.files.index.lost(number, epoch)
            self._windows.drop(part)
            raise
        if part.place is Place.PART:
            part.flush()  # an island may wait long for the front: a power cut must not cost it
        record = part.record()
        self.files.index.held(record, epoch)
        self._flush_if_due(part)
        with self._lock:
            if epoch == self.epoch:
                self.front.hold(record, digests)
        self._windows.drop(part)

    def truncate(self, part: Part) -> None:
        """The object ended inside this part: it is the last one, and shorter."""
        with self._lock:
            if part.reached > part.segment.start:
                part.segment = self.layout.segment(part.segment.number)
                part.limit = part.segment.stop
            else:
                self._windows.drop(part)


def goes_on(target: Target, urls: tuple[ShareURL, ...], heading: Heading) -> bool:
    """Whether an index may go on: what this leaves to chance, `If-Match` and digests settle."""
    offset = target.slice.offset if target.slice else 0
    return (
        heading.path == target.path
        and heading.offset == offset
        and heading.size is not None
        and target.size in (None, heading.size)
        and (target.pieces is None or target.pieces.size == heading.segment_size)
        and (not heading.pin.by_digest or target.provable)
        and (heading.pin.etag is not None or heading.object in {u.object_name for u in urls})
    )
