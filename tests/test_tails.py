"""Tails: the ends of segments that idle connections fetch, and connections that lag.

First the open parts of a target on real files, then whole orders from a server that is slow.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import segdl
from segdl.core import events
from segdl.core.digests import digest
from segdl.core.errors import ExitCode
from segdl.core.manifest import Pieces, Target
from segdl.core.options import RateLimit
from segdl.core.plan import Pin, Place, Record
from segdl.core.urls import parse_url
from segdl.core.verdict import Accepted
from segdl.edges.index import read_index
from segdl.edges.parts import Part, part_name
from segdl.edges.workspace import Workspace
from segdl.engine.task import Task
from segdl.engine.windows import LEAST_LENT
from tests.faults import EVERY_PATH, Answer, Fault, FaultServer, Seen, Wire, faults
from tests.orders import NAME, PATH, Case, Proof, Run, made, pieces_of
from tests.test_faults_end_to_end import once
from tests.test_resume import Child, work_of

KIB, MIB = 1024, 1024 * 1024
SEGMENT = 1_500_000
COUNT = 2
LARGE = made(COUNT * SEGMENT, 3)
PIECES = Pieces(
    SEGMENT, "xxh64", tuple(digest("xxh64", LARGE[n * SEGMENT :][:SEGMENT]) for n in range(COUNT))
)
TARGET = Target("a.7z", (parse_url("http://127.0.0.1/a.7z"),), len(LARGE), (), PIECES)


# -- windows on real files -------------------------------------------------------------------------


class Bench:
    """One segment of a task on real files, and what workers do to it, step by step."""

    def __init__(self, out: Path, number: int) -> None:
        self.workspace = Workspace(out)
        self.folder = self.workspace.open_work(TARGET.path)
        self.number = number
        self.task = self._new_task()
        self.task.admit(Accepted(0, None, Pin(len(LARGE), '"e"')))
        self.begin()

    def _new_task(self) -> Task:
        task = Task(TARGET, self.workspace, SEGMENT)
        task.ranged = True
        return task

    @property
    def held(self) -> bool:
        """Whether the segment was found to be complete."""
        return self.number in self.task.front.held

    def begin(self) -> None:
        """A worker takes the segment up."""
        part = self.task.window(self.number, self.task.epoch)
        assert part is not None
        self.part = part
        self.out: list[Part] = []

    def write(self, window: Part, count: int, *, recorded: bool = True) -> int:
        """The next bytes, as a worker has them."""
        count = window.claim(count)
        window.write(memoryview(LARGE)[window.reached : window.reached + count])
        if recorded:
            self.task.checkpoint(window, self.task.epoch)
        return count

    def lend(self, window: Part) -> Part | None:
        tail = self.task.lend(window, self.task.epoch)
        if tail is not None:
            self.out.append(tail)
        return tail

    def give_back(self, tail: Part) -> None:
        self.out.remove(tail)
        self.task.give_back(tail)

    def absorb(self) -> None:
        self.task.absorb(self.part, self.task.epoch)

    def close(self) -> None:
        self.task.over = True
        self.task.close_if_over()

    def reopen(self) -> None:
        """The target failed, and is taken up again in the same run."""
        self.close()
        self.task.over = False
        self.begin()

    def die(self) -> None:
        """Killed, and run again: only what the index says is left."""
        self.close()
        self.task = self._new_task()
        self.task.adopt(read_index(self.folder))
        if not self.held:
            self.begin()

    def finish(self) -> Record:
        """The segment's worker, to its end; who helps is called back."""
        if self.held:
            return self.task.front.held[self.number]
        for tail in list(self.out):
            self.give_back(tail)
        while self.part.reached < self.part.segment.stop:
            if not self.write(self.part, 1 * MIB):
                before = self.part.reached, self.part.limit
                self.absorb()
                assert (self.part.reached, self.part.limit) != before, "it stays where it is"
        self.task.commit(self.part, self.task.epoch)
        return read_index(self.folder).records[self.number]

    def tails(self) -> list[str]:
        """The names of tails' files."""
        names = (name for name in os.listdir(self.folder) if name.endswith(".part"))
        return sorted(name for name in names if name != part_name(self.number))

    def empty_tails(self) -> bool:
        """Whether a tail has not got a byte yet."""
        return any(os.stat(name, dir_fd=self.folder).st_size == 0 for name in self.tails())

    def content(self, record: Record) -> bytes:
        """What the segment's file holds."""
        front = record.place is Place.FRONT
        name = "front" if front else part_name(self.number)
        file = os.open(name, os.O_RDONLY, dir_fd=self.folder)
        try:
            return os.pread(file, SEGMENT, record.start if front else 0)
        finally:
            os.close(file)

    def rot(self, name: str, at: int) -> None:
        """Flip a bit of a file."""
        file = os.open(name, os.O_RDWR, dir_fd=self.folder)
        found = os.pread(file, 1, at)
        os.pwrite(file, bytes([found[0] ^ 1]) if found else b"", at)
        os.close(file)

    def end(self) -> None:
        self.close()
        os.close(self.folder)
        self.workspace.close()


