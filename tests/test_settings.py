"""cli.settings: the command line over the environment, that over the file (FAULTS.md, M08)."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Any

import pytest

from segdl.cli.arguments import Parser
from segdl.cli.settings import TABLE, Settings, add_settings, read_settings
from segdl.core.errors import ExitCode, UsageError
from segdl.core.options import Options, RateLimit, RateWindow

SECRET = "s3cr3t-s3cr3t"


@pytest.fixture(autouse=True)
def _nobody_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


def settings(*arguments: str, file: str | None = None, **environment: str) -> Settings:
    """What `get` would be told by these arguments, this segdl.toml and this environment."""
    if file is not None:
        Path("segdl.toml").write_text(file, encoding="utf-8")
    parser = Parser("get", "", "")
    add_settings(parser)
    return read_settings(parser.parse(arguments), environment)


def refusal(*arguments: str, file: str | None = None, **environment: str) -> str:
    """Why they are refused."""
    with pytest.raises(UsageError) as refused:
        settings(*arguments, file=file, **environment)
    assert refused.value.exit_code == ExitCode.USAGE
    return refused.value.message


GIVEN: list[tuple[str, str, str, object]] = [  # as words, in the environment, in the file: the same
    ("--output=out", "out", '"out"', Path("out")),
    ("--overwrite", "1", "true", True),
    ("--connections=4", "4", "4", 4),
    ("--connections=auto", "auto", '"auto"', None),
    ("--segment-size=1MiB", "1MiB", '"1MiB"', 2**20),
    ("--limit-rate=2MiB", "2MiB", '"2MiB"', RateLimit(2**21)),
    ("--limit-rate=08:00-18:00=2MiB,8MiB", "08:00-18:00=2MiB,8MiB", '"08:00-18:00=2MiB,8MiB"',
     RateLimit(2**23, (RateWindow(time(8), time(18), 2**21),))),
    ("--retries=0", "0", "0", 0),
    ("--patience=2h", "2h", '"2h"', 7200.0),
    ("--timeout=2.5", "2.5", "2.5", 2.5),
    ("--select=a*", "a*", '"a*"', ("a*",)),
    ("--exclude=*.txt", "*.txt", '["*.txt"]', ("*.txt",)),
    ("--shard=2/8", "2/8", '"2/8"', (2, 8)),
    ("--progress=json", "json", '"json"', "json"),
    ("--dry-run", "true", "true", True),
    ("--allow-env=TOKEN", "TOKEN", '["TOKEN"]', ("TOKEN",)),
    ("--ca-file=ca.pem", "ca.pem", '"ca.pem"', "ca.pem"),
    ("--cert=ca.pem", "ca.pem", '"ca.pem"', "ca.pem"),
    ("--key=ca.pem", "ca.pem", '"ca.pem"', "ca.pem"),
    ("--proxy=proxy:3128", "proxy:3128", '"proxy:3128"', "http://proxy:3128"),
    ("--connect-to=a:1:b:2", "a:1:b:2", '["a:1:b:2"]', ((("a", 1), ("b", 2)),)),
    ("--header=K: v", "K: v", '["K: v"]', (("K", "v"),)),
    ("--from=.", ".", '["."]', (".",)),
    ("--refresh-command=a 'b c'", "a 'b c'", '"a \'b c\'"', ("a", "b c")),
]  # fmt: skip


def value(found: Settings, name: str) -> Any:
    knob = {setting.name: setting.knob for setting in TABLE}[name]
    return getattr(found.options, knob) if knob else getattr(found, name.replace("-", "_"))


@pytest.mark.parametrize(("word", "variable", "toml", "expected"), GIVEN)
def test_every_setting_from_every_source(
    word: str, variable: str, toml: str, expected: object
) -> None:
    Path("ca.pem").touch()
    name = word.removeprefix("--").partition("=")[0]
    in_environment = {f"SEGDL_{name.upper().replace('-', '_')}": variable}
    assert value(settings(word), name) == expected
    assert value(settings(**in_environment), name) == expected
    assert value(settings(file=f"{name} = {toml}"), name) == expected
    assert value(settings(file=f"{name.replace('-', '_')} = {toml}"), name) == expected


def test_the_table_is_complete() -> None:
    assert {word.removeprefix("--").partition("=")[0] for word, *_ in GIVEN} == {
        setting.name for setting in TABLE
    }
    knobs = {setting.knob for setting in TABLE if setting.knob}
    assert knobs == set(Options.__dataclass_fields__)


def test_nothing_given_is_the_default() -> None:
    assert settings() == Settings()


def test_what_wins() -> None:
    file = "connections = 2\nretries = 2\ntimeout = 2"
    found = settings("-c", "4", file=file, SEGDL_CONNECTIONS="3", SEGDL_RETRIES="3").options
    assert (found.connections, found.retries, found.timeout) == (4, 3, 2.0)


def test_a_list_is_replaced_and_not_added_to() -> None:
    found = settings("--select", "a", "--select", "b", SEGDL_SELECT="c,d")
    assert found.options.select == ("a", "b")


def test_the_last_word_wins() -> None:
    assert settings("-c", "4", "-c", "5").options.connections == 5


@pytest.mark.parametrize(
    ("text", "globs"),
    [("a,b", ("a", "b")), ("a, b ,", ("a", "b")), ("a,1\nb", ("a,1", "b")), ("a b", ("a b",))],
)
def test_lists_in_the_environment(text: str, globs: tuple[str, ...]) -> None:
    assert settings(SEGDL_SELECT=text).options.select == globs


def test_headers_in_the_environment_keep_their_commas() -> None:
    found = settings(SEGDL_HEADER="Accept: a, b\nX: y").options.headers
    assert found == (("Accept", "a, b"), ("X", "y"))
    assert settings(SEGDL_HEADER="Accept: a, b").options.headers == (("Accept", "a, b"),)


def test_an_empty_variable_says_nothing() -> None:
    assert settings(SEGDL_PROXY="", SEGDL_RETRIES="") == Settings()


@pytest.mark.parametrize("text", ["0", "false", "False"])
def test_a_flag_can_be_taken_back(text: str) -> None:
    assert not settings(file="overwrite = true", SEGDL_OVERWRITE=text).options.overwrite


def test_the_home_is_found_where_no_shell_was(tmp_path: Path) -> None:
    assert settings(SEGDL_OUTPUT="~/out").output == tmp_path / "out"


# -- which file ------------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_which_file_is_read(tmp_path: Path) -> None:
    write(tmp_path / ".config/segdl/segdl.toml", "retries = 1")
    assert settings().options.retries == 1
    write(tmp_path / "xdg/segdl/segdl.toml", "retries = 2")
    assert settings(XDG_CONFIG_HOME=str(tmp_path / "xdg")).options.retries == 2
    assert settings(file="retries = 3").options.retries == 3
    other = write(tmp_path / "other.toml", "retries = 4")
    assert settings(SEGDL_CONFIG=str(other)).options.retries == 4
    another = write(tmp_path / "another.toml", "retries = 5")
    assert settings("--config", str(another), SEGDL_CONFIG=str(other)).options.retries == 5


def test_a_home_that_cannot_be_entered_holds_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `sudo -u`, which leaves HOME as it was."""
    monkeypatch.setenv("HOME", str(write(tmp_path / "a file", "")))
    assert settings() == Settings()
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".config/segdl/segdl.toml"
    file.mkdir(parents=True)
    assert refusal() == f"{file}: cannot be read (Is a directory)"
    assert refusal("--config", "a file/x").endswith(": cannot be read (Not a directory)")


