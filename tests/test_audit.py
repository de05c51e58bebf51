"""status, verify, repair and clean: what lies on the disk, and what is done about it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdl.core.digests import digest
from segdl.core.errors import ExitCode, StoppedError, UsageError
from segdl.core.manifest import parse_manifest
from segdl.edges.receipts import Receipts
from segdl.engine.audit import State, rehearse, status
from segdl.engine.repair import repair
from segdl.engine.verify import Check, Finding, Verdict, verify
from tests.commands import Ended, Terminal, running, segdl
from tests.faults import FaultServer, faults
from tests.orders import NAME, PATH, SEGMENT, SIZE, Case, Proof, files_under, made, pieces_of

DATA = made(SIZE)  # five segments, the last one short
SEGMENTS = 5
QUICK = ("--retries", "0", "--patience", "1s", "--segment-size", "64KiB")


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


def run(case: Case, command: str, *arguments: str) -> Ended:
    """`segdl COMMAND`, on the order or its folder."""
    case.manifest()
    what = ("order.json", "-o", "out", *QUICK) if command in ("get", "repair") else ("out",)
    return segdl(command, *what, *arguments, cwd=case.folder)


def delivered(case: Case, **entry: Any) -> Case:
    """A case whose one target is delivered."""
    case.put(DATA, **entry)
    case.run().report.raise_for_failures()
    case.server.forget()
    return case


def rot(path: Path, *at: int) -> bytes:
    """Flip a bit at some offsets, as a disk does: size and time stay. The content as it is now."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    for offset in at:
        data[offset] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return bytes(data)


def everything(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file with its content and time."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files_under(folder)}


# -- status ----------------------------------------------------------------------------------------


def test_status_of_every_state(case: Case) -> None:
    for name in ("good", "changed", "gone", "part", "missing"):
        case.put(DATA, f"/{name}.7z", proof=Proof.DIGEST)
    case.extra["order"] = "SO-7"
    case.server.script("/part.7z", faults.cut(0), on=lambda seen: (seen.range or (0,))[0] > 0)
    case.server.script("/missing.7z", faults.cut(0))
    assert run(case, "get").returncode == 7
    case.final("changed.7z").write_bytes(b"other")
    case.final("gone.7z").unlink()
    case.final("missing.7z").write_bytes(b"found")
    before = everything(case.out)
    ended = run(case, "status")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "SO-7 in out: 332.1 KiB of 1.3 MiB here",
        "5 files: 1 delivered, 1 changed, 1 found, 1 held, 1 missing",
        "  changed                268.1 KiB  changed.7z (changed since it was delivered)",
        "  missing                268.1 KiB  gone.7z (gone since it was delivered)",
        "  held       64.0 KiB of 268.1 KiB  part.7z",
        "  found                  268.1 KiB  missing.7z (here without a receipt)",
    ]
    told = json.loads(run(case, "status", "--json").stdout)
    assert (told["order"], told["directory"], told["bytes"]) == ("SO-7", "out", 5 * SIZE)
    assert told["present"] == SIZE + SEGMENT
    assert told["counts"] == {"delivered": 1, "changed": 1, "found": 1, "held": 1, "missing": 1}
    assert told["targets"][0] == {
        "path": "good.7z", "state": "delivered", "size": SIZE, "held": 0, "note": "",
    }  # fmt: skip
    assert everything(case.out) == before


def test_status_while_it_runs(case: Case) -> None:
    case.put(made(4 * 2**20))
    case.manifest()
    words = ("order.json", "-o", "out", "--limit-rate", "1MiB", "--progress", "json")
    with running(*words, cwd=case.folder) as child:
        child.until(lambda event: event["event"] == "progress" and event["bytes"] > 2**20)
        (standing,) = status(case.out).standings
        child.stop(signal.SIGTERM)
    assert standing.state is State.HELD
    assert 2**19 <= standing.held < 4 * 2**20