def check_finished(bench: Bench) -> None:
    record, segment = bench.finish(), bench.task.layout.segment(bench.number)
    data = LARGE[segment.start : segment.stop]
    assert record.covers(segment)
    assert record.digest == digest("xxh3_128", data)
    assert record.place is (Place.PART if bench.number else Place.FRONT)
    assert bench.content(record) == data
    assert not list(read_index(bench.folder).live_tails())
    assert bench.task.present() == segment.length


def working(machine: Lending) -> bool:
    """Whether there is something to do; a kill may have come after the last byte's record."""
    return hasattr(machine, "bench") and not machine.bench.held


class Lending(RuleBasedStateMachine):
    """Any sequence of what workers, the desk and a kill do to one segment ends with all of it."""

    @initialize(number=st.integers(0, COUNT - 1))
    def start(self, number: int) -> None:
        self.out = Path(tempfile.mkdtemp())
        self.bench = Bench(self.out, number)
        self.left_over = False  # a kill or a rotten tail may leave a file
        self.rotten = False

    def window(self, choice: int) -> Part:
        windows = [self.bench.part, *self.bench.out]
        return windows[choice % len(windows)]

    @precondition(working)
    @rule(choice=st.integers(0, 7), count=st.integers(1, 300_000), recorded=st.booleans())
    def write(self, choice: int, count: int, recorded: bool) -> None:
        self.bench.write(self.window(choice), count, recorded=recorded)

    @precondition(working)
    @rule(choice=st.integers(0, 7))
    def lend(self, choice: int) -> None:
        window = self.window(choice)
        room = window.limit - window.reached
        tail = self.bench.lend(window)
        assert tail is None or (room >= 2 * LEAST_LENT and tail.segment.length >= LEAST_LENT)

    @precondition(lambda self: working(self) and self.bench.out)
    @rule(choice=st.integers(0, 7), recorded=st.booleans())
    def give_back(self, choice: int, recorded: bool) -> None:
        tail = self.bench.out[choice % len(self.bench.out)]
        if recorded:
            self.bench.task.checkpoint(tail, self.bench.task.epoch)
        self.bench.give_back(tail)

    @precondition(
        lambda self: working(self) and self.bench.part.limit < self.bench.part.segment.stop
    )
    @rule()
    def come_to_a_tail(self) -> None:
        """The segment's worker writes as far as it may, and takes in what it has come to."""
        while self.bench.write(self.bench.part, 1 * MIB):
            pass
        before = self.bench.part.reached
        waits = self.bench.task.is_waited_for(self.bench.part) is not None
        self.bench.absorb()
        assert not waits or self.bench.part.reached == before

    @precondition(working)
    @rule()
    def absorb_at_any_time(self) -> None:
        self.bench.absorb()

    @precondition(working)
    @rule()
    def reopen(self) -> None:
        before = self.bench.task.present()
        self.left_over |= self.bench.empty_tails()  # they are forgotten
        self.bench.reopen()
        assert self.rotten or self.bench.task.present() == before

    @rule()
    def die(self) -> None:
        self.left_over |= bool(self.bench.tails())
        self.bench.die()

    @precondition(lambda self: working(self) and self.bench.tails())
    @rule(choice=st.integers(0, 7), at=st.integers(0, 200_000))
    def rot(self, choice: int, at: int) -> None:
        names = self.bench.tails()
        self.bench.rot(names[choice % len(names)], at)
        self.left_over = self.rotten = True

    @invariant()
    def windows_do_not_overlap(self) -> None:
        if not working(self):
            return
        bench = self.bench
        windows = sorted([bench.part, *bench.out], key=lambda each: each.segment.start)
        for before, after in itertools.pairwise(windows):
            assert before.reached <= before.limit <= after.segment.start
        assert bench.task.present() <= SEGMENT
        for tail in read_index(bench.folder).live_tails():
            assert tail.number == bench.number

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        check_finished(self.bench)
        assert self.left_over or not self.bench.tails()
        self.bench.end()
        shutil.rmtree(self.out)


