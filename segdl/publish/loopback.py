"""A program that listens on loopback and never outlives us.

Between us and the program stands a keeper, a few lines of Python that wait for the end of their
standard input. We hold the other end of that pipe: when it closes, because we close it or because
we were killed, the keeper ends the program. Ctrl-C on the terminal reaches neither of them.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from segdl.core.errors import ExitCode, SegdlError

LOOPBACK = "127.0.0.1"
PORTS = range(12_000, 32_000)  # below the range from which kernels take ports for connections

_KEEPER = """
import os, subprocess, sys, threading
grace, *command = sys.argv[1:]
program = subprocess.Popen(command, stdin=subprocess.DEVNULL)
def end():
    os.read(0, 1)
    program.terminate()
    try:
        program.wait(float(grace))
    except subprocess.TimeoutExpired:
        program.kill()
threading.Thread(target=end, daemon=True).start()
os._exit(program.wait() and 1)
"""


STARTS = 3


class StartError(SegdlError):
    """A program could not be started here; the message holds the end of its log."""

    exit_code = ExitCode.NETWORK


def find(program: str, *further: str) -> Path | None:
    """Where `program` lies: among this interpreter's scripts, on PATH, in `further` places."""
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath), *further]
    found = shutil.which(program, path=os.pathsep.join(places))
    return None if found is None else Path(found)


def free_ports(count: int) -> tuple[int, ...]:
    """Ports that nobody listens on at this moment. Start again with others if one is lost."""
    candidates = iter(random.sample(PORTS, len(PORTS)))
    with contextlib.ExitStack() as held:
        return tuple(_bound(candidates, held) for _ in range(count))


def _bound(candidates: Iterator[int], held: contextlib.ExitStack) -> int:
    for port in candidates:
        sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        with contextlib.suppress(OSError):
            sock.bind((LOOPBACK, port))
            return port
    raise OSError("no free port on loopback")


@contextlib.contextmanager
def running(
    prepare: Callable[[], Child], ready: Callable[[], bool], within: float
) -> Iterator[Child]:
    """A child that is ready within so many seconds.

    One that ends before is prepared afresh, with other ports: somebody may take a port between our
    look and the program's. Raises StartError.
    """
    said = ""
    for _ in range(STARTS):
        with prepare() as child:
            if _becomes(ready, child, within):
                yield child
                return
            said = child.said
    raise StartError(f"{child.name} did not start. The end of its log:\n{said}")


def _becomes(ready: Callable[[], bool], child: Child, within: float) -> bool:
    deadline = time.monotonic() + within
    while child.alive and time.monotonic() < deadline:
        if ready():
            return True
        time.sleep(0.05)
    return False


class Child:
    """A running program: `with Child(["weed", "mini"], folder) as child:`.

    It sees PATH and `environment`, nothing else of ours, with HOME and TMPDIR in `folder`; what it
    prints goes to `folder/log`. At the end it is asked to stop, and killed after `grace` seconds.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        grace: float = 5.0,
    ) -> None:
        self.name = Path(command[0]).name
        self._command = [sys.executable, "-I", "-S", "-c", _KEEPER, str(grace), *map(str, command)]
        self._folder = folder
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            **(environment or {}),
        }
        self._grace = grace
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._keeper is not None and self._keeper.poll() is None

    @property
    def said(self) -> str:
        """The end of its log, at most 4 KiB."""
        log = self._folder / "log"
        return log.read_bytes()[-4096:].decode("utf-8", "replace") if log.exists() else ""

    def __enter__(self) -> Self:
        with (self._folder / "log").open("ab") as log:
            self._keeper = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._keeper is None:
            return
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()
        try:
            self._keeper.wait(self._grace + 5)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
