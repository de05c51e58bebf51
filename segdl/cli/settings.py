"""The settings of `get`: one table for the command line, the environment and the file.

The command line wins over the environment, that over the file. Every value is checked, also one
that another source overrides, and every fault names its source. Nobody repeats a secret's value.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any

from segdl.cli.arguments import Parser
from segdl.core.dataclass import dataclass
from segdl.core.errors import UsageError
from segdl.core.options import (
    Options,
    check_bounds,
    parse_command,
    parse_connect_to,
    parse_connections,
    parse_count,
    parse_header,
    parse_proxy,
    parse_rate,
    parse_shard,
    parse_size,
    parse_span,
)

FILE = "segdl.toml"
LARGEST_FILE = 1024 * 1024  # bytes
PROGRESS = ("auto", "bar", "plain", "json", "none")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: how it is given and read. A flag has no metavar."""

    name: str  # as on the command line, without the dashes
    metavar: str
    help: str
    parse: Callable[[str], Any] = str  # raises ValueError
    short: str = ""
    many: bool = False
    separators: str = "\n,"  # of several values in one variable, the strongest first
    knob: str = ""  # its name in Options; "" where the engine does not know it

    @property
    def variable(self) -> str:
        return f"SEGDL_{self.name.upper().replace('-', '_')}"

    def split(self, text: str) -> list[str]:
        """Several values from one variable: by lines if it has several, else by commas."""
        if not self.many:
            return [text]
        separator = next((s for s in self.separators if s in text), "\n")
        return [piece for piece in map(str.strip, text.split(separator)) if piece]

    def read(self, texts: Sequence[str]) -> Any:
        """The value that was given, the last one where only one counts. Raises ValueError."""
        if self.many:
            return tuple(map(self.parse, texts))
        value = self.parse(texts[-1])
        check_bounds(self.knob, value)
        return value


def _flag(text: str) -> bool:
    known = {"1": True, "true": True, "0": False, "false": False}
    if text.strip().lower() not in known:
        raise ValueError(f"expected 1, 0, true or false, found {text[:40]!r}")
    return known[text.strip().lower()]


def _progress(text: str) -> str:
    if text not in PROGRESS:
        raise ValueError(f"expected {', '.join(PROGRESS)}, found {text[:40]!r}")
    return text


def _path(text: str) -> Path:
    """A path; `~` is the home, also where no shell has seen it."""
    if not text or "\0" in text:
        raise ValueError("expected a path")
    with suppress(RuntimeError):  # nobody's home
        return Path(text).expanduser()
    return Path(text)


def _readable(text: str) -> str:
    """A file that can be read, said now and not at the first connection."""
    path = _path(text)
    try:
        with path.open("rb"):
            return str(path)
    except OSError as error:
        raise ValueError(f"{text[:80]!r} cannot be read ({error.strerror})") from None


def _folder(text: str) -> str:
    """A folder that is there, said now and not when the order has begun."""
    path = _path(text)
    if not path.is_dir():
        raise ValueError(f"{text[:80]!r} is no folder that can be read")
    return str(path)


def _certificate(text: str) -> str:
    """A client certificate; `FILE:PASSWORD`, as curl has it, is refused and not repeated."""
    name, colon, _ = text.partition(":")
    if colon and not _path(text).exists():
        _readable(name)
        raise ValueError(f"{name[:80]!r} is followed by a password: give a key that needs none")
    return _readable(text)


TABLE: tuple[Setting, ...] = (
    Setting("output", "DIR", "where files go; else ./<order name>/, or here", _path, "-o"),
    Setting("overwrite", "", "replace files that are there with other content", _flag,
            knob="overwrite"),
    Setting("connections", "N|auto", "open connections at most [auto: 4, grows to 16]",
            parse_connections, "-c", knob="connections"),
    Setting("segment-size", "SIZE", "bytes fetched and recorded as one [8MiB]", parse_size,
            knob="segment_size"),
    Setting("limit-rate", "RATE", "bytes a second: 2MiB, or 08:00-18:00=2MiB,8MiB", parse_rate,
            knob="limit_rate"),
    Setting("retries", "N", "fruitless tries of a segment, one after another [8]", parse_count,
            knob="retries"),
    Setting("patience", "TIME", "how long a host may be down or busy [15m]", parse_span,
            knob="patience"),
    Setting("timeout", "SECONDS", "how long a connection may stall [30]", parse_span,
            knob="timeout"),
    Setting("select", "GLOB", "only what matches (--exclude GLOB: not that)",
            many=True, knob="select"),
    Setting("exclude", "GLOB", argparse.SUPPRESS, many=True, knob="exclude"),
    Setting("shard", "I/N", "the I-th of N disjoint parts of the order", parse_shard,
            knob="shard"),
    Setting("progress", "HOW", "auto, bar, plain, json (on standard output), none", _progress),
    Setting("dry-run", "", "say what would be done, and do nothing", _flag),
    Setting("allow-env", "NAME", "let the manifest use this variable (repeatable)", many=True,
            knob="allow_env"),
    Setting("ca-file", "FILE", "trust these certificates, not the system's", _readable,
            knob="ca_file"),
    Setting("cert", "FILE", "client certificate in PEM (its key: --key FILE)",
            _certificate, knob="cert"),
    Setting("key", "FILE", argparse.SUPPRESS, _readable, knob="key"),
    Setting("proxy", "URL", "go through this proxy", parse_proxy, knob="proxy"),
    Setting("connect-to", "H:P:H:P", "connect elsewhere for a host and port, as curl",
            parse_connect_to, many=True, knob="connect_to"),
    Setting("header", "'K: V'", "send this header too (repeatable)", parse_header, many=True,
            separators="\n", knob="headers"),
    Setting("from", "DIR", "take what is proved there, fetch only the rest",
            _folder, many=True, knob="sources"),
    Setting("refresh-command", "CMD", "run this for fresh links: it writes a manifest",
            parse_command, knob="refresh_command"),
)  # fmt: skip
_BY_NAME = {setting.name: setting for setting in TABLE}