@pytest.mark.parametrize("command", ["status", "verify", "clean"])
def test_a_folder_that_segdl_never_worked_in_stays_as_it_is(command: str, case: Case) -> None:
    case.out.mkdir()
    (case.out / "a").write_bytes(b"x")
    ended = run(case, command)
    assert ended.returncode == 2
    assert [path.name for path in case.out.iterdir()] == ["a"]


def test_status_of_what_cannot_be_read(case: Case) -> None:
    """Nothing in .segdl is believed that does not prove itself, and nothing of it is fatal."""
    delivered(case)
    hidden = case.out / ".segdl"
    for name in ("order.json", "receipts.jsonl"):
        (hidden / name).write_bytes(b"\xff\x00garbage\n{}\n[]\n")
    assert status(case.out).standings == ()
    facts = {"files": [7, {}, {"path": "../x", "size": 1}, {"path": "a", "size": "1"},
                       {"path": "/x", "size": 1}, {"path": "a\0", "size": 1}, {"path": NAME,
                        "size": SIZE, "hash": {"sha256": "0", "nonsense": "1"}}]}  # fmt: skip
    (hidden / "order.json").write_text(json.dumps(facts))
    (standing,) = status(case.out).standings
    assert (standing.path, standing.state) == (NAME, State.FOUND)


def test_status_counts_only_records_whose_bytes_are_there(case: Case) -> None:
    case.put(DATA)
    case.server.script(PATH, faults.cut(0), on=lambda seen: (seen.range or (0,))[0] == SEGMENT)
    run(case, "get", "-c", "2")
    (before,) = status(case.out).standings
    (work,) = (case.out / ".segdl" / "work").iterdir()
    parts = sum(path.stat().st_size for path in work.glob("*.part"))
    os.truncate(work / "front", 0)
    (after,) = status(case.out).standings
    assert (after.state, after.held) == (State.HELD, parts)
    assert before.held >= SEGMENT + parts


def test_status_tells_what_an_earlier_order_left(case: Case) -> None:
    delivered(case)
    case.put(DATA, "/second.7z", hash={"sha256": "0" * 64})
    case.server.script("/second.7z", faults.cut(100), on=lambda seen: seen.number > 1)
    run(case, "get")
    del case.files["second.7z"]
    run(case, "get")
    case.files.pop(NAME)
    case.put(DATA, "/third.7z")
    run(case, "get")
    found = {s.path: (s.state, s.note) for s in status(case.out).standings}
    assert found == {
        "third.7z": (State.DELIVERED, ""),
        NAME: (State.DELIVERED, ""),
        "second.7z": (State.HELD, "of an earlier order"),
    }


def test_a_receipt_of_other_content_is_of_an_earlier_order(case: Case) -> None:
    delivered(case)
    case.put(made(SIZE, 2), "/other.7z", name=NAME, proof=Proof.DIGEST)
    case.may_hold(NAME, DATA)
    assert run(case, "get").returncode == 5
    (standing,) = status(case.out).standings
    assert (standing.state, standing.note) == (State.FOUND, "of an earlier order")


def test_links_are_not_followed(case: Case, tmp_path: Path) -> None:
    case.put(DATA, name=f"sub/{NAME}")
    run(case, "get")
    outside = tmp_path / "outside"
    (case.out / "sub").rename(outside)
    (case.out / "sub").symlink_to(outside)
    (standing,) = status(case.out).standings
    assert (standing.state, standing.note) == (
        State.MISSING,
        "a link or a file is in its folder's way",
    )
    (finding,) = verify(case.out)
    assert finding.verdict is Verdict.UNPROVED
    (case.out / "sub").unlink()
    (case.out / "sub").mkdir()
    (case.out / "sub" / NAME).symlink_to(outside / NAME)
    assert status(case.out).standings[0].state is State.FOUND
    (finding,) = verify(case.out)
    assert finding.verdict is Verdict.MISSING


