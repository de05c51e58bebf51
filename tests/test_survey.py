"""`segdl plan`, as its users meet it: what it finds, what it leaves behind, what it costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from segdl.core.errors import ExitCode
from segdl.core.urls import parse_url
from segdl.edges.lock import Lock
from segdl.edges.trial import try_out
from segdl.engine.audit import status
from segdl.engine.inquiry import SILENCES
from segdl.engine.sampling import SAMPLED, STRANDS
from tests.canary import CANARY
from tests.commands import Ended, Terminal, running, segdl
from tests.faults import EVERY_PATH, Fault, FaultServer, faults
from tests.orders import (
    NAME,
    PATH,
    QUERY,
    SEGMENT,
    SIZE,
    Case,
    Proof,
    files_under,
    made,
    until,
)
from tests.servers import S3Server

DATA = made(SIZE)
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="wants root, to mount")


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


def signed(seconds: int) -> str:
    """The query of a link that ends in so many seconds."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{QUERY}&X-Amz-Date={now}&X-Amz-Expires={seconds}"


def plan(case: Case, *arguments: str | Path, **env: str) -> Ended:
    """`segdl plan order.json -o out …`; nothing is left behind."""
    case.manifest()
    before = set(files_under(case.folder)) | set(case.folder.rglob("*"))
    ended = segdl("plan", "order.json", "-o", "out", *arguments, cwd=case.folder, env=env)
    after = set(files_under(case.folder)) | set(case.folder.rglob("*"))
    assert after == before
    assert all(request.method == "GET" for request in case.server.requests)
    return ended


def planned(case: Case, *arguments: str | Path, **env: str) -> dict[str, Any]:
    """The same as one JSON document."""
    ended = plan(case, "--json", *arguments, **env)
    assert ended.stderr == ""
    found: dict[str, Any] = json.loads(ended.stdout)
    assert found["exit_code"] == ended.returncode
    assert found["go"] == (ended.returncode == 0)
    return found


def problem(found: dict[str, Any], path: str = NAME) -> dict[str, Any] | None:
    """What a target would fail with."""
    (wanted,) = [t for t in found["targets"] if t["path"] == path]
    told: dict[str, Any] | None = wanted["problem"]
    return told


def notes(found: dict[str, Any]) -> str:
    return "\n".join(note["text"] for note in found["notes"])


# -- go ------------------------------------------------------------------------------------------


def test_an_order_that_can_be_done(case: Case) -> None:
    for n in range(3):
        case.put(DATA, f"/orders/{n}.7z", query=signed(7190))
    ended = plan(case, "--rate", "2MiB")
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.splitlines()[-1] == "GO: segdl order.json -o out"
    words = " ".join(ended.stdout.split())
    assert f"good: 127.0.0.1:{case.server.port} 3 of 3; the first ends in 1 h 59 min" in words
    assert "legal here and on Windows" in ended.stdout


def test_links_end_by_the_server_s_clock_in_the_table_too(case: Case) -> None:
    """Where this machine's is two hours ahead."""
    there = formatdate(time.time() - 7200, usegmt=True)
    signed_there = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - 7200))
    case.put(DATA, query=f"{QUERY}&X-Amz-Date={signed_there}&X-Amz-Expires=3590")
    case.server.script(EVERY_PATH, lambda wire, request, answer: answer.having(Date=there))
    ended = plan(case)
    assert "the first ends in 59 min" in " ".join(ended.stdout.split())
    assert "clock is 120 minutes ahead" in " ".join(ended.stdout.split())


