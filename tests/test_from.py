"""`get --from DIR`: what came by another way is taken where it is proved, the rest is fetched."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdl import Control
from segdl.core import events
from segdl.core.errors import ExitCode
from segdl.core.manifest import Target
from segdl.core.manifest.model import Pieces
from segdl.core.report import Grade
from segdl.core.salvage import Candidate, Offers, Use
from segdl.core.urls import parse_url
from segdl.engine.audit import status
from segdl.engine.task import Task
from tests.commands import ROOT, Ended, running, segdl
from tests.faults import EVERY_PATH, FaultServer, faults
from tests.orders import NAME, PATH, SEGMENT, SIZE, Case, Proof, files_under, made, pieces_of, until

DATA = made(SIZE)
OTHER = made(SIZE, 9)


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    """A USB disk, as it were."""
    folder = tmp_path / "stick"
    folder.mkdir()
    return folder


def bring(case: Case, *folders: Path, segment_size: int | None = SEGMENT, **options: Any) -> Any:
    """A run with `--from`; what is in the folders stays as it was."""
    before = {file: file.read_bytes() for folder in folders for file in files_under(folder)}
    sources = tuple(map(str, folders))
    run = case.run(sources=sources, segment_size=segment_size, **options)
    after = {file: file.read_bytes() for folder in folders for file in files_under(folder)}
    assert after == before
    return run


def delivered(run: Any, *, taken: int) -> None:
    """All is there, and so many bytes of it came from the folders."""
    run.report.raise_for_failures()
    assert run.report.taken.bytes == taken
    assert run.report.taken.files == bool(taken)


# -- which files ---------------------------------------------------------------------------------

URL = parse_url("http://127.0.0.1/a")
PLAIN = Target(path="x/a.7z", urls=(URL,), size=10)
HASHED = replace(PLAIN, digests=(("md5", "0" * 32),))
PIECED = replace(PLAIN, pieces=Pieces(4, "md5", ("0" * 32,) * 3))

USES: dict[str, tuple[Target, str, int, Use | None]] = {
    "its size": (HASHED, "b.7z", 10, Use.WHOLE),
    "its name and another size": (HASHED, "a.7z", 11, None),
    "its name, cut": (HASHED, "y/a.7z", 9, Use.PREFIX),
    "another name, cut": (HASHED, "b.7z", 9, None),
    "its name, of unknown size": (replace(HASHED, size=None), "a.7z", 9, Use.WHOLE),
    "nothing, of unknown size": (replace(HASHED, size=None), "b.7z", 9, None),
    "its name, in pieces": (PIECED, "a.7z", 99, Use.PIECES),
    "its size, in pieces": (PIECED, "b.7z", 10, Use.PIECES),
    "pieces of unknown size": (replace(PIECED, size=None), "a.7z", 10, None),
    "no digest": (PLAIN, "x/a.7z", 10, None),
}


@pytest.mark.parametrize(("target", "path", "size", "use"), USES.values(), ids=list(USES))
def test_what_a_file_may_be_of_use_for(
    target: Target, path: str, size: int, use: Use | None
) -> None:
    offers = Offers([Candidate(0, path, size)], [target])
    found = offers.of(target)
    assert [how for _, how in found] == ([] if use is None else [use])


def test_the_likeliest_file_goes_first() -> None:
    paths = ["b.7z", "y/a.7z", "x/a.7z"]
    offers = Offers((Candidate(0, path, 10) for path in paths), [HASHED])
    assert [candidate.path for candidate, _ in offers.of(HASHED)] == ["x/a.7z", "y/a.7z", "b.7z"]


def test_what_nothing_proves_is_told() -> None:
    offers = Offers([Candidate(0, "a.7z", 10)], [PLAIN])
    assert (offers.unproved(PLAIN), offers.unproved(HASHED)) == (True, False)


# -- whole files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, "deep/er/a.7z", "renamed.bin"])
def test_a_whole_file_is_taken_and_nothing_is_asked(case: Case, stick: Path, name: str) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    (stick / name).parent.mkdir(parents=True, exist_ok=True)
    (stick / name).write_bytes(DATA)
    run = bring(case, stick)
    delivered(run, taken=SIZE)
    case.check_delivered()
    assert case.server.requests == []
    (done,) = run.of(events.TargetDone)
    assert (done.fetched, done.grade) == (False, Grade.DIGEST)
    assert run.report.skipped == frozenset()


def test_a_small_file_and_an_empty_one(case: Case, stick: Path) -> None:
    for name, data in (("small", b"small"), ("empty", b"")):
        case.put(data, f"/{name}", proof=Proof.DIGEST)
        (stick / name).write_bytes(data)
    run = bring(case, stick)
    run.report.raise_for_failures()
    case.check_delivered()
    assert case.server.requests == []


def test_a_file_of_unknown_size(case: Case, stick: Path) -> None:
    case.put(DATA, proof=Proof.DIGEST, sized=False)
    (stick / NAME).write_bytes(DATA)
    delivered(bring(case, stick), taken=SIZE)
    assert case.server.requests == []


def test_nothing_is_asked_where_no_server_is(case: Case, stick: Path) -> None:
    """What is here is delivered, though its host is down and its neighbours wait for it."""
    for number in range(6):
        case.put(made(SIZE, number), f"/{number}", proof=Proof.DIGEST)
    for number in range(1, 6):
        (stick / f"{number}").write_bytes(made(SIZE, number))
    case.server.script(EVERY_PATH, faults.status(503))
    run = bring(case, stick, patience=0.3, connections=1)
    assert len(run.report.receipts) == 5
    assert [failure.path for failure in run.report.failures] == ["0"]


def test_a_long_order_that_is_all_here(case: Case, stick: Path) -> None:
    for number in range(40):
        case.put(made(SIZE, number), f"/{number}", proof=Proof.DIGEST)
        (stick / f"{number}").write_bytes(made(SIZE, number))
    run = bring(case, stick)
    assert (len(run.report.receipts), run.report.taken.files) == (40, 40)
    assert case.server.requests == []


def test_links_that_have_ended_do_not_matter(case: Case, stick: Path) -> None:
    query = "X-Amz-Date=20200101T000000Z&X-Amz-Expires=60&X-Amz-Signature=0"
    case.put(DATA, proof=Proof.DIGEST, query=query)
    (stick / NAME).write_bytes(DATA)
    delivered(bring(case, stick), taken=SIZE)


# -- files that are not right --------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, "other"])
def test_a_wrong_file_of_the_right_size(case: Case, stick: Path, name: str) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    (stick / name).write_bytes(OTHER)
    delivered(bring(case, stick), taken=0)
    case.check_delivered()
    assert case.server.sent() == SIZE


def test_a_file_that_was_cut(case: Case, stick: Path) -> None:
    """Its whole segments are taken, and the rest is fetched."""
    case.put(DATA, proof=Proof.DIGEST)
    (stick / NAME).write_bytes(DATA[: 2 * SEGMENT + 100])
    delivered(bring(case, stick), taken=2 * SEGMENT)
    case.check_delivered()
    assert case.server.sent() == SIZE - 2 * SEGMENT


def test_a_cut_file_of_other_content_costs_no_byte_twice(case: Case, stick: Path) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    (stick / NAME).write_bytes(OTHER[: 2 * SEGMENT + 100])
    delivered(bring(case, stick), taken=2 * SEGMENT)
    case.check_delivered()
    assert case.server.sent() == SIZE


def test_a_damaged_file_with_pieces(case: Case, stick: Path) -> None:
    """Only the damaged segment is fetched."""
    case.put(DATA, pieces=pieces_of(DATA))
    damaged = bytearray(DATA)
    damaged[SEGMENT + 5] ^= 1
    (stick / NAME).write_bytes(damaged)
    delivered(bring(case, stick, segment_size=None), taken=SIZE - SEGMENT)
    case.check_delivered()
    assert case.server.sent() == SEGMENT


def test_two_damaged_files_make_a_good_one(case: Case, stick: Path) -> None:
    case.put(DATA, pieces=pieces_of(DATA))
    for name, at in ((NAME, 0), ("copy", 3 * SEGMENT)):
        damaged = bytearray(DATA)
        damaged[at] ^= 1
        (stick / name).write_bytes(damaged)
    delivered(bring(case, stick, segment_size=None), taken=SIZE)
    assert case.server.requests == []


def test_without_a_digest_nothing_is_taken_and_that_is_said(case: Case, stick: Path) -> None:
    case.put(DATA)
    (stick / NAME).write_bytes(DATA)
    run = bring(case, stick)
    delivered(run, taken=0)
    assert run.report.taken.unproved == 1
    assert case.server.sent() == SIZE


def test_what_is_no_plain_file_is_passed_over(case: Case, stick: Path) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    real = stick.parent / "real"
    real.write_bytes(DATA)
    (stick / NAME).symlink_to(real)
    (stick / "folder").symlink_to(stick.parent)
    os.mkfifo(stick / "fifo")
    (stick / "loop").symlink_to("loop")
    delivered(bring(case, stick), taken=0)
    case.check_delivered()


def test_a_file_that_changes_while_it_is_taken(
    case: Case, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing wrong is delivered, and what is fetched is fetched once."""
    case.put(DATA, proof=Proof.DIGEST)
    (stick / NAME).write_bytes(DATA)
    bring_one: Callable[..., bool] = Task.bring

    def replaced(task: Task, source: Any, number: int) -> bool:
        (stick / NAME).write_bytes(OTHER)
        return bring_one(task, source, number)

    monkeypatch.setattr(Task, "bring", replaced)
    run = case.run(sources=(str(stick),), segment_size=SEGMENT)
    run.report.raise_for_failures()
    case.check_delivered()
    assert case.server.sent() == SIZE


