"""Orders from servers that misbehave, end to end: rows S01 to S23 of FAULTS.md.

Each row runs twice: against the fault, and later against the honest server. What holds in every
run is checked by `orders.Case`; what a row adds stands in its table.
"""

from __future__ import annotations

import errno
import hashlib
import os
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import segdl
from segdl.core import events
from segdl.core.digests import digest, digest_of_parts
from segdl.core.errors import ExitCode
from segdl.core.options import RateLimit, parse_rate
from segdl.core.report import Grade
from segdl.engine.task import Task
from tests.canary import CANARY
from tests.faults import EVERY_PATH, Answer, Fault, FaultServer, Seen, TCPProxy, Wire, faults
from tests.orders import (
    NAME,
    PATH,
    QUERY,
    SEGMENT,
    SIZE,
    Case,
    Proof,
    made,
    pieces_of,
)

DATA = made(SIZE)
ALL = (Proof.DIGEST, Proof.ETAG, Proof.NOTHING)
ONE = (Proof.ETAG,)  # for rows that are not about content
GRADES = {
    Proof.DIGEST: Grade.DIGEST,
    Proof.ETAG: Grade.ETAG,
    Proof.NOTHING: Grade.UNVERIFIED,
}
SEGMENTS = 5
NETWORK, LINKS, CONTENT, DONE = (
    ExitCode.NETWORK,
    ExitCode.LINKS,
    ExitCode.CONTENT,
    ExitCode.DONE,
)


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


def later(request: Seen) -> bool:
    """Requests that begin behind the first byte."""
    return request.range is not None and request.range[0] > 0


# -- the table: one object, one fault --------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A fault, and what a run must come to."""

    name: str
    fault: Fault
    on: Any = None  # as FaultServer.script has it
    code: ExitCode = DONE
    cause: str | None = None  # of the target that failed
    requests: int = 2 * SEGMENTS  # at most
    landed: int | None = None  # bytes believed, if they are known; SIZE if it is delivered
    proofs: tuple[Proof, ...] = ALL
    sized: bool = True

    @property
    def expected(self) -> int | None:
        return SIZE if self.code is DONE and self.landed is None else self.landed


def refused(name: str, fault: Fault, **more: Any) -> Row:
    """An answer that is never believed: two tries of the probe, no byte, exit 7."""
    row: dict[str, Any] = {
        "code": NETWORK, "cause": "unreachable", "requests": 2, "landed": 0,
        "proofs": (Proof.NOTHING,),
    }  # fmt: skip
    return Row(name, fault, **row | more)


FIRST_ONLY: dict[str, Any] = {"on": later, "landed": SEGMENT, "requests": 2 * SEGMENTS}
# The pin is doubted once, and all of it asked for again.
DOUBTED = FIRST_ONLY | {"landed": 2 * SEGMENT, "requests": 4 * SEGMENTS}

ROWS = [
    Row("S01-whole", faults.whole_200(), requests=1),
    Row("S01-whole-once", faults.whole_200(), on=1, requests=1),
    Row("S01-whole-in-between", faults.whole_200(), on=3),
    refused("S01-whole-after-a-range", faults.whole_200(), **FIRST_ONLY),
    Row("S02-200-with-range", faults.range_200(), requests=SEGMENTS),
    refused("S02-label-after", faults.range_200(off_by=1)),
    refused("S02-label-before", faults.range_200(off_by=-1), **FIRST_ONLY),
    refused("S02-longer", faults.range_200(length_off_by=1)),
    refused("S02-shorter", faults.range_200(length_off_by=-1)),
    refused("S03-whole-as-206", faults.whole_206()),
    refused("S03-starts-later", faults.wrong_range(start_by=1)),
    refused("S03-starts-earlier", faults.wrong_range(start_by=-1), **FIRST_ONLY),
    refused("S03-ends-later", faults.wrong_range(stop_by=1)),
    refused("S03-label-after", faults.mislabelled(1)),
    refused("S03-label-before", faults.mislabelled(-1), **FIRST_ONLY),
    refused("S03-no-label", faults.no_content_range()),
    Row("S03-once", faults.wrong_range(start_by=1), on=2),
    Row("S04-short", faults.short_206(30_000), requests=3 * 4 + 1),
    Row("S05-star", faults.total_star(), requests=SEGMENTS),
    refused("S05-star-and-no-size", faults.total_star(), sized=False),
    Row("S05-other-total", faults.total_other(SIZE + 1), code=CONTENT, cause="size",
        requests=3, landed=0, proofs=ONE),
    refused("S06-chunked-wrong-label", faults.chunked_206("bytes 1-65536/274489")),
    Row("S06-chunked", faults.chunked_206(), requests=SEGMENTS),
    refused("S06-multipart", faults.multipart()),
    refused("S06-multipart-of-three", faults.multipart(3)),
    refused("S08-login-page", faults.login_page()),
    refused("S08-login-page-as-206", faults.login_page(206)),
    refused("S08-login-page-later", faults.login_page(), **FIRST_ONLY),
    Row("S08-login-page-once", faults.login_page(), on=2),
    Row("S08-padded-page-once", faults.padded_login_page(), on=3, proofs=ONE),
    refused("S08-padded-page-later", faults.padded_login_page(), proofs=ONE, **DOUBTED),
    Row("S11-gzip-on-some", faults.gzip_label(), on={2, 3}),
    refused("S11-gzip-on-all-but-one", faults.gzip_label(), **DOUBTED),
    Row("S11-gzip-on-all", faults.gzip_label(), requests=SEGMENTS),
    refused("S11-gzip-for-real", faults.gzip_body()),
    Row("S12-closed-at-0", faults.cut(0), on={1, 2}),
    Row("S12-closed-at-1", faults.cut(1), on={1, 2}),
    Row("S12-closed-at-the-last-but-one", faults.cut(SEGMENT - 1), on={1, 2}),
    Row("S12-reset", faults.reset(40_000), on={1, 2}),
    Row("S12-no-answer", faults.hang_up(), on={1, 3}),
    Row("S12-no-length", faults.no_length(), requests=SEGMENTS),
    Row("S12-no-length-and-truncated", faults.no_length(40_000), on={1, 2}),
    Row("S12-chunked-and-cut", faults.cut_chunked(40_000), on={1, 2}),
    Row("S12-bad-chunk", faults.bad_chunk(40_000), on={1, 2}),
    Row("S12-negative-chunk", faults.bad_chunk(40_000, b"-1"), on={1, 2}),
    refused("S13-two-lengths", faults.two_lengths()),
    refused("S13-negative-length", faults.negative_length()),
    refused("S13-length-and-chunked", faults.length_and_chunked()),
    Row("S13-once", faults.two_lengths(), on=2, proofs=ONE),
    Row("S14-416-of-no-empty-object", faults.empty_416(), code=CONTENT, cause="size",
        requests=3, landed=0, proofs=ONE),
    Row("S14-416-once", faults.empty_416(with_range=False), on=2, proofs=ONE),
    Row("S17-signature", faults.s3_error(403, "SignatureDoesNotMatch"), code=LINKS,
        cause="refused", requests=1, landed=0, proofs=ONE),
    Row("S17-key", faults.s3_error(403, "InvalidAccessKeyId"), code=LINKS, cause="refused",
        requests=1, landed=0, proofs=ONE),
    Row("S17-denied", faults.s3_error(403, "AccessDenied", "Access Denied."), code=LINKS,
        cause="refused", requests=1, landed=0, proofs=ONE),
    Row("S17-401", faults.status(401), code=LINKS, cause="refused", requests=1,
        landed=0, proofs=ONE),
    Row("S17-404", faults.s3_error(404, "NoSuchKey"), code=LINKS, cause="refused", requests=1,
        landed=0, proofs=ONE),
    Row("S17-410", faults.status(410), code=LINKS, cause="refused", requests=1,
        landed=0, proofs=ONE),
    Row("S19-500-a-few-times", faults.status(500), on={1}, requests=SEGMENTS + 1, proofs=ONE),
    Row("S19-502-in-between", faults.status(502), on={3}, requests=2 * SEGMENTS, proofs=ONE),
    Row("S19-504-in-between", faults.status(504), on={3}, requests=2 * SEGMENTS, proofs=ONE),
    refused("S19-503-for-ever", faults.slow_down(None), requests=4),
    refused("S20-error-as-200", faults.error_200()),
    refused("S22-interim-answers", faults.endless_1xx()),
    refused("S22-headers", faults.endless_headers()),
    Row("S22-body", faults.endless_body(), requests=SEGMENTS, proofs=ONE),
    Row("S22-body-without-length", faults.endless_body(declared=False), requests=SEGMENTS),
    Row("S23-connection-close", faults.connection_close(), requests=SEGMENTS, proofs=ONE),
    Row("S23-http10", faults.http10(), requests=SEGMENTS, proofs=ONE),
    Row("S23-lying-keep-alive", faults.lying_keep_alive(), proofs=ONE),
    Row("S23-lying-keep-alive-late", faults.lying_keep_alive(late=True), proofs=ONE),
    refused("other-204", faults.status(204)),
    refused("other-304", faults.status(304)),
    refused("other-no-ranges-of-a-page", faults.chain(faults.whole_200(), faults.login_page())),
]  # fmt: skip


