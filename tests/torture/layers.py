"""Power cuts under a file system that keeps no more than it must.

What segdl does to its files is recorded, in one run or over several that are killed. A round then
makes up folders as a power cut could have left them at some moment: what was flushed is there; of
what was not, each write is there, lost, torn, zeros or garbage, and each change of a name is done
or not, in the order of that name alone. This is more than any file system does, and more than an
image can show. In each such folder every final name is absent or exact, what was said to be
delivered is there, and a run finishes.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdl.core.journal import read_lines
from tests.commands import check_output, command, environment
from tests.faults import FaultServer, faults
from tests.orders import Case, Proof, made, pieces_of
from tests.torture.campaign import Campaign, Figures, Impossible, Round
from tests.torture.trace import (
    CALLS,
    STRACE,
    Flushed,
    Named,
    Node,
    Operation,
    Recording,
    Resized,
    Said,
    Written,
    put,
    resize,
)

KIB = 1024
STATES = 20  # folders that are made up from one recording
STEPS = ("fsync", "fdatasync", "renameat2", "linkat", "unlinkat", "mkdirat", "pwrite64")


@dataclass
class Order(Case):
    """An order that is delivered into a folder of its own, beside others."""

    place: str = "place"

    @property
    def out(self) -> Path:
        return self.folder / self.place / "out"


# -- the recording ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """How segdl runs while it is recorded."""

    connections: int
    segment: int
    rate: int | None
    kills: tuple[tuple[str, int], ...]  # of runs before the last: at the n-th of a call
    big: bool = False  # whether each target is written as a big one is

    def words(self) -> Iterator[str]:
        yield from ("-c", str(self.connections), "--segment-size", str(self.segment))
        if self.rate:
            yield from ("--limit-rate", str(self.rate))


def _planned(chance: random.Random, order: Order) -> Plan:
    """Put an order on the server, with some answers that end early."""
    segment = chance.choice((64, 64, 128, 256)) * KIB
    large = [chance.randint(2 * segment, 8 * segment)]
    small = [chance.randint(0, 20 * KIB) for _ in range(chance.randint(1, 8))]
    for number, size in enumerate(chance.choice((large, large, small, large + small))):
        _put(chance, order, number, size, segment)
    total = sum(len(data) for (data,) in order.contents.values())
    count = chance.choice((0, 0, 1, 2))
    return Plan(
        connections=chance.randint(1, 4),
        segment=segment,
        rate=max(total // 4, KIB) if chance.random() < 0.1 else None,  # it flushes in between
        kills=tuple((chance.choice(STEPS), chance.randint(1, 12)) for _ in range(count)),
        big=chance.random() < 0.5,
    )


def _put(chance: random.Random, order: Order, number: int, size: int, segment: int) -> None:
    name = f"{chance.choice(('', 'chips/', 'chips/more/'))}{number}.7z"
    data = made(size, number)
    more: dict[str, Any] = {}
    if size > segment and chance.random() < 0.3:
        more["pieces"] = pieces_of(data, segment)
    order.put(data, f"/{name}", name=name, proof=chance.choice(list(Proof)), **more)
    if size and chance.random() < 0.4:
        order.server.script(
            f"/{name}", faults.cut(chance.randint(1, size)), on=chance.randint(1, 3)
        )


def recorded(order: Order, plan: Plan) -> Recording:
    """Runs in one place, all but the last of which are killed: what they did to the files."""
    recording = Recording(order.out.parent)
    words: list[str | Path] = ["get", order.manifest(), "-o", order.out, "--progress", "json"]
    log = order.folder / "log"
    for kill in (*plan.kills, None):
        at = ("-e", f"inject={kill[0]}:signal=SIGKILL:when={kill[1]}") if kill else ()
        program = command(*words, *plan.words(), big=plan.big)
        ended = subprocess.run(
            [*STRACE, "-o", str(log), "-e", f"trace={CALLS}", *at, *program],
            cwd=order.out.parent, env=environment(order.folder), capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        check_output(ended.stderr)
        recording.program(log)
        assert ended.returncode in ((0, -signal.SIGKILL) if kill else (0,)), ended.stderr
    return recording


# -- what a cut may leave --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leaving:
    """How much of what was not flushed is there after all."""

    lines: float  # writes as short as a line of a journal
    bytes: float  # all other writes
    names: float


class Left:
    """The folder as it could be after a cut that came when `operations` had been done."""

    def __init__(
        self, operations: Sequence[Operation], leaving: Leaving, chance: random.Random
    ) -> None:
        self.data: defaultdict[Node, bytearray] = defaultdict(bytearray)
        self.entries: defaultdict[Node, dict[str, Node]] = defaultdict(dict)
        self._lost: set[tuple[Node, str]] = set()  # names of which a change was lost
        self._leaving, self._chance = leaving, chance
        self._flushed: defaultdict[Node | None, int] = defaultdict(int)
        for operation in operations:
            if isinstance(operation, Flushed):
                before = self._flushed[operation.node]
                self._flushed[operation.node] = max(before, operation.before)
        for number, operation in enumerate(operations):
            match operation:
                case Written(node, at, data):
                    self._write(node, at, data, self._is_durable(number, node))
                case Resized(node, size):
                    if self._is_durable(number, node) or self._stays(leaving.bytes):
                        resize(self.data[node], size)
                case Named(changes):
                    folders = (folder for folder, _, _ in changes)
                    self._name(changes, self._is_durable(number, *folders))

    def _is_durable(self, number: int, *nodes: Node) -> bool:
        return any(number < self._flushed[node] for node in (None, *nodes))

    def _stays(self, share: float) -> bool:
        return self._chance.random() < share

    def _write(self, node: Node, at: int, data: bytes, durable: bool) -> None:
        share = self._leaving.lines if len(data) < 4096 else self._leaving.bytes
        if not durable and not self._stays(share):
            if not self._stays(0.5):
                return
            torn = self._chance.randint(0, len(data))
            data = self._chance.choice(
                (data[:torn], bytes(torn), self._chance.randbytes(torn), data[:torn] + bytes(4096))
            )[: len(data)]
        put(self.data[node], at, data)

    def _name(self, changes: Sequence[tuple[Node, str, Node | None]], durable: bool) -> None:
        names = {(folder, name) for folder, name, _ in changes}
        if not durable and (names & self._lost or not self._stays(self._leaving.names)):
            self._lost |= names
            return
        for folder, name, node in changes:
            if node is None:
                self.entries[folder].pop(name, None)
            else:
                self.entries[folder][name] = node

    def build(self, node: Node, path: Path, built: dict[Node, Path]) -> None:
        """Make it all below `path`."""
        for name, inner in self.entries[node].items():
            if inner in built and inner.entries is None:
                (path / name).hardlink_to(built[inner])
            elif inner.entries is None:
                (path / name).write_bytes(self.data[inner])
                built[inner] = path / name
            elif inner not in built:
                (path / name).mkdir()
                built[inner] = path / name
                self.build(inner, path / name, built)


def _moments(recording: Recording, chance: random.Random) -> Iterator[int]:
    """After how many operations a cut comes: at the end, after flushes and promises, anywhere."""
    operations = recording.operations
    marked = [n + 1 for n, o in enumerate(operations) if isinstance(o, Flushed | Said | Named)]
    yield len(operations)
    for _ in range(STATES - 1):
        yield chance.choice(marked) if chance.random() < 0.4 else chance.randint(0, len(operations))


def _age(order: Order) -> None:
    """Let every delivered file's time agree with its receipt, as if it was never lost."""
    with suppress(FileNotFoundError), (order.out / ".segdl" / "receipts.jsonl").open("rb") as file:
        for line in read_lines(file):
            with suppress(FileNotFoundError):
                os.utime(order.final(line["path"]), ns=(line["modified_ns"], line["modified_ns"]))


