"""The Python section of the contract: `segdl.download`, its report, errors, events and control."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime
from datetime import time as day
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import segdl
from segdl.core import events
from segdl.core.digests import digest
from segdl.core.errors import ExitCode, SegdlError, TransientError
from segdl.core.options import RateLimit, RateWindow
from segdl.core.report import Grade
from tests.canary import CANARY
from tests.faults import EVERY_PATH, FaultServer, faults
from tests.orders import (
    NAME,
    PATH,
    SEGMENT,
    SIZE,
    SOON,
    Case,
    Proof,
    at_the_end,
    facts,
    made,
    nothing_left_over,
    pieces_of,
    quick,
)

DATA = made(SIZE)
OTHER = made(SIZE, 2)
SECOND = "/orders/b.7z"


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


# -- download --------------------------------------------------------------------------------------


def test_the_contracts_example(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.put(DATA)
    report = segdl.download(str(case.manifest()), f"{case.out}/", on_event=print)
    report.raise_for_failures()
    case.check_delivered()
    assert "OrderFinished" in capsys.readouterr().out


def test_without_a_listener(case: Case) -> None:
    case.put(DATA)
    assert segdl.download(case.manifest(), case.out).exit_code is ExitCode.DONE


def test_a_manifest_that_is_parsed_already(case: Case) -> None:
    case.put(DATA)
    manifest = segdl.load(case.manifest())
    assert [target.path for target in manifest.targets] == [NAME]
    assert segdl.download(manifest, case.out).exit_code is ExitCode.DONE
    case.check_delivered()


def test_a_bare_url(case: Case) -> None:
    case.put(DATA)
    report = segdl.download(case.files[NAME]["url"], case.out)
    assert [receipt.path for receipt in report.receipts] == [NAME]
    assert case.final().read_bytes() == DATA


@pytest.mark.parametrize(
    "text",
    ["", "segdl: 2\nfiles: []", '{"segdl": 1, "files": [{"url": "file:///etc/passwd"}]}', "{"],
)
def test_a_manifest_that_is_not_valid(case: Case, text: str) -> None:
    """Every fault is named, and nothing is made."""
    path = case.folder / "order.yaml"
    path.write_text(text)
    with nothing_left_over(), pytest.raises(segdl.ManifestError) as caught:
        segdl.download(path, case.out)
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.faults
    assert all("order.yaml" in str(fault) for fault in caught.value.faults)
    assert not case.out.exists()


def test_a_manifest_that_is_not_there(case: Case) -> None:
    with pytest.raises(segdl.ManifestError, match="cannot be read"):
        segdl.download(case.folder / "nothing", case.out)


def test_events_come_in_the_callers_thread(case: Case) -> None:
    case.put(DATA)
    threads: set[int] = set()
    case.run(listener=lambda event: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


def test_two_orders_in_two_threads(fault_server: FaultServer, tmp_path: Path) -> None:
    """`download` needs neither the main thread nor the process for itself."""
    cases = []
    for name in "ab":
        (tmp_path / name).mkdir()
        cases.append(Case(fault_server, tmp_path / name))
        cases[-1].put(made(SIZE, ord(name)), f"/{name}.7z")

    reports: list[segdl.Report] = []

    def fetch(each: Case) -> None:
        reports.append(segdl.download(each.manifest(), each.out, options=quick()))

    threads = [threading.Thread(target=fetch, args=(each,)) for each in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert [report.exit_code for report in reports] == [ExitCode.DONE] * 2
    for each in cases:
        each.check_delivered()


# -- the report ------------------------------------------------------------------------------------


def test_a_receipt(case: Case) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    (receipt,) = case.run().report.receipts
    found = case.final().stat()
    assert (receipt.path, receipt.size, receipt.grade) == (NAME, SIZE, Grade.DIGEST)
    assert receipt.digests == {"sha256": digest("sha256", DATA)}
    assert (receipt.segments.size, len(receipt.segments.values)) == (SEGMENT, 5)
    algorithm = receipt.segments.algorithm
    assert receipt.segments.values[-1] == digest(algorithm, DATA[4 * SEGMENT :])
    assert receipt.modified_ns == found.st_mtime_ns
    assert receipt.etag == f'"{digest("md5", DATA)}"'
    assert receipt.resumable
    assert datetime.fromisoformat(receipt.delivered).tzinfo is not None
    assert receipt.object.endswith(PATH)


def test_a_report_of_success(case: Case) -> None:
    """Receipts stand in the manifest's order; `bytes` are this run's."""
    for name in ("c", "a", "b"):
        case.put(made(1000, ord(name)), f"/{name}")
    began = time.monotonic()
    report = case.run().report
    assert report.seconds <= time.monotonic() - began
    assert [receipt.path for receipt in report.receipts] == ["c", "a", "b"]
    assert (report.failures, report.bytes, report.exit_code) == ((), 3000, ExitCode.DONE)
    assert (report.skipped, report.stopped) == (frozenset(), None)
    report.raise_for_failures()
    again = case.run().report
    assert again.skipped == {"a", "b", "c"}
    assert [receipt.path for receipt in again.receipts] == ["c", "a", "b"]
    assert again.bytes == 0


def test_raise_for_one_failure(case: Case) -> None:
    case.put(DATA)
    case.server.script(PATH, faults.s3_error(404, "NoSuchKey", request_id="REQ-1"))
    report = case.run().report
    with pytest.raises(segdl.RefusedError) as caught:
        report.raise_for_failures()
    assert caught.value is report.failures[0].error
    assert report.failures[0].path == NAME


def test_raise_for_several_failures(case: Case) -> None:
    for number in range(5):
        case.put(DATA, f"/{number}")
    case.server.script(EVERY_PATH, faults.status(404))
    report = case.run().report
    with pytest.raises(segdl.OrderError, match="5 targets failed") as caught:
        report.raise_for_failures()
    assert caught.value.failures == report.failures
    assert caught.value.exit_code is ExitCode.LINKS is report.exit_code
    assert [failure.error.target for failure in report.failures] == list("01234")


def test_the_empty_order(case: Case) -> None:
    case.put(DATA)
    run = case.run(select=("nothing",))
    assert (run.code, run.kinds()) == (ExitCode.DONE, ["order_started", "order_finished"])


# -- errors ----------------------------------------------------------------------------------------

TREE = {
    "ContentError": "SegdlError",
    "DigestError": "ContentError",
    "SizeError": "ContentError",
    "DiskError": "SegdlError",
    "DiskFullError": "DiskError",
    "OccupiedError": "DiskError",
    "ExpiredError": "SegdlError",
    "LockedError": "SegdlError",
    "ManifestError": "SegdlError",
    "OrderError": "SegdlError",
    "RefusedError": "SegdlError",
    "StaleError": "SegdlError",
    "StoppedError": "SegdlError",
    "TransientError": "SegdlError",
    "UnreachableError": "SegdlError",
    "UsageError": "SegdlError",
}


def test_errors_are_one_tree() -> None:
    for name, family in TREE.items():
        assert getattr(segdl, name).__mro__[1] is getattr(segdl, family)
    assert issubclass(segdl.SegdlError, Exception)


@pytest.mark.parametrize(
    "error",
    [
        segdl.DigestError("other", algorithm="md5", expected="00", found="ff"),
        segdl.DiskFullError("the disk takes no more", missing=5),
        segdl.ManifestError((segdl.Fault("a.yaml:3", "files[0].size", "expected one"),)),
        segdl.OrderError((), ExitCode.LINKS),
        segdl.RefusedError("nothing", target=NAME, status=404, code="NoSuchKey", request_id="7"),
        segdl.TransientError("later", retry_after=2.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_to_another_process(error: SegdlError) -> None:
    """Whoever downloads in a process pool hears of it as if there were none."""
    error.exit_code = ExitCode.HANGUP
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert (str(twin), vars(twin)) == (str(error), vars(error))


def failed(case: Case, **options: Any) -> SegdlError:
    run = case.run(**options)
    assert run.error().target == NAME
    assert str(run.error()) == run.error().message
    told = [(e.target, e.message) for e in run.of(events.TargetFailed)]
    assert told == [(NAME, run.error().message)]
    return run.error()


def test_what_a_refusal_says(case: Case) -> None:
    case.put(DATA)
    case.server.script(PATH, faults.s3_error(404, "NoSuchKey", "No \x1b[2J such", "REQ-77"))
    error = failed(case)
    assert isinstance(error, segdl.RefusedError)
    assert (error.status, error.code, error.request_id) == (404, "NoSuchKey", "REQ-77")
    assert (error.cause, error.exit_code) == ("refused", ExitCode.LINKS)
    assert "NoSuchKey" in str(error)
    assert str(error).isprintable()


def test_what_an_expired_link_says(case: Case) -> None:
    case.put(DATA)
    case.server.script(PATH, faults.EXPIRED["AWS"])
    error = failed(case)
    assert isinstance(error, segdl.ExpiredError)
    assert (error.status, error.code, error.cause) == (403, "AccessDenied", "expired")
    assert error.request_id == case.server.requests[0].request_id


def test_what_a_wrong_digest_says(case: Case) -> None:
    case.put(DATA, pieces=pieces_of(OTHER, algorithm="crc32"))
    error = failed(case)
    assert isinstance(error, segdl.DigestError)
    assert error.algorithm == "crc32"
    assert re.fullmatch("[0-9a-f]{8}", error.expected)
    assert re.fullmatch("[0-9a-f]{8}", error.found)
    assert error.expected != error.found
    assert (error.cause, error.exit_code) == ("digest", ExitCode.CONTENT)


def test_what_a_busy_server_says(case: Case) -> None:
    """The last answer's facts, and that patience was used up."""
    case.put(DATA)
    case.server.script(PATH, faults.s3_error(503, "SlowDownRead", "Slow down", "REQ-9"))
    error = failed(case, patience=0.1)
    assert isinstance(error, segdl.UnreachableError)
    assert (error.status, error.code, error.request_id) == (503, "SlowDownRead", "REQ-9")
    assert "patience" in str(error)
    assert error.exit_code is ExitCode.NETWORK


