"""Runs that are killed, stopped, starved or tampered with, and the runs that come after them.

What holds in every run is checked by `orders.Case`; `Case.finish` is the run that comes after.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import segdl
from segdl.cli import wording
from segdl.cli.summary import summary
from segdl.core import events
from segdl.core.digests import digest
from segdl.core.errors import ExitCode, disk_error
from segdl.core.journal import seal, unseal
from segdl.core.report import Grade
from segdl.core.schedule import Schedule
from segdl.core.work import Fetch
from segdl.engine.audit import status
from segdl.engine.desk import Desk
from segdl.engine.worker import CHECKPOINT, LINGER
from tests.canary import CANARY
from tests.commands import BIG
from tests.faults import EVERY_PATH, Answer, Fault, FaultServer, Seen, Wire, faults
from tests.orders import (
    NAME,
    PATH,
    QUERY,
    SEGMENT,
    SIZE,
    SOON,
    Case,
    Proof,
    made,
    nothing_left_over,
    pieces_of,
    quick,
    until,
)
from tests.runners import always
from tests.torture.child import stands_still

DATA = made(SIZE)
OTHER = made(SIZE, 2)
KIB, MIB = 1024, 1024 * 1024
DONE, DISK, NETWORK = ExitCode.DONE, ExitCode.DISK, ExitCode.NETWORK


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


def work_of(case: Case, name: str = NAME) -> Path:
    """The folder of a target under way."""
    return case.out / ".segdl" / "work" / digest("sha256", name.encode())[:32]


# -- killed ----------------------------------------------------------------------------------------

CHILD = """
import json, signal, sys, segdl
from segdl.core.options import Options

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it

def tell(event):
    if event.event == "order_started":
        print(event.held, flush=True)

options = Options(**json.loads(sys.argv[3]))
try:
    report = segdl.download(sys.argv[1], sys.argv[2], options=options, on_event=tell)
    for failure in report.failures:
        print(failure.error, file=sys.stderr)
    sys.exit(int(report.exit_code))
except segdl.SegdlError as error:
    print(error, file=sys.stderr)
    sys.exit(int(error.exit_code))
except KeyboardInterrupt:
    sys.exit(130)
