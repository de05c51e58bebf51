"""Parts on real files: a held prefix counts only if its bytes still give the recorded digest."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from segdl.core.digests import digest
from segdl.core.plan import Place, Record, Segment
from segdl.edges.parts import Part, open_window, part_name

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


def test_what_was_reached_before_the_disk_was_full_stays_good(folder: int, tmp_path: Path) -> None:
    part = opened(folder, Place.PART, ("md5",))
    part.write(memoryview(DATA)[:40_000])
    before = part.record(), part.digests()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (45_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            part.write(memoryview(DATA)[40_000:50_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
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