# -- a round ---------------------------------------------------------------------------------------


def _round(this: Round) -> Figures:
    if shutil.which("strace") is None:
        raise Impossible("strace is missing")
    chance, figures = this.chance, Counter[str]()
    with FaultServer() as server:
        order = Order(server, this.folder)
        plan = _planned(chance, order)
        order.out.parent.mkdir()
        recording = recorded(order, plan)
        figures["kills"] = len(plan.kills)
        figures["flushes"] = sum(isinstance(o, Flushed) for o in recording.operations)
        for number, moment in enumerate(_moments(recording, chance)):
            order.place = f"state-{number}"
            leaving = Leaving(*(chance.choice((0.0, 0.3, 0.8, 1.0, 1.0)) for _ in range(3)))
            try:
                figures += try_state(order, plan, recording, moment, leaving, chance)
            except AssertionError as error:
                error.add_note(f"state {number}, after {moment} operations, {leaving}")
                raise
            shutil.rmtree(order.out.parent)
    return figures


def try_state(
    order: Order,
    plan: Plan,
    recording: Recording,
    moment: int,
    leaving: Leaving,
    chance: random.Random,
) -> Counter[str]:
    """Make up a folder in the order's place, look at it, and let a run finish there."""
    done = recording.operations[:moment]
    order.out.parent.mkdir()
    Left(done, leaving, chance).build(recording.root, order.out.parent, {})
    _age(order)
    promised = {operation.target for operation in done if isinstance(operation, Said)}
    for name in promised:
        assert order.final(name).is_file(), f"{name} was delivered, and is gone"
    order.check_finals()
    run = order.finish(again=True, connections=plan.connections, segment_size=plan.segment)
    for name in promised:
        assert not order.server.sent(f"/{name}"), f"{name} was delivered, and is fetched again"
    return Counter(states=1, promised=len(promised), held=run.held > 0)


def _told(figures: Sequence[Figures]) -> str:
    total: Counter[str] = sum((Counter(f) for f in figures), Counter())
    return (
        f"{total['states']} states of {len(figures)} recordings with {total['flushes']} flushes "
        f"and {total['kills']} kills; {total['held']} with something to go on from; "
        f"{total['promised']} times a target that was said to be delivered"
    )


CAMPAIGN = Campaign(
    "layers", "power cuts that keep no more than was flushed, in any order", 100, _round, _told
)