"""


class Child:
    """A run in a process of its own, that can be killed."""

    def __init__(self, case: Case, before: str = "", **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", before + CHILD, case.manifest(), case.out, json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.held = -1

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """Let it stand still, as before a kill."""
        self.signal(signal.SIGSTOP)
        until(lambda: stands_still(self._process.pid) or self.ended())

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self) -> int:
        """Its exit code. What it says is checked for secrets."""
        out, self.said = self._process.communicate(timeout=40)
        self.held = int(out.split()[0]) if out else -1
        assert CANARY not in out + self.said
        return self._process.returncode

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass(frozen=True)
class Kills:
    """How an order is killed: ten times, at seeded moments."""

    seed: int
    segment: int  # bytes
    size: int  # bytes of each of four targets
    rate: float | None  # bytes a second of each answer
    before: str = ""  # what the process does first


KILLS = {
    "at full speed": Kills(1, 2 * MIB, 6 * MIB, None),
    "at a steady rate": Kills(2, 2 * MIB, 4 * MIB, 6e6),
    "in small segments": Kills(3, SEGMENT, 1 * MIB, 3e6),
    "as if they were big": Kills(4, SEGMENT, 2 * MIB, 3e6, BIG),
}
CONNECTIONS = 4


def all_but_the_end(rate: float | None, waiting: set[str]) -> Fault:
    """The last byte of an object never comes: nobody is done before he is killed. The paths of
    those answers that wait for it are in `waiting`."""
    line = faults.honest() if rate is None else faults.trickle(rate)

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        assert answer.of is not None and answer.range is not None
        if answer.range[1] < answer.of.size:
            return line(wire, request, answer)
        rest = line(wire, request, replace(answer, body=answer.body[:-1]))
        if rest is not None:
            wire.answer(rest)
        waiting.add(request.path)
        try:
            wire.pause()
        finally:
            waiting.discard(request.path)
        return None

    return fault


def has_sent(server: FaultServer, count: int, waiting: set[str]) -> bool:
    """Whether so many bytes were sent, or nothing is left but what never comes."""
    return server.sent() >= count or len(waiting) == CONNECTIONS


@pytest.mark.parametrize("kills", KILLS.values(), ids=list(KILLS))
def test_c01_kill_9_at_random_moments(case: Case, kills: Kills) -> None:
    """Nothing is corrupt, and a kill costs at most 1 MiB a connection."""
    chance = random.Random(kills.seed)
    for number in range(4):
        case.put(made(kills.size, number), f"/{number}.7z", proof=list(Proof)[number % 3])
    total, waiting = 4 * kills.size, set[str]()
    case.server.script(EVERY_PATH, all_but_the_end(kills.rate, waiting))
    moments = sorted(chance.sample(range(total * 19 // 20), 10))
    sent, held, unread = [0], [0], list[int]()
    for moment, before in zip(moments, [0, *moments], strict=False):
        options = {"segment_size": kills.segment, "connections": CONNECTIONS}
        with Child(case, kills.before, **options) as child:
            until(partial(has_sent, case.server, sent[-1] + moment - before, waiting))
            child.stop()
            unread.append(case.server.unread())  # it costs nothing, and is more on a slow machine
            child.signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
        case.server.until(lambda: case.server.open == 0)
        case.check_finals()
        sent.append(case.server.sent())
        held.append(child.held)
    case.server.mend()
    run = case.run(segment_size=kills.segment)
    case.check_delivered()
    held = [*held[1:], run.held]  # as the run after each kill found it
    lost = [(sent[n + 1] - sent[n]) - (held[n + 1] - held[n]) for n in range(len(moments))]
    print(f"fetched again after each of ten kills: {lost}")
    read = [all_ - rest for all_, rest in zip(lost, unread, strict=True)]
    assert max(read) <= CONNECTIONS * MIB, (lost, unread)
    assert case.server.sent() == total + sum(lost)


def test_c01_what_waits_for_its_record_is_bounded(case: Case) -> None:
    """Also where bytes come in two gushes, neither of which is worth a record."""
    case.put(made(2 * MIB))

    def gushes(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        wire.send(answer.head)
        wire.body(answer.body[: 400 * KIB])
        wire.pause(LINGER + 0.2)
        wire.body(answer.body[400 * KIB : 900 * KIB])
        wire.pause()
        return None

    case.server.script(PATH, gushes)
    with Child(case, segment_size=2 * MIB, connections=1, timeout=600.0) as child:
        until(lambda: stuck(case, 900 * KIB))
        child.signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert case.finish(segment_size=2 * MIB).held >= 900 * KIB - CHECKPOINT


# -- stopped ---------------------------------------------------------------------------------------

STUCK = SEGMENT + 3 * 50_000 + 12_345  # bytes that come when four connections fall silent


def silent_later(case: Case) -> None:
    """Every segment but the first and the last, which is short, stops in its middle."""
    case.server.script(PATH, faults.blackhole(50_000), on=range(2, 1000))


def stuck(case: Case, sent: int = STUCK) -> bool:
    """Whether all that the silent server has sent was read by its client."""
    return case.server.sent() == sent and case.server.unread() == 0


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_c03_ended_while_the_server_is_silent(case: Case, kind: signal.Signals) -> None:
    """Long before the stall window, whatever every worker waits for; what came is kept."""
    case.put(DATA)
    silent_later(case)
    with Child(case, segment_size=SEGMENT, connections=4, timeout=600.0) as child:
        until(lambda: stuck(case))
        child.signal(kind)
        assert child.wait() == (130 if kind is signal.SIGINT else -signal.SIGKILL)
    run = case.finish()
    assert run.held == STUCK or (kind is signal.SIGKILL and run.held >= SEGMENT)


def test_cancel_keeps_everything_that_came(case: Case) -> None:
    """Also what is in the middle of segments: the next run fetches the rest and no more."""
    case.put(DATA, proof=Proof.DIGEST)
    silent_later(case)
    control = segdl.Control()

    def stop(event: segdl.Event) -> None:
        if stuck(case):
            control.cancel()

    run = case.run(control=control, listener=stop, timeout=60.0)
    assert run.code is ExitCode.INTERRUPTED
    assert run.error().cause == "stopped"
    assert run.report.bytes == STUCK
    assert case.finish().held == STUCK


def test_resigned_half_way(case: Case) -> None:
    """Fresh URLs for the same objects: nothing that is held is fetched again."""
    for number in range(3):
        case.put(made(SIZE, number), f"/{number}.7z", proof=list(Proof)[number])
        case.server.script(f"/{number}.7z", faults.blackhole(10_000), on=range(4, 1000))
    control = segdl.Control()

    def stop(event: segdl.Event) -> None:
        if isinstance(event, events.SegmentDone) and event.segment == 2:
            control.cancel()

    first = case.run(control=control, listener=stop)
    assert 0 < first.report.bytes < 3 * SIZE
    case.server.mend()
    case.server.script(EVERY_PATH, faults.EXPIRED["MinIO"], on=lambda r: "fresh" not in r.query)
    second = case.run()
    assert (second.code, second.report.bytes) == (ExitCode.LINKS, 0)
    for entry in case.files.values():
        entry["url"] = entry["url"].replace(CANARY, f"{CANARY}fresh")
    assert case.finish().held == first.report.bytes


def test_moved_to_another_host_with_the_same_etag(case: Case) -> None:
    """The same size and ETag behind other URLs is the same object."""
    case.put(DATA)
    case.server.script(PATH, faults.hang_up(), on=range(4, 1000))
    assert case.run(connections=1).code is NETWORK
    case.server.put("/moved/elsewhere", DATA)
    case.files[NAME]["url"] = case.server.url("/moved/elsewhere", QUERY)
    assert case.finish().held == 3 * SEGMENT


@pytest.mark.parametrize("kind", ["interrupt", "error"])
@pytest.mark.parametrize(
    "at", ["order_started", "target_started", "segment_done", "progress", "target_done",
           "order_finished"],
)  # fmt: skip
def test_a_listener_that_raises(case: Case, kind: str, at: str) -> None:
    """It reaches the caller, after a clean end: no thread, no descriptor, nothing lost."""
    case.put(DATA)
    case.put(OTHER, "/b.7z")
    case.server.script("/b.7z", faults.pause(0.15), on=1)

    def fail(event: segdl.Event) -> None:
        if event.event == at:
            raise KeyboardInterrupt if kind == "interrupt" else ZeroDivisionError

    with nothing_left_over(), pytest.raises((KeyboardInterrupt, ZeroDivisionError)):
        segdl.download(case.manifest(), case.out, options=quick(), on_event=fail)
    case.check_finals()
    case.finish()


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """Whoever runs the tests may ignore it, as a shell's `&` does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_in_the_callers_thread(case: Case) -> None:
    """A real signal, while the workers wait for a silent server."""
    case.put(DATA)
    case.server.script(PATH, faults.blackhole(10_000))

    came = threading.Event()

    def listen(event: segdl.Event) -> None:
        if isinstance(event, events.Progress) and event.bytes >= 10_000:
            came.set()

    def interrupt() -> None:
        came.wait(SOON)
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=interrupt)
    other.start()
    with nothing_left_over(), pytest.raises(KeyboardInterrupt):
        options = quick(connections=1, timeout=60.0)
        segdl.download(case.manifest(), case.out, options=options, on_event=listen)
    other.join()
    assert case.finish().held == 10_000