def test_a_rehearsal_where_nothing_is(tmp_path: Path) -> None:
    manifest = parse_manifest(b"http://h/a\nhttp://h/b\n", "list", environment={})
    survey = rehearse(manifest.targets, tmp_path / "none")
    assert [standing.state for standing in survey.standings] == [State.MISSING] * 2
    assert list(tmp_path.iterdir()) == []


# -- verify ----------------------------------------------------------------------------------------


def test_verify_good(case: Case) -> None:
    delivered(case)
    before = everything(case.out)
    ended = run(case, "verify")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1 good\n", "")
    assert segdl("verify", "out", "--manifest", "order.json", cwd=case.folder).returncode == 0
    assert case.server.requests == []
    assert everything(case.out) == before


@pytest.mark.parametrize("proof", list(Proof))
def test_verify_names_the_rotten_segments(proof: Proof, case: Case) -> None:
    """Without a digest in the manifest, too: the receipt has one of every segment."""
    delivered(case, proof=proof)
    rot(case.final(), 0, 2 * SEGMENT, 3 * SEGMENT + 5)
    case.may_hold(NAME, case.final().read_bytes())
    for more in ((), ("--manifest", "order.json")):
        ended = run(case, "verify", *more)
        assert ended.returncode == 4
        note = "its sha256 is another; " if proof is Proof.DIGEST else ""
        note = "its md5 is another; " if proof is Proof.ETAG else note
        assert ended.stdout.splitlines() == [
            f"rotten   {NAME}: {note}segments 0, 2, 3, bytes 0-65536, 131072-262144",
            "1 rotten",
            "Mend it with: segdl repair MANIFEST -o out",
        ]


CHANGES: list[tuple[str, Callable[[Path], object], str, tuple[int, ...]]] = [
    ("shorter", lambda p: os.truncate(p, SIZE - 1), f"{SIZE - 1} bytes", (4,)),
    ("empty", lambda p: os.truncate(p, 0), "0 bytes", (0, 1, 2, 3, 4)),
    ("longer", lambda p: os.truncate(p, SIZE + 1), f"{SIZE + 1} bytes", ()),
]


@pytest.mark.parametrize(("name", "change", "note", "rotten"), CHANGES)
def test_verify_tells_another_length(
    name: str, change: Callable[[Path], object], note: str, rotten: tuple[int, ...], case: Case
) -> None:
    delivered(case, proof=Proof.DIGEST)
    change(case.final())
    (finding,) = verify(case.out)
    note = f"{note} long, expected {SIZE}"
    assert (finding.verdict, finding.note, finding.rotten) == (Verdict.ROTTEN, note, rotten)


def test_verify_missing(case: Case) -> None:
    case.put(DATA)
    case.put(DATA, "/never.7z")
    case.server.remove("/never.7z")
    run(case, "get")
    case.final().unlink()
    ended = run(case, "verify")
    assert ended.returncode == 1
    assert ended.stdout.splitlines() == [
        f"missing  {NAME}: gone since it was delivered",
        "missing  never.7z: not delivered",
        "2 missing",
        "Fetch what is missing with: segdl MANIFEST -o out",
    ]


def test_verify_rotten_goes_before_missing(case: Case) -> None:
    case.put(DATA, "/gone.7z")
    delivered(case)
    case.final("gone.7z").unlink()
    rot(case.final(), 1)
    ended = run(case, "verify")
    assert (ended.returncode, ended.stdout.splitlines()[2]) == (4, "1 rotten, 1 missing")


