"""core.digests against published vectors, and against itself in pieces."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdl.core import digests

settings.register_profile("patient", deadline=None)  # a busy machine is no fault
settings.load_profile("patient")

MIB = 1024 * 1024

# RFC 1321, FIPS 180, RFC 7693, the CRC catalogue and xxHash's own sanity checks.
ABC = {
    "md5": "900150983cd24fb0d6963f7d28e17f72",
    "sha1": "a9993e364706816aba3e25717850c26c9cd0d89d",
    "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    "sha512": "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
    "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    "blake2b": "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
    "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
    "crc32": "352441c2",
    "xxh64": "44bc2cf5ad770999",
    "xxh3_64": "78af5f94892f3950",
    "xxh3_128": "06b05ab6733a618578af5f94892f3950",
}
EMPTY = {
    "md5": "d41d8cd98f00b204e9800998ecf8427e",
    "sha1": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "crc32": "00000000",
    "xxh64": "ef46db3751d8e999",
    "xxh3_64": "2d06800538d394c2",
    "xxh3_128": "99aa06d3014798d86001c324468d497f",
}


def test_every_algorithm_has_a_vector() -> None:
    assert set(ABC) == set(digests.ALGORITHMS)


@pytest.mark.parametrize(("algorithm", "value"), ABC.items())
def test_abc(algorithm: str, value: str) -> None:
    assert digests.digest(algorithm, b"abc") == value
    assert digests.hex_digits(algorithm) == len(value)


@pytest.mark.parametrize(("algorithm", "value"), EMPTY.items())
def test_nothing(algorithm: str, value: str) -> None:
    assert digests.hasher(algorithm).hexdigest() == value


def test_crc32_check_value() -> None:
    assert digests.digest("crc32", b"123456789") == "cbf43926"


@pytest.mark.parametrize("algorithm", digests.ALGORITHMS)
@given(pieces=st.lists(st.binary(max_size=300), max_size=5))
def test_in_pieces_as_in_one(algorithm: str, pieces: list[bytes]) -> None:
    running = digests.hasher(algorithm)
    for piece in pieces:
        running.update(memoryview(piece))
        running.hexdigest()  # asking on the way changes nothing
    assert running.hexdigest() == digests.digest(algorithm, b"".join(pieces))


def test_an_unknown_algorithm_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        digests.hasher("md6")


def test_multipart_etag() -> None:
    """As S3 builds it: the MD5 of the binary MD5s, and how many there are."""
    parts = [b"a" * 5, b"b" * 3]
    whole = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
    listed = [digests.digest("md5", part) for part in parts]
    assert digests.digest_of_parts(listed) == f"{whole}-2"


MD5 = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.parametrize(
    ("etag", "value"),
    [
        (f'"{MD5}"', MD5),
        (MD5, None),
        (f'W/"{MD5}"', None),
        (f'"{MD5}-3"', None),
        (f'"{MD5.upper()}"', None),
        ('"abc"', None),
        ("", None),
        (None, None),
    ],
)
def test_etag_that_may_be_an_md5(etag: str | None, value: str | None) -> None:
    assert digests.etag_md5(etag) == value


@pytest.mark.parametrize(
    ("count", "size", "part"),
    [
        (13, 104857600, 8 * MIB),  # the AWS CLI's parts of 8 MiB
        (20, 104857600, 5 * MIB),  # the least that S3 takes
        (7, 104857600, 16 * MIB),
        (7, 7 * 15 * MIB, 16 * MIB),  # 15 MiB would do as well
        (2, 104857600, 64 * MIB),
        (10, 104857600, 10 * MIB),  # of no default: the size over N, rounded up to a MiB
        (1, 1, 8 * MIB),
        (5, 3, None),
        (10000, 104857600, None),
        (3, 0, None),
    ],
)
def test_part_size_of_a_multipart_etag(count: int, size: int, part: int | None) -> None:
    found = digests.etag_parts(f'"{MD5}-{count}"', size)
    assert found == (None if part is None else (f"{MD5}-{count}", part))


@pytest.mark.parametrize("etag", [None, f'"{MD5}"', f'"{MD5}-0"', f'"{MD5}-x"', f"{MD5}-2"])
def test_etag_that_is_not_multipart(etag: str | None) -> None:
    assert digests.etag_parts(etag, 100) is None


@given(part=st.integers(1, 200), size=st.integers(1, 2**41))
def test_the_part_size_found_gives_that_many_parts(part: int, size: int) -> None:
    count = -(-size // (part * MIB))
    if count <= 99_999 and (found := digests.etag_parts(f'"{MD5}-{count}"', size)):
        assert -(-size // found[1]) == count