TestLending = Lending.TestCase
TestLending.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@pytest.fixture(params=range(COUNT), ids=["front", "part"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    bench = Bench(tmp_path / "out", request.param)
    request.addfinalizer(bench.end)
    return bench


def test_lent_again_and_again_and_taken_in_once(bench: Bench) -> None:
    first = bench.lend(bench.part)
    assert first is not None
    second = bench.lend(first)
    assert second is not None
    for window in (second, bench.part, first):
        while bench.write(window, 256 * KIB):
            pass
    assert bench.task.is_waited_for(bench.part) is first
    bench.absorb()  # nothing: it is out
    assert bench.part.reached == first.segment.start
    bench.give_back(first)
    bench.absorb()
    assert bench.part.reached == second.segment.start
    bench.give_back(second)
    bench.absorb()
    assert bench.part.reached == bench.part.segment.stop
    assert not bench.tails()
    check_finished(bench)


def test_who_has_a_tail_no_more_cannot_lend_of_it(bench: Bench) -> None:
    tail = bench.lend(bench.part)
    assert tail is not None
    bench.give_back(tail)
    assert bench.lend(tail) is None
    check_finished(bench)


def test_recorded_tails_outlive_a_kill(bench: Bench) -> None:
    """All that records vouch for is there again, and only that."""
    tail = bench.lend(bench.part)
    assert tail is not None
    bench.write(tail, 200_000)
    bench.write(bench.part, 100_000)
    bench.write(tail, 50_000, recorded=False)
    bench.die()
    assert bench.task.present() == 300_000
    assert bench.part.limit == tail.segment.start
    written = 0
    while count := bench.write(bench.part, 256 * KIB):
        written += count
    bench.absorb()
    assert bench.part.reached == tail.segment.start + 200_000
    assert not bench.tails()
    check_finished(bench)


def test_reopened_in_the_same_run(bench: Bench) -> None:
    """Nothing that came is lost, recorded or not."""
    tail = bench.lend(bench.part)
    assert tail is not None
    bench.write(tail, 200_000, recorded=False)
    bench.write(bench.part, 100_000, recorded=False)
    bench.reopen()
    assert bench.task.present() == 300_000
    assert bench.part.limit == tail.segment.start
    check_finished(bench)


def test_killed_between_the_record_and_the_file_s_end(bench: Bench) -> None:
    """The tail's bytes are the segment's own now: its file, still there, is not looked at."""
    tail = bench.lend(bench.part)
    assert tail is not None
    bench.write(tail, 200_000)
    (name,) = bench.tails()
    while bench.write(bench.part, 256 * KIB):
        pass
    os.link(name, "kept", src_dir_fd=bench.folder, dst_dir_fd=bench.folder)
    bench.give_back(tail)
    bench.absorb()
    os.rename("kept", name, src_dir_fd=bench.folder, dst_dir_fd=bench.folder)
    bench.rot(name, 0)
    bench.die()
    assert bench.part.reached == tail.segment.start + 200_000
    assert bench.part.limit == bench.part.segment.stop
    check_finished(bench)


def test_started_again_while_a_tail_is_out(bench: Bench) -> None:
    """Who is still at the old object's tail does no harm to the new object's."""
    old = bench.lend(bench.part)
    assert old is not None
    old_part, old_epoch = bench.part, bench.task.epoch
    bench.task.restart()
    bench.task.admit(Accepted(0, None, Pin(len(LARGE), '"f"')))
    bench.task.ranged = True
    assert bench.task.lend(old_part, old_epoch) is None
    bench.begin()
    assert bench.part is not old_part
    assert bench.part.limit == bench.part.segment.stop
    tail = bench.lend(bench.part)
    assert tail is not None
    assert tail.segment == old.segment  # of the same name, and another file
    bench.write(tail, 50_000)
    old.write(memoryview(bytes(300_000)))
    bench.task.checkpoint(old, old_epoch)
    bench.task.give_back(old)
    bench.die()
    assert bench.task.present() == 50_000
    check_finished(bench)


def test_an_absorber_of_the_old_object_leaves_the_new_one_alone(bench: Bench) -> None:
    """A worker that came to its tail in the very moment in which the target was started again."""
    old = bench.lend(bench.part)
    assert old is not None
    while bench.write(bench.part, 256 * KIB):
        pass
    old_part, old_epoch = bench.part, bench.task.epoch
    bench.task.give_back(old)
    bench.task.restart()
    bench.task.admit(Accepted(0, None, Pin(len(LARGE), '"f"')))
    bench.task.ranged = True
    bench.begin()
    tail = bench.lend(bench.part)
    assert tail is not None
    bench.write(tail, 200_000)
    bench.give_back(tail)
    bench.task.absorb(old_part, old_epoch)
    assert bench.tails()
    check_finished(bench)


# -- whole orders from a slow server ---------------------------------------------------------------

DONE = ExitCode.DONE
FAST = RateLimit(10**9)
RATE = 600 * KIB  # bytes a second of each answer
CALM = RATE / 2  # where it has to last for some seconds
FEW = 64 * KIB  # bytes of an answer that are lost when it is given up half way
DATA = made(2 * MIB, 5)
ONE = made(1 * MIB, 6)
OTHER = made(2 * MIB, 7)
FAR_SLOWER = "far slower than others"


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    """Every answer comes slowly."""
    fault_server.script(EVERY_PATH, faults.trickle(RATE))
    return Case(fault_server, tmp_path)


def helping(request: Seen, segment: int) -> bool:
    """Whether a request begins inside a segment."""
    return request.range is not None and request.range[0] % segment > 0


def helped(case: Case, segment: int) -> list[Seen]:
    return [request for request in case.server.requests if helping(request, segment)]


def once_each(run: Run, segments: int) -> None:
    """Every segment was done, and told, once."""
    assert sorted(e.segment for e in run.of(events.SegmentDone)) == list(range(segments))
    assert sum(e.bytes for e in run.of(events.SegmentDone)) == run.of(events.TargetDone)[0].size


@pytest.mark.parametrize("by", [*Proof, "pieces"])
def test_idle_connections_fetch_the_end_of_the_last_segment(case: Case, by: Proof | str) -> None:
    """The bytes are served once, most of them to those who help, and all digests hold."""
    if isinstance(by, Proof):
        case.put(DATA, proof=by)
    else:
        case.put(DATA, proof=Proof.NOTHING, pieces=pieces_of(DATA, 2 * MIB))
    run = case.run(segment_size=2 * MIB, connections=8, timeout=60.0)
    assert run.code is DONE
    case.check_delivered()
    once_each(run, 1)
    assert len(helped(case, 2 * MIB)) >= 3
    assert sum(request.sent for request in helped(case, 2 * MIB)) > len(DATA) / 2
    requests = len(case.server.requests)
    assert requests <= 40
    assert case.server.sent() <= len(DATA) * 1.05 + FEW * requests
    assert not run.of(events.Retry)


def test_help_comes_whoever_is_first(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a disk is slow, and idle workers look before the first byte can be written."""
    opened = Task.window

    def late(task: Task, number: int, epoch: int) -> Part | None:
        time.sleep(0.2)
        return opened(task, number, epoch)

    monkeypatch.setattr(Task, "window", late)
    case.put(ONE)
    assert case.run(segment_size=MIB, connections=4, timeout=60.0).code is DONE
    case.check_delivered()
    assert helped(case, MIB)


def test_every_segment_but_the_last_is_fetched_by_one(case: Case) -> None:
    """Help comes when nothing is left to do, and not before."""
    data = made(4 * MIB)
    case.put(data)
    run = case.run(segment_size=MIB, connections=3, timeout=60.0)
    assert run.code is DONE
    case.check_delivered()
    once_each(run, 4)
    last = case.server.requests.index(next(r for r in case.server.requests if in_last(r)))
    assert not [r for r in case.server.requests[:last] if helping(r, MIB)]
    assert helped(case, MIB)


def in_last(request: Seen) -> bool:
    return request.range is not None and request.range[0] == 3 * MIB


def test_n04_one_of_eight_connections_trickles_for_ever(case: Case) -> None:
    """It is given up, with the reason, while the others have work yet."""
    data = made(9 * MIB)
    case.put(data)
    case.server.script(PATH, faults.trickle(CALM))
    case.server.script(PATH, faults.trickle(1), on=lambda request: request.connection == 3)
    run = case.run(segment_size=512 * KIB, connections=8, timeout=60.0)
    assert run.code is DONE
    case.check_delivered()
    once_each(run, 18)
    (retry,) = run.of(events.Retry)
    assert FAR_SLOWER in retry.message
    assert retry.wait == 0.0
    assert len([r for r in case.server.requests if r.connection == 3]) == 1
    assert run.kinds()[run.kinds().index("retry") :].count("segment_done") > 1
    assert case.server.sent() <= len(data) * 1.05


@pytest.mark.slow
def test_n04_the_last_connection_trickles_for_ever(case: Case) -> None:
    """All others are done before it can be told, on a machine that does not stand still, and what
    was usual for them is remembered."""
    data = made(16 * 512 * KIB)
    case.put(data)
    last = (15 * 512 * KIB, 16 * 512 * KIB)
    case.server.script(PATH, faults.trickle(CALM))
    case.server.script(PATH, faults.trickle(1), on=once(lambda request: request.range == last))
    run = case.run(segment_size=512 * KIB, connections=8, timeout=60.0)
    assert run.code is DONE
    case.check_delivered()
    once_each(run, 16)
    (retry,) = run.of(events.Retry)
    assert FAR_SLOWER in retry.message


def test_one_that_trickles_does_not_keep_help_from_others(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the slowest one may still lend is too little: the next slowest is helped."""
    monkeypatch.setattr("segdl.core.pace._LAG", math.inf)  # it is not given up
    data = made(3 * MIB)
    case.put(data)

    def begins(first: int, last: int) -> list[Seen]:
        return [r for r in case.server.requests if r.range and first < r.range[0] < last]

    def trickling(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        """A byte now and then, until the third segment is helped."""
        wire.send(answer.head)
        for at in range(1000):
            wire.body(answer.body[at : at + 1])
            wire.pause(0.2)
            if begins(2 * MIB, 3 * MIB):
                break
        wire.close()
        return None

    case.server.script(PATH, faults.trickle(CALM))
    case.server.script(PATH, faults.honest(), on=1)
    case.server.script(PATH, trickling, on=once(lambda r: r.range == (MIB, 2 * MIB)))
    run = case.run(segment_size=MIB, connections=4, timeout=60.0, retries=5)
    assert run.code is DONE
    case.check_delivered()
    third, again = begins(2 * MIB, 3 * MIB), begins(MIB, MIB + 2000)
    assert third[0].serial < again[0].serial, "only once the one that trickles was given up"


FAILURES: dict[str, Fault] = {
    "503": faults.slow_down(None),
    "reset": faults.hang_up(by_reset=True),
    "the whole": faults.chain(faults.whole_200(), faults.trickle(RATE)),
    "another range": faults.chain(
        faults.wrong_range(start_by=-1000, stop_by=-1000), faults.trickle(RATE)
    ),
    "expired": faults.EXPIRED["MinIO"],
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))
def test_help_that_fails_is_no_harm_and_no_storm(
    case: Case, failure: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody helps for a while then; whoever is at the segment fetches all of it."""
    monkeypatch.setattr("segdl.engine.aid._HELPLESS", 1000.0)
    case.put(ONE)
    failed: list[Seen] = []

    def early(request: Seen) -> bool:
        """Whether the segment's own worker cannot have come to a tail yet."""
        if not helping(request, MIB) or case.server.requests[0].sent > 400_000:
            return False
        failed.append(request)
        return True

    case.server.script(PATH, failure, on=early)
    run = case.run(segment_size=MIB, connections=2, timeout=60.0)
    assert run.code is DONE
    case.check_delivered()
    once_each(run, 1)
    assert not run.of(events.Retry) + run.of(events.Throttled)
    assert len(failed) == 1
    assert len(case.server.requests) == 3
    assert case.server.sent() <= len(ONE) * 1.05 + 4 * FEW


def test_help_that_trickles_is_called_back(case: Case) -> None:
    """Soon after the segment's own worker has come to the tail: it would trickle for weeks."""
    case.put(ONE)
    case.server.script(PATH, faults.trickle(1), on=lambda request: helping(request, MIB))
    case.server.script(PATH, faults.trickle(RATE), on=lambda request: len(case.server.requests) > 2)
    run = case.run(segment_size=MIB, connections=2, timeout=60.0)
    assert run.code is DONE
    case.check_delivered()
    once_each(run, 1)
    assert not run.of(events.Retry)


@pytest.mark.parametrize("rest", ["honest", "slow"])
def test_kill_9_while_tails_are_out(case: Case, rest: str) -> None:
    """What was recorded of tails is not fetched again; a kill costs at most 1 MiB a connection."""
    data = made(8 * MIB)
    case.put(data, proof=Proof.DIGEST)
    case.server.script(PATH, faults.trickle(MIB))
    connections = 4
    with Child(case, segment_size=8 * MIB, connections=connections) as child:
        case.server.until(lambda: case.server.sent() >= 5 * MIB)
        child.signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    case.server.until(lambda: case.server.open == 0)
    case.check_finals()
    contents = read_index(descriptor := os.open(work_of(case), os.O_RDONLY))
    os.close(descriptor)
    tails = list(contents.live_tails())
    assert len(tails) >= 2
    records = [*contents.records.values(), *tails]
    held = sum(record.stop - record.start for record in records)
    assert case.server.sent() - held <= connections * MIB
    if rest == "honest":
        run = case.finish(segment_size=8 * MIB)
    else:
        case.server.forget()
        run = case.run(segment_size=8 * MIB, timeout=60.0)
        case.check_delivered()
        assert case.server.sent() <= (len(data) - held) * 1.05 + 10 * FEW
    assert run.held == held
    for request in case.server.requests:
        assert request.range is not None
        asked, _ = request.range
        assert not [r for r in records if r.start <= asked < r.stop], "held, and asked for"
    once_each(run, 1)


@pytest.mark.parametrize("conditions", [True, False], ids=["412", "ignored"])
@pytest.mark.parametrize("number", [1, 2])
def test_the_object_changes_while_a_tail_is_out(case: Case, conditions: bool, number: int) -> None:
    """At once, or after the first tail was asked for: it starts again, and nothing is mixed."""
    case.put(DATA, sized=False)
    case.may_hold(NAME, OTHER)
    slow, honest = faults.trickle(RATE), faults.honest()
    new = honest if conditions else faults.unconditional()

    def change(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        """This answer is of the old object yet, and goes on."""
        case.server.put(PATH, OTHER)
        case.server.script(PATH, new)
        return slow(wire, request, answer)

    case.server.script(PATH, change, on=number)
    run = case.run(segment_size=2 * MIB, connections=4, timeout=60.0)
    assert run.code is DONE
    case.check_delivered()
    once_each(run, 1)
    assert helped(case, 2 * MIB)
    assert {retry.cause for retry in run.of(events.Retry)} == {"stale"}
    assert case.server.sent() <= len(DATA) + len(OTHER) + 20 * FEW


def tails_out(case: Case, segment: int) -> bool:
    """Whether bytes of two tails have come, at least."""
    return sum(request.sent > 20_000 for request in helped(case, segment)) >= 2


def test_cancelled_while_tails_are_out(case: Case) -> None:
    """It ends before all has come, and what came is kept, of tails too."""
    case.put(DATA, proof=Proof.DIGEST)
    case.server.script(PATH, faults.trickle(CALM / 2))
    control = segdl.Control()

    def stop(event: segdl.Event) -> None:
        if tails_out(case, 2 * MIB):
            control.cancel()

    first = case.run(
        control=control, listener=stop, segment_size=2 * MIB, connections=8, timeout=60.0
    )
    assert first.code is ExitCode.INTERRUPTED
    second = case.finish(segment_size=2 * MIB)
    assert second.held == first.report.bytes
    once_each(second, 1)


def test_cancelled_while_a_tail_is_waited_for(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the segment's own worker has before the tail is kept, up to its last byte."""
    monkeypatch.setattr("segdl.engine.desk._MEET", 1000.0)
    case.put(ONE, proof=Proof.DIGEST)
    control = segdl.Control()

    def fast_once_helped(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        wire.send(answer.head)
        for at in range(0, len(answer.body), 1000):
            wire.pause(0.0 if helped(case, MIB) else 0.005)
            wire.body(answer.body[at : at + 1000])
        return None

    def stop(event: segdl.Event) -> None:
        begins = [request.range[0] for request in helped(case, MIB) if request.range]
        if isinstance(event, events.Progress) and begins and event.bytes == begins[0] + 20_000:
            control.cancel()

    case.server.script(PATH, fast_once_helped)
    case.server.script(PATH, faults.blackhole(20_000), on=lambda request: helping(request, MIB))
    first = case.run(control=control, listener=stop, segment_size=MIB, connections=2, timeout=60.0)
    assert first.code is ExitCode.INTERRUPTED
    second = case.finish(segment_size=MIB)
    assert second.held == first.report.bytes
    once_each(second, 1)


def test_paused_while_tails_are_out(case: Case) -> None:
    """All connections are closed before all has come; then it goes on, and ends exactly."""
    case.put(DATA, proof=Proof.DIGEST)
    case.server.script(PATH, faults.trickle(CALM / 2))
    control = segdl.Control()
    steps: list[str] = []

    def steer(event: segdl.Event) -> None:
        if not steps and tails_out(case, 2 * MIB):
            steps.append("paused")
            control.pause()
        elif len(steps) == 1 and case.server.open == 0:
            steps.append("resumed")
            assert case.server.sent() < len(DATA)
            case.server.mend()
            control.resume()

    run = case.run(
        control=control, listener=steer, segment_size=2 * MIB, connections=8, timeout=60.0
    )
    assert run.code is DONE
    case.check_delivered()
    once_each(run, 1)
    assert steps == ["paused", "resumed"]
    assert case.server.sent() <= len(DATA) * 1.05 + 40 * FEW
    assert not run.of(events.Retry)


def test_with_a_rate_limit_nobody_helps(case: Case) -> None:
    """However high it is."""
    case.put(ONE)
    run = case.run(segment_size=MIB, connections=4, timeout=60.0, limit_rate=FAST)
    assert run.code is DONE
    case.check_delivered()
    assert len(case.server.requests) == 1


def test_with_a_rate_limit_nobody_lags(case: Case) -> None:
    """One connection is ten times slower than the others, for four seconds."""
    case.put(made(26 * 128 * KIB))
    case.server.script(PATH, faults.trickle(CALM))
    case.server.script(PATH, faults.trickle(CALM / 10), on=lambda r: r.connection == 3)
    run = case.run(segment_size=128 * KIB, connections=4, timeout=60.0, limit_rate=FAST)
    assert run.code is DONE
    case.check_delivered()
    once_each(run, 26)
    assert not run.of(events.Retry)
    assert len(case.server.requests) == 26


@pytest.mark.parametrize("by", ["pieces", "sha256"])
def test_rot_in_a_tail_is_found(case: Case, by: str) -> None:
    """By the piece's digest, at once; by that of the whole, at the end."""
    more: dict[str, Any] = {"pieces": pieces_of(ONE, MIB)} if by == "pieces" else {}
    case.put(ONE, proof=Proof.DIGEST if by == "sha256" else Proof.NOTHING, **more)

    def rotten(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        """The first byte is wrong."""
        assert request.range is not None
        rot = faults.flip_bit(request.range[0])
        return faults.chain(rot, faults.trickle(RATE))(wire, request, answer)

    case.server.script(PATH, rotten, on=once(lambda request: helping(request, MIB)))
    run = case.run(segment_size=MIB, connections=4, timeout=60.0)
    assert run.code is DONE
    case.check_delivered()
    if by == "pieces":
        (retry,) = run.of(events.Retry)
        assert retry.cause == "digest"
    else:
        assert len(run.of(events.SegmentDone)) == 2