def test_verify_by_a_manifest_alone(case: Case) -> None:
    """Files that segdl did not deliver, in a folder that it has never seen."""
    case.put(DATA, "/digest.7z", proof=Proof.DIGEST)
    case.put(DATA, "/pieces.7z", proof=Proof.NOTHING, pieces=pieces_of(DATA))
    case.put(DATA, "/nothing.7z", proof=Proof.NOTHING)
    case.put(DATA, "/short.7z", proof=Proof.NOTHING)
    case.out.mkdir()
    for name in case.files:
        case.final(name).write_bytes(DATA)
    rot(case.final("digest.7z"), 5)
    rot(case.final("pieces.7z"), SEGMENT)
    os.truncate(case.final("short.7z"), 3)
    ended = run(case, "verify", "--manifest", "order.json")
    assert ended.returncode == 4
    assert ended.stdout.splitlines()[:-1] == [
        "rotten   digest.7z: its sha256 is another",
        "rotten   pieces.7z: segments 1, bytes 65536-131072",
        "unproved nothing.7z: neither a digest nor a receipt says what it should be",
        f"rotten   short.7z: 3 bytes long, expected {SIZE}",
        "3 rotten, 1 unproved",
    ]
    assert [path.name for path in case.out.iterdir() if path.name == ".segdl"] == []


def test_what_cannot_be_proved_is_not_good(case: Case) -> None:
    case.put(DATA, proof=Proof.NOTHING)
    case.out.mkdir()
    case.final().write_bytes(DATA)
    assert run(case, "verify", "--manifest", "order.json").returncode == 1


def test_verify_of_empty_files_and_odd_sizes(case: Case) -> None:
    for size in (0, 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT - 1):
        case.put(made(size), f"/{size}.7z", proof=Proof.NOTHING)
    assert run(case, "get").returncode == 0
    assert run(case, "verify").stdout == "5 good\n"
    case.final("0.7z").write_bytes(b"x")
    rot(case.final("1.7z"), 0)
    assert run(case, "verify").stdout.splitlines()[:-1] == [
        "rotten   0.7z: 1 bytes long, expected 0",
        "rotten   1.7z: segments 0, bytes 0-1",
        "3 good, 2 rotten",
    ]


def test_a_receipt_that_does_not_add_up_still_has_the_digest_of_the_whole(case: Case) -> None:
    delivered(case, proof=Proof.DIGEST)
    hidden = os.open(case.out / ".segdl", os.O_RDONLY)
    receipts = Receipts(hidden)
    receipt = receipts.read()[NAME]
    receipts.append(replace(receipt, segments=replace(receipt.segments, values=("0", "1"))))
    receipts.close()
    os.close(hidden)
    assert verify(case.out)[0].verdict is Verdict.GOOD
    rot(case.final(), 1)
    (finding,) = verify(case.out)
    assert (finding.verdict, finding.rotten, finding.located) == (Verdict.ROTTEN, (), False)


def test_ranges_of_neighbours_are_joined() -> None:
    check = Check("a", size=95, segment_size=10)
    finding = Finding(check, Verdict.ROTTEN, rotten=(0, 1, 2, 5, 8, 9))
    assert list(finding.ranges) == [(0, 30), (50, 60), (80, 95)]
    assert list(Finding(check, Verdict.GOOD).ranges) == []


