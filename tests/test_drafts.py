"""Drafts: small targets, written without a name, flushed together, then named.

What holds in every run is checked by `orders.Case`: final names are absent or exact at every event,
and no thread, descriptor or secret is left over. Here that also holds of `.segdl`: nothing but
segdl's own few files is in it after a run.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import segdl
from segdl.core import events
from segdl.core.digests import digest
from segdl.core.errors import ExitCode
from segdl.core.manifest import Target
from segdl.core.options import MIB
from segdl.core.report import Grade
from segdl.core.settling import STRIKES
from segdl.edges.receipts import Receipts, read_receipts
from segdl.edges.workspace import Workspace
from segdl.engine import delivery
from segdl.engine.delivery import FEW, Delivery
from segdl.engine.errand import Errand, Errands
from segdl.engine.runner import Reply, Runner
from segdl.engine.stakes import MOST_LOST
from segdl.engine.task import DRAFT
from tests.commands import PATIENCE, command, environment, running
from tests.faults import EVERY_PATH, Answer, FaultServer, Seen, Wire, faults
from tests.orders import SOON, Case, Proof, Run, made, pieces_of, until
from tests.runners import always
from tests.test_resume import DATA as LARGE
from tests.test_resume import WAYS, Child, fingerprint
from tests.test_workspace import umask

DONE, DISK, CONTENT = ExitCode.DONE, ExitCode.DISK, ExitCode.CONTENT
SIZES = (0, 1, DRAFT, 1000, DRAFT - 1, 5000, 70_000)
OWN = {
    "work",
    "lock",
    "order.json",
    "receipts.jsonl",
    "control",  # a socket: after a kill
    "timeline.jsonl",
}  # the names in .segdl after a run
PIECES = "pieces"  # a proof beside those of `Proof`
GRADES = {
    Proof.DIGEST: Grade.DIGEST,
    Proof.ETAG: Grade.ETAG,
    Proof.NOTHING: Grade.UNVERIFIED,
    PIECES: Grade.PIECES,
}


@dataclass
class Small(Case):
    """An order of small files; a file that is the same as at the last look is not read again."""

    looked: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def check_finals(self) -> None:
        for name in self.contents:
            with suppress(FileNotFoundError):
                seen = fingerprint(self.final(name))
                if self.looked.get(name) != seen and self.final(name).is_file():
                    data = self.final(name).read_bytes()
                    assert data in self.contents[name], f"{name} is not exact"
                    self.looked[name] = seen

    def run(self, **options: Any) -> Run:
        run = super().run(**{"segment_size": None, **options})
        assert self.strays() == set()
        return run

    def add(self, number: int, size: int, proof: Proof | str = Proof.DIGEST, **entry: Any) -> str:
        """Ask for a small file, somewhere in a tree of folders."""
        path = f"/o/{number}"
        data = made(size, number)
        folders = ("", "a/", "a/b/", "c/d/e/")
        entry = {"name": f"{folders[number % 4]}{number}.bin", **entry}
        if isinstance(proof, Proof):
            return self.put(data, path, proof=proof, **entry)
        return self.put(data, path, pieces=pieces_of(data, DRAFT), **entry)

    def add_several(self, count: int = FEW + 4, size: int = 5000, **entry: Any) -> list[str]:
        return [self.add(number, size + number, **entry) for number in range(count)]

    def path(self, name: str) -> str:
        """Where on the server a target is."""
        return "/o/" + name.rsplit("/", 1)[-1].removesuffix(".bin")

    def data(self, name: str) -> bytes:
        return self.contents[name][0]

    def strays(self) -> set[str]:
        """What is in .segdl and has no business there."""
        return set(os.listdir(self.out / ".segdl")) - OWN

    def receipts(self) -> set[str]:
        """The paths that receipts on the disk are of."""
        folder = os.open(self.out / ".segdl", os.O_RDONLY)
        try:
            return set(read_receipts(folder))
        finally:
            os.close(folder)

    def delivered(self) -> set[str]:
        return {name for name in self.files if os.path.lexists(self.final(name))}

    def check_believed(self) -> None:
        """The next run asks for nothing."""
        self.server.forget()
        run = self.run()
        assert run.report.skipped == set(self.files)
        assert (run.code, run.report.bytes, self.server.requests) == (DONE, 0, [])


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Small:
    return Small(fault_server, tmp_path)


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of targets that were given a work folder."""
    opened: list[str] = []
    real = Workspace.open_work

    def open_work(self: Workspace, path: str) -> int:
        opened.append(path)
        return real(self, path)

    monkeypatch.setattr(Workspace, "open_work", open_work)
    return opened