def test_what_is_brought_along_counts(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where it can be proved: the links may be as bad as they like, as for `get`."""
    stick = tmp_path_factory.mktemp("stick")
    case.put(DATA, proof=Proof.DIGEST)
    case.put(DATA, "/orders/unproved.7z")
    case.server.script(EVERY_PATH, faults.EXPIRED["MinIO"])
    (stick / "any name").write_bytes(DATA)
    found = planned(case, "--from", stick)
    assert problem(found) is None
    assert "a file in --from may be all of it" in notes(found)
    assert "the link has expired" in notes(found)
    assert problem(found, "unproved.7z") is not None
    (stick / "any name").write_bytes(DATA[:-1])
    assert problem(planned(case, "--from", stick)) is not None


def test_what_is_here_is_not_asked_for(case: Case) -> None:
    case.put(DATA)
    case.run().report.raise_for_failures()
    case.server.forget()
    found = planned(case)
    assert (found["exit_code"], found["seconds"], found["bytes"]["left"]) == (0, 0, 0)
    assert found["targets"][0]["delivered"]
    assert not case.server.requests


def test_the_shape_of_the_document(case: Case) -> None:
    """docs/plan.md describes it."""
    case.put(DATA, query=signed(3600))
    found = planned(case, "--rate", "1MiB")
    assert set(found) == {
        "go", "exit_code", "order", "directory", "time", "bytes", "disk", "rate", "seconds",
        "hosts", "problems", "notes", "targets",
    }  # fmt: skip
    assert found["bytes"] == {"total": SIZE, "held": 0, "left": SIZE}
    assert found["rate"] == {"bytes_per_second": 2**20, "source": "given"}
    assert set(found["disk"]) == {
        "free", "needed", "longest_name", "longest_path", "case_sensitive",
    }  # fmt: skip
    host = f"127.0.0.1:{case.server.port}"
    assert found["hosts"] == [{"host": host, "links": 1, "good": 1, "rate": None}]
    (target,) = found["targets"]
    assert set(target) == {
        "path", "size", "delivered", "held", "left", "ends_at", "problem", "links",
    }  # fmt: skip
    (link,) = target["links"]
    assert set(link) == {"url", "good", "size", "etag", "ranges", "ends_at", "problem"}
    assert (link["url"], link["good"], link["size"]) == (case.server.url(PATH), True, SIZE)
    documented = (Path(__file__).parents[1] / "docs" / "plan.md").read_text(encoding="utf-8")
    for key in (*found, *target, *link, *found["disk"], *found["bytes"]):
        assert f"`{key}`" in documented, key


# -- no-go: the links ------------------------------------------------------------------------------


def test_a_wrong_size(case: Case) -> None:
    case.put(DATA, size=str(SIZE + 1))
    found = planned(case)
    told = problem(found)
    assert found["exit_code"] == ExitCode.CONTENT
    assert told and told["cause"] == "size"
    assert f"{SIZE} bytes long, the manifest says {SIZE + 1}" in told["message"]


def test_wrong_pieces(case: Case) -> None:
    pieces = {"size": str(SEGMENT), "algorithm": "xxh3_64", "values": ["0" * 16] * 3}
    case.put(DATA, sized=False, pieces=pieces)
    found = planned(case)
    assert found["exit_code"] == ExitCode.CONTENT
    assert "3 pieces" in str(problem(found))


def test_a_dead_host(case: Case) -> None:
    case.put(DATA, url="http://127.0.0.1:1/orders/a.7z?" + QUERY)
    ended = plan(case)
    assert ended.returncode == ExitCode.NETWORK
    assert "127.0.0.1:1 cannot be reached" in ended.stdout
    assert "NO-GO (7): Run again when the server can be reached" in ended.stdout


def test_a_dead_host_is_not_asked_for_every_file(case: Case) -> None:
    case.server.script(EVERY_PATH, faults.slow_down(retry_after=60))
    for n in range(40):
        case.put(DATA, f"/orders/{n}.7z")
    found = planned(case, "-c", "2")
    assert found["exit_code"] == ExitCode.NETWORK
    assert all(t["problem"]["request_id"] for t in found["targets"])
    assert len(case.server.requests) <= 2 * (SILENCES + 1)


def test_a_refused_link_with_the_servers_words(case: Case) -> None:
    case.put(DATA)
    refuse = faults.s3_error(403, "InvalidAccessKeyId", "No such key.", request_id="17B-REQ")
    case.server.script(PATH, refuse)
    ended = plan(case)
    assert ended.returncode == ExitCode.LINKS
    words = " ".join(ended.stdout.split())
    assert "403 InvalidAccessKeyId: No such key." in words
    assert "(request id 17B-REQ)" in words
    assert "NO-GO (3): Get a fresh manifest and run: segdl NEW.yaml -o out" in words


def test_a_link_that_has_expired_and_one_that_leads_to_nothing(case: Case) -> None:
    case.put(DATA)
    case.server.script(PATH, faults.EXPIRED["AWS"])
    case.put(DATA, "/orders/b.7z")
    case.server.remove("/orders/b.7z")
    found = planned(case)
    assert found["exit_code"] == ExitCode.LINKS
    assert [t["problem"]["cause"] for t in found["targets"]] == ["expired", "refused"]


def test_a_link_that_ends_before_its_turn(case: Case) -> None:
    case.put(DATA, "/orders/a.7z", query=signed(7200))
    case.put(DATA, "/orders/b.7z", query=signed(100))
    found = planned(case, "--rate", "1KiB")
    assert found["exit_code"] == ExitCode.LINKS
    assert problem(found, "a.7z") is None
    told = problem(found, "b.7z")
    assert told and told["cause"] == "expiring"
    assert "get a manifest whose links last longer" in told["message"]
    case.extra["refresh"] = case.server.url("/fresh")
    again = planned(case, "--rate", "1KiB")
    assert again["exit_code"] == 0
    assert "`refresh` has to give a fresh one" in notes(again)


def test_the_limit_counts_as_the_rate(case: Case) -> None:
    case.put(DATA, query=signed(100))
    found = planned(case, "--limit-rate", "1KiB")
    assert found["rate"] == {"bytes_per_second": 1024, "source": "limit"}
    assert found["exit_code"] == ExitCode.LINKS


def test_failures_of_two_kinds(case: Case) -> None:
    case.put(DATA, size="1")
    case.put(DATA, "/orders/b.7z")
    case.server.remove("/orders/b.7z")
    assert planned(case)["exit_code"] == ExitCode.MIXED


def test_a_range_that_is_ignored(case: Case) -> None:
    case.put(DATA)
    case.server.script(PATH, faults.whole_200())
    found = planned(case)
    assert found["exit_code"] == 0
    assert "its server ignores ranges" in notes(found)
    assert found["targets"][0]["links"][0]["ranges"] is False


def test_every_mirror_is_asked_and_a_dead_one_is_named(case: Case) -> None:
    dead, second = f"http://127.0.0.1:1/a?{QUERY}", "/mirror/a.7z"
    case.server.put(second, DATA)
    urls = [dead, case.server.url(PATH, QUERY), case.server.url(second, QUERY)]
    case.put(DATA, urls=urls)
    found = planned(case, "--rate", "1MiB")
    assert found["exit_code"] == 0
    assert "the mirror 127.0.0.1:1 is of no use: 127.0.0.1:1 cannot be reached" in notes(found)
    assert sorted(request.path for request in case.server.requests) == [second, PATH]
    case.server.put(second, made(SIZE, 2))
    assert "has another object than" in notes(planned(case))


def test_a_transient_fault_is_asked_about_once_more(case: Case) -> None:
    case.put(DATA)
    case.put(DATA, "/orders/b.7z")
    case.server.script(PATH, faults.hang_up(), on=1)
    case.server.script("/orders/b.7z", faults.slow_down(retry_after=1), on=1)
    assert planned(case, "--rate", "1MiB")["exit_code"] == 0
    assert len(case.server.requests) == 4


# -- no-go: the disk -------------------------------------------------------------------------------


def test_too_little_space(case: Case) -> None:
    size = 2**62
    case.put(DATA, size=str(size))
    case.server.script(PATH, faults.total_other(size))
    ended = plan(case)
    assert ended.returncode == ExitCode.DISK
    assert "the disk has too little room" in ended.stdout
    found = planned(case)
    (told,) = found["problems"]
    assert told["cause"] == "disk_full"
    assert str(found["disk"]["needed"] - found["disk"]["free"]) in told["message"]


@AS_ROOT
def test_two_that_fit_one_by_one_but_not_together(case: Case) -> None:
    for n in range(2):
        case.put(made(800_000, n), f"/orders/{n}.7z")
    with small_disk(case.out):
        assert planned(case)["problems"][0]["cause"] == "disk_full"
        assert planned(case, "--select", "0.7z")["exit_code"] == 0
        assert case.run().code is ExitCode.DISK  # as `get` finds


@AS_ROOT
def test_two_of_one_segment_each_need_no_more_than_their_sizes(case: Case) -> None:
    for n in range(2):
        case.put(made(600_000, n), f"/orders/{n}.7z")
    with small_disk(case.out):
        assert planned(case)["exit_code"] == 0
        assert case.run(segment_size=2**20).code is ExitCode.DONE


@contextmanager
def small_disk(folder: Path, how: str = "rw") -> Iterator[None]:
    """A file system of 1.5 MiB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size=1536k,{how}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_bad_name(case: Case) -> None:
    case.put(DATA, path="x")
    case.files["x"]["path"] = "chips/NUL.7z"
    ended = plan(case)
    assert ended.returncode == ExitCode.USAGE
    assert "keeps for a device" in ended.stderr
    assert not case.server.requests


def test_an_output_that_cannot_be_written_to(case: Case) -> None:
    case.put(DATA)
    case.manifest()
    ended = segdl("plan", "order.json", "-o", "/proc/here", cwd=case.folder)
    assert ended.returncode == ExitCode.DISK
    assert "NO-GO (5)" in ended.stdout
    case.out.write_text("a file")
    ended = plan(case)
    assert ended.returncode == ExitCode.DISK
    assert "out is a file: give another folder with -o" in ended.stdout


@AS_ROOT
def test_rights_are_tried_and_not_read_from_modes(case: Case) -> None:
    case.put(DATA)
    with small_disk(case.out, "ro"):
        ended = plan(case)
    assert ended.returncode == ExitCode.DISK
    assert "segdl may not work there (Read-only file" in ended.stdout


def test_a_file_and_a_folder_in_the_way(case: Case) -> None:
    for name in ("a.7z", "b.7z", "c/d.7z"):
        case.put(DATA, f"/orders/{name}", name=name)
    case.out.mkdir()
    case.final("a.7z").write_bytes(b"other")
    case.final("b.7z").mkdir()
    case.final("c").write_bytes(b"no folder")
    found = planned(case)
    assert found["exit_code"] == ExitCode.DISK
    assert [t["problem"]["cause"] for t in found["targets"]] == ["occupied"] * 3
    replaced = planned(case, "--overwrite")
    assert [bool(t["problem"]) for t in replaced["targets"]] == [False, True, True]


def test_a_directory_where_another_segdl_is_at_work(case: Case) -> None:
    case.put(DATA)
    hidden = case.out / ".segdl"
    hidden.mkdir(parents=True)
    folder = os.open(hidden, os.O_RDONLY)
    try:
        with Lock(folder, "out"):
            ended = plan(case)
        assert ended.returncode == ExitCode.BUSY
        assert f"another segdl is at work in out (process {os.getpid()})" in ended.stdout
        assert plan(case).returncode == 0
    finally:
        os.close(folder)


# -- what is held ----------------------------------------------------------------------------------


def interrupted(case: Case) -> int:
    """A run that ended half-way: the bytes that are held."""
    case.put(DATA)
    case.server.script(PATH, faults.cut(2 * SEGMENT), on=1)
    case.server.script(PATH, faults.s3_error(404, "NoSuchKey"), on=range(2, 99))
    case.run(connections=1)
    case.server.mend()
    case.server.forget()
    return status(case.out).present


def test_what_is_held_is_counted(case: Case) -> None:
    held = interrupted(case)
    assert 0 < held < SIZE
    found = planned(case)
    assert found["exit_code"] == 0
    assert found["bytes"] == {"total": SIZE, "held": held, "left": SIZE - held}


def test_an_object_that_was_replaced_against_the_index(case: Case) -> None:
    held = interrupted(case)
    case.server.put(PATH, made(SIZE, 2))
    found = planned(case)
    assert found["exit_code"] == 0
    assert found["bytes"] == {"total": SIZE, "held": 0, "left": SIZE}
    assert f"the object was replaced: the {held} bytes that are held start again" in notes(found)


# -- what it costs ---------------------------------------------------------------------------------


def test_two_hundred_targets_cost_a_request_each_and_a_bounded_sample(case: Case) -> None:
    data = made(2 * 2**20)
    for n in range(200):
        case.server.put(f"/orders/{n}.7z", data, etag='"one"')
        url = case.server.url(f"/orders/{n}.7z", QUERY)
        case.files[str(n)] = {"path": f"{n}.7z", "url": url, "size": str(len(data))}
    found = planned(case)
    assert found["exit_code"] == 0
    requests = case.server.requests
    ones = [request for request in requests if request.range == (0, 1)]
    assert len(ones) == 200
    assert len({request.path for request in ones}) == 200
    samples = [request for request in requests if request.range != (0, 1)]
    assert 1 <= len(samples) <= STRANDS
    assert sum(r.range[1] - r.range[0] for r in samples if r.range) <= SAMPLED
    assert found["rate"]["source"] == "estimate"
    assert case.server.peak <= 8
    few = len({request.connection for request in requests})
    assert few <= 8


def test_a_given_rate_costs_no_sample(case: Case) -> None:
    case.put(DATA)
    planned(case, "--rate", "1MiB")
    assert len(case.server.requests) == 1


@pytest.mark.parametrize("fault", [faults.blackhole(), faults.blackhole(after=0)])
def test_silence_is_not_waited_for_long(case: Case, fault: Fault) -> None:
    case.put(DATA)
    case.server.script(PATH, fault)
    found = planned(case, SEGDL_TIMEOUT="0.5")
    assert found["exit_code"] == ExitCode.NETWORK


def test_ctrl_c_ends_it_while_a_server_is_silent(case: Case) -> None:
    case.put(DATA)
    case.server.script(PATH, faults.blackhole())
    case.manifest()
    words, env = ("plan", "order.json", "-o", "out"), {"SEGDL_TIMEOUT": "600"}
    with running(*words, cwd=case.folder, env=env, patient=True) as child:
        case.server.until(lambda: bool(case.server.requests))
        code, err = child.stop(signal.SIGINT)
    assert (code, "stopped" in err) == (130, True)
    assert not case.out.exists()


def test_real_stores_answer_as_they_shall(s3: S3Server, tmp_path: Path) -> None:
    """rclone answers ranges with 200 and refuses an ended link with 400, the others with 403."""
    for key in ("plan/a.7z", "plan/b.7z", "plan/c.7z"):
        s3.put(key, DATA)
    ended = s3.presign("plan/b.7z", expires=timedelta(seconds=1))
    files = [
        {"path": "a.7z", "url": s3.presign("plan/a.7z"), "size": str(SIZE)},
        {"path": "b.7z", "url": ended, "size": str(SIZE)},
        {"path": "c.7z", "url": s3.presign("plan/c.7z"), "size": str(SIZE + 1)},
        {"path": "d.7z", "url": s3.presign("plan/d.7z")},
    ]
    (tmp_path / "order.json").write_text(json.dumps({"segdl": "1", "files": files}))
    end = parse_url(ended).ends_at or 0.0
    until(lambda: time.time() > end + 1)  # the stores count whole seconds
    shown = segdl("plan", "order.json", "-o", "out", "--json", cwd=tmp_path)
    found = json.loads(shown.stdout)
    assert [t["problem"] and t["problem"]["cause"] for t in found["targets"]] == [
        None, "expired", "size", "refused",
    ]  # fmt: skip
    assert (found["exit_code"], found["targets"][0]["links"][0]["ranges"]) == (1, True)
    assert "X-Amz-Signature" not in shown.stdout


# -- what it shows ---------------------------------------------------------------------------------


def test_it_fits_a_terminal_of_80_columns(case: Case) -> None:
    for n in range(25):
        name = f"{'chips-of-a-long-name-' * 5}{n}.7z"
        case.put(DATA, f"/orders/{n}.7z", name=name, size="1")
    case.manifest()
    terminal = Terminal(80, 24)
    with terminal.running("plan", "order.json", cwd=case.folder):
        lines = terminal.to_end()
    assert max(map(len, lines)) < 80
    assert sum(line.startswith("  size ") for line in lines) == 20
    assert "  and 5 more (--json tells all)" in lines
    assert "NO-GO (4): Tell the publisher" in " ".join(lines)


def test_a_refusal_is_told_once_for_all_that_it_is_of(case: Case) -> None:
    for number in range(3):
        case.put(DATA, f"/{number}.7z")
        case.server.script(f"/{number}.7z", faults.EXPIRED["MinIO"])
    lines = plan(case).stdout.splitlines()
    assert [line[:18] for line in lines if line.startswith("Why")] == ["Why     0.7z and 2"]
    found = planned(case)
    for target in found["targets"]:
        told = target["problem"]
        assert (told["diagnosis"], told["who"]) == ("expired", "publisher")


def test_no_secret_comes_out(case: Case) -> None:
    """Not even one that the server echoes."""
    case.put(DATA, etag=f'"{CANARY}query"')
    case.put(DATA, "/orders/b.7z")
    case.server.script(
        "/orders/b.7z", faults.s3_error(403, "AccessDenied", f"{QUERY} {CANARY}query")
    )
    for arguments in (["--json"], [], ["--header", f"X-Key: {CANARY}"]):
        ended = plan(case, *arguments)  # which checks its output
        assert ended.returncode == ExitCode.LINKS
    url = f"{case.server.url('/orders/b.7z')}?{QUERY}"
    ended = segdl("plan", url, cwd=case.folder)
    assert ended.returncode == ExitCode.LINKS


@pytest.mark.parametrize("given", [("--rate", "fast"), ("--rate", "1"), ("--retries", "1")])
def test_bad_usage(case: Case, given: tuple[str, str]) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    assert plan(case, *given).returncode == ExitCode.USAGE
    assert not case.server.requests


# -- the trial -------------------------------------------------------------------------------------


def test_the_trial_leaves_folders_as_they_were(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    ground = try_out(deep)
    assert not (tmp_path / "a").exists()
    assert (ground.longest_name, ground.cased) == (255, True)
    assert ground.free > 0
    (deep / ".segdl").mkdir(parents=True)
    try_out(deep)
    assert list(deep.rglob("*")) == [deep / ".segdl"]
