"""kill -9 at random moments of random orders: nothing is corrupt, little is fetched again.

A round makes up an order, its server and the moments; the run is killed, sometimes stopped, and
started again until it ends by itself. Some orders are of many small files: then segdl alone is
killed, and its runners have to end by themselves, or a runner alone, and segdl goes on.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from segdl.core.digests import digest
from tests import canary
from tests.faults import Fault, FaultServer, faults
from tests.orders import QUERY, Case, Proof, made, pieces_of, until
from tests.torture.campaign import Campaign, Figures, Round
from tests.torture.child import Child
from tests.torture.finals import Finals

KIB, MIB = 1024, 1024 * 1024
LARGEST = 6 * MIB
BLOCK = made(LARGEST + 3 * MIB, 7)
# A kill costs most where segments are large and connections few.
SEGMENTS = (64 * KIB, 128 * KIB, 512 * KIB, MIB, 2 * MIB, 8 * MIB, 8 * MIB, 8 * MIB)
CONNECTIONS = (1, 1, 1, 2, 2, 3, 4, 6)
PIECES = "pieces"
MANY = 0.3  # the share of orders of many small files
ALONE = 15.0  # seconds that a runner may outlast segdl: far longer than it does
PROOFS = (Proof.DIGEST, PIECES, Proof.ETAG, Proof.NOTHING)
STOP, KILL = signal.SIGTERM, signal.SIGKILL
Words = tuple[str | Path, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One target, its object, and what its server can do."""

    number: int
    size: int
    at: int  # of its bytes in BLOCK
    proof: Proof | str
    sized: bool  # whether the manifest has the size
    sliced: int  # bytes of the object before the target, and after it
    mirrored: bool
    ranged: bool  # whether the server honours ranges

    @property
    def data(self) -> bytes:
        return BLOCK[self.at : self.at + self.size]

    @property
    def object(self) -> bytes:
        return BLOCK[self.at - self.sliced : self.at + self.size + self.sliced]

    @property
    def places(self) -> tuple[str, ...]:
        """Paths on the server: the first of the target's own, then a mirror's."""
        path = f"/{self.number}.7z"
        return (path, f"/mirror{path}") if self.mirrored else (path,)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a run is ended, and how."""

    how: signal.Signals
    share: float  # of the bytes that were left when the run began
    delay: float  # seconds after those bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a round that is made up."""

    wanted: tuple[Wanted, ...]
    segment: int
    connections: int
    rate: float | None  # bytes a second of each answer
    moments: tuple[Moment, ...]
    big: bool  # whether each target is written as a big one is
    many: bool = False  # whether the order has runners
    lost: float | None = None  # of the bytes left when the last run begins: a runner is killed then

    @property
    def total(self) -> int:
        return sum(wanted.size for wanted in self.wanted)

    def again(self, ends: int) -> int:
        """Bytes that so many ends may cost at most. A server without ranges gives all again, and
        once more, into the socket, when it is asked for the rest of what is held."""
        whole = sum(wanted.size for wanted in self.wanted if not wanted.ranged)
        return ends * (self.connections * MIB + 2 * whole)


# -- made up ---------------------------------------------------------------------------------------


def plan(chance: random.Random) -> Plan:
    segment = chance.choice(SEGMENTS)
    wanted = tuple(_wanted(n, segment, chance) for n in range(chance.randint(1, 6)))
    connections = chance.choice(CONNECTIONS)
    total = sum(each.size for each in wanted)
    seconds = chance.uniform(0.05, 0.5)  # of a run without an end, if all connections are used
    rate = chance.choice((None, max(total / connections / seconds, 64 * KIB)))
    kills = [_moment(KILL, chance) for _ in range(chance.randint(1, 3))]
    if chance.random() < 0.25:
        kills.insert(chance.randint(0, len(kills)), _moment(STOP, chance))
    big = chance.random() < 0.5
    made_up = Plan(wanted, segment, connections, rate, tuple(kills), big)
    return _of_many(made_up, chance) if chance.random() < MANY else made_up


