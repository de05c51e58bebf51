"""Parts on real files: a held prefix counts only if its bytes still give the recorded digest."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdl.core.digests import digest
from segdl.core.plan import Place, Record, Segment
from segdl.edges.parts import Part, open_window, part_name, tail_name

SEGMENT = Segment(2, 200_000, 300_000)
DATA = bytes(range(256)) * 400  # 102,400 bytes, of which a segment takes 100,000


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def opened(folder: int, place: Place, algorithms: tuple[str, ...] = ()) -> Part:
    name = "front" if place is Place.FRONT else part_name(SEGMENT.number)
    return Part(open_window(folder, name), SEGMENT, place, algorithms)


def lies_at(place: Place) -> int:
    return SEGMENT.start if place is Place.FRONT else 0


def path_of(tmp_path: Path, place: Place) -> Path:
    return tmp_path / ("front" if place is Place.FRONT else "00002.part")


def half_written(folder: int, place: Place) -> Record:
    part = opened(folder, place)
    part.write(memoryview(DATA)[:40_000])
    part.write(memoryview(DATA)[40_000:50_000])
    record = part.record()
    part.close()
    return record


@pytest.mark.parametrize("place", Place)
def test_bytes_land_in_their_window(folder: int, tmp_path: Path, place: Place) -> None:
    record = half_written(folder, place)
    at = lies_at(place)
    assert path_of(tmp_path, place).read_bytes()[at:] == DATA[:50_000]
    assert record == Record(2, 200_000, 250_000, digest("xxh3_128", DATA[:50_000]), place)
    assert path_of(tmp_path, place).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", Place)
def test_a_good_prefix_is_gone_on_with(folder: int, tmp_path: Path, place: Place) -> None:
    record = half_written(folder, place)
    part = opened(folder, place, ("md5",))
    assert part.recover(record)
    assert part.reached == 250_000
    part.write(memoryview(DATA)[50_000:100_000])
    assert part.record().digest == digest("xxh3_128", DATA[:100_000])
    assert part.digests() == {"md5": digest("md5", DATA[:100_000])}
    part.close()


@pytest.mark.parametrize("place", Place)
@pytest.mark.parametrize("damage", ["flip", "zeros", "short", "empty"])
def test_a_bad_prefix_starts_again(folder: int, tmp_path: Path, place: Place, damage: str) -> None:
    record = half_written(folder, place)
    path, at = path_of(tmp_path, place), lies_at(place)
    content = bytearray(path.read_bytes())
    match damage:
        case "flip":
            content[at + 49_999] ^= 1
        case "zeros":
            content[at:] = bytes(50_000)
        case "short":
            del content[at + 49_999 :]
        case "empty":
            content.clear()
    path.write_bytes(content)
    part = opened(folder, place)
    assert not part.recover(record)
    assert part.reached == SEGMENT.start
    part.write(memoryview(DATA)[:100_000])
    assert part.record().digest == digest("xxh3_128", DATA[:100_000])
    part.close()
    assert path.read_bytes()[at : at + 100_000] == DATA[:100_000]


def test_what_lies_behind_the_record_does_not_count(folder: int, tmp_path: Path) -> None:
    record = half_written(folder, Place.PART)
    with (tmp_path / "00002.part").open("ab") as file:
        file.write(b"of another object" * 1000)
    part = opened(folder, Place.PART)
    assert part.recover(record)
    assert part.reached == 250_000
    part.close()


def test_a_link_is_not_followed(folder: int, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "00002.part").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        opened(folder, Place.PART)
    assert victim.read_bytes() == b"precious"


def test_a_file_with_a_second_name_is_not_written_to(folder: int, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "00002.part").hardlink_to(victim)
    part = opened(folder, Place.PART)
    part.write(memoryview(b"other"))
    part.close()
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "00002.part").read_bytes() == b"other"


def test_the_windows_on_the_merged_file_do_not_overlap(folder: int, tmp_path: Path) -> None:
    """The one writes where the other ends, in any order."""
    for number in (3, 1, 2):
        segment = Segment(number, number * 100, number * 100 + 100)
        part = Part(open_window(folder, "front"), segment, Place.FRONT)
        part.write(memoryview(bytes([number]) * 100))
        part.close()
    assert (tmp_path / "front").read_bytes() == bytes(100) + b"".join(
        bytes([number]) * 100 for number in (1, 2, 3)
    )


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_was_reached_before_the_disk_was_full_stays_good(folder: int, tmp_path: Path) -> None:
    part = opened(folder, Place.PART, ("md5",))
    part.write(memoryview(DATA)[:40_000])
    before = part.record(), part.digests()
    with at_most(45_000), pytest.raises(OSError, match="File too large"):
        part.write(memoryview(DATA)[40_000:50_000])
    assert (part.record(), part.digests()) == before
    assert (tmp_path / "00002.part").stat().st_size == 45_000
    part.write(memoryview(DATA)[40_000:100_000])
    assert part.record().digest == digest("xxh3_128", DATA[:100_000])
    part.close()
    assert (tmp_path / "00002.part").read_bytes() == DATA[:100_000]


def test_what_is_no_file_is_taken_out_of_the_way(folder: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "00002.part")
    part = opened(folder, Place.PART)
    part.write(memoryview(b"data"))
    part.close()
    assert (tmp_path / "00002.part").read_bytes() == b"data"
    (tmp_path / "00003.part").mkdir()
    with pytest.raises(IsADirectoryError):
        open_window(folder, "00003.part")


# -- tails -----------------------------------------------------------------------------------------


def write(part: Part, count: int) -> None:
    """The next bytes of the segment's data."""
    at = part.reached - SEGMENT.start
    part.write(memoryview(DATA)[at : at + count])