# -- what another segdl has ----------------------------------------------------------------------


def test_an_order_begun_elsewhere_goes_on_here(case: Case, tmp_path: Path) -> None:
    """Without any digest: its ETag is the proof, and every segment has a digest of its own."""
    case.put(DATA)
    case.server.script(PATH, faults.hang_up(), on=range(4, 1000))
    case.run(retries=0, segment_size=SEGMENT, connections=1)
    elsewhere = tmp_path / "elsewhere"
    case.out.rename(elsewhere)
    case.server.mend()
    case.server.forget()
    run = bring(case, elsewhere)
    run.report.raise_for_failures()
    case.check_delivered()
    taken = run.report.taken.bytes
    assert taken >= 2 * SEGMENT
    assert case.server.sent() == SIZE - taken


def test_what_has_no_strong_etag_is_not_taken(case: Case, tmp_path: Path) -> None:
    case.put(DATA, proof=Proof.NOTHING)
    case.run(segment_size=SEGMENT).report.raise_for_failures()
    elsewhere = tmp_path / "elsewhere"
    case.out.rename(elsewhere)
    delivered(bring(case, elsewhere), taken=0)


@pytest.mark.parametrize("proof", [Proof.ETAG, Proof.DIGEST])
def test_an_order_delivered_elsewhere(case: Case, tmp_path: Path, proof: Proof) -> None:
    """Without a digest one segment is fetched, with the ETag: the object may be another by now."""
    case.put(DATA, proof=proof)
    case.run(segment_size=SEGMENT).report.raise_for_failures()
    elsewhere = tmp_path / "elsewhere"
    case.out.rename(elsewhere)
    case.server.forget()
    left = 0 if proof is Proof.DIGEST else SIZE % SEGMENT
    run = bring(case, elsewhere)
    delivered(run, taken=SIZE - left)
    assert run.report.taken.unproved == 0  # its receipt proves it
    case.check_delivered()
    assert case.server.sent() == left


