"""What came by another way, brought into the order: a USB disk, an older copy, another machine.

Mergers do it, before a target's first request: no connection waits, and other targets are fetched
meanwhile. A segment is copied to its place in the merged file and recorded by the digest of that
copy, so that a source which changes meanwhile, or a crash, costs time and never truth.

What another segdl has delivered, or has under way, is also of use where the manifest has no digest:
it vouches for each segment, and for the object's ETag. Then one segment is left to the server,
whose answer tells whether that is still the object.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from segdl.core.dataclass import dataclass
from segdl.core.digests import RECORD, hasher
from segdl.core.errors import ContentError, StoppedError, UsageError
from segdl.core.manifest import Target
from segdl.core.plan import Layout, Pin, Place, fits
from segdl.core.report import Receipt, Taken
from segdl.core.salvage import Candidate, Offers, Use
from segdl.edges import merge
from segdl.edges.index import read_index
from segdl.edges.parts import part_name
from segdl.edges.receipts import read_receipts
from segdl.edges.workspace import Depot, work_name
from segdl.engine.task import Source, Task, goes_on

Stopped = Callable[[], bool]
Opened = Callable[[str], int]  # a name: a descriptor, which the caller closes
_BLOCK = 8 * 1024 * 1024  # bytes hashed between two looks at a stop
_OURS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # no fault of what is read


@dataclass(frozen=True, slots=True)
class Vouched:
    """What another segdl says of a target's bytes: of segments, by number, the file that they are
    in, the offset there, and the RECORD digest."""

    layout: Layout
    pin: Pin
    segments: Mapping[int, tuple[str, int, str]]


class Folder:
    """One folder that files may be taken from. Nothing in it is changed."""

    def __init__(self, depot: Depot) -> None:
        self.depot = depot
        self._receipts: Mapping[str, Receipt] = {}
        self._under_way: frozenset[str] = frozenset()
        with suppress(OSError), depot.look() as hidden:
            if hidden is not None:
                self._receipts = read_receipts(hidden)
        with suppress(OSError), depot.look("work") as work:
            if work is not None:
                self._under_way = frozenset(os.listdir(work))

    def knows(self, target: Target) -> bool:
        """Whether another segdl has had this target here."""
        return target.path in self._receipts or work_name(target.path) in self._under_way

    def delivered(self, target: Target) -> Vouched | None:
        """What was delivered here for a target."""
        receipt = self._receipts.get(target.path)
        offset = target.slice.offset if target.slice else 0
        if receipt is None or receipt.offset != offset or target.size not in (None, receipt.size):
            return None
        said, layout = receipt.segments, Layout(receipt.size, receipt.segments.size)
        if said.algorithm != RECORD or len(said.values) != layout.count:
            return None
        segments = {n: (target.path, n * said.size, digest) for n, digest in enumerate(said.values)}
        return Vouched(layout, Pin(None if target.slice else receipt.size, receipt.etag), segments)


def under_way(target: Target, folder: int) -> Vouched | None:
    """What the index in a work folder vouches for, if it is of this target."""
    contents = read_index(folder)
    heading = contents.heading
    if heading is None or not goes_on(target, target.urls, heading):
        return None
    layout, segments = Layout(heading.size, heading.segment_size), {}
    for number, record in contents.records.items():
        if fits(layout, record) and record.covers(layout.segment(number)):
            front = record.place is Place.FRONT
            name, at = (merge.NAME, record.start) if front else (part_name(number), 0)
            segments[number] = (name, at, record.digest)
    return Vouched(layout, heading.pin, segments)


class Salvage:
    """The folders of one run. Thread-safe."""

    def __init__(self, folders: Sequence[Folder], targets: Iterable[Target]) -> None:
        self._folders = folders
        found = (Candidate(n, *f) for n, folder in enumerate(folders) for f in folder.depot.files())
        self._offers = Offers(found, targets)
        self._digests: dict[tuple[Candidate, str], str] = {}
        self._lock = threading.Lock()
        self._brought: set[str] = set()  # the paths of targets that something was taken for
        self._bytes = 0

    def offers(self, target: Target) -> bool:
        """Whether there is anything to look at for a target."""
        if not self._folders:
            return False
        return bool(self._offers.of(target)) or any(f.knows(target) for f in self._folders)

    def has_whole(self, target: Target) -> bool:
        """Whether there is a file that may be all of a target, and will be if its digest holds."""
        return self._offers.whole(target)

    def taken(self, targets: Iterable[Target]) -> Taken:
        """What came of it. `targets` are those that were not delivered before."""
        left = (t for t in targets if t.path not in self._brought)
        unproved = sum(map(self._offers.unproved, left)) if self._folders else 0
        return Taken(files=len(self._brought), bytes=self._bytes, unproved=unproved)

    def plant(self, task: Task, stopped: Stopped) -> None:
        """Take what is proved for a target. Raises StoppedError; OSError if it cannot be kept."""
        before = task.brought
        for candidate, how in self._offers.of(task.target):
            with _passing_over():
                self._take_file(task, candidate, how, stopped)
        for folder in self._folders:
            if folder.knows(task.target) and not task.is_complete():
                with _passing_over():
                    self._take_delivered(task, folder, stopped)
                with _passing_over():
                    self._take_work(task, folder, stopped)
        with self._lock:
            self._bytes += task.brought - before
            if task.brought > before:
                self._brought.add(task.target.path)

    # -- files -------------------------------------------------------------------------------------

    def _take_file(self, task: Task, candidate: Candidate, how: Use, stopped: Stopped) -> None:
        if task.is_complete():
            return
        file = self._folders[candidate.folder].depot.open_final(candidate.path)
        try:
            if how is Use.WHOLE:
                if not self._matches(task.target, candidate, file, stopped):
                    return
                task.seed_by_digest(candidate.size)
            for number in range(task.layout.count or 0):
                start, stop = (segment := task.layout.segment(number)).start, segment.stop
                if stop <= candidate.size and not task.is_held(number):
                    _go_on(stopped)
                    task.bring(Source(file, start), number)
        finally:
            os.close(file)

    def _matches(self, target: Target, candidate: Candidate, file: int, stopped: Stopped) -> bool:
        return all(
            self._digest(candidate, algorithm, file, stopped) == value
            for algorithm, value in target.digests
        )

    def _digest(self, candidate: Candidate, algorithm: str, file: int, stopped: Stopped) -> str:
        """A file's digest, taken once however many targets have its size."""
        if (known := self._digests.get((candidate, algorithm))) is not None:
            return known
        running = hasher(algorithm)
        for start in range(0, candidate.size, _BLOCK):
            _go_on(stopped)
            merge.feed(file, start, min(start + _BLOCK, candidate.size), (running,))
        value = self._digests[candidate, algorithm] = running.hexdigest()
        return value

    # -- what another segdl has --------------------------------------------------------------------

    def _take_delivered(self, task: Task, folder: Folder, stopped: Stopped) -> None:
        if not task.target.provable:  # else its file was a candidate
            vouched = folder.delivered(task.target)
            if vouched is not None:
                _take(task, vouched, folder.depot.open_final, stopped)

    def _take_work(self, task: Task, folder: Folder, stopped: Stopped) -> None:
        with folder.depot.look("work", work_name(task.target.path)) as work:
            if work is None or (vouched := under_way(task.target, work)) is None:
                return
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            _take(task, vouched, lambda name: os.open(name, flags, dir_fd=work), stopped)


