"""The scenes: what each one serves, who runs in it, and how."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import peers
from measure import Attempt, Place, Run, Until, emptied, failed, killed_at, run, until
from origin import File, Origin, free_port, made, relayed, serving, wrong
from peers import Job, Make, Peer

MIB = 2**20
KIB = 2**10
CONNECTIONS = 8
LINE = 4 * MIB  # bytes a second of one connection in the throttled scenes
TRICKLING = 3  # the serial of the connection that trickles
TRICKLE_TIMEOUT = 45.0  # three times what it takes without
SYNC_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of the real thing: the sizes of the scenes."""

    order: tuple[int, int]  # files, bytes of each
    big: int
    small: tuple[int, int]
    throttled: tuple[int, int, int]  # files, least bytes, most bytes
    many: int


SCALES = {
    "full": Scale(
        (20, 100 * MIB), 1024 * MIB, (10_000, 64 * KIB), (20, 16 * MIB, 25 * MIB), 100_000
    ),
    "small": Scale((20, 10 * MIB), 100 * MIB, (1_000, 64 * KIB), (20, 3 * MIB, 5 * MIB), 10_000),
    "tiny": Scale((4, 2 * MIB), 8 * MIB, (50, 64 * KIB), (8, 256 * KIB, 512 * KIB), 100),
}


@dataclass(frozen=True, slots=True)
class Bench:
    """Where it all happens, and how much of it."""

    scale: Scale
    home: Path  # on tmpfs
    disk: Path
    ca: Path | None
    timeout: float
    tools: frozenset[str]  # none: all


@dataclass(frozen=True, slots=True)
class Entry:
    """A row to be: `attempt` runs it once."""

    tool: str
    command: str
    attempt: Attempt
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A scene that is set up, ready to run."""

    volume: int
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...] = ()
    line: int | None = None


Setting = Callable[[Bench, ExitStack], Plan]
Sizes = Callable[[Bench], list[tuple[str, int]]]  # the files of a scene


@dataclass(frozen=True, slots=True)
class Scene:
    name: str
    title: str
    setting: Setting


@dataclass(frozen=True, slots=True)
class Stage:
    """A scene under way: its files are served, and tools run in its folders."""

    bench: Bench
    root: Path
    out: Path
    files: tuple[File, ...]
    origin: Origin
    timeout: float
    sync: bool = False

    @property
    def volume(self) -> int:
        return sum(file.size for file in self.files)

    def job(self, name: str, *, tls: bool = False, sha256: bool = False) -> Job:
        work = self.root / "work" / name.replace(" ", "_")
        work.mkdir(parents=True, exist_ok=True)
        base = self.origin.secure_url if tls else self.origin.url
        ca = self.bench.ca if tls else None
        return Job(self.files, base, self.out, work, ca, sha256)

    def place(self, job: Job) -> Place:
        trust = {"SSL_CERT_FILE": str(job.ca)} if job.ca else None
        return Place(job.work, self.timeout, self.sync, trust)

    def download(self, command: Sequence[str], job: Job) -> Run:
        """One run into an empty folder, its outcome checked."""
        emptied(self.out)
        found = self.checked(run(command, self.place(job)), job)
        emptied(self.out)
        return found

    def checked(self, found: Run, job: Job) -> Run:
        reason = found.failure or wrong(job.out, job.files)
        return replace(found, failure=reason)

    def entry(self, peer: Peer, job: Job) -> Entry:
        command = peer.make(job)
        return Entry(
            peer.name, peers.shown(command, job), lambda: self.download(command, job), peer.note
        )


@contextmanager
def staged(
    bench: Bench, sizes: Sequence[tuple[str, int]], *, disk: bool = False, timeout: float = 0
) -> Iterator[Stage]:
    """Files made and served; gone after the block."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.home)))
        out = root / "out"
        if disk:
            held = tempfile.TemporaryDirectory(prefix="segdl-bench-", dir=bench.disk)
            out = Path(stack.enter_context(held)) / "out"
        files = made(root / "files", sizes)
        shutil.copytree(root / "files", out)  # nobody shall be the first in memory, or on the disk,
        emptied(out)  # that a virtual machine has to be given first: that costs a second
        (root / "nginx").mkdir()
        for name in ("ca.pem", "chain.pem", "key.pem"):
            if bench.ca:
                (root / "nginx" / name).write_bytes((bench.ca.parent / name).read_bytes())
        origin = stack.enter_context(serving(root / "nginx", root / "files", tls=bool(bench.ca)))
        wait = timeout or (max(bench.timeout, SYNC_TIMEOUT) if disk else bench.timeout)
        yield Stage(bench, root, out, files, origin, wait, disk)