def test_an_order_delivered_elsewhere_whose_object_was_replaced(case: Case, tmp_path: Path) -> None:
    case.put(DATA)
    case.run(segment_size=SEGMENT).report.raise_for_failures()
    elsewhere = tmp_path / "elsewhere"
    case.out.rename(elsewhere)
    case.put(OTHER)
    bring(case, elsewhere).report.raise_for_failures()
    assert case.final().read_bytes() == OTHER


def test_a_segment_that_rotted_elsewhere_is_fetched(case: Case, tmp_path: Path) -> None:
    case.put(DATA)
    case.run(segment_size=SEGMENT).report.raise_for_failures()
    elsewhere = tmp_path / "elsewhere"
    case.out.rename(elsewhere)
    with (elsewhere / NAME).open("r+b") as file:
        file.seek(SEGMENT)
        file.write(b"rot")
    case.server.forget()
    delivered(bring(case, elsewhere), taken=3 * SEGMENT)
    case.check_delivered()
    assert case.server.sent() == SIZE - 3 * SEGMENT


def test_the_output_directory_itself_as_a_source(case: Case) -> None:
    """A file that was renamed there is found again."""
    case.put(DATA, proof=Proof.DIGEST)
    case.out.mkdir()
    (case.out / "old-name.7z").write_bytes(DATA)
    delivered(case.run(sources=(str(case.out),)), taken=SIZE)
    assert case.server.requests == []
    assert (case.out / "old-name.7z").read_bytes() == DATA


