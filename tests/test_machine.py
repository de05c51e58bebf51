"""One order and everything that happens to it, in any order: a Hypothesis state machine.

The object is served, cut, replaced, moved, put back; segdl is stopped, killed, stopped short at any
write, given too little disk; its index and parts are damaged, or are those of an older time; links
end and are renewed. After each step the final name is absent or one of the versions that were ever
served (with a digest: one that was asked for), an honest run ends by itself, and where nothing was
damaged it fetches exactly what is not held. `SEGDL_TEST_EXAMPLES=1000` looks longer, and elsewhere
each time, or with `--hypothesis-seed` at the same places. `scripts/torture planted` plants bugs
that it has to notice.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import segdl
from segdl.core.digests import digest
from segdl.core.errors import DiskError, ExitCode
from segdl.core.journal import seal, unseal
from tests.canary import CANARY
from tests.faults import EVERY_PATH, Answer, Fault, FaultServer, Seen, Wire, faults
from tests.orders import NAME, QUERY, SEGMENT, Case, Proof, Run, made, until
from tests.test_resume import INDEXES, Child, wound

EXAMPLES = os.environ.get("SEGDL_TEST_EXAMPLES")
SIZE = 8 * SEGMENT + 1_234  # nine segments, the last one short
QUICKLY: dict[str, Any] = {"segment_size": SEGMENT, "retries": 1, "patience": 0.3}
SHORTER: dict[str, Any] = {  # so that little is long enough for everything
    "segdl.engine.worker.CHECKPOINT": 20_000,
    "segdl.core.pace._FIRST": 0.02,
    "segdl.core.pace.PROBE_WAITS": (0.05, 0.1, 0.2),
}
BIG = {"segdl.engine.front.BIG": 1}  # all targets are written as big ones are
SHORTENED = """
from unittest.mock import patch
for name, value in {!r}.items():
    patch(name, value).start()