def lent(folder: int, part: Part, least: int = 1, most: int = 1 << 40) -> Part:
    window = part.lend(least, most)
    assert window is not None
    return Part(open_window(folder, tail_name(window.number, window.start)), window, Place.TAIL)


def test_the_later_half_of_what_is_missing_is_lent(folder: int) -> None:
    part = opened(folder, Place.PART)
    write(part, 20_000)
    assert part.lend(1, 1 << 40) == Segment(2, 260_000, 300_000)
    assert part.limit == 260_000
    assert part.lend(1, 1 << 40) == Segment(2, 240_000, 260_000)
    assert part.segment == SEGMENT
    part.close()


@pytest.mark.parametrize(
    ("least", "most", "length"),
    [(50_000, 50_000, 50_000), (50_001, 1 << 40, None), (1, 1000, 1000), (1000, 999, None)],
)
def test_what_is_lent_is_neither_too_little_nor_too_much(
    folder: int, least: int, most: int, length: int | None
) -> None:
    part = opened(folder, Place.PART)
    window = part.lend(least, most)
    assert window == (length and Segment(2, 300_000 - length, 300_000))
    assert part.limit == 300_000 - (length or 0)
    part.close()


def test_claimed_bytes_are_not_lent_and_lent_bytes_not_claimed(folder: int) -> None:
    part = opened(folder, Place.PART)
    assert part.claim(60_000) == 60_000
    assert part.lend(1, 1 << 40) == Segment(2, 280_000, 300_000)
    write(part, 50_000)  # fewer came than were claimed
    assert part.lend(1, 1 << 40) == Segment(2, 270_000, 280_000)
    assert part.claim(60_000) == 20_000
    assert part.lend(1, 1 << 40) is None
    write(part, 20_000)
    assert part.claim(60_000) == 0
    part.close()


MOVES = st.lists(st.tuples(st.sampled_from("clw"), st.integers(1, 40_000)), max_size=40)


@settings(deadline=None)
@given(moves=MOVES)
def test_any_claims_and_loans_share_the_segment_out(moves: list[tuple[str, int]]) -> None:
    """What is lent, claimed and left over never overlap, and are the whole segment."""
    with tempfile.TemporaryFile() as file:
        part = Part(os.dup(file.fileno()), SEGMENT, Place.PART)
        away: list[Segment] = []
        claimed = SEGMENT.start
        for move, count in moves:
            match move:
                case "c":
                    claimed = part.reached + part.claim(count)
                case "l":
                    least = count // 4
                    if (window := part.lend(least, count)) is not None:
                        assert least <= window.length <= count
                        assert window.start >= (claimed + window.stop) / 2
                        away.insert(0, window)
                case "w":
                    write(part, min(count, claimed - part.reached))
            assert part.reached <= claimed <= part.limit
            edges = [part.limit, *(e for each in away for e in (each.start, each.stop)), 300_000]
            assert edges[::2] == edges[1::2]
        part.close()


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
def test_a_lender_and_a_writer_at_once_never_share_a_byte(folder: int) -> None:
    for _ in range(20):
        part = opened(folder, Place.PART)
        away: list[Segment] = []
        go = threading.Event()

        def lend(part: Part = part, away: list[Segment] = away, go: threading.Event = go) -> None:
            go.wait()
            while part.reached < part.limit:
                if (window := part.lend(1, 300)) is not None:
                    away.append(window)

        other = threading.Thread(target=lend)
        other.start()
        go.set()
        while count := part.claim(100):
            stop = part.reached + count
            assert stop <= part.limit
            write(part, count)
            assert part.reached == stop <= part.limit
        other.join()
        assert away == sorted(away, key=lambda each: -each.start)
        assert sum(each.length for each in away) + part.reached - SEGMENT.start == 100_000
        assert part.record().digest == digest(
            "xxh3_128", DATA[: part.reached - SEGMENT.start]
        )  # what it wrote is its own
        part.close()


