"""The timeline: what is in an entry, what cannot be, the file's bounds, and the story of a run."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdl.core import events
from segdl.core.complaint import printable
from segdl.core.errors import BusyError, RefusedError
from segdl.core.events import Event
from segdl.core.journal import seal
from segdl.core.timeline import Exchange, Heard, Incident, as_line, exchange, incident, read_line
from segdl.core.urls import parse_url
from segdl.edges.timeline import BEFORE, NAME, Timeline, read_timeline
from segdl.engine import chronicle
from segdl.engine.chronicle import Chronicle
from tests.canary import CANARY
from tests.faults import FaultServer, faults
from tests.orders import PATH, QUERY, SEGMENT, SIZE, Case, made
from tests.test_workspace import umask

DATA = made(SIZE)
URL = parse_url(f"https://store.example:9000/orders/a%20b.7z?{QUERY}&versionId=17")


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


@pytest.fixture
def hidden(tmp_path: Path) -> Iterator[int]:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield folder
    os.close(folder)


def told(case: Case) -> list[dict[str, Any]]:
    """The timeline of an order's folder, every line of which must prove itself."""
    folder = os.open(case.out / ".segdl", os.O_RDONLY)
    try:
        lines = [line for name in (BEFORE, NAME) for line in read_timeline(folder, name)]
    finally:
        os.close(folder)
    assert None not in lines
    return [line for line in lines if line is not None]


def kinds(lines: list[dict[str, Any]]) -> list[str]:
    return [line["kind"] for line in lines]


def asked(**more: Any) -> Exchange:
    heard = more.get("heard")
    return exchange(URL, (0, 100), "a.7z", 3, (0.25, 0.5), heard, more.get("error"))


# -- entries ---------------------------------------------------------------------------------------


def test_an_entry_has_no_place_for_a_secret() -> None:
    """Whoever adds a field has to think of what it could hold."""
    assert {f.name for f in fields(Exchange)} == {
        "at", "seconds", "connection", "target", "object", "start", "stop", "redirected",
        "status", "code", "request_id", "etag", "cause", "diagnosis",
    }  # fmt: skip
    assert {f.name for f in fields(Incident)} == {
        "kind", "time", "target", "host", "segment", "cause", "status", "code", "request_id",
        "message", "wait", "targets", "bytes", "held", "delivered", "failed", "seconds",
        "exit_code", "diagnosis", "who",
    }  # fmt: skip


def test_a_request_is_told_without_its_query() -> None:
    error = RefusedError("no", status=403, code="AccessDenied", request_id="BODY")
    heard = Heard("store.example:9000", 403, "HEAD", '"tag"')
    assert as_line(asked(heard=heard, error=error)) == {
        "kind": "request", "time": "1970-01-01T00:00:00.250Z", "seconds": 0.5, "connection": 3,
        "target": "a.7z", "object": "store.example:9000/orders/a%20b.7z", "start": 0,
        "stop": 100, "status": 403, "code": "AccessDenied", "request_id": "BODY",
        "etag": '"tag"', "cause": "refused",
    }  # fmt: skip


def test_a_redirect_is_told_by_its_host() -> None:
    line = as_line(asked(heard=Heard("cdn.example", 206, "HEAD", None)))
    assert (line["redirected"], line["status"], line["request_id"]) == ("cdn.example", 206, "HEAD")
    assert "cause" not in line


def test_a_request_without_an_answer_has_its_cause() -> None:
    line = as_line(asked(error=BusyError("store.example cannot be reached")))
    assert line["cause"] == "busy"
    assert not {"status", "etag", "request_id", "redirected"} & set(line)