def test_a_file_that_was_named_must_be_there() -> None:
    assert refusal("--config", "gone.toml") == "gone.toml: there is no such file"
    assert refusal(SEGDL_CONFIG="gone.toml") == "gone.toml: there is no such file"


FILES = [
    ("retires = 3", "segdl.toml: there is no setting retires: did you mean retries?"),
    ("config = 'x'", "segdl.toml: there is no setting config"),
    ("[get]\nretries = 3", "segdl.toml: there is no setting get"),
    ("limit-rate = 1024\nlimit_rate = 2048", "segdl.toml: limit-rate: it stands there twice"),
    ("connections = true", "segdl.toml: connections: expected a text or a number"),
    ("connections = [1]", "segdl.toml: connections: expected a text or a number"),
    ("select = [1]", "segdl.toml: select: expected a list of texts"),
    ("select = {}", "segdl.toml: select: expected a list of texts"),
    ("retries = 1.5", "segdl.toml: retries: expected a whole number, found '1.5'"),
    ("retries = ", "segdl.toml: is not a valid TOML file: Invalid value (at end of document)"),
    ("a" * 2**20 + "=1", "segdl.toml: is not a valid TOML file: it is larger than 1 MiB"),
]


@pytest.mark.parametrize(("file", "expected"), FILES)
def test_what_a_file_must_not_say(file: str, expected: str) -> None:
    assert refusal(file=file) == expected


