"""Promise 11 while somebody swaps folders for links, again and again, under a segdl at work.

Every folder and every file of segdl's own is exchanged for a link that leads outside, in one step
of the kernel, for some milliseconds; so is the output directory itself, once segdl has opened it.
Nothing outside is touched, nothing unexpected is raised, and an honest run finishes afterwards.
"""

from __future__ import annotations

import ctypes
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import segdl
from segdl.core.events import Event, OrderStarted
from segdl.edges.workspace import HIDDEN, work_name
from segdl.engine.order import Listener
from tests.faults import EVERY_PATH, FaultServer, faults
from tests.orders import SIZE, Case, Proof, made, never_hanging, nothing_left_over, quick

SECONDS = 2.0
ENOUGH = 20  # swaps, however long it takes
EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
AT_FDCWD = -100
LARGE = ["chips/a.7z", "chips/rev2/b.7z", "c.7z"]
SMALL = [f"chips/small/{number}" for number in range(8)]  # drafts: files without a name
OWN = ["order.json", "receipts.jsonl", "lock"]
LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    """An order that takes a while."""
    case = Case(fault_server, tmp_path)
    for number, name in enumerate(LARGE):
        case.put(made(SIZE, number), f"/{number}", name=name, proof=list(Proof)[number])
    for number, name in enumerate(SMALL):
        case.put(made(10_000, number), f"/small/{number}", name=name, proof=Proof.DIGEST)
    return case


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is not segdl's, with all the names that segdl uses."""
    folder = tmp_path / "outside"
    inside = [*(f"{work_name(name)}/{own}" for name in LARGE for own in ("front", "index.jsonl"))]
    names = [*OWN, *LARGE, *SMALL, "a.7z", "0", "rev2/b.7z", "small/1", "front", "index.jsonl",
             *inside, *(f"work/{each}" for each in inside)]  # fmt: skip
    for name in (*names, *(f"{HIDDEN}/{name}" for name in (*OWN, *inside))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"precious")
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, ...] | bytes]:
    """Everything there, with what would tell that it was touched."""
    found: dict[str, tuple[int, ...] | bytes] = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        seen = path.lstat()
        found[f"{path} itself"] = (seen.st_mode, seen.st_ino, seen.st_nlink, seen.st_mtime_ns)
        if path.is_file():
            found[str(path)] = path.read_bytes()
    return found


class Swapper:
    """Exchanges what is in an output directory for links, and back, in a thread of its own."""

    def __init__(self, case: Case, outside: Path, seed: int) -> None:
        self._case, self._outside = case, outside
        self._chance = random.Random(seed)
        self._between = threading.Lock()  # held while a link stands somewhere
        self._at_work = self._over = False
        self.swaps = 0

    @contextmanager
    def swapping(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._over = True
            thread.join()

    def begun(self) -> None:
        """segdl has opened the output directory: before, a link there is the user's."""
        self._at_work = True

    def ended(self, *names: str) -> None:
        """A run is over; these targets are to be delivered again."""
        with self._between:
            self._at_work = False
            for name in names:
                self._case.final(name).unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._over:
            with self._between:
                self._swap(self._chance.choice(list(self._places())))
            time.sleep(self._chance.choice((0.0, 0.001, 0.005)))

    def _places(self) -> Iterator[Path]:
        out, hidden = self._case.out, self._case.out / HIDDEN
        yield from (out / "chips", out / "chips/rev2", out / "chips/small", hidden, hidden / "work")
        yield from (hidden / name for name in OWN)
        for name in LARGE:
            work = hidden / "work" / work_name(name)
            yield from (work, work / "front", work / "index.jsonl", work / "00002.part")
        if self._at_work:
            yield out

    def _swap(self, place: Path) -> None:
        link = self._case.folder / "link"
        name = self._chance.choice(("", "", place.name, "a.7z", "nowhere"))
        link.symlink_to(self._outside / name)
        if exchange(link, place):
            self.swaps += 1
            time.sleep(self._chance.choice((0.0, 0.001, 0.003, 0.02, 0.05)))
            if not exchange(link, place):  # it is gone, or segdl put another in its place
                return self._put_aside(link)
        if link.is_symlink():
            return link.unlink()
        return self._put_aside(link)

    def _put_aside(self, link: Path) -> None:
        link.rename(self._case.folder / f"aside-{self.swaps}")


def exchange(one: Path, two: Path) -> bool:
    """Exchange two names in one step; False if one of them is not there."""
    return not LIBC.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(two), EXCHANGE)


@pytest.mark.parametrize("seed", range(int(os.environ.get("SEGDL_TEST_EXAMPLES", 3))))
def test_links_swapped_while_it_runs(case: Case, outside: Path, seed: int) -> None:
    before = snapshot(outside)
    case.server.script(EVERY_PATH, faults.trickle(1_000_000))
    swapper, began = Swapper(case, outside, seed), time.monotonic()
    runs: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, OrderStarted):
            swapper.begun()

    with swapper.swapping():
        while time.monotonic() - began < SECONDS or swapper.swaps <= ENOUGH:
            runs.append(deliver(case, listen))
            swapper.ended(LARGE[len(runs) % 3], SMALL[len(runs) % 8])
    assert snapshot(outside) == before
    print(f"{swapper.swaps} swaps; {len(runs)} runs: {dict(Counter(runs))}")
    assert swapper.swaps > ENOUGH
    for link in case.out.rglob("*"):  # what a swap that came to nothing left behind
        if link.is_symlink():
            link.unlink()
    case.finish(again=True)
    assert snapshot(outside) == before


def deliver(case: Case, listen: Listener) -> str:
    """What a run comes to; nothing unexpected is raised, and nothing is left over."""
    control = segdl.Control()
    with nothing_left_over(), never_hanging(control):
        try:
            report = segdl.download(
                case.manifest(), case.out, options=quick(), on_event=listen, control=control
            )
        except segdl.DiskError as error:
            return str(error)
    return f"{report.exit_code.name}: {len(report.receipts)} delivered"