def test_verify_counts_bytes_and_can_be_stopped(case: Case) -> None:
    delivered(case)
    seen: list[tuple[int, int]] = []
    verify(case.out, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (SIZE, SIZE)

    def stop(done: int, total: int) -> None:
        raise StoppedError("enough")

    with pytest.raises(StoppedError):
        verify(case.out, on_progress=stop)


def test_verify_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        verify(tmp_path / "none")
    with pytest.raises(UsageError, match="no segdl has worked in"):
        verify(tmp_path)


# -- repair ----------------------------------------------------------------------------------------


def asked(case: Case) -> list[tuple[int, int]]:
    """The ranges that the server was asked for, in order."""
    return sorted(seen.range or (0, 0) for seen in case.server.requests)


@pytest.mark.parametrize("proof", [Proof.DIGEST, Proof.ETAG])
def test_repair_fetches_only_what_is_rotten(proof: Proof, case: Case) -> None:
    delivered(case, proof=proof)
    other = case.put(DATA, "/missing.7z")
    rotten = rot(case.final(), SEGMENT, SEGMENT * 3 + 1)
    case.may_hold(NAME, rotten, DATA)
    ended = run(case, "repair", "-c", "1")
    assert asked(case) == [(SEGMENT, 2 * SEGMENT), (3 * SEGMENT, 4 * SEGMENT)]
    assert case.final().read_bytes() == DATA
    assert not case.final(other).exists()
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[-1] == "1 file missing: fetch with segdl order.json -o out"
    assert f"Fetched 128.0 KiB ({2 * SEGMENT} bytes)" in ended.stdout
    assert list((case.out / ".segdl" / "work").iterdir()) == []
    del case.files[other]
    assert run(case, "verify").stdout == "1 good\n"


def test_repair_of_what_is_good_asks_nobody(case: Case) -> None:
    delivered(case)
    ended = run(case, "repair")
    assert (ended.returncode, ended.stdout) == (0, "1 good\n")
    assert case.server.requests == []


def test_the_rotten_file_keeps_its_name_until_the_good_one_takes_it(case: Case) -> None:
    delivered(case)
    rotten = rot(case.final(), SEGMENT)
    case.may_hold(NAME, rotten, DATA)
    inode = case.final().stat().st_ino
    case.server.script(PATH, faults.cut(0))
    assert run(case, "repair").returncode == 7
    assert (case.final().read_bytes(), case.final().stat().st_ino) == (rotten, inode)
    case.server.mend()
    assert run(case, "repair").returncode == 0
    assert case.final().read_bytes() == DATA


def test_an_interrupted_repair_goes_on(case: Case) -> None:
    delivered(case)
    case.may_hold(NAME, rot(case.final(), SEGMENT, SEGMENT * 3), DATA)
    case.server.script(PATH, faults.cut(0), on=lambda seen: (seen.range or (0,))[0] > SEGMENT)
    assert run(case, "repair", "-c", "1").returncode == 7
    case.server.mend()
    case.server.forget()
    assert run(case, "repair").returncode == 0
    assert asked(case) == [(SEGMENT * 3, SEGMENT * 4)]
    assert case.final().read_bytes() == DATA


def test_a_killed_repair_goes_on(case: Case) -> None:
    data = made(4 * 2**20)
    case.put(data, proof=Proof.DIGEST)
    words = ("order.json", "-o", "out", "--segment-size", "1MiB")
    case.manifest()
    segdl(*words, cwd=case.folder)
    case.may_hold(NAME, rot(case.final(), 2**20, 2**21, 3 * 2**20), data)
    slowly = ("--limit-rate", "1MiB", "--progress", "json", "-c", "1")
    with running("repair", *words, *slowly, cwd=case.folder) as child:
        child.until(lambda event: event["event"] == "segment_done")
        child.process.kill()
    case.server.forget()
    assert segdl("repair", *words, cwd=case.folder).returncode == 0
    assert (case.final().read_bytes(), case.server.sent() <= 2**21) == (data, True)


def test_repair_by_pieces_without_any_receipt(case: Case) -> None:
    case.put(DATA, proof=Proof.NOTHING, pieces=pieces_of(DATA))
    case.out.mkdir()
    case.final().write_bytes(DATA)
    case.may_hold(NAME, rot(case.final(), 4 * SEGMENT), DATA)
    assert run(case, "repair").returncode == 0
    assert asked(case) == [(4 * SEGMENT, SIZE)]
    assert case.final().read_bytes() == DATA


def test_repair_of_a_slice(case: Case) -> None:
    case.server.put("/whole", b"before" + DATA + b"after")
    case.files[NAME] = {
        "path": NAME, "url": case.server.url("/whole"), "slice": {"offset": 6, "size": SIZE},
    }  # fmt: skip
    assert run(case, "get").returncode == 0
    case.server.forget()
    rot(case.final(), 2 * SEGMENT)
    assert run(case, "repair").returncode == 0
    assert asked(case) == [(6 + 2 * SEGMENT, 6 + 3 * SEGMENT)]
    assert case.final().read_bytes() == DATA


def test_without_a_pin_or_a_digest_nothing_is_mixed(case: Case) -> None:
    """A weak ETag pins nothing: the new bytes might be of another object."""
    delivered(case, proof=Proof.NOTHING)
    replaced = made(SIZE, 9)
    case.may_hold(NAME, rot(case.final(), SEGMENT), replaced)
    case.server.put(PATH, replaced, etag='W/"weak"')
    assert run(case, "repair").returncode == 0
    assert case.final().read_bytes() == replaced


def test_with_a_digest_a_weak_etag_is_enough(case: Case) -> None:
    case.server.put("/weak.7z", DATA, etag='W/"weak"')
    case.files[NAME] = {
        "path": NAME, "url": case.server.url("/weak.7z"),
        "hash": {"sha256": digest("sha256", DATA)},
    }  # fmt: skip
    assert run(case, "get").returncode == 0
    case.server.forget()
    rot(case.final(), SEGMENT)
    assert run(case, "repair").returncode == 0
    assert asked(case) == [(SEGMENT, 2 * SEGMENT)]
    assert case.final().read_bytes() == DATA


def test_with_a_digest_the_rest_may_come_from_elsewhere(case: Case) -> None:
    """The ETag of the old place would refuse the new one."""
    delivered(case, proof=Proof.DIGEST)
    case.put(DATA, "/elsewhere.7z", name=NAME, proof=Proof.DIGEST, etag='"another"')
    case.may_hold(NAME, rot(case.final(), SEGMENT), DATA)
    assert run(case, "repair").returncode == 0
    assert asked(case) == [(SEGMENT, 2 * SEGMENT)]
    assert case.final().read_bytes() == DATA


def test_what_only_a_digest_would_prove_is_not_mixed_without_it(case: Case) -> None:
    """A repair by digests stops half-way; a manifest without them asks for the rest."""
    delivered(case, proof=Proof.DIGEST)
    case.put(DATA, "/elsewhere.7z", name=NAME, proof=Proof.DIGEST, etag='"another"')
    case.may_hold(NAME, rot(case.final(), SEGMENT), DATA)
    case.server.script("/elsewhere.7z", faults.cut(0))
    assert run(case, "repair").returncode == 7
    replaced = made(SIZE, 9)
    case.server.mend()
    case.put(replaced, "/elsewhere.7z", name=NAME)
    assert run(case, "get", "--overwrite").returncode == 0
    assert case.final().read_bytes() == replaced


def test_an_object_that_was_replaced_is_not_mixed(case: Case) -> None:
    delivered(case)
    replaced = made(SIZE, 9)
    case.may_hold(NAME, rot(case.final(), SEGMENT), replaced)
    case.server.put(PATH, replaced)
    assert run(case, "repair", "--retries", "3").returncode == 0
    assert case.final().read_bytes() == replaced


@pytest.mark.parametrize(("name", "change", "note", "rotten"), CHANGES)
def test_repair_of_another_length(
    name: str, change: Callable[[Path], object], note: str, rotten: tuple[int, ...], case: Case
) -> None:
    delivered(case)
    change(case.final())
    case.may_hold(NAME, case.final().read_bytes(), DATA)
    assert run(case, "repair", "-c", "1").returncode == 0
    assert case.final().read_bytes() == DATA
    assert case.server.sent() == sum(min(SEGMENT, SIZE - n * SEGMENT) for n in rotten)


def test_repair_against_a_manifest_that_asks_for_other_content(case: Case) -> None:
    delivered(case)
    fresh = made(SIZE, 2)
    case.put(fresh, proof=Proof.DIGEST)
    case.may_hold(NAME, DATA, fresh)
    assert run(case, "repair").returncode == 0
    assert case.final().read_bytes() == fresh


def test_a_dry_repair_tells_and_does_nothing(case: Case) -> None:
    delivered(case)
    rot(case.final(), SEGMENT)
    before = everything(case.out)
    ended = run(case, "repair", "--dry-run")
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "1 rotten")
    assert (everything(case.out), case.server.requests) == (before, [])