def here(bench: Bench, wanted: Iterable[Peer]) -> tuple[list[Peer], list[str]]:
    """The peers that are installed and asked for; the names of those that are not installed."""
    chosen = [
        peer for peer in wanted if not bench.tools or peer.name.partition(" ")[0] in bench.tools
    ]
    found = [peer for peer in chosen if peers.present(peer.needs)]
    missing = sorted({peer.needs.removeprefix("module:") for peer in chosen if peer not in found})
    return found, [f"{name}: not installed" for name in missing]


def order_sizes(bench: Bench) -> list[tuple[str, int]]:
    count, size = bench.scale.order
    return [(f"archive-{number:02}.7z", size) for number in range(1, count + 1)]


def big_size(bench: Bench) -> list[tuple[str, int]]:
    return [("big.7z", bench.scale.big)]


def small_sizes(bench: Bench) -> list[tuple[str, int]]:
    count, size = bench.scale.small
    return [(f"{number // 1000:03}/{number:05}.bin", size) for number in range(count)]


def throttled_sizes(bench: Bench) -> list[tuple[str, int]]:
    """Odd sizes, the same ones every time, so that the order has a tail."""
    count, least, most = bench.scale.throttled
    step = (most - least) / max(1, count - 1)
    order = [(number * 7) % count for number in range(count)]
    return [
        (f"archive-{number:02}.7z", int(least + step * place) | 1)
        for number, place in enumerate(order, 1)
    ]


def comparison(
    bench: Bench, stage: Stage, wanted: Sequence[Peer], name: str, *, tls: bool = False
) -> Plan:
    found, missing = here(bench, wanted)
    entries = tuple(stage.entry(peer, stage.job(peer.name, tls=tls)) for peer in found)
    said = [peers.LEFT_OUT[name]] if name in peers.LEFT_OUT else []
    return Plan(stage.volume, entries, (*said, *missing))


def compared(name: str, wanted: Sequence[Peer], sizes: Sizes, *, disk: bool = False) -> Setting:
    """A scene in which all the tools do the same."""

    def setting(bench: Bench, stack: ExitStack) -> Plan:
        stage = stack.enter_context(staged(bench, sizes(bench), disk=disk))
        return comparison(bench, stage, wanted, name)

    return setting


def tls(bench: Bench, stack: ExitStack) -> Plan:
    if bench.ca is None:
        return Plan(0, (), ("the scene: neither trustme nor openssl is here",))
    stage = stack.enter_context(staged(bench, order_sizes(bench)))
    return comparison(bench, stage, peers.TLS, "tls", tls=True)


def sha256(bench: Bench, stack: ExitStack) -> Plan:
    stage = stack.enter_context(staged(bench, order_sizes(bench)))
    found, missing = here(bench, [peers.SEGDL, peers.ARIA_ORDER])
    entries = [stage.entry(peer, stage.job(peer.name, sha256=True)) for peer in found]
    bare = replace(peers.SEGDL, name="segdl without digests")
    entries.append(stage.entry(bare, stage.job(bare.name)))
    job = stage.job("hashing")
    names = [str(stage.root / "files" / file.path) for file in stage.files]
    job.listed("LIST", names)
    command = ["sh", "-c", f"xargs -n 1 -P {os.cpu_count()} sha256sum < LIST"]
    place = stage.place(job)
    entries.append(Entry("hashing", command[2], lambda: run(command, place), "a reference"))
    left = "all others: they check no digests of an order"
    return Plan(stage.volume, tuple(entries), (left, *missing))


def throttled(bench: Bench, stack: ExitStack) -> Plan:
    stage = stack.enter_context(staged(bench, throttled_sizes(bench)))
    return _over_line(bench, stage, "throttled", 0)


def trickle(bench: Bench, stack: ExitStack) -> Plan:
    stage = stack.enter_context(
        staged(bench, throttled_sizes(bench), timeout=min(TRICKLE_TIMEOUT, bench.timeout))
    )
    return _over_line(bench, stage, "trickle", TRICKLING)


