"""The command line through real processes: exit codes, signals, streams (FAULTS.md C03, D03)."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from segdl.cli import shell, signals
from segdl.core.errors import StoppedError
from segdl.core.manifest import Manifest
from segdl.version import VERSION
from tests.canary import CANARY
from tests.commands import (
    PATIENCE,
    Ended,
    check_output,
    command,
    environment,
    running,
    segdl,
)
from tests.faults import FaultServer, faults
from tests.orders import NAME, PATH, QUERY, SIZE, Case, Proof, files_under, made, until
from tests.servers import SeaweedFS

DATA = made(SIZE)
SLOW = made(4 * 2**20)  # lasts four seconds at 1 MiB/s
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


def get(case: Case, *arguments: str | Path, **env: str) -> Ended:
    """`segdl order.json -o out …` with little patience."""
    case.manifest()
    quick = ("--retries", "1", "--patience", "1s", "--segment-size", "64KiB")
    return segdl("order.json", "-o", "out", *quick, *arguments, cwd=case.folder, env=env)


# -- words -----------------------------------------------------------------------------------------


def test_version(tmp_path: Path) -> None:
    for word in ("--version", "-V"):
        ended = segdl(word, cwd=tmp_path)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"segdl {VERSION}\n", "")


def imported(folder: Path, *arguments: str | Path) -> set[str]:
    """What `segdl` with these arguments imports until it ends well."""
    direct = {k: v for k, v in environment(folder).items() if not k.lower().endswith("_proxy")}
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", *command(*arguments)[1:]],
        cwd=folder, env=direct, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(re.findall(r"\| +([\w.]+)$", ended.stderr, re.MULTILINE))


def test_version_imports_nothing_that_takes_time(tmp_path: Path) -> None:
    names = imported(tmp_path, "--version")
    assert "segdl.cli" in names
    assert not names & {"argparse", "asyncio", "dataclasses", "h11", "ssl", "tqdm", "xxhash"}


def test_a_plain_order_imports_nothing_that_only_others_need(case: Case) -> None:
    case.put(DATA)
    case.manifest()
    names = imported(case.folder, "order.json", "-o", "out")
    assert "segdl.engine.worker" in names
    others = {
        "asyncio",
        "email.utils",
        "h11",
        "httpx",
        "logging",
        "ssl",
        "tqdm",
        "traceback",
        "urllib.request",
        "yaml",
    }
    assert names & others == set()


def test_the_command_line_reads_many_records_of_tls_at_a_time(
    case: Case, server_tls: ssl.SSLContext, ca_file: Path
) -> None:
    """As nobody else may: the process is its own."""
    with FaultServer(tls=server_tls) as secure:
        secure.put("/big", DATA)
        case.put(DATA, url=secure.url("/big"))
        case.manifest()
        names = imported(case.folder, "order.json", "-o", "out", "--ca-file", ca_file)
    assert "segdl.edges.transport.wire.records" in names
    case.check_delivered()


@pytest.mark.parametrize("name", [None, *shell.COMMANDS])
def test_help_fits_a_screen_and_shows_an_example(name: str | None, tmp_path: Path) -> None:
    for word in ("--help", "-h"):
        ended = segdl(*filter(None, (name, word)), cwd=tmp_path)
        lines = ended.stdout.splitlines()
        assert (ended.returncode, ended.stderr) == (0, "")
        assert len(lines) < 24
        assert max(map(len, lines)) < 80
        assert [line for line in lines if line.startswith("example: segdl ")]


def test_the_help_of_get_has_every_option_of_the_contract(tmp_path: Path) -> None:
    shown = segdl("--help", cwd=tmp_path).stdout + segdl("get", "--help", cwd=tmp_path).stdout
    for word in (
        "--output", "--overwrite", "--connections", "--segment-size", "--limit-rate", "--retries",
        "--patience", "--timeout", "--select", "--exclude", "--shard", "--progress", "--dry-run",
        "--allow-env", "--ca-file", "--proxy", "--connect-to", "--header", "--config", "-o", "-c",
    ):  # fmt: skip
        assert re.search(rf"{word}\b", shown), word


USAGE = [
    ("", "usage: segdl COMMAND ..."),
    ("order order.yaml", "segdl: there is no command and no manifest order: the commands are get,"),
    ("get", "segdl: the following arguments are required: MANIFEST (see segdl get --help)"),
    ("a.yaml b.yaml", "segdl: too many arguments (see segdl get --help)"),
    ("--retires 3 a.yaml", "segdl: there is no option --retires: did you mean --retries?"),
    ("a.yaml --retries", "segdl: --retries: expected one argument (see segdl get --help)"),
    ("a.yaml -c 0", "segdl: --connections: expected 1 to 256, found 0"),
    ("a.yaml", "a.yaml: cannot be read (No such file or directory)"),
    ("./plan", "./plan: cannot be read (No such file or directory)"),
    ("get plan", "plan: cannot be read (No such file or directory)"),
    (f"ftp://host/a?sig={CANARY}", "ftp://host/a: cannot be read (No such file or directory)"),
    (f"http:/host/a?sig={CANARY}", "http:/host/a: cannot be read (No such file or directory)"),
    ("status gone", "segdl: gone is not a folder"),
    ("status .", "segdl: no segdl has worked in .: name the folder of an order"),
    ("verify", "segdl: no segdl has worked in .: name the folder of an order"),
    ("clean", "segdl: no segdl has worked in .: name the folder of an order"),
    ("status a b", "segdl: too many arguments (see segdl status --help)"),
    ("status --jason", "segdl: there is no option --jason: did you mean --json?"),
    ("demo --files 0", "segdl: expected 1 to 1000 files of at least one byte"),
    ("demo --size huge", "segdl: expected a size such as 8MiB"),
]


@pytest.mark.parametrize(("words", "expected"), USAGE)
def test_bad_usage(words: str, expected: str, tmp_path: Path) -> None:
    ended = segdl(*words.split(), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(expected)
    assert not words or ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_scheme_of_a_bare_url_in_capitals(case: Case) -> None:
    case.put(DATA)
    url = case.files[NAME]["url"].replace("http://", "HTTP://")
    assert segdl(url, "-o", "out", cwd=case.folder).returncode == 0
    case.check_delivered()


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_a_folder_in_the_way_is_moved_by_its_owner(overwrite: tuple[str], case: Case) -> None:
    case.put(DATA)
    case.final().mkdir(parents=True)
    ended = get(case, *overwrite)
    assert ended.returncode == 5
    assert f"{NAME} is a folder here: move it away, then run again" in ended.stdout
    assert case.server.requests == []


@pytest.mark.parametrize("output", ["/proc/out", "out"])
def test_an_output_that_cannot_be_made(output: str, case: Case) -> None:
    case.put(DATA)
    case.manifest()
    gone = case.folder / "gone"
    gone.mkdir()
    remove = "import os, sys; os.rmdir(os.getcwd()); from segdl.cli import main; sys.exit(main())"
    ended = subprocess.run(
        # -P: CPython 3.13.0 cannot import `socket` where the folder on its path is gone
        [sys.executable, "-P", "-c", remove, str(case.folder / "order.json"), "-o", output],
        cwd=gone, env=environment(case.folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 5
    assert ended.stderr == f"segdl: {output} cannot be made here: give another folder with -o\n"


def test_names_that_the_locale_cannot_write(case: Case) -> None:
    case.put(DATA, name="grün.7z")
    narrow = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = get(case, **narrow)
    assert ended.returncode == 5
    assert ended.stderr.endswith(
        "segdl: this locale cannot write the order's file names: set LC_ALL=C.UTF-8 and run again\n"
    )
    assert get(case).returncode == 0


def test_a_command_goes_before_a_file_of_its_name(case: Case) -> None:
    case.put(DATA)
    case.manifest().rename(case.folder / "status")
    assert segdl("status", cwd=case.folder).stderr.startswith("segdl: no segdl has worked in .")
    assert segdl("get", "status", "-o", "out", cwd=case.folder).returncode == 0
    (case.folder / "status").rename(case.folder / "order")
    assert segdl("order", "-o", "out", cwd=case.folder).returncode == 0
    case.check_delivered()


# -- where it goes, what it says -------------------------------------------------------------------


def test_one_argument_is_enough(case: Case) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    case.extra["order"] = "SO-1"
    case.manifest()
    ended = segdl("order.json", cwd=case.folder)
    assert (case.folder / "SO-1" / NAME).read_bytes() == DATA
    assert ended.returncode == 0
    assert ended.stdout.splitlines() == [
        "Delivered 1 of 1 file in SO-1: 268.1 KiB",
        ended.stdout.splitlines()[1],
        "Proof: 1 by sha256",
    ]
    assert re.fullmatch(
        rf"Fetched 268\.1 KiB \({SIZE} bytes\) in [\d.]+ s, [\d.]+ .iB/s",
        ended.stdout.splitlines()[1],
    )
    again = segdl("get", "order.json", cwd=case.folder)
    assert again.stdout.splitlines() == [
        "Delivered 1 of 1 file (1 of them here already) in SO-1: 268.1 KiB",
        "Proof: 1 by sha256",
    ]


def test_without_an_order_name_files_go_here(case: Case) -> None:
    case.put(DATA)
    case.manifest()
    assert segdl("order.json", cwd=case.folder).returncode == 0
    assert (case.folder / NAME).read_bytes() == DATA


def test_a_bare_url(case: Case) -> None:
    case.put(DATA)
    ended = segdl(case.server.url(PATH, QUERY), cwd=case.folder)
    assert (ended.returncode, (case.folder / NAME).read_bytes()) == (0, DATA)


def test_a_manifest_on_standard_input(case: Case) -> None:
    case.put(DATA)
    text = case.manifest().read_text(encoding="utf-8")
    ended = segdl("-", "-o", "out", cwd=case.folder, stdin=text)
    assert ended.returncode == 0
    case.check_delivered()


def test_options_may_come_before_the_manifest(case: Case) -> None:
    case.put(DATA)
    case.manifest()
    assert segdl("-o", "out", "-c", "2", "order.json", cwd=case.folder).returncode == 0
    case.check_delivered()


def test_what_wins_in_a_run(case: Case) -> None:
    """The file names an output folder, the environment another, the command line a third."""
    case.put(DATA)
    case.manifest()
    (case.folder / "segdl.toml").write_text("output = 'by-file'\nprogress = 'json'")
    assert json.loads(segdl("order.json", cwd=case.folder).stdout.splitlines()[0])
    env = {"SEGDL_OUTPUT": "by-environment", "SEGDL_PROGRESS": "none"}
    assert segdl("order.json", cwd=case.folder, env=env).stdout.startswith("Delivered 1")
    segdl("order.json", "-o", "by-word", cwd=case.folder, env=env)
    assert {p.parent.name for p in case.folder.rglob(NAME)} == {
        "by-file", "by-environment", "by-word",
    }  # fmt: skip


def test_several_grades_and_a_server_that_cannot_resume(case: Case) -> None:
    case.put(DATA, "/digest.7z", proof=Proof.DIGEST)
    case.put(DATA, "/etag.7z")
    case.put(DATA, "/pinned.7z", etag='"no-md5"')
    case.put(DATA, "/nothing.7z", proof=Proof.NOTHING)
    case.server.script("/nothing.7z", faults.whole_200())
    ended = get(case)
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert lines[2] == (
        "Proof: 1 by sha256, 1 by an ETag that is their MD5, "
        "1 pinned by ETag (no digest was given), 1 UNVERIFIED (neither digest nor strong ETag)"
    )
    assert lines[3] == "Their server cannot resume: nothing.7z"


def test_a_dry_run_tells_and_does_nothing(case: Case) -> None:
    case.put(DATA, "/here.7z", proof=Proof.DIGEST)
    assert get(case).returncode == 0
    case.files["here.7z"]["url"] += "&X-Amz-Date=20231213T080000Z&X-Amz-Expires=60"
    case.put(DATA, "/missing.7z")
    case.put(DATA, "/unknown.7z", sized=False)
    case.put(DATA, "/found.7z")
    case.put(DATA, "/ended.7z", query=f"X-Amz-Date=20231213T080000Z&X-Amz-Expires=60&{QUERY}")
    case.final("found.7z").write_bytes(DATA)
    case.server.forget()
    before = {path: path.stat().st_mtime_ns for path in files_under(case.out)}
    ended = get(case, "--dry-run")
    assert ended.returncode == 0
    assert ended.stdout.splitlines() == [
        "here already          268.1 KiB  here.7z",
        "fetch                 268.1 KiB  missing.7z",
        "fetch                         ?  unknown.7z",
        "check what is here    268.1 KiB  found.7z",
        "fetch                 268.1 KiB  ended.7z",
        "4 files of 5 to fetch or check; 804.2 KiB and 1 of unknown size",
        "The links of 1 file have expired, by this machine's clock: get a fresh manifest",
    ]
    assert case.server.requests == []
    assert {path: path.stat().st_mtime_ns for path in files_under(case.out)} == before


def test_a_dry_run_makes_no_folder(case: Case) -> None:
    case.put(DATA)
    assert get(case, "--dry-run").returncode == 0
    assert not case.out.exists()


def test_a_part_of_an_order(case: Case) -> None:
    for number in range(4):
        case.put(DATA, f"/{number}.7z")
    assert get(case, "--select", "[0-2].7z", "--exclude", "1*").returncode == 0
    assert {path.name for path in case.out.glob("*.7z")} == {"0.7z", "2.7z"}
    ended = get(case, "--select", "*.zip")
    assert (ended.returncode, ended.stderr) == (2, "segdl: --select matches no file of the order\n")


def test_shards_are_disjoint_and_complete(case: Case) -> None:
    for number in range(8):
        case.put(DATA, f"/{number}.7z")
    got = [json.loads(get(case, "--shard", f"{n}/3", "--progress", "json").stdout.splitlines()[-1])
           for n in (1, 2, 3)]  # fmt: skip
    assert sum(event["delivered"] for event in got) == 8
    case.check_delivered()


# -- exit codes ------------------------------------------------------------------------------------


def test_0_with_nothing_on_standard_error_when_told_to_be_silent(case: Case) -> None:
    case.put(DATA)
    ended = get(case, "--progress", "none")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_1_for_different_reasons(case: Case) -> None:
    case.put(DATA, "/gone.7z")
    case.put(DATA, "/there.7z")
    case.server.remove("/gone.7z")
    case.out.mkdir()
    case.final("there.7z").write_bytes(b"another")
    case.may_hold("there.7z", b"another")
    ended = get(case)
    assert ended.returncode == 1
    assert "Failed: 2 files" in ended.stdout
    assert ended.stdout.splitlines()[-1] == (
        "Mend what each of them says and run again: segdl order.json -o out (what is held stays)"
    )


def test_2_with_every_fault_of_a_manifest(tmp_path: Path) -> None:
    files = [{"path": "../x", "url": "ftp://h/x"}]
    (tmp_path / "order.json").write_text(json.dumps({"segdl": "1", "files": files}))
    ended = segdl("order.json", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert all(line.startswith("order.json:1: files[0]") for line in ended.stderr.splitlines())
    assert len(ended.stderr.splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["order.json"]


def test_3_for_links_that_expired_and_the_rest_is_done(case: Case) -> None:
    case.put(DATA, "/good.7z")
    case.put(DATA, "/ended.7z")
    case.server.script("/ended.7z", faults.EXPIRED["MinIO"])
    ended = get(case)
    assert ended.returncode == 3
    assert case.final("good.7z").read_bytes() == DATA
    failed = ended.stdout.splitlines()[-2]
    assert failed.startswith("  ended.7z: the link has expired (403 AccessDenied: Request has ")
    assert re.search(r"\(request id REQ\d+\)$", failed)
    assert ended.stdout.splitlines()[-1] == (
        "Get a fresh manifest and run: segdl NEW.yaml -o out (what is held stays)"
    )


def test_4_for_content_that_is_not_what_was_promised(case: Case) -> None:
    case.put(DATA, hash={"sha256": "0" * 64})
    ended = get(case)
    assert ended.returncode == 4
    assert not case.final().exists()
    assert ended.stdout.splitlines()[-1].startswith("Tell the publisher")


def test_5_for_a_file_in_the_way_and_overwrite_replaces_it(case: Case) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    case.out.mkdir()
    case.final().write_bytes(b"another")
    case.may_hold(NAME, b"another", DATA)
    ended = get(case)
    assert (ended.returncode, case.final().read_bytes()) == (5, b"another")
    assert "--overwrite" in ended.stdout
    assert get(case, "--overwrite").returncode == 0
    assert case.final().read_bytes() == DATA


def test_5_for_an_output_that_is_a_file(case: Case) -> None:
    """D03."""
    case.put(DATA)
    case.out.write_bytes(b"a file")
    ended = get(case)
    assert (ended.returncode, ended.stdout) == (5, "")
    assert ended.stderr == "segdl: out is a file: give another folder with -o\n"
    assert case.server.requests == []


def test_6_while_another_is_at_work(case: Case) -> None:
    case.put(SLOW)
    case.manifest()
    slowly = ("order.json", "-o", "out", "--limit-rate", "64KiB", "--progress", "json")  # a minute
    with running(*slowly, cwd=case.folder) as first:
        first.until(lambda event: event["event"] == "order_started")
        ended = get(case)
        cleaned = segdl("clean", "out", "--yes", cwd=case.folder)
        assert (ended.returncode, cleaned.returncode) == (6, 6)
        assert f"(process {first.process.pid})" in ended.stderr
        assert first.stop(signal.SIGTERM)[0] == 143


def test_7_for_a_server_that_breaks_every_answer(case: Case) -> None:
    case.put(DATA)
    case.server.script(PATH, faults.cut(0))
    ended = get(case, "--retries", "0")
    assert ended.returncode == 7
    assert ended.stdout.splitlines()[-1].startswith("Run again when the server can be reached: ")


def test_7_for_a_host_that_is_down(case: Case) -> None:
    case.put(DATA)
    ended = get(case, "--connect-to", f"127.0.0.1:{case.server.port}:127.0.0.1:1", "--patience=0")
    assert ended.returncode == 7


def test_many_failures_are_counted(case: Case) -> None:
    for number in range(30):
        case.put(b"x", f"/{number:02}.7z")
        case.server.remove(f"/{number:02}.7z")
    lines = get(case).stdout.splitlines()
    assert "Failed: 30 files" in lines
    at = lines.index("Failed: 30 files")
    assert lines[at + 1].startswith("  nothing is there (404 ")  # the reason once
    assert lines[at + 2 : at + 22] == [f"    {number:02}.7z" for number in range(20)]
    assert "  and 10 more" in lines


def test_no_secret_in_anything(case: Case) -> None:
    """Promise 12, with every secret there is; `segdl` itself checks what is printed."""
    case.put(DATA, "/good.7z")
    case.put(DATA, "/refused.7z")
    case.server.script("/refused.7z", faults.s3_error(403, "AccessDenied", f"no {CANARY} here"))
    header = ("--header", f"X-Token: {CANARY}")
    ended = get(case, *header, "--progress", "json", SEGDL_DEBUG="1")
    assert ended.returncode == 3
    assert not [p for p in files_under(case.out) if CANARY.encode() in p.read_bytes()]
    assert case.server.requests[0].headers["x-token"] == CANARY


# -- what nobody expected --------------------------------------------------------------------------


@pytest.mark.parametrize("debug", ["", "0", "1"])
def test_what_nobody_expected(
    debug: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> object:
        raise LookupError(f"https://host/key?X-Amz-Signature={CANARY} {Manifest(())}")

    monkeypatch.setattr(shell, "import_module", broken)
    monkeypatch.setenv("SEGDL_DEBUG", debug)
    assert shell.run(["status"]) == 1
    out, err = capsys.readouterr()
    assert (out, CANARY in err) == ("", False)
    assert err.splitlines()[-1].startswith("segdl: unexpected LookupError at test_cli.py:")
    assert ("Traceback" in err) == (debug == "1")
    assert "https://host/key?..." in err or debug != "1"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_a_machine_that_gives_no_more(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(name: str) -> object:
        raise error

    monkeypatch.setattr(shell, "import_module", failing)
    assert shell.run(["status"]) == 5
    err = capsys.readouterr().err
    assert err.startswith("segdl: this machine gives no more memory, or no more threads: free some")


def test_too_little_memory_for_an_order(case: Case) -> None:
    case.put(SLOW)
    case.manifest()
    little = (
        "import resource\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, size + 2**26))"
    )
    with running("order.json", "-o", "out", cwd=case.folder, prepare=little) as child:
        _, err = child.process.communicate(timeout=PATIENCE)
    check_output(err)
    assert child.process.returncode == 5
    assert "segdl: this machine gives no more memory, or no more threads" in err
    assert not (case.folder / "out" / PATH).exists()


def test_the_files_that_may_be_open_are_as_many_as_the_system_allows(case: Case) -> None:
    """Most systems begin with 1,024, which 256 connections are too many for."""
    case.put(DATA)
    case.manifest()
    few = (
        "import resource\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (12, hard))"
    )
    with running("order.json", "-o", "out", cwd=case.folder, prepare=few) as child:
        out, _ = child.process.communicate(timeout=PATIENCE)
    assert child.process.returncode == 0, out
    case.check_delivered()


def test_a_disk_that_fails_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(name: str) -> object:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(shell, "import_module", failing)
    assert shell.run(["status"]) == 5
    assert capsys.readouterr().err == (
        "segdl: segdl may not work there (Read-only file system): mend the rights and run again\n"
    )


# -- signals (C03) ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_it_and_a_later_run_fetches_the_rest(
    number: signal.Signals, case: Case
) -> None:
    """At once, long before all has come, and not because its grace was over."""
    case.put(SLOW, proof=Proof.DIGEST)
    case.manifest()
    slowly = ("order.json", "-o", "out", "--segment-size", "512KiB", "--progress", "json")
    end = len(SLOW) - 2**19
    case.server.script(PATH, faults.blackhole(), on=lambda r: r.range == (end, len(SLOW)))
    with running(*slowly, "--limit-rate", "1MiB", cwd=case.folder, patient=True) as child:
        child.until(lambda event: event["event"] == "progress" and event["bytes"] > 2**20)
        code, err = child.stop(number)
    assert code == 128 + number
    assert not case.final().exists()
    assert "Stopped. To go on, run: segdl order.json -o out (what is held stays)" in err
    case.server.mend()
    case.server.forget()
    ended = segdl(*slowly, cwd=case.folder)
    started = json.loads(ended.stdout.splitlines()[0])
    assert ended.returncode == 0
    assert started["held"] > 2**20
    assert case.server.sent() == len(SLOW) - started["held"]
    case.check_delivered()


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_before_anything_is_fetched(number: signal.Signals, tmp_path: Path) -> None:
    """It waits for a manifest that does not come, from a pipe."""
    pipe = tmp_path / "order.yaml"
    os.mkfifo(pipe)
    with running(pipe, cwd=tmp_path, patient=True) as child, pipe.open("w"):  # open when it reads
        code, err = child.stop(number)
    assert code == 128 + number
    assert err == "segdl: stopped; all that was fetched is kept\n"


@pytest.mark.parametrize("how", ["json", "plain", "none"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_signal_while_nobody_reads_what_is_written(unbuffered: str, how: str, case: Case) -> None:
    """As under a pager that shows its first page: no write to a pipe that is full comes back."""
    case.put(SLOW, proof=Proof.DIGEST)
    case.manifest()
    source, full = os.pipe()
    os.set_blocking(full, False)
    with suppress(BlockingIOError):
        while True:
            os.write(full, bytes(512))
    os.set_blocking(full, True)
    words = ("order.json", "-o", "out", "--limit-rate", "64KiB", "--progress", how)
    env = {"PYTHONUNBUFFERED": unbuffered}
    with running(*words, cwd=case.folder, env=env, stdout=full, stderr=full) as child:
        os.close(full)
        until((case.folder / "out/.segdl/order.json").exists)
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(timeout=PATIENCE) == 143  # what hangs there hangs for ever
    os.close(source)


STUBBORN = r"""
import os, sys, time
from segdl.cli import signals
from segdl.cli.signals import Signals
from segdl.engine.control import Control
signals.GRACE = float(sys.argv[1])
class Stubborn(Control):
    def cancel(self, code):
        os.write(1, b"heard\n")