@dataclass(frozen=True, slots=True)
class Settings:
    """What `get` was told."""

    options: Options = field(default_factory=Options)
    output: Path | None = None
    progress: str = "auto"
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """What one source gives: the texts of each setting, and how a fault names it there."""

    naming: Callable[[Setting], str]
    texts: Mapping[str, Sequence[str]]


def add_settings(parser: Parser, *, but: Collection[str] = ()) -> None:
    """Let a command take every setting but those that do not concern it, and `--config`."""
    for setting in TABLE:
        if setting.name in but:
            continue
        flags = [setting.short] if setting.short else []
        flags.append(f"--{setting.name}")
        if setting.metavar:
            parser.add_argument(
                *flags, action="append", dest=setting.name, metavar=setting.metavar,
                help=setting.help,
            )  # fmt: skip
        else:
            parser.add_argument(
                *flags, action="append_const", const="true", dest=setting.name, help=setting.help
            )
    parser.add_argument("--config", metavar="FILE", help=argparse.SUPPRESS)  # the epilog has it


def read_settings(given: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """The settings of all three sources. Raises UsageError with every fault, one a line."""
    faults: list[str] = []
    config = given.config or environment.get("SEGDL_CONFIG")
    sources = (
        from_file(_find_file(config, environment), faults, wanted=bool(config)),
        from_environment(environment),
        Source(lambda setting: f"--{setting.name}", _present(vars(given))),
    )
    values: dict[str, Any] = {}
    for source in sources:
        for name, texts in source.texts.items():
            try:
                values[name] = _BY_NAME[name].read(texts)
            except ValueError as error:
                faults.append(f"{source.naming(_BY_NAME[name])}: {error}")
    if faults:
        raise UsageError("\n".join(faults))
    return _settled(values)


def _settled(values: Mapping[str, Any]) -> Settings:
    knobs = {_BY_NAME[n].knob: value for n, value in values.items() if _BY_NAME[n].knob}
    others = {n.replace("-", "_"): value for n, value in values.items() if not _BY_NAME[n].knob}
    return Settings(options=Options(**knobs), **others)


def _present(given: Mapping[str, Any]) -> dict[str, list[str]]:
    return {name: texts for name, texts in given.items() if name in _BY_NAME and texts}


def from_environment(environment: Mapping[str, str]) -> Source:
    """`SEGDL_CONNECTIONS=4` and the like; an empty variable says nothing."""
    texts = {s.name: s.split(environment[s.variable]) for s in TABLE if environment.get(s.variable)}
    return Source(lambda setting: setting.variable, texts)


def from_file(path: Path, faults: list[str], *, wanted: bool) -> Source:
    """The settings in a TOML file. One that nobody asked for by name may be missing."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        table = _parse_toml(data)
    except FileNotFoundError:
        if wanted:
            faults.append(f"{path}: there is no such file")
        return Source(str, {})
    except OSError as error:
        if wanted or os.path.lexists(path):  # else it is somebody else's home, or none
            faults.append(f"{path}: cannot be read ({error.strerror})")
        return Source(str, {})
    except (ValueError, RecursionError) as error:
        faults.append(f"{path}: is not a valid TOML file: {error}")
        return Source(str, {})
    return Source(lambda setting: f"{path}: {setting.name}", _texts(path, table, faults))


def _parse_toml(data: bytes) -> dict[str, Any]:
    import tomllib

    if len(data) > LARGEST_FILE:
        raise ValueError("it is larger than 1 MiB")
    return tomllib.loads(data.decode("utf-8"))


def _texts(path: Path, table: Mapping[str, Any], faults: list[str]) -> dict[str, list[str]]:
    """What the file says, as the command line would have said it."""
    texts: dict[str, list[str]] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in _BY_NAME:
            faults.append(f"{path}: {_unknown(name)}")
        elif name in texts:
            faults.append(f"{path}: {name}: it stands there twice")
        elif (said := _said(_BY_NAME[name], value)) is None:
            wanted = "a list of texts" if _BY_NAME[name].many else "a text or a number"
            faults.append(f"{path}: {name}: expected {wanted}")
        else:
            texts[name] = said
    return texts


def _said(setting: Setting, value: object) -> list[str] | None:
    match value:
        case bool():
            return None if setting.metavar else [str(value).lower()]
        case str() | int() | float():
            return [str(value)]
        case list() if setting.many and all(isinstance(item, str) for item in value):
            return value
    return None


def _unknown(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, _BY_NAME, n=1)
    shown = name if name.isprintable() and len(name) <= 40 else ascii(name[:40])
    return f"there is no setting {shown}" + (f": did you mean {near[0]}?" if near else "")


def _find_file(config: str | None, environment: Mapping[str, str]) -> Path:
    """The file that was named, else the one in the current folder, else the user's own."""
    if config:
        return _path(config)
    if os.path.lexists(FILE):
        return Path(FILE)
    folder = environment.get("XDG_CONFIG_HOME") or _path("~/.config")
    return Path(folder, "segdl", FILE)
