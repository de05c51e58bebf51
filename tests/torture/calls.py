"""The system calls of one small order on its output directory, one by one, by strace.

There are two runs to see: one that begins, and one that goes on with what is there of the order.

A *point* is one call: which, on what, and the how-manieth. strace counts by thread, and only the
calls that its filter lets through; so a point names the file, by the path of its descriptor or by
the name that the call gives it, and is counted in its thread. Threads do not race much: while one
connection waits in the middle of the first segment, the other fetches all the rest.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segdl
from segdl.core.errors import ExitCode
from tests import canary
from tests.faults import Answer, Fault, FaultServer, Seen, Wire, faults
from tests.orders import SEGMENT, Case, Proof, made
from tests.torture.campaign import Impossible
from tests.torture.child import PATIENCE, Child
from tests.torture.finals import Finals

CALLS = (
    "openat", "write", "pwrite64", "writev", "fsync", "fdatasync", "sync_file_range", "rename",
    "renameat", "renameat2", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "ftruncate",
    "fallocate", "copy_file_range", "ioctl", "close", "fchmod", "read", "pread64", "preadv2",
)  # fmt: skip
LARGE, DEEP, SMALL = "large.7z", "in/deep.7z", "small.7z"
SIZES = {LARGE: 6 * SEGMENT + 12_345, DEEP: 2 * SEGMENT + 1, SMALL: 50_000}
TOTAL = sum(SIZES.values())
BEGUN = TOTAL - SEGMENT  # bytes that are done where an order goes on: all but its first segment
READS = ("read", "pread64", "preadv2")
DATA = ("write", "pwrite64", "writev", *READS)  # what they quote is no name
_HERE = "{here}"  # in a point, for the folder of its round
_CALL = re.compile(r"(\d+) +(\w+)\((.*)")
_FILE = re.compile(r"<(/[^<>]*)>")
_NAME = re.compile(r'"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Point:
    """One system call of a run."""

    begun: bool  # whether the run goes on with an order
    call: str
    on: str | None  # a path or a name; None: a file without a name, and whatever else there is
    nth: int  # of its thread

    def __str__(self) -> str:
        run = "run that goes on" if self.begun else "first run"
        return f"{self.call} #{self.nth} on {self.on or 'a draft'} in a {run}"


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a run under strace."""

    code: int  # minus the signal, if one ended it
    said: str
    done: int  # bytes of the segments and drafts that it said it had done
    seconds: float


# -- the order -------------------------------------------------------------------------------------


@contextmanager
def order(folder: Path, *, begun: bool) -> Iterator[Case]:
    """The order: segments ahead of the front, a folder to make, a draft."""
    with FaultServer() as server:
        case = Case(server, folder)
        case.put(made(SIZES[LARGE], 1), f"/{LARGE}", proof=Proof.DIGEST)
        case.put(made(SIZES[DEEP], 2), f"/{DEEP}", name=DEEP)
        case.put(made(SIZES[SMALL], 3), f"/{SMALL}")
        case.server.script(f"/{LARGE}", _last_of_all(server), on=1)
        if begun:
            _begin(case)
        yield case