def test_a_file_of_brackets_or_bytes() -> None:
    assert "not a valid TOML" in refusal(file="x = " + "[" * 100_000)
    Path("segdl.toml").write_bytes(b"retries = '\xff'")
    assert "not a valid TOML" in refusal()
    Path("segdl.toml").unlink()
    Path("segdl.toml").mkdir()
    assert refusal() == "segdl.toml: cannot be read (Is a directory)"


# -- M08 -------------------------------------------------------------------------------------------

NONSENSE = [
    ("segment-size", "0", "expected 64KiB to 1GiB, found 0"),
    ("segment-size", str(2**63), "expected a size below 8 EiB"),
    ("segment-size", "-8MiB", "expected a size such as"),
    ("connections", "0", "expected 1 to 256, found 0"),
    ("connections", "-1", "expected 1 to 256, found -1"),
    ("connections", "1000000", "expected 1 to 256, found 1000000"),
    ("connections", str(2**63), "expected 1 to 256"),
    ("connections", "many", "expected a whole number, found 'many'"),
    ("limit-rate", "-1", "expected a size such as"),
    ("limit-rate", "0", "expected a rate of at least 1KiB"),
    ("retries", "-1", "expected 0 to 10000, found -1"),
    ("patience", "forever", "expected a time such as"),
    ("patience", "31d", "expected 0s to 30d"),
    ("timeout", "0", "expected 0.1 to 86400 seconds"),
    ("timeout", "nan", "expected a time such as"),
    ("shard", "0/4", "expected I/N"),
    ("shard", "5/4", "expected I/N"),
    ("progress", "loud", "expected auto, bar, plain, json, none, found 'loud'"),
    ("ca-file", "gone.pem", "'gone.pem' cannot be read (No such file or directory)"),
    ("cert", "gone.pem", "'gone.pem' cannot be read (No such file or directory)"),
    ("key", "gone.pem", "'gone.pem' cannot be read (No such file or directory)"),
    ("connect-to", "a:b", "expected HOST:PORT:HOST:PORT"),
    ("output", "", "expected a path"),
    ("header", "Range: bytes=0-1", "the header Range is segdl's own to set"),
]


@pytest.mark.parametrize(("name", "text", "expected"), NONSENSE)
def test_nonsense_is_refused_once_with_its_source(name: str, text: str, expected: str) -> None:
    variable = f"SEGDL_{name.upper().replace('-', '_')}"
    assert refusal(f"--{name}={text}").startswith(f"--{name}: {expected}")
    if text:
        assert refusal(**{variable: text}).startswith(f"{variable}: {expected}")
    assert refusal(file=f"{name} = '{text}'").startswith(f"segdl.toml: {name}: {expected}")


def test_every_fault_is_told_also_of_what_is_overridden() -> None:
    message = refusal("-c", "4", "--retries", "x", file="shard = 'y'", SEGDL_CONNECTIONS="z")
    assert [line.partition(": expected")[0] for line in message.splitlines()] == [
        "segdl.toml: shard",
        "SEGDL_CONNECTIONS",
        "--retries",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("header", SECRET),
        ("header", f"Bad name: {SECRET}"),
        ("header", f"Authorization: {SECRET}\x01"),
        ("proxy", f"ftp://user:{SECRET}@proxy"),
        ("proxy", f"http://user:{SECRET}@proxy:1/ x"),
    ],
)
def test_no_fault_shows_a_secret(name: str, text: str) -> None:
    variable = f"SEGDL_{name.upper()}"
    for message in (refusal(f"--{name}", text), refusal(**{variable: text})):
        assert SECRET not in message
        assert name in message.lower()


def test_a_misspelt_option_does_not_show_what_it_was_given() -> None:
    assert SECRET not in refusal("--hedder", f"Authorization: {SECRET}")
    assert SECRET not in refusal(f"--hedder=Authorization: {SECRET}")
    assert SECRET not in refusal(f"-H{SECRET}")
    assert "did you mean --header?" in refusal("--hedder", SECRET)
