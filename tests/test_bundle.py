"""The support bundle: what is in it, and what is in no byte of it, whatever a server echoes."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

import pytest

import segdl
from segdl.core import events
from segdl.core.errors import OccupiedError, UsageError
from segdl.core.events import Event
from segdl.core.journal import seal
from segdl.edges.index import Index
from segdl.edges.timeline import BEFORE, NAME
from segdl.engine.bundle import bundle
from tests.canary import CANARY
from tests.commands import segdl as run_segdl
from tests.faults import EVERY_PATH, Answer, Fault, FaultServer, Seen, Wire, answers, faults
from tests.orders import PATH, SEGMENT, SIZE, Case, files_under, made
from tests.test_workspace import umask

DATA = made(SIZE)  # five segments
CONTENTS = [
    "README.txt", "timeline.jsonl", "versions.json", "system.json", "order.json", "plan.json",
    "receipts.json",
]  # fmt: skip


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


def unpacked(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def packed(case: Case, name: str = "support.zip") -> dict[str, bytes]:
    file = case.folder / name
    bundle(case.out, file)
    check_secrets(file)
    return unpacked(file)


def check_secrets(file: Path, *more: str) -> None:
    """No secret in a byte of the zip, packed or not."""
    for data in (file.read_bytes(), *unpacked(file).values()):
        for secret in (CANARY, *more):
            assert secret.encode() not in data
            assert base64.b64encode(secret.encode()).rstrip(b"=") not in data


def timeline_of(contents: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in contents["timeline.jsonl"].splitlines()]


def read(contents: dict[str, bytes], name: str) -> Any:
    return json.loads(contents[name])


def half(case: Case) -> Case:
    """A case whose one target has two of its five segments."""
    case.put(DATA)
    case.server.script(PATH, faults.status(404), on=range(3, 100))
    case.run(connections=1)
    return case


# -- what is in it ---------------------------------------------------------------------------------


def test_it_holds_the_story_the_plan_and_the_facts(case: Case) -> None:
    half(case)
    case.put(b"small", "/orders/b.txt")
    case.put(DATA, "/orders/c.7z", name="c.7z")
    case.server.remove("/orders/c.7z")
    case.extra["order"] = "SO-1"
    case.run(connections=1)
    contents = packed(case)
    assert list(contents) == CONTENTS
    lines = timeline_of(contents)
    assert {"order_started", "request", "target_failed", "order_finished"} <= {
        line["kind"] for line in lines
    }
    refused = [r for r in lines if r["kind"] == "request" and r.get("status") == 404]
    assert {r["code"] for r in refused if "code" in r} == {"NoSuchKey"}
    plan = {target["path"]: target for target in read(contents, "plan.json")["targets"]}
    assert read(contents, "plan.json")["order"] == read(contents, "order.json")["order"] == "SO-1"
    assert (plan["a.7z"]["state"], plan["a.7z"]["held"]) == ("held", 2 * SEGMENT)
    assert [plan["a.7z"][f"segments{n}"] for n in ("", "_held", "_missing")] == [5, 2, 3]
    assert (plan["b.txt"]["state"], plan["b.txt"]["segments_missing"]) == ("delivered", 0)
    assert (plan["c.7z"]["state"], plan["c.7z"]["segments"]) == ("missing", None)
    receipts = read(contents, "receipts.json")
    assert (receipts["delivered"], receipts["grades"]) == (1, {"etag": 1})
    assert [r["path"] for r in receipts["targets"]] == ["b.txt"]
    assert {f["path"] for f in read(contents, "order.json")["files"]} == set(case.files)
    assert b"Could not be read" not in contents["README.txt"]
    assert all(name.encode() in contents["README.txt"] for name in CONTENTS[1:])


def test_it_tells_versions_and_the_machine(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://u:{CANARY}@proxy.example")
    monkeypatch.setenv("SEGDL_PROXY", CANARY)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    contents = packed(half(case))
    versions, system = read(contents, "versions.json"), read(contents, "system.json")
    assert versions["segdl"] == segdl.__version__
    assert all(versions[n] for n in ("python", "httpx", "h11", "openssl", "kernel", "libc"))
    assert {"HTTPS_PROXY", "SEGDL_PROXY", "no_proxy"} <= set(system["proxy_variables_set"])
    assert system["cpus"] >= 1
    assert system["memory_bytes"] > 2**20
    assert system["file_system"]
    room = os.statvfs(case.out)
    assert system["size_bytes"] == room.f_blocks * room.f_frsize
    assert 0 <= system["free_bytes"] <= system["size_bytes"]
    assert 0 <= system["free_inodes"] <= room.f_files
    assert 1 <= system["cpus_allowed"] <= system["cpus"]
    assert system["memory_available_bytes"] <= system["memory_bytes"]
    assert system["open_files_limit"]["soft"]
    assert system["encoding"]
    assert system["time"][-6] in "+-"  # an offset, as RFC 3339 has it


def test_the_umask_is_told(case: Case) -> None:
    half(case)
    with umask(0o027):
        assert read(packed(case), "system.json")["umask"] == "0027"


def test_it_is_its_owners_alone(case: Case) -> None:
    half(case)
    with umask(0):
        packed(case)
    assert stat.S_IMODE((case.folder / "support.zip").stat().st_mode) == 0o600
    assert stat.S_IMODE((case.out / ".segdl" / NAME).stat().st_mode) == 0o600


def test_two_orders_do_not_mix(case: Case, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Case(case.server, tmp_path / "other")
    case.put(DATA)
    other.put(DATA, "/orders/b.7z")
    case.run()
    other.run()
    for each in (case, other):
        contents = packed(each)
        assert {r["target"] for r in timeline_of(contents) if "target" in r} == set(each.files)
        assert {t["path"] for t in read(contents, "plan.json")["targets"]} == set(each.files)


def test_a_running_order_can_be_packed(case: Case) -> None:
    case.put(DATA)
    seen: list[dict[str, bytes]] = []

    def listen(event: Event) -> None:
        if isinstance(event, events.SegmentDone) and not seen:
            seen.append(packed(case))

    case.run(connections=1, listener=listen).report.raise_for_failures()
    (contents,) = seen
    assert list(contents) == CONTENTS
    (target,) = read(contents, "plan.json")["targets"]
    # It goes on meanwhile: between its name and its receipt it is "found".
    assert target["state"] in ("held", "missing", "found", "delivered")


# -- what is in no byte of it ----------------------------------------------------------------------


def echo(status: int | None = None) -> Fault:
    """All that the request says, in every place of the answer: as it came, and decoded."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        asked = {k: v for k, v in request.headers.items() if k not in ("range", "if-match")}
        said = [request.query, unquote(request.query), *asked.values()]
        values = [p.partition("=")[2] for p in request.query.split("&")]
        said += [*values, *map(unquote, values)]
        text = " ".join(said)
        if status is not None:
            answer = answers.error(request, status, text, text, Detail=text)
            named = bytes(answer.body).replace(request.request_id.encode(), escape(text).encode())
            answer = answer.carrying(named)
        answer = answer.having(ETag='"' + "-".join(dict.fromkeys(text.split())) + '"')
        return answer.having(x_amz_request_id=f"{values[-1]} {text}", X_Echo=text)

    return fault


