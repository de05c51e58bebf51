"""edges.merge: what is copied, read back and cut off, with real files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdl.core.digests import RECORD, hasher
from segdl.core.plan import Place, Record
from segdl.edges import merge
from tests.orders import made

MIB = 1024 * 1024
DATA = made(2 * MIB + 7)


@contextmanager
def holding(data: bytes) -> Iterator[int]:
    """The descriptor of a file with this content."""
    with TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size + 1, 0)


def refuse(*_: object) -> int:
    raise OSError(errno.EXDEV, "between two file systems")


@pytest.mark.parametrize("beyond", [0, 1, MIB])
def test_sealed_it_is_exactly_the_target(beyond: int) -> None:
    with holding(DATA + bytes(beyond)) as file:
        told = merge.seal(file, len(DATA), 0o640)
        assert (told.st_size, told.st_mode & 0o7777) == (len(DATA), 0o640)
        assert content(file) == DATA


def test_a_merged_file_that_is_too_short_is_not_sealed() -> None:
    with holding(DATA) as file:
        with pytest.raises(OSError, match="shorter") as caught:
            merge.seal(file, len(DATA) + 1, 0o640)
        assert caught.value.errno == errno.EIO
        assert content(file) == DATA


@pytest.mark.parametrize("copies", ["by the kernel", "by hand"])
@given(st.binary(max_size=64), st.binary(max_size=64), st.data())
def test_a_range_is_copied_and_no_other(
    copies: str, source: bytes, before: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(source)))
    length = data.draw(st.integers(0, len(source) - at))
    to = data.draw(st.integers(0, len(before)))
    with holding(source) as one, holding(before) as other, pytest.MonkeyPatch.context() as patch:
        if copies == "by hand":
            patch.setattr(os, "copy_file_range", refuse)
        merge.copy_range(one, at, other, to, length)
        expected = before[:to] + source[at : at + length] + before[to + length :]
        assert (content(one), content(other)) == (source, expected)


@pytest.mark.parametrize("copies", ["by the kernel", "by hand"])
def test_a_source_that_is_too_short_is_told(copies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if copies == "by hand":
        monkeypatch.setattr(os, "copy_file_range", refuse)
    with holding(DATA) as one, holding(b"") as other:
        with pytest.raises(OSError, match="shorter") as caught:
            merge.copy_range(one, 5, other, 0, len(DATA) - 4)
        assert caught.value.errno == errno.EIO


def test_a_long_range_is_copied_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", refuse)
    with holding(DATA) as one, holding(b"") as other:
        merge.copy_range(one, 3, other, 0, len(DATA) - 3)
        assert content(other) == DATA[3:]


def test_a_disk_that_fails_while_copying_is_not_asked_another_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", full)
    with holding(DATA) as one, holding(b"") as other:
        with pytest.raises(OSError, match="full"):
            merge.copy_range(one, 0, other, 0, len(DATA))
        assert content(other) == b""


@pytest.mark.parametrize(
    ("start", "stop", "whole"),
    [
        (0, len(DATA), True),
        (1, MIB + 1, True),
        (5, 5, True),
        (MIB, len(DATA) - 1, True),
        (0, len(DATA) + 1, False),
        (len(DATA), len(DATA) + 1, False),
    ],
)
def test_a_digest_is_fed_the_bytes_of_a_range(start: int, stop: int, whole: bool) -> None:
    one, two = hasher("sha256"), hasher("md5")
    with holding(DATA) as file:
        assert merge.feed(file, start, stop, (one, two)) == whole
    if whole:
        for running, name in ((one, "sha256"), (two, "md5")):
            expected = hasher(name)
            expected.update(DATA[start:stop])
            assert running.hexdigest() == expected.hexdigest()


def test_read_back_a_segment_is_what_its_record_says() -> None:
    own = hasher(RECORD)
    own.update(DATA[10 : MIB + 10])
    record = Record(0, 10, MIB + 10, own.hexdigest(), Place.FRONT)
    rotten = bytearray(DATA)
    rotten[MIB + 9] ^= 1
    for data, good in ((DATA, True), (bytes(rotten), False), (DATA[: MIB + 9], False)):
        with holding(data) as file:
            assert merge.read_back(file, record, ()) == good


@pytest.mark.parametrize("at", [0, MIB - 1, MIB, 2 * MIB + 6])
def test_files_that_differ_in_one_byte_are_not_the_same(at: int) -> None:
    other = bytearray(DATA)
    other[at] ^= 1
    with holding(DATA) as one, holding(DATA) as two, holding(bytes(other)) as three:
        assert merge.same(one, two, len(DATA))
        assert not merge.same(one, three, len(DATA))