@given(st.text(max_size=1500), st.floats(0, 4e9), st.integers(0, 2**62))
def test_a_line_is_read_as_it_was_written(text: str, at: float, number: int) -> None:
    entry = Exchange(
        at=at, seconds=1.0, connection=1, target=text, object=text, start=0, stop=number,
        request_id=text, etag=text,
    )  # fmt: skip
    line = as_line(entry)
    assert line["etag"] == (
        text if len(text) <= 500 and text.isprintable() else printable(text, 500)
    )
    assert read_line(json.loads(json.dumps(line))) == line
    assert len(seal(line)) < 64 * 1024


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"kind": "request"},
        {"kind": 3, "time": "now"},
        {"kind": "retry", "time": None},
    ],
)
def test_what_is_no_line_is_none(line: dict[str, Any]) -> None:
    assert read_line(line) is None


def test_only_what_an_entry_has_is_read_back() -> None:
    """A timeline may have been written into: by hand, or by another version."""
    planted = {
        "kind": "request", "time": "now", "query": CANARY, "headers": {"X": CANARY},
        "etag": {"x": CANARY}, "status": CANARY, "code": [CANARY], "start": True, "stop": 7,
        "at": 1.0,
    }  # fmt: skip
    assert read_line(planted) == {"kind": "request", "time": "now", "stop": 7}
    assert read_line(planted | {"kind": "retry"}) == {"kind": "retry", "time": "now"}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            events.Retry(
                time="t", target="a", segment=2, cause="broken", message="m", wait=0.5,
                request_id="R",
            ),
            {"kind": "retry", "time": "t", "target": "a", "segment": 2, "cause": "broken",
             "request_id": "R", "message": "m", "wait": 0.5},
        ),
        (
            events.Throttled(time="t", host="h:1", wait=1.0, message="m"),
            {"kind": "throttled", "time": "t", "host": "h:1", "message": "m", "wait": 1.0},
        ),
        (
            events.TargetFailed(
                time="t", target="a", cause="refused", code="NoSuchKey", status=404,
                message="m", request_id=None,
            ),
            {"kind": "target_failed", "time": "t", "target": "a", "cause": "refused",
             "status": 404, "code": "NoSuchKey", "message": "m"},
        ),
        (
            events.OrderFinished(
                time="t", delivered=1, failed=2, bytes=3, seconds=4.0, exit_code=7
            ),
            {"kind": "order_finished", "time": "t", "bytes": 3, "delivered": 1, "failed": 2,
             "seconds": 4.0, "exit_code": 7},
        ),
    ],
)  # fmt: skip
def test_an_event_becomes_an_incident(event: Event, expected: dict[str, Any]) -> None:
    entry = incident(event)
    assert entry is not None
    assert as_line(entry) == expected
    assert read_line(expected) == expected


def test_routine_is_left_out() -> None:
    routine = events.SegmentDone(target="a", segment=0, bytes=1, seconds=0.1)
    assert incident(routine) is None


# -- the file --------------------------------------------------------------------------------------


def lines_of(hidden: int, name: str) -> list[int | None]:
    return [None if line is None else int(line["n"]) for line in read_timeline(hidden, name)]


def test_two_files_of_bounded_size_keep_the_latest(hidden: int, tmp_path: Path) -> None:
    timeline = Timeline(hidden, largest=1000)
    for batch in range(0, 400, 40):
        timeline.append({"n": n} for n in range(batch, batch + 40))
        assert (tmp_path / NAME).stat().st_size <= 1000
    timeline.close()
    assert (tmp_path / BEFORE).stat().st_size <= 1000
    kept = lines_of(hidden, BEFORE) + lines_of(hidden, NAME)
    assert kept == list(range(400 - len(kept), 400))
    assert len(kept) > 20
    assert sorted(os.listdir(tmp_path)) == sorted([NAME, BEFORE])


def test_a_batch_larger_than_the_file_is_bounded_too(hidden: int, tmp_path: Path) -> None:
    timeline = Timeline(hidden, largest=1000)
    timeline.append({"n": n} for n in range(500))
    timeline.close()
    assert all((tmp_path / name).stat().st_size <= 1000 for name in (NAME, BEFORE))
    assert lines_of(hidden, NAME)[-1] == 499