RUNS = [
    pytest.param(row, proof, id=f"{row.name}-{proof.value}") for row in ROWS for proof in row.proofs
]


@pytest.mark.parametrize(("row", "proof"), RUNS)
def test_a_fault_and_after(case: Case, row: Row, proof: Proof) -> None:
    """The run comes to what its row says; the next one, against the honest server, finishes."""
    case.put(DATA, proof=proof, sized=row.sized)
    case.server.script(PATH, row.fault, on=row.on)
    run = case.run()
    assert run.code == row.code, [str(f.error) for f in run.report.failures]
    assert len(case.server.requests) <= row.requests
    if row.expected is not None:
        assert run.report.bytes == row.expected
    if row.code is DONE:
        case.check_delivered()
        (receipt,) = run.report.receipts
        assert receipt.grade is GRADES[proof]
        return
    error = run.error()
    assert (error.cause, error.target) == (row.cause, NAME)
    assert not case.final().exists()
    if row.landed == 0:
        case.check_no_data()
    case.finish()


@pytest.mark.parametrize("text", faults.UNPARSABLE_RANGES)
def test_s03_a_label_that_says_nothing(case: Case, text: str) -> None:
    """S03: no `Content-Range` that cannot be read lets a byte through."""
    case.put(DATA, proof=Proof.NOTHING)
    case.server.script(PATH, faults.unparsable_range(text))
    run = case.run(retries=0)
    assert (run.code, run.error().cause, run.report.bytes) == (NETWORK, "unreachable", 0)
    assert len(case.server.requests) == 1
    case.check_no_data()
    case.finish()


# -- rotten content --------------------------------------------------------------------------------

ROTTEN = 2 * SEGMENT + 100  # a byte of the third segment
DECAYED = DATA[:ROTTEN] + bytes([DATA[ROTTEN] ^ 1]) + DATA[ROTTEN + 1 :]
OTHER = made(SIZE, 2)


def covering(at: int) -> Callable[[Seen], bool]:
    """Requests for a range that has the byte `at`."""
    return lambda request: request.range is not None and request.range[0] <= at < request.range[1]


def once(fits: Callable[[Seen], bool]) -> Callable[[Seen], bool]:
    """The first request that fits, and no other."""
    met: list[int] = []

    def first(request: Seen) -> bool:
        if fits(request) and request.serial not in met:
            met.append(request.serial)
        return met[:1] == [request.serial]

    return first


def asked(server: FaultServer, at: int) -> int:
    """How many requests were for the byte `at`."""
    return sum(map(covering(at), server.requests))


def test_s07_one_rotten_segment_is_fetched_again(case: Case) -> None:
    """With `pieces` only the rotten segment is fetched again, and nothing else."""
    case.put(DATA, pieces=pieces_of(DATA))
    case.server.script(PATH, faults.flip_bit(ROTTEN), on=once(covering(ROTTEN)))
    run = case.run()
    case.check_delivered()
    assert run.report.receipts[0].grade is Grade.PIECES
    assert [event.cause for event in run.of(events.Retry)] == ["digest"]
    assert (asked(case.server, ROTTEN), len(case.server.requests)) == (2, SEGMENTS + 1)
    assert case.server.sent() == SIZE + SEGMENT


def test_s07_a_segment_that_stays_rotten(case: Case) -> None:
    """It is asked for three times; all others are held, and a later run needs it alone."""
    case.put(DATA, pieces=pieces_of(DATA))
    case.server.script(PATH, faults.flip_bit(ROTTEN))
    run = case.run()
    assert (run.code, run.error().cause) == (CONTENT, "digest")
    assert isinstance(run.error(), segdl.DigestError)
    assert asked(case.server, ROTTEN) == 3
    assert "tell the publisher" in str(run.error())
    assert case.finish().held >= 2 * SEGMENT


