"""Runners: processes of their own that fetch and deliver small targets (segdl.engine.runner).

Whatever they meet, what comes of it is what would come of it without them. No test passes without
one: each looks at the errands that were run.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import signal
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import segdl
from segdl.core import events
from segdl.core.digests import digest
from segdl.core.errors import ExitCode
from segdl.core.manifest import Target
from segdl.core.options import KIB, MIB, Options
from segdl.core.report import Receipt
from segdl.core.timeline import Exchange
from segdl.core.urls import parse_url
from segdl.edges.timeline import read_timeline
from segdl.edges.workspace import Workspace
from segdl.engine.delivery import Delivery
from segdl.engine.desk import Desk
from segdl.engine.errand import Errand
from segdl.engine.runner import Done, Reply, Runner
from segdl.engine.stakes import MOST_LOST, MOST_OPEN
from segdl.engine.task import DRAFT
from tests.commands import ROOT, running
from tests.faults import EVERY_PATH, Answer, Fault, FaultServer, Seen, Wire, faults
from tests.orders import SOON, Proof, Run, made, until
from tests.runners import always
from tests.test_drafts import GRADES, PIECES, Small, fail, kept, plant, take_away
from tests.test_resume import WAYS, Child, fingerprint
from tests.test_workspace import umask

DONE, DISK, INTERRUPTED = ExitCode.DONE, ExitCode.DISK, ExitCode.INTERRUPTED
FILES = 24  # of most orders here
SIZES = (700, 1, 5000, 40_000, DRAFT - 1, DRAFT)
CONNECTIONS = 2  # each of them has a runner


@dataclass
class Many(Small):
    """An order whose every connection has a runner."""

    def run(self, **options: Any) -> Run:
        return super().run(**{"connections": CONNECTIONS, **options})

    def asked(self, name: str) -> int:
        """How often the server was asked for a target."""
        return len([seen for seen in self.server.requests if seen.path == self.path(name)])


@dataclass
class Errands:
    """What runners were sent for, and what came of it."""

    sent: list[tuple[Target, ...]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)  # paths
    at_work: set[int] = field(default_factory=set)  # processes that an errand is with
    most: int = 4  # targets of the first
    died: int = 0  # runners, in the middle of one

    def paths(self) -> set[str]:
        return {target.path for targets in self.sent for target in targets}


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Many:
    return Many(fault_server, tmp_path)


@pytest.fixture
def errands(monkeypatch: pytest.MonkeyPatch) -> Iterator[Errands]:
    """Every order has runners, which are ready before the first target is asked for."""
    errands, run = Errands(), Runner.run
    always(monkeypatch.setattr, lambda: errands.most)

    def ran(self: Runner, targets: Sequence[Target], wanted: Callable[[], bool]) -> Reply:
        assert self._process is not None
        if not targets:  # it is to hang up
            return run(self, targets, wanted)
        errands.sent.append(tuple(targets))
        errands.at_work.add(pid := self._process.pid)
        reply = run(self, targets, wanted)
        errands.at_work.discard(pid)
        errands.died += self._process is None
        errands.done += [each.receipt.path for each in reply.done if each is not None]
        return reply

    monkeypatch.setattr(Runner, "run", ran)
    before = children(os.getpid())
    yield errands
    assert children(os.getpid()) <= before, "a runner is left over"


def children(parent: int) -> set[int]:
    """The processes that another one has started, and not waited for."""
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            after_name = (entry / "stat").read_text().rpartition(")")[2]
            if int(after_name.split()[1]) == parent:
                found.add(int(entry.name))
    return found


def exists(process: int) -> bool:
    """Whether a process is there, and no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# -- an order of many ------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o027])