def test_it_goes_on_after_a_torn_line(hidden: int, tmp_path: Path) -> None:
    for n in range(2):
        timeline = Timeline(hidden)
        timeline.append([{"n": n}])
        timeline.close()
        with (tmp_path / NAME).open("ab") as file:
            file.write(b'{"n":')
    timeline = Timeline(hidden)
    timeline.append([{"n": 2}])
    timeline.close()
    assert lines_of(hidden, NAME) == [0, None, 1, None, 2]


def test_it_is_its_owners_alone(hidden: int, tmp_path: Path) -> None:
    (tmp_path / NAME).touch(0o666)
    (tmp_path / NAME).chmod(0o666)
    with umask(0):
        timeline = Timeline(hidden, largest=300)
        timeline.append({"n": n} for n in range(20))
        timeline.close()
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (NAME, BEFORE)] == [
        0o600
    ] * 2


def test_what_another_name_leads_to_is_not_changed(hidden: int, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    (tmp_path / NAME).hardlink_to(other)
    timeline = Timeline(hidden)
    timeline.append([{"n": 1}])
    timeline.close()
    assert other.read_bytes() == b"mine"
    assert lines_of(hidden, NAME) == [1]


@pytest.mark.parametrize("way", ["link", "folder", "pipe"])
def test_what_stands_in_its_way_costs_the_timeline_alone(
    hidden: int, tmp_path: Path, way: str
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    match way:
        case "link":
            (tmp_path / NAME).symlink_to(other)
        case "folder":
            (tmp_path / NAME).mkdir()
        case _:
            os.mkfifo(tmp_path / NAME)
    timeline = Timeline(hidden)
    timeline.append([{"n": 1}])
    timeline.close()
    assert other.read_bytes() == b"mine"


@contextmanager
def no_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_costs_lines_alone(hidden: int) -> None:
    timeline = Timeline(hidden)
    with no_larger_than(100):
        timeline.append({"n": n} for n in range(10))
        timeline.append([{"n": 10}])
    timeline.append([{"n": 11}])
    timeline.close()
    kept = lines_of(hidden, NAME)
    assert (kept[0], kept[-1]) == (0, 11)
    assert kept.count(None) <= 1


# -- its way there ---------------------------------------------------------------------------------


def test_more_at_once_than_can_be_told_is_counted(
    hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chronicle, "_MOST", 10)
    notes = Chronicle(hidden)
    for _ in range(13):
        notes.note(asked())
    notes.keep_up(5.0)
    notes.note(asked())
    notes.close()
    lines = [line for line in read_timeline(hidden, NAME) if line]
    assert kinds(lines) == ["request"] * 10 + ["left_out", "request"]
    assert lines[10]["message"] == "3 more entries at once were left out"


def test_it_is_written_once_a_second(hidden: int, tmp_path: Path) -> None:
    notes = Chronicle(hidden)
    sizes = []
    for now in (100.0, 100.5, 100.9, 101.1):
        notes.note(asked())
        notes.keep_up(now)
        sizes.append(len(lines_of_requests(hidden)))
    notes.close()
    assert sizes == [1, 1, 1, 4]


def lines_of_requests(hidden: int) -> list[dict[str, Any]]:
    return [line for line in read_timeline(hidden, NAME) if line and line["kind"] == "request"]


# -- a run -----------------------------------------------------------------------------------------


def test_an_order_leaves_its_story(case: Case) -> None:
    case.put(DATA)
    case.run(connections=1).report.raise_for_failures()
    lines = told(case)
    assert kinds(lines)[0] == "order_started"
    assert kinds(lines)[-1] == "order_finished"
    asked = [line for line in lines if line["kind"] == "request"]
    seen = case.server.requests
    assert [(r["start"], r["stop"]) for r in asked] == [s.range for s in seen]
    assert [r["request_id"] for r in asked] == [s.request_id for s in seen]
    assert {(r["status"], r["target"], r["connection"]) for r in asked} == {(206, "a.7z", 0)}
    assert {r["object"] for r in asked} == {f"{case.server.host}:{case.server.port}{PATH}"}
    assert all(r["etag"].startswith('"') and 0 <= r["seconds"] < 60 for r in asked)


def test_refusals_retries_and_throttling_are_in_it(case: Case) -> None:
    case.put(DATA)
    case.put(DATA, "/orders/gone.7z")
    case.put(DATA, "/orders/ended.7z")
    case.server.script(PATH, faults.slow_down(0), on=2)
    case.server.script(PATH, faults.cut(1000), on=3)
    case.server.remove("/orders/gone.7z")
    case.server.script("/orders/ended.7z", faults.EXPIRED["AWS"])
    case.run(connections=1, retries=3, patience=10.0)
    lines = told(case)
    found = {(line["kind"], line.get("target"), line.get("cause")) for line in lines}
    assert {
        ("request", "a.7z", "busy"),
        ("request", "gone.7z", "refused"),
        ("request", "ended.7z", "expired"),
        ("retry", "a.7z", "broken"),
        ("throttled", None, None),
        ("target_failed", "gone.7z", "refused"),
        ("target_paused", "ended.7z", "expired"),
    } <= found
    (gone,) = [r for r in lines if r.get("target") == "gone.7z" and r["kind"] == "request"]
    assert (gone["status"], gone["code"]) == (404, "NoSuchKey")
    assert gone["request_id"].startswith("REQ")


def test_a_replaced_object_shows_both_etags(case: Case) -> None:
    case.put(DATA)
    case.may_hold("a.7z", DATA, made(SIZE, 2))
    case.server.script(
        PATH, faults.chain(faults.unconditional(), faults.replaced(made(SIZE, 2))), on=2
    )
    case.run(connections=1)
    refused = [r for r in told(case) if r.get("cause") == "stale" and r["kind"] == "request"]
    assert refused
    first = next(r for r in told(case) if r["kind"] == "request")
    assert refused[0]["etag"] != first["etag"]


def test_a_host_that_is_down_is_in_it(case: Case) -> None:
    case.put(DATA, url=f"http://127.0.0.1:1{PATH}?{QUERY}")
    case.run(patience=0.3)
    (first, *_) = [r for r in told(case) if r["kind"] == "request"]
    assert (first["cause"], first["object"]) == ("busy", f"127.0.0.1:1{PATH}")
    assert "status" not in first


def test_runs_follow_one_another_in_it(case: Case) -> None:
    case.put(DATA)
    case.run()
    before = told(case)
    case.put(DATA, "/orders/b.7z")
    case.finish()
    lines = told(case)
    assert lines[: len(before)] == before
    assert kinds(lines).count("order_finished") == 2
    assert {r["target"] for r in lines[len(before) :] if r["kind"] == "request"} == {"b.7z"}
    assert stat.S_IMODE((case.out / ".segdl" / NAME).stat().st_mode) == 0o600


def test_small_files_are_in_it_too(case: Case) -> None:
    for n in range(20):
        case.put(made(1000, n), f"/orders/{n}.txt")
    case.run().report.raise_for_failures()
    requests = [r for r in told(case) if r["kind"] == "request"]
    assert {r["target"] for r in requests} == set(case.files)
    assert (case.out / ".segdl" / NAME).stat().st_size < 20 * 400 + 2000


def test_a_run_ends_as_it_does_without_a_timeline(case: Case) -> None:
    (case.out / ".segdl" / NAME).mkdir(parents=True)
    case.put(DATA)
    case.run().report.raise_for_failures()
    case.check_delivered()


def test_a_listener_that_raises_leaves_the_story(case: Case) -> None:
    case.put(DATA)

    def listen(event: Event) -> None:
        if isinstance(event, events.SegmentDone):
            raise RuntimeError("the listener's own")

    with pytest.raises(RuntimeError, match="own"):
        case.run(listener=listen)
    assert "request" in kinds(told(case))
    assert SEGMENT in {r["stop"] for r in told(case) if r["kind"] == "request"}
