"""A bug planted against each promise, and the test that must fail for it.

A test that passes whatever the code does proves nothing. Here the package is copied, one line of it
is changed as a tired programmer might, and the test named for the promise is run on the copy: the
round passes if the test fails. The table is also what the README's guarantees name. The last of
them are for the state machine, which looks for nothing in particular.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.torture.campaign import Campaign, Figures, Round

ROOT = Path(__file__).parents[2]
COPIED = ("segdl", "tests", "manifests", "pyproject.toml")
WITHIN = 180.0  # seconds for one test
MACHINE = "machine"  # in the place of a test: the campaign of that name
PLAYED = 8  # rounds of it, at most, until it notices


@dataclass(frozen=True, slots=True)
class Bug:
    """A change of one place in one file, and the test of a promise that must notice it."""

    promise: int
    test: str  # file::function, without `tests/` and `.py`; or MACHINE
    file: str
    good: str
    bad: str


BUGS: tuple[Bug, ...] = (
    Bug(1, "test_faults_end_to_end::test_s07_the_whole_is_wrong_for_ever", "core/proof.py",
        "            _compare(\"the content\"", "            pass  # _compare(\"the content\""),
    Bug(1, "test_faults_end_to_end::test_s07_a_segment_that_stays_rotten", "core/proof.py",
        "            _compare(what, pieces", "            pass  # _compare(what, pieces"),
    Bug(2, "test_faults_end_to_end::test_s09_replaced_in_the_middle", "core/verdict.py",
        "if found.etag != ask.pin.etag:", "if False:"),
    Bug(2, "test_faults_end_to_end::test_a_strong_etag_is_in_every_request_but_the_first",
        "edges/transport/connection.py", 'headers["If-Match"] = ask.pin.etag', "pass"),
    Bug(3, "test_verdict::test_the_table", "core/verdict.py",
        "if got.start != ask.start or got.stop > ask.stop:", "if got.stop > ask.stop:"),
    Bug(4, "test_durable::test_flushed_then_named_then_told", "engine/delivery.py",
        "        os.fsync(task.files.merged)\n", ""),
    Bug(4, "test_drafts::test_in_this_order", "engine/delivery.py",
        "self._workspace.flush_folders([receipt.path for receipt in receipts])", "{}"),
    Bug(4, "test_drafts::test_in_this_order", "engine/running.py",
        "        receipts = self._delivery.deliver_drafts(",
        "        self._delivery._flush = lambda drafts: None\n"
        "        receipts = self._delivery.deliver_drafts("),
    Bug(4, "test_drafts::test_in_this_order", "engine/running.py",
        "        receipts = self._delivery.deliver_drafts(",
        "        self._workspace.flush_folders = lambda paths: {}\n"
        "        receipts = self._delivery.deliver_drafts("),
    Bug(4, "test_drafts::test_in_this_order", "engine/desk.py",
        "        kept = attempted(self._delivery.keep, [done.receipt for _, done in pairs])\n",
        "        for work, done in pairs:\n"
        "            self._tell_done(work, done)\n"
        "        kept = attempted(self._delivery.keep, [done.receipt for _, done in pairs])\n"),
    Bug(5, "test_drafts::test_what_a_crash_costs_is_bounded_with_errands", "engine/errand.py",
        "            room -= self._put(work.job)\n", "            self._put(work.job)\n"),
    Bug(5, "test_resume::test_a_half_is_gone_on_with", "engine/task.py",
        "(held if complete else begun)[number] = record", "pass"),
    Bug(5, "test_resume::test_c01_kill_9_at_random_moments", "engine/worker.py",
        "CHECKPOINT = 512 * KIB", "CHECKPOINT = 512 * 1024 * KIB"),
    Bug(6, "test_resume::test_c05_a_bit_flipped", "core/journal.py",
        "if not mark or check != digest(\"xxh3_64\", body).encode(\"ascii\") + b'\"}':",
        "if not mark:"),
    Bug(6, "test_resume::test_c06_a_damaged_part", "edges/parts.py",
        "if self.reached == record.stop and self._running.hexdigest() == record.digest:",
        "if self.reached == record.stop:"),
    Bug(7, "test_resume::test_d01_refused_before_the_first_byte", "engine/delivery.py",
        "if self._missing(task) > 0:", "if False:"),
    Bug(8, "test_resume::test_resigned_half_way", "core/urls.py",
        "if p and not (signed and _signs(_name(p)))]", "if p]"),
    Bug(9, "test_faults_end_to_end::test_n03_ended_within_the_stall_window", "core/pace.py",
        "return now - since >= self.window and", "return False and"),
    Bug(9, "test_drafts::test_cancelled_while_a_server_is_silent", "engine/running.py",
        "        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})", "        pass"),
    Bug(9, "test_faults_end_to_end::test_s18_an_absurd_retry_after_is_capped", "core/verdict.py",
        "LONGEST_WAIT = 60.0", "LONGEST_WAIT = 1e9"),
    Bug(10, "test_faults_end_to_end::test_s19_an_outage_costs_few_requests", "core/pace.py",
        "return PROBE_WAITS[min(probes, len(PROBE_WAITS)) - 1]", "return 0.01"),
    Bug(11, "test_workspace::test_a_planted_link_is_not_followed", "edges/workspace.py",
        "os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC", "os.O_DIRECTORY | os.O_CLOEXEC"),
    Bug(12, "test_faults_end_to_end::test_no_query_is_in_any_file", "core/urls.py",
        'return place + question + (digest("sha256", kept.encode())[:32] if kept else "")',
        "return self.origin + self.path + question + self.query"),
    Bug(12, "test_faults_end_to_end::test_a_server_that_echoes_the_url",
        "core/urls.py", "            text = secret.blot(text)", "            pass"),
    Bug(13, "test_faults_end_to_end::test_s21_never_from_https_to_http", "core/urls.py",
        'if source.scheme == "https" and there.scheme == "http":', "if False:"),
    Bug(14, "test_resume::test_x01_in_another_process", "edges/lock.py",
        "fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),
    Bug(15, "test_faults_end_to_end::test_failures_of_different_kinds", "core/report.py",
        "return codes.pop() if len(codes) == 1 else ExitCode.MIXED", "return codes.pop()"),
    Bug(15, "test_doctor::test_the_table", "core/doctor.py",
        "    if case.ended and case.head.status in (400, 401, 403):\n        return EXPIRED\n", ""),
    Bug(1, MACHINE, "engine/delivery.py",
        "        task.proof.check_whole(_values(task.front.whole))\n",
        "        if files.folder is not None:  # the name comes first\n"
        "            where = files.folder, merge.NAME, task.target.path\n"
        "            self._workspace.deliver(*where, overwrite=True)\n"
        "        task.proof.check_whole(_values(task.front.whole))\n"),
    Bug(3, MACHINE, "engine/worker.py",
        "at, stop = (part.reached, part.limit) if part",
        "at, stop = (segment.start, segment.stop) if part"),
    Bug(8, MACHINE, "engine/task.py",
        "and (heading.pin.etag is not None or heading.object in {u.object_name for u in urls})",
        ""),
    Bug(6, MACHINE, "edges/parts.py",
        "if self.reached == record.stop and self._running.hexdigest() == record.digest:",
        "if self.reached == record.stop:"),
    Bug(6, MACHINE, "edges/merge.py",
        "return whole and own.hexdigest() == record.digest", "return whole"),
    Bug(6, MACHINE, "engine/front.py",
        "if good and (self.whole or record.number not in self.digests):",
        "if good and self.whole:"),
    Bug(2, MACHINE, "core/verdict.py", "if found.etag != ask.pin.etag:", "if False:"),
    Bug(9, MACHINE, "engine/task.py", "            self.epoch += 1\n", ""),
)  # fmt: skip


def run(turn: Round) -> Figures:
    """Plant one bug, and see its test fail."""
    bug = BUGS[turn.number % len(BUGS)]
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, turn.folder / name)
    file = turn.folder / "segdl" / bug.file
    text = file.read_text(encoding="utf-8")
    assert text.count(bug.good) == 1, f"{bug.file} has changed: plant the bug of {bug.test} anew"
    file.write_text(text.replace(bug.good, bug.bad), encoding="utf-8")
    if bug.test == MACHINE:
        told = any("1 failed" in _played(turn, number) for number in range(PLAYED))
        assert told, f"the machine does not notice: {bug.file}: {bug.bad}"
        return {"promise": bug.promise}
    name, _, function = bug.test.partition("::")
    words = ["-q", "-x", "-p", "no:cacheprovider", f"tests/{name}.py::{function}"]
    ended = _python(turn.folder, "pytest", *words)
    assert ended.returncode == 1, f"{bug.test} does not notice: {ended.returncode}\n{ended.stdout}"
    return {"promise": bug.promise}


def _played(turn: Round, number: int) -> str:
    """What the copy's state machine says at the end of a round of stories."""
    words = ["--seed", str(turn.seed), "--only", str(number)]
    ended = _python(turn.folder, "tests.torture", "machine", *words)
    assert ended.stdout, ended.stderr  # it has played
    return ended.stdout


def _python(folder: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A module, run on the copy of the package."""
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(folder)}, timeout=WITHIN, check=False,
    )  # fmt: skip


def told(figures: Sequence[Figures]) -> str:
    promises = {int(each["promise"]) for each in figures}
    return f"{len(figures)} planted bugs noticed, against {len(promises)} of 15 promises"


CAMPAIGN = Campaign("planted", "a bug against each promise, which its test must notice", len(BUGS),
                    run, told)  # fmt: skip