"""
SOMEWHERE = st.integers(0, SIZE - 1)
FAULTS: dict[str, Fault] = {  # none of them could be taken for the object
    "cut": faults.cut(20_000),
    "cut at once": faults.cut(0),
    "cut at the last byte": faults.cut(SEGMENT - 1),
    "reset": faults.reset(30_000),
    "hang up": faults.hang_up(),
    "chunked": faults.chunked(),
    "chunked and cut": faults.cut_chunked(10_000),
    "bad chunk": faults.bad_chunk(5_000),
    "no length": faults.no_length(),
    "no length and cut": faults.no_length(40_000),
    "short": faults.short_206(1_000),
    "whole": faults.whole_200(),
    "whole as 206": faults.whole_206(),
    "another range": faults.wrong_range(1, 1),
    "mislabelled": faults.mislabelled(7),
    "no label": faults.no_content_range(),
    "two lengths": faults.two_lengths(),
    "weak ETag": faults.weak_etag(),
    "no ETag": faults.no_etag(),
    "labelled as gzip": faults.gzip_label(),
    "conditions ignored": faults.unconditional(),
    "login page": faults.login_page(),
    "an error with 200": faults.error_200(),
    "busy": faults.status(503),
    "not found": faults.status(404),
    "connections closed": faults.connection_close(),
}
CONNECTIONS = st.sampled_from([1, 4])
DAMAGE: dict[str, Callable[[bytes, int], bytes | None]] = {  # of a part, from somewhere on
    "a bit flipped": lambda data, at: data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :],
    "bits flipped here and there": lambda data, at: bytes(
        byte ^ 4 if n % 4_000 == at % 4_000 else byte for n, byte in enumerate(data)
    ),
    "zeros": lambda data, at: data[:at] + bytes(len(data) - at),
    "garbage": lambda data, at: data[:at] + made(len(data) - at, 9),
    "short": lambda data, at: data[:at],
    "longer": lambda data, at: data + made(SEGMENT, 8),
    "missing": lambda data, at: None,
}
WRITES = (
    "write",
    "pwrite",
    "copy_file_range",
    "ftruncate",
    "mkdir",
    "unlink",
    "rename",
    "link",
    "open",
)


@dataclass(frozen=True, slots=True)
class Version:
    """An object as it was at one time, and where."""

    data: bytes
    path: str


def _stretched(lines: list[bytes], one: int, other: int) -> None:
    """A record says that all of its segment is there."""
    said = unseal(lines[one])
    if said and said["kind"] == "held":
        lines.append(seal(said | {"stop": said["start"] + SEGMENT}))


def _misplaced(lines: list[bytes], one: int, other: int) -> None:
    """A record says that its bytes are in another file."""
    said = unseal(lines[one])
    if said and said["kind"] == "held":
        lines.append(seal(said | {"place": "part" if said["place"] == "front" else "front"}))


def _rotten(lines: list[bytes], one: int, other: int) -> None:
    """A bit of a line is flipped."""
    line, at = lines[one], other * 7 % len(lines[one])
    lines[one] = line[:at] + bytes([line[at] ^ 1 << other % 8]) + line[at + 1 :]


LINES: dict[str, Callable[[list[bytes], int, int], object]] = {
    "one rotten": _rotten,
    "one dropped": lambda lines, one, other: lines.pop(one),
    "all dropped from there on": lambda lines, one, other: lines.__delitem__(slice(one, None)),
    "one doubled": lambda lines, one, other: lines.insert(other, lines[one]),
    "one moved": lambda lines, one, other: lines.insert(other, lines.pop(one)),
    "one stretched": _stretched,
    "one misplaced": _misplaced,
}
LINE = st.integers(0, 40)
FROM = st.sampled_from([0, 1, 10_000]) | SOMEWHERE
ONE_OR_ALL = st.none() | st.integers(0, 5)
Hurt = tuple[str, dict[str, Any]]  # what is damaged, and how
WAYS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "parts": {"how": st.sampled_from(sorted(DAMAGE)), "at": FROM, "number": ONE_OR_ALL},
    "front": {"how": st.sampled_from(sorted(DAMAGE)), "at": FROM},
    "index": {"how": st.sampled_from(sorted(INDEXES))},
    "lines": {"how": st.sampled_from(sorted(LINES)), "one": LINE, "other": LINE},
    "object": {},
    "by_time": {
        "number": st.integers(1, 4),
        "names": st.sampled_from(["index*", "front", "*"]),
    },
}
HURTS: st.SearchStrategy[Hurt] = st.one_of(
    [st.tuples(st.just(name), st.fixed_dictionaries(given)) for name, given in WAYS.items()]
)


Step = TypeVar("Step", bound=Callable[..., None])


def told(step: Step) -> Step:
    """A step of the story that a failure is told with: by its timing it may not come twice."""

    @wraps(step)
    def tells(self: Machine, **given: Any) -> None:
        self.story.append(f"{step.__name__}({given})")
        try:
            step(self, **given)
        except BaseException as error:
            error.add_note("\n".join(("the story:", *self.story)))
            raise

    return cast(Step, tells)


FIRST = st.integers(1, 9)  # the request that something happens in
# Preconditions look at no file: what is there depends on timing, and Hypothesis has to be told the
# same story twice.
links_hold = precondition(lambda self: self.fresh)


class Machine(RuleBasedStateMachine):
    """One order on a real server and in a real folder."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.server = self.stack.enter_context(FaultServer())
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.patches: dict[str, Any] = {}
        self.case = Case(self.server, folder)
        self.proof, self.opaque, self.sized = Proof.NOTHING, False, True
        self.story: list[str] = []
        self.versions: list[Version] = []  # all that were ever served
        self.asked: list[Version] = []  # all that a manifest ever described
        self.served_at = self.links = 0  # the links' generation: what is refused, what is asked
        self.last: Hurt | None = None
        self.spoilt = -1  # the last epoch whose bytes may not be there, or not right
        self.before: list[dict[str, bytes]] = []  # what the target's folder held after earlier runs

    @initialize(proof=st.sampled_from(Proof), opaque=st.booleans(), sized=st.booleans(),
                big=st.booleans(), last=HURTS | st.none())  # fmt: skip
    def order(self, proof: Proof, opaque: bool, sized: bool, big: bool, last: Hurt | None) -> None:
        """`last` is done before the run that everything ends with."""
        self.patches = SHORTER | (BIG if big else {})
        for name, value in self.patches.items():
            self.stack.enter_context(patch(name, value))
        self.last = last
        self.proof, self.opaque, self.sized = proof, opaque, sized
        tag = "an ETag that says nothing of the content" if opaque else "an MD5 as ETag"
        size = f"{'sized' if sized else 'of unknown size'}{', as if big' if big else ''}"
        self.story.append(f"{proof}, {tag}, {size}; last {last}")
        self.serve(Version(made(SIZE, 0), "/orders/a.7z"), told=True)

    @property
    def there(self) -> Version:
        """What is served by now."""
        return self.versions[-1]

    @property
    def fresh(self) -> bool:
        """Whether the manifest's links hold."""
        return self.links == self.served_at

    @property
    def known(self) -> bool:
        """Whether the manifest is of what is there."""
        return self.asked[-1] == self.there

    # -- the object and its links ------------------------------------------------------------------

    @rule(longer=st.sampled_from([0, 0, 1, SEGMENT, -SEGMENT]), told=st.booleans())
    @told
    def replace(self, longer: int, told: bool) -> None:
        """Another version is there; the manifest is told at once, or later."""
        self.serve(self.new_version(longer), told=told)

    @rule(number=st.integers(0, 3) | st.none(), told=st.booleans())
    @told
    def serve_elsewhere(self, number: int | None, told: bool) -> None:
        """Another version in another place, as long, so that only its place tells, perhaps; or an
        earlier one again, where it was."""
        earlier = number is not None and self.versions[number % len(self.versions)]
        self.serve(earlier or self.version_elsewhere(), told=told)

    def version_elsewhere(self) -> Version:
        number = len(self.versions)
        return Version(made(len(self.there.data), number), f"/orders/{number}.7z")

    def new_version(self, longer: int) -> Version:
        """One that was never there, where the manifest looks for it."""
        number = len(self.versions)
        if self.proof is Proof.NOTHING:  # nothing else would tell versions apart
            longer = longer // SEGMENT * SEGMENT + number
        return Version(made(SIZE + longer, number), self.asked[-1].path)

    def serve(self, version: Version, *, told: bool) -> None:
        self.versions.append(version)
        self.spoil()
        self.allow()
        self.put()
        if told:
            self.describe()

    def put(self) -> None:
        data, path = self.there.data, self.there.path
        self.server.put(path, data, etag=self.etag(data))

    def etag(self, data: bytes) -> str:
        if self.proof is Proof.NOTHING:
            return 'W/"weak"'
        return f'"{digest("xxh3_128" if self.opaque else "md5", data)}"'

    @precondition(lambda self: not (self.fresh and self.known))
    @rule()
    @told
    def tell(self) -> None:
        self.describe()

    def describe(self) -> None:
        """A fresh manifest: of what is there, with links that hold."""
        self.links = self.served_at
        data, path = self.there.data, self.there.path
        self.asked.append(self.there)
        query = QUERY.replace(CANARY, f"{CANARY}{self.links:04d}")
        etag = self.etag(data)
        self.case.put(
            data, path, name=NAME, proof=self.proof, sized=self.sized, query=query, etag=etag
        )
        self.allow()

    def allow(self) -> None:
        """What the final name may hold by now, beside nothing."""
        good = self.asked if self.proof is Proof.DIGEST else self.versions
        self.case.may_hold(NAME, *(version.data for version in good))

    # -- runs --------------------------------------------------------------------------------------

    @rule(connections=CONNECTIONS, overwrite=st.booleans())
    @told
    def honest(self, connections: int, overwrite: bool) -> None:
        """It finishes if the manifest is of what is there, and fetches what is not held."""
        delivered = self.case.final().exists()
        if self.known and self.fresh and (overwrite or not delivered):
            self.finish(connections=connections, overwrite=overwrite)
        else:
            self.run(None, connections=connections, overwrite=overwrite)

    def finish(self, **options: Any) -> None:
        clean = self.clean() and not self.case.final().exists()
        run = self.run(None, **options)
        assert run.code is ExitCode.DONE, run.report
        if clean:
            assert run.held + self.server.sent() == len(self.there.data), f"{run.held} were held"
            self.case.check_delivered()

    @links_hold
    @rule(name=st.sampled_from(sorted(FAULTS)), first=FIRST, connections=CONNECTIONS,
          then=st.sampled_from(["honest", "the same", "nothing"]))  # fmt: skip
    @told
    def faulty(self, name: str, first: int, then: str, connections: int) -> None:
        """A fault in one request, and what comes after it."""
        self.wanted_again()
        after = {"honest": faults.honest(), "the same": FAULTS[name], "nothing": faults.hang_up()}

        def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
            chosen = FAULTS[name] if request.number == first else after[then]
            return chosen(wire, request, answer)

        self.run(fault, range(first, 10_000), connections=connections)

    @links_hold
    @rule(number=st.integers(1, 6), connections=CONNECTIONS)
    @told
    def lacking(self, number: int, connections: int) -> None:
        """The end of one segment does not come, whatever comes behind it."""
        self.wanted_again()
        self.lack(number, connections=connections)

    def lack(self, number: int, **options: Any) -> None:
        def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
            which, at = divmod(request.range[0] if request.range else 0, SEGMENT)
            if which != number:
                return answer
            return (faults.hang_up() if at else faults.cut(number * 8_000))(wire, request, answer)

        self.run(fault, **options)

    @links_hold
    @rule(first=FIRST, connections=CONNECTIONS)
    @told
    def expired(self, first: int, connections: int) -> None:
        """The links end in the middle."""
        self.wanted_again()
        self.run(faults.EXPIRED["MinIO"], range(first, 10_000), connections=connections)
        self.served_at += 1

    @precondition(lambda self: self.fresh and self.proof is Proof.DIGEST)
    @rule(at=SOMEWHERE)
    @told
    def flipped(self, at: int) -> None:
        """A bit is wrong in every answer, and a digest will tell."""
        self.wanted_again()
        self.run(faults.flip_bit(at))
        self.spoil()

    @links_hold
    @rule(first=FIRST, longer=st.sampled_from([0, 1]), connections=CONNECTIONS)
    @told
    def replaced_meanwhile(self, first: int, longer: int, connections: int) -> None:
        """Another version is there from a request on."""
        self.change(first, longer, connections, conditions=True)

    @links_hold
    @rule(first=FIRST, connections=CONNECTIONS)
    @told
    def replaced_unsaid(self, first: int, connections: int) -> None:
        """The same, as long as before, and the server does not mind `If-Match`."""
        self.change(first, 0, connections, conditions=False)

    def change(self, first: int, longer: int, connections: int, *, conditions: bool) -> None:
        self.wanted_again()
        self.versions.append(self.new_version(longer))
        self.spoil()
        self.allow()
        data = self.there.data
        fault = faults.replaced(data, self.etag(data), conditions=conditions)
        self.run(fault, range(first, 10_000), connections=connections)
        self.put()

    @links_hold
    @rule(first=FIRST, count=st.integers(0, SEGMENT), connections=CONNECTIONS)
    @told
    def stopped(self, first: int, count: int, connections: int) -> None:
        """Cancelled in the middle of an answer."""
        self.wanted_again()
        control = segdl.Control()

        def stop(wire: Wire, request: Seen, answer: Answer) -> None:
            faults.cut(count)(wire, request, answer)
            control.cancel()

        self.run(stop, range(first, 10_000), control=control, connections=connections)

    @links_hold
    @rule(count=SOMEWHERE, connections=CONNECTIONS)
    @told
    def killed(self, count: int, connections: int) -> None:
        """kill -9 once that many bytes were sent, or at its end."""
        self.wanted_again()
        self.script(faults.trickle(4e6))
        with Child(
            self.case, SHORTENED.format(self.patches), connections=connections, **QUICKLY
        ) as child:
            until(lambda: self.server.sent() >= count or child.ended(), 20.0)
            child.signal(signal.SIGKILL)
            child.wait()
        self.server.until(lambda: self.server.open == 0)

    @links_hold
    @rule(steps=st.integers(5, 150), connections=CONNECTIONS)
    @told
    def stopped_short(self, steps: int, connections: int) -> None:
        """After so many writes nothing changes on disk: what a kill at any of them leaves."""
        self.wanted_again()
        with no_write_after(steps), suppress(DiskError):  # at its first steps it raises
            self.run(None, connections=connections)

    @links_hold
    @rule(limit=st.integers(2_000, SIZE), connections=CONNECTIONS)
    @told
    def no_room(self, limit: int, connections: int) -> None:
        """No file may grow beyond that: as on a disk that is full, writes come short or fail."""
        self.wanted_again()
        with limited_files(limit):
            self.run(None, connections=connections)

    def run(self, fault: Fault | None, on: Any = range(1, 10_000), **options: Any) -> Run:
        self.script(fault, on)
        run = self.case.run(timeout=5.0, **QUICKLY | options)  # nothing waits: no false stall
        files = [path for path in self.work("*") if path.is_file()]
        self.before.append({path.name: path.read_bytes() for path in files})
        return run

    def wanted_again(self) -> None:
        """Whoever had it moved it away: there is something to do."""
        if self.case.final().exists():
            self.spoil()  # what a crash between the name and the receipt left is of no use now
            self.case.final().unlink()

    def script(self, fault: Fault | None, on: Any = range(1, 10_000)) -> None:
        """What the server does from now on; links that ended are refused whatever it does."""
        self.server.mend()
        self.server.forget()
        if fault is not None:
            self.server.script(EVERY_PATH, fault, on=on)
        fresh = f"{CANARY}{self.served_at:04d}"
        self.server.script(EVERY_PATH, faults.EXPIRED["MinIO"], on=lambda r: fresh not in r.query)

    # -- damage ------------------------------------------------------------------------------------

    @rule(what=HURTS)
    @told
    def damaged(self, what: Hurt) -> None:
        self.hurt(what)

    @rule(what=HURTS)
    @told
    def damaged_and_gone_on_with(self, what: Hurt) -> None:
        self.hurt(what)
        self.describe()
        self.wanted_again()
        self.finish()

    def hurt(self, what: Hurt) -> None:
        """Damage what is under way; if nothing is, all but the end of a segment."""
        if not self.work("index.jsonl"):
            self.describe()
            self.wanted_again()
            self.lack(1 + len(self.story) % 6)
        self.spoil()
        name, given = what
        getattr(self, f"hurt_{name}")(self.work("index.jsonl")[0].parent, **given)
        self.spoil()

    def hurt_index(self, folder: Path, how: str) -> None:
        wound(folder / "index.jsonl", INDEXES[how][0])

    def hurt_lines(self, folder: Path, how: str, one: int, other: int) -> None:
        lines = (folder / "index.jsonl").read_bytes().splitlines(keepends=True)
        if lines:
            LINES[how](lines, one % len(lines), other % len(lines))
            (folder / "index.jsonl").write_bytes(b"".join(lines))

    def hurt_front(self, folder: Path, how: str, at: int) -> None:
        self.hurt_files([folder / "front"], how, at)

    def hurt_parts(self, folder: Path, how: str, at: int, number: int | None) -> None:
        parts = sorted(folder.glob("*.part"))
        self.hurt_files(parts if number is None else parts[number : number + 1], how, at)

    def hurt_files(self, files: list[Path], how: str, at: int) -> None:
        for file in files:
            if file.exists() and file.stat().st_size:
                wound(file, lambda data: DAMAGE[how](data, at % len(data)))

    def hurt_object(self, folder: Path) -> None:
        """It is of another object: what is asked for now is in another place, and as long."""
        self.serve(self.version_elsewhere(), told=True)

    def hurt_by_time(self, folder: Path, number: int, names: str) -> None:
        """Some files are what they were after an earlier run."""
        for name, data in self.before[-number].items() if number <= len(self.before) else ():
            if fnmatch(name, names):
                (folder / name).write_bytes(data)

    def work(self, pattern: str) -> list[Path]:
        return sorted((self.case.out / ".segdl" / "work").glob(f"*/{pattern}"))

    # -- what is held ------------------------------------------------------------------------------

    def spoil(self) -> None:
        """What is held by now may be of no use."""
        self.spoilt = max([self.spoilt, *(pin["epoch"] for pin in self.pins())])

    def clean(self) -> bool:
        """Whether all that is held is of the object that is there, and undamaged."""
        if not self.work("index.jsonl"):
            return True
        data, path = self.there.data, self.there.path
        etag = None if self.proof is Proof.NOTHING else self.etag(data)
        return any(
            (pin["etag"], pin["total"]) == (etag, len(data))
            and (etag or path in pin["object"])
            and pin["epoch"] > self.spoilt
            for pin in self.pins()[-1:]
        )

    def pins(self) -> list[dict[str, Any]]:
        """The lines of the index that say which object all that follows is of."""
        lines = [
            line for index in self.work("index.jsonl") for line in index.read_bytes().splitlines()
        ]
        return [said for line in lines if (said := unseal(line)) and said["kind"] == "pin"]

    # -- what must hold ----------------------------------------------------------------------------

    @invariant()
    def nothing_wrong_carries_the_name(self) -> None:
        if self.asked:
            self.case.check_finals()

    @invariant()
    def nothing_is_left_to_be_spoilt(self) -> None:
        if not self.work("index.jsonl"):
            self.spoilt = -1

    def teardown(self) -> None:
        """An honest run finishes by itself."""
        try:
            if self.asked:
                self.end()
        finally:
            self.stack.close()

    @told
    def end(self) -> None:
        self.describe()
        final = self.case.final()
        if self.last is not None:
            self.wanted_again()
            self.hurt(self.last)
        elif final.exists() and final.read_bytes() != self.there.data:
            self.wanted_again()
        self.finish()
        self.case.may_hold(NAME, self.there.data)
        self.case.check_delivered()


@contextmanager
def limited_files(limit: int) -> Iterator[None]:
    """No file of this process grows beyond that many bytes: EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_write_after(steps: int) -> Iterator[None]:
    """This process's calls that change a folder fail after so many of them, and change nothing."""
    number = itertools.count()

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **named: Any) -> Any:
            changes = call is not real_open or args[1] & os.O_CREAT
            if changes and next(number) >= steps:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(*args, **named)

        return made

    real_open = os.open
    with ExitStack() as patched:
        for name in WRITES:
            patched.enter_context(patch.object(os, name, failing(getattr(os, name))))
        yield


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=int(EXAMPLES or 40),
    stateful_step_count=12,
    deadline=None,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=list(HealthCheck),
)