def test_s07_the_whole_is_wrong_once(case: Case) -> None:
    """Without `pieces` all of it is fetched a second time, and is right."""
    case.put(DATA, proof=Proof.DIGEST)
    case.server.script(PATH, faults.flip_bit(ROTTEN), on=once(covering(ROTTEN)))
    run = case.run()
    case.check_delivered()
    assert run.report.receipts[0].grade is Grade.DIGEST
    assert case.server.sent() == 2 * SIZE


def test_s07_the_whole_is_wrong_for_ever(case: Case) -> None:
    """Fetched twice and no more: exit 4; then the honest server's is fetched in its place."""
    case.put(DATA, proof=Proof.DIGEST)
    case.server.script(PATH, faults.flip_bit(ROTTEN))
    run = case.run()
    assert (run.code, run.error().cause) == (CONTENT, "digest")
    assert case.server.sent() == 2 * SIZE
    assert not case.final().exists()
    case.finish(again=True)


def test_s07_without_a_digest_the_grade_says_so(case: Case) -> None:
    """The limit that is documented: a miss of the ETag is no failure, but it proves nothing."""
    case.put(DATA)
    case.may_hold(NAME, DECAYED)
    case.server.script(PATH, faults.flip_bit(ROTTEN))
    run = case.run()
    case.check_delivered()
    assert run.report.receipts[0].grade is Grade.PINNED


def test_s08_a_padded_page_is_caught_by_the_digest(case: Case) -> None:
    case.put(DATA, proof=Proof.NOTHING, hash={"sha256": digest("sha256", DATA)})
    case.server.script(PATH, faults.padded_login_page(etag='W/"weak"'), on=3)
    run = case.run()
    assert run.code is DONE
    case.check_delivered()


def test_s08_a_padded_page_first(case: Case) -> None:
    """A page without an ETag cannot pin what comes after: its bytes are not mixed with others."""
    case.put(DATA)
    case.server.script(PATH, faults.padded_login_page(), on=1)
    run = case.run()
    assert run.code is DONE
    case.check_delivered()


@pytest.mark.parametrize("delta", [-1, 1, -SIZE])
@pytest.mark.parametrize("whole", [False, True], ids=["ranged", "whole"])
def test_another_size_than_the_manifest_says(case: Case, delta: int, whole: bool) -> None:
    case.put(DATA, proof=Proof.NOTHING)
    case.server.put(PATH, made(SIZE + delta), etag='W/"weak"')
    if whole:
        case.server.script(PATH, faults.whole_200())
    run = case.run()
    assert (run.code, run.error().cause) == (CONTENT, "size")
    assert isinstance(run.error(), segdl.SizeError)
    assert (run.report.bytes, len(case.server.requests) <= 3) == (0, True)
    case.check_no_data()
    case.server.put(PATH, DATA, etag='W/"weak"')
    case.finish()


@pytest.mark.parametrize("proof", [Proof.DIGEST, Proof.NOTHING])
def test_s22_a_stream_that_goes_on_after_its_size(case: Case, proof: Proof) -> None:
    """No length, no range, and more than the manifest says: not a prefix of it is delivered."""
    case.put(DATA, proof=proof)
    endless = faults.chain(faults.whole_200(), faults.endless_body(declared=False))
    case.server.script(PATH, endless)
    run = case.run()
    assert (run.code, run.error().cause) == (CONTENT, "size")
    assert len(case.server.requests) <= 3
    assert run.report.bytes <= 3 * SIZE
    case.finish(again=True)


# -- sizes -----------------------------------------------------------------------------------------

