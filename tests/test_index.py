"""The sidecar index on real files: what it says after it was torn, zeroed, flipped or swapped."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from segdl.core.journal import seal, unseal
from segdl.core.plan import Pin, Place, Record
from segdl.edges.index import NAME, Contents, Heading, Index, read_index

HEADING = Heading("chips/a.7z", 300_000, 65_536, "h/orders/a.7z", Pin(300_000, '"e"'), 7)
RECORDS = [
    Record(0, 0, 65_536, "a" * 32, Place.FRONT),
    Record(1, 65_536, 100_000, "b" * 32, Place.PART),
    Record(3, 196_608, 262_144, "c" * 32, Place.PART),
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def written(folder: int, path: Path) -> bytes:
    """The bytes of an index with a pin and three records."""
    index = Index(folder)
    index.pin(HEADING)
    for record in RECORDS:
        index.held(record, HEADING.epoch)
    index.flush()
    index.close()
    return (path / NAME).read_bytes()


def believed(folder: int) -> Contents:
    return read_index(folder)


def test_says_what_was_written(folder: int, tmp_path: Path) -> None:
    written(folder, tmp_path)
    contents = believed(folder)
    assert contents.heading == HEADING
    assert list(contents.records.values()) == RECORDS
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_that_none_can_be_opened_now_says_nothing_of_it(folder: int, tmp_path: Path) -> None:
    """Else a run that is short of descriptors for a moment would fetch all again."""
    written(folder, tmp_path)
    spare = os.dup(folder)
    os.close(spare)  # the number that the next file would get
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            read_index(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(read_index(folder).records.values()) == RECORDS


def test_every_line_is_json_and_checks_itself(folder: int, tmp_path: Path) -> None:
    for line in written(folder, tmp_path).splitlines(keepends=True):
        assert unseal(line) is not None
        assert unseal(line.replace(b"a", b"d", 1)) is None


def test_the_latest_record_of_a_segment_wins(folder: int, tmp_path: Path) -> None:
    written(folder, tmp_path)
    index = Index(folder)
    later = Record(1, 65_536, 131_072, "d" * 32, Place.PART)
    index.held(later, HEADING.epoch)
    index.lost(3, HEADING.epoch)
    index.close()
    assert believed(folder).records == {0: RECORDS[0], 1: later}


def test_what_is_merged_lies_in_the_merged_file(folder: int, tmp_path: Path) -> None:
    written(folder, tmp_path)
    index = Index(folder)
    index.front(131_072, HEADING.epoch)
    index.close()
    places = {n: r.place for n, r in believed(folder).records.items()}
    assert places == {0: Place.FRONT, 1: Place.FRONT, 3: Place.PART}


def test_a_pin_makes_void_what_stands_before_it(folder: int, tmp_path: Path) -> None:
    written(folder, tmp_path)
    index = Index(folder)
    other = Heading("chips/a.7z", 5, 65_536, "h/orders/a.7z", Pin(5, '"f"'), 8)
    index.pin(other)
    index.held(RECORDS[0], 7)  # a worker that was overtaken by the restart
    index.close()
    contents = believed(folder)
    assert contents.heading == other
    assert contents.records == {}


def test_torn_at_every_byte(folder: int, tmp_path: Path) -> None:
    whole = written(folder, tmp_path)
    for length in range(len(whole)):
        (tmp_path / NAME).write_bytes(whole[:length])
        contents = believed(folder)
        complete = (
            whole[: length + 1].count(b"\n")
            if whole[length : length + 1] == b"\n"
            else (whole[:length].count(b"\n"))
        )  # a line that lacks its newline alone is whole
        assert (contents.heading is not None) == (complete > 0)
        assert list(contents.records.values()) == RECORDS[: max(0, complete - 1)]


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"garbage", b"\xff\n\xfe", b'{"kind":"pin"}\n'])
def test_a_bad_tail_costs_nothing_that_stands_before_it(
    folder: int, tmp_path: Path, tail: bytes
) -> None:
    whole = written(folder, tmp_path)
    (tmp_path / NAME).write_bytes(whole + tail)
    assert list(believed(folder).records.values()) == RECORDS


def test_what_is_appended_after_a_torn_tail_counts(folder: int, tmp_path: Path) -> None:
    whole = written(folder, tmp_path)
    (tmp_path / NAME).write_bytes(whole[:-20])
    index = Index(folder)
    again = Record(3, 196_608, 262_144, "e" * 32, Place.PART)
    index.held(again, HEADING.epoch)
    index.close()
    assert list(believed(folder).records.values()) == [*RECORDS[:2], again]


@pytest.mark.parametrize("content", [b"", b"\0" * 10_000, b"\n" * 500, os.urandom(5000), b"{}\n[]"])
def test_nothing_is_believed_of_what_is_none(folder: int, tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert believed(folder) == Contents()


def test_a_missing_index_and_one_that_is_no_file(folder: int, tmp_path: Path) -> None:
    assert believed(folder) == Contents()
    (tmp_path / NAME).mkdir()
    assert believed(folder) == Contents()
    (tmp_path / NAME).rmdir()
    os.mkfifo(tmp_path / NAME)
    assert believed(folder) == Contents()
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to("/etc/passwd")
    assert believed(folder) == Contents()


def test_a_future_version_is_not_guessed_at(folder: int, tmp_path: Path) -> None:
    fields = unseal(written(folder, tmp_path).splitlines(keepends=True)[0])
    assert fields is not None
    (tmp_path / NAME).write_bytes(seal(fields | {"version": 2}))
    assert believed(folder).heading is None


@pytest.mark.parametrize(
    "change",
    [
        {"segment": -1}, {"segment": True}, {"segment": 2**63}, {"segment": "0"}, {"stop": 1.5},
        {"digest": None}, {"place": "else"}, {"kind": "unknown"}, {"epoch": 6}, {"start": None},
    ],
)  # fmt: skip
def test_a_line_that_makes_no_sense_is_passed_over(
    folder: int, tmp_path: Path, change: dict[str, object]
) -> None:
    lines = written(folder, tmp_path).splitlines(keepends=True)
    fields = unseal(lines[1])
    assert fields is not None
    (tmp_path / NAME).write_bytes(lines[0] + seal(fields | change) + lines[2])
    assert list(believed(folder).records.values()) == RECORDS[1:2]


def test_five_thousand_mutations_never_make_a_record(folder: int, tmp_path: Path) -> None:
    whole = written(folder, tmp_path)
    chance = random.Random(5)
    true = {record.number: record for record in RECORDS}
    for _ in range(5000):
        mutant = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(mutant))
            match chance.randrange(4):
                case 0:
                    mutant[at] ^= 1 << chance.randrange(8)
                case 1:
                    del mutant[at : at + chance.randint(1, 200)]
                case 2:
                    mutant[at:at] = chance.randbytes(chance.randint(1, 50))
                case 3:
                    mutant[at : at + 64] = bytes(64)
            mutant = mutant or bytearray(b"x")
        (tmp_path / NAME).write_bytes(mutant)
        contents = believed(folder)
        assert contents.heading in (None, HEADING)
        assert all(true[n] == record for n, record in contents.records.items())


# -- what must never be mixed ----------------------------------------------------------------------

OTHER = Heading("chips/a.7z", 300_000, 65_536, "h/orders/a.7z", Pin(300_000, '"f"'), 8)


def two_objects(folder: int, path: Path, second: Heading = OTHER) -> list[bytes]:
    """The lines of an index that began with one object and went on with another."""
    written(folder, path)
    index = Index(folder)
    index.pin(second)
    for number in (1, 2):
        start = number * 65_536
        index.held(Record(number, start, start + 9, "f" * 32, Place.FRONT), second.epoch)
    index.close()
    return (path / NAME).read_bytes().splitlines(keepends=True)


def test_no_flipped_bit_gives_one_object_s_records_to_another(folder: int, tmp_path: Path) -> None:
    """A pin that cannot be read is not as if it were not there: what follows it is void too."""
    lines = two_objects(folder, tmp_path)
    at = len(lines) - 3
    for bit in range(8 * len(lines[at])):
        rotten = bytearray(lines[at])
        rotten[bit // 8] ^= 1 << bit % 8
        (tmp_path / NAME).write_bytes(b"".join([*lines[:at], rotten, *lines[at + 1 :]]))
        contents = believed(folder)
        assert contents.heading in (HEADING, OTHER)
        digests = {record.digest for record in contents.records.values()}
        ours = "f" if contents.heading == OTHER else "abc"
        assert digests <= {letter * 32 for letter in ours}


def test_a_pin_of_a_future_version_is_not_replaced_by_the_one_before(
    folder: int, tmp_path: Path
) -> None:
    lines = two_objects(folder, tmp_path)
    fields = unseal(lines[-3])
    assert fields is not None
    future = seal(fields | {"version": 2})
    (tmp_path / NAME).write_bytes(b"".join([*lines[:-3], future, *lines[-2:]]))
    assert list(believed(folder).records.values()) == RECORDS


def test_an_epoch_is_never_used_twice(folder: int, tmp_path: Path) -> None:
    assert believed(folder).unused == 0
    lines = two_objects(folder, tmp_path)
    assert believed(folder).unused == 9
    (tmp_path / NAME).write_bytes(b"".join([*lines[:-3], b"rotten\n", *lines[-2:]]))
    assert believed(folder).unused == 9  # its records tell


def test_a_slice_is_of_its_place(folder: int) -> None:
    index = Index(folder)
    index.pin(Heading("a", 5, 65_536, "h/a", Pin(100, None), 0, offset=7))
    index.close()
    heading = believed(folder).heading
    assert heading is not None and heading.offset == 7


# -- tails -----------------------------------------------------------------------------------------


def tail(number: int, start: int, stop: int, letter: str = "d") -> Record:
    return Record(number, start, stop, letter * 32, Place.TAIL)


def said(folder: int, path: Path, *records: Record, epoch: int = HEADING.epoch) -> Contents:
    """What an index says that went on with these records."""
    written(folder, path)
    index = Index(folder)
    for record in records:
        index.held(record, epoch)
    index.close()
    return believed(folder)


def test_tails_are_beside_the_segments_records(folder: int, tmp_path: Path) -> None:
    tails = [tail(1, 110_000, 120_000), tail(1, 125_000, 131_072), tail(2, 150_000, 160_000)]
    contents = said(folder, tmp_path, tails[1], tails[2], tails[0])
    assert list(contents.records.values()) == RECORDS
    assert list(contents.live_tails()) == tails


def test_the_latest_record_of_a_tail_wins(folder: int, tmp_path: Path) -> None:
    first, later = tail(1, 110_000, 112_000), tail(1, 110_000, 120_000, "e")
    assert list(said(folder, tmp_path, first, later).live_tails()) == [later]


@pytest.mark.parametrize(
    ("reached", "live"),
    [(99_000, True), (109_999, True), (110_000, True), (110_001, False), (120_000, False)],
)
def test_a_tail_counts_until_its_segment_has_come_to_it(
    folder: int, tmp_path: Path, reached: int, live: bool
) -> None:
    whole = Record(1, 65_536, reached, "f" * 32, Place.PART)
    contents = said(folder, tmp_path, tail(1, 110_000, 120_000), whole)
    assert bool(list(contents.live_tails())) is live


def test_a_tail_that_begins_in_another_is_passed_over(folder: int, tmp_path: Path) -> None:
    """Of overlapping ones the earlier counts; the next that is clear of it counts again."""
    tails = [tail(1, 110_000, 120_000), tail(1, 115_000, 125_000), tail(1, 120_000, 130_000)]
    contents = said(folder, tmp_path, *reversed(tails))
    assert list(contents.live_tails()) == [tails[0], tails[2]]


def test_tails_of_one_segment_say_nothing_of_another(folder: int, tmp_path: Path) -> None:
    """Segment 3 is complete and lies behind: what is of segment 2 counts, of 3 it does not."""
    mine, others = tail(2, 131_073, 196_608), tail(3, 200_000, 262_144)
    assert list(said(folder, tmp_path, others, mine).live_tails()) == [mine]


def test_what_is_lost_takes_its_tails_with_it(folder: int, tmp_path: Path) -> None:
    mine, other = tail(1, 110_000, 120_000), tail(2, 150_000, 160_000)
    said(folder, tmp_path, mine, other, tail(1, 125_000, 131_072))
    index = Index(folder)
    index.lost(1, HEADING.epoch)
    index.close()
    assert list(believed(folder).live_tails()) == [other]
    index = Index(folder)
    index.held(mine, HEADING.epoch)  # fetched again
    index.close()
    assert list(believed(folder).live_tails()) == [mine, other]


def test_a_pin_makes_tails_void(folder: int, tmp_path: Path) -> None:
    said(folder, tmp_path, tail(1, 110_000, 120_000))
    index = Index(folder)
    index.pin(OTHER)
    index.held(tail(1, 125_000, 131_072), HEADING.epoch)  # a helper that was overtaken
    index.close()
    contents = believed(folder)
    assert contents.heading == OTHER
    assert not contents.tails


def test_a_front_does_not_make_a_tail_a_part(folder: int, tmp_path: Path) -> None:
    said(folder, tmp_path, tail(1, 110_000, 120_000))
    index = Index(folder)
    index.front(300_000, HEADING.epoch)
    index.close()
    assert [record.place for record in believed(folder).live_tails()] == [Place.TAIL]


@pytest.mark.parametrize(
    "change",
    [{"segment": -1}, {"start": None}, {"start": -5}, {"stop": 1.5}, {"place": "tails"},
     {"digest": 5}, {"epoch": 6}, {"epoch": None}],
)  # fmt: skip
def test_a_tail_s_line_that_makes_no_sense_is_passed_over(
    folder: int, tmp_path: Path, change: dict[str, object]
) -> None:
    good = tail(2, 150_000, 160_000)
    said(folder, tmp_path, tail(1, 110_000, 120_000), good)
    *lines, bad, last = (tmp_path / NAME).read_bytes().splitlines(keepends=True)
    fields = unseal(bad)
    assert fields is not None
    (tmp_path / NAME).write_bytes(b"".join([*lines, seal(fields | change), last]))
    assert list(believed(folder).live_tails()) == [good]


def test_no_flipped_bit_makes_a_tail(folder: int, tmp_path: Path) -> None:
    tails = {tail(1, 110_000, 120_000), tail(2, 150_000, 160_000)}
    said(folder, tmp_path, *tails)
    lines = (tmp_path / NAME).read_bytes().splitlines(keepends=True)
    for bit in range(8 * len(lines[-1])):
        rotten = bytearray(lines[-1])
        rotten[bit // 8] ^= 1 << bit % 8
        (tmp_path / NAME).write_bytes(b"".join([*lines[:-1], rotten]))
        assert len(tails.intersection(live := list(believed(folder).live_tails()))) == len(live)


# -- a full disk, and names that lead elsewhere ----------------------------------------------------


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("room", [0, 1, 30, 100])
def test_a_line_that_a_full_disk_tore_costs_no_other(
    folder: int, tmp_path: Path, room: int
) -> None:
    size = len(written(folder, tmp_path))
    index = Index(folder)
    fourth = Record(2, 131_072, 196_608, "d" * 32, Place.PART)
    fifth = Record(4, 262_144, 300_000, "e" * 32, Place.PART)
    with at_most(size + room), pytest.raises(OSError, match="File too large"):
        index.held(fourth, HEADING.epoch)
    index.held(fifth, HEADING.epoch)
    index.close()
    assert list(believed(folder).records.values()) == [*RECORDS, fifth]


def test_a_second_name_elsewhere_is_not_written_to(folder: int, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / NAME).hardlink_to(victim)
    written(folder, tmp_path)
    assert victim.read_bytes() == b"precious"
    assert list(believed(folder).records.values()) == RECORDS


def test_a_link_is_not_followed(folder: int, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / NAME).symlink_to(victim)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        Index(folder)
    assert victim.read_bytes() == b"precious"