def test_an_order_of_many(case: Many, errands: Errands, mask: int) -> None:
    """Exact, graded, told and noted as without runners; and the next run asks for nothing."""
    proofs: list[Proof | str] = [*Proof, PIECES]
    asked: dict[str, Proof | str] = {}
    for number in range(200):
        size, proof = SIZES[number // 9 % 6 if number % 9 == 0 else 0], proofs[number // 4 % 4]
        asked[case.add(number, size, proof)] = proof
    with umask(mask):
        run = case.run()
    run.report.raise_for_failures()
    case.check_delivered()
    small = {name for name, proof in asked.items() if proof is not PIECES}
    assert set(errands.done) == small & errands.paths() == small
    assert {r.path: r.grade for r in run.report.receipts} == {
        name: GRADES[asked[name]] for name in asked
    }
    for receipt in run.report.receipts:
        check_receipt(case, receipt, mask)
    assert case.receipts() == set(asked)
    assert run.report.skipped == frozenset()
    assert run.report.bytes == sum(len(case.data(name)) for name in asked) == case.server.sent()
    check_events(case, run)
    assert Counter(line["target"] for line in requests_noted(case)) == Counter(list(asked))
    case.check_believed()


def check_receipt(case: Many, receipt: Receipt, mask: int) -> None:
    data, found = case.data(receipt.path), case.final(receipt.path).stat()
    assert (receipt.size, receipt.modified_ns) == (len(data), found.st_mtime_ns)
    assert receipt.segments.values == (digest("xxh3_128", data),)
    assert all(digest(name, data) == value for name, value in receipt.digests.items())
    assert (stat.S_IMODE(found.st_mode), found.st_nlink) == (0o666 & ~mask, 1)


def check_events(case: Many, run: Run) -> None:
    """Of each target that it starts, its segment, that it is done; with the same facts."""
    told: dict[str, list[str]] = {name: [] for name in case.files}
    for event in run.events:
        if isinstance(event, events.TargetStarted | events.SegmentDone | events.TargetDone):
            told[event.target].append(event.event)
        if isinstance(event, events.TargetStarted | events.TargetDone):
            assert event.size == len(case.data(event.target))
    assert set(map(tuple, told.values())) == {("target_started", "segment_done", "target_done")}
    assert all(event.fetched for event in run.of(events.TargetDone))


def requests_noted(case: Many) -> list[dict[str, Any]]:
    """The requests in the timeline."""
    folder = os.open(case.out / ".segdl", os.O_RDONLY)
    try:
        lines = list(read_timeline(folder, "timeline.jsonl"))
    finally:
        os.close(folder)
    return [line for line in lines if line is not None and line["kind"] == "request"]


def test_an_errand_is_bounded(
    case: Many, errands: Errands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In number, and in bytes, with what else a kill would cost."""
    for number in range(80):
        case.add(number, 100)
    for number in range(80, 110):
        case.add(number, DRAFT - number)
    real = Runner.takes
    monkeypatch.setattr(Runner, "takes", lambda self: real(self) and MOST_OPEN)
    case.run().report.raise_for_failures()
    case.check_delivered()
    for targets in errands.sent:
        assert sum(target.size or 0 for target in targets) <= MOST_LOST
        assert len({target.urls[0].netloc for target in targets}) == 1
    assert max(map(len, errands.sent)) > 3


def hands_out(sizes: Sequence[int]) -> Desk:
    """A desk of four workers, with targets that nothing is known of."""
    urls = (parse_url("http://127.0.0.1/o"),)
    targets = [Target(f"{n}.bin", urls, size) for n, size in enumerate(sizes)]
    nothing: Any = SimpleNamespace(keep=lambda receipts: None)
    desk = Desk(targets, nothing, Options(connections=4), nothing, lambda event: None)
    for number in range(len(targets)):
        desk.expect(number)
    return desk


def errand_of(desk: Desk, worker: int) -> Errand:
    work = desk.next_work(worker, None, lambda: None, MOST_OPEN)
    assert isinstance(work, Errand)
    return work


@pytest.mark.parametrize("waiting", [0, 6, 10])
@pytest.mark.parametrize("size", [1, 20_000, 200_000, DRAFT])
def test_what_a_kill_costs_is_bounded(size: int, waiting: int) -> None:
    """Errands count with the drafts that wait for delivery; every worker gets one all the same."""
    desk = hands_out([size] * 100)
    for number in range(waiting):
        desk._stakes.put(number - 100, size)
    errands = [errand_of(desk, worker) for worker in range(4)]
    out = sum(target.size or 0 for errand in errands for target in errand.targets)
    assert out + waiting * size <= 4 * MOST_LOST
    for worker, errand in enumerate(errands):
        desk.ran(worker, errand, Reply((), 0, 0.0))
    assert len(desk._stakes) == waiting


def test_time_that_a_runner_worked_is_not_forgotten() -> None:
    """Whatever its worker does next, and if it dies: else a machine would seem busy, or idle."""
    desk = hands_out([1000] * 100)
    errands, spent = [errand_of(desk, 0) for _ in range(2)], []
    for errand, worked in zip(errands, (5.0, 0.0), strict=True):
        desk.ran(0, errand, Reply((), 0, worked))
        spent.append(desk._headcount.worked)
        desk.landed_more(0, 100)
        spent.append(desk._headcount.worked)
    assert spent == sorted(spent)
    assert spent[-1] - time.thread_time() == pytest.approx(5.0, abs=1.0)


# -- one of many -----------------------------------------------------------------------------------

EVERY = 4  # targets of an errand: the third of each is odd
REFUSED: dict[str, Fault] = {
    "404": faults.status(404),
    "expired": faults.EXPIRED["AWS"],
    "whole": faults.whole_200(),
    "whole, chunked": faults.chain(faults.whole_200(), faults.chunked()),
    "range in a 200": faults.range_200(),
    "login page": faults.login_page(),
    "other total": faults.total_other(4000),
    "no ETag": faults.no_etag(),
    "weak ETag": faults.weak_etag(),
}
BODIES: dict[str, Fault] = {
    "cut": faults.cut(2000),
    "wrong": faults.flip_bit(77),
    "short 206": faults.short_206(3000),
    "chunked 206": faults.chunked_206(),
    "endless": faults.endless_body(),
    "closes": faults.connection_close(),
}
ONCE: dict[str, Fault] = {
    "wrong range": faults.wrong_range(1, 1),
    "cut at once": faults.cut(0),
    "cut": faults.cut(2000),
    "wrong": faults.flip_bit(77),
    "hang up": faults.hang_up(by_reset=True),
    "silence": faults.blackhole(100),
}


def all_of(many: dict[str, Fault], on: int | None = None) -> Callable[[Many, list[str]], None]:
    """Give each of the odd targets one of the faults."""

    def make_odd(case: Many, odd: list[str]) -> None:
        for name, fault in zip(odd, many.values(), strict=False):
            script(case, name, fault, on)

    return make_odd


ODD: dict[str, Callable[[Many, list[str]], object]] = {
    "refused": all_of(REFUSED),
    "bodies": all_of(BODIES),
    "once": all_of(ONCE, 1),
    "other objects": lambda case, odd: other_objects(case, *odd),
    "hang up": lambda case, odd: script(case, odd[0], faults.hang_up()),
    "slow down once": lambda case, odd: script(case, odd[0], faults.slow_down(0), 1),
    "500": lambda case, odd: script(case, odd[0], faults.status(500)),
}


def script(case: Many, bad: str, fault: Any, on: int | None = None) -> None:
    case.server.script(case.path(bad), fault, on=on)


def other_objects(case: Many, longer: str, shorter: str, moved: str) -> None:
    """Two are not what the manifest says, and one is elsewhere."""
    for name, data in ((longer, case.data(longer) + b"more"), (shorter, case.data(shorter)[:-7])):
        case.server.put(case.path(name), data)
        case.may_hold(name, data)
    case.server.put("/elsewhere", case.data(moved))
    script(case, moved, faults.redirect(case.server.url("/elsewhere")))


def outcome(case: Many, run: Run) -> tuple[object, ...]:
    """What came of a run, as far as it is the same with and without runners."""
    causes = {failure.path: failure.error.cause for failure in run.report.failures}
    codes = {failure.path: failure.error.exit_code for failure in run.report.failures}
    grades = {receipt.path: receipt.grade for receipt in run.report.receipts}
    resumable = {receipt.path for receipt in run.report.receipts if not receipt.resumable}
    fetched = {event.target: event.fetched for event in run.of(events.TargetDone)}
    skipped = run.report.skipped
    there = case.delivered(), case.receipts()
    return run.code, causes, codes, grades, resumable, fetched, skipped, there


@pytest.fixture
def in_fours(errands: Errands, monkeypatch: pytest.MonkeyPatch) -> Errands:
    """Errands are of four, whatever comes of them."""
    monkeypatch.setattr(Runner, "_learn", lambda *_, **__: None)
    return errands


@pytest.mark.parametrize("odd", ODD)
def test_some_are_odd(
    case: Many, in_fours: Errands, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    """Each has the end that it would have without runners; the others are delivered."""
    names = case.add_several(40 if odd in ("refused", "bodies", "once") else 12)
    bad = names[2::EVERY]
    ODD[odd](case, bad)
    quickly = {"timeout": 3.0} if odd == "once" else {}  # one of those is silent
    run = case.run(**quickly)
    found, asked = outcome(case, run), {name: case.asked(name) for name in bad}
    assert set(names) - set(bad) <= case.receipts()
    assert set(bad) <= in_fours.paths()
    assert set(in_fours.done) >= {*names[::EVERY], *names[1::EVERY]}
    monkeypatch.setattr("segdl.engine.order.WORTH", 1000)
    in_fours.sent.clear()
    case.server.forget()
    alone = replace(case, folder=case.folder / "alone", looked={})
    alone.folder.mkdir()
    assert outcome(alone, alone.run(**quickly)) == found
    assert in_fours.sent == []
    assert not [name for name in bad if asked[name] > alone.asked(name) + 1]


@pytest.mark.parametrize("late", [False, True], ids=["before", "late"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["keep", "overwrite"])
def test_something_in_the_way_of_some(
    case: Many, in_fours: Errands, overwrite: bool, late: bool
) -> None:
    """Whenever it comes to be there, it is treated as without runners."""
    names = case.add_several(EVERY * len(WAYS), proof=Proof.NOTHING)
    bad = dict(zip(names[2::EVERY], WAYS, strict=True))
    planted: dict[str, tuple[int, ...]] = {}

    def plant_now(name: str) -> None:
        planted[name] = plant(case, name, bad[name])

    def meanwhile(wire: Wire, request: Seen, answer: Answer) -> Answer:
        plant_now(next(name for name in bad if case.path(name) == request.path))
        return answer  # the runner has looked before it asked

    case.out.mkdir()
    for name in bad:
        if late:
            case.server.script(case.path(name), meanwhile, on=1)
        else:
            plant_now(name)
    run = case.run(overwrite=overwrite)
    after = {name: fingerprint(case.final(name)) for name in bad}
    assert set(bad) <= in_fours.paths()
    assert set(in_fours.done) >= {*names[::EVERY], *names[1::EVERY]}
    assert set(in_fours.done) >= (set(names) - set(bad) if late else set())
    assert case.receipts() >= set(names) - set(bad)
    assert not [name for name in bad if case.asked(name) > 2]
    if not (late or overwrite):  # what is plain to see is not asked for
        never = {"longer", "empty", "folder", "fifo"}
        assert not [name for name, way in bad.items() if way in never and case.asked(name)]
    for name, way in bad.items():
        if way == "same" or (overwrite and way != "folder"):
            assert case.final(name).read_bytes() == case.data(name)
            assert (planted[name] == after[name]) is (way == "same")
        else:
            assert run.error(name).cause == "occupied"
            assert planted[name] == after[name]
            take_away(case.final(name))
        case.may_hold(name, case.data(name))
    assert run.code is DISK
    case.finish(again=True)


def test_an_answer_that_ends_before_the_target(case: Many, errands: Errands) -> None:
    """Nothing more comes of it: it is not waited for."""
    names = case.add_several(8)
    case.server.script(case.path(names[2]), faults.short_206(3000), on=1)
    case.run(timeout=60.0).report.raise_for_failures()
    assert names[2] in errands.paths() - set(errands.done)
    case.check_delivered()


def test_those_after_a_wrong_one_are_fetched_once(case: Many, errands: Errands) -> None:
    """A digest is looked at when the errand is over: the others are delivered all the same."""
    names = case.add_several(FILES)
    case.server.script(case.path(names[1]), faults.flip_bit(77), on=1)
    run = case.run()
    run.report.raise_for_failures()
    assert run.report.skipped == frozenset()
    assert len(case.server.requests) == FILES + 1
    assert set(errands.done) >= set(names[:4]) - {names[1]}
    case.check_believed()


def test_links_that_a_host_is_known_to_refuse(case: Many, errands: Errands) -> None:
    """They are not asked for, as without runners."""
    query = (
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20231213T070000Z&X-Amz-Expires=3600"
        "&X-Amz-Signature=CANARY7d41c09be5f26a83query"
    )
    names = case.add_several(FILES, query=query)
    case.server.script(EVERY_PATH, faults.EXPIRED["AWS"])
    run = case.run()
    assert run.code is ExitCode.LINKS
    assert {run.error(name).cause for name in names} == {"expired"}
    assert errands.sent
    assert len(case.server.requests) <= 3 * CONNECTIONS


# -- runners that fail -----------------------------------------------------------------------------


def test_killed_in_the_middle(case: Many, in_fours: Errands) -> None:
    """What they were sent for is fetched without them."""
    case.add_several(FILES)
    killed: list[int] = []

    def kill(wire: Wire, request: Seen, answer: Answer) -> Answer:
        for process in list(in_fours.at_work):
            os.kill(process, signal.SIGKILL)
            killed.append(process)
        return answer

    case.server.script(EVERY_PATH, kill, on=12)
    run = case.run()
    run.report.raise_for_failures()
    case.check_delivered()
    assert killed
    assert in_fours.done
    assert len(case.server.requests) <= FILES + 4 * CONNECTIONS
    case.check_believed()


IN_RUNNERS = """
import os, signal, sys
if any("segdl.engine.running" in word for word in sys.orig_argv):
    import errno, time
    import segdl.edges.workspace as workspace
    from segdl.edges.workspace import Workspace
    from segdl.engine.delivery import Delivery

    def patched(owner, name, call):
        real = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: call(real, *args, **kwargs))

    def fail(code):
        raise OSError(code, os.strerror(code))

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

"""


@pytest.fixture
def in_runners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have Python run in every runner, before segdl does."""

    def prepare(code: str) -> None:
        folder = tmp_path / "site"
        folder.mkdir()
        lines = "\n".join(f"    {line}" for line in code.splitlines())
        (folder / "sitecustomize.py").write_text(IN_RUNNERS + lines)
        monkeypatch.syspath_prepend(folder)

    return prepare


STEPS = {
    "sync": ("Workspace", "sync", 1),
    "the first name": ("workspace", "_link", 1),
    "the third name": ("workspace", "_link", 3),
    "folders": ("Workspace", "flush_folders", 1),
}
DEADLY = """
calls = []
def deadly(real, *args, **kwargs):
    calls.append(1)
    if len(calls) == {when} and not {after}:
        die()
    try:
        return real(*args, **kwargs)
    finally:
        if len(calls) == {when}:
            die()
patched({owner}, {name!r}, deadly)
"""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(
    case: Many, errands: Errands, in_runners: Callable[[str], None], step: str, after: bool
) -> None:
    """What it has named already is found there by its worker."""
    owner, name, when = STEPS[step]
    case.add_several(FILES, proof=Proof.NOTHING if after else Proof.DIGEST)
    errands.most = 8  # more than a few: they are flushed together
    in_runners(DEADLY.format(owner=owner, name=name, when=when, after=after))
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert errands.died >= 1
    assert len(case.server.requests) <= FILES + 8 * CONNECTIONS
    case.check_believed()


@pytest.mark.parametrize(
    ("code", "at"),
    [("ENOSPC", "write"), ("EIO", "sync"), ("EIO", "name"), ("ENOSPC", "folders"),
     ("EMFILE", "draft")],
)  # fmt: skip
def test_the_disk_fails_a_runner(
    case: Many, errands: Errands, in_runners: Callable[[str], None], code: str, at: str
) -> None:
    """The worker tries itself: what fails it is told by it alone."""
    owner, name = {
        "write": ("os", "pwrite"),
        "sync": ("Delivery", "_flush"),
        "name": ("workspace", "_link"),
        "folders": ("Workspace", "flush_folders"),
        "draft": ("Workspace", "open_draft"),
    }[at]
    case.add_several(FILES)
    in_runners(f"patched({owner}, {name!r}, lambda *_, **__: fail(errno.{code}))")
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert errands.sent
    assert errands.done == []
    case.check_believed()


def test_receipts_that_cannot_be_kept(
    case: Many, errands: Errands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is told to be delivered that has none; the next run finds it there."""
    case.add_several(FILES)
    with monkeypatch.context() as patched:
        patched.setattr(Delivery, "keep", lambda *_: fail(errno.EIO))
        run = case.run()
    assert run.code is DISK
    lost = set(errands.done)
    assert lost
    assert {failure.path for failure in run.report.failures} == lost
    assert not lost & {event.target for event in run.of(events.TargetDone)}
    case.finish(again=True)
    assert case.server.requests == []
    case.check_believed()


NONSENSE = {
    "at once": "os._exit(3)",
    "no pickle": "os.write(int(sys.orig_argv[-1]), b'\\0\\0\\0\\5hello')",
    "no reply": """
from multiprocessing.connection import Connection
channel = Connection(int(sys.orig_argv[-1]))
channel.recv()
channel.send("ready")
channel.recv()
channel.send("nothing")
""",
    "half a reply": """
from multiprocessing.connection import Connection
channel = Connection(int(sys.orig_argv[-1]))
channel.recv()
channel.send("ready")
channel.recv()
os.write(channel.fileno(), b"\\0\\0\\1\\0half")
os._exit(0)
""",
    "no pickle for a reply": """
from multiprocessing.connection import Connection
channel = Connection(int(sys.orig_argv[-1]))
channel.recv()
channel.send("ready")
channel.recv()
channel.send_bytes(b"hello")
""",
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_runner_that_makes_no_sense(
    case: Many, errands: Errands, in_runners: Callable[[str], None], nonsense: str
) -> None:
    """The order goes the ordinary way."""
    case.add_several(FILES)
    in_runners(NONSENSE[nonsense])
    run = case.run()
    run.report.raise_for_failures()
    case.check_delivered()
    assert errands.done == []
    assert len(errands.sent) <= CONNECTIONS
    assert len(case.server.requests) == FILES
    case.check_believed()


def test_a_runner_that_cannot_be_started(
    case: Many, errands: Errands, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = case.add_several(FILES)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert errands.sent == []
    monkeypatch.undo()
    assert case.receipts() == set(names)
    case.check_believed()


@pytest.mark.parametrize("lack", ["descriptors", "folder", "text"])
def test_there_is_no_way_to_start_one(
    case: Many, errands: Errands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lack: str
) -> None:
    """No descriptor is left for the channel; the current folder is gone; a path is no text."""
    case.add_several(FILES)
    if lack == "descriptors":
        monkeypatch.setattr("multiprocessing.connection.Pipe", lambda: fail(24))
    elif lack == "folder":
        monkeypatch.setattr(Path, "cwd", lambda: fail(2))
        monkeypatch.setattr(sys, "path", ["", *sys.path])
    else:
        monkeypatch.setattr(sys, "path", [tmp_path, *sys.path])
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert bool(errands.done) is (lack == "text")


def test_a_runner_that_hangs_does_not_hold_the_end(
    case: Many, errands: Errands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told to come back, and then killed."""
    monkeypatch.setattr("segdl.engine.runner._GRACE", 0.5)
    case.add_several(FILES)
    control = segdl.Control()

    def freeze(wire: Wire, request: Seen, answer: Answer) -> Answer:
        for process in list(errands.at_work):
            os.kill(process, signal.SIGSTOP)
        control.cancel()
        return answer

    case.server.script(EVERY_PATH, freeze, on=9)
    run = case.run(control=control)
    assert run.code is INTERRUPTED
    assert case.receipts() <= case.delivered()  # it may have been killed between the two
    case.finish(again=True)


# -- segdl itself is killed ------------------------------------------------------------------------

BEFORE = f"""
import sys
sys.path.append({str(ROOT)!r})
from tests.runners import always
always(most=lambda: 4)
"""


def gone(processes: set[int]) -> bool:
    return not any(map(exists, processes))


def at_errands(child: int) -> set[int]:
    """The runners of a process that have a connection to a server."""
    return {runner for runner in children(child) if sockets(runner) >= 2}


def sockets(process: int) -> int:
    """How many a process has: its channel, and its connection."""
    count = 0
    with suppress(OSError):
        for link in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                count += os.readlink(link).startswith("socket:")  # noqa: PTH115
    return count


@pytest.mark.parametrize("hold", [None, 300], ids=["before the head", "in the body"])
def test_killed_while_runners_wait(case: Many, hold: int | None) -> None:
    """They end at once, though the server says nothing; the next run delivers the rest."""
    case.add_several(FILES)
    gate = threading.Event()
    case.server.script(EVERY_PATH, faults.held(gate, hold), on=lambda seen: seen.serial > 9)
    with Child(case, BEFORE, connections=CONNECTIONS, timeout=60.0) as child:
        case.server.until(lambda: len(case.server.requests) == 11)
        runners = at_errands(child._process.pid)
        assert len(runners) == CONNECTIONS
        child.signal(signal.SIGKILL)
        child.wait()
        until(lambda: gone(runners), SOON)
    case.check_finals()
    gate.set()
    assert case.receipts()
    case.finish(again=True)


def test_kill_9_at_random_moments(case: Many) -> None:
    """Nothing is partial or stray; at most 1 MiB a connection is fetched again."""
    proofs: list[Proof | str] = [*Proof, PIECES]
    sizes = [(900, 30_000, 3000, DRAFT, 70_000)[n % 5] + n % 3 for n in range(100)]
    for number, size in enumerate(sizes):
        case.add(number, min(size, DRAFT), proofs[number // 7 % 4])
    total, errands, enough = sum(min(size, DRAFT) for size in sizes), 0, 0

    def has_enough() -> bool:
        return case.server.sent() >= enough

    def until_enough(wire: Wire, request: Seen, answer: Answer) -> Answer:
        wire.pause(None if has_enough() else 0.003)  # nobody is done before he dies
        return answer

    case.server.script(EVERY_PATH, until_enough)
    for _ in range(4):
        sent, done = case.server.sent(), kept(case)
        enough = sent + total // 6
        with Child(case, BEFORE, connections=CONNECTIONS) as child:
            case.server.until(has_enough)
            runners = children(child._process.pid)
            errands += len(runners)
            child.signal(signal.SIGKILL)
            child.wait()
            until(lambda runners=runners: gone(runners), SOON)  # type: ignore[misc]
        case.server.until(lambda: case.server.open == 0)
        case.check_finals()
        assert case.strays() <= {"order.new", "draft.new"}
        assert case.server.sent() - sent - (kept(case) - done) <= CONNECTIONS * MIB
    assert errands >= 4
    case.server.mend()
    case.run().report.raise_for_failures()
    case.check_delivered()
    case.check_believed()


# -- steered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [None, 300], ids=["before the head", "in the body"])
def test_cancelled_while_an_answer_is_held(
    case: Many, in_fours: Errands, hold: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends, with no runner killed, and what is complete is delivered."""
    monkeypatch.setattr("segdl.engine.runner._GRACE", 1000.0)
    names = case.add_several(FILES)
    gate, control = threading.Event(), segdl.Control()
    held = {case.path(names[number]) for number in (5, 9)}
    case.server.script(EVERY_PATH, faults.held(gate, hold), on=lambda seen: seen.path in held)

    def cancel() -> None:
        case.server.until(lambda: held <= {seen.path for seen in case.server.requests})
        until(lambda: len(in_fours.at_work) == 2)
        control.cancel()

    steering = threading.Thread(target=cancel)
    steering.start()
    run = case.run(control=control, timeout=60.0)
    steering.join()
    gate.set()
    assert run.code is INTERRUPTED
    assert case.receipts() == case.delivered() == set(in_fours.done)
    whole = {seen.path for seen in case.server.requests} - held
    assert {case.path(name) for name in in_fours.done} == whole
    case.finish()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_while_an_answer_is_held(case: Many, number: signal.Signals, code: int) -> None:
    case.add_several(FILES)
    site = case.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BEFORE)
    gate = threading.Event()
    case.server.script(EVERY_PATH, faults.held(gate), on=lambda seen: seen.serial > 9)
    words = ("get", case.manifest(), "-o", case.out, "--connections", str(CONNECTIONS))
    env = {"PYTHONPATH": f"{site}:{ROOT}", "SEGDL_TIMEOUT": "600"}
    with running(*words, cwd=case.folder, env=env, patient=True) as child:
        case.server.until(lambda: len(case.server.requests) == 11)
        until(lambda: len(at_errands(child.process.pid)) == CONNECTIONS)
        runners = at_errands(child.process.pid)
        ended, _ = child.stop(number)
    gate.set()
    assert (ended, gone(runners)) == (code, True)
    assert case.receipts() == case.delivered() != set()
    case.finish()


def test_paused_and_resumed(case: Many, errands: Errands) -> None:
    """Nothing is asked for in between."""
    case.add_several(60)
    control, gate = segdl.Control(), threading.Event()
    asked: list[int] = []

    def steer(event: segdl.Event) -> None:
        if isinstance(event, events.TargetDone) and not gate.is_set():
            control.pause()
            gate.set()
        elif isinstance(event, events.Progress) and gate.is_set():
            if event.connections and not asked:
                return  # an errand that was given out before it pauses may not have gone yet
            asked.append(len(case.server.requests))
            if len(asked) == 6:
                control.resume()

    case.server.script(EVERY_PATH, faults.pause(0.02))
    case.server.script(EVERY_PATH, faults.held(gate), on=range(40, 50))  # not all before the pause
    run = case.run(control=control, listener=steer)
    assert run.code is DONE
    assert len(set(asked[:6])) == 1
    assert asked[0] < 60
    assert errands.done
    case.check_delivered()
    case.check_believed()


def test_a_rate_limit_is_kept(case: Many, errands: Errands) -> None:
    """A runner knows of none: while there is one, no errand goes."""
    names = case.add_several(FILES, 20_000)
    control, gate = segdl.Control(), threading.Event()
    control.set_limit("400KiB")
    case.server.script(EVERY_PATH, faults.held(gate), on=range(14, 18))  # until it is lifted
    began = time.monotonic()

    def lift(event: segdl.Event) -> None:
        if isinstance(event, events.TargetDone) and len(case.receipts()) >= 12:
            control.set_limit(None)
            gate.set()
        elif not isinstance(event, events.OrderFinished) and len(case.receipts()) < 8:
            assert errands.sent == []

    run = case.run(control=control, listener=lift)
    run.report.raise_for_failures()
    assert time.monotonic() - began > 0.3
    assert errands.done
    assert len(errands.done) <= FILES - 12
    assert case.receipts() == set(names)


# -- what goes on an errand ------------------------------------------------------------------------


def test_fresh_links_are_used(case: Many, errands: Errands, monkeypatch: Any) -> None:
    case.add_several(FILES)
    control, taken, gate = segdl.Control(), list[int](), threading.Event()
    fresh = case.folder / "fresh.json"
    old = json.loads(case.manifest().read_text())
    for entry in old["files"]:
        entry["url"] += "2"
    fresh.write_text(json.dumps(old))

    def renew(wire: Wire, request: Seen, answer: Answer) -> Answer:
        taken.append(control.refresh(fresh))
        gate.set()
        return answer

    case.server.script(EVERY_PATH, faults.held(gate))  # no errand is over before it is so
    case.server.script(EVERY_PATH, renew, on=1)
    case.run(control=control).report.raise_for_failures()
    case.check_delivered()
    assert taken[0] == FILES
    queries = [seen.query.endswith("query2") for seen in case.server.requests]
    assert queries[2 * 4 :] == [True] * (FILES - 8)
    assert len(errands.done) == FILES
    assert {t.urls[0].query[-1] for targets in errands.sent[2:] for t in targets} == {"2"}
    case.check_believed()


def test_what_goes_on_no_errand(case: Many, errands: Errands, tmp_path: Path) -> None:
    """Mirrors, slices, pieces, what has no size or none to speak of, what is large."""
    with FaultServer() as other:
        small = case.add_several(8)
        for number in (20, 21):
            other.put(f"/o/{number}", made(5000, number))
        mirrored = case.add(20, 5000, urls=[case.server.url("/o/20"), other.url("/o/20")])
        elsewhere = case.add(21, 5000, url=other.url("/o/21"))
        case.add(22, 5000, PIECES)
        case.add(23, 5000, sized=False)
        case.add(24, 0)
        case.add(25, DRAFT + 1)
        sliced = case.add(26, 5000)
        case.files[sliced] |= {"slice": {"offset": 0, "size": 5000}}
        del case.files[sliced]["size"]
        case.run().report.raise_for_failures()
        case.check_delivered()
        assert errands.paths() == {*small, elsewhere}
        assert mirrored not in errands.done
        for targets in errands.sent:
            assert len({target.urls[0].netloc for target in targets}) == 1
        case.check_believed()


def test_what_is_begun_goes_on_no_errand(case: Many, errands: Errands) -> None:
    names = case.add_several(8)
    case.out.mkdir()
    with closing(Workspace(case.out)) as workspace:
        os.close(workspace.open_work(names[3]))
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert errands.paths() == set(names) - {names[3]}


@pytest.mark.parametrize("segment_size", [64 * KIB, DRAFT])
def test_the_segment_size_that_is_asked_for(
    case: Many, errands: Errands, segment_size: int
) -> None:
    """A runner knows what has one segment."""
    names = case.add_several(8)
    case.run(segment_size=segment_size).report.raise_for_failures()
    case.check_delivered()
    assert errands.paths() == (set() if segment_size < DRAFT else set(names))


def test_few_files_have_no_runners(
    case: Many, errands: Errands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be done before one has started."""
    names = case.add_several(8)
    monkeypatch.setattr("segdl.engine.order.WORTH", 9)
    case.run().report.raise_for_failures()
    assert errands.sent == []
    case.add(30, 100)
    for name in names:
        case.final(name).unlink()
    (case.out / ".segdl" / "receipts.jsonl").unlink()
    case.run().report.raise_for_failures()
    assert errands.paths() == set(case.files)


# -- what crosses to a runner and back -------------------------------------------------------------


def crossing(case: Many, errands: Errands, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Targets, and what came back of them, as they are in a real order."""
    replies: list[Reply] = []
    monkeypatch.setattr(Desk, "ran", note_replies(Desk.ran, replies))
    for proof in Proof:
        case.add(len(case.files), 5000, proof)
    case.run().report.raise_for_failures()
    done = [each for reply in replies for each in reply.done if each is not None]
    targets = [target for sent in errands.sent for target in sent]
    return [*targets, *done, *(d.receipt for d in done), *(d.request for d in done)]


def note_replies(real: Callable[..., None], replies: list[Reply]) -> Callable[..., None]:
    def ran(desk: Desk, worker: int, errand: Errand, reply: Reply) -> None:
        replies.append(reply)
        real(desk, worker, errand, reply)

    return ran


def test_what_crosses_is_the_same_there(
    case: Many, errands: Errands, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = crossing(case, errands, monkeypatch)
    assert {type(value) for value in values} == {Target, Done, Receipt, Exchange}
    for value in values:
        assert pickle.loads(pickle.dumps(value)) == value
        assert copy.copy(value) == value
        assert repr(pickle.loads(pickle.dumps(value))) == repr(value)