def test_repair_from_python(case: Case) -> None:
    delivered(case)
    rot(case.final(), SEGMENT)
    manifest = parse_manifest(case.manifest().read_bytes(), "order.json", environment={})
    kinds = []
    report = repair(
        manifest, case.out, verify(case.out, manifest), on_event=lambda e: kinds.append(e.event)
    )
    assert (report.exit_code, report.bytes) == (ExitCode.DONE, SEGMENT)
    assert (kinds[0], kinds[-1]) == ("order_started", "order_finished")


def test_repair_of_an_order_that_is_not_here(case: Case) -> None:
    case.put(DATA)
    ended = run(case, "repair")
    assert (ended.returncode, ended.stderr) == (2, "segdl: out is not a folder\n")


# -- clean -----------------------------------------------------------------------------------------


def unfinished(case: Case) -> Case:
    """A case with a delivered file, and one that is under way."""
    delivered(case)
    case.put(made(SIZE, 3), "/part.7z")
    case.server.script("/part.7z", faults.cut(0), on=lambda seen: (seen.range or (0,))[0] > 0)
    assert case.run(retries=0).code == ExitCode.NETWORK
    return case


def test_a_repair_that_failed_proves_nothing_of_another_object(case: Case) -> None:
    """Its index is complete, and of what is here; the manifest asks for another by now."""
    delivered(case)
    case.files[NAME]["hash"] = {"md5": "0" * 32}
    assert run(case, "repair").returncode == ExitCode.CONTENT
    case.files.clear()
    case.put(made(SIZE, 9), "/other.7z", name=NAME)
    ended = run(case, "get")
    assert ended.returncode == ExitCode.DISK
    assert f"{NAME} is here already with other content" in ended.stdout
    assert case.final().read_bytes() == DATA


