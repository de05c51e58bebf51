"""Signals while segdl starts, and while it hashes a large file: it ends, and does not go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import PATIENCE, environment, running

GIB = 1024**3
SIZE = 240 * GIB  # sparse: nothing of it is on the disk, and hashing it takes minutes


@pytest.fixture
def order(tmp_path: Path) -> Path:
    """An order whose one target is there, and takes long to be held against its digest."""
    out = tmp_path / "out"
    out.mkdir()
    with (out / "large.bin").open("wb") as file:
        os.truncate(file.fileno(), SIZE)
    entry = {"path": "large.bin", "url": "http://127.0.0.1:9/x", "size": SIZE}
    manifest = tmp_path / "order.json"
    manifest.write_text(
        json.dumps({"segdl": 1, "files": [entry | {"hash": {"xxh3_64": "0" * 16}}]})
    )
    return manifest


@pytest.mark.parametrize(
    "words",
    [["verify", "out", "--manifest", "order.json"], ["get", "order.json", "-o", "out"]],
    ids=["verify", "get"],
)
def test_a_signal_ends_the_hashing_of_a_large_file(order: Path, words: list[str]) -> None:
    with running(*words, cwd=order.parent, patient=True) as child:
        until_it_reads(child.process)
        assert child.stop(signal.SIGTERM)[0] == 143
    assert (order.parent / "out" / "large.bin").stat().st_size == SIZE


def until_it_reads(process: subprocess.Popen[str]) -> None:
    """Wait until the process has read 256 MiB: then it hashes."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        text = Path(f"/proc/{process.pid}/io").read_text(encoding="ascii")
        if int(text.split()[1]) > GIB // 4:
            return
        time.sleep(0.01)
    raise AssertionError("it never began to hash")


COMMAND = """
import os, signal, sys

class Finder:
    def find_spec(name, path, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)

wanted = sys.argv.pop()
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder)
from segdl.cli import main
sys.argv += ["get", "order.json"]
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["segdl.cli.shell", "segdl.core.errors", "segdl.cli.get"])
def test_ctrl_c_while_segdl_is_imported(order: Path, module: str) -> None:
    """No traceback, whatever it is at; a shell says 130 of either end."""
    ended = subprocess.run(
        [sys.executable, "-c", COMMAND, module], cwd=order.parent, capture_output=True, text=True,
        env=environment(order.parent), timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert ended.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in ended.stderr
