"""Indexes made worse: no record is believed whose bytes are not what it says."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import segdl
from segdl.core.errors import ExitCode
from segdl.core.journal import unseal
from segdl.core.manifest import Target
from segdl.core.plan import Layout, Place, Record, Segment, fits
from segdl.edges.index import NAME as INDEX
from segdl.edges.index import read_index
from segdl.edges.parts import Part, part_name
from segdl.engine.task import goes_on
from tests.faults import Answer, FaultServer, Seen, Wire, faults
from tests.orders import PATH, SEGMENT, SIZE, Case, Proof, made
from tests.torture.campaign import Campaign, Figures, Round
from tests.torture.fuzz import BATCH, SLOWEST, Watch, mutated, told

DATA, OLD = made(SIZE), made(SIZE, 2)
SECOND = range(SEGMENT, 2 * SEGMENT)  # the segment that comes to TORN, and no further
TORN = SEGMENT + 30_000
RUNS = 2  # whole orders in each round that are gone on with


def fuzz_index(given: Round) -> Figures:
    """Whatever becomes of an index, no record is believed whose bytes are not what it says."""
    chance, believed, watch = given.chance, Counter[str](), Watch()
    with FaultServer() as server:
        case = Case(server, given.folder)
        work = _half_way(case)
        index, other = (work / INDEX).read_bytes(), _foreign_index(server, given.folder / "other")
        (target,) = segdl.load(case.manifest()).targets
        sealed = set(index.splitlines()) | set(other.splitlines())
        assert (
            sum(r.stop - r.start for r in _believed(work, target)) > SIZE // 2
        )  # so there is what to lose
        for number in range(BATCH):
            worse = mutated(chance, index, other)
            (work / INDEX).write_bytes(worse)
            assert all(line in sealed for line in worse.split(b"\n") if unseal(line) is not None)
            with watch, _wounded(chance, work):
                for record in _believed(work, target):
                    believed[record.place] += 1
                    _check_bytes(work, record)
            if number % (BATCH // RUNS) == 0:
                _go_on(case, given.folder / f"run-{number}")
    assert watch.slowest < SLOWEST
    return {"mutations": BATCH, "records believed": sum(believed.values()), "runs gone on": RUNS,
            "most seconds": watch.slowest}  # fmt: skip


def _half_way(case: Case) -> Path:
    """An order that is half-way, and was started again once: the object has another size now.
    Returns its folder. Nothing but the records vouches for its bytes."""
    case.put(OLD + b"longer", proof=Proof.NOTHING)
    case.server.script(PATH, faults.hang_up(), on=range(4, 1000))
    assert case.run(connections=1).code is ExitCode.NETWORK
    case.server.mend()
    case.put(DATA, proof=Proof.NOTHING)
    case.server.script(PATH, _torn, on=lambda r: r.range is not None and r.range[0] in SECOND)
    assert case.run(connections=1, retries=2).code is ExitCode.NETWORK
    (work,) = (case.out / ".segdl" / "work").iterdir()
    assert (work / INDEX).read_bytes().count(b'"kind":"pin"') == 2
    return work


def _torn(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
    assert request.range is not None
    return faults.cut(max(0, TORN - request.range[0]))(wire, request, answer)


def _foreign_index(server: FaultServer, folder: Path) -> bytes:
    """The index of another object under the same name, cut in the same way."""
    folder.mkdir()
    case = Case(server, folder)
    case.put(OLD, "/orders/other/a.7z", proof=Proof.NOTHING)
    server.script("/orders/other/a.7z", faults.hang_up(), on=range(4, 1000))
    assert case.run(connections=1).code is ExitCode.NETWORK
    (work,) = (case.out / ".segdl" / "work").iterdir()
    return (work / INDEX).read_bytes()


def _believed(work: Path, target: Target) -> Iterator[Record]:
    """The records that segdl goes on from, as it does: by its target, the index, and the bytes."""
    folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        contents = read_index(folder)
    finally:
        os.close(folder)
    heading = contents.heading
    if heading is None or heading.size is None or not goes_on(target, target.urls, heading):
        return
    layout = Layout(heading.size, heading.segment_size)
    for record in (*contents.records.values(), *contents.live_tails()):
        if fits(layout, record) and _recovered(work, layout, record):
            yield record


def _file_of(work: Path, record: Record) -> Path:
    return work / ("front" if record.place is Place.FRONT else part_name(record.number))


@contextmanager
def _wounded(chance: random.Random, work: Path) -> Iterator[None]:
    """Now and then a byte of a part or of the merged file is another one."""
    part = chance.choice(sorted(work.iterdir()))
    if part.name == INDEX or chance.random() < 0.7:
        yield
        return
    whole = bytearray(part.read_bytes())
    at = chance.randrange(len(whole))
    part.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    yield
    part.write_bytes(whole)


def _recovered(work: Path, layout: Layout, record: Record) -> bool:
    try:
        file = os.open(_file_of(work, record), os.O_RDONLY)
    except FileNotFoundError:
        return False
    segment = layout.segment(record.number)
    part = Part(file, Segment(record.number, record.start, segment.stop), record.place)
    try:
        return part.recover(record)
    finally:
        part.close()


def _check_bytes(work: Path, record: Record) -> None:
    at = record.start if record.place is Place.FRONT else 0
    found = _file_of(work, record).read_bytes()[at : at + record.stop - record.start]
    assert found == DATA[record.start : record.stop], record


def _go_on(case: Case, folder: Path) -> None:
    """A copy of it is finished, by itself."""
    shutil.copytree(case.out, folder / "out")
    case.server.mend()
    other = Case(case.server, folder, dict(case.files), dict(case.contents))
    other.run().report.raise_for_failures()
    other.check_delivered()
    shutil.rmtree(folder)


CAMPAIGN = Campaign("fuzz-index", "an index made worse", 100, fuzz_index, told)
