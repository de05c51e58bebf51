"""core.options: what is read from a word of the command line (FAULTS.md, M08)."""

from __future__ import annotations

from dataclasses import replace
from datetime import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdl.core import options
from segdl.core.errors import ExitCode, UsageError
from segdl.core.options import MIB, Options, RateLimit, RateWindow

settings.register_profile("patient", deadline=None)  # a busy machine is no fault
settings.load_profile("patient")

WORDS = st.one_of(
    st.text(max_size=30), st.from_regex(r"[-+]?[0-9.]{0,22} ?[a-zA-Zµ]{0,4}", fullmatch=True)
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("0123", 123),
        ("8MiB", 8 * 2**20),
        ("8M", 8 * 2**20),
        ("8m", 8 * 2**20),
        (" 8 MiB ", 8 * 2**20),
        ("10MB", 10_000_000),
        ("10kb", 10_000),
        ("1K", 1024),
        ("1.5GiB", 3 * 2**29),
        ("0.5KiB", 512),
        ("2T", 2**41),
        ("7b", 7),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_size(text: str, size: int) -> None:
    assert options.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "-1",
            "+1",
            "1.5",
            "1.5b",
            "8XB",
            "8 M iB",
            "MiB",
            "1e3",
            "0x10",
            "1_000",
            "1,5MiB",
            "٣",
        ),
        *("nan", "inf", str(2**63), "9999999999TiB", "9" * 5000, "8MiB\x00", "true", "8\u212aiB"),
    ],
)
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        options.parse_size(text)


@given(st.integers(0, 2**63 - 1))
def test_plain_sizes_are_themselves(size: int) -> None:
    assert options.parse_size(str(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("250ms", 0.25), ("0", 0)],
)
def test_span(text: str, seconds: float) -> None:
    assert options.parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1 h", "1w", "1M", "nan", "inf", "1e9", "9" * 400])
def test_no_span(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time"):
        options.parse_span(text)


def test_rate() -> None:
    assert options.parse_rate("2MiB") == RateLimit(2 * 2**20)
    office = RateWindow(time(8), time(18, 30), 2 * 2**20)
    assert options.parse_rate("08:00-18:30=2MiB") == RateLimit(None, (office,))
    assert options.parse_rate("08:00-18:30=2MiB, 500KiB") == RateLimit(500 * 1024, (office,))


@pytest.mark.parametrize(
    ("now", "rate"),
    [(time(7, 59), 9000), (time(8), 5000), (time(17, 59), 5000), (time(18), 9000)],
)
def test_rate_by_the_clock(now: time, rate: int) -> None:
    assert options.parse_rate("08:00-18:00=5000,9000").at(now) == rate


@pytest.mark.parametrize(("now", "rate"), [(time(21), None), (time(23), 5000), (time(5), 5000)])
def test_rate_over_midnight(now: time, rate: int | None) -> None:
    assert options.parse_rate("22:00-06:00=5000").at(now) == rate


@pytest.mark.parametrize(
    "text",
    [
        *("", "-2MiB", "0", "1023", "fast", "8:00-9:00=2MiB", "24:00-25:00=2MiB", "08:00-18:00"),
        *("08:00-18:00=", "08:00-18:00=0", "2MiB,", "08:00-08:00=2MiB", "08:60-09:00=2MiB"),
    ],
)
def test_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="expected a"):
        options.parse_rate(text)


def test_shard() -> None:
    assert options.parse_shard("1/1") == (1, 1)
    assert options.parse_shard(" 2/8 ") == (2, 8)


@pytest.mark.parametrize(
    "text", ["", "2", "0/2", "3/2", "-1/2", "1/0", "a/b", "1/2/3", "1/9999999"]
)
def test_no_shard(text: str) -> None:
    with pytest.raises(ValueError, match="expected I/N"):
        options.parse_shard(text)


