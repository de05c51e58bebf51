"""What proves a target: every grade, and what is not what the manifest says."""

from __future__ import annotations

import hashlib

import pytest

from segdl.core.digests import digest
from segdl.core.errors import ContentError, DigestError, SizeError
from segdl.core.manifest import Pieces, Slice, Target
from segdl.core.options import MIB
from segdl.core.plan import Layout, Pin
from segdl.core.proof import Proof
from segdl.core.report import Grade
from segdl.core.urls import parse_url

URL = parse_url("http://127.0.0.1/a.7z")
PART = 5 * MIB
DATA = bytes(range(256)) * (12 * MIB // 256) + b"end"  # three parts of 5 MiB, the last one shorter
SIZE = len(DATA)
LAYOUT = Layout(SIZE, PART)
NUMBERS = list(LAYOUT.numbers())
MD5 = hashlib.md5(DATA).hexdigest()


def parts_of(size: int) -> list[bytes]:
    return [DATA[at : at + size] for at in range(0, SIZE, size)]


def multipart(size: int = PART) -> str:
    """The ETag that S3 gives to an upload in parts of `size` bytes."""
    md5s = [hashlib.md5(part).digest() for part in parts_of(size)]
    return f'"{hashlib.md5(b"".join(md5s)).hexdigest()}-{len(md5s)}"'


def pieces(algorithm: str = "xxh64", *, values: int | None = None) -> Pieces:
    all_of_them = tuple(digest(algorithm, part) for part in parts_of(PART))
    return Pieces(PART, algorithm, all_of_them[:values])


def target(
    digests: dict[str, str] | None = None,
    pieces: Pieces | None = None,
    part: Slice | None = None,
    size: int | None = SIZE,
) -> Target:
    return Target("a.7z", (URL,), size, tuple((digests or {}).items()), pieces, part)


def proof(asked: Target, etag: str | None = None, layout: Layout = LAYOUT) -> Proof:
    return Proof(asked, layout, Pin(SIZE, etag))


def grade(proof: Proof, data: bytes = DATA) -> Grade:
    """The grade of `data`, by exactly the digests that the proof asks for."""
    whole = {name: digest(name, data) for name in proof.of_whole}
    segments = {}
    for number in NUMBERS if proof.layout.size else []:
        segment = proof.layout.segment(number)
        window = data[segment.start : segment.stop]
        segments[number] = {name: digest(name, window) for name in proof.of_segment}
    return proof.grade(whole, segments)


OTHER = DATA[:-1] + b"!"
OPAQUE = '"0123456789abcdef"'


@pytest.mark.parametrize(
    ("asked", "etag", "data", "expected"),
    [
        (target({"sha256": digest("sha256", DATA)}), None, DATA, Grade.DIGEST),
        (target({"crc32": digest("crc32", DATA)}, pieces()), f'"{MD5}"', DATA, Grade.DIGEST),
        (target(pieces=pieces()), f'"{MD5}"', DATA, Grade.PIECES),
        (target(), f'"{MD5}"', DATA, Grade.ETAG),
        (target(), f'"{MD5}"', OTHER, Grade.PINNED),  # SSE-KMS: it looks like one and is not
        (target(), multipart(), DATA, Grade.ETAG),
        (target(), multipart(), OTHER, Grade.PINNED),
        (target(), multipart(3 * MIB), DATA, Grade.PINNED),  # not the parts that were cut here
        (target(), OPAQUE, DATA, Grade.PINNED),
        (target(part=Slice(0, SIZE)), f'"{MD5}"', DATA, Grade.PINNED),
        (target(), None, DATA, Grade.UNVERIFIED),
    ],
    ids=[
        "digest", "digest before all else", "pieces", "etag", "etag of something else",
        "multipart", "multipart of something else", "other parts", "opaque", "slice", "nothing",
    ],
)  # fmt: skip
def test_the_grade(asked: Target, etag: str | None, data: bytes, expected: Grade) -> None:
    assert grade(proof(asked, etag), data) is expected


def test_the_grade_without_a_pin() -> None:
    assert grade(Proof(target(), LAYOUT, None)) is Grade.UNVERIFIED


def test_the_grade_of_nothing() -> None:
    """An empty object's ETag is the MD5 of nothing."""
    empty = proof(target(size=0), f'"{hashlib.md5(b"").hexdigest()}"', Layout(0, PART))
    assert grade(empty, b"") is Grade.ETAG


@pytest.mark.parametrize(
    ("asked", "etag", "whole", "segment"),
    [
        (target({"sha256": "a" * 64, "md5": "b" * 32}), f'"{MD5}"', ("sha256", "md5"), ()),
        (target(pieces=pieces("crc32")), f'"{MD5}"', (), ("crc32",)),
        (target({"md5": MD5}, pieces()), multipart(), ("md5",), ("xxh64",)),
        (target(), f'"{MD5}"', ("md5",), ()),
        (target(), multipart(), (), ("md5",)),
        (target(), multipart(3 * MIB), (), ()),
        (target(), OPAQUE, (), ()),
        (target(part=Slice(0, SIZE)), multipart(), (), ()),
    ],
)
def test_which_digests_are_taken(
    asked: Target, etag: str, whole: tuple[str, ...], segment: tuple[str, ...]
) -> None:
    """None that nothing is held against."""
    assert proof(asked, etag).of_whole == whole
    assert proof(asked, etag).of_segment == segment


def test_a_size_that_is_learned_at_the_end_grades_by_what_was_taken() -> None:
    """The segments of a stream of unknown length came without the digests of upload parts."""
    unknown = Proof(target(size=None), Layout(None, PART), Pin(None, multipart()))
    assert unknown.of_segment == ()
    learned = Proof(target(size=None), LAYOUT, unknown.pin)
    assert learned.grade({}, {number: {} for number in NUMBERS}) is Grade.PINNED
    mixed = {0: {"md5": MD5}, 1: {}, 2: {}}
    assert learned.grade({}, mixed) is Grade.PINNED


def test_missing_segments_prove_nothing() -> None:
    some = {0: {"md5": hashlib.md5(DATA[:PART]).hexdigest()}}
    assert proof(target(), multipart()).grade({}, some) is Grade.PINNED


def test_pieces_are_held_against_each_segment() -> None:
    asked = proof(target(pieces=pieces()))
    for number, part in enumerate(parts_of(PART)):
        asked.check_segment(number, {"xxh64": digest("xxh64", part)})
        with pytest.raises(DigestError, match=f"segment {number} does not match its xxh64") as info:
            asked.check_segment(number, {"xxh64": "0" * 16})
        assert (info.value.algorithm, info.value.found) == ("xxh64", "0" * 16)
    proof(target()).check_segment(0, {})


def test_every_digest_of_the_whole_must_hold() -> None:
    digests = {"sha256": digest("sha256", DATA), "md5": MD5}
    asked = proof(target(digests))
    asked.check_whole(digests)
    for name in digests:
        with pytest.raises(DigestError, match=f"the content does not match its {name}"):
            asked.check_whole(digests | {name: "0" * len(digests[name])})
    proof(target()).check_whole({})


NOTHING = digest("xxh64", b"")


@pytest.mark.parametrize(
    ("values", "size", "error"),
    [
        (3, SIZE, None),
        (3, 3 * PART, None),
        (3, 2 * PART + 1, None),
        (3, 2 * PART, SizeError),
        (3, 3 * PART + 1, SizeError),
        (3, 0, SizeError),
        (2, SIZE, SizeError),
    ],
)
def test_as_many_pieces_as_segments(
    values: int, size: int, error: type[ContentError] | None
) -> None:
    """Where the manifest tells no size, its pieces still do: no more bytes than they prove, and no
    fewer."""
    asked = proof(target(pieces=pieces(values=values), size=None))
    if error is None:
        asked.check_size(size)
        return
    with pytest.raises(error):
        asked.check_size(size)


@pytest.mark.parametrize(
    ("values", "error"), [((), None), ((NOTHING,), None), (("0" * 16,), DigestError)]
)
def test_the_pieces_of_nothing(values: tuple[str, ...], error: type[ContentError] | None) -> None:
    asked = proof(target(pieces=Pieces(PART, "xxh64", values), size=None))
    if error is None:
        asked.check_size(0)
        return
    with pytest.raises(error):
        asked.check_size(0)


def test_no_pieces_fit_any_size() -> None:
    proof(target()).check_size(7)