def _take(task: Task, vouched: Vouched, opened: Opened, stopped: Stopped) -> None:
    """Take segments that another segdl vouches for. Raises as `plant` does, and ContentError."""
    numbers = _numbers(task, vouched)
    if numbers:
        task.seed(vouched.layout, vouched.pin)
    for number in numbers:
        _go_on(stopped)
        name, at, digest = vouched.segments[number]
        with _passing_over():
            file = opened(name)
            try:
                task.bring(Source(file, at, digest), number)
            finally:
                os.close(file)


def _numbers(task: Task, vouched: Vouched) -> list[int]:
    """The segments to take: without a digest in the manifest never all that are missing."""
    target, provable = task.target, task.target.provable
    if target.pieces is not None and target.pieces.size != vouched.layout.segment_size:
        return []
    if task.pin is not None and task.layout != vouched.layout:
        return []
    if not provable and vouched.pin.etag is None:
        return []
    if not provable and task.pin is not None and task.pin.etag != vouched.pin.etag:
        return []
    numbers = sorted(number for number in vouched.segments if not task.is_held(number))
    count = vouched.layout.count or 0
    held = count - sum(not task.is_held(number) for number in range(count))
    return numbers if provable or held + len(numbers) < count else numbers[:-1]


def _go_on(stopped: Stopped) -> None:
    if stopped():
        raise StoppedError("stopped before all was looked at that is here")


@contextmanager
def _passing_over() -> Iterator[None]:
    """What cannot be read here, or is not right, the network has."""
    try:
        yield
    except ContentError:
        pass
    except OSError as error:
        if error.errno in _OURS:
            raise


@contextmanager
def salvage(folders: Sequence[str], targets: Sequence[Target]) -> Iterator[Salvage]:
    """The folders, opened and looked through. Raises UsageError for one that cannot be read."""
    with ExitStack() as opened:
        found = []
        for name in folders:
            try:
                depot = Depot(Path(name))
            except OSError as error:
                raise UsageError(f"--from: {name} cannot be read ({error.strerror})") from None
            opened.callback(depot.close)
            found.append(Folder(depot))
        yield Salvage(found, targets)