def test_s20_a_stores_words_are_shown_escaped_and_cut(case: Case) -> None:
    case.put(DATA)
    case.server.script(PATH, faults.error_200("Oops\x1b]0;title\x07", "\x1b[2J\u202eno " * 500))
    error = failed(case, retries=0)
    assert "Oops" in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 500


def test_what_another_run_says(case: Case) -> None:
    case.put(DATA)
    errors: list[segdl.LockedError] = []

    def start_another(event: segdl.Event) -> None:
        try:
            segdl.download(case.manifest(), case.out)
        except segdl.LockedError as error:
            errors.append(error)

    case.run(listener=start_another)
    assert errors[0].exit_code is ExitCode.BUSY
    assert str(case.out) in str(errors[0])


def test_a_foreign_error_is_translated_once(case: Case) -> None:
    """Nothing of httpx, ssl or the system reaches the caller, not even as a cause."""
    case.put(DATA)
    case.server.script(PATH, faults.hang_up(by_reset=True))
    error = failed(case)
    assert isinstance(error, SegdlError)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"connections": 0}, {"connections": 10**6}, {"segment_size": 0}, {"segment_size": 2**63},
        {"retries": -1}, {"patience": -1.0}, {"timeout": 0.0}, {"timeout": float("nan")},
        {"shard": (0, 3)}, {"shard": (4, 3)}, {"shard": (0, 0)},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(segdl.UsageError) as caught:
        segdl.Options(**wrong)
    assert next(iter(wrong)).replace("_", "-") in str(caught.value)