# -- one writer ------------------------------------------------------------------------------------


def test_x01_two_runs_at_once(case: Case) -> None:
    """The second is told who works there; the first does not notice."""
    case.put(DATA)
    refused: list[segdl.LockedError] = []

    def start_another(event: segdl.Event) -> None:
        if not refused:
            with pytest.raises(segdl.LockedError, match=str(os.getpid())) as caught:
                segdl.download(case.manifest(), case.out)
            refused.append(caught.value)

    assert case.run(listener=start_another).code is DONE
    assert refused[0].exit_code is ExitCode.BUSY
    assert case.server.sent() == SIZE


LYING = "import fcntl; fcntl.flock = lambda *_: None\n"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("proof", list(Proof))
def test_x02_locks_that_lie(case: Case, proof: Proof, seed: int) -> None:
    """Two at once on one order: no final name is ever wrong, and a later run finishes."""
    chance = random.Random(f"{proof} {seed}")
    names = [case.put(made(12 * SEGMENT, n), f"/{n}.7z", proof=proof) for n in range(3)]
    names.append(case.put(made(1000, 9), "/small.7z", proof=proof))
    case.server.script(EVERY_PATH, faults.trickle(3e6))
    with Child(case, LYING, segment_size=SEGMENT, connections=3) as first:
        time.sleep(chance.random() * 0.5)
        with Child(case, LYING, segment_size=SEGMENT, connections=2) as second:
            while any(child.alive for child in (first, second)):
                case.check_finals()
                time.sleep(0.01)
            codes = [child.wait() for child in (first, second)]
    assert set(codes) <= {0, 1, 5, 7}, (codes, first.said, second.said)
    assert "Traceback" not in first.said + second.said
    case.check_finals()
    case.server.mend()
    case.run(segment_size=SEGMENT).report.raise_for_failures()
    case.check_delivered()
    assert len(names) == 4


def test_x01_in_another_process(case: Case) -> None:
    case.put(DATA)
    codes: list[int] = []

    def start_another(event: segdl.Event) -> None:
        if isinstance(event, events.OrderStarted):
            with Child(case) as child:
                codes.append(child.wait())
                assert "another segdl is at work" in child.said

    assert case.run(listener=start_another).code is DONE
    assert codes == [ExitCode.BUSY]


def test_c08_a_lock_whose_owner_is_gone(case: Case) -> None:
    """Its process id may be anybody's by now."""
    case.put(DATA)
    (case.out / ".segdl").mkdir(parents=True)
    (case.out / ".segdl" / "lock").write_text(f"{os.getpid()}\n")
    assert case.run().code is DONE


# -- a half that is there --------------------------------------------------------------------------
#
# Segment 0 is merged; segment 1 came to 30,000 bytes, in place; 2, 3 and 4 are islands.

