"""What came of an order, for a person: what is there, what proved it, what failed, what to do."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from segdl.cli import wording
from segdl.core.complaint import printable
from segdl.core.errors import DiskFullError, ExitCode, ExpiredError, SegdlError, StoppedError
from segdl.core.report import Failure, Grade, LeftOut, Receipt, Report, Taken

SHOWN = 20  # failures that are told in full


def summary(report: Report, manifest: str, output: Path) -> Iterator[str]:
    """The lines of a summary. `manifest` is how it was named; a URL's query is not shown."""
    yield _delivered(report, output)
    if report.bytes:
        yield _fetched(report)
    yield from _taken(report.taken)
    if report.receipts:
        yield "Proof: " + ", ".join(_proofs(report.receipts))
    yield from _not_resumable(report.receipts)
    yield from map(_left_out, report.left_out[:SHOWN])
    yield from _failures(report)
    if step := next_step(report.exit_code, manifest, output):
        yield step


def _delivered(report: Report, output: Path) -> str:
    total = wording.count(len(report.receipts) + len(report.failures), "file")
    before = sum(r.path in report.skipped for r in report.receipts)
    here = f" ({before} of them here already)" if before else ""
    held = wording.size(sum(r.size for r in report.receipts))
    return f"Delivered {len(report.receipts)} of {total}{here} in {printable(str(output))}: {held}"


def _fetched(report: Report) -> str:
    rate = wording.rate(report.bytes / max(report.seconds, 0.001))
    fetched = f"{wording.size(report.bytes)} ({report.bytes} bytes)"
    return f"Fetched {fetched} in {wording.span(report.seconds)}, {rate}"


def _taken(taken: Taken) -> Iterator[str]:
    if taken.files:
        files = wording.count(taken.files, "file")
        yield f"Taken from what is here: {wording.size(taken.bytes)} of {files}"
    if taken.unproved:
        files = wording.count(taken.unproved, "file")
        yield f"Not taken: {files} that nothing in the manifest proves (no hash, no pieces)"


def _proofs(receipts: tuple[Receipt, ...]) -> Iterator[str]:
    """`20 by sha256`, what proves most first."""
    counted = Counter((list(Grade).index(r.grade), _proof(r)) for r in receipts)
    for (_, proof), number in sorted(counted.items()):
        yield f"{number} {proof}"


def _proof(receipt: Receipt) -> str:
    match receipt.grade:
        case Grade.DIGEST:
            return f"by {' and '.join(receipt.digests)}"
        case Grade.PIECES:
            return "by the digest of every piece"
        case Grade.ETAG:
            return "by an ETag that is their MD5"
        case Grade.PINNED:
            return "pinned by ETag (no digest was given)"
    return "UNVERIFIED (neither digest nor strong ETag)"


def _not_resumable(receipts: tuple[Receipt, ...]) -> Iterator[str]:
    paths = [receipt.path for receipt in receipts if not receipt.resumable]
    if paths:
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        yield f"Their server cannot resume: {', '.join(paths[:3])}{more}"


def _left_out(mirror: LeftOut) -> str:
    more = f" and {mirror.targets - 1} more" if mirror.targets > 1 else ""
    why = printable(mirror.message, 200)
    return f"Mirror {printable(mirror.host)} was left out for {mirror.path}{more}: {why}"


def _failures(report: Report) -> Iterator[str]:
    waiting = [f for f in report.failures if isinstance(f.error, ExpiredError)]
    stopped = [f for f in report.failures if isinstance(f.error, StoppedError)]
    failed = [f for f in report.failures if not isinstance(f.error, ExpiredError | StoppedError)]
    yield from _listed("Failed", failed)
    yield from _room(failed)
    yield from _listed("Waiting for fresh links", waiting)
    if stopped:
        yield f"Not finished: {wording.count(len(stopped), 'file')}"


def _room(failures: list[Failure]) -> Iterator[str]:
    """What a full disk lacks for several: each of them alone reckons with all that is free."""
    lacking = [f.error.missing or 0 for f in failures if isinstance(f.error, DiskFullError)]
    room = sum(lacking)
    if room and len(lacking) > 1:
        yield f"  For all of these free at least {wording.size(room)}"


def _listed(title: str, failures: list[Failure]) -> Iterator[str]:
    if failures:
        yield f"{title}: {wording.count(len(failures), 'file')}"
    alike: dict[str, list[Failure]] = {}
    for failure in failures[:SHOWN]:
        alike.setdefault(reason(failure.error), []).append(failure)
    for group in alike.values():
        yield from _group(group)
    if len(failures) > SHOWN:
        yield f"  and {len(failures) - SHOWN} more"


def reason(error: SegdlError) -> str:
    """What two failures have in common whose servers may say it in words of their own."""
    why = error.diagnosis
    return f"{why.finding}: {why.advice}" if why else error.message


def _group(failures: list[Failure]) -> Iterator[str]:
    """What failed for one reason: the reason once, and the names below it."""
    first, error = failures[0].path, failures[0].error
    said = wording.quoting(error.message, error.request_id)
    if len(failures) == 1:
        yield f"  {first}: {said}"
        return
    yield f"  {said}"
    yield from (f"    {failure.path}" for failure in failures)


def next_step(code: ExitCode, manifest: str, output: Path) -> str | None:
    """What to do next, by the contract's table of exit codes."""
    again = command(manifest, output)
    fresh = command("NEW.yaml", output)
    match code:
        case ExitCode.DONE:
            return None
        case ExitCode.LINKS:
            return f"Get a fresh manifest and run: {fresh} (what is held stays)"
        case ExitCode.CONTENT:
            return "Tell the publisher: the content is not what the manifest says"
        case ExitCode.DISK:
            return f"Mend that on this disk and run again: {again} (what is held stays)"
        case ExitCode.NETWORK:
            return f"Run again when the server can be reached: {again} (what is held stays)"
        case ExitCode.HANGUP | ExitCode.INTERRUPTED | ExitCode.TERMINATED:
            return f"Stopped. To go on, run: {again} (what is held stays)"
    return f"Mend what each of them says and run again: {again} (what is held stays)"


def command(manifest: str, output: Path, name: str = "") -> str:
    """The command line to run again; a share URL is a password, and is not repeated."""
    shown = "URL" if manifest.startswith(("http://", "https://")) else shlex.quote(manifest)
    words = filter(None, ("segdl", name, printable(shown), "-o", shlex.quote(str(output))))
    return " ".join(words)