def test_connect_to() -> None:
    assert options.parse_connect_to("minio:9000:127.0.0.1:9001") == (
        ("minio", 9000),
        ("127.0.0.1", 9001),
    )
    assert options.parse_connect_to("S3.Example:443:[::1]:443") == (
        ("s3.example", 443),
        ("::1", 443),
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "a:1", "a:1:b", "a:1:b:0", "a:1:b:65536", "a:x:b:1", "::1:1:b:2", "a:1:b:2:3"),
        *("a b:1:c:2", "a/x:1:b:2", "u@a:1:b:2", "a:1:b:٣"),
    ],
)
def test_no_connect_to(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT:HOST:PORT"):
        options.parse_connect_to(text)


@pytest.mark.parametrize(("text", "number"), [("8", 8), (" 08 ", 8), ("-1", -1), ("0", 0)])
def test_count(text: str, number: int) -> None:
    assert options.parse_count(text) == options.parse_connections(text) == number
    assert options.parse_connections("auto") is None


@pytest.mark.parametrize("text", ["", "1.0", "many", "1e3", "9" * 5000, "٣", "0x1"])
def test_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        options.parse_connections(text)


def test_proxy() -> None:
    assert options.parse_proxy("proxy:3128") == "http://proxy:3128"
    assert options.parse_proxy("https://u:p@proxy:3128/") == "https://u:p@proxy:3128/"


@pytest.mark.parametrize("text", ["", "ftp://SECRET", "http://u:SECRET@a/b", "http://u:SEC RET@a"])
def test_no_proxy(text: str) -> None:
    with pytest.raises(ValueError, match="expected a proxy") as raised:
        options.parse_proxy(text)
    assert "SEC" not in str(raised.value)


def test_header() -> None:
    assert options.parse_header("X-Key:  a: b ") == ("X-Key", "a: b")
    assert options.parse_header("Authorization: Bearer é") == ("Authorization", "Bearer é")
    assert options.parse_header("Empty:") == ("Empty", "")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "SECRET",
            ": SECRET",
            "a b: SECRET",
            "ü: SECRET",
            "X: SEC\r\nRET: x",
            "X: SEC\x00RET",
        ),
        *("Range: SECRET", "if-match: SECRET", "HOST: SECRET", "X: SEC\u20ac"),
    ],
)
def test_no_header(text: str) -> None:
    with pytest.raises(ValueError) as raised:
        options.parse_header(text)
    assert "SEC" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connections", 0),
        ("connections", -4),
        ("connections", 10**6),
        ("segment_size", 0),
        ("segment_size", 64 * 1024 - 1),
        ("segment_size", 2**63),
        ("retries", -1),
        ("patience", -0.1),
        ("patience", float("inf")),
        ("timeout", 0),
        ("timeout", float("nan")),
    ],
)
def test_a_value_that_cannot_be_meant(name: str, value: float) -> None:
    knobs: dict[str, Any] = {name: value}
    with pytest.raises(UsageError, match=f"^--{name.replace('_', '-')}: expected ") as raised:
        Options(**knobs)
    assert raised.value.exit_code is ExitCode.USAGE


def test_defaults_and_bounds_are_taken() -> None:
    assert Options().retries == 8
    assert Options(connections=1, segment_size=64 * 1024, retries=0, patience=0).retries == 0
    assert Options(connections=256, segment_size=2**30, timeout=0.1).connections == 256


def test_secrets_are_not_printed() -> None:
    made = Options(proxy="http://u:SECRET@proxy:3128", headers=(("Authorization", "SECRET"),))
    assert "SECRET" not in repr(made)


@pytest.mark.parametrize(
    "parse",
    [
        options.parse_size,
        options.parse_span,
        options.parse_rate,
        options.parse_shard,
        options.parse_count,
        options.parse_connect_to,
        options.parse_proxy,
        options.parse_header,
    ],
)
@given(WORDS)
def test_any_word_is_read_or_refused(parse: Any, word: str) -> None:
    try:
        parse(word)
    except ValueError as error:
        assert str(error).isprintable() and len(str(error)) < 400


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("limit_rate", "2MiB", RateLimit(2 * MIB)),
        ("limit_rate", 2 * MIB, RateLimit(2 * MIB)),
        ("limit_rate", None, RateLimit()),
        ("segment_size", "8MiB", 8 * MIB),
        ("connections", "auto", None),
        ("patience", "15m", 900.0),
        ("timeout", "20s", 20.0),
        ("shard", "1/2", (1, 2)),
        ("shard", [1, 2], (1, 2)),
        ("proxy", "127.0.0.1:9", "http://127.0.0.1:9"),
        ("proxy", None, None),
        ("refresh_command", "renew --order 'a b'", ("renew", "--order", "a b")),
        ("refresh_command", ["renew", "a b"], ("renew", "a b")),
        ("select", "*.7z", ("*.7z",)),
        ("exclude", ["a", "b"], ("a", "b")),
        ("headers", ["A: b"], (("A", "b"),)),
        ("headers", [("A", "b")], (("A", "b"),)),
        ("connect_to", "a:1:b:2", ((("a", 1), ("b", 2)),)),
    ],
)
def test_python_may_give_what_the_command_line_takes(name: str, given: Any, meant: Any) -> None:
    assert getattr(Options(**{name: given}), name) == meant


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("connections", 2.5), ("connections", True), ("connections", "many"),
        ("segment_size", [1]), ("retries", None), ("patience", None), ("timeout", "soon"),
        ("limit_rate", "fast"), ("limit_rate", 5), ("shard", 3), ("shard", "3/2"), ("select", 7),
        ("shard", (1.5, 2)), ("shard", (1, 2, 3)), ("shard", ("a", 2)), ("proxy", "ftp://a"),
        ("proxy", b"http://a"), ("refresh_command", "renew 'a"), ("refresh_command", 7),
        ("headers", [("Host", "x")]), ("headers", {"A": "b"}), ("connect_to", "a:b"),
    ],
)  # fmt: skip
def test_python_hears_at_once_what_cannot_be_meant(name: str, given: Any) -> None:
    with pytest.raises(UsageError, match=f"^--{name.replace('_', '-')}: "):
        Options(**{name: given})


@pytest.mark.parametrize("always", [None, 1024])
def test_a_limit_that_cannot_be_meant(always: int | None) -> None:
    (hours,) = options.parse_rate("08:00-18:00=1KiB").windows
    assert RateLimit(1024, (hours,)).always == 1024
    with pytest.raises(UsageError, match="at least 1KiB a second, found 1023"):
        RateLimit(always, (hours, replace(hours, rate=1023)))
    with pytest.raises(UsageError, match="at least 1KiB a second, found 7"):
        RateLimit(7, (hours,))
