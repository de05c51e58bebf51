"""Power cuts on real file systems: what was said to be delivered is there, and all else is exact.

A round is an order made up at random, on an image of its own: segdl as a child fetches it, the
power is cut at some moment (or several times in a row), and each time the image is mounted again
and looked at. Before a cut some of the files may be flushed by somebody else, as the kernel does
when it likes. In the end a run must finish, and what it delivered must survive one more cut.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.commands import check_output, running
from tests.faults import FaultServer
from tests.orders import Case, Proof, files_under, made, pieces_of, until
from tests.torture.campaign import Campaign, Figures, Round
from tests.torture.image import EXT4, MIB, XFS, Disk, FileSystem

KIB = 1024
LATE = 30.0  # seconds after which a child that still runs has gone wrong
MAY_COST = 5.0  # seconds of line rate: promise 5


# -- what a round is made of -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A target of the order."""

    name: str
    size: int
    proof: Proof
    sized: bool
    pieces: bool
    placed: bool  # somebody has just copied it there, and nothing has flushed it yet


@dataclass(frozen=True, slots=True)
class Moment:
    """When the power is cut: after so many bytes were sent, or so many targets done, or the end;
    and then `wait` seconds later."""

    bytes: int | None = None
    done: int | None = None
    wait: float = 0.0
    flushed: int = 0  # files that somebody else flushes just before


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is random in a round."""

    options: str
    targets: tuple[Asked, ...]
    segment: int
    connections: int
    rate: int | None  # bytes a second
    moments: tuple[Moment, ...]
    big: bool  # whether each target is written as a big one is
    many: bool  # whether small ones are by runners

    @property
    def total(self) -> int:
        return sum(asked.size for asked in self.targets)

    @property
    def may_cost(self) -> float:
        """Bytes that one cut may cost; without a rate there is no telling."""
        if self.rate is None:
            return float("inf")
        return MAY_COST * self.rate + self.connections * self.segment


def planned(chance: random.Random, kind: FileSystem) -> Plan:
    segment = chance.choice((64, 128, 256, 1024)) * KIB
    long = chance.random() < 1 / 8
    rate = chance.randint(512 * KIB, 1536 * KIB) if long else None
    seconds = chance.uniform(3.0, 8.0)  # of a long run, until the cut
    sizes = [int(rate * (seconds + 1))] if rate else _sizes(chance, segment)
    placed = chance.choice((0.0, 0.0, 0.0, 0.0, 0.3)) if rate is None else 0.0
    targets = tuple(_asked(chance, n, size, segment, placed) for n, size in enumerate(sizes))
    count = 1 if rate or chance.random() < 0.7 else chance.randint(2, 4)
    moments = [_moment(chance, targets) for _ in range(count)]
    if rate:
        moments = [Moment(int(rate * seconds), flushed=chance.choice((0, 0, 3)))]
    return Plan(
        options=chance.choice(kind.options),
        targets=targets,
        segment=segment,
        connections=chance.randint(1, 8),
        rate=rate,
        moments=tuple(moments),
        big=chance.random() < 0.5,
        many=chance.random() < 0.5,
    )


def _sizes(chance: random.Random, segment: int) -> list[int]:
    """Bytes of each target: one large, some of a few segments, many small ones, or a bit of all."""
    large = [chance.randint(1, 8 * MIB)]
    some = [chance.randint(1, 4) * segment + chance.randint(-1, 1) for _ in range(3)]
    small = [chance.randint(0, 200 * KIB) for _ in range(chance.randint(2, 40))]
    return chance.choice((large, some, small, large + some + small[:10]))


def _asked(chance: random.Random, number: int, size: int, segment: int, placed: float) -> Asked:
    folder = chance.choice(("", "", "chips/", "chips/more/"))
    return Asked(
        name=f"{folder}{number}.7z",
        size=size,
        proof=chance.choice(list(Proof)),
        sized=chance.random() < 0.8,
        pieces=size > segment and chance.random() < 0.3,
        placed=chance.random() < placed,
    )


def _moment(chance: random.Random, targets: Sequence[Asked]) -> Moment:
    total = sum(asked.size for asked in targets)
    flushed = chance.choice((0, 0, 1, 4, 16))
    wait = chance.choice((0.0, chance.uniform(0, 0.02), chance.uniform(0, 0.3)))
    match chance.randrange(10):
        case 0 | 1:
            return Moment(wait=0.0, flushed=0)  # right after exit 0
        case 2 | 3 | 4:
            return Moment(done=chance.randint(1, len(targets)))  # right after target_done
        case 5:
            return Moment(bytes=total, wait=chance.uniform(0, 0.05))  # while it is delivered
        case _:
            return Moment(bytes=chance.randint(0, total), wait=wait, flushed=flushed)


# -- a round ---------------------------------------------------------------------------------------


@dataclass
class Order(Case):
    """An order that is delivered to a disk."""

    @property
    def out(self) -> Path:
        return self.folder / "disk" / "out"


@dataclass(slots=True)
class Ran:
    """What a run of segdl was seen to do until the power was cut, or it ended."""

    code: int | None  # None: it was under way
    events: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0  # bytes, by the server

    @property
    def reached(self) -> int:
        """Bytes that it said were there, last of all."""
        return max((e["bytes"] for e in self.events if e["event"] == "progress"), default=0)

    @property
    def done(self) -> set[str]:
        return {e["target"] for e in self.events if e["event"] == "target_done"}


def _round(kind: FileSystem, this: Round) -> Figures:
    chance = this.chance
    plan = planned(chance, kind)
    with FaultServer() as server:
        order = Order(server, this.folder)
        for number, asked in enumerate(plan.targets):
            _put(order, asked, number, plan)
        disk = Disk(kind, this.folder / "image", this.folder / "disk", plan.options)
        with disk:
            return _Trial(plan, order, disk, chance).run()


def _put(order: Order, asked: Asked, number: int, plan: Plan) -> None:
    data = made(asked.size, number)
    more: dict[str, Any] = {"pieces": pieces_of(data, plan.segment)} if asked.pieces else {}
    order.put(data, f"/{asked.name}", name=asked.name, proof=asked.proof, sized=asked.sized, **more)


class _Trial:
    """The runs and cuts of one round."""

    def __init__(self, plan: Plan, order: Order, disk: Disk, chance: random.Random) -> None:
        self._plan = plan
        self._order = order
        self._disk = disk
        self._chance = chance
        self._done: set[str] = set()  # targets that were said to be delivered
        self._placed = {asked.name for asked in plan.targets if asked.placed}

    def run(self) -> Figures:
        cost, early = 0, 0  # bytes fetched again after one cut; cuts before the end
        before = Ran(None)
        self._place()
        for moment in self._plan.moments:
            ran = self._run_until(moment)
            cost = max(cost, before.reached + ran.sent - ran.reached if before.events else 0)
            early += ran.code is None
            before = ran
        last = self._finish()
        again = before.reached + last.sent - self._plan.total
        assert again <= self._plan.may_cost, f"{again} bytes fetched again"
        if before.code == 0:
            assert not last.sent, "what was delivered was fetched again"
        rated = {"of_allowance": max(again, 0) / self._plan.may_cost} if self._plan.rate else {}
        return {
            "cuts": len(self._plan.moments) + 1, "early": early, "done": len(self._done),
            "again": max(again, cost), **rated,
        }  # fmt: skip

    def _place(self) -> None:
        for name in self._placed:
            self._order.final(name).parent.mkdir(parents=True, exist_ok=True)
            self._order.final(name).write_bytes(self._order.contents[name][0])

    def _run_until(self, moment: Moment) -> Ran:
        self._order.server.forget()
        with self._child(self._plan.rate) as (child, ran):
            self._wait(moment, child, ran)
            self._stir(moment.flushed)
            seen = replace(ran, code=child.poll(), events=list(ran.events))
            if seen.code == 0:  # its last words may still be on their way here
                until(lambda: bool(ran.events) and ran.events[-1]["event"] == "order_finished")
                seen.events = list(ran.events)
            self._disk.cut()
        assert seen.code in (None, 0), f"it ended with {seen.code}: {self._said()}"
        seen.sent = self._order.server.sent()
        self._look(seen)
        return seen

    def _finish(self) -> Ran:
        """A run that nobody disturbs delivers everything; so does the disk after one more cut."""
        self._order.server.forget()
        with self._child(None) as (child, ran):
            ran.code = child.wait(LATE)
        ran.sent = self._order.server.sent()
        assert ran.code == 0, f"it ended with {ran.code}: {self._said()}"
        for name in self._done:
            assert not self._order.server.sent(f"/{name}"), f"{name} was delivered, and fetched"
        self._order.check_delivered()
        self._disk.cut()
        self._look(ran)
        return ran

    @contextmanager
    def _child(self, rate: int | None) -> Iterator[tuple[subprocess.Popen[str], Ran]]:
        """segdl at work on the order, and what it says as it says it; killed in the end."""
        order, plan = self._order, self._plan
        limit = ["--limit-rate", str(rate)] if rate else []
        ran = Ran(None)
        with (
            (order.folder / "said").open("w") as said,
            running(
                "get", order.manifest(), "-o", order.out, "--progress", "json",
                "-c", str(plan.connections), "--segment-size", str(plan.segment), *limit,
                cwd=order.folder, stderr=said, big=plan.big, many=plan.many,
            ) as child,
        ):  # fmt: skip
            reader = threading.Thread(target=_read, args=(child.process, ran.events))
            reader.start()
            try:
                yield child.process, ran
            finally:
                child.process.kill()
                reader.join()
        check_output(self._said())

    def _wait(self, moment: Moment, child: subprocess.Popen[str], ran: Ran) -> None:
        if moment.bytes is not None:
            reached = _at_least(self._order.server.sent, moment.bytes)
        elif moment.done is not None:
            reached = _at_least(lambda: len(ran.done), moment.done)
        else:
            reached = _never
        until(lambda: child.poll() is not None or (bool(ran.events) and reached()), LATE)
        time.sleep(moment.wait)

    def _stir(self, count: int) -> None:
        """Flush some files, as the kernel may at any time."""
        files = sorted(files_under(self._order.out))
        for path in self._chance.sample(files, min(count, len(files))):
            with suppress(FileNotFoundError):
                file = os.open(path, os.O_RDONLY)
                try:
                    os.fdatasync(file)
                finally:
                    os.close(file)

    def _look(self, ran: Ran) -> None:
        """The power is back: what must be there, and what must not."""
        self._disk.restore()
        self._done |= ran.done
        if ran.code == 0:
            self._done |= set(self._order.contents)
        for name in self._done:
            assert self._order.final(name).is_file(), f"{name} was delivered, and is gone"
        for name in self._placed - self._done:  # what is left of it is in the way
            self._order.final(name).unlink(missing_ok=True)
        self._order.check_finals()

    def _said(self) -> str:
        return (self._order.folder / "said").read_text()


def _read(child: subprocess.Popen[str], events: list[dict[str, Any]]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        with suppress(ValueError):  # torn: it was killed
            events.append(json.loads(line))


def _at_least(count: Callable[[], int], wanted: int) -> Callable[[], bool]:
    return lambda: count() >= wanted


def _never() -> bool:
    return False


def _told(figures: Sequence[Figures]) -> str:
    cuts, early, done = (sum(int(f[key]) for f in figures) for key in ("cuts", "early", "done"))
    again = max(f["again"] for f in figures)
    rated = [f["of_allowance"] for f in figures if "of_allowance" in f]
    share = (
        f"; {len(rated)} at a rate, at most {max(rated):.0%} of what is allowed" if rated else ""
    )
    return (
        f"{cuts} cuts, {early} of them before the end, {done} targets said to be delivered; "
        f"at most {again / MIB:.1f} MiB fetched again{share}"
    )


def _campaign(kind: FileSystem) -> Campaign:
    about = f"power cuts on {kind.name}: what was delivered stays, all else is exact"
    return Campaign(f"power-{kind.name}", about, 500, partial(_round, kind), _told)


ON_EXT4 = _campaign(EXT4)
ON_XFS = _campaign(XFS)
