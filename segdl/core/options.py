"""Every knob of a run, with its default and unit."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import field
from datetime import time
from typing import Any

from segdl.core.dataclass import dataclass
from segdl.core.errors import UsageError

KIB, MIB = 1024, 1024 * 1024
LARGEST_SIZE = 2**63 - 1
SMALLEST_SEGMENT, LARGEST_SEGMENT = 64 * KIB, 1024 * MIB
MOST_CONNECTIONS = 256

_UNITS = {
    "": 1, "b": 1,
    "k": 2**10, "kib": 2**10, "kb": 10**3,
    "m": 2**20, "mib": 2**20, "mb": 10**6,
    "g": 2**30, "gib": 2**30, "gb": 10**9,
    "t": 2**40, "tib": 2**40, "tb": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,19})(?:\.(\d{1,6}))? ?([a-z]{0,3})", re.ASCII | re.IGNORECASE)
_SPANS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|[smhd]?)", re.ASCII)
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)=(\S+)", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes, from `8MiB`, `8M` (the same), `10MB` (ten million) or `1024`. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(found[3].lower()) if found else None
    if not found or unit is None or (found[2] and unit == 1):
        raise ValueError(f"expected a size such as 8MiB, 10MB or 1024, found {text[:40]!r}")
    size = int(found[1]) * unit
    if found[2]:
        size += int(found[2]) * unit // 10 ** len(found[2])
    if size > LARGEST_SIZE:
        raise ValueError(f"expected a size below 8 EiB, found {text[:40]!r}")
    return size


def parse_span(text: str) -> float:
    """Seconds, from `30`, `90s`, `15m`, `2h` or `1d`. Raises ValueError."""
    found = _SPAN.fullmatch(text.strip())
    if not found:
        raise ValueError(f"expected a time such as 30s, 15m or 2h, found {text[:40]!r}")
    return float(found[1]) * _SPANS[found[2]]


@dataclass(frozen=True, slots=True)
class RateWindow:
    """A rate, in bytes a second, that holds from `start` to `stop` by the local clock."""

    start: time
    stop: time
    rate: int

    def covers(self, now: time) -> bool:
        if self.start <= self.stop:
            return self.start <= now < self.stop
        return now >= self.start or now < self.stop


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Bytes a second over the whole order; windows go before `always`, None is unlimited."""

    always: int | None = None
    windows: tuple[RateWindow, ...] = ()

    def __post_init__(self) -> None:
        """Raises UsageError for a rate that cannot be meant."""
        rates = [w.rate for w in self.windows] + ([] if self.always is None else [self.always])
        if rates and min(rates) < KIB:
            raise UsageError(f"--limit-rate: expected at least 1KiB a second, found {min(rates)}")

    @classmethod
    def of(cls, rate: RateLimit | int | str | None) -> RateLimit:
        """From bytes a second, from a text as `--limit-rate` takes it, or none."""
        if isinstance(rate, RateLimit):
            return rate
        if not isinstance(rate, str):
            return cls(rate)
        try:
            return parse_rate(rate)
        except ValueError as error:
            raise UsageError(f"--limit-rate: {error}") from None

    def at(self, now: time) -> int | None:
        return next((w.rate for w in self.windows if w.covers(now)), self.always)


def parse_rate(text: str) -> RateLimit:
    """A limit, from `2MiB` or `08:00-18:00=2MiB,500KiB`. Raises ValueError."""
    always: int | None = None
    windows = []
    for piece in text.split(","):
        found = _WINDOW.fullmatch(piece.strip())
        rate = parse_size(found[5] if found else piece)
        if rate < KIB:
            raise ValueError(f"expected a rate of at least 1KiB a second, found {piece[:40]!r}")
        if found:
            start, stop = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
            if start == stop:
                raise ValueError(f"expected a window of some length, found {piece[:40]!r}")
            windows.append(RateWindow(start, stop, rate))
        else:
            always = rate
    return RateLimit(always, tuple(windows))


def parse_shard(text: str) -> tuple[int, int]:
    """(I, N) from `I/N`, with 1 <= I <= N. Raises ValueError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"expected I/N with I from 1 to N, such as 2/8, found {text[:40]!r}")
    return int(found[1]), int(found[2])


Endpoint = tuple[str, int]


def parse_connect_to(text: str) -> tuple[Endpoint, Endpoint]:
    """((host, port), (host, port)) from `HOST:PORT:HOST:PORT`, as curl has it."""
    part = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})"
    found = re.fullmatch(f"{part}:{part}", text.strip(), re.ASCII)
    if not found or not all(0 < int(found[n]) < 65536 for n in (2, 4)):
        raise ValueError(f"expected HOST:PORT:HOST:PORT, found {text[:80]!r}")
    hosts = [found[n].strip("[]").lower() for n in (1, 3)]
    return (hosts[0], int(found[2])), (hosts[1], int(found[4]))


def parse_count(text: str) -> int:
    """A whole number from `8`. Raises ValueError."""
    if not re.fullmatch(r"-?\d{1,40}", text.strip(), re.ASCII):
        raise ValueError(f"expected a whole number, found {text[:40]!r}")
    return int(text)


def parse_connections(text: str) -> int | None:
    """A number of connections; None from `auto`. Raises ValueError."""
    return None if text.strip() == "auto" else parse_count(text)


def parse_command(text: str) -> tuple[str, ...]:
    """The words of a command, as a POSIX shell splits them; nothing else of a shell's is done.

    Raises ValueError, whose message never has the command.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        raise ValueError("expected a command whose quotes are closed") from None
    if not words or any("\0" in word for word in words):
        raise ValueError("expected a command")
    return words


