"""Receipts and the lock on real files: what was delivered is told by lines that prove it."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from segdl.core.errors import LockedError
from segdl.core.journal import seal, unseal
from segdl.core.report import Grade, Receipt, SegmentDigests
from segdl.edges.lock import Lock
from segdl.edges.receipts import NAME, Receipts, read_receipts

RECEIPT = Receipt(
    path="chips/a.7z",
    size=300_000,
    digests={"sha256": "a" * 64},
    segments=SegmentDigests(65_536, "xxh3_128", ("b" * 32,) * 5),
    grade=Grade.DIGEST,
    delivered="2023-12-13T08:00:00.000Z",
    object="h/orders/a.7z",
    etag='"e"',
    modified_ns=1_702_454_400_000_000_001,
    resumable=False,
    offset=7,
)
OTHER = replace(RECEIPT, path="größe/\ud800", etag=None, digests={}, grade=Grade.UNVERIFIED)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def append(folder: int, *receipts: Receipt) -> None:
    opened = Receipts(folder)
    for receipt in receipts:
        opened.append(receipt)
    opened.close()


def read(folder: int) -> dict[str, Receipt]:
    opened = Receipts(folder)
    found = opened.read()
    opened.close()
    assert read_receipts(folder) == found
    return found


def test_what_was_delivered_is_told(folder: int, tmp_path: Path) -> None:
    assert read_receipts(folder) == {}
    append(folder, RECEIPT, OTHER)
    assert read(folder) == {RECEIPT.path: RECEIPT, OTHER.path: OTHER}
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_the_latest_counts(folder: int) -> None:
    again = replace(RECEIPT, size=7)
    append(folder, RECEIPT, OTHER)
    append(folder, again)
    assert read(folder)[RECEIPT.path] == again


def test_torn_at_every_byte(folder: int, tmp_path: Path) -> None:
    append(folder, RECEIPT, OTHER)
    whole = (tmp_path / NAME).read_bytes()
    first = whole.index(b"\n")
    for length in range(len(whole)):
        (tmp_path / NAME).write_bytes(whole[:length])
        assert (
            list(read(folder).values())
            == [RECEIPT, OTHER][: (length >= first) + (length == len(whole) - 1)]
        )
        append(folder, OTHER)
        assert read(folder)[OTHER.path] == OTHER


@pytest.mark.parametrize(
    "change",
    [
        {"path": None, "digests": 7}, {"size": "many"}, {"size": float("inf")}, {"grade": "best"},
        {"segments": None}, {"segments": {}}, {"digests": []}, {"modified_ns": None},
    ],
)  # fmt: skip
def test_a_line_that_makes_no_sense_is_passed_over(
    folder: int, tmp_path: Path, change: dict[str, object]
) -> None:
    append(folder, RECEIPT)
    line = (tmp_path / NAME).read_bytes()
    fields = unseal(line)
    assert fields is not None
    (tmp_path / NAME).write_bytes(seal(fields | {"path": "b"} | change) + line)
    assert read(folder) == {RECEIPT.path: RECEIPT}


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_line_that_a_full_disk_tore_costs_no_other(
    folder: int, tmp_path: Path, room: int
) -> None:
    append(folder, RECEIPT)
    size = (tmp_path / NAME).stat().st_size
    receipts = Receipts(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            receipts.append(replace(RECEIPT, path="b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    receipts.append(OTHER)
    receipts.close()
    assert read(folder) == {RECEIPT.path: RECEIPT, OTHER.path: OTHER}


def test_a_second_name_elsewhere_is_read_and_not_written_to(folder: int, tmp_path: Path) -> None:
    """As a backup by hard links has it."""
    append(folder, RECEIPT)
    backup = tmp_path / "backup"
    backup.hardlink_to(tmp_path / NAME)
    before = backup.read_bytes()
    (tmp_path / "receipts.new").symlink_to(backup)  # of a run that was killed, or planted
    append(folder, OTHER)
    assert backup.read_bytes() == before
    assert read(folder) == {RECEIPT.path: RECEIPT, OTHER.path: OTHER}
    assert (tmp_path / NAME).stat().st_nlink == 1


@pytest.mark.parametrize("name", [NAME, "lock"])
def test_a_link_is_not_followed(folder: int, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        Receipts(folder) if name == NAME else Lock(folder, "here")
    assert read_receipts(folder) == {}
    assert victim.read_bytes() == b"precious"


def test_what_is_no_file_blocks_nobody(folder: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    assert read_receipts(folder) == {}


# -- the lock --------------------------------------------------------------------------------------


def test_one_at_a_time(folder: int, tmp_path: Path) -> None:
    with Lock(folder, "out/"):
        with pytest.raises(LockedError, match=rf"at work in out/ \(process {os.getpid()}\)"):
            Lock(folder, "out/")
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
    with Lock(folder, "out/"):
        pass


def test_a_process_that_died_holds_no_lock(folder: int, tmp_path: Path) -> None:
    """C08: whatever number it has left behind, and whoever has that number now."""
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from segdl.edges.lock import Lock\n"
        "lock = Lock(os.open(sys.argv[2], os.O_RDONLY), 'out/')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = str(Path(__file__).parents[1])
    run = subprocess.run([sys.executable, "-c", script, root, str(tmp_path)], check=False)
    assert run.returncode == -9
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    with Lock(folder, "out/"):
        pass


def test_a_lock_with_a_second_name_elsewhere_is_not_written_to(folder: int, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "lock").hardlink_to(victim)
    with Lock(folder, "out/"), pytest.raises(LockedError, match="process precious"):
        Lock(folder, "out/")
    assert victim.read_bytes() == b"precious"


def test_a_full_disk_is_no_reason_to_be_unlocked(folder: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with Lock(folder, "out/"), pytest.raises(LockedError, match="process unknown"):
            Lock(folder, "out/")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
