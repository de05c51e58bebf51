"""One order and everything that happens to it, in any order: a Hypothesis state machine.

The object is served, cut, replaced; segdl is stopped, killed, given too little disk; its index and
parts are damaged; links end and are renewed. After each step the final name is absent or one of the
versions that were ever served (with a digest: one that was asked for), and in the end an honest run
finishes by itself. `SEGDL_TEST_EXAMPLES=1000` looks longer, and elsewhere each time.
"""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import segdl
from segdl.core.errors import ExitCode
from tests.canary import CANARY
from tests.faults import EVERY_PATH, Answer, Fault, FaultServer, Seen, Wire, faults
from tests.orders import NAME, PATH, QUERY, SEGMENT, SIZE, Case, Proof, Run, made, until
from tests.test_resume import INDEXES, WOUNDS, Child, wound

EXAMPLES = os.environ.get("SEGDL_TEST_EXAMPLES")
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


FIRST = st.integers(1, 6)  # the request that something happens in
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
        self.case = Case(self.server, folder)
        self.proof, self.sized = Proof.NOTHING, True
        self.story: list[str] = []
        self.versions: list[bytes] = []  # all that were ever served
        self.asked: list[bytes] = []  # all that a manifest ever described
        self.served_at = self.links = 0  # the links' generation: what is refused, what is asked
        self.clean = True  # what is held is of the object that is there, and undamaged

    @initialize(proof=st.sampled_from(Proof), sized=st.booleans())
    def order(self, proof: Proof, sized: bool) -> None:
        self.proof, self.sized = proof, sized
        self.story.append(f"{proof}, {'sized' if sized else 'of unknown size'}")
        self.put(self.new_version(0))
        self.tell()

    @property
    def fresh(self) -> bool:
        """Whether the manifest's links hold."""
        return self.links == self.served_at

    @property
    def known(self) -> bool:
        """Whether the manifest is of what is there."""
        return self.asked[-1] == self.versions[-1]

    # -- the object and its links ------------------------------------------------------------------

    @rule(longer=st.sampled_from([0, 0, 1, SEGMENT, -SEGMENT]), told=st.booleans())
    @told
    def replace(self, longer: int, told: bool) -> None:
        """Another version is there; the manifest is told at once, or later."""
        self.put(self.new_version(longer))
        self.clean = False
        if told:
            self.tell()

    def new_version(self, longer: int) -> bytes:
        number = len(self.versions)
        if self.proof is Proof.NOTHING:  # nothing else would tell versions apart
            longer = longer // SEGMENT * SEGMENT + number
        data = made(SIZE + longer, number)
        self.versions.append(data)
        self.allow()
        return data

    def put(self, data: bytes) -> None:
        self.server.put(PATH, data, etag=None if self.proof is not Proof.NOTHING else 'W/"weak"')

    @precondition(lambda self: not (self.fresh and self.known))
    @rule()
    @told
    def tell(self) -> None:
        """A fresh manifest: of what is there, with links that hold."""
        self.links = self.served_at
        data = self.versions[-1]
        self.asked.append(data)
        query = QUERY.replace(CANARY, f"{CANARY}{self.links:04d}")
        self.case.put(data, proof=self.proof, sized=self.sized, query=query)
        self.put(data)
        self.allow()

    def allow(self) -> None:
        """What the final name may hold by now, beside nothing."""
        self.case.may_hold(NAME, *(self.asked if self.proof is Proof.DIGEST else self.versions))

    @precondition(lambda self: self.fresh)
    @rule()
    @told
    def expire(self) -> None:
        self.served_at += 1

    # -- runs --------------------------------------------------------------------------------------

    @rule(connections=CONNECTIONS, overwrite=st.booleans())
    @told
    def honest(self, connections: int, overwrite: bool) -> None:
        """It finishes if the manifest is of what is there, and fetches what is not held."""
        delivered = self.case.final().exists()
        run = self.run(None, connections=connections, overwrite=overwrite)
        due = self.known and self.fresh
        if due and (overwrite or not delivered):
            assert run.code is ExitCode.DONE, run.report
        if due and self.clean and not delivered:
            assert run.held + self.server.sent() == len(self.versions[-1])
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
    @rule(at=SOMEWHERE)
    @told
    def flipped(self, at: int) -> None:
        """A bit is wrong in every answer, where a digest will tell."""
        if self.proof is Proof.DIGEST:
            self.wanted_again()
            self.clean = False
            self.run(faults.flip_bit(at))

    @links_hold
    @rule(first=FIRST, longer=st.sampled_from([0, 1]), connections=CONNECTIONS)
    @told
    def replaced_meanwhile(self, first: int, longer: int, connections: int) -> None:
        """Another version is there from a request on."""
        self.wanted_again()
        self.clean = False
        data = self.new_version(longer)
        etag = 'W/"weak"' if self.proof is Proof.NOTHING else None
        self.run(faults.replaced(data, etag), range(first, 10_000), connections=connections)
        self.put(data)

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
        self.script(faults.trickle(2e6))
        options: dict[str, Any] = {
            "segment_size": SEGMENT,
            "retries": 1,
            "patience": 1.0,
            "timeout": 1.0,
        }
        with Child(self.case, connections=connections, **options) as child:
            until(lambda: self.server.sent() >= count or child.ended(), 20.0)
            child.signal(signal.SIGKILL)
            child.wait()
        self.server.until(lambda: self.server.open == 0)

    @links_hold
    @rule(limit=st.integers(20_000, SIZE), connections=CONNECTIONS)
    @told
    def no_room(self, limit: int, connections: int) -> None:
        """No file may grow beyond that: as on a disk that is full, writes come short or fail."""
        self.wanted_again()
        with limited_files(limit):
            self.run(None, connections=connections)

    def run(self, fault: Fault | None, on: range = range(1, 10_000), **options: Any) -> Run:
        self.script(fault, on)
        return self.case.run(timeout=5.0, **options)  # nothing here waits: no false stall

    def wanted_again(self) -> None:
        """Whoever had it moved it away: there is something to do."""
        self.case.final().unlink(missing_ok=True)

    def script(self, fault: Fault | None, on: range = range(1, 10_000)) -> None:
        """What the server does from now on; links that ended are refused whatever it does."""
        self.server.mend()
        self.server.forget()
        if fault is not None:
            self.server.script(PATH, fault, on=on)
        fresh = f"{CANARY}{self.served_at:04d}"
        self.server.script(EVERY_PATH, faults.EXPIRED["MinIO"], on=lambda r: fresh not in r.query)

    # -- damage ------------------------------------------------------------------------------------

    @rule(how=st.sampled_from(sorted(INDEXES)))
    @told
    def damaged_index(self, how: str) -> None:
        self.half()
        for index in self.work("index.jsonl"):
            self.clean = False
            wound(index, INDEXES[how][0])

    @rule(at=SOMEWHERE, bit=st.integers(0, 7))
    @told
    def flipped_index(self, at: int, bit: int) -> None:
        self.half()
        for index in self.work("index.jsonl"):
            data = bytearray(index.read_bytes())
            if data:
                self.clean = False
                data[at % len(data)] ^= 1 << bit
                index.write_bytes(data)

    @rule(how=st.sampled_from(sorted(WOUNDS)), number=st.integers(0, 5))
    @told
    def damaged_part(self, how: str, number: int) -> None:
        self.half()
        parts = [*self.work("front"), *self.work("*.part")]
        if parts:
            part = parts[number % len(parts)]
            if part.stat().st_size > 20_000:  # the wounds ask for as much
                self.clean = False
                wound(part, WOUNDS[how])

    def half(self) -> None:
        """Something to damage: if there is nothing, all but a few segments."""
        if self.fresh and not self.work("index.jsonl"):
            self.wanted_again()
            self.run(faults.hang_up(), range(4, 10_000), connections=1)

    def work(self, pattern: str) -> list[Path]:
        return sorted((self.case.out / ".segdl" / "work").glob(f"*/{pattern}"))

    # -- what must hold ----------------------------------------------------------------------------

    @invariant()
    def nothing_wrong_carries_the_name(self) -> None:
        if self.asked:
            self.case.check_finals()

    def teardown(self) -> None:
        """An honest run finishes by itself."""
        try:
            if self.asked:
                self.tell()
                final = self.case.final()
                if final.exists() and final.read_bytes() != self.versions[-1]:
                    final.unlink()  # as whoever wants the new version does
                run = self.run(None)
                assert run.code is ExitCode.DONE, run.report
                self.case.may_hold(NAME, self.versions[-1])
                self.case.check_delivered()
        finally:
            self.stack.close()


@contextmanager
def limited_files(limit: int) -> Iterator[None]:
    """No file of this process grows beyond that many bytes: EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=int(EXAMPLES or 20),
    stateful_step_count=12,
    deadline=None,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=list(HealthCheck),
)
