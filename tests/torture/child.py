"""segdl's command line in a process group of its own, forked from a process that has it loaded.

So a run costs no imports, and a kill of the group is as real as any.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import segdl.cli.get
import segdl.cli.progress
import segdl.cli.summary
import segdl.engine
import segdl.service.steering  # noqa: F401  (loaded before the fork)
from segdl.cli import shell
from segdl.engine import front
from tests import runners
from tests.commands import check_output, environment

PATIENCE = 60.0  # seconds after which a run that goes on has gone wrong
_LOOK = 0.001  # seconds between two looks at a run
_PR_SET_PTRACER = 0x59616D61  # prctl(2)

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([__name__])


class Child:
    """A run of `segdl ARGUMENTS` whose standard output and error go to `said`."""

    def __init__(
        self,
        folder: Path,
        *arguments: str | Path,
        traced: bool = False,
        big: bool = False,
        many: bool = False,
    ) -> None:
        """`folder` is its current one, and its home. If `traced`, it begins when somebody does. If
        `big`, it writes every target as one that is big; if `many`, it has runners."""
        self._folder = folder
        self._said = folder / "said"
        self._said.unlink(missing_ok=True)  # of the run before
        words = list(map(str, arguments))
        self._process = _forks.Process(
            target=_live, args=(words, folder, self._said, environment(folder), traced, big, many)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid  # and its group

    @property
    def ended(self) -> bool:
        return self._process.exitcode is not None

    def until(self, true: Callable[[], bool], meanwhile: Callable[[], None]) -> bool:
        """Wait until `true()`, or the end: whether it was so. `meanwhile` is done all the time."""
        deadline = time.monotonic() + PATIENCE
        while not self.ended:
            meanwhile()
            if true():
                return True
            assert time.monotonic() < deadline, f"a run goes on after {PATIENCE} s"
            time.sleep(_LOOK)
        return False

    def signal(self, number: signal.Signals) -> None:
        """To the whole group, which is there a moment after the fork; nothing if it has ended."""
        while not self.ended:
            try:
                return os.killpg(self.pid, number)
            except ProcessLookupError:
                time.sleep(_LOOK)
        return None

    def stop(self) -> None:
        """Let the whole group stand still, as before a kill; nothing if it has ended."""
        self.signal(signal.SIGSTOP)
        while not (self.ended or stands_still(self.pid)):
            time.sleep(_LOOK)

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it. What it said is checked."""
        self._process.join(PATIENCE)
        assert self.ended, f"a run goes on after {PATIENCE} s"
        check_output(self.said)
        assert self._process.exitcode is not None
        return self._process.exitcode

    def runners(self) -> list[int]:
        """Its runners, which are no part of the group, and may outlast it by a moment."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                if _runs(pid, self._folder)]  # fmt: skip

    @property
    def waits(self) -> bool:
        """Whether it is about to begin."""
        return self._said.exists()

    @property
    def traced(self) -> bool:
        """Whether somebody sees its system calls."""
        return not self.ended and _is_traced(self.pid)

    @property
    def said(self) -> str:
        return self._said.read_text(encoding="utf-8") if self._said.exists() else ""

    @property
    def held(self) -> int | None:
        """What was on disk when it began, as it said in NDJSON; None if it did not come to that."""
        for line in self.said.splitlines():
            if line.startswith('{"event":"order_started"') and line.endswith("}"):
                return int(json.loads(line)["held"])
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.signal(signal.SIGKILL)
        self._process.join()
        self._process.close()


def _live(
    arguments: list[str],
    folder: Path,
    said: Path,
    variables: Mapping[str, str],
    traced: bool,
    big: bool,
    many: bool,
) -> None:  # in the child
    if big:
        front.BIG = 1
    if many:
        runners.always()
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    if traced:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, -1)  # not only root may trace it
        while not _is_traced(os.getpid()):
            time.sleep(_LOOK)
    sys.exit(shell.run(arguments))


def stands_still(pid: int) -> bool:
    """Whether every thread of a process is stopped, or over."""
    with suppress(OSError):
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        states = [(each / "stat").read_text().rpartition(")")[2].split()[0] for each in threads]
        return set(states) <= {"T", "Z", "X"}
    return False


def _runs(pid: int, folder: Path) -> bool:
    """Whether a process is a runner, of a segdl with that current folder."""
    with suppress(OSError):
        here = os.readlink(f"/proc/{pid}/cwd") == str(folder)  # noqa: PTH115  (as it stands)
        return here and b"segdl.engine.running" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _is_traced(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "TracerPid:\t0\n" not in status