with Signals() as signals, signals.steering(Stubborn()):
    os.write(1, b"ready\n")
    while True:
        time.sleep(60)
"""


@pytest.mark.parametrize(("signals", "grace"), [(1, 0.5), (2, 1000.0)])
def test_what_does_not_heed_the_first_signal_ends_by_the_second_or_by_itself(
    signals: int, grace: float, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN, str(grace)],
        env=environment(tmp_path), stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None
            for said in (b"ready\n", b"heard\n")[:signals]:
                assert child.stdout.readline() == said
                began = time.monotonic()
                child.send_signal(signal.SIGTERM)
            assert child.wait(timeout=PATIENCE) == 143
            assert signals > 1 or time.monotonic() - began >= grace
        finally:
            child.kill()


def test_the_grace_is_less_than_two_seconds() -> None:
    assert 0 < signals.GRACE < 2.0


def test_a_signal_waits_for_what_must_not_be_torn_apart() -> None:
    done = False
    with signals.Signals() as heard, pytest.raises(StoppedError) as stopped, heard.held():
        signal.raise_signal(signal.SIGTERM)
        done = True
    assert (done, stopped.value.exit_code) == (True, 143)


def test_nohup_is_heeded(case: Case) -> None:
    case.put(SLOW)
    case.manifest()
    ignore = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    words = ("order.json", "-o", "out", "--limit-rate", "2MiB", "--progress", "json")
    with running(*words, cwd=case.folder, prepare=ignore) as child:
        child.until(lambda event: event["event"] == "progress")
        assert child.stop(signal.SIGHUP)[0] == 0
    case.check_delivered()


# -- streams that vanish ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["json", "plain", "bar"])
def test_a_reader_that_leaves_stops_nothing(how: str, case: Case) -> None:
    """SIGPIPE: standard output or standard error is a pipe that nobody reads any more."""
    case.put(SLOW, proof=Proof.DIGEST)
    case.manifest()
    words = ("order.json", "-o", "out", "--limit-rate", "4MiB", "--progress", how)
    with running(*words, cwd=case.folder) as child:
        gone, kept = child.process.stdout, child.process.stderr
        if how != "json":
            gone, kept = kept, gone
        assert gone is not None and kept is not None
        assert gone.read(1)
        gone.close()
        check_output(kept.read())
        assert child.process.wait(timeout=PATIENCE) == 0
    case.check_delivered()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed_from_the_start(closed: tuple[int, ...], case: Case) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    case.manifest()
    close = "\n".join(f"os.close({number})" for number in closed)
    with running("order.json", "-o", "out", cwd=case.folder, prepare=close) as child:
        out, err = child.process.communicate(timeout=PATIENCE)
        assert child.process.returncode == 0
        assert ("Delivered" in out) == (1 not in closed)
        check_output(err)
    case.check_delivered()


def test_no_file_takes_the_place_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    """What is written to standard error would else land in the first file that was opened."""
    opening = (
        "import os\n"
        "from segdl.cli.streams import sheltered\n"
        "os.closerange(0, 3)\n"
        "with sheltered():\n"
        "    file = os.open('first', os.O_CREAT | os.O_WRONLY)\n"
        "    os.write(file, str(file).encode())\n"
    )
    subprocess.run(
        [sys.executable, "-c", opening], cwd=tmp_path, env=environment(tmp_path), check=True
    )
    assert int((tmp_path / "first").read_text()) > 2


def test_no_manifest_on_a_closed_standard_input(tmp_path: Path) -> None:
    with running("-", cwd=tmp_path, prepare="os.close(0)") as child:
        _, err = child.process.communicate(timeout=PATIENCE)
    check_output(err)
    assert child.process.returncode == 2
    assert err.startswith("<stdin>")


def test_status_to_a_reader_that_leaves(case: Case) -> None:
    """`segdl status | head -0` says nothing of it."""
    case.put(DATA)
    assert get(case).returncode == 0
    with running("status", "out", cwd=case.folder) as child:
        assert child.process.stdout is not None and child.process.stderr is not None
        child.process.stdout.close()
        assert (child.process.stderr.read(), child.process.wait()) == ("", 0)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("status", "out"), 5),
        (("status", "out", "--json"), 5),
        (("verify", "out"), 5),
        (("plan", "order.json", "-o", "out"), 5),
        (("get", "order.json", "-o", "out"), 0),  # its result are the files
        (("--version",), 1),
    ],
)
def test_a_result_that_the_disk_does_not_take(
    words: tuple[str, ...], code: int, unbuffered: str, case: Case
) -> None:
    """An empty `status.json` and exit code 0 would be believed."""
    case.put(DATA)
    assert get(case).returncode == 0
    env = {"PYTHONUNBUFFERED": unbuffered}
    with (
        Path("/dev/full").open("wb") as full,
        running(*words, cwd=case.folder, env=env, stdout=full) as child,
    ):
        assert child.process.stderr is not None
        err = child.process.stderr.read()
        assert child.process.wait(timeout=PATIENCE) == code
    check_output(err)
    told = "segdl: the disk takes no more (No space left on device): free some room and run again"
    assert (told in err) == (code == 5)


def test_an_output_whose_name_is_no_text(case: Case) -> None:
    case.put(DATA)
    case.manifest()
    output = os.fsdecode(b"o\xff")
    for words in (("plan", "order.json", "-o", output), ("order.json", "-o", output)):
        ended = segdl(*words, cwd=case.folder)
        assert (ended.returncode, "locale" in ended.stderr) == (0, False), ended.stderr
        assert "o\\udcff" in ended.stdout
    for name in ("status", "verify"):
        assert segdl(name, output, cwd=case.folder).returncode == 0


def test_names_that_the_terminal_cannot_show(case: Case) -> None:
    case.put(DATA, "/a", name="пломба-Ω.7z")
    env = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    ended = get(case, **env)
    assert ended.returncode == 0
    assert segdl("status", "out", "--json", cwd=case.folder, env=env).returncode == 0
    case.final("пломба-Ω.7z").unlink()
    shown = segdl("status", "out", cwd=case.folder, env=env).stdout
    assert "\\u043f\\u043b\\u043e\\u043c\\u0431\\u0430-\\u03a9.7z" in shown


# -- NDJSON ----------------------------------------------------------------------------------------


def test_ndjson_is_alone_on_standard_output(case: Case) -> None:
    case.put(DATA, "/good.7z")
    case.put(DATA, "/gone.7z")
    case.server.remove("/gone.7z")
    ended = get(case, "--progress", "json")
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["order_started", "order_finished"]
    assert {"target_started", "progress", "segment_done", "target_done", "target_failed"} <= {
        event["event"] for event in events
    }
    for event in events:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
    assert events[-1] == {
        "event": "order_finished", "time": events[-1]["time"], "delivered": 1, "failed": 1,
        "bytes": SIZE, "seconds": events[-1]["seconds"], "exit_code": ended.returncode,
    }  # fmt: skip
    assert "Delivered 1 of 2 files in out" in ended.stderr


def test_what_was_there_already_is_told_too(case: Case) -> None:
    case.put(DATA)
    get(case)
    events = [json.loads(line) for line in get(case, "--progress", "json").stdout.splitlines()]
    done = [event for event in events if event["event"] == "target_done"]
    assert [(event["target"], event["fetched"]) for event in done] == [(NAME, False)]


# -- demo ------------------------------------------------------------------------------------------


def test_the_demo(seaweed: SeaweedFS, tmp_path: Path) -> None:
    """Small, but with all that it shows. It starts a server of its own: `seaweed` only skips."""
    words = ("demo", "--files", "6", "--size", "4MiB", "--dir", tmp_path / "here")
    ended = segdl(*words, cwd=tmp_path, env={"SEGDL_LIMIT_RATE": "1KiB"})
    assert ended.returncode == 0
    total = int(re.findall(r"of (\d+) bytes were held", ended.stdout)[0])
    held = int(re.findall(r"held by the first run: (\d+) bytes", ended.stdout)[0])
    fetched = int(re.findall(r"fetched by the second run: (\d+) bytes", ended.stdout)[0])
    assert total // 2 <= held <= total < 6 * 4 * 2**20
    assert fetched == total - held
    assert "of what was held, fetched again: 0 bytes" in ended.stdout
    assert "6 good" in ended.stdout
    assert "X-Amz" not in ended.stdout + ended.stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_the_demo_cleans_up_after_ctrl_c(seaweed: SeaweedFS, tmp_path: Path) -> None:
    words = ("demo", "--files", "4", "--size", "4MiB", "--dir", tmp_path / "here")
    with running(*words, cwd=tmp_path) as child:
        assert child.process.stdout is not None
        for line in child.process.stdout:
            if line.startswith("$ segdl get"):
                break
        pid = child.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert child.stop(signal.SIGINT)[0] == 130
    assert list((tmp_path / "here").iterdir()) == []
    assert children
    until(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()])


DEMO = "import segdl.cli; sys.exit(segdl.cli.main(['demo']))"


@pytest.mark.parametrize("missing", ["boto3", "program"])
def test_the_demo_without_its_extra(missing: str, tmp_path: Path) -> None:
    """Without boto3, or with boto3 and without any server."""
    hidden = "sys.modules['boto3'] = None"
    if missing == "program":
        hidden = "import segdl.publish.servers as s; s.find = lambda *names: None"
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; {hidden}; {DEMO}"],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == ("segdl: the demo needs its own S3 server: pip install 'segdl[demo]'\n")