def _over_line(bench: Bench, stage: Stage, name: str, trickling: int) -> Plan:
    """The relay begins anew for every run, so that connections are counted from one."""
    found, missing = here(bench, peers.THROTTLED)
    entries = []
    for peer in found:
        port = free_port()
        job = replace(stage.job(peer.name), base=f"http://127.0.0.1:{port}")
        command = peer.make(job)

        def attempt(command: list[str] = command, job: Job = job, port: int = port) -> Run:
            with relayed(port, stage.origin, LINE, trickling):
                return stage.download(command, job)

        entries.append(Entry(peer.name, peers.shown(command, job), attempt, peer.note))
    line = CONNECTIONS * LINE
    return Plan(stage.volume, tuple(entries), (peers.LEFT_OUT[name], *missing), line)


def resume(bench: Bench, stack: ExitStack) -> Plan:
    stage = stack.enter_context(staged(bench, order_sizes(bench)))
    found, missing = here(bench, peers.RESUME)
    entries = [_resumed(stage, peer, peer.resume) for peer in found if peer.resume]
    return Plan(stage.volume, tuple(entries), (peers.LEFT_OUT["resume"], *missing))


def _resumed(stage: Stage, peer: Peer, again: Make) -> Entry:
    job = stage.job(peer.name)
    first, second = peer.make(job), again(job)

    def attempt() -> Run:
        emptied(stage.out)
        reason = killed_at(first, stage.place(job), stage.out, stage.volume // 2)
        if reason:
            return failed(reason)
        found = stage.checked(run(second, stage.place(job)), job)
        emptied(stage.out)
        return found

    return Entry(peer.name, peers.shown(second, job), attempt, peer.again)


def many(bench: Bench, stack: ExitStack) -> Plan:
    stage = stack.enter_context(staged(bench, [("one.bin", KIB)]))
    job = stage.job("segdl")
    files = [
        {"path": f"{number // 1000:03}/{number:06}.bin", "url": f"{job.base}/one.bin?n={number}"}
        for number in range(bench.scale.many)
    ]
    sized = [{**file, "size": KIB} for file in files]
    command = [sys.executable, "-m", "segdl", "get", peers.manifest(job, sized), "-o", str(job.out)]
    command += ["--progress", "json"]

    def attempt() -> Run:
        emptied(stage.out)
        return until(command, stage.place(job), Until(b"order_started", 2.0))

    note = "to `order_started`; memory two seconds later"
    return Plan(0, (Entry("segdl", peers.shown(command, job), attempt, note),))


def startup(bench: Bench, stack: ExitStack) -> Plan:
    work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.home)))
    command = [sys.executable, "-m", "segdl", "--version"]
    place = Place(work, bench.timeout)
    return Plan(0, (Entry("segdl", "segdl --version", lambda: run(command, place)),))


SIXTEEN = Peer("segdl", peers.PYTHON, lambda job: peers.segdl(job, "-c", "16"))

SCENES = (
    Scene(
        "order",
        "An order of 20 archives, tmpfs to tmpfs",
        compared("order", peers.ORDER, order_sizes),
    ),
    Scene(
        "order-disk",
        "The order onto a disk, `sync` included",
        compared("order-disk", peers.ORDER, order_sizes, disk=True),
    ),
    Scene("big", "One big file, tmpfs to tmpfs", compared("big", peers.BIG, big_size)),
    Scene(
        "big-disk",
        "One big file onto a disk, `sync` included",
        compared("big-disk", peers.BIG, big_size, disk=True),
    ),
    Scene("tls", "The order over TLS", tls),
    Scene("sha256", "The order with SHA-256 digests", sha256),
    Scene("small", "Small files of 64 KiB", compared("small", peers.SMALL, small_sizes)),
    Scene(
        "small-disk",
        "Small files of 64 KiB onto a disk, `sync` included",
        compared("small", peers.SMALL, small_sizes, disk=True),
    ),
    Scene("throttled", "Eight connections of 4 MiB/s", throttled),
    Scene("trickle", "The same, but one connection trickles", trickle),
    Scene("resume", "The second half of the order, after a kill -9", resume),
    Scene("many", "An order of very many targets: until it starts", many),
    Scene(
        "memory16",
        "The order with 16 connections: memory",
        compared("memory16", [SIXTEEN], order_sizes),
    ),
    Scene("startup", "The start of the program", startup),
)