def wrap(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, before: Callable[..., None]
) -> None:
    """Call `before`, with the arguments, ahead of every call of `owner.name`."""
    real = getattr(owner, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        before(*args, **kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


def fail(code: int) -> None:
    raise OSError(code, os.strerror(code))


# -- an order of many ------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_an_order_of_many(case: Small, works: list[str], mask: int) -> None:
    """Exact, graded, with receipts and modes as for large ones, and no folder of their own."""
    proofs: list[Proof | str] = [*Proof, PIECES]
    chance = random.Random(mask)
    asked: dict[str, Proof | str] = {}
    for number in range(200):
        size = SIZES[number // 4] if number < 4 * len(SIZES) else chance.randrange(4000)
        proof = proofs[(number + number // 4) % 4]
        asked[case.add(number, size, proof)] = proof
    with umask(mask):
        run = case.run()
    run.report.raise_for_failures()
    case.check_delivered()
    assert works == []
    assert {r.path: r.grade for r in run.report.receipts} == {
        name: GRADES[proof] if case.data(name) or proof is not Proof.ETAG else Grade.UNVERIFIED
        for name, proof in asked.items()  # the answer for an empty object has no ETag
    }
    for receipt in run.report.receipts:
        data, found = case.data(receipt.path), case.final(receipt.path).stat()
        assert (receipt.size, receipt.modified_ns) == (len(data), found.st_mtime_ns)
        assert receipt.segments.values == ((digest("xxh3_128", data),) if data else ())
        assert all(digest(name, data) == value for name, value in receipt.digests.items())
        assert found.st_mode & 0o7777 == 0o666 & ~mask
        assert found.st_nlink == 1
    done = [event.target for event in run.of(events.TargetDone)]
    assert sorted(done) == sorted(case.files) == sorted(case.receipts())
    assert case.final("a").stat().st_mode & 0o777 == 0o777 & ~mask
    assert (case.out / ".segdl").stat().st_mode & 0o7777 == 0o700
    for own in (case.out / ".segdl").iterdir():
        assert own.stat().st_mode & 0o077 == 0
    case.check_believed()


def test_what_is_larger_is_no_draft(case: Small, works: list[str]) -> None:
    """By a byte, or by being cut into segments, or by a size that nobody told before."""
    names = [case.add(0, DRAFT), case.add(1, DRAFT + 1), case.add(2, 1000)]
    names.append(case.put(LARGE, "/o/3", name="3.bin", pieces=pieces_of(LARGE)))
    case.server.script(case.path(names[2]), faults.chain(faults.whole_200(), faults.chunked()))
    del case.files[names[2]]["size"]
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert sorted(works) == sorted(names[1:])


# -- one of many -----------------------------------------------------------------------------------


@pytest.mark.parametrize("proof", [Proof.DIGEST, PIECES])
def test_one_has_a_wrong_digest(case: Small, proof: Proof | str) -> None:
    """It alone fails, after it was fetched again; nothing of it is seen under its final name."""
    names = case.add_several(20, proof=proof)
    bad = names[7]
    right = case.data(bad)
    wrong = made(len(right), 99)
    if proof is Proof.DIGEST:
        case.files[bad]["hash"] = {"sha256": digest("sha256", wrong)}
    else:
        case.files[bad]["pieces"] = pieces_of(wrong, DRAFT)
    case.may_hold(bad)
    run = case.run()
    assert (run.code, run.error(bad).cause) == (CONTENT, "digest")
    assert case.delivered() == case.receipts() == set(names) - {bad}
    tries = len([r for r in case.server.requests if r.path == case.path(bad)])
    assert tries == (2 if proof is Proof.DIGEST else STRIKES)
    case.may_hold(bad, right)
    case.files[bad] |= {"hash": {"sha256": digest("sha256", right)}}
    case.files[bad].pop("pieces", None)
    case.finish()


@pytest.mark.parametrize("proof", [Proof.DIGEST, PIECES])
def test_one_has_wrong_bytes_once(case: Small, proof: Proof | str) -> None:
    """It is fetched again, into another draft."""
    names = case.add_several(20, proof=proof)
    case.server.script(case.path(names[7]), faults.flip_bit(77), on=1)
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert len(case.server.requests) == len(names) + 1
    case.check_believed()


def test_one_has_wrong_bytes_once_and_no_size(case: Small) -> None:
    bad = case.add(0, 5000, sized=False)
    case.server.script(case.path(bad), faults.flip_bit(77), on=1)
    case.run().report.raise_for_failures()
    case.check_delivered()


# -- something in the way --------------------------------------------------------------------------


def plant(case: Small, name: str, way: str) -> tuple[int, ...]:
    """Put something in the way of a target; its fingerprint."""
    path, data = case.final(name), case.data(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    case.may_hold(name, data, made(len(data), 99), data + b"!", b"")
    match way:
        case "same":
            put_there(path, data)
        case "other":
            put_there(path, made(len(data), 99))
        case "longer":
            put_there(path, data + b"!")
        case _:
            WAYS[way](path)
    return fingerprint(path)


def put_there(path: Path, data: bytes) -> None:
    """In one step: whoever looks meanwhile sees no half of it."""
    half = path.with_name(f"{path.name}.half")
    half.write_bytes(data)
    half.replace(path)


def take_away(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def plant_late(
    case: Small, monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> tuple[Callable[[segdl.Event], None], list[tuple[int, ...]]]:
    """A listener that plants as the target's segment is done, before any draft is named; what it
    planted, as soon as that is so."""
    planted: list[tuple[int, ...]] = []

    def wait(*_: object) -> None:
        until(lambda: bool(planted))

    def listen(event: segdl.Event) -> None:
        if isinstance(event, events.SegmentDone) and event.target == name and not planted:
            planted.append(plant(case, name, way))

    wrap(monkeypatch, Workspace, "name", wait)
    return listen, planted


@pytest.mark.parametrize(
    ("way", "overwrite", "late"),
    [
        pytest.param(
            way,
            overwrite,
            late,
            id=f"{way}-{'overwrite' if overwrite else 'keep'}-{'late' if late else 'before'}",
        )
        for way in WAYS
        for overwrite in (False, True)
        for late in (False, True)
    ],
)
def test_something_in_the_way_of_one(
    case: Small, monkeypatch: pytest.MonkeyPatch, way: str, overwrite: bool, late: bool
) -> None:
    """As with large ones, whenever it comes to be there; the others do not notice."""
    names = case.add_several(proof=Proof.NOTHING)
    bad = names[3]
    listen = None
    if late:
        listen, planted = plant_late(case, monkeypatch, bad, way)
    else:
        case.out.mkdir()
        planted = [plant(case, bad, way)]
    run = case.run(overwrite=overwrite, listener=listen)
    after = fingerprint(case.final(bad))
    assert case.receipts() >= set(names) - {bad}
    if way == "same" or (overwrite and way != "folder"):
        assert run.code is DONE
        assert case.final(bad).read_bytes() == case.data(bad)
        assert (planted == [after]) is (way == "same")
        case.may_hold(bad, case.data(bad))
        case.check_believed()
        return
    assert (run.code, run.error(bad).cause) == (DISK, "occupied")
    assert planted == [after]
    assert case.receipts() == set(names) - {bad}
    take_away(case.final(bad))
    case.may_hold(bad, case.data(bad))
    case.finish()


def test_what_is_in_the_way_vanishes(case: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the try to name a draft and the look at what stands there."""
    names = case.add_several()
    listen, _ = plant_late(case, monkeypatch, names[3], "other")
    path = case.final(names[3])
    wrap(monkeypatch, Delivery, "_same_content", lambda *_: path.unlink())
    case.run(listener=listen).report.raise_for_failures()
    case.may_hold(names[3], case.data(names[3]))
    case.check_delivered()


def test_what_is_in_the_way_vanishes_and_comes_again(
    case: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --overwrite nothing is ever replaced."""
    names = case.add_several()
    bad = names[3]
    listen, _ = plant_late(case, monkeypatch, bad, "other")
    wrap(monkeypatch, Delivery, "_same_content", lambda *_: case.final(bad).unlink())
    again: list[tuple[int, ...]] = []

    def plant_again(*_: object, **__: object) -> None:
        again.append(plant(case, bad, "longer"))

    wrap(monkeypatch, Workspace, "replace", plant_again)
    run = case.run(listener=listen)
    assert not again or again == [fingerprint(case.final(bad))]
    assert run.code is (DISK if again else DONE)


def test_a_folder_vanishes_after_the_names(case: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies elsewhere is delivered."""
    names = case.add_several(12)
    gone: list[bool] = []

    def remove(*_: object) -> None:
        if not gone and (case.out / "c").exists():
            shutil.rmtree(case.out / "c")
            gone.append(True)

    wrap(monkeypatch, Workspace, "flush_folders", remove)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # one merger, for all of them
    monkeypatch.setattr("segdl.engine.desk._GATHER", 0.5)
    case.run()
    assert gone
    assert case.receipts() >= {name for name in names if not name.startswith("c/")}


# -- killed ----------------------------------------------------------------------------------------

CONNECTIONS = 4


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_random_moments(case: Small, seed: int) -> None:
    """The command, killed again and again: nothing is partial, empty or stray, and a kill costs at
    most 1 MiB a connection."""
    chance = random.Random(seed)
    proofs: list[Proof | str] = [*Proof, PIECES]
    sizes = [chance.choice((0, 1, 3000, 40_000, DRAFT)) for _ in range(160)]
    for number, size in enumerate(sizes):
        case.add(number, size, proofs[number % 4])
    total = sum(sizes)
    if seed == 2:
        case.server.script(EVERY_PATH, faults.pause(0.005))
    kills = 6
    moments = sorted(chance.sample(range(total * 9 // 10), kills))
    for moment, before in zip(moments, [0, *moments], strict=False):
        sent, done = case.server.sent(), kept(case)
        with running(
            *("get", case.manifest(), "-o", case.out, "--connections", str(CONNECTIONS)),
            cwd=case.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as child:  # fmt: skip
            case.server.until(
                lambda enough=sent + moment - before: (  # type: ignore[misc]
                    case.server.sent() >= enough or child.process.poll() is not None
                )
            )
            child.process.send_signal(signal.SIGKILL)
            assert child.process.wait(PATIENCE) in (-signal.SIGKILL, 0)
        case.server.until(lambda: case.server.open == 0)
        case.check_finals()
        assert case.strays() <= {"order.new", "draft.new"}
        lost = case.server.sent() - sent - (kept(case) - done)
        assert lost <= CONNECTIONS * MIB, lost
    case.server.mend()
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert case.server.sent() <= total + kills * CONNECTIONS * MIB
    case.check_believed()


def kept(case: Small) -> int:
    """Bytes that no later run has to ask for: of what has a receipt."""
    with suppress(FileNotFoundError):
        return sum(len(case.data(name)) for name in case.receipts())
    return 0


KILL = """
import os, signal
from segdl.edges.workspace import Workspace
from segdl.edges.receipts import Receipts
import segdl.edges.workspace as workspace
import segdl.engine.desk as desk

os.sched_getaffinity = lambda _: {{0}}  # one merger
desk._GATHER = 0.3  # so that many come together, however slow the machine is

def deadly(owner, name, when, after):
    real, calls = getattr(owner, name), []
    def called(*args, **kwargs):
        calls.append(1)
        if len(calls) == when and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return real(*args, **kwargs)
        finally:
            if len(calls) == when:
                os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, called)

deadly({owner}, {name!r}, {when}, {after})
"""
STEPS = {
    "the trial": ("workspace", "_link", 1),
    "sync": ("Workspace", "sync", 1),
    "the first name": ("Workspace", "name", 1),
    "the third name": ("Workspace", "name", 3),
    "folders": ("Workspace", "flush_folders", 1),
    "receipts": ("Receipts", "append", 1),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(case: Small, step: str, after: bool) -> None:
    """Of the delivery of several: nothing is there that is not exact, and the next run finishes."""
    owner, name, when = STEPS[step]
    names = case.add_several(12, proof=Proof.DIGEST)
    before = KILL.format(owner=owner, name=name, when=when, after=after)
    with Child(case, before, connections=1) as child:
        assert child.wait() == -signal.SIGKILL
    case.check_finals()
    named, receipts = case.delivered(), case.receipts()
    assert receipts <= named
    match step:
        case "the trial":
            assert named == set()
        case "sync":
            assert named == receipts
        case "the third name":
            assert len(named) == 2 + after
        case "receipts" if after:
            assert receipts == named != set()
        case "folders" | "receipts":
            assert receipts != named
    case.server.forget()
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert {request.path for request in case.server.requests} == {
        case.path(name) for name in set(names) - named
    }
    case.check_believed()


def test_killed_while_one_replaces(case: Small) -> None:
    """Its second name goes, even if nothing is to be replaced any more."""
    names = case.add_several(proof=Proof.NOTHING)
    case.out.mkdir()
    plant(case, names[3], "other")
    before = (
        "import os, signal\n"
        "real = os.rename\n"
        "def rename(source, *args, **kwargs):\n"
        "    if source != 'order.new':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(source, *args, **kwargs)\n"
        "os.rename = rename\n"
    )
    with Child(case, before, overwrite=True) as child:
        assert child.wait() == -signal.SIGKILL
    case.check_finals()
    case.final(names[3]).unlink()
    case.may_hold(names[3], case.data(names[3]))
    case.finish(again=True)


def test_what_a_crash_costs_is_bounded(case: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """While flushes hang, workers stop before more drafts wait than a crash may cost."""
    for number in range(60):
        case.add(number, DRAFT - number)
    sent: list[int] = []
    waiting = MOST_LOST - DRAFT  # a connection, beside the one that it fetches

    def hang(*_: object) -> None:
        if not sent:
            until(lambda: case.server.sent() > 2 * waiting)
            while not sent or sent[-1] != case.server.sent():
                sent.append(case.server.sent())
                time.sleep(0.25)

    wrap(monkeypatch, Delivery, "deliver_drafts", hang)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # one merger
    case.run(connections=2).report.raise_for_failures()
    assert sent[-1] <= 2 * (waiting + DRAFT)
    case.check_delivered()


SLOW = """
import resource, time
from segdl.engine.delivery import Delivery
resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
real = Delivery._flush
def flush(self, drafts):
    time.sleep(0.5)
    real(self, drafts)
Delivery._flush = flush
"""


def test_slow_flushes_and_few_descriptors(case: Small) -> None:
    """A disk that is slow to flush is no reason to run out of descriptors."""
    for number in range(400):
        case.add(number, number % 3)
    with Child(case, SLOW, connections=4) as child:
        assert child.wait() == DONE, child.said[:100]
    case.check_delivered()


# -- the order of steps ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A system call, with the places in the log where it begins and ends."""

    text: str
    began: int
    ended: int


def calls_in(log: str) -> list[Call]:
    """strace's lines, with those that were interrupted put together again."""
    calls, begun = [], dict[str, tuple[str, int]]()
    for at, line in enumerate(log.splitlines()):
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[thread] = (text.removesuffix("<unfinished ...>"), at)
        elif (resumed := re.match(r"<\.\.\. \w+ resumed>", text)) and thread in begun:
            first, began = begun.pop(thread)
            calls.append(Call(first.rstrip() + text[resumed.end() :], began, at))
        else:
            calls.append(Call(text, at, at))
    return calls


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not here: no system call to see")
@pytest.mark.parametrize(("count", "errands"), [(3, False), (24, False), (24, True)])
def test_in_this_order(case: Small, count: int, errands: bool) -> None:
    """The bytes are flushed, then linked; the folder is flushed, then the receipt; then it is
    said that the target is done. So it is where another process does the half of it."""
    names = case.add_several(count)
    log = case.folder / "log"
    seen = "trace=pwrite64,fsync,fdatasync,syncfs,linkat,write"
    words = ("get", case.manifest(), "-o", case.out, "--progress", "json", "--connections", "1")
    strace = ("strace", "-f", "-qq", "-y", "-s", "200", "-e", seen, "-o", str(log))
    subprocess.run(
        [*strace, *command(*words, many=errands, gathered=True)],
        env=environment(case.folder), cwd=case.folder, check=True, timeout=60,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    calls = calls_in(log.read_text(errors="replace"))
    for name in names:
        check_steps(calls, case.final(name))
    assert count <= FEW or any(call.text.startswith("syncfs(") for call in calls)
    links = {line.split()[0] for line in log.read_text().splitlines() if " linkat(" in line}
    receipts = {line.split()[0] for line in log.read_text().splitlines() if "receipts" in line}
    assert not errands or not links & receipts, "one process has done it all"


def check_steps(calls: Sequence[Call], final: Path) -> None:
    """The steps of one target, found in the log one after the other."""
    parent, base = re.escape(str(final.parent)), re.escape(final.name)
    draft = rf"/#{final.stat().st_ino}>"  # as the kernel names what has no name
    link = first(calls, rf'linkat\(.*"/proc/self/fd/\d+", \d+<{parent}>, "{base}"', 0)
    wrote = [call for call in calls if re.match(rf"pwrite64\(\d+<[^>]*{draft}", call.text)]
    flush = first(calls, rf"syncfs\(|fsync\(\d+<[^>]*{draft}", wrote[-1].ended)
    assert flush.ended < link.began, "not flushed before it was named"
    folder = first(calls, rf"fsync\(\d+<{parent}>\)", link.ended)
    receipt = first(calls, r"fdatasync\(\d+<.*/receipts\.jsonl>", folder.ended)
    path = str(final).partition("/out/")[2]
    done = first(calls, rf'write\(1<.*target_done.*\\"target\\": ?\\"{re.escape(path)}\\"', 0)
    assert done.began > receipt.ended, "told before it was durable"


def first(calls: Iterable[Call], pattern: str, after: int) -> Call:
    """The first call like that which begins after a place."""
    found = [call for call in calls if call.began > after and re.match(pattern, call.text)]
    assert found, f"no {pattern} after line {after}"
    return min(found, key=lambda call: call.ended)


# -- where there are no drafts ---------------------------------------------------------------------


@pytest.mark.parametrize("lack", ["O_TMPFILE", "linkat", "proc"])
def test_without_drafts(
    case: Small, works: list[str], monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    """The order goes the ordinary way."""
    if lack == "O_TMPFILE":
        flags = os.O_TMPFILE

        def refuse(_: object, wanted: int, *args: object, **kwargs: object) -> None:
            if wanted & flags == flags:
                fail(errno.EOPNOTSUPP)

        wrap(monkeypatch, os, "open", refuse)
    else:
        code = errno.EPERM if lack == "linkat" else errno.ENOENT
        wrap(monkeypatch, os, "link", lambda *_, **__: fail(code))
    names = case.add_several(20)
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert sorted(works) == sorted(names)
    monkeypatch.undo()
    case.check_believed()


def test_without_syncfs(case: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts are flushed one by one."""
    names = case.add_several(20)
    flushed: list[int] = []

    def note(file: int) -> None:
        flushed.append(os.fstat(file).st_ino)

    monkeypatch.setattr(delivery, "sync_tells", lambda: False)
    wrap(monkeypatch, Workspace, "sync", lambda _: pytest.fail("there is none"))
    wrap(monkeypatch, os, "fsync", note)
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert {case.final(name).stat().st_ino for name in names} <= set(flushed)


def test_few_are_flushed_one_by_one(case: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs' files are not waited for, for the sake of a few."""
    case.add_several(FEW)
    wrap(monkeypatch, Workspace, "sync", lambda _: pytest.fail("of a few"))
    case.run().report.raise_for_failures()
    case.check_delivered()


# -- a disk that fails -----------------------------------------------------------------------------


def leads_to(file: int, end: str) -> bool:
    return os.readlink(f"/proc/self/fd/{file}").endswith(end)  # noqa: PTH115  (as it stands)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("at", ["write", "seal", "name"])
def test_the_disk_fails_one(
    case: Small, monkeypatch: pytest.MonkeyPatch, at: str, code: int
) -> None:
    """Of many: it alone is not delivered."""
    names = case.add_several(20, proof=Proof.ETAG)
    bad = names[7]
    with monkeypatch.context() as patched:
        if at == "write":
            data = case.data(bad)[:100]
            wrap(
                patched, os, "pwrite",
                lambda _, block, __: fail(code) if bytes(block[:100]) == data else None,
            )  # fmt: skip
        elif at == "seal":
            size = len(case.data(bad))

            def refuse(file: int, _: int) -> None:
                if os.fstat(file).st_size == size:
                    fail(code)

            wrap(patched, os, "fchmod", refuse)
        else:
            base = bad.rsplit("/", 1)[-1]
            wrap(
                patched, os, "link",
                lambda _, name, **__: fail(code) if name == base else None,
            )  # fmt: skip
        run = case.run()
    assert run.code is DISK
    assert run.error(bad).cause == ("disk_full" if code == errno.ENOSPC else "disk")
    assert case.delivered() == case.receipts() == set(names) - {bad}
    case.finish()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("count", [FEW, 20])
def test_a_flush_fails(case: Small, monkeypatch: pytest.MonkeyPatch, code: int, count: int) -> None:
    """What was to be flushed is not delivered, none of it, and not tried again on those files."""
    case.add_several(count, proof=Proof.ETAG)
    with monkeypatch.context() as patched:
        wrap(patched, Workspace, "sync", lambda _: fail(code))
        wrap(patched, os, "fsync", lambda file: None if is_folder(file) else fail(code))
        run = case.run()
    assert run.code is DISK
    assert len(run.report.failures) == count
    assert case.delivered() == case.receipts() == set()
    case.finish()


def is_folder(file: int) -> bool:
    return stat.S_ISDIR(os.fstat(file).st_mode)


@pytest.mark.parametrize("proof", [Proof.DIGEST, Proof.NOTHING])
@pytest.mark.parametrize("at", ["folders", "receipts", "torn receipts"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_the_disk_fails_after_the_names(
    case: Small, monkeypatch: pytest.MonkeyPatch, at: str, code: int, proof: Proof
) -> None:
    """Nothing is told to be delivered; the next run finds the same content there."""
    names = case.add_several(20, proof=proof)
    real = os.write

    def write(file: int, data: bytes) -> int:
        if not leads_to(file, "/receipts.jsonl"):
            return real(file, data)
        if at == "torn receipts" and not data.startswith(b"\n"):
            return real(file, data[: len(data) * 2 // 3])
        fail(code)
        return 0

    with monkeypatch.context() as patched:
        if at == "folders":
            wrap(patched, Workspace, "flush_folders", lambda *_: fail(code))
        else:
            patched.setattr(os, "write", write)
        run = case.run()
    assert run.code is DISK
    assert run.of(events.TargetDone) == []
    assert case.delivered() == set(names)
    assert at == "torn receipts" or case.receipts() == set()
    inodes = {name: case.final(name).stat().st_ino for name in names}
    case.finish(again=True)
    assert {name: case.final(name).stat().st_ino for name in names} == inodes
    assert proof is Proof.NOTHING or case.server.sent() == 0
    case.check_believed()


def test_a_failed_flush_fails_all_that_were_waiting(tmp_path: Path) -> None:
    """syncfs(2) tells an error once for an open descriptor (errseq): of two threads that flush
    through the same one, only the first would hear that the bytes of both are gone."""
    told: set[int] = set()
    lost = [False]

    def syncfs(file: int) -> int:
        if lost[0] and file not in told:
            told.add(file)
            return -1
        return 0

    class Libc:
        def __init__(self) -> None:
            self.syncfs = syncfs

    heard: list[str] = []
    with closing(Workspace(tmp_path)) as workspace, pytest.MonkeyPatch.context() as patched:
        receipts = Receipts(workspace.hidden)
        shared = Delivery(workspace, receipts, overwrite=False)
        patched.setattr("segdl.edges.workspace._libc", Libc)
        patched.setattr(os, "fsync", lambda _: fail(errno.EIO))
        ready = threading.Barrier(2)

        def flush() -> None:
            ready.wait()
            lost[0] = True  # both have written, and the disk takes neither
            try:
                shared._flush([0] * (FEW + 1))
            except OSError:
                heard.append("lost")
            else:
                heard.append("durable")

        threads = [threading.Thread(target=flush) for _ in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        receipts.close()
    assert heard == ["lost", "lost"]


# -- steered ---------------------------------------------------------------------------------------


def test_paused_and_resumed(case: Small) -> None:
    case.add_several(60)
    control, gate = segdl.Control(), threading.Event()
    paused: list[int] = []

    def steer(event: segdl.Event) -> None:
        if isinstance(event, events.TargetDone) and not paused:
            control.pause()
            gate.set()
            paused.append(0)
        elif isinstance(event, events.Progress) and paused:
            paused[0] += 1
            if paused[0] == 3:
                control.resume()

    case.server.script(EVERY_PATH, faults.pause(0.02))
    case.server.script(EVERY_PATH, faults.held(gate), on=range(40, 50))  # not all before the pause
    run = case.run(control=control, listener=steer)
    assert run.code is DONE
    assert paused[0] >= 3
    case.check_delivered()
    case.check_believed()


def test_cancelled_in_the_middle(case: Small) -> None:
    """What was told to be delivered is, and the next run fetches the rest."""
    names = case.add_several(60)
    control = segdl.Control()

    def stop(event: segdl.Event) -> None:
        if isinstance(event, events.TargetDone):
            control.cancel()

    case.server.script(EVERY_PATH, faults.pause(0.02))
    case.server.script(EVERY_PATH, faults.blackhole(), on=range(40, 1000))  # never all
    run = case.run(control=control, listener=stop)
    assert run.code is ExitCode.INTERRUPTED
    done = {event.target for event in run.of(events.TargetDone)}
    assert done == case.receipts() == case.delivered()
    assert 0 < len(done) < len(names)
    case.finish()


def test_cancelled_while_drafts_are_gathered(case: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are taken up are delivered, or not: never a part of one."""
    case.add_several(20)
    control = segdl.Control()
    wrap(monkeypatch, Delivery, "deliver_drafts", lambda *_: control.cancel())
    run = case.run(control=control)
    assert case.receipts() == case.delivered()
    assert run.code is (DONE if len(case.delivered()) == 20 else ExitCode.INTERRUPTED)
    case.finish()


@pytest.mark.parametrize("size", [0, 1, DRAFT])
@pytest.mark.parametrize("at_once", [False, True], ids=["later", "at once"])
def test_mended_and_tried_again(
    case: Small, monkeypatch: pytest.MonkeyPatch, size: int, at_once: bool
) -> None:
    """Within one run: its draft is gone, which is found out, and it is fetched again."""
    gate, control = threading.Event(), segdl.Control()
    bad, last = case.add(0, size, Proof.NOTHING), case.add(1, 2000)
    case.server.script(case.path(last), faults.held(gate))
    planted: list[tuple[int, ...]] = []

    def plant_once(*_: object) -> None:
        if not planted:
            planted.append(plant(case, bad, "longer"))

    wrap(monkeypatch, Workspace, "name", plant_once)
    waiting: list[float] = []

    def steer(event: segdl.Event) -> None:
        if isinstance(event, events.TargetFailed):
            case.final(bad).unlink()
            case.may_hold(bad, case.data(bad))
            waiting.append(time.monotonic())
        if isinstance(event, events.TargetDone) and event.target == bad:
            gate.set()
        if waiting and (at_once or time.monotonic() - waiting[0] > 0.3):
            waiting.clear()
            control.retry()

    run = case.run(control=control, listener=steer)
    run.report.raise_for_failures()
    assert run.of(events.TargetFailed)
    case.check_delivered()
    requests = [r for r in case.server.requests if r.path == case.path(bad)]
    assert len(requests) == (2 if size and not at_once else len(requests))
    case.check_believed()


def test_failed_half_way_and_tried_again(case: Small) -> None:
    """The half that was there went with its draft: all of it is fetched again."""
    gate, control = threading.Event(), segdl.Control()
    bad, last = case.add(0, 100_000), case.add(1, 2000)
    case.server.script(case.path(last), faults.held(gate))
    case.server.script(case.path(bad), faults.status(404))
    case.server.script(case.path(bad), faults.cut(40_000), on=1)
    failed: list[float] = []

    def steer(event: segdl.Event) -> None:
        if isinstance(event, events.TargetFailed):
            failed.append(time.monotonic())
            case.server.script(case.path(bad), faults.honest())
        if isinstance(event, events.TargetDone) and event.target == bad:
            gate.set()
        if len(failed) == 1 and time.monotonic() - failed[0] > 0.3:
            failed.append(0.0)
            control.retry()

    case.run(control=control, listener=steer).report.raise_for_failures()
    assert failed
    case.check_delivered()
    assert case.server.requests[-1].range is not None
    assert case.server.sent(case.path(bad)) == 140_000


# -- servers ---------------------------------------------------------------------------------------


def test_a_server_that_ignores_ranges(case: Small, works: list[str]) -> None:
    names = [case.add(number, size) for number, size in enumerate((*SIZES, *SIZES))]
    case.server.script(EVERY_PATH, faults.whole_200())
    case.server.script(
        case.path(names[2]), faults.chain(faults.whole_200(), faults.cut(1000)), on=1
    )
    run = case.run()
    run.report.raise_for_failures()
    case.check_delivered()
    assert works == []
    assert not [r.path for r in run.report.receipts if r.resumable and r.size]
    case.check_believed()


@pytest.mark.parametrize("sized", [False, True], ids=["unsized", "sized"])
def test_chunked_answers(case: Small, works: list[str], sized: bool) -> None:
    """Of a size that only the end tells: there a folder is needed, and goes again."""
    names = [case.add(number, size, sized=sized) for number, size in enumerate(SIZES)]
    case.server.script(EVERY_PATH, faults.chain(faults.whole_200(), faults.chunked()))
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert set(works) == (set() if sized else {n for n in names if case.data(n)})
    case.check_believed()


def test_a_stream_that_breaks_goes_on(case: Small) -> None:
    """At the byte that was reached, in the same draft."""
    names = case.add_several(12, 50_000)
    for name in names[::2]:
        case.server.script(case.path(name), faults.cut(20_000), on=1)
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert case.server.sent() == sum(len(case.data(name)) for name in names)


@pytest.mark.parametrize("size", [100, 50_000, DRAFT + 1])
def test_replaced_between_two_tries(case: Small, size: int) -> None:
    """Of the old object nothing is kept, whether the new one is a draft or not."""
    names = case.add_several(6, 50_000, proof=Proof.ETAG)
    other, bad = made(size, 99), names[3]
    case.may_hold(bad, other)
    del case.files[bad]["size"]

    def swap(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        case.server.put(case.path(bad), other)
        return faults.cut(20_000)(wire, request, answer)

    case.server.script(case.path(bad), swap, on=1)
    case.run().report.raise_for_failures()
    case.check_delivered()
    case.check_believed()


def test_redirected(case: Small, works: list[str]) -> None:
    names = case.add_several(12)
    for number, name in enumerate(names):
        case.server.put(f"/elsewhere/{number}", case.data(name))
        case.server.script(
            case.path(name), faults.redirect(case.server.url(f"/elsewhere/{number}"))
        )
    case.run().report.raise_for_failures()
    case.check_delivered()
    assert works == []
    case.check_believed()


# -- on errands ------------------------------------------------------------------------------------


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every order has runners, ready before the first target; how many each errand delivers."""
    delivered: list[int] = []
    run = Runner.run
    always(monkeypatch.setattr)

    def ran(self: Runner, targets: Sequence[Target], wanted: Callable[[], bool]) -> Reply:
        reply = run(self, targets, wanted)
        delivered.append(len(reply.done))
        return reply

    monkeypatch.setattr(Runner, "run", ran)
    return delivered


def test_what_a_crash_costs_is_bounded_with_errands(
    case: Small, runners: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While flushes are slow, an errand has no more bytes than the drafts that wait leave."""
    for number in range(150):  # a slice is no errand
        odd = number > 60 and number % 28 < 12
        more: dict[str, Any] = {"slice": {"offset": "0", "size": "50000"}} if odd else {}
        case.add(number, 50_000, **more)
    stakes: list[tuple[int, int]] = []
    gather = Errands.gather

    def watched(self: Errands, *given: Any) -> Errand:
        waiting = self._stakes.bytes
        sent = gather(self, *given)
        stakes.append((waiting, sum(target.size or 0 for target in sent.targets)))
        return sent

    monkeypatch.setattr(Errands, "gather", watched)
    wrap(monkeypatch, Delivery, "deliver_drafts", lambda *_: time.sleep(0.3))
    case.run(connections=1).report.raise_for_failures()
    case.check_delivered()
    assert any(waiting for waiting, _ in stakes) and sum(runners) > 50
    assert max(map(sum, stakes)) <= MOST_LOST


@pytest.mark.parametrize("blocked", [False, True])
def test_cancelled_while_a_server_is_silent(
    case: Small, runners: list[int], blocked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is complete is delivered, with no runner killed: also where whoever calls blocks the
    signal."""
    monkeypatch.setattr("segdl.engine.runner._GRACE", 1000.0)
    names = case.add_several(60)
    control = segdl.Control()

    def silent(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        control.cancel()
        return faults.blackhole(100)(wire, request, answer)

    case.server.script(case.path(names[40]), silent)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if blocked else ())
    try:
        run = case.run(control=control, connections=1, timeout=60.0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert run.code is ExitCode.INTERRUPTED
    assert case.receipts() == case.delivered() == set(names[:40])
    assert runners[-1] == 9
    case.finish()


def test_an_answer_that_is_shorter_than_asked_for(case: Small, runners: list[int]) -> None:
    names = case.add_several(60)
    case.server.script(case.path(names[40]), faults.short_206(1000), on=1)
    run = case.run(connections=1, timeout=60.0)
    run.report.raise_for_failures()
    assert 0 < sum(runners) < 60
    case.check_delivered()


def test_one_connection_with_a_runner(case: Small, runners: list[int]) -> None:
    """It is the worker's or the runner's, whatever the next target is."""
    opened: list[int] = []

    def count(wire: Wire, request: Seen, answer: Answer) -> Answer:
        with suppress(TimeoutError):  # the server hears of a connection's end a moment later
            case.server.until(lambda: case.server.open == 1, SOON)
        opened.append(case.server.open)
        return answer

    for number in range(60):
        case.add(number, 5000, PIECES if number % 7 == 6 else Proof.DIGEST)
        if number % 7 in (0, 6):
            case.server.script(f"/o/{number}", count)
    case.server.script("/o/40", faults.cut(100), on=1)
    case.run(connections=1).report.raise_for_failures()
    case.check_delivered()
    assert sum(runners) > 30
    assert set(opened) == {1}


@pytest.mark.parametrize("lack", ["descriptor", "folder", "colon", "text"])
def test_no_runner_can_be_started(
    case: Small, runners: list[int], monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    """Then the order goes on without; a place that imports pass over is no reason."""

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    case.add_several(60)
    more: dict[str, Any] = {"folder": "", "colon": "/x:/y", "text": Path("/x")}
    if lack == "descriptor":
        monkeypatch.setattr("multiprocessing.connection.Pipe", fail)
    else:
        monkeypatch.setattr(sys, "path", [*sys.path, more[lack]])
    if lack == "folder":
        monkeypatch.setattr(Path, "cwd", fail)
    case.run(connections=2).report.raise_for_failures()
    case.check_delivered()
    assert bool(sum(runners)) is (lack == "text")


def test_a_folder_is_moved_during_an_errand(case: Small, runners: list[int]) -> None:
    """Nothing gets a name outside of the output directory, whatever was open."""
    names = [case.add(number, 5000, name=f"a/{number}.bin") for number in range(60)]
    elsewhere = case.folder / "elsewhere"
    moved: list[set[str]] = []

    def put_back(event: segdl.Event) -> None:
        if isinstance(event, events.OrderFinished):
            moved.append(set(os.listdir(elsewhere)))
            for name in moved[1]:
                (elsewhere / name).rename(case.out / "a" / name)

    def move(wire: Wire, request: Seen, answer: Answer) -> Answer:
        (case.out / "a").rename(elsewhere)
        moved.append(set(os.listdir(elsewhere)))
        return answer

    case.server.script(case.path(names[40]), move, on=1)
    case.run(connections=1, listener=put_back).report.raise_for_failures()
    assert runners[5] == 16, "it was no errand"
    assert moved[0] == moved[1], "something was named elsewhere"


ORPHAN = """
import os, sys, time
from pathlib import Path
from segdl.edges.transport import Reach
from segdl.edges.workspace import Workspace
from segdl.engine.runner import Runner
runner = Runner(0, Workspace(Path(sys.argv[1])), None, Reach(timeout=5.0))
runner.start()
runner._channel.poll(40.0)
if copy := os.fork():
    print(runner._process.pid, copy, flush=True)
    os.kill(os.getpid(), 9)
time.sleep(60)
"""


def test_a_fork_does_not_keep_a_runner(tmp_path: Path) -> None:
    """It ends with the process that it runs for, also while a copy of that has its channel."""
    words = [sys.executable, "-c", ORPHAN, str(tmp_path)]
    with subprocess.Popen(words, env=environment(tmp_path), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        runner, copy = map(int, child.stdout.readline().split())
        try:
            until(lambda: not Path(f"/proc/{runner}/cmdline").read_bytes())
        except FileNotFoundError:
            pass
        finally:
            os.kill(copy, signal.SIGKILL)


def test_a_runner_leaves_a_server_that_ignores_ranges(case: Small, runners: list[int]) -> None:
    case.add_several(60)
    case.server.script(EVERY_PATH, faults.whole_200())
    run = case.run(connections=1)
    run.report.raise_for_failures()
    case.check_delivered()
    assert len(runners) > 1 and sum(runners) == 0
    assert not any(receipt.resumable for receipt in run.report.receipts)


def test_what_is_here_is_not_asked_for_by_a_runner(case: Small, runners: list[int]) -> None:
    names = case.add_several(60)
    for name in names[30::2]:
        case.final(name).parent.mkdir(parents=True, exist_ok=True)
        case.final(name).write_bytes(case.data(name))
    case.run(connections=1).report.raise_for_failures()
    case.check_delivered()
    assert sum(runners) >= 30
    asked = {seen.path for seen in case.server.requests}
    assert asked == {case.path(name) for name in (*names[:30], *names[31::2])}


def test_errands_go_on_after_a_pause(case: Small, runners: list[int]) -> None:
    case.add_several(90)
    control = segdl.Control()

    def pause(wire: Wire, request: Seen, answer: Answer) -> Answer:
        control.pause()
        until(lambda: len(runners) > before)
        threading.Timer(0.1, control.resume).start()
        return answer

    before = 5  # errands, of 1, 2, 4, 8, 16 targets; this is in the next one
    case.server.script("/o/40", pause, on=1)
    case.run(connections=1, control=control).report.raise_for_failures()
    case.check_delivered()
    assert sum(runners[:before]) == 31
    assert runners[before] < 16 and sum(runners[before + 1 :]) > 30


def test_a_runner_does_not_wait_for_a_silent_server(case: Small, runners: list[int]) -> None:
    case.add_several(60)
    case.server.script("/o/40", faults.blackhole(100), on=1)
    case.run(connections=1, timeout=1.0, retries=8).report.raise_for_failures()
    case.check_delivered()
    assert sum(runners) > 31


def test_a_runner_has_the_segment_size_that_is_asked_for(case: Small, runners: list[int]) -> None:
    case.add_several(60)
    run = case.run(connections=1, segment_size=MIB)
    assert sum(runners) == 60
    assert {receipt.segments.size for receipt in run.report.receipts} == {MIB}
