"""The watch over secrets sees what it is there to see."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from segdl.core.errors import BrokenError
from segdl.edges.command import output_of
from tests import canary
from tests.canary import CANARY
from tests.commands import ROOT, command, environment
from tests.faults import FaultServer, faults
from tests.orders import PATH, Case, made

GIVEN = (sys.executable, "-c", "print()", CANARY)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """An output directory; it is empty again before the watch looks at it."""
    folder = tmp_path / "out"
    (folder / ".segdl").mkdir(parents=True)
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        with suppress(OSError):
            os.removexattr(path, "user.origin")
        path.rmdir() if path.is_dir() else path.unlink()


def test_files_names_and_attributes(out: Path) -> None:
    assert not list(canary.leaks(out.parent))
    (out / ".segdl" / "order.json").write_text(f'{{"url": "http://h/a?X={CANARY}"}}')
    (out / f"a.7z?X={CANARY}").touch()
    (out / "b.7z").write_bytes(b"X-Amz-Signature=0123456789abcdef")
    (out / "order.json").write_text(CANARY)  # a manifest that lies there
    marked = out / "c.7z"
    marked.touch()
    try:
        os.setxattr(marked, "user.origin", CANARY.encode())
        named = {f"the attribute user.origin of {marked}"}
    except OSError:  # this file system has none
        named = set()
    assert set(canary.leaks(out.parent)) == named | {
        str(out / ".segdl" / "order.json"), str(out / "b.7z"), f"the name of {out}/a.7z?X={CANARY}"
    }  # fmt: skip


def test_a_child_of_segdl_in_this_process() -> None:
    subprocess.run(GIVEN, check=True, capture_output=True)  # of the test's own: no matter
    assert canary.children() == []
    with suppress(BrokenError):
        output_of(GIVEN, 100, 10.0, lambda: False)
    assert len(canary.children()) == 1


def test_a_child_of_segdl_in_a_process_of_its_own(
    fault_server: FaultServer, tmp_path: Path
) -> None:
    case = Case(fault_server, tmp_path)
    case.put(made(10))
    fault_server.script(PATH, faults.EXPIRED["MinIO"])
    case.manifest()
    words = ("order.json", "-o", "out", "--refresh-command", shlex.join(GIVEN))
    ended = subprocess.run(
        command(*words), cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.count("a child was given")) == (99, 1)


def test_what_is_printed_and_logged(tmp_path: Path) -> None:
    """A test of its own suite, which prints the secret and would pass."""
    body = f"import logging\ndef test_it():\n    logging.debug('{CANARY}')\n"
    (tmp_path / "test_it.py").write_text(body)
    words = ["-q", "-p", "no:cacheprovider", "-p", "tests.conftest", "-c", f"{ROOT}/pyproject.toml"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *words, f"--rootdir={tmp_path}", tmp_path / "test_it.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "a secret in Captured log call" in ended.stdout
