"""What a target consists of: layouts, segment sizes, and which records can be of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdl.core.manifest import Manifest, Pieces, Target
from segdl.core.options import KIB, MIB, Options
from segdl.core.plan import (
    DEFAULT_SEGMENT,
    Layout,
    Place,
    Record,
    Segment,
    aligned,
    fits,
    held_bytes,
    segment_size,
)
from segdl.core.urls import parse_url

URL = parse_url("http://127.0.0.1/a.7z")
MULTIPART = '"{}-{}"'.format


@pytest.mark.parametrize(
    ("size", "segments"),
    [
        (0, []),
        (1, [(0, 1)]),
        (99, [(0, 99)]),
        (100, [(0, 100)]),
        (101, [(0, 100), (100, 101)]),
        (299, [(0, 100), (100, 200), (200, 299)]),
        (300, [(0, 100), (100, 200), (200, 300)]),
        (301, [(0, 100), (100, 200), (200, 300), (300, 301)]),
    ],
)
def test_a_layout(size: int, segments: list[tuple[int, int]]) -> None:
    layout = Layout(size, 100)
    assert layout.count == len(segments) == len(layout.numbers())
    cut = [layout.segment(number) for number in layout.numbers()]
    assert cut == [Segment(n, *span) for n, span in enumerate(segments)]
    assert sum(segment.length for segment in cut) == size


def test_a_layout_of_unknown_size_has_its_probe() -> None:
    layout = Layout(None, 100)
    assert layout.count is None
    assert list(layout.numbers()) == [0]
    assert layout.segment(7) == Segment(7, 700, 800)


@given(st.integers(0, 2**63 - 1), st.integers(1, 2**40), st.floats(0, 1, exclude_max=True))
def test_segments_touch_and_cover(size: int, segment_size: int, where: float) -> None:
    layout = Layout(size, segment_size)
    assert layout.count is not None
    if not layout.count:
        assert size == 0
        return
    number = int(where * layout.count)
    segment, last = layout.segment(number), layout.segment(layout.count - 1)
    assert 0 < segment.length <= segment_size
    assert last.stop == size
    assert number == layout.count - 1 or layout.segment(number + 1).start == segment.stop


@pytest.mark.parametrize(
    ("pieces", "option", "manifest", "size"),
    [
        (None, None, None, None),
        (None, None, 4 * MIB, 4 * MIB),
        (None, 2 * MIB, 4 * MIB, 2 * MIB),
        (64 * KIB, 2 * MIB, 4 * MIB, 64 * KIB),
    ],
)
def test_who_decides_the_segment_size(
    pieces: int | None, option: int | None, manifest: int | None, size: int | None
) -> None:
    target = Target("a", (URL,), pieces=Pieces(pieces, "md5", ("0" * 32,)) if pieces else None)
    order = Manifest((target,), segment_size=manifest)
    assert segment_size(target, order, Options(segment_size=option)) == size


@pytest.mark.parametrize(
    ("size", "etag", "chosen"),
    [
        (100 * MIB, None, DEFAULT_SEGMENT),
        (100 * MIB, '"' + "0" * 32 + '"', DEFAULT_SEGMENT),
        (100 * MIB, '"opaque"', DEFAULT_SEGMENT),
        (100 * MIB, MULTIPART("0" * 32, 13), 8 * MIB),
        (100 * MIB, MULTIPART("0" * 32, 20), 5 * MIB),
        (100 * MIB, MULTIPART("0" * 32, 4), 25 * MIB),
        (100 * MIB, MULTIPART("0" * 32, 10_001), DEFAULT_SEGMENT),
        (100 * MIB, MULTIPART("0" * 32, 0), DEFAULT_SEGMENT),
        (100 * 1024 * MIB, MULTIPART("0" * 32, 2), DEFAULT_SEGMENT),
    ],
)
def test_a_multipart_etag_chooses_where_nobody_has(size: int, etag: str, chosen: int) -> None:
    assert aligned(size, etag) == chosen


@given(st.integers(1, 2**50), st.integers(1, 99_999))
def test_an_aligned_size_can_be_a_segment_s(size: int, parts: int) -> None:
    chosen = aligned(size, MULTIPART("a" * 32, parts))
    assert 64 * KIB <= chosen <= 1024 * MIB
    assert chosen == DEFAULT_SEGMENT or -(-size // chosen) == parts


@pytest.mark.parametrize(
    ("number", "start", "stop", "can_be"),
    [
        (0, 0, 100, True),
        (0, 0, 1, True),
        (2, 200, 250, True),
        (2, 200, 201, True),
        (0, 0, 0, False),
        (0, 0, 101, False),
        (0, 1, 100, False),
        (2, 200, 251, False),
        (3, 300, 301, False),
        (-1, -100, -50, False),
        (1, 0, 100, False),
    ],
)
def test_which_records_can_be_of_a_layout(number: int, start: int, stop: int, can_be: bool) -> None:
    assert fits(Layout(250, 100), Record(number, start, stop, "", Place.PART)) is can_be


def test_records_of_a_target_of_unknown_size() -> None:
    assert fits(Layout(None, 100), Record(10**9, 10**11, 10**11 + 100, "", Place.PART))
    assert not fits(Layout(None, 100), Record(1, 100, 201, "", Place.PART))


def test_what_records_hold() -> None:
    records = {
        0: Record(0, 0, 100, "", Place.FRONT),
        1: Record(1, 100, 150, "", Place.PART),
        2: Record(2, 200, 250, "", Place.PART),
    }
    assert held_bytes(records) == 200
    assert held_bytes({}) == 0