HEADER = "HEADERVALUE5b1f0c7e"
VARIABLE = "VARIABLE2e9d41aa07"
PASSWORD = "PASSWORD93cc07d1e5"


def test_an_echoing_server_finds_no_way_in(case: Case) -> None:
    """The query, a header of the command line and of the manifest, a variable, the proxy's
    password: echoed on success, refusal and throttling, by a server that is its own proxy."""
    case.put(DATA)
    case.put(DATA, "/orders/gone.7z")
    case.put(b"plain", "/orders/plain.txt", query="")  # which gets the manifest's headers
    case.put(b"denied", "/orders/denied.txt", query="")
    server = case.server
    server.script(EVERY_PATH, echo())
    server.script(PATH, faults.chain(echo(503), retry_at_once), on=2)
    server.script("/orders/gone.7z", echo(404))
    server.script("/orders/denied.txt", echo(403))
    case.extra["headers"] = {
        server.url("").rstrip("/"): {"Authorization": "Bearer ${SEGDL_VAR_TOKEN}", "X-M": CANARY}
    }
    case.manifest()
    proxy = f"http://somebody:{PASSWORD}@127.0.0.1:{server.port}"
    variables = {"http_proxy": proxy, "SEGDL_VAR_TOKEN": VARIABLE, "no_proxy": ""}
    ended = run_segdl(
        "order.json", "-o", "out", "--retries", "0", "--patience", "5s", "-c", "1",
        "--segment-size", "64KiB", "--header", f"X-Mine: {HEADER}", cwd=case.folder, env=variables,
    )  # fmt: skip
    assert ended.returncode == 3
    assert all(s not in ended.stdout + ended.stderr for s in (HEADER, VARIABLE, PASSWORD))
    assert {HEADER, f"Bearer {VARIABLE}"} <= {
        v for s in server.requests for v in s.headers.values()
    }
    assert any("proxy-authorization" in seen.headers for seen in server.requests)
    packs = run_segdl("status", "out", "--bundle", "a.zip", cwd=case.folder, env=variables)
    assert packs.returncode == 0
    check_secrets(case.folder / "a.zip", HEADER, VARIABLE, PASSWORD, f"somebody:{PASSWORD}")
    written = (case.out / ".segdl" / NAME).read_bytes()
    for secret in (CANARY, HEADER, VARIABLE, PASSWORD):
        assert secret.encode() not in written
    lines = timeline_of(unpacked(case.folder / "a.zip"))
    requests = [line for line in lines if line["kind"] == "request"]
    assert {206, 503, 404, 403} <= {r["status"] for r in requests}
    assert all("***" in r["etag"] and "***" in r["request_id"] for r in requests)
    assert [line for line in lines if line["kind"] == "throttled" and "***" in line["message"]]


