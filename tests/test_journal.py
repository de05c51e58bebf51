"""Self-checking lines: whatever happens to them, none is believed that was not written."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdl.core.digests import digest
from segdl.core.journal import damaged_lines, read_lines, seal, unseal

LINES: list[dict[str, Any]] = [
    {"kind": "pin", "etag": '"e"', "size": None},
    {"kind": "held", "segment": 0, "check": "of its own"},
    {"path": "größe/\ud800 \u2028.7z", "size": 2**63 - 1, "ok": True},
    {"values": ["a", "b"], "nested": {"check": ',"check":"'}},
]
WHOLE = b"".join(map(seal, LINES))


def read(data: bytes) -> list[dict[str, Any]]:
    return list(read_lines(io.BytesIO(data)))


texts = st.text(st.characters(codec=None), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(texts, values, min_size=1, max_size=4), max_size=4))
def test_what_is_sealed_is_read(lines: list[dict[str, Any]]) -> None:
    assert read(b"".join(map(seal, lines))) == lines


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_one_line_of_json(line: dict[str, Any]) -> None:
    text = seal(line)
    assert text.count(b"\n") == 1 and text.endswith(b"}\n")
    assert text.isascii()
    assert json.loads(text).keys() == line.keys() | {"check"}


def test_damaged_lines_are_counted() -> None:
    """An empty line ends a torn one, and is no damage itself."""
    assert damaged_lines(io.BytesIO(WHOLE)) == 0
    assert damaged_lines(io.BytesIO(WHOLE + WHOLE[:20] + b"\n\n" + WHOLE + b"{}\n")) == 2


def test_torn_at_every_byte() -> None:
    """A line counts from its closing brace on; the newline after it says nothing more."""
    ends = [len(b"".join(map(seal, LINES[: n + 1]))) - 1 for n in range(len(LINES))]
    for length in range(len(WHOLE) + 1):
        complete = sum(end <= length for end in ends)
        assert read(WHOLE[:length]) == LINES[:complete]


@pytest.mark.parametrize(
    "rest",
    [
        b"\0" * 5000,
        b"garbage",
        b"\n\n\n",
        b"\xff\xfe\n\x80",
        b'{"kind":"held"}\n',
        b'{"kind":"held","check":""}\n',
        b'{"kind":"held","check":"0000000000000000"}\n',
        b',"check":"' + digest("xxh3_64", b"").encode() + b'"}\n',
        b"[" * 100_000,
    ],
    ids=["zeros", "garbage", "newlines", "not UTF-8", "no check", "empty", "wrong", "bare", "deep"],
)
def test_what_is_no_line_costs_nothing(rest: bytes) -> None:
    assert read(WHOLE + rest) == LINES
    assert read(rest + b"\n" + WHOLE) == LINES


@pytest.mark.parametrize(
    "body",
    [b"[1", b"1", b'{"a":NaN', b'{"a":' + b"9" * 5000, b'{"a":' + b"[" * 100_000, b"\xff", b"{"],
    ids=["list", "number", "nan", "long number", "deep", "not UTF-8", "empty"],
)
def test_a_right_check_over_nonsense_raises_nothing(body: bytes) -> None:
    line = body + b',"check":"' + digest("xxh3_64", body).encode() + b'"}\n'
    assert unseal(line) is None or isinstance(unseal(line), dict)
    assert read(line + seal(LINES[0]))[-1:] == LINES[:1]


def test_every_flipped_bit_is_seen() -> None:
    for line in LINES:
        sealed = seal(line)
        for bit in range(8 * (len(sealed) - 1)):
            mutant = bytearray(sealed)
            mutant[bit // 8] ^= 1 << bit % 8
            assert unseal(bytes(mutant)) is None


def test_two_lines_that_ran_together_are_both_gone() -> None:
    torn = seal(LINES[0])[:-9] + seal(LINES[1])
    assert read(torn + seal(LINES[2])) == [LINES[2]]


def test_five_thousand_mutations() -> None:
    chance = random.Random(1)
    for _ in range(5000):
        data = bytearray(WHOLE)
        for _ in range(chance.randint(1, 3)):
            at, count = chance.randrange(len(data)), chance.randint(1, 80)
            match chance.randrange(5):
                case 0:
                    data[at] ^= 1 << chance.randrange(8)
                case 1:
                    del data[at : at + count]
                case 2:
                    data[at:at] = chance.randbytes(count)
                case 3:
                    data[at : at + count] = bytes(count)
                case 4:
                    data[at:at] = data[chance.randrange(len(data)) :][:count]
            data = data or bytearray(b"\n")
        assert all(line in LINES for line in read(bytes(data)))