def _of_many(other: Plan, chance: random.Random) -> Plan:
    """An order of many small files, some of which are no errand, with all else as it is."""
    wanted = tuple(_small(number, chance) for number in range(chance.randint(30, 120)))
    total, seconds = sum(each.size for each in wanted), chance.uniform(0.1, 1.0)
    rate = chance.choice((None, max(total / other.connections / seconds, 64 * KIB)))
    lost = chance.choice((None, chance.random()))
    return replace(
        other, wanted=wanted, segment=chance.choice((256 * KIB, 8 * MIB)), rate=rate, many=True,
        lost=lost,
    )  # fmt: skip


def _small(number: int, chance: random.Random) -> Wanted:
    odd = chance.choice((*[""] * 12, "sliced", "mirrored", "unsized", PIECES))
    most = chance.choice((2, 1000, 20_000, 20_000, 100_000, 256 * KIB))
    return Wanted(
        number=number,
        size=chance.randint(1, most),
        at=chance.randrange(MIB, 2 * MIB),
        proof=PIECES if odd == PIECES else chance.choice((Proof.DIGEST, Proof.ETAG, Proof.NOTHING)),
        sized=odd not in ("sliced", "unsized"),
        sliced=chance.randrange(1, 1000) if odd == "sliced" else 0,
        mirrored=odd == "mirrored",
        ranged=True,
    )


def _wanted(number: int, segment: int, chance: random.Random) -> Wanted:
    size = _size(segment, chance)
    proof = chance.choice(PROOFS if size else (Proof.DIGEST, Proof.ETAG))
    sliced = chance.choice((0, 0, 0, 0, 0, chance.randrange(1, MIB))) if size else 0
    return Wanted(
        number=number,
        size=size,
        at=chance.randrange(MIB, 2 * MIB),
        proof=proof,
        sized=not sliced and (proof is PIECES or chance.random() < 0.8),
        sliced=sliced,
        mirrored=chance.random() < 0.15,
        ranged=bool(sliced) or chance.random() < 0.9,
    )


def _size(segment: int, chance: random.Random) -> int:
    edge = chance.randint(1, 4) * segment + chance.randint(-1, 1)
    small, large = chance.randrange(256 * KIB + 2), chance.randrange(MIB, LARGEST)
    return min(chance.choice((chance.randint(0, 1), edge, small, large, large, large)), LARGEST)


def _moment(how: signal.Signals, chance: random.Random) -> Moment:
    share = chance.choice((0.0, 1.0, *(chance.random() for _ in range(6))))
    late = 0.05 if share else 0.2  # before the first byte as after the last
    return Moment(how, share, chance.choice((0.0, chance.uniform(0, late))))


# -- on the server ---------------------------------------------------------------------------------


def ask(case: Case, wanted: Wanted, plan: Plan) -> None:
    """Store an object, and ask for it."""
    entry: dict[str, Any] = {}
    if wanted.proof is Proof.DIGEST:
        entry["hash"] = {"sha256": digest("sha256", wanted.data)}
    if wanted.proof is PIECES:
        entry["pieces"] = pieces_of(wanted.data, plan.segment)
    if wanted.sliced:
        entry["slice"] = {"offset": str(wanted.sliced), "size": str(wanted.size)}
    if wanted.mirrored:
        entry["urls"] = [case.server.url(place, QUERY) for place in wanted.places]
    weak = Proof.NOTHING if wanted.proof is Proof.NOTHING else Proof.ETAG
    for place in reversed(wanted.places):
        name = case.put(wanted.object, place, proof=weak, sized=wanted.sized, **entry)
        for fault in _line(wanted, plan.rate):
            case.server.script(place, fault)
    case.may_hold(name, wanted.data)


def _line(wanted: Wanted, rate: float | None) -> Iterator[Fault]:
    shape = [] if wanted.ranged else [faults.whole_200()]
    slow = [] if rate is None else [faults.trickle(rate)]
    if shape or slow:
        yield faults.chain(*shape, *slow)


# -- ended, and started again ----------------------------------------------------------------------


@dataclass(slots=True)
class Ends:
    """What the runs of a round had and took.

    What lies in the kernel at a kill was never read, and costs nothing: how much that is depends on
    how fast the machine is. A kill finds its run standing still, so that it can be told.
    """

    held: list[int | None] = field(default_factory=list)  # when each began, as it said
    sent: list[int] = field(default_factory=list)  # by the server in each
    unread: list[int] = field(default_factory=list)  # of that, what no run came to read
    kills: int = 0

    def costs(self) -> Iterator[tuple[int, int]]:
        """How many ends between two runs that said what they held, and bytes that they cost."""
        said = [number for number, held in enumerate(self.held) if held is not None]
        for one, other in pairwise(said):
            gained = (self.held[other] or 0) - (self.held[one] or 0)
            read = sum(self.sent[one:other]) - sum(self.unread[one:other])
            yield other - one, read - gained