# -- beside what is here already -----------------------------------------------------------------


def test_what_comes_from_there_is_not_counted_with_what_was_begun_here(
    case: Case, stick: Path
) -> None:
    """Half a segment is held, and comes whole from there, while the last one is still fetched."""
    case.put(DATA, pieces=pieces_of(DATA))
    case.server.script(PATH, faults.short_206(40_000), on=3)
    case.server.script(PATH, faults.hang_up(), on=range(4, 1000))
    run = case.run(retries=0, connections=1, timeout=60.0)
    assert status(case.out).present == 2 * SEGMENT + 40_000
    case.server.mend()
    (stick / NAME).write_bytes(DATA[: 4 * SEGMENT])
    case.server.script(PATH, faults.trickle(20_000))
    run = bring(case, stick)
    run.report.raise_for_failures()
    case.check_delivered()
    shown = [event.bytes for event in run.of(events.Progress)]
    assert 4 * SEGMENT in shown
    assert 4 * SEGMENT + 40_000 not in shown


def test_what_is_begun_here_is_completed_from_there(case: Case, stick: Path) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    case.server.script(PATH, faults.short_206(1000), on=3)
    case.server.script(PATH, faults.hang_up(), on=range(4, 1000))
    case.run(retries=0, segment_size=SEGMENT, connections=1)
    case.server.mend()
    case.server.forget()
    (stick / NAME).write_bytes(DATA)
    run = bring(case, stick)
    run.report.raise_for_failures()
    case.check_delivered()
    assert case.server.requests == []
    assert run.report.taken.bytes == SIZE - 2 * SEGMENT
    (started,) = run.of(events.TargetStarted)
    assert started.held == SIZE


def test_a_file_in_the_way_still_is(case: Case, stick: Path) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    case.out.mkdir()
    case.final().write_bytes(b"mine")
    case.may_hold(NAME, b"mine")
    (stick / NAME).write_bytes(DATA)
    assert bring(case, stick).code == ExitCode.DISK
    assert case.final().read_bytes() == b"mine"


def test_repair_takes_from_there_too(case: Case, stick: Path) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    case.run(segment_size=SEGMENT).report.raise_for_failures()
    with case.final().open("r+b") as file:
        file.seek(SEGMENT)
        file.write(b"rot")
    os.utime(case.final(), (1, 1))
    (stick / NAME).write_bytes(DATA)
    case.server.forget()
    ended = cli(case, "repair", "--from", "stick")
    assert ended.returncode == 0, ended.stderr
    assert case.final().read_bytes() == DATA
    assert case.server.requests == []


