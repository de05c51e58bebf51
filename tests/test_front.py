"""The front on real files: islands in any order, bytes that rot, two threads at once."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from segdl.core.digests import digest
from segdl.core.manifest import Pieces, Target
from segdl.core.plan import Layout, Pin, Place, Record
from segdl.core.proof import Proof
from segdl.core.urls import parse_url
from segdl.core.verdict import Accepted
from segdl.edges.index import Heading, Index, read_index
from segdl.edges.parts import Part, open_window, part_name
from segdl.edges.workspace import Workspace
from segdl.engine.front import MOST_COPIED, Files, Front
from segdl.engine.task import Task

SIZE, PIECE = 1_000_001, 100_000
DATA = random.Random(1).randbytes(SIZE)
LAYOUT = Layout(SIZE, PIECE)
NUMBERS = list(LAYOUT.numbers())
URL = parse_url("http://127.0.0.1/a.7z")


def target(*, proven: bool = True, pieces: bool = False) -> Target:
    values = tuple(digest("xxh64", DATA[s.start : s.stop]) for s in map(LAYOUT.segment, NUMBERS))
    return Target(
        "a.7z",
        (URL,),
        SIZE,
        (("sha256", digest("sha256", DATA)),) if proven else (),
        Pieces(PIECE, "xxh64", values) if pieces else None,
    )


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    opened = Files(folder, open_window(folder, "front"), Index(folder))
    yield opened
    opened.index.close()
    os.close(opened.merged)
    os.close(folder)


def front_of(asked: Target, held: dict[int, Record] | None = None) -> Front:
    return Front(LAYOUT, Proof(asked, LAYOUT, Pin(SIZE, '"e"')), 0, held or {})


def write(front: Front, files: Files, number: int) -> tuple[Record, dict[str, str]]:
    """Write a segment where the front wants it; it is not held yet."""
    segment, place = LAYOUT.segment(number), front.place(number)
    name = part_name(number)
    file = os.dup(files.merged) if place is Place.FRONT else open_window(files.home, name)
    part = Part(file, segment, place, front.proof.of_segment)
    part.write(memoryview(DATA)[segment.start : segment.stop])
    record, digests = part.record(), part.digests()
    part.close()
    return record, digests


def commit(front: Front, files: Files, number: int, lost: list[int]) -> bool:
    front.hold(*write(front, files, number))
    return front.advance(files, lost.append)


def exact(files: Files) -> bool:
    return os.pread(files.merged, SIZE + 1, 0) == DATA


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("proven", [True, False], ids=["digest", "no digest"])
def test_islands_in_any_order(files: Files, seed: int, proven: bool) -> None:
    order = random.Random(seed).sample(NUMBERS, len(NUMBERS))
    front, lost = front_of(target(proven=proven)), list[int]()
    ends = [commit(front, files, number, lost) for number in order]
    assert ends == [False] * (len(order) - 1) + [True]
    assert not lost
    assert exact(files)
    if proven:
        assert front.whole["sha256"].hexdigest() == digest("sha256", DATA)


def test_in_order_all_is_written_once_and_no_part_file_is_made(
    files: Files, tmp_path: Path
) -> None:
    front = front_of(target())
    for number in NUMBERS:
        commit(front, files, number, [])
    assert exact(files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["front", "index.jsonl"]


def test_part_files_go_once_their_copies_are_flushed_and_recorded(
    files: Files, tmp_path: Path
) -> None:
    front = front_of(target())
    for number in NUMBERS[1:]:
        commit(front, files, number, [])
    assert len(list(tmp_path.glob("*.part"))) == len(NUMBERS) - 1
    commit(front, files, 0, [])
    assert len(list(tmp_path.glob("*.part"))) < MOST_COPIED


def test_the_front_moves_while_segments_come(files: Files) -> None:
    """One thread advances; others commit meanwhile."""
    for _ in range(20):
        front = front_of(target())
        parts = [write(front, files, number) for number in NUMBERS]

        def work(half: list[tuple[Record, dict[str, str]]], front: Front = front) -> None:
            for record, digests in half:
                front.hold(record, digests)

        threads = [threading.Thread(target=work, args=(h,)) for h in (parts[::2], parts[1::2])]
        for thread in threads:
            thread.start()
        while not front.advance(files, lambda _: None):
            pass
        for thread in threads:
            thread.join()
        assert exact(files)


def test_what_could_be_merged_by_now(files: Files) -> None:
    front, lost = front_of(target()), list[int]()
    assert front.backlog() == 0
    for number in (3, 1, 0):
        front.hold(*write(front, files, number))
    assert front.backlog() == 2 * PIECE
    os.pwrite(files.merged, b"rot", 5)
    assert not front.advance(files, lost.append)
    assert lost == [0]
    assert front.backlog() == 0
    front.hold(*write(front, files, 0))
    front.hold(*write(front, files, 2))
    assert front.backlog() == 4 * PIECE
    front.advance(files, lost.append)
    assert front.backlog() == 0


def _place(number: int) -> Place:
    return Place.PART if number % 2 else Place.FRONT


@pytest.fixture
def recovered(files: Files) -> Front:
    """A front over what a process that is gone has left, all of it good."""
    records = {}
    for number in NUMBERS:
        segment, place = LAYOUT.segment(number), _place(number)
        name = part_name(number)
        file = os.dup(files.merged) if place is Place.FRONT else open_window(files.home, name)
        part = Part(file, segment, place)
        part.write(memoryview(DATA)[segment.start : segment.stop])
        records[number] = part.record()
        part.close()
    return front_of(target(), records)


def test_what_was_held_before_is_merged_after_a_look(files: Files, recovered: Front) -> None:
    assert recovered.advance(files, lambda _: None)
    assert exact(files)
    assert recovered.whole["sha256"].hexdigest() == digest("sha256", DATA)


@pytest.mark.parametrize("number", [0, 3, 4, NUMBERS[-1]])
@pytest.mark.parametrize("damage", ["flip", "zeros", "gone"])
def test_what_rots_is_lost_and_fetched_again_in_its_place(
    files: Files, tmp_path: Path, recovered: Front, number: int, damage: str
) -> None:
    segment = LAYOUT.segment(number)
    island = _place(number) is Place.PART
    path = tmp_path / (part_name(number) if island else "front")
    at = 0 if island else segment.start
    content = bytearray(path.read_bytes())
    match damage:
        case "flip":
            content[at + segment.length - 1] ^= 1
        case "zeros":
            content[at : at + segment.length] = bytes(segment.length)
        case "gone":
            del content[at:]
    path.write_bytes(content)
    lost: list[int] = []
    assert not recovered.advance(files, lost.append)
    while lost:
        again = lost.pop()
        done = commit(recovered, files, again, lost)
    assert done
    assert exact(files)
    assert recovered.whole["sha256"].hexdigest() == digest("sha256", DATA)


def test_a_lost_segment_is_taken_out_of_the_index(files: Files, recovered: Front) -> None:
    os.pwrite(files.merged, b"rot", 5)
    files.index.held(recovered.held[0], 0)
    recovered.advance(files, lambda _: None)
    assert 0 not in read_index(files.home).records
    assert 0 not in recovered.held


def test_pieces_are_held_against_what_was_held_before(files: Files, recovered: Front) -> None:
    asked = target(pieces=True)
    assert asked.pieces is not None
    values = ("0" * 16, *asked.pieces.values[1:])
    asked = Target("a.7z", (URL,), SIZE, (), Pieces(PIECE, "xxh64", values))
    lost: list[int] = []
    front_of(asked, recovered.held).advance(files, lost.append)
    assert lost == [0]


def test_an_empty_target_is_complete_at_once(files: Files) -> None:
    layout = Layout(0, PIECE)
    empty = Target("e", (URL,), 0)
    front = Front(layout, Proof(empty, layout, Pin(0, None)), 0, {})
    assert front.advance(files, lambda _: None)


def test_where_a_segment_goes(files: Files) -> None:
    """Straight into the merged file only what touches the front, with nothing to copy between."""
    front = front_of(target())
    assert [front.place(number) for number in (0, 1, 9)] == [Place.FRONT, Place.PART, Place.PART]
    front.hold(*write(front, files, 0))
    assert front.place(1) is Place.FRONT  # it is held there, if not merged yet
    front.hold(*write(front, files, 2))
    assert front.place(3) is Place.PART
    front.hold(*write(front, files, 1))
    assert front.place(3) is Place.PART  # the third is an island that is not copied yet
    front.advance(files, lambda _: None)
    assert front.place(3) is Place.FRONT


def test_a_big_target_goes_straight_to_its_place_near_the_front(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segdl.engine.front.BIG", SIZE)
    monkeypatch.setattr("segdl.engine.front.NEAR", 3 * PIECE)
    front, lost = front_of(target()), list[int]()
    for number in (4, 2, 1):
        assert not commit(front, files, number, lost)
    assert sorted(path.name for path in tmp_path.glob("*.part")) == [part_name(4)]
    commit(front, files, 0, lost)
    assert [front.place(n) for n in (2, 5, 6)] == [Place.FRONT, Place.FRONT, Place.PART]
    for number in (8, 7, 6, 5, 10, 9, 3):
        commit(front, files, number, lost)
    assert exact(files)
    assert not lost
    assert front.whole["sha256"].hexdigest() == digest("sha256", DATA)


def test_what_the_index_says_is_where_it_says(files: Files, tmp_path: Path) -> None:
    """After every step: a part file that is gone is known to be merged."""
    front = front_of(target())
    files.index.pin(Heading("a.7z", SIZE, PIECE, "h/a.7z", Pin(SIZE, '"e"'), 0))
    for number in (3, 1, 2, 5, 0, 4, 9, 8, 7, 6, 10):
        record, digests = write(front, files, number)
        files.index.held(record, 0)
        front.hold(record, digests)
        front.advance(files, lambda _: None)
        for told in read_index(files.home).records.values():
            there = tmp_path / (part_name(told.number) if told.place is Place.PART else "front")
            at = 0 if told.place is Place.PART else told.start
            content = there.read_bytes()[at : at + told.stop - told.start]
            assert digest("xxh3_128", content) == told.digest
    assert exact(files)


def test_a_front_that_was_stopped_by_the_disk_goes_on(files: Files, tmp_path: Path) -> None:
    front, lost = front_of(target()), list[int]()
    for number in range(1, len(NUMBERS)):
        front.hold(*write(front, files, number))
    front.hold(*write(front, files, 0))
    island = tmp_path / part_name(2)
    content = island.read_bytes()
    island.unlink()
    island.symlink_to("elsewhere")  # which is not followed: an error of the disk
    with pytest.raises(OSError, match="symbolic links"):
        front.advance(files, lost.append)
    island.unlink()
    island.write_bytes(content)
    assert front.advance(files, lost.append)
    assert not lost
    assert exact(files)


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    workspace = Workspace(tmp_path)
    begun = Task(target(), workspace, PIECE)
    begun.admit(Accepted(0, None, Pin(SIZE, '"e"')))
    yield begun
    begun.over = True
    begun.close_if_over()  # each file once: another target may have its number by the second time
    workspace.close()


def test_a_part_file_that_a_merger_removes_while_all_starts_again(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*there(folder), part_name(3)])  # gone since
    task.restart()
    assert task.epoch == 1


def test_no_file_is_closed_twice_after_a_start_that_failed(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:
        failing.setattr("segdl.engine.task.open_window", _no_descriptor_left)
        with pytest.raises(OSError, match="open files"):
            task.restart()


def _no_descriptor_left(folder: int, name: str) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not here: no system call to see")
def test_part_files_go_only_after_a_flush(tmp_path: Path) -> None:
    """In this order: the copy is flushed, the index says so and is flushed, the parts go."""
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.test_front import *\n"
        "folder = os.open(sys.argv[2], os.O_RDONLY)\n"
        "files = Files(folder, open_window(folder, 'front'), Index(folder))\n"
        "front = front_of(target())\n"
        "for number in reversed(NUMBERS): commit(front, files, number, [])\n"
        "assert exact(files)\n"
    )
    log, folder = tmp_path / "log", tmp_path / "folder"
    folder.mkdir()
    calls = "trace=fdatasync,unlink,unlinkat,write,copy_file_range"
    subprocess.run(
        ["strace", "-f", "-qq", "-y", "-e", calls, "-o", str(log), sys.executable, "-c", script,
         str(Path(__file__).parents[1]), str(folder)],
        check=True, timeout=60,
    )  # fmt: skip
    steps = [step for line in log.read_text().splitlines() if (step := _step(line))]
    round_ = "mfwi" + "u" * MOST_COPIED
    assert re.sub("m+", "m", "".join(steps)) == round_ * 2 + "m"


def _step(line: str) -> str:
    """A letter for a system call: m for a copy into the merged file, u for a part that goes."""
    kinds = {
        r"copy_file_range\(.*\.part>.*/front>": "m",
        r"fdatasync\(\d+<.*/front>": "f",
        r"write\(\d+<.*/index\.jsonl>.*front": "w",
        r"fdatasync\(\d+<.*/index\.jsonl>": "i",
        r"unlink(at)?\(.*\.part\"": "u",
    }
    return next((letter for kind, letter in kinds.items() if re.search(kind, line)), "")