def _begin(case: Case) -> None:
    """Fetch all but the end of the first segment."""
    control, left = segdl.Control(), [BEGUN]

    def stop(event: segdl.Event) -> None:
        left[0] -= _done(event.as_dict())
        if not left[0]:
            control.cancel()

    held = threading.Event()
    case.server.script(f"/{LARGE}", faults.held(held, SEGMENT // 2), on=1)
    assert case.run(control=control, listener=stop, connections=2).code is ExitCode.INTERRUPTED
    case.server.mend()


def _last_of_all(server: FaultServer) -> Fault:
    """An answer whose later half waits until all else was sent, or half a second."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        half, deadline = len(answer.body) // 2, time.monotonic() + 0.5
        wire.send(answer.head)
        wire.body(answer.body[:half])
        while server.sent() < TOTAL - len(answer.body) + half and time.monotonic() < deadline:
            wire.pause(0.005)
        wire.body(answer.body[half:])
        return None

    return fault


def run(case: Case, *strace: str) -> Ended:
    """The order under strace with those options; what must hold at any moment is checked.

    Raises Impossible where strace may not trace it.
    """
    finals, began = Finals(case.out, case.contents), time.monotonic()
    words = (
        "get", case.manifest(), "-o", case.out, "--progress", "json", "--connections", "2",
        "--segment-size", str(SEGMENT),
    )  # fmt: skip
    with Child(case.folder, *words, traced=True) as child, _traced(child, strace):
        code, said = child.wait(), child.said
    case.server.until(lambda: case.server.open == 0)
    finals.look()
    assert not list(canary.leaks(case.folder))
    done = sum(map(_done, _events(said)))
    return Ended(code, said, done, time.monotonic() - began)


@contextmanager
def _traced(child: Child, options: Sequence[str]) -> Iterator[None]:
    """strace, attached to a child and its threads until that has ended."""
    child.until(lambda: child.waits, lambda: None)
    process = subprocess.Popen(
        ["strace", "-f", "-qq", "-e", "signal=none", "-p", str(child.pid), *options],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while not child.traced and not child.ended:
            if process.poll() is not None:
                assert process.stderr is not None
                raise Impossible(process.stderr.read().strip())
            time.sleep(0.001)
        yield
    finally:
        child.signal(signal.SIGKILL)  # if it has not ended by itself
        process.communicate(timeout=PATIENCE)


def go_on(case: Case, point: Point, ended: Ended, what: str) -> None:
    """An honest run afterwards: it delivers all, and fetches nothing again that was done, unless
    the disk would not let it be read."""
    held = case.finish(segment_size=SEGMENT).held
    done = ended.done + (BEGUN if point.begun else 0)
    assert point.call in READS or held >= done, f"{what}: {done} bytes were done, {held} held"


def _events(said: str) -> Iterator[Mapping[str, Any]]:
    return (json.loads(line) for line in said.splitlines() if re.fullmatch(r"\{.*\}", line))


def _done(event: Mapping[str, Any]) -> int:
    """Bytes that an event says are on disk for good: nothing of them may be fetched again."""
    if event.get("target") == SMALL:  # a draft, of which nothing is held before
        return int(event["size"]) if event["event"] == "target_done" and event["fetched"] else 0
    return int(event["bytes"]) if event["event"] == "segment_done" else 0


# -- its calls -------------------------------------------------------------------------------------


@functools.cache
def points() -> tuple[Point, ...]:
    """Every call of both runs, in their order, where nothing fails. Raises Impossible."""
    if not shutil.which("strace"):
        raise Impossible("strace is not here")
    return tuple(dict.fromkeys(point for begun in (False, True) for point in _learnt(begun)))


def _learnt(begun: bool) -> list[Point]:
    with tempfile.TemporaryDirectory(prefix="segdl-calls-") as folder:
        here = Path(folder).resolve()
        with order(here, begun=begun) as case:
            ended = run(case, "-y", "-o", str(here / "log"), "-e", f"trace={','.join(CALLS)}")
            assert ended.code == 0, ended.said
            case.check_delivered()
        log = (here / "log").read_text(errors="replace")
        return [Point(begun, *found) for found in _calls(log, here)]


def _calls(log: str, here: Path) -> Iterator[tuple[str, str | None, int]]:
    counts: Counter[tuple[str, str, str | None]] = Counter()
    for line in log.splitlines():
        found = _CALL.match(line)
        if found is None:  # the end of a call that was interrupted
            continue
        thread, call, text = found.groups()
        on = _on(call, text)
        for counted in {on, None}:
            counts[thread, call, counted] += 1
        if f"{here}/out" in text and _counts(call, on, text):
            shown = on and on.replace(str(here), _HERE)
            yield call, shown, counts[thread, call, on]


def _on(call: str, text: str) -> str | None:
    """What a call is on: the last name that it gives, else the file of its first descriptor."""
    given, _, _ = text.partition(") = ")
    names = [] if call in DATA else [name for name in _NAME.findall(given) if name != "."]
    if names:
        return str(names[-1])
    files = _FILE.findall(given)
    return None if not files or "#" in files[0] else str(files[0])


def _counts(call: str, on: str | None, text: str) -> bool:
    """Of these two, not every call is of interest."""
    if call == "ioctl":
        return "FICLONE" in text
    return call != "close" or "/.segdl/work" in (on or "")


def options(point: Point, deed: str, here: Path, *, ever: bool = False) -> list[str]:
    """strace's options that do a deed at a point, and at every such call after it if `ever`."""
    where = [] if point.on is None else ["-P", point.on.replace(_HERE, str(here))]
    return [
        "-o", "/dev/null", "-e", f"trace={point.call}",
        "-e", f"inject={point.call}:{deed}:when={point.nth}{'+' * ever}", *where,
    ]  # fmt: skip