@pytest.mark.parametrize("rate", [0, -1, 1])
def test_rates_that_cannot_be_meant(rate: int) -> None:
    window = RateWindow(datetime.min.time(), datetime.max.time(), rate)
    with pytest.raises(segdl.UsageError, match="limit-rate"):
        RateLimit(rate)
    with pytest.raises(segdl.UsageError, match="limit-rate"):
        RateLimit(None, (window,))
    with pytest.raises(segdl.UsageError, match="limit-rate"):
        segdl.Control().set_limit(rate)


def test_options_are_frozen_and_hide_credentials() -> None:
    options = segdl.Options(headers=(("X", CANARY),), proxy=f"http://u:{CANARY}@h")
    assert CANARY not in repr(options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.retries = 1  # type: ignore[misc]


def test_a_manifest_hides_its_secrets(case: Case) -> None:
    case.put(DATA)
    assert CANARY not in repr(segdl.load(case.manifest()))


# -- events ----------------------------------------------------------------------------------------

TROUBLE = {"cause", "message", "code", "status", "request_id", "diagnosis", "who", "skew"}
KEYS = {  # beside `event` and `time`
    "order_started": {"targets", "bytes", "held"},
    "target_started": {"target", "size", "etag", "held"},
    "progress": {"bytes", "total", "rate", "connections", "in_flight"},
    "segment_done": {"target", "segment", "bytes", "seconds"},
    "retry": {"target", "segment", "wait"} | TROUBLE,
    "throttled": {"host", "wait", "message"},
    "url_expiring": {"target", "ends_at", "minutes_left", "minutes_needed", "targets"},
    "url_expired": {"target"} | TROUBLE,
    "target_paused": {"target", "cause"},
    "target_resumed": {"target"},
    "target_done": {"target", "size", "seconds", "digests", "grade", "fetched"},
    "target_failed": {"target"} | TROUBLE,
    "order_finished": {"delivered", "failed", "bytes", "seconds", "exit_code"},
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def eventful(case: Case) -> list[segdl.Event]:
    """The events of an order in which everything happens but a resumption."""
    case.put(DATA, proof=Proof.DIGEST)
    case.put(OTHER, SECOND)
    case.put(made(10, 3), "/gone")
    case.put(made(10, 4), "/ended")
    case.server.script(PATH, faults.cut(1000), on=2)
    case.server.script(SECOND, faults.slow_down(0), on=2)
    case.server.script("/gone", faults.status(404))
    case.server.script("/ended", faults.EXPIRED["MinIO"])
    return case.run().events


def test_kinds_and_keys(case: Case) -> None:
    met = {event.event: set(facts(event)) for event in eventful(case)}
    for kind, keys in met.items():
        assert keys == KEYS[kind] | {"event", "time"}
    assert set(KEYS) - set(met) == {"target_resumed", "url_expiring"}


def kinds_of(root: type[segdl.Event]) -> list[type[segdl.Event]]:
    below = root.__subclasses__()
    return below + [kind for each in below for kind in kinds_of(each)]


def test_every_kind_is_in_the_table() -> None:
    """`event`, `time`, the kinds of the contract, and no others."""
    kinds = {kind.event: kind for kind in kinds_of(events.Event)}
    assert set(kinds) >= set(KEYS)
    for name, keys in KEYS.items():
        assert {field.name for field in dataclasses.fields(kinds[name])} == keys | {"time"}


def test_times_are_rfc_3339_and_in_order(case: Case) -> None:
    times = [facts(event)["time"] for event in eventful(case)]
    assert all(TIME.fullmatch(text) for text in times)
    moments = [datetime.fromisoformat(text).timestamp() for text in times]
    assert all(abs(moment - time.time()) < 60 for moment in moments)
    assert all(later - earlier > -0.2 for earlier, later in pairwise(moments))


def test_the_order_of_events(case: Case) -> None:
    run_events = eventful(case)
    kinds = [event.event for event in run_events]
    assert kinds[0] == "order_started"
    assert kinds[-1] == "order_finished"
    for name in (NAME, "b.7z"):
        own = [e.event for e in run_events if getattr(e, "target", None) == name]
        lasting = [kind for kind in own if kind not in ("retry", "segment_done")]
        assert lasting == ["target_started", "target_done"]
        assert own.count("segment_done") == 5


def test_counts_are_absolute(case: Case) -> None:
    """A lost line spoils nothing: each says all of it again."""
    case.put(DATA)
    case.put(OTHER, SECOND)
    case.server.script(PATH, faults.trickle(2e5))
    run = case.run(connections=2)
    (started,), (finished,) = run.of(events.OrderStarted), run.of(events.OrderFinished)
    assert (started.targets, started.bytes, started.held) == (2, 2 * SIZE, 0)
    told = run.of(events.Progress)
    assert len(told) >= 3
    for one, other in pairwise(told):
        assert one.bytes <= other.bytes <= 2 * SIZE == other.total
    for each in told:
        assert 0 <= each.connections <= 2
        assert all(0 <= done <= (size or 0) for done, size in each.in_flight.values())
    assert (finished.delivered, finished.failed, finished.bytes) == (2, 0, 2 * SIZE)
    assert (finished.exit_code, type(finished.exit_code)) == (0, int)
    assert sum(event.bytes for event in run.of(events.SegmentDone)) == 2 * SIZE


def test_ten_progress_events_a_second_at_most(case: Case) -> None:
    case.put(DATA)
    gate = threading.Event()
    case.server.script(PATH, faults.trickle(2e5))
    case.server.script(PATH, faults.held(gate), on=5)  # the last one
    arrivals: list[float] = []

    def note(event: segdl.Event) -> None:
        if isinstance(event, events.Progress):
            arrivals.append(time.monotonic())
            if len(arrivals) == 3:
                gate.set()

    case.run(listener=note, connections=1)
    assert len(arrivals) >= 3
    assert len(arrivals) <= 10 * (arrivals[-1] - arrivals[0]) + 1.5


def test_what_is_held_is_told(case: Case) -> None:
    """After an interruption: the order, the target and the first progress say it."""
    case.put(DATA)
    case.server.script(PATH, faults.hang_up(), on=range(4, 1000))
    case.run(connections=1)
    run = case.finish()
    (started,), (target,) = run.of(events.OrderStarted), run.of(events.TargetStarted)
    assert started.held == target.held == 3 * SEGMENT
    assert (target.size, target.etag) == (SIZE, f'"{digest("md5", DATA)}"')
    assert all(each.bytes >= 3 * SEGMENT for each in run.of(events.Progress))


def test_what_was_there_already_is_told(case: Case) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    case.run()
    run = case.run()
    (done,) = run.of(events.TargetDone)
    assert (done.target, done.fetched, done.grade) == (NAME, False, "digest")
    assert done.digests == {"sha256": digest("sha256", DATA)}


def test_events_are_facts_in_json(case: Case) -> None:
    for event in eventful(case):
        assert json.loads(json.dumps(event.as_dict())) == facts(event)
        assert facts(event)["event"] == event.event


# -- control ---------------------------------------------------------------------------------------


def elsewhere(act: Callable[[], object]) -> None:
    """Do it from another thread."""
    thread = threading.Thread(target=act)
    thread.start()
    thread.join(SOON)
    assert not thread.is_alive()


def once(when: type[segdl.Event], act: Callable[[], object]) -> Callable[[segdl.Event], None]:
    """A listener that acts, from another thread, at the first event of a kind."""
    acted: list[segdl.Event] = []

    def listen(event: segdl.Event) -> None:
        if isinstance(event, when) and not acted:
            acted.append(event)
            elsewhere(act)

    return listen


def test_pause_and_resume(case: Case) -> None:
    """While it pauses nothing is asked for; what came is kept, and nothing is fetched again."""
    case.put(DATA)
    case.server.script(PATH, faults.trickle(5e5))
    control = segdl.Control()

    def pause() -> None:
        control.pause()
        case.server.until(lambda: case.server.open == 0)
        asked = len(case.server.requests)
        with pytest.raises(TimeoutError):
            case.server.until(lambda: len(case.server.requests) > asked, 0.3)
        control.resume()

    run = case.run(control=control, listener=once(events.SegmentDone, pause))
    assert run.code is ExitCode.DONE
    assert run.report.bytes == SIZE


def test_paused_before_it_starts(case: Case) -> None:
    case.put(DATA)
    control = segdl.Control()
    control.pause()

    def resume() -> None:
        assert not case.server.requests
        control.resume()

    run = case.run(control=control, listener=once(events.Progress, resume))
    assert run.code is ExitCode.DONE


def test_cancelled_while_it_pauses(case: Case) -> None:
    case.put(DATA)
    control = segdl.Control()
    control.pause()
    run = case.run(control=control, listener=once(events.Progress, control.cancel))
    assert run.code is ExitCode.INTERRUPTED


@pytest.mark.parametrize("code", [ExitCode.INTERRUPTED, ExitCode.TERMINATED, ExitCode.HANGUP])
def test_cancel(case: Case, code: ExitCode) -> None:
    """The code becomes the report's; every target that is not delivered says so by its name."""
    for number in range(4):
        case.put(made(SIZE, number), f"/{number}")
    case.server.script(EVERY_PATH, faults.trickle(1e6))
    case.server.script(EVERY_PATH, faults.blackhole(1000), on=at_the_end(SIZE))  # of none all comes
    control = segdl.Control()
    stop = once(events.SegmentDone, lambda: control.cancel(code))
    run = case.run(control=control, listener=stop)
    assert run.code is code is run.report.stopped
    assert control.stopped is code
    assert [failure.error.target for failure in run.report.failures] == list("0123")
    assert {failure.error.cause for failure in run.report.failures} == {"stopped"}
    assert run.of(events.OrderFinished)[0].exit_code == code
    assert case.finish().held == run.report.bytes


def test_cancelled_before_it_starts(case: Case) -> None:
    case.put(DATA)
    control = segdl.Control()
    control.cancel()
    assert case.run(control=control).code is ExitCode.INTERRUPTED
    assert not case.server.requests


def test_cancelled_when_everything_is_done(case: Case) -> None:
    case.put(DATA)
    control = segdl.Control()
    run = case.run(control=control, listener=once(events.TargetDone, control.cancel))
    assert run.code is ExitCode.DONE


@pytest.fixture
def in_lumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the lowest rate limit a worker waits for a minute: it takes a whole segment at once."""
    monkeypatch.setattr("segdl.engine.throttle._MORSEL", SEGMENT)


@pytest.mark.usefixtures("in_lumps")
def test_cancel_ends_a_long_wait(case: Case) -> None:
    """A host that is held back for a minute, and a limit that has to be paid for."""
    case.put(DATA)
    case.server.script(PATH, faults.slow_down(60), on=range(2, 1000))
    control = segdl.Control()
    held_back = once(events.Throttled, control.cancel)
    run = case.run(control=control, patience=300.0, listener=held_back)
    assert run.code is ExitCode.INTERRUPTED
    control = segdl.Control()
    stop = once(events.Progress, control.cancel)
    case.server.mend()
    run = case.run(control=control, limit_rate=RateLimit(1024), listener=stop)  # for minutes
    assert run.code is ExitCode.INTERRUPTED


def test_retry(case: Case) -> None:
    """A target that failed is taken up again while the others go on."""
    case.put(DATA)
    case.put(OTHER, SECOND)
    gate = threading.Event()
    case.server.script(PATH, faults.hang_up(), on={3, 4, 5, 6, 7, 8})
    case.server.script(SECOND, faults.held(gate), on=1)
    control = segdl.Control()

    def mend() -> None:
        case.server.mend()
        control.retry()

    def listen(event: segdl.Event) -> None:
        retry(event)
        if isinstance(event, events.TargetDone):
            gate.set()

    retry = once(events.TargetFailed, mend)
    run = case.run(control=control, connections=2, listener=listen)
    assert run.code is ExitCode.DONE
    assert run.kinds().count("target_failed") == 1
    assert case.server.sent(PATH) == SIZE


def test_retry_after_what_was_in_the_way_is_gone(case: Case) -> None:
    """All of it is here already: it is delivered, and nothing is fetched again."""
    case.put(DATA, proof=Proof.NOTHING)
    case.put(OTHER, SECOND)
    gate = threading.Event()
    case.server.script(SECOND, faults.held(gate), on=1)
    case.out.mkdir()
    case.final().write_bytes(OTHER)
    case.may_hold(NAME, DATA, OTHER)
    control = segdl.Control()

    def mend() -> None:
        case.final().unlink()
        control.retry()

    def listen(event: segdl.Event) -> None:
        retry(event)
        if isinstance(event, events.TargetDone):
            gate.set()

    retry = once(events.TargetFailed, mend)
    run = case.run(control=control, connections=2, listener=listen)
    assert run.code is ExitCode.DONE
    assert case.final().read_bytes() == DATA
    assert case.server.sent(PATH) == SIZE


def test_retry_after_wrong_content_fetches_all_of_it_again(case: Case) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    case.put(OTHER, SECOND)
    gate = threading.Event()
    case.server.script(SECOND, faults.held(gate), on=1)
    case.server.script(PATH, faults.flip_bit(77))
    control = segdl.Control()

    def mend() -> None:
        case.server.mend()
        control.retry()

    def listen(event: segdl.Event) -> None:
        retry(event)
        if isinstance(event, events.TargetDone):
            gate.set()

    retry = once(events.TargetFailed, mend)
    run = case.run(control=control, connections=2, listener=listen)
    assert run.code is ExitCode.DONE
    assert case.server.sent(PATH) == 3 * SIZE


@pytest.mark.usefixtures("in_lumps")
def test_set_limit(case: Case) -> None:
    """A new limit holds at once, also for those who wait because of the old one."""
    case.put(made(10 * SEGMENT))
    control = segdl.Control()
    lift = once(events.Progress, lambda: control.set_limit(None))
    run = case.run(control=control, limit_rate=RateLimit(1024), listener=lift)  # for minutes
    assert run.code is ExitCode.DONE


@pytest.mark.usefixtures("in_lumps")
def test_a_limit_that_is_lifted_while_bytes_are_counted(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the rate and the wait for it: nobody waits by a rate that is over."""
    case.put(made(10 * SEGMENT))
    control, rate_at = segdl.Control(), RateLimit.at

    def lifted(limit: RateLimit, now: Any) -> int | None:
        rate, desk = rate_at(limit, now), vars(control)["_run"]
        if rate is not None and desk is not None and desk.landed:
            control.set_limit(None)
        return rate

    monkeypatch.setattr(RateLimit, "at", lifted)
    all_day = RateWindow(day.min, day.max, 1024)  # for minutes
    limit = RateLimit(1024, (all_day,))  # asked what holds at this time of day
    assert case.run(control=control, limit_rate=limit).code is ExitCode.DONE


def test_a_limit_that_was_lifted_leaves_no_debt(case: Case) -> None:
    """Half a MiB that came at 2 MiB a second is not paid for at the next rate: that took minutes.
    What is left takes half a second."""
    case.put(made(8 * SEGMENT + 2000))
    control, limits = segdl.Control(), [None, "4KiB"]

    def listen(event: segdl.Event) -> None:
        while isinstance(event, events.Progress) and event.bytes >= 8 * SEGMENT and limits:
            control.set_limit(limits.pop(0))

    run = case.run(
        control=control, connections=1, segment_size=16 * SEGMENT, limit_rate=RateLimit(2 << 20),
        listener=listen,
    )  # fmt: skip
    assert run.code is ExitCode.DONE


def test_set_limit_takes_what_the_command_line_takes(case: Case) -> None:
    case.put(made(10 * SEGMENT))
    control = segdl.Control()
    control.set_limit("1MiB")
    began = time.monotonic()
    assert case.run(control=control).code is ExitCode.DONE
    assert time.monotonic() - began > 0.5
    with pytest.raises(segdl.UsageError, match=r"^--limit-rate: expected"):
        control.set_limit("fast")


def test_set_limit_before_it_starts(case: Case) -> None:
    case.put(made(10 * SEGMENT))
    control = segdl.Control()
    control.set_limit(1024 * 1024)
    began = time.monotonic()
    assert case.run(control=control, limit_rate=RateLimit(1024)).code is ExitCode.DONE
    assert time.monotonic() - began > 0.5


def resigned(case: Case, **changes: str) -> segdl.Manifest:
    """The order with fresh share URLs."""
    fresh = Case(case.server, case.folder / "fresh")
    fresh.folder.mkdir(exist_ok=True)
    for name, entry in case.files.items():
        url = entry["url"].replace(CANARY, f"{CANARY}fresh")
        fresh.files[name] = entry | {"url": url} | changes
    return segdl.load(fresh.manifest())


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("first", [1, 3])
def test_refresh(case: Case, sized: bool, first: int) -> None:
    """An expired target goes on with a fresh URL; nothing that is held is fetched again."""
    case.put(DATA, sized=sized)
    case.put(OTHER, SECOND)
    gate = threading.Event()
    ended = faults.EXPIRED["MinIO"]
    case.server.script(PATH, ended, on=lambda r: "fresh" not in r.query and r.number >= first)
    case.server.script(SECOND, faults.held(gate), on=1)
    control = segdl.Control()
    taken: list[int] = []

    def listen(event: segdl.Event) -> None:
        refresh(event)
        if isinstance(event, events.TargetDone):
            gate.set()

    refresh = once(
        events.TargetPaused,
        lambda: taken.append(control.refresh(resigned(case, size=str(SIZE)))),
    )
    run = case.run(control=control, connections=2, listener=listen)
    assert run.code is ExitCode.DONE
    assert taken == [2]
    assert [event.target for event in run.of(events.TargetResumed)] == [NAME]
    sent = sum(r.sent for r in case.server.requests if r.path == PATH and r.sent > 1000)
    assert sent == SIZE


def test_refresh_takes_what_download_takes(case: Case) -> None:
    case.put(DATA)
    case.put(OTHER, SECOND)
    case.server.script(PATH, faults.EXPIRED["AWS"], on=1)
    gate = threading.Event()
    case.server.script(SECOND, faults.held(gate), on=1)
    control = segdl.Control()
    broken = case.folder / "broken.yaml"
    broken.write_text("segdl: 1\n", encoding="utf-8")

    def refresh() -> None:
        with pytest.raises(segdl.ManifestError, match="files"):
            control.refresh(broken)
        resigned(case)
        assert control.refresh(str(case.folder / "fresh" / "order.json")) == 2
        gate.set()

    run = case.run(control=control, connections=2, listener=once(events.TargetPaused, refresh))
    assert run.code is ExitCode.DONE


def test_every_target_that_is_not_delivered_is_told_as_failed(case: Case) -> None:
    """Also one that waited for a link to the end: `failed` counts these events."""
    case.put(DATA)
    case.put(OTHER, SECOND)
    case.server.script(PATH, faults.EXPIRED["AWS"])
    case.server.script(SECOND, faults.status(404))
    run = case.run()
    assert {e.target: e.cause for e in run.of(events.TargetFailed)} == {
        NAME: "expired", "b.7z": "refused",
    }  # fmt: skip
    assert run.kinds()[-2:] == ["target_failed", "order_finished"]
    assert run.of(events.OrderFinished)[0].failed == 2


def test_refresh_with_other_targets(case: Case) -> None:
    """Only what is the same target, of the same size, takes a fresh URL."""
    case.put(DATA)
    control = segdl.Control()
    taken: list[int] = []

    def refresh() -> None:
        taken.append(control.refresh(resigned(case, path="other")))
        taken.append(control.refresh(resigned(case, size=str(SIZE + 1))))

    case.server.script(PATH, faults.trickle(1e6))
    run = case.run(control=control, listener=once(events.SegmentDone, refresh))
    assert run.code is ExitCode.DONE
    assert taken == [0, 0]


def test_a_control_outlives_its_run(case: Case) -> None:
    """After the end every method does nothing, and says so."""
    case.put(DATA)
    control = segdl.Control()
    assert case.run(control=control).code is ExitCode.DONE
    control.pause()
    control.resume()
    control.retry()
    control.set_limit(1024)
    assert control.refresh(segdl.load(case.manifest())) == 0


def test_every_method_from_many_threads(case: Case) -> None:
    """Steered from eight threads at once, it still delivers."""
    for number in range(4):
        case.put(made(SIZE, number), f"/{number}.7z", proof=Proof.DIGEST)
    case.server.script(EVERY_PATH, faults.trickle(2e6))
    control, fresh = segdl.Control(), resigned(case)
    over = threading.Event()

    def steer(seed: int) -> None:
        acts = [
            control.pause, control.resume, control.retry, lambda: control.refresh(fresh),
            lambda: control.set_limit(10**9), lambda: control.set_limit(None), control.resume,
        ]  # fmt: skip
        while not over.wait(0.001 * (seed + 1)):
            acts[seed % len(acts)]()
            seed += 3

    threads = [threading.Thread(target=steer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    released: list[threading.Timer] = [threading.Timer(1.0, over.set)]
    released[0].start()

    def let_go() -> None:
        released[0].join()
        for thread in threads:
            thread.join(SOON)
        control.resume()

    released.append(threading.Timer(0.0, let_go))
    released[1].start()
    run = case.run(control=control)
    over.set()
    released[1].join()
    assert run.code is ExitCode.DONE
    case.check_delivered()
    assert isinstance(run.report, segdl.Report)
    assert not issubclass(segdl.Report, TransientError)