def retry_at_once(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
    return answer.having(Retry_After="0")


def test_a_redirect_s_own_query_is_blotted_out(case: Case, tmp_path: Path) -> None:
    case.put(DATA)
    with FaultServer() as other:
        other.put(PATH, DATA)
        other.script(PATH, echo())
        there = other.url(PATH, f"token={HEADER}&X-Amz-Signature={CANARY}")
        case.server.script(PATH, faults.redirect(there))
        case.manifest()
        assert run_segdl("order.json", "-o", "out", cwd=case.folder).returncode == 0
    contents = packed(case)
    check_secrets(tmp_path / "support.zip", HEADER)
    redirected = {r.get("redirected") for r in timeline_of(contents) if r["kind"] == "request"}
    assert redirected == {f"127.0.0.1:{other.port}"}


@pytest.mark.plants_secrets
def test_what_somebody_wrote_into_its_files_is_not_taken_over(case: Case) -> None:
    """Each piece is written anew from fields with names."""
    half(case)
    hidden = case.out / ".segdl"
    facts = json.loads((hidden / "order.json").read_text())
    facts |= {"headers": {"X": CANARY}, "url": f"http://h/{CANARY}"}
    facts["files"][0] |= {"url": CANARY, "hash": {"sha256": "00", CANARY: "x"}}
    (hidden / "order.json").write_text(json.dumps(facts))
    planted = {"kind": "request", "time": "now", "query": CANARY, "target": "a"}
    with (hidden / NAME).open("ab") as file:
        file.write(seal(planted))
    with (hidden / "receipts.jsonl").open("ab") as file:
        file.write(seal({"path": "p", "object": CANARY, "etag": CANARY}))
    (hidden / BEFORE).write_bytes(CANARY.encode() * 3 + b"\n")
    contents = packed(case)
    assert timeline_of(contents)[-1] == {"kind": "request", "time": "now", "target": "a"}
    assert read(contents, "order.json")["files"][0]["path"] == "a.7z"


# -- orders that are damaged -----------------------------------------------------------------------


def index_of(case: Case) -> Path:
    (work,) = (case.out / ".segdl" / "work").iterdir()
    return work / "index.jsonl"


def instead(path: Path) -> Path:
    """The path, with nothing there any more."""
    path.unlink()
    return path


DAMAGE: dict[str, tuple[Callable[[Case], object], str]] = {
    "index garbage": (lambda c: index_of(c).write_bytes(b"\xff\0garbage\n" * 3),
                      "the index of a.7z: 3 lines cannot be read"),
    "index zeros": (lambda c: index_of(c).write_bytes(bytes(500)),
                    "the index of a.7z: 1 line cannot be read"),
    "index empty": (lambda c: index_of(c).write_bytes(b""),
                    "the index of a.7z: it does not say what it is of"),
    "index gone": (lambda c: index_of(c).unlink(),
                   "the index of a.7z: No such file or directory"),
    "index is a link": (lambda c: instead(index_of(c)).symlink_to("/dev/zero"),
                        "the index of a.7z: Too many levels of symbolic links"),
    "order": (lambda c: (c.out / ".segdl" / "order.json").write_bytes(b"{"),
              "order.json: what was asked for cannot be read"),
    "order of another kind": (lambda c: (c.out / ".segdl" / "order.json").write_text("[1]"),
                              "order.json: what was asked for cannot be read"),
    "receipts": (lambda c: (c.out / ".segdl" / "receipts.jsonl").write_bytes(b"x\ny\n"),
                 "receipts.jsonl: 2 lines cannot be read"),
    "receipts gone": (lambda c: (c.out / ".segdl" / "receipts.jsonl").unlink(),
                      "receipts.json: No such file or directory"),
    "timeline": (lambda c: (c.out / ".segdl" / NAME).write_bytes(b"\0" * 100 + b"\n\n{}\n"),
                 "timeline.jsonl: 2 lines cannot be read"),
    "timeline gone": (lambda c: (c.out / ".segdl" / NAME).unlink(),
                      "timeline.jsonl: there is none yet"),
    "timeline is a folder": (
        lambda c: instead(c.out / ".segdl" / NAME).mkdir(),
        "timeline.jsonl: Is a directory"),
    "a file among the work": (lambda c: (c.out / ".segdl" / "work" / "x").write_bytes(b""),
                              "the index of x: Not a directory"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_what_cannot_be_read_is_named_and_the_rest_is_there(case: Case, what: str) -> None:
    half(case)
    damage, named = DAMAGE[what]
    damage(case)
    contents = packed(case)
    assert f"- {named}" in contents["README.txt"].decode()
    assert {"README.txt", "versions.json", "system.json", "order.json"} <= set(contents)


def test_an_index_cut_anywhere_never_fails(case: Case) -> None:
    half(case)
    whole = index_of(case).read_bytes()
    for length in range(0, len(whole), 97):
        index_of(case).write_bytes(whole[:length])
        packed(case, f"{length}.zip")


# -- the command -----------------------------------------------------------------------------------


def test_the_command_says_what_it_packed(case: Case) -> None:
    half(case)
    ended = run_segdl("status", "out", "--bundle", "support.zip", cwd=case.folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    (line,) = ended.stdout.splitlines()
    assert line.startswith("support.zip (")
    assert "; 3 requests, no links" in line
    assert all(name in line for name in CONTENTS)
    assert list(unpacked(case.folder / "support.zip")) == CONTENTS


def test_the_command_says_it_to_programs(case: Case) -> None:
    half(case)
    index_of(case).unlink()
    ended = run_segdl("status", "out", "--json", "--bundle", "support.zip", cwd=case.folder)
    told = json.loads(ended.stdout)
    assert (told["bundle"], told["contents"], told["requests"]) == ("support.zip", CONTENTS, 3)
    assert told["bytes"] == (case.folder / "support.zip").stat().st_size
    assert told["unreadable"] == ["the index of a.7z: No such file or directory"]


@pytest.mark.parametrize("way", ["file", "folder", "dangling link"])
def test_nothing_is_replaced(case: Case, way: str) -> None:
    half(case)
    file = case.folder / "support.zip"
    match way:
        case "file":
            file.write_bytes(b"mine")
        case "folder":
            file.mkdir()
        case _:
            file.symlink_to(case.folder / "nowhere")
    before = sorted(files_under(case.folder))
    ended = run_segdl("status", "out", "--bundle", "support.zip", cwd=case.folder)
    assert ended.returncode == 5
    assert ended.stderr.startswith("segdl: support.zip is here already")
    assert sorted(files_under(case.folder)) == before
    assert way != "file" or file.read_bytes() == b"mine"
    assert not (case.folder / "nowhere").exists()


def test_what_comes_in_the_way_meanwhile_is_not_replaced(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    half(case)
    file = case.folder / "support.zip"

    def planted(self: zipfile.ZipFile, *given: Any) -> None:
        file.write_bytes(b"mine")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", planted)
    with pytest.raises(OccupiedError):
        bundle(case.out, file)
    assert file.read_bytes() == b"mine"
    assert not list(case.folder.glob(".segdl-*"))


def test_a_file_system_without_hard_links_will_do(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    half(case)

    def refused(*given: Any, **more: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert list(packed(case)) == CONTENTS
    assert not list(case.folder.glob(".segdl-*"))


def test_it_wants_an_order_and_a_folder_for_the_zip(case: Case) -> None:
    with pytest.raises(UsageError, match="no segdl has worked in"):
        bundle(case.folder, case.folder / "a.zip")
    half(case)
    with pytest.raises(UsageError, match="is not a folder"):
        bundle(case.out, case.folder / "nowhere" / "a.zip")
    ended = run_segdl("status", "out", "--bundle", "nowhere/a.zip", cwd=case.folder)
    assert ended.returncode == 2
    assert not list(case.folder.glob("**/*.zip"))


def test_a_delivered_order_keeps_its_timeline(case: Case) -> None:
    case.put(DATA)
    case.run().report.raise_for_failures()
    ended = run_segdl("clean", "out", "--yes", cwd=case.folder)
    assert ended.returncode == 0
    assert timeline_of(packed(case))[-1]["kind"] == "order_finished"


def test_it_is_no_part_of_the_order(case: Case) -> None:
    """A bundle within the output directory changes nothing for the next run."""
    half(case)
    bundle(case.out, case.out / "support.zip")
    case.finish()


def test_a_socket_among_the_work_is_named(case: Case) -> None:
    half(case)
    with socket.socket(socket.AF_UNIX) as planted:
        here = Path.cwd()
        os.chdir(case.out / ".segdl" / "work")
        try:
            planted.bind("s")
        finally:
            os.chdir(here)
    assert b"the index of s: Not a directory" in packed(case)["README.txt"]


def test_tails_and_records_of_a_part_count_as_bytes_and_not_as_segments(case: Case) -> None:
    case.put(DATA)
    case.server.script(PATH, faults.cut(1000), on=range(2, 9))
    case.run(connections=1, retries=0)
    (target,) = read(packed(case), "plan.json")["targets"]
    assert target["held"] == SEGMENT + 1000
    assert (target["segments"], target["segments_held"], target["segments_missing"]) == (5, 1, 4)


def test_an_index_says_damage_only_where_there_is_some(case: Case) -> None:
    half(case)
    folder = os.open(index_of(case).parent, os.O_RDONLY)
    index = Index(folder)
    index.lost(4, 0)
    index.close()
    os.close(folder)
    assert b"Could not be read" not in packed(case)["README.txt"]