# -- stops and kills -----------------------------------------------------------------------------


def test_stopped_while_it_is_taken(case: Case, stick: Path) -> None:
    control = Control()
    case.put(DATA, proof=Proof.DIGEST)
    (stick / NAME).write_bytes(DATA)
    control.cancel()
    run = bring(case, stick, control=control)
    assert run.code == ExitCode.INTERRUPTED
    delivered(bring(case, stick), taken=SIZE)


HALF = 200  # segments, of 384
HALTED = f"""
import time
from segdl.engine.task import Task
brought, real = [], Task.bring

def bring(*given):
    if len(brought) == {HALF}:
        time.sleep(1000)
    brought.append(given)
    return real(*given)

Task.bring = bring
"""


def begun(case: Case) -> bool:
    """Whether the first segments are recorded."""
    with suppress(FileNotFoundError):
        found = (case.out / ".segdl" / "work").glob("*/index.jsonl")
        return any(path.stat().st_size > 4000 for path in found)
    return False


def test_kill_9_while_it_is_taken(case: Case, stick: Path) -> None:
    """What was copied before is not copied again, and nothing is wrong."""
    data = made(24 * 1024 * 1024)
    case.put(data, proof=Proof.DIGEST)
    (stick / NAME).write_bytes(data)
    case.manifest()
    site = case.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HALTED)  # it does not end before it can be killed
    arguments = ("order.json", "-o", "out", "--from", "stick", "--segment-size", "64KiB")
    env = {"PYTHONPATH": f"{site}:{ROOT}"}
    with running(*arguments, cwd=case.folder, env=env) as running_:
        until(lambda: begun(case))
        running_.process.kill()
        running_.process.wait()
    assert not case.final().exists()
    run = case.run(sources=(str(stick),), segment_size=SEGMENT)
    run.report.raise_for_failures()
    assert run.held > 0
    assert run.held + run.report.taken.bytes == len(data)
    assert case.server.requests == []


def test_a_full_disk_is_told(case: Case, stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(task: Task, source: Any, number: int) -> bool:
        raise OSError(28, os.strerror(28))

    case.put(DATA, proof=Proof.DIGEST)
    (stick / NAME).write_bytes(DATA)
    monkeypatch.setattr(Task, "bring", full)
    run = bring(case, stick)
    assert run.code == ExitCode.DISK
    assert case.server.requests == []


# -- the command ---------------------------------------------------------------------------------


def cli(case: Case, *arguments: str) -> Ended:
    case.manifest()
    name, *more = arguments
    return segdl(name, "order.json", "-o", "out", *more, cwd=case.folder)


def test_the_command_says_what_was_taken(case: Case, stick: Path) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    case.put(OTHER, "/b.7z")
    (stick / NAME).write_bytes(DATA)
    (stick / "b.7z").write_bytes(OTHER)
    ended = cli(case, "get", "--from", "stick", "--progress", "none")
    assert ended.returncode == 0, ended.stderr
    assert "Taken from what is here: 268.1 KiB of 1 file" in ended.stdout + ended.stderr
    assert "Not taken: 1 file that nothing in the manifest proves" in ended.stdout + ended.stderr


def test_a_folder_that_is_not_there(case: Case) -> None:
    case.put(DATA)
    ended = cli(case, "get", "--from", "nowhere")
    assert ended.returncode == ExitCode.USAGE
    assert "--from: 'nowhere' is no folder that can be read" in ended.stderr


def test_a_huge_tree_costs_what_is_of_use(stick: Path) -> None:
    found = (Candidate(0, f"d{n}/f{n}", n) for n in range(100_000))
    offers = Offers(found, [HASHED])
    assert [c.path for c, _ in offers.of(HASHED)] == ["d10/f10"]
    assert len(offers._by_name) + len(offers._by_size) <= 2