SIZES = (0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT - 1, 3 * SEGMENT, 3 * SEGMENT + 1)
UNFRAMED = faults.chain(faults.whole_200(), faults.no_length())
WAYS: dict[str, Fault] = {
    "honest": faults.honest(),
    "whole": faults.whole_200(),
    "chunked": faults.chain(faults.whole_200(), faults.chunked()),
    "unframed": UNFRAMED,
    "no range without a size": faults.no_length(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("proof", [Proof.DIGEST, Proof.NOTHING])
def test_s15_every_size(case: Case, way: str, proof: Proof) -> None:
    """Known and unknown, empty, one byte, and around whole segments, each in one order."""
    for size in SIZES:
        for sized in (True, False):
            if way == "unframed" and not sized and proof is Proof.NOTHING:
                continue  # nothing says where it ends: see the test below
            path = f"/{'known' if sized else 'unknown'}-{size}"
            case.put(made(size, size), path, proof=proof, sized=sized)
            case.server.script(path, WAYS[way])
    run = case.run()
    run.report.raise_for_failures()
    case.check_delivered()
    sent = sum(request.sent for request in case.server.requests if not request.path.endswith("-0"))
    assert sent == sum(len(data) for (data,) in case.contents.values())


def test_s12_nothing_says_how_long_it_is(case: Case) -> None:
    """No length, no framing, no digest, no size: the end of a connection proves nothing."""
    case.put(DATA, proof=Proof.NOTHING, sized=False)
    case.server.script(PATH, UNFRAMED)
    run = case.run()
    assert (run.code, run.error().cause) == (NETWORK, "unreachable")
    case.finish(again=True)


@pytest.mark.parametrize(
    ("end", "times"), [(faults.cut_chunked, 3), (faults.no_length, 1)], ids=["chunked", "unframed"]
)
def test_s12_a_stream_that_is_cut(case: Case, end: Callable[[int], Fault], times: int) -> None:
    """A server without ranges starts from its first byte again; the size is not known."""
    case.put(DATA, proof=Proof.DIGEST, sized=False)
    case.server.script(PATH, WAYS["chunked"])
    cut = faults.chain(faults.whole_200(), end(3 * SEGMENT))
    case.server.script(PATH, cut, on=range(1, times + 1))
    run = case.run(retries=times)
    assert run.code is DONE
    case.check_delivered()
    assert not run.report.receipts[0].resumable


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("proof", ALL)
def test_s14_an_empty_object(case: Case, label: bool, sized: bool, proof: Proof) -> None:
    case.put(b"", proof=proof, sized=sized)
    case.server.script(PATH, faults.empty_416(label))
    run = case.run()
    assert run.code is DONE
    case.check_delivered()
    assert len(case.server.requests) == 1
    assert case.run().report.skipped == {NAME}
    assert len(case.server.requests) == 1


@pytest.mark.parametrize("sized", [True, False])
def test_s01_what_is_no_range_cannot_resume(case: Case, sized: bool) -> None:
    """One stream, read by one worker; the report says that it cannot be resumed."""
    case.put(DATA, sized=sized)
    case.server.script(PATH, faults.whole_200())
    run = case.run()
    assert len(case.server.requests) == 1
    assert not run.report.receipts[0].resumable
    assert case.server.sent() == SIZE


def test_pieces_that_are_fewer_than_the_object_has(case: Case) -> None:
    """The size is not given, but the digests of the segments say about how long it is."""
    case.put(DATA, sized=False, pieces=pieces_of(DATA[: 2 * SEGMENT]))
    run = case.run()
    assert (run.code, run.error().cause) == (CONTENT, "size")
    assert run.report.bytes == 0


# -- slices and encodings --------------------------------------------------------------------------


def test_slices_of_one_object(case: Case) -> None:
    """Targets that are byte ranges of one object, on no segment's border."""
    edges = [0, 1, SEGMENT + 7, 3 * SEGMENT, SIZE]
    for start, stop in pairwise(edges):
        part = {"offset": str(start), "size": str(stop - start)}
        case.put(DATA, name=f"{start}", sized=False, slice=part)
        case.may_hold(f"{start}", DATA[start:stop])
    run = case.run()
    run.report.raise_for_failures()
    case.check_delivered()
    assert case.server.sent() == SIZE
    assert {receipt.grade for receipt in run.report.receipts} == {Grade.PINNED}


def test_a_slice_beyond_the_end(case: Case) -> None:
    case.put(DATA, sized=False, slice={"offset": str(SIZE - 10), "size": "11"})
    run = case.run()
    assert (run.code, run.error().cause) == (CONTENT, "size")
    assert "slice" in str(run.error())


def test_s01_a_slice_from_a_server_without_ranges(case: Case) -> None:
    part = {"offset": str(SEGMENT), "size": str(SEGMENT)}
    case.put(DATA, sized=False, slice=part)
    case.may_hold(NAME, DATA[SEGMENT : 2 * SEGMENT])
    case.server.script(PATH, faults.whole_200())
    run = case.run()
    assert (run.code, run.error().cause) == (NETWORK, "unreachable")
    assert run.report.bytes == 0
    case.finish()


def test_s11_a_stored_encoding_is_kept_raw(case: Case) -> None:
    case.put(DATA)
    case.server.put(PATH, DATA, headers={"Content-Encoding": "gzip"})
    assert case.run().code is DONE
    case.check_delivered()
    assert {request.headers["accept-encoding"] for request in case.server.requests} == {"identity"}


def test_s11_the_first_answer_erred(case: Case) -> None:
    """What pins the object is doubted when no second answer ever agrees with it."""
    case.put(DATA)
    case.server.script(PATH, faults.gzip_label(), on=1)
    assert case.run().code is DONE
    case.check_delivered()
    assert case.server.sent() <= 2 * SIZE + SEGMENTS * SEGMENT


def test_s11_all_answers_of_a_run_erred(case: Case) -> None:
    """A later run against the honest server finishes by itself: it drops what it cannot go on
    with."""
    case.put(DATA)
    case.server.script(PATH, faults.gzip_label())
    case.server.script(PATH, faults.hang_up(), on=range(4, 1000))
    assert case.run(connections=1).code is NETWORK
    case.finish(again=True)


# -- ETags -----------------------------------------------------------------------------------------

MIB = 1024 * 1024


def multipart_etag(data: bytes, part: int) -> str:
    """What S3 gives an object that was uploaded in parts of `part` bytes."""
    md5s = [hashlib.md5(data[at : at + part]).hexdigest() for at in range(0, len(data), part)]
    return f'"{digest_of_parts(md5s)}"'


def test_a_multipart_etag_is_proved_as_it_lands(case: Case) -> None:
    """Segments become the upload's parts, so that the grade costs no second read."""
    data = made(11 * MIB)
    case.put(data, etag=multipart_etag(data, 5 * MIB))
    run = case.run(segment_size=None)
    case.check_delivered()
    assert run.report.receipts[0].grade is Grade.ETAG
    assert run.report.receipts[0].segments.size == 5 * MIB
    assert run.report.bytes == len(data)


@pytest.mark.parametrize("tag", ['"0123456789abcdef0123456789abcdef-2"', '"not-a-digest-9"'])
def test_an_etag_that_proves_nothing_is_no_failure(case: Case, tag: str) -> None:
    case.put(made(6 * MIB), etag=tag)
    run = case.run(segment_size=None)
    case.check_delivered()
    assert run.report.receipts[0].grade is Grade.PINNED


def test_a_strong_etag_is_in_every_request_but_the_first(case: Case) -> None:
    tag = '"v1"'
    case.put(DATA, etag=tag)
    assert case.run().report.receipts[0].grade is Grade.PINNED
    conditions = [request.headers.get("if-match") for request in case.server.requests]
    assert conditions == [None] + [tag] * (SEGMENTS - 1)


@pytest.mark.parametrize("tag", ["", 'W/"weak"', "naked", '"with"quote"'])
def test_s10_no_strong_etag_is_never_a_condition(case: Case, tag: str) -> None:
    case.put(DATA, etag=tag)
    run = case.run()
    case.check_delivered()
    assert run.report.receipts[0].grade is Grade.UNVERIFIED
    assert not [r for r in case.server.requests if "if-match" in r.headers]


def replacing(case: Case, fresh: bytes, etag: str | None = None) -> Fault:
    """The answer is still of the old object; all that follow are of the new one."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        case.server.put(PATH, fresh, etag=etag)
        return answer

    return fault


@pytest.mark.parametrize("size", [SIZE, SIZE - 7, SIZE + SEGMENT])
@pytest.mark.parametrize("conditions", [True, False], ids=["412", "ignored"])
@pytest.mark.parametrize("connections", [1, 4])
def test_s09_replaced_in_the_middle(
    case: Case, size: int, conditions: bool, connections: int
) -> None:
    """The result is the new object from its first byte to its last.

    Or the old one, where other connections had asked for all of it before it was replaced.
    """
    fresh = made(size, 2)
    case.put(DATA, sized=False)
    case.may_hold(NAME, fresh, *[DATA] * (connections - 1))
    if not conditions:
        case.server.script(PATH, faults.unconditional())
    case.server.script(PATH, replacing(case, fresh), on=3)
    run = case.run(connections=connections)
    assert run.code is DONE
    case.check_delivered()
    assert run.report.receipts[0].grade is Grade.ETAG
    disbelieved = 0 if conditions else (connections - 1) * SEGMENT  # of the new one, by the others
    assert case.server.sent() <= SIZE + size + disbelieved
    if connections == 1:
        assert "stale" in {event.cause for event in run.of(events.Retry)}


def test_s09_without_an_etag_the_date_tells(case: Case) -> None:
    """Last-Modified is what is left, where it is older than the answer."""
    case.put(DATA, proof=Proof.NOTHING, sized=False)
    case.may_hold(NAME, OTHER)
    dated = {"Last-Modified": "Thu, 14 Dec 2023 08:00:00 GMT"}

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        case.server.put(PATH, OTHER, etag='W/"weak"')
        return answer

    def redated(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        return answer.having(**{"Last-Modified": dated["Last-Modified"]})

    case.server.script(PATH, redated, on=range(4, 1000))
    case.server.script(PATH, fault, on=3)
    run = case.run(connections=1)
    assert run.code is DONE
    case.check_delivered()


@pytest.mark.parametrize("conditions", [True, False], ids=["412", "ignored"])
@pytest.mark.parametrize("size", [SIZE, SIZE - 7])
def test_s09_replaced_between_two_runs(case: Case, conditions: bool, size: int) -> None:
    """What is held of the old object is not mixed with the new one."""
    case.put(DATA, sized=False)
    case.server.script(PATH, faults.hang_up(), on=range(4, 1000))
    assert case.run(connections=1).code is NETWORK
    fresh = made(size, 2)
    case.server.put(PATH, fresh)
    case.may_hold(NAME, fresh)
    case.server.mend()
    if not conditions:
        case.server.script(PATH, faults.unconditional())
    run = case.run()
    assert run.held == 3 * SEGMENT
    assert run.code is DONE
    case.check_delivered()


def test_s09_replaced_and_the_disk_does_not_let_it_begin_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is this target's failure, and no other's."""
    case.put(DATA, sized=False)
    case.put(made(SIZE, 3), "/other.7z")
    case.server.script(PATH, replacing(case, OTHER), on=3)

    def fail(task: Task) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(Task, "restart", fail)
        run = case.run(connections=1)
    assert (run.code, run.error().target) == (ExitCode.DISK, NAME)
    assert [receipt.path for receipt in run.report.receipts] == ["other.7z"]
    case.may_hold(NAME, OTHER)
    case.finish(again=True)


def test_s09_replaced_and_not_what_the_manifest_wants(case: Case) -> None:
    case.put(DATA, proof=Proof.DIGEST)
    case.server.script(PATH, replacing(case, OTHER), on=3)
    run = case.run(connections=1)
    assert (run.code, run.error().cause) == (CONTENT, "digest")
    case.server.put(PATH, DATA)
    case.finish(again=True)


def test_s09_replaced_for_ever(case: Case) -> None:
    """An object that changes all the time is given up, after a bounded number of bytes."""
    case.put(DATA, sized=False)

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        case.server.put(PATH, made(SIZE, request.serial))
        return answer

    case.server.script(PATH, fault)
    run = case.run(connections=1)
    assert (run.code, run.error().cause) == (NETWORK, "unreachable")
    assert case.server.sent() <= 8 * SEGMENT
    case.may_hold(NAME, made(SIZE, 1000))
    case.server.put(PATH, made(SIZE, 1000))
    case.finish(again=True)


# -- links that have ended, or never worked --------------------------------------------------------

ENDED = "&X-Amz-Date=20231213T080000Z&X-Amz-Expires=3600"
SECOND = "/orders/b.7z"


def resign(case: Case, signature: str = "fresh") -> None:
    """The same order with new share URLs."""
    for entry in case.files.values():
        entry["url"] = entry["url"].replace(CANARY, f"{CANARY}{signature}")


@pytest.mark.parametrize("dialect", faults.EXPIRED)
def test_s16_an_expired_link_in_every_dialect(case: Case, dialect: str) -> None:
    """Asked once, named, waiting for a fresh URL; the others go on."""
    case.put(DATA, query=QUERY + (ENDED if dialect == "rclone" else ""))
    case.put(OTHER, SECOND)
    case.server.script(PATH, faults.EXPIRED[dialect])
    run = case.run(connections=2)
    error = run.error()
    assert (run.code, error.cause) == (LINKS, "expired")
    assert isinstance(error, segdl.ExpiredError)
    assert "fresh manifest" in str(error)
    assert len([r for r in case.server.requests if r.path == PATH]) == 1
    assert [receipt.path for receipt in run.report.receipts] == ["b.7z"]
    assert [event.target for event in run.of(events.TargetPaused)] == [NAME]
    (refusal,) = [r for r in case.server.requests if r.path == PATH]
    (expired,) = run.of(events.UrlExpired)
    assert expired.request_id == error.request_id
    assert error.request_id == (None if dialect == "rclone" else refusal.request_id)
    resign(case)
    case.finish()


@pytest.mark.parametrize("connections", [1, 4])
def test_s16_a_link_that_ends_in_the_middle(case: Case, connections: int) -> None:
    """What is held stays held; no storm; the re-signed order fetches the rest and nothing else."""
    case.put(DATA)
    case.server.script(PATH, faults.EXPIRED["MinIO"], on=range(3, 1000))
    run = case.run(connections=connections)
    assert (run.code, run.error().cause) == (LINKS, "expired")
    assert len(case.server.requests) <= 2 + connections
    landed = run.report.bytes  # of the probe, and of whichever segment asked second
    assert landed in (2 * SEGMENT, SEGMENT + SIZE % SEGMENT)
    resign(case)
    assert case.finish().held == landed


def test_s16_a_hundred_targets_with_one_dead_key(case: Case) -> None:
    """A request a target and no more."""
    for number in range(100):
        case.put(made(10, number), f"/orders/{number}.7z")
    case.server.script(EVERY_PATH, faults.EXPIRED["MinIO"])
    run = case.run()
    assert run.code is LINKS
    assert len(case.server.requests) == 100
    assert {failure.error.target for failure in run.report.failures} == set(case.files)


def test_a_403_that_is_a_rate_limit(case: Case) -> None:
    """Some CDNs refuse so; the link has worked, so it is asked again."""
    case.put(DATA)
    case.server.script(PATH, faults.status(403), on={3, 4})
    run = case.run(connections=1)
    assert run.code is DONE
    case.check_delivered()


# -- mirrors ---------------------------------------------------------------------------------------

BAD_MIRRORS: dict[str, Fault] = {
    "404": faults.s3_error(404, "NoSuchKey"),
    "expired": faults.EXPIRED["AWS"],
    "signature": faults.s3_error(403, "SignatureDoesNotMatch"),
    "no ranges to trust": faults.mislabelled(1),
    "a page": faults.login_page(),
    "rotten": faults.flip_bit(ROTTEN),
    "another size": faults.replaced(made(SIZE - 1), '"other"'),
}


def mirrored(case: Case, data: bytes, *paths: str, **entry: Any) -> None:
    """One target whose mirrors are these paths on the server."""
    urls = [case.server.url(path, QUERY) for path in paths]
    for path in paths:
        case.put(data, path, name=NAME, urls=urls, **entry)


@pytest.mark.parametrize("bad", BAD_MIRRORS)
def test_s17_the_next_mirror_serves(case: Case, bad: str) -> None:
    mirrored(case, DATA, "/bad", "/good", pieces=pieces_of(DATA))
    case.server.script("/bad", BAD_MIRRORS[bad])
    run = case.run()
    assert run.code is DONE, [str(f.error) for f in run.report.failures]
    case.check_delivered()
    assert len([r for r in case.server.requests if r.path == "/bad"]) <= 2 * SEGMENTS


def test_s17_a_mirror_that_refuses_is_asked_once(case: Case) -> None:
    mirrored(case, DATA, "/bad", "/good")
    case.server.script("/bad", faults.status(404))
    assert case.run().code is DONE
    assert [r.path for r in case.server.requests] == ["/bad"] + ["/good"] * SEGMENTS


def test_every_mirror_refuses(case: Case) -> None:
    mirrored(case, DATA, "/a", "/b", "/c")
    case.server.script(EVERY_PATH, faults.s3_error(404, "NoSuchKey"))
    run = case.run()
    assert (run.code, run.error().cause, run.error().code) == (LINKS, "refused", "NoSuchKey")
    assert [r.path for r in case.server.requests] == ["/a", "/b", "/c"]
    case.finish()


def test_a_mirror_with_another_object_mixes_nothing(case: Case) -> None:
    """The first one breaks down in the middle, and the second has another object."""
    mirrored(case, DATA, "/a", "/b", sized=False)
    case.server.put("/b", OTHER)
    case.may_hold(NAME, OTHER)
    case.server.script("/a", faults.status(404), on=range(3, 1000))
    assert case.run(connections=1).code is DONE
    case.check_delivered()


@pytest.fixture
def dead_host() -> Iterator[str]:
    """A port that refuses connections, and that nobody else gets."""
    with TCPProxy("127.0.0.1", 1) as proxy:
        proxy.down()
        yield f"http://127.0.0.1:{proxy.port}"


def test_n08_the_first_host_is_down(case: Case, dead_host: str) -> None:
    """Every target of the order goes to its second mirror at once."""
    for number in range(20):
        path = f"/{number}.7z"
        urls = [dead_host + path, case.server.url(path, QUERY)]
        case.put(made(1000 + number, number), path, urls=urls)
    run = case.run(patience=60.0)
    assert run.code is DONE
    case.check_delivered()
    assert len(run.of(events.Throttled)) < 20  # not every target finds out for itself


def test_n01_a_host_that_never_comes_up(case: Case, dead_host: str) -> None:
    """Patience is used up: all its targets fail, each with its own name, the others do not."""
    for number in range(3):
        case.put(DATA, name=f"dead-{number}", url=f"{dead_host}/{number}?{QUERY}")
    case.put(OTHER, SECOND)
    began = time.monotonic()
    run = case.run(patience=0.8)
    assert time.monotonic() - began > 0.5
    assert run.code is NETWORK
    assert {failure.error.target for failure in run.report.failures} == {
        "dead-0", "dead-1", "dead-2",
    }  # fmt: skip
    assert {failure.error.cause for failure in run.report.failures} == {"unreachable"}
    assert [receipt.path for receipt in run.report.receipts] == ["b.7z"]


def test_n01_refused_and_then_up(case: Case) -> None:
    with TCPProxy(case.server.host, case.server.port) as proxy:
        proxy.down()
        case.put(DATA, url=f"http://127.0.0.1:{proxy.port}{PATH}?{QUERY}")

        def mend(event: segdl.Event) -> None:
            if isinstance(event, events.Throttled):
                proxy.up()

        run = case.run(patience=20.0, retries=0, listener=mend)
        assert run.code is DONE
        case.check_delivered()


# -- servers that are busy -------------------------------------------------------------------------


def busy_order(case: Case, targets: int = 4) -> None:
    for number in range(targets):
        case.put(made(1000, number), f"/{number}.7z")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_s18_all_workers_of_a_host_hold(case: Case, status: int, form: str) -> None:
    """One Retry-After holds every worker back, once: none comes before its time."""
    busy_order(case)
    refused: list[Seen] = []

    def too_early(request: Seen) -> bool:
        early = not refused or request.time < refused[0].time + 0.9
        refused.extend([request] if early else [])
        return early

    def busy(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        after = 1 if form == "seconds" else faults.in_seconds(2)  # by a clock of whole seconds
        return faults.slow_down(after, status)(wire, request, answer)

    case.server.script(EVERY_PATH, busy, on=too_early)
    run = case.run(patience=30.0, retries=0)
    assert run.code is DONE
    case.check_delivered()
    assert 1 <= len(refused) <= 4
    assert max(event.wait for event in run.of(events.Throttled)) <= 2.0
    assert len(case.server.requests) <= 8


@pytest.mark.parametrize("after", ["soon", "-1", "", "Wed, 13 Dec 2023 08:00:00 GMT", None])
def test_s18_a_retry_after_that_says_nothing(case: Case, after: str | None) -> None:
    """segdl's own schedule: half a second, then a probe."""
    busy_order(case, 1)
    case.server.script(EVERY_PATH, faults.slow_down(after), on=1)
    run = case.run(patience=30.0)
    assert run.code is DONE
    first, second = (request.time for request in case.server.requests)
    assert second - first >= 0.4
    (told,) = run.of(events.Throttled)
    assert told.wait <= 0.6


@pytest.mark.parametrize("after", [3600, 10**40, faults.in_seconds(86400)],
                         ids=["an hour", "more than there is", "a date"])  # fmt: skip
def test_s18_an_absurd_retry_after_is_capped(case: Case, after: Any) -> None:
    busy_order(case)
    case.server.script(EVERY_PATH, faults.slow_down(after))
    control = segdl.Control()

    def stop(event: segdl.Event) -> None:
        if isinstance(event, events.Throttled):
            control.cancel()

    run = case.run(patience=300.0, listener=stop, control=control)
    waits = [event.wait for event in run.of(events.Throttled)]
    assert waits
    assert all(50 <= wait <= 60 for wait in waits)
    assert len(case.server.requests) <= 4
    case.finish()


def test_s19_an_outage_costs_few_requests(case: Case) -> None:
    """One probe at a time while it lasts, and no tries of any segment are used up."""
    busy_order(case, 8)
    ended = time.monotonic() + 2.0
    case.server.script(EVERY_PATH, faults.status(502), on=lambda r: r.time < ended)
    run = case.run(patience=30.0, retries=0)
    assert run.code is DONE
    case.check_delivered()
    failed = [request for request in case.server.requests if request.time < ended]
    assert len(failed) <= 4 + 3  # the first of every worker, then probes


# -- silence and trickles --------------------------------------------------------------------------

SILENCES: dict[str, Fault] = {
    "never answers": faults.blackhole(),
    "silent after the head": faults.blackhole(0),
    "silent in the middle": faults.blackhole(30_000),
    "a byte a second": faults.trickle(10),
    "a slow head": faults.slow_head(10),
}


@pytest.mark.parametrize("silence", SILENCES)
def test_n03_ended_within_the_stall_window(case: Case, silence: str) -> None:
    """What came is kept; the rest comes over another connection."""
    case.put(DATA)
    case.server.script(PATH, SILENCES[silence], on=2)
    run = case.run(timeout=0.4, retries=8)  # more than a machine that stands still costs
    assert run.code is DONE
    case.check_delivered()
    assert run.report.bytes == SIZE


# -- redirects -------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[FaultServer]:
    """Another origin."""
    with FaultServer() as server:
        server.put("/there", DATA)
        yield server


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_s21_within_the_host(case: Case, status: int) -> None:
    case.put(DATA)
    case.server.put("/there", DATA)
    case.server.script(PATH, faults.redirect("/there?X-Amz-Signature=" + CANARY, status))
    assert case.run().code is DONE
    case.check_delivered()


@pytest.mark.parametrize("presigned", [True, False])
def test_s21_to_another_host_without_credentials(
    case: Case, elsewhere: FaultServer, presigned: bool
) -> None:
    """The origin's own headers stay with it; `--header` goes to the first origin alone."""
    case.put(DATA, query=QUERY if presigned else f"token={CANARY}")
    case.server.script(PATH, faults.redirect(elsewhere.url("/there", QUERY)))
    run = case.run(headers=(("X-Own", f"secret {CANARY}"),))
    assert run.code is DONE
    case.check_delivered()
    for request in elsewhere.requests:
        assert not {"x-secret", "x-own", "authorization", "cookie", "referer"} & set(
            request.headers
        )
    for request in case.server.requests:
        assert ("x-secret" in request.headers) is not presigned
        assert request.headers["x-own"].startswith("secret")


BAD_PLACES = {
    "file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1/x",
    "data": "data:,x",
    "link-local": "http://169.254.169.254/latest/meta-data/",
    "link-local v6": "http://[fe80::1]/",
    "unspecified": "http://0.0.0.0:1/",
    "credentials": f"http://user:{CANARY}@127.0.0.1:1/",
    "port": "http://127.0.0.1:70000/",
    "nowhere": "",
    "a control character": f"/there\t{CANARY}",
    "itself": PATH,
}


@pytest.mark.parametrize("place", BAD_PLACES)
def test_s21_to_a_worse_place(case: Case, place: str) -> None:
    case.put(DATA)
    case.server.script(PATH, faults.redirect(BAD_PLACES[place]))
    run = case.run()
    assert (run.code, run.error().cause) == (NETWORK, "unreachable")
    assert "redirect" in str(run.error())
    assert len(case.server.requests) == (6 if place == "itself" else 1)
    case.finish()


@pytest.mark.parametrize(("hops", "code"), [(5, DONE), (6, NETWORK)])
def test_s21_five_at_most(case: Case, hops: int, code: ExitCode) -> None:
    case.put(DATA, "/0", name=NAME)
    for hop in range(hops):
        case.server.put(f"/{hop + 1}", DATA)
        case.server.script(f"/{hop}", faults.redirect(f"/{hop + 1}"))
    assert case.run().code is code


def test_s21_never_from_https_to_http(
    case: Case, server_tls: ssl.SSLContext, ca_file: Path
) -> None:
    with FaultServer(tls=server_tls) as secure:
        secure.put(PATH, DATA)
        case.put(DATA, url=secure.url(PATH, QUERY))
        secure.script(PATH, faults.redirect(case.server.url(PATH, QUERY)))
        run = case.run(ca_file=str(ca_file))
        assert (run.code, run.error().cause) == (NETWORK, "unreachable")
        assert "https to http" in str(run.error())
        assert not case.server.requests
        secure.mend()
        assert case.run(ca_file=str(ca_file)).code is DONE


def test_n06_an_unknown_certificate(case: Case, server_tls: ssl.SSLContext) -> None:
    with FaultServer(tls=server_tls) as secure:
        case.put(DATA, url=secure.url(PATH, QUERY))
        run = case.run()
        assert (run.code, run.error().cause) == (NETWORK, "unreachable")
        assert "certificate" in str(run.error())
        assert not secure.requests


# -- secrets ---------------------------------------------------------------------------------------


LEADING = f"X-Amz-Signature={CANARY}&"
START = len(f"{PATH}?X-Amz-Signature=")  # of the secret, in the request's target
CUTS = [limit - START - 16 for limit in (60, 80, 120, 200)]  # so that a cut falls into the secret


def echo(request: Seen, pad: int = 0) -> str:
    return "x" * pad + request.target


def echoing_error(status: int, pad: int) -> Fault:
    """An error that repeats the whole request target in each of its fields."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        text = echo(request, pad)
        inner = faults.s3_error(status, text, text, text, AuthenticationErrorDetail=text)
        said = inner(wire, request, answer)
        assert said is not None
        return said.having(**{"x-amz-request-id": text, "Retry-After": text})

    return fault


def echoing_headers(*names: str, status: int | None = None) -> Fault:
    """The whole target in the values of these headers."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        return answer.having(**{name.replace("-", "_"): echo(request) for name in names})

    return fault


def echoing_garbage(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
    """What is no HTTP at all."""
    wire.send(f"HTTP/1.1 200 OK\r\n{request.target} {request.target}\r\n\r\n".encode())
    wire.close()
    return None


def echoing_status(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
    wire.send(f"{request.target} 200 OK\r\n\r\n".encode())
    wire.close()
    return None


ECHOES: dict[str, Fault] = {
    **{f"{status} at {pad}": echoing_error(status, pad)
       for status in (200, 400, 403, 404, 416, 429, 500) for pad in (0, *CUTS)},
    "content-range": echoing_headers("Content-Range"),
    "content-encoding": echoing_headers("Content-Encoding"),
    "redirect": faults.chain(faults.redirect(""), echoing_headers("Location")),
    "garbage": echoing_garbage,
    "status line": echoing_status,
    "transfer-encoding": echoing_headers("Transfer-Encoding"),
    "length": echoing_headers("Content-Length"),
}  # fmt: skip


@pytest.mark.parametrize("way", ECHOES)
def test_a_server_that_echoes_the_url(case: Case, way: str) -> None:
    """However it comes back, no part of the signature is kept or shown (see Case.check_secrets)."""
    case.put(DATA, query=LEADING + QUERY)
    case.server.script(PATH, ECHOES[way])
    run = case.run(retries=0, patience=0.0)
    shown = "".join(repr(event) for event in run.events) + "".join(
        f"{f.error} {vars(f.error)}" for f in run.report.failures
    )
    assert CANARY[:14] not in shown


def test_a_redirected_url_is_a_password_too(case: Case, elsewhere: FaultServer) -> None:
    case.put(DATA, query="X-Amz-Signature=harmless")
    case.server.script(PATH, faults.redirect(elsewhere.url("/there", QUERY)))
    elsewhere.script("/there", echoing_error(403, 0))
    assert case.run().code is LINKS


@pytest.mark.parametrize("name", ["token", "X-Amz-Security-Token", "versionId"])
def test_no_query_is_in_any_file(case: Case, name: str) -> None:
    """Not even of a URL without a signature that segdl knows; and it still tells objects apart."""
    query = f"{name}={CANARY}"
    case.put(DATA, query=query)
    case.server.script(PATH, faults.hang_up(), on=range(3, 1000))
    assert case.run(connections=1).code is NETWORK
    case.finish()
    assert case.run().report.skipped == {NAME}


def test_headers_by_origin(case: Case, elsewhere: FaultServer) -> None:
    """Sent to their own origin, never to another, never with a presigned URL."""
    case.put(DATA, query="")
    case.put(OTHER, SECOND, query=QUERY)
    case.put(DATA, name="there", url=elsewhere.url("/there"))
    assert case.run().code is DONE
    for request in case.server.requests:
        assert ("x-secret" in request.headers) == (request.path == PATH)
    assert not [r for r in elsewhere.requests if "x-secret" in r.headers]


# -- the whole order -------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 2, 5])
def test_connections_are_never_more(case: Case, connections: int) -> None:
    for number in range(6):
        case.put(made(3 * SEGMENT, number), f"/{number}.7z")
    case.server.script(EVERY_PATH, faults.slow_down(0), on={2, 5, 9})
    assert case.run(connections=connections).code is DONE
    case.check_delivered()
    assert case.server.peak <= connections


def test_x04_many_tiny_targets(case: Case) -> None:
    for number in range(100):
        case.put(made(number % 7, number), f"/{number}.7z")
    assert case.run(connections=16).code is DONE
    case.check_delivered()
    assert len(case.server.requests) == 100
    assert case.server.peak <= 16


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("connections", [1, 4])
def test_the_rate_limit_holds(case: Case, connections: int) -> None:
    rate, seconds = 1024 * 1024, 1.5
    case.put(made(int(rate * seconds)))
    began = time.monotonic()
    assert case.run(connections=connections, limit_rate=RateLimit(rate)).code is DONE
    assert seconds * 0.85 <= time.monotonic() - began <= seconds * 2
    case.check_delivered()


def test_the_rate_limit_holds_from_the_first_second(case: Case) -> None:
    """However many connections share it, none takes more at once than its part of a moment."""
    rate, connections, control = 256 * 1024, 8, segdl.Control()
    for number in range(connections):
        case.put(made(1024 * 1024, number), f"/{number}.7z")
    came: list[tuple[float, int]] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Progress):
            came.append((time.monotonic() - began, event.bytes))
            if event.bytes >= 2 * rate:
                control.cancel()

    began = time.monotonic()
    case.run(
        connections=connections, limit_rate=RateLimit(rate), control=control, listener=listen
    )  # fmt: skip
    assert all(count <= rate * (spent + 0.5) for spent, count in came), came
    assert came[-1][1] >= 2 * rate


def test_a_limit_that_holds_at_other_times(case: Case) -> None:
    """A window that the clock is not in limits nothing."""
    hour = (time.localtime().tm_hour + 12) % 24
    window = parse_rate(f"{hour:02}:00-{hour:02}:30=1KiB")
    case.put(DATA)
    assert case.run(limit_rate=window).code is DONE


def test_a_part_of_the_order(case: Case) -> None:
    """`select` and `exclude` are globs over paths; shards are disjoint and leave nothing out."""
    names = [f"{folder}/{number}.7z" for folder in "ab" for number in range(6)]
    for name in names:
        case.put(name.encode(), f"/{name}", name=name)

    def chosen(**options: Any) -> set[str]:
        return {receipt.path for receipt in case.run(**options).report.receipts}

    assert chosen(select=("a/*",), exclude=("*/3.*",)) == {
        name for name in names if name.startswith("a") and "3" not in name
    }
    shards = [chosen(shard=(part, 3)) for part in (1, 2, 3)]
    assert sorted(name for shard in shards for name in shard) == sorted(names)
    assert chosen(select=("nothing",)) == set()
    case.check_delivered()


def test_failures_of_different_kinds(case: Case) -> None:
    """Exit 1, each failure named, and none of them stops the others."""
    case.put(DATA, "/gone", name="gone")
    case.put(DATA, "/rotten", name="rotten", proof=Proof.DIGEST)
    case.put(OTHER, "/good", name="good")
    case.server.script("/gone", faults.s3_error(404, "NoSuchKey", request_id="REQ-GONE"))
    case.server.script("/rotten", faults.flip_bit(5))
    run = case.run()
    assert run.code is ExitCode.MIXED
    assert [f.path for f in run.report.failures] == ["gone", "rotten"]
    assert run.error("gone").request_id == "REQ-GONE"
    assert [receipt.path for receipt in run.report.receipts] == ["good"]
    case.finish(again=True)