def test_clean_removes_what_is_held_and_nothing_else(case: Case) -> None:
    unfinished(case)
    ended = run(case, "clean", "--yes")
    assert ended.returncode == 0
    assert ended.stdout.startswith("Removed 1 unfinished file, ")
    assert ended.stdout.endswith(" freed\n")
    assert case.final().read_bytes() == DATA
    assert list((case.out / ".segdl" / "work").iterdir()) == []
    assert run(case, "verify").stdout.splitlines()[-2] == "1 good, 1 missing"
    assert run(case, "clean").stdout == "Nothing to remove: no file is unfinished\n"
    case.server.mend()
    assert run(case, "get").returncode == 0
    case.check_delivered()


def test_clean_wants_an_answer(case: Case) -> None:
    before = everything(unfinished(case).out)
    ended = run(case, "clean")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.endswith("\nsegdl: clean asks, and nobody answers: give --yes\n")
    after = everything(case.out)
    assert {p: c for p, (c, _) in after.items() if p.name != "lock"} == {
        p: c for p, (c, _) in before.items() if p.name != "lock"
    }


@pytest.mark.parametrize(("typed", "removed"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_clean_takes_an_answer_from_a_pipe(typed: str, removed: bool, case: Case) -> None:
    unfinished(case)
    ended = segdl("clean", "out", cwd=case.folder, stdin=typed)
    assert ended.returncode == 0
    assert ended.stderr == "Remove 1 unfinished file in out, 64.0 KiB held? [y/N] "
    assert (list((case.out / ".segdl" / "work").iterdir()) == []) is removed


@pytest.mark.parametrize(
    ("typed", "removed"),
    [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("\x04", False)],
)
def test_clean_asks_on_a_terminal(typed: str, removed: bool, case: Case) -> None:
    unfinished(case)
    terminal = Terminal(80, 24)
    with terminal.running("clean", "out", cwd=case.folder) as child:
        terminal.until(lambda: "[y/N] " in terminal.written)
        terminal.type(typed)
        lines = terminal.to_end()
        assert child.process.wait() == 0
    assert lines[0].startswith("Remove 1 unfinished file in out, 64.0 KiB held? [y/N]")
    assert ("Nothing was removed" in "".join(lines)) is not removed
    assert (list((case.out / ".segdl" / "work").iterdir()) == []) is removed