def parse_proxy(text: str) -> str:
    """The URL of a proxy, http where it names no scheme, as curl has it.

    Raises ValueError, whose message never has the URL: it may hold a password.
    """
    url = text if "://" in text else f"http://{text}"
    if not re.fullmatch(r"(https?|socks5h?)://[^\s/]+/?", url, re.ASCII | re.IGNORECASE):
        raise ValueError("expected a proxy such as http://proxy.example:3128")
    return url


_OURS = {
    "host", "range", "if-match", "if-range", "accept-encoding", "connection", "content-length",
    "transfer-encoding", "te", "upgrade", "expect",
}  # fmt: skip


def parse_header(text: str) -> tuple[str, str]:
    """(name, value) from `Name: value`. Raises ValueError, whose message never has the value."""
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}", name):
        raise ValueError("expected a header such as 'Name: value'")
    if name.lower() in _OURS:
        raise ValueError(f"the header {name} is segdl's own to set")
    if not all(c == "\t" or (" " <= c <= "\xff" and c != "\x7f") for c in value):
        raise ValueError(f"the value of header {name} holds a control character")
    return name, value


@dataclass(frozen=True, slots=True)
class Options:
    """Every knob of `get`. The engine receives it; all below receives plain values."""

    overwrite: bool = False  # replace a file that is there with other content
    connections: int | None = None  # open at most, over the whole order; None is `auto`
    segment_size: int | None = None  # bytes; None leaves it to the manifest, then 8 MiB
    limit_rate: RateLimit = field(default_factory=RateLimit)
    retries: int = 8  # tries of one segment in a row without a new byte
    patience: float = 15 * 60.0  # seconds that a host may be down or busy
    timeout: float = 30.0  # seconds: the stall window
    select: tuple[str, ...] = ()  # globs over target paths; empty is all
    exclude: tuple[str, ...] = ()
    shard: tuple[int, int] | None = None  # (I, N)
    allow_env: tuple[str, ...] = ()  # variables that the manifest may use beside SEGDL_VAR_*
    ca_file: str | None = None
    cert: str | None = None  # a client certificate, in PEM
    key: str | None = None  # its key, where that is in a file of its own
    proxy: str | None = field(default=None, repr=False)  # may hold credentials
    connect_to: tuple[tuple[Endpoint, Endpoint], ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    sources: tuple[str, ...] = ()  # folders with files that came by another way
    # The words of what is run for a fresh manifest on its standard output.
    refresh_command: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Read what is given as the command line has it: `limit_rate="2MiB"`, `select="*.7z"`.

        Raises UsageError for a value that cannot be meant.
        """
        for name, read in _READERS.items():
            try:
                value = read(getattr(self, name))
                check_bounds(name, value)
            except (ValueError, TypeError) as error:
                raise UsageError(f"--{name.replace('_', '-')}: {error}") from None
            object.__setattr__(self, name, value)


def _one(parse: Callable[[str], Any], *kinds: type) -> Callable[[Any], Any]:
    """A text as `parse` reads it; else a value of one of the `kinds`."""

    def read(value: Any) -> Any:
        value = parse(value) if isinstance(value, str) else value
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"expected {kinds[0].__name__} or a text, found {value!r}")
        return value

    return read


def _each(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Several values, each a text that `parse` reads or what it gives; a text alone is the one."""

    def read(values: Any) -> Any:
        alone = isinstance(values, str | os.PathLike)
        return tuple(
            parse(v) if isinstance(v, str) else v for v in ((values,) if alone else values)
        )

    return read


def _headers(values: Any) -> tuple[tuple[str, str], ...]:
    """Headers, each as `Name: value` or as a pair."""
    given = (values,) if isinstance(values, str) else values
    return tuple(parse_header(v if isinstance(v, str) else ": ".join(v)) for v in given)


def _shard(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    return parse_shard(value if isinstance(value, str) else "/".join(map(str, value)))


def _proxy(value: Any) -> str | None:
    """Nothing that is no text is shown: it may be one with a password."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError("expected a text")
    return parse_proxy(value)


def _command(value: Any) -> tuple[str, ...]:
    return parse_command(value) if isinstance(value, str) else tuple(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "connections": _one(parse_connections, int, type(None)),
    "segment_size": _one(parse_size, int, type(None)),
    "limit_rate": RateLimit.of,
    "retries": _one(parse_count, int),
    "patience": _one(parse_span, int, float),
    "timeout": _one(parse_span, int, float),
    "select": _each(str),
    "exclude": _each(str),
    "shard": _shard,
    "allow_env": _each(str),
    "proxy": _proxy,
    "connect_to": _each(parse_connect_to),
    "headers": _headers,
    "sources": _each(str),
    "refresh_command": _command,
}
_BOUNDS: dict[str, tuple[float, float, str]] = {
    "connections": (1, MOST_CONNECTIONS, f"1 to {MOST_CONNECTIONS}"),
    "segment_size": (SMALLEST_SEGMENT, LARGEST_SEGMENT, "64KiB to 1GiB"),
    "retries": (0, 10_000, "0 to 10000"),
    "patience": (0, 30 * 86400, "0s to 30d"),
    "timeout": (0.1, 86400, "0.1 to 86400 seconds"),
}


def check_bounds(name: str, value: object) -> None:
    """Raises ValueError if `value` cannot be meant for the option of that name in Options."""
    if name in _BOUNDS and isinstance(value, int | float):
        least, most, words = _BOUNDS[name]
        if not least <= value <= most:
            raise ValueError(f"expected {words}, found {value}")