TORN = 30_000
HELD = SIZE - SEGMENT + TORN


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """An order that is half-way, made once, with neither a digest nor a strong ETag."""

    def torn(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        assert request.range is not None
        return faults.cut(max(0, SEGMENT + TORN - request.range[0]))(wire, request, answer)

    with FaultServer() as server:
        case = Case(server, tmp_path_factory.mktemp("half"))
        case.put(DATA, proof=Proof.NOTHING)
        second = range(SEGMENT, 2 * SEGMENT)
        server.script(PATH, torn, on=lambda r: r.range is not None and r.range[0] in second)
        assert case.run(connections=1, retries=2).code is NETWORK
        assert sorted(path.name for path in work_of(case).iterdir()) == [
            "00002.part", "00003.part", "00004.part", "front", "index.jsonl",
        ]  # fmt: skip
        yield case


@pytest.fixture
def half(template: Case, tmp_path: Path) -> Case:
    """A copy of the half, to be tampered with."""
    return copied(template, tmp_path)


def copied(template: Case, folder: Path) -> Case:
    shutil.copytree(template.out, folder / "out", symlinks=True)
    return Case(template.server, folder, dict(template.files), dict(template.contents))


def test_a_half_is_gone_on_with(half: Case) -> None:
    assert half.finish().held == HELD


Wound = Callable[[bytes], bytes | None]
WOUNDS: dict[str, Wound] = {
    "zeros": lambda data: bytes(len(data)),
    "garbage": lambda data: made(len(data), 9),
    "of the old object": lambda data: OTHER[: len(data)],
    "a bit flipped": lambda data: data[:20_000] + bytes([data[20_000] ^ 4]) + data[20_001:],
    "short": lambda data: data[: len(data) // 3],
    "empty": lambda data: b"",
    "missing": lambda data: None,
    "longer": lambda data: data + made(SEGMENT, 8),
}
WOUNDED = {"00002.part": SEGMENT, "00003.part": SEGMENT, "front": SEGMENT + TORN}  # bytes


def wound(path: Path, how: Wound) -> None:
    data = how(path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)


@pytest.mark.parametrize("how", WOUNDS)
@pytest.mark.parametrize("name", WOUNDED)
def test_c06_a_damaged_part(half: Case, name: str, how: str) -> None:
    """What does not give its recorded digest is fetched again, and nothing else."""
    wound(work_of(half) / name, WOUNDS[how])
    half.finish(again=True)
    again = 0 if how == "longer" else WOUNDED[name]
    if (name, how) == ("front", "a bit flipped"):
        again = SEGMENT  # the torn segment behind it is good
    assert half.server.sent() == SIZE - HELD + again


def test_c06_all_of_it_is_damaged(half: Case) -> None:
    for name in ("front", "00002.part", "00003.part", "00004.part"):
        wound(work_of(half) / name, WOUNDS["zeros"])
    half.finish(again=True)
    assert half.server.sent() == SIZE


# -- a damaged index -------------------------------------------------------------------------------


def index_of(case: Case) -> Path:
    return work_of(case) / "index.jsonl"


def lines_of(case: Case) -> list[dict[str, Any]]:
    """What the lines of an index say."""
    said = [unseal(line) for line in index_of(case).read_bytes().splitlines(keepends=True)]
    return [line for line in said if line is not None]


def test_c05_torn_at_every_seventh_byte(template: Case, tmp_path: Path) -> None:
    """What the whole lines say is believed, and a torn one costs what it said."""
    index = index_of(template).read_bytes()
    held = 0
    for cut in range(0, len(index), 7):
        case = copied(template, tmp_path / str(cut))
        index_of(case).write_bytes(index[:cut])
        found = case.finish().held
        assert held <= found <= HELD
        held = found
        shutil.rmtree(case.folder)
    assert held > SIZE // 2


@pytest.mark.parametrize("step", [0, 1])
def test_c05_a_bit_flipped(template: Case, tmp_path: Path, step: int) -> None:
    """Anywhere: the line that it is in is void, and nothing worse."""
    index = index_of(template).read_bytes()
    for at in range(step * 11, len(index), 23):
        case = copied(template, tmp_path / str(at))
        rotten = index[:at] + bytes([index[at] ^ (1 << at % 8)]) + index[at + 1 :]
        index_of(case).write_bytes(rotten)
        assert case.finish().held <= HELD
        shutil.rmtree(case.folder)


def _future(index: bytes) -> bytes:
    """The same, written by a segdl to come."""
    said = [unseal(line) for line in index.splitlines(keepends=True)]
    return b"".join(seal(line | {"version": 2}) for line in said if line)


def _foreign(index: bytes) -> bytes:
    """Another target's index."""
    return b"".join(
        seal(line | {"path": "b.7z"} if line["kind"] == "pin" else line)
        for line in map(unseal, index.splitlines(keepends=True))
        if line
    )


INDEXES: dict[str, tuple[Wound, bool]] = {  # (what becomes of it, whether anything is held then)
    "a tail of zeros": (lambda data: data + bytes(4096), True),
    "a tail of garbage": (lambda data: data + made(4096, 7), True),
    "a tail of half a line": (lambda data: data + data[:50], True),
    "a head of zeros": (lambda data: bytes(64) + b"\n" + data, True),
    "twice": (lambda data: data + data, True),
    "empty": (lambda data: b"", False),
    "missing": (lambda data: None, False),
    "zeros": (lambda data: bytes(len(data)), False),
    "garbage": (lambda data: made(len(data), 7), False),
    "of a future version": (_future, False),
    "of another target": (_foreign, False),
    "not UTF-8": (lambda data: b"\xff\xfe" + data.replace(b"h", b"\xff"), False),
    "without its pin": (lambda data: data.partition(b"\n")[2], False),
    "deep": (lambda data: b"[" * 100_000 + b"\n" + data, True),
}


@pytest.mark.parametrize("how", INDEXES)
def test_c05_a_damaged_index(half: Case, how: str) -> None:
    """It costs time, never truth and never a stop."""
    damage, holds = INDEXES[how]
    wound(index_of(half), damage)
    assert half.finish().held == (HELD if holds else 0)


LIES: dict[str, dict[str, Any]] = {
    "another digest": {"digest": "0" * 32},
    "another place": {"place": "part"},
    "no place": {"place": "nowhere"},
    "a segment that is not there": {"segment": 10**9},
    "before the file": {"segment": -1, "start": -SEGMENT},
    "huge": {"stop": 2**70},
    "of the wrong type": {"start": "0", "stop": None},
    "bytes that are not there": {"stop": 2 * SEGMENT},
}


@pytest.mark.parametrize("how", LIES)
def test_c05_a_record_that_lies(half: Case, how: str) -> None:
    """Its line is whole and its check is right; its bytes have the last word."""
    first = next(line for line in lines_of(half) if line["kind"] == "held")
    lie = seal({k: v for k, v in first.items() if k != "check"} | LIES[how])
    with index_of(half).open("ab") as index:
        index.write(lie)
    half.finish(again=True)
    assert half.server.sent() <= SIZE - HELD + 2 * SEGMENT


# -- things planted where segdl works --------------------------------------------------------------


@dataclass(frozen=True)
class Plant:
    """Something put in the place of a file, that leads to a bystander."""

    name: str
    put: Callable[[Path, Path], None]  # (where, the bystander)


PLANTS = [
    Plant("link", lambda where, other: where.symlink_to(other)),
    Plant("hard-link", lambda where, other: where.hardlink_to(other)),
    Plant("dangling-link", lambda where, other: where.symlink_to(other.with_name("nothing"))),
    Plant("folder", lambda where, other: where.mkdir()),
    Plant("fifo", lambda where, other: os.mkfifo(where)),
]
PLACES = ["index.jsonl", "front", "00002.part", "../../receipts.jsonl", "../../order.json", ".."]


def plants() -> list[Any]:
    return [pytest.param(plant, id=plant.name) for plant in PLANTS]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("plant", plants())
def test_nothing_outside_is_touched(half: Case, plant: Plant, place: str) -> None:
    """Promise 11. The run goes on or names what is in the way; without it, it finishes."""
    bystander = half.folder / "bystander"
    bystander.write_bytes(b"mine")
    where = (work_of(half) / place).resolve()
    if where.is_dir():
        shutil.rmtree(where)
    else:
        where.unlink(missing_ok=True)
    if plant.name == "hard-link" and place == "..":
        return
    plant.put(where, bystander)
    half.manifest()
    before = sorted(half.folder.iterdir())
    said = what_is_wrong(half)
    assert bystander.read_bytes() == b"mine"
    assert sorted(half.folder.iterdir()) == before
    if said is not None:
        assert "take it away" in said
        where.rmdir() if plant.name == "folder" else where.unlink()
    half.finish(again=True)


def what_is_wrong(case: Case) -> str | None:
    """The disk error that a run ends with, if it does."""
    try:
        run = case.run()
    except segdl.DiskError as error:
        return str(error)
    assert run.code in (DONE, DISK)
    return str(run.error()) if run.code is DISK else None


# -- files that vanish while it runs ---------------------------------------------------------------


def test_an_island_that_vanishes_is_fetched_again(case: Case) -> None:
    """The front comes to a part that is gone, and waits for it in its place."""
    case.put(DATA, proof=Proof.DIGEST)
    gate = threading.Event()
    case.server.script(PATH, faults.short_206(1000), on=1)
    case.server.script(PATH, faults.held(gate), on=lambda r: r.range == (1000, SEGMENT))

    def lose(event: segdl.Event) -> None:
        done = isinstance(event, events.SegmentDone) and event.segment == 3
        if done and not gate.is_set():  # once: it is told again when it was fetched again
            (work_of(case) / "00003.part").unlink()
            gate.set()

    case.server.script(PATH, faults.held(gate), on=lambda r: r.range == (1000, SEGMENT))
    run = case.run(listener=lose)
    assert run.code is DONE
    case.check_delivered()
    assert case.server.sent() == SIZE + SEGMENT


def test_a_segment_lost_before_its_worker_is_done() -> None:
    """Another worker's front finds it rotten in the moment between its commit and its end."""
    schedule = Schedule(retries=1, patience=1.0, chance=lambda: 0.0)
    schedule.add(0, ("host",), 1, (), pinned=True, merge=False)
    work = schedule.take(0, 0.0, None)
    assert isinstance(work, Fetch)
    schedule.lost(0, work.segment)
    schedule.done(work, 0)
    assert schedule.take(0, 0.0, None) == work


# -- a manifest that has changed -------------------------------------------------------------------

KEPT = '"kept"'  # an ETag that says nothing of the content


def test_another_size_is_another_object(case: Case) -> None:
    longer = made(SIZE + 5, 3)
    leave_half(case)
    case.put(longer)
    case.finish(again=True)
    assert case.server.sent() == len(longer)


def test_another_digest_decides_at_the_end(case: Case) -> None:
    """What is held turns out to be of the old content: all of it is fetched again, once."""
    leave_half(case)
    case.put(OTHER, proof=Proof.DIGEST, etag=KEPT)
    case.finish(again=True)
    assert case.server.sent() <= 2 * SIZE


def test_a_digest_that_came_later(case: Case) -> None:
    """The same object, now with a digest: what is held counts, and is proved by it."""
    held = leave_half(case)
    case.put(DATA, proof=Proof.DIGEST, etag=KEPT)
    run = case.finish()
    assert run.held == held
    assert run.report.receipts[0].grade is Grade.DIGEST


@pytest.mark.parametrize(("size", "kept"), [(SEGMENT, True), (2 * SEGMENT, False)])
def test_pieces_that_came_later(case: Case, size: int, kept: bool) -> None:
    """They decide the segment size; what was cut otherwise cannot be proved by them."""
    held = leave_half(case)
    case.put(DATA, pieces=pieces_of(DATA, size), etag=KEPT)
    run = case.finish()
    assert run.held == (held if kept else 0)
    assert run.report.receipts[0].grade is Grade.PIECES


def test_pieces_that_say_otherwise(case: Case) -> None:
    """What is held is checked against them as it is read back."""
    held = leave_half(case)
    case.put(OTHER, pieces=pieces_of(OTHER), etag=KEPT)
    run = case.finish(again=True)
    assert run.held == held
    assert case.server.sent() <= SIZE + SEGMENT


def test_another_segment_size_waits_for_another_target(case: Case) -> None:
    """An index under way keeps the size that it began with."""
    held = leave_half(case)
    run = case.finish(segment_size=3 * SEGMENT)
    assert run.held == held
    assert run.report.receipts[0].segments.size == SEGMENT


def test_another_slice_is_another_target(case: Case) -> None:
    """The same object, size and path, but another offset: not a byte of the old one is kept."""
    part = {"offset": "0", "size": str(SIZE - 100)}
    case.put(DATA, sized=False, slice=part)
    case.may_hold(NAME, DATA[:-100])
    case.server.script(PATH, faults.hang_up(), on=range(4, 1000))
    assert case.run(connections=1).code is NETWORK
    case.put(DATA, sized=False, slice=part | {"offset": "100"})
    case.may_hold(NAME, DATA[100:])
    assert case.finish().held == 0
    case.put(DATA, sized=False, slice=part)
    case.may_hold(NAME, DATA[:-100], DATA[100:])
    assert case.run().code is DISK  # the old slice, once more: what is there is other content
    case.may_hold(NAME, DATA[:-100])
    case.final().unlink()
    case.finish(again=True)


def leave_half(case: Case) -> int:
    """Three segments of DATA, and then nothing. Returns the bytes that are held."""
    case.put(DATA, etag=KEPT)
    case.server.script(PATH, faults.hang_up(), on=range(4, 1000))
    assert case.run(connections=1).code is NETWORK
    return 3 * SEGMENT


# -- delivered -------------------------------------------------------------------------------------


def test_what_is_delivered_is_believed(case: Case) -> None:
    """Without a request; a fresh signature changes nothing."""
    for proof in Proof:
        case.put(DATA, f"/{proof.value}", proof=proof)
    case.put(b"", "/empty")
    case.run().report.raise_for_failures()
    case.server.forget()
    for entry in case.files.values():
        entry["url"] = entry["url"].replace(CANARY, f"{CANARY}fresh")
    run = case.run()
    assert run.code is DONE
    assert run.report.skipped == set(case.files)
    assert (run.held, run.report.bytes) == (3 * SIZE, 0)
    assert not case.server.requests


@pytest.mark.parametrize("proof", list(Proof))
@pytest.mark.parametrize("receipts", [True, False])
def test_a_delivered_file_that_was_touched(case: Case, proof: Proof, receipts: bool) -> None:
    """The same content with another time, or without its receipt: hashed where it can be."""
    case.put(DATA, proof=proof)
    case.run().report.raise_for_failures()
    case.server.forget()
    os.utime(case.final(), ns=(1, 1))
    if not receipts:
        (case.out / ".segdl" / "receipts.jsonl").unlink()
    inode = case.final().stat().st_ino
    assert case.run().code is DONE
    case.check_delivered()
    assert case.final().stat().st_ino == inode
    if receipts or proof is Proof.DIGEST:
        assert not case.server.requests
    assert case.run().report.skipped == {NAME}


@pytest.mark.parametrize("proof", list(Proof))
def test_a_delivered_file_that_rots(case: Case, proof: Proof) -> None:
    """Other content in the way is not ours to replace, unless we are told to."""
    case.put(DATA, proof=proof)
    case.run().report.raise_for_failures()
    case.may_hold(NAME, DATA, OTHER)
    case.final().write_bytes(OTHER)
    run = case.run()
    assert (run.code, run.error().cause) == (DISK, "occupied")
    assert case.final().read_bytes() == OTHER
    case.may_hold(NAME, DATA, OTHER)
    assert case.run(overwrite=True).code is DONE
    assert case.final().read_bytes() == DATA


def complete_work(case: Case, kept: Path) -> None:
    """A copy of the work folder of an order in the moment before it is delivered."""
    case.may_hold(NAME, DATA, OTHER)
    case.out.mkdir()
    case.final().write_bytes(OTHER)
    assert case.run().code is DISK
    shutil.copytree(work_of(case), kept)
    case.final().unlink()
    case.may_hold(NAME, DATA)
    case.server.forget()


@pytest.mark.parametrize("proof", [Proof.ETAG, Proof.NOTHING])
def test_c07_killed_between_rename_and_receipt(case: Case, proof: Proof, tmp_path: Path) -> None:
    """The index vouches for what stands under the final name: nothing is asked for."""
    case.put(DATA, proof=proof)
    complete_work(case, tmp_path / "kept")
    (work_of(case) / "front").rename(case.final())
    assert status(case.out).present == SIZE
    assert case.run().code is DONE
    case.check_delivered()
    assert not case.server.requests
    assert case.run().report.skipped == {NAME}


def test_c07_killed_between_rename_and_receipt_and_then_damaged(case: Case, tmp_path: Path) -> None:
    """Other bytes under the final name are not taken for ours."""
    case.put(DATA)
    complete_work(case, tmp_path / "kept")
    (work_of(case) / "front").unlink()
    case.may_hold(NAME, OTHER)
    case.final().write_bytes(OTHER)
    assert case.run().code is DISK


@pytest.mark.parametrize("proof", [Proof.ETAG, Proof.NOTHING])
def test_c07_killed_before_the_rename(case: Case, proof: Proof, tmp_path: Path) -> None:
    """All of it is held: the next run delivers it, and asks for nothing."""
    case.put(DATA, proof=proof)
    complete_work(case, tmp_path / "kept")
    assert case.finish().held == SIZE
    assert not case.server.requests


def test_c07_killed_between_receipt_and_clean_up(case: Case, tmp_path: Path) -> None:
    """What is delivered stays delivered, and the leftovers go."""
    case.put(DATA)
    complete_work(case, tmp_path / "kept")
    assert case.run().code is DONE
    shutil.copytree(tmp_path / "kept", work_of(case))
    (work_of(case) / "front").unlink()
    assert case.run().report.skipped == {NAME}
    case.check_delivered()


# -- something in the way --------------------------------------------------------------------------


def fingerprint(path: Path) -> tuple[int, ...]:
    """Whether it is still the same file, untouched."""
    found = path.lstat()
    return (found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns)


WAYS: dict[str, Callable[[Path], object]] = {
    "same": lambda path: path.write_bytes(DATA),
    "other": lambda path: path.write_bytes(OTHER),
    "longer": lambda path: path.write_bytes(DATA + b"!"),
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: (path / "within").mkdir(parents=True),
    "dangling link": lambda path: path.symlink_to("/nonexistent/target"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "fifo": os.mkfifo,
}


@pytest.mark.parametrize("overwrite", [False, True], ids=["keep", "overwrite"])
@pytest.mark.parametrize("proof", [Proof.DIGEST, Proof.NOTHING])
@pytest.mark.parametrize("way", WAYS)
def test_d04_something_in_the_way(case: Case, way: str, proof: Proof, overwrite: bool) -> None:
    """The same content is skipped; anything else is refused, or replaced on request; a folder is
    never replaced; nothing is followed, and nothing blocks."""
    case.put(DATA, proof=proof)
    case.may_hold(NAME, DATA, OTHER, DATA + b"!", b"")
    case.out.mkdir()
    WAYS[way](case.final())
    before = fingerprint(case.final())
    run = case.run(overwrite=overwrite)
    if way == "same" or (overwrite and way != "folder"):
        assert run.code is DONE
        assert case.final().read_bytes() == DATA
        assert (fingerprint(case.final()) == before) is (way == "same")
        return
    assert (run.code, run.error().cause) == (DISK, "occupied")
    assert fingerprint(case.final()) == before
    if proof is Proof.DIGEST or way != "other":
        assert not case.server.requests or (way == "folder" and overwrite)
    if way == "folder":
        shutil.rmtree(case.final())
    else:
        case.final().unlink()
    case.finish()


@pytest.mark.parametrize("way", ["same", "other"])
def test_d04_what_is_in_the_way_is_looked_at_before_anybody_asks(
    case: Case, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Also where others are idle as a worker finds it, and give it to be looked at."""
    case.put(DATA, proof=Proof.DIGEST)
    case.may_hold(NAME, DATA, OTHER)
    case.out.mkdir()
    WAYS[way](case.final())
    dropped = Desk.dropped

    def slowly(desk: Desk, worker: int, work: Fetch) -> None:
        dropped(desk, worker, work)
        with suppress(TimeoutError):
            case.server.until(lambda: bool(case.server.requests), 0.3)

    monkeypatch.setattr(Desk, "dropped", slowly)
    assert case.run().code is (DONE if way == "same" else DISK)
    assert not case.server.requests


@pytest.mark.parametrize("way", ["a file", "a link", "a dangling link", "a link out of a link"])
def test_d04_a_folder_of_the_path_is_something_else(case: Case, way: str, tmp_path: Path) -> None:
    """Links lead nowhere: nothing is written through them."""
    outside = tmp_path / "outside"
    outside.mkdir()
    case.put(DATA, name="chips/a/b.7z")
    folder = case.out / "chips"
    case.out.mkdir()
    match way:
        case "a file":
            folder.write_bytes(b"mine")
        case "a link":
            folder.symlink_to(outside)
        case "a dangling link":
            folder.symlink_to(tmp_path / "nowhere")
        case _:
            folder.mkdir()
            (folder / "a").symlink_to(outside)
    run = case.run()
    assert run.code is DISK
    assert run.error("chips/a/b.7z").cause == "occupied"
    assert not list(outside.iterdir())
    (folder / "a").unlink() if folder.is_dir() and not folder.is_symlink() else folder.unlink()
    case.finish()


# -- the output directory --------------------------------------------------------------------------


def test_d03_deleted_while_running(case: Case) -> None:
    """Nothing is delivered to nowhere; the next run makes the folder again."""
    case.put(DATA)
    case.put(OTHER, "/b.7z")
    gate = threading.Event()
    case.server.script(EVERY_PATH, faults.held(gate, 20_000), on=lambda r: r.number == 3)
    gone: list[bool] = []

    def delete(event: segdl.Event) -> None:
        if isinstance(event, events.SegmentDone) and not gone:
            while case.out.exists():
                shutil.rmtree(case.out, ignore_errors=True)
            gone.append(True)
            gate.set()

    run = case.run(listener=delete)
    assert gone
    assert run.code in (DISK, ExitCode.MIXED)
    case.server.mend()
    case.finish(again=True)


def test_d03_made_with_its_parents(case: Case) -> None:
    case.put(DATA)
    case.folder = case.folder / "a" / "b"
    case.folder.mkdir(parents=True)
    assert case.run().code is DONE


def test_d03_a_file(case: Case) -> None:
    case.put(DATA)
    case.out.write_bytes(b"mine")
    with nothing_left_over(), pytest.raises(segdl.DiskError, match="is a file"):
        segdl.download(case.manifest(), case.out)
    assert case.out.read_bytes() == b"mine"


def test_d03_reached_through_a_link(case: Case, tmp_path: Path) -> None:
    """The user named it: that link, and no other, is followed."""
    (tmp_path / "real").mkdir()
    case.put(DATA)
    case.out.symlink_to(tmp_path / "real")
    assert case.run().code is DONE
    assert (tmp_path / "real" / NAME).read_bytes() == DATA


def test_files_of_segdls_own_are_private(half: Case) -> None:
    for path in (half.out / ".segdl").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    half.finish()
    assert half.final().stat().st_mode & 0o444 == 0o444


# -- a disk that is full ---------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes there."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a tmpfs")
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount: a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """A file that takes all room but `leave` bytes."""
    room = os.statvfs(folder)
    filler = folder / "filler"
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize - leave))
    return filler


def test_d01_refused_before_the_first_byte(case: Case) -> None:
    case.put(made(2 * MIB), proof=Proof.DIGEST)
    with small_disk(case.out, 4 * MIB):
        filler = fill(case.out, MIB)
        run = case.run()
        assert (run.code, run.error().cause) == (DISK, "disk_full")
        error = run.error()
        assert isinstance(error, segdl.DiskFullError)
        assert error.missing is not None
        assert MIB <= error.missing <= 2 * MIB
        assert str(error.missing) in str(error)
        assert run.report.bytes == 0
        filler.unlink()
        case.finish()


def test_d01_full_in_the_middle(case: Case) -> None:
    """What is committed stays, the error says how much is missing, and the next run goes on."""
    case.put(made(4 * MIB), proof=Proof.DIGEST)
    with small_disk(case.out, 8 * MIB):
        gate = threading.Event()
        case.server.script(PATH, faults.trickle(4e6))
        case.server.script(PATH, faults.held(gate), on=lambda r: r.number >= 20)
        filler: list[Path] = []

        def take_the_room(event: segdl.Event) -> None:
            if isinstance(event, events.SegmentDone) and event.segment == 6 and not filler:
                filler.append(fill(case.out, MIB))
                gate.set()

        run = case.run(listener=take_the_room, connections=2)
        assert (run.code, run.error().cause) == (DISK, "disk_full")
        error = run.error()
        assert isinstance(error, segdl.DiskFullError)
        assert error.missing
        assert str(error.missing) in str(error)
        filler[0].unlink()
        assert case.finish().held >= 6 * SEGMENT


def test_d01_one_target_fits_and_the_other_does_not(case: Case) -> None:
    case.put(made(2 * MIB, 1), "/one.7z")
    case.put(made(3 * MIB, 2), "/two.7z")
    with small_disk(case.out, 4 * MIB):
        run = case.run(connections=1)
        assert run.code is DISK
        assert [receipt.path for receipt in run.report.receipts] == ["one.7z"]
        assert run.error("two.7z").cause == "disk_full"
        case.final("one.7z").unlink()
        del case.files["one.7z"], case.contents["one.7z"]
        case.finish()


@pytest.mark.parametrize("many", [False, True])
def test_d01_what_does_not_fit_is_not_asked_for(
    case: Case, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """Once the disk is full, small targets are measured first; those that fit are delivered."""
    if many:
        always(monkeypatch.setattr)
    for number in range(40):
        case.put(made(60_000, number), f"/{number}.7z")
    for number in range(40, 42):
        case.put(made(100, number), f"/{number}.7z")
    with small_disk(case.out, 8 * MIB):
        filler = fill(case.out, 50_000)
        run = case.run(connections=2)
        assert run.code is DISK
        assert {failure.error.cause for failure in run.report.failures} == {"disk_full"}
        assert {receipt.path for receipt in run.report.receipts} == {"40.7z", "41.7z"}
        assert len(case.server.requests) <= 2 + 2 * 2
        lines = list(summary(run.report, "order.json", case.out))
        lacking = sum(vars(failure.error)["missing"] for failure in run.report.failures)
        assert f"  For all of these free at least {wording.size(lacking)}" in lines
        filler.unlink()
        case.finish()


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_each_error_of_the_disk_says_what_to_do(code: int) -> None:
    said = str(disk_error(OSError(code, os.strerror(code))))
    assert re.search(r": (free|raise|mend|take) .", said), said


LIMITED = "import resource; resource.setrlimit(resource.{}, ({}, {}))\n"


def test_d02_few_descriptors(case: Case) -> None:
    """Named, with what to do; a later run with more of them finishes."""
    for number in range(8):
        case.put(made(SIZE, number), f"/{number}.7z")
    before = LIMITED.format("RLIMIT_NOFILE", 24, 24)
    with Child(case, before, segment_size=SEGMENT, connections=8) as child:
        assert child.wait() == DISK
    assert "ulimit -n" in child.said
    assert "Traceback" not in child.said
    case.check_finals()
    case.finish()


def test_d02_a_limit_on_the_size_of_files(case: Case) -> None:
    case.put(DATA)
    before = LIMITED.format("RLIMIT_FSIZE", 100_000, 100_000)
    with Child(case, before, segment_size=SEGMENT, connections=2) as child:
        assert child.wait() == DISK
    assert "Traceback" not in child.said
    run = case.finish()
    assert run.held >= SEGMENT


def test_d02_a_read_only_folder(case: Case) -> None:
    case.put(DATA)
    with small_disk(case.out, 4 * MIB):
        subprocess.run(["mount", "-o", "remount,ro", str(case.out)], check=True)
        with nothing_left_over(), pytest.raises(segdl.DiskError, match="may not work there"):
            segdl.download(case.manifest(), case.out)
        assert not case.server.requests
