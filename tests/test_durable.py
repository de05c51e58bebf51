"""The order of system calls in which a target is delivered, seen from outside (promise 4)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import command, environment
from tests.faults import FaultServer
from tests.orders import NAME, Case, Proof, made
from tests.test_drafts import calls_in, first

MIB = 1024 * 1024
SEEN = "trace=pwrite64,copy_file_range,fsync,fdatasync,renameat2,renameat,rename,write"


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not here: no system call to see")
@pytest.mark.parametrize("proof", [Proof.DIGEST, Proof.ETAG])
def test_flushed_then_named_then_told(
    fault_server: FaultServer, tmp_path: Path, proof: Proof
) -> None:
    """All bytes are flushed before the file has its name; its folder is flushed, then its receipt,
    before anybody is told."""
    case = Case(fault_server, tmp_path)
    case.put(made(3 * MIB), proof=proof)
    log = tmp_path / "log"
    words = ("get", case.manifest(), "-o", case.out, "--progress", "json", "--segment-size", "1MiB")
    subprocess.run(
        ["strace", "-f", "-qq", "-y", "-s", "200", "-e", SEEN, "-o", str(log), *command(*words)],
        env=environment(tmp_path), cwd=tmp_path, check=True, timeout=60,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    calls = calls_in(log.read_text(errors="replace"))
    front, out = r"/\.segdl/work/[0-9a-f]+/front>", re.escape(str(case.out))
    wrote = [c for c in calls if re.match(rf"(pwrite64|copy_file_range)\(.*{front}", c.text)]
    flush = first(calls, rf"fsync\(\d+<[^>]*{front}", max(call.ended for call in wrote))
    named = first(calls, rf'rename\w*\(.*"front", \d+<{out}>, "{re.escape(NAME)}"', flush.ended)
    folder = first(calls, rf"fsync\(\d+<{out}>\)", named.ended)
    receipt = first(calls, r"fdatasync\(\d+<.*/receipts\.jsonl>", folder.ended)
    done = first(calls, r"write\(1<.*target_done", 0)
    assert done.began > receipt.ended
