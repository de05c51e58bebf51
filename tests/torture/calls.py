"""The system calls of one small order on its output directory, one by one, by strace.

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
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import canary
from tests.faults import Answer, FaultServer, Seen, Wire
from tests.orders import SEGMENT, Case, Proof, made
from tests.torture.campaign import Impossible
from tests.torture.child import PATIENCE, Child
from tests.torture.finals import Finals

CALLS = (
    "openat", "write", "pwrite64", "writev", "fsync", "fdatasync", "sync_file_range", "rename",
    "renameat", "renameat2", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "ftruncate",
    "fallocate", "copy_file_range", "ioctl", "close", "fchmod",
)  # fmt: skip
LARGE, DEEP, SMALL = "large.7z", "in/deep.7z", "small.7z"
SIZES = {LARGE: 6 * SEGMENT + 12_345, DEEP: 2 * SEGMENT + 1, SMALL: 50_000}
TOTAL = sum(SIZES.values())
DATA = ("write", "pwrite64", "writev")  # what they quote is no name
_HERE = "{here}"  # in a point, for the folder of its round
_CALL = re.compile(r"(\d+) +(\w+)\((.*)")
_FILE = re.compile(r"<(/[^<>]*)>")
_NAME = re.compile(r'"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Point:
    """One system call of a run."""

    call: str
    on: str | None  # a path or a name; None: a file without a name, and whatever else there is
    nth: int  # of its thread

    def __str__(self) -> str:
        return f"{self.call} #{self.nth} on {self.on or 'a draft'}"


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a run under strace."""

    code: int  # minus the signal, if one ended it
    said: str
    done: int  # bytes of the segments and drafts that it said were done
    seconds: float


# -- the order -------------------------------------------------------------------------------------


@contextmanager
def order(folder: Path) -> Iterator[Case]:
    """The order: segments ahead of the front, a folder to make, a draft."""
    with FaultServer() as server:
        case = Case(server, folder)
        case.put(made(SIZES[LARGE], 1), f"/{LARGE}", proof=Proof.DIGEST)
        case.put(made(SIZES[DEEP], 2), f"/{DEEP}", name=DEEP)
        case.put(made(SIZES[SMALL], 3), f"/{SMALL}")
        case.server.script(f"/{LARGE}", _last_of_all(server), on=1)
        yield case


def _last_of_all(server: FaultServer) -> Any:
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
    return Ended(code, said, _done(said), time.monotonic() - began)


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


def _done(out: str) -> int:
    """Bytes that a run said were on disk for good: nothing of them may be fetched again."""
    total = 0
    for line in out.splitlines():
        if line.startswith("{") and line.endswith("}"):
            event = json.loads(line)
            draft = event.get("target") == SMALL
            kind = "target_done" if draft else "segment_done"
            if event["event"] == kind:
                total += event["size"] if draft else event["bytes"]
    return total


# -- its calls -------------------------------------------------------------------------------------


@functools.cache
def points() -> tuple[Point, ...]:
    """Every call of a run without a fault, in the order of the run. Raises Impossible."""
    if not shutil.which("strace"):
        raise Impossible("strace is not here")
    with tempfile.TemporaryDirectory(prefix="segdl-calls-") as folder:
        here = Path(folder).resolve()
        with order(here) as case:
            log = here / "log"
            ended = run(case, "-y", "-o", str(log), "-e", f"trace={','.join(CALLS)}")
            assert ended.code == 0, ended.said
            case.check_delivered()
            return tuple(dict.fromkeys(_points(log.read_text(errors="replace"), here)))


def _points(log: str, here: Path) -> Iterator[Point]:
    counts: Counter[tuple[str, str, str | None]] = Counter()
    for line in log.splitlines():
        found = _CALL.match(line)
        if found is None:  # the end of a call that was interrupted
            continue
        thread, call, text = found.groups()
        on = _on(call, text)
        for counted in (on, None):
            counts[thread, call, counted] += 1
        if f"{here}/out" in text and _counts(call, on, text):
            shown = on and on.replace(str(here), _HERE)
            yield Point(call, shown, counts[thread, call, on])


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


def options(point: Point, deed: str, here: Path) -> list[str]:
    """strace's options that do a deed at a point."""
    where = [] if point.on is None else ["-P", point.on.replace(_HERE, str(here))]
    return [
        "-o", "/dev/null", "-e", f"trace={point.call}",
        "-e", f"inject={point.call}:{deed}:when={point.nth}", *where,
    ]  # fmt: skip