def run(this: Round) -> Figures:
    made_up, ends = plan(this.chance), Ends()
    with FaultServer() as server:
        case = Case(server, this.folder)
        for wanted in made_up.wanted:
            ask(case, wanted, made_up)
        manifest, finals = case.manifest(), Finals(case.out, case.contents)
        words = (
            "get", manifest, "-o", case.out, "--progress", "json",
            "--segment-size", str(made_up.segment), "--connections", str(made_up.connections),
        )  # fmt: skip
        for moment in (*made_up.moments, None):
            _once(case, words, moment, made_up, finals, ends)
        case.check_delivered()
    assert not list(canary.leaks(case.folder))
    return _judged(made_up, ends)


def _once(
    case: Case, words: Words, moment: Moment | None, plan: Plan, finals: Finals, ends: Ends
) -> None:
    """One run, to its end or to a moment before."""
    server, before, unread = case.server, sum(ends.sent), 0
    with Child(case.folder, *words, big=plan.big, many=plan.many) as child:
        if moment is None:
            if plan.lost is not None:
                _lose(child, before + int(plan.lost * max(plan.total - before, 0)), case, finals)
            child.until(lambda: False, finals.look)
            codes = {0}
        else:
            mark = before + int(moment.share * max(plan.total - before, 0))
            if child.until(lambda: server.sent() >= mark, finals.look):
                time.sleep(moment.delay)
            if moment.how == KILL and not plan.many:  # runners go on
                child.stop()
                unread = server.unread()
            child.signal(moment.how)
            codes = {0, -moment.how, 128 + moment.how}
        code = child.wait()
        assert code in codes, f"{code}: {child.said[-2000:]}"
        ends.held.append(child.held)
        if plan.many:
            until(lambda: not child.runners(), ALONE)
    server.until(lambda: server.open == 0)
    finals.look()
    ends.sent.append(server.sent() - before)
    ends.unread.append(unread if code == -KILL else 0)
    ends.kills += code == -KILL


def _lose(child: Child, mark: int, case: Case, finals: Finals) -> None:
    """Kill a runner, if there is one by then."""
    if child.until(lambda: case.server.sent() >= mark, finals.look):
        for runner in child.runners()[:1]:
            with suppress(ProcessLookupError):
                os.kill(runner, KILL)


def _judged(plan: Plan, ends: Ends) -> Figures:
    """The figures; AssertionError where an end cost too much."""
    costs = list(ends.costs())
    for count, cost in costs:
        assert cost <= plan.again(count), f"{cost} bytes again after {count} ends: {plan}, {ends}"
    again = sum(ends.sent) - sum(ends.unread) - plan.total
    most = plan.again(len(plan.moments) + (plan.lost is not None))
    assert -sum(ends.unread) <= again <= most, f"{again} bytes again in all: {plan}, {ends}"
    dearest = max((cost / count / plan.connections for count, cost in costs), default=0)
    ranged = all(wanted.ranged for wanted in plan.wanted)
    return {
        "kills": ends.kills,
        "again": again,
        "dearest": dearest if ranged else 0,
        "many": plan.many,
        "dearest of many": dearest if plan.many else 0,
    }


def told(figures: Sequence[Figures]) -> str:
    kills = sum(each["kills"] for each in figures)
    again = sum(each["again"] for each in figures)
    most = max(each["dearest"] for each in figures)
    many = sum(each["many"] for each in figures)
    dearest = max(each["dearest of many"] for each in figures)
    return (
        f"{kills:.0f} kills; bytes fetched again after a kill: {again / max(kills, 1):.0f} in the "
        f"mean, {most:.0f} a connection at most; {many:.0f} orders of many small files, "
        f"{dearest:.0f} a connection at most"
    )


CAMPAIGN = Campaign("kill", "kill -9 at random moments of random orders", 1000, run, told)