@pytest.mark.parametrize("place", [Place.FRONT, Place.PART])
@pytest.mark.parametrize("written", [40_000, 10_000, 0])
def test_a_tail_is_taken_in(folder: int, tmp_path: Path, place: Place, written: int) -> None:
    """As much of it as there is; the part's digests go on over it."""
    part = opened(folder, place, ("md5", "sha256"))
    tail = lent(folder, part, most=40_000)
    tail.write(memoryview(DATA)[60_000 : 60_000 + written])
    write(part, 60_000)
    part.take_in(tail)
    there = 60_000 + written
    assert part.reached == SEGMENT.start + there
    assert part.record() == Record(
        2, 200_000, 200_000 + there, digest("xxh3_128", DATA[:there]), place
    )
    assert part.digests() == {name: digest(name, DATA[:there]) for name in ("md5", "sha256")}
    part.limit = SEGMENT.stop
    write(part, 100_000 - there)
    assert part.digests()["md5"] == digest("md5", DATA[:100_000])
    at = lies_at(place)
    assert path_of(tmp_path, place).read_bytes()[at:] == DATA[:100_000]
    part.close()
    tail.close()


@pytest.mark.parametrize("algorithms", [(), ("md5",), ("sha256", "xxh64")])
@pytest.mark.parametrize("damage", ["first", "last", "short", "empty", "none"])
def test_a_tail_that_rots_is_passed_over(
    folder: int, tmp_path: Path, algorithms: tuple[str, ...], damage: str
) -> None:
    """Nothing has happened to the part: it goes on where it was."""
    part = opened(folder, Place.PART, algorithms)
    tail = lent(folder, part)
    write(tail, 50_000)
    write(part, 50_000)
    before = part.reached, part.record(), part.digests()
    path = tmp_path / tail_name(2, 250_000)
    content = bytearray(path.read_bytes())
    match damage:
        case "first":
            content[0] ^= 1
        case "last":
            content[-1] ^= 1
        case "short":
            del content[-1:]
        case "empty":
            content.clear()
    path.write_bytes(content)
    part.take_in(tail)
    if damage == "none":
        assert part.reached == SEGMENT.stop
    else:
        assert (part.reached, part.record(), part.digests()) == before
        part.limit = SEGMENT.stop
        assert part.claim(1 << 20) == 50_000
        write(part, 50_000)
    assert part.record().digest == digest("xxh3_128", DATA[:100_000])
    assert part.digests() == {name: digest(name, DATA[:100_000]) for name in algorithms}
    part.close()
    tail.close()
    assert (tmp_path / "00002.part").read_bytes() == DATA[:100_000]


def test_a_full_disk_while_a_tail_is_taken_in_changes_nothing(folder: int) -> None:
    """In its middle: a tail of more than one block."""
    mib = 1 << 20
    data = os.urandom(3 * mib)
    part = Part(open_window(folder, "a"), Segment(0, 0, len(data)), Place.PART, ("md5",))
    window = part.lend(1, 2 * mib)
    assert window is not None
    tail = Part(open_window(folder, "b"), window, Place.TAIL)
    part.write(memoryview(data)[: window.start])
    tail.write(memoryview(data)[window.start :])
    before = part.reached, part.record(), part.digests()
    with at_most(window.start + mib + 5), pytest.raises(OSError, match="File too large"):
        part.take_in(tail)
    assert (part.reached, part.record(), part.digests()) == before
    part.take_in(tail)
    assert part.record().digest == digest("xxh3_128", data)
    assert part.digests() == {"md5": digest("md5", data)}
    part.close()
    tail.close()


@pytest.mark.parametrize("place", Place)
def test_bytes_are_read_as_far_as_they_are_there(folder: int, tmp_path: Path, place: Place) -> None:
    """Not what an earlier run left behind them."""
    path_of(tmp_path, place).write_bytes(bytes(400_000))
    part = opened(folder, place)
    assert part.read_at(SEGMENT.start, memoryview(bytearray(10))) == 0
    write(part, 50_000)
    block = bytearray(30_000)
    assert part.read_at(210_000, memoryview(block)) == 30_000
    assert block == DATA[10_000:40_000]
    assert part.read_at(240_000, memoryview(block)) == 10_000
    assert block[:10_000] == DATA[40_000:50_000]
    assert part.read_at(250_000, memoryview(block)) == 0
    assert part.read_at(260_000, memoryview(block)) == 0
    part.close()
