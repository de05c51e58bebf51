"""segdl as its users meet it: a process, with what it prints and its exit code."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import canary
from tests.canary import CANARY

ROOT = Path(__file__).parents[1]
PATIENCE = 40.0  # seconds after which a process that still runs has gone wrong
QUIET = {"SEGDL_TIMEOUT": "20"}  # no test waits for a stall of half a minute

# Whoever runs the tests may ignore signals: a child of a shell's `&` ignores Ctrl-C.
SIGNALS = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
"""
TERMINAL = """
import fcntl, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""
EXEC = "os.execv(sys.argv[1], sys.argv[1:])"
BIG = "import segdl.engine.front; segdl.engine.front.BIG = 1"  # for all targets
MANY = "from tests.runners import always; always()"  # for all orders
GATHERED = "import segdl.engine.desk; segdl.engine.desk._GATHER = 0.5"
PATIENT = "import segdl.cli.signals; segdl.cli.signals.GRACE = 1000.0"
MAIN = "import sys; from segdl.cli import main; sys.exit(main())"

Ended = subprocess.CompletedProcess[str]


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Nothing of the caller's but what Python needs."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    secrets = {
        **canary.ENVIRONMENT,
        "SEGDL_HEADER": f"X-Canary: {CANARY}line",
        "SEGDL_WATCHED": "1",
    }
    paths = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(canary.WATCH)))}
    return {**kept, "HOME": str(home), **paths, **QUIET, **secrets, **(more or {})}


def command(
    *arguments: str | Path,
    big: bool = False,
    many: bool = False,
    gathered: bool = False,
    patient: bool = False,
) -> list[str]:
    """If `big`, every target is written as one that is big; if `many`, by runners where it can; if
    `gathered`, drafts are flushed together, however slowly they come. If `patient`, a signal ends
    nothing that does not end by itself, however long that takes."""
    asked = {BIG: big, MANY: many, GATHERED: gathered, PATIENT: patient}
    before = [text for text, wanted in asked.items() if wanted]
    program = ("-c", "\n".join((*before, MAIN))) if before else ("-m", "segdl")
    return [sys.executable, *program, *map(str, arguments)]


def segdl(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None, stdin: str = ""
) -> Ended:
    """Run it to its end. Whatever happens, no traceback and no secret comes out."""
    ended = subprocess.run(
        command(*arguments), cwd=cwd, env=environment(cwd, env), input=stdin,
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    check_output(ended.stdout + ended.stderr)
    return ended


def check_output(text: str) -> None:
    """What must be in no output."""
    assert CANARY not in text
    assert "Traceback" not in text
    assert "Exception ignored" not in text


class Running:
    """A process under way; its standard output is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def events(self) -> Iterator[dict[str, Any]]:
        """NDJSON events as they come."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event that is wanted."""
        return next(event for event in self.events() if wanted(event))

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal: the exit code and standard error."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=PATIENCE)
        check_output(err)
        return self.process.returncode, err


@contextmanager
def running(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    prepare: str = "",
    big: bool = False,
    many: bool = False,
    patient: bool = False,
    **more: Any,
) -> Iterator[Running]:
    """Start it, and see to it that it ends. `prepare` is Python, run in the child before segdl."""
    streams: dict[str, Any] = {
        "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
    }  # fmt: skip
    launch = [sys.executable, "-c", f"{SIGNALS}\n{prepare}\n{EXEC}"]
    process = subprocess.Popen(
        [*launch, *command(*arguments, big=big, many=many, patient=patient)], cwd=cwd,
        env=environment(cwd, env), text=True, **streams | more,
    )  # fmt: skip
    with process:
        try:
            yield Running(process)
        finally:
            process.kill()


# -- a terminal ------------------------------------------------------------------------------------


class Terminal:
    """A process on a terminal of its own; what is on the screen, and all that was written."""

    def __init__(self, columns: int, rows: int) -> None:
        self.written = ""
        self._shape = columns, rows
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._master, self._slave = pty.openpty()
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, size)

    @contextmanager
    def running(
        self, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None
    ) -> Iterator[Running]:
        """Start it with this terminal as all of its standard streams."""
        with running(
            *arguments, cwd=cwd, env={"TERM": "xterm", **(env or {})}, stdin=self._slave,
            stdout=self._slave, stderr=self._slave, prepare=TERMINAL,
        ) as child:  # fmt: skip
            os.close(self._slave)
            yield child
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, wanted: Callable[[], bool]) -> None:
        """Read what is written until it is so, or all of it."""
        while not wanted() and (data := self._read()):
            self.written += self._decoder.decode(data)

    def to_end(self) -> list[str]:
        """Read all that comes; the lines that are left on the screen."""
        self.until(lambda: False)
        check_output(self.written)
        return self.lines()

    def lines(self) -> list[str]:
        """What is on the screen, and above it, without empty lines."""
        screen = Screen(*self._shape)
        screen.feed(self.written)
        return screen.lines()

    def _read(self) -> bytes:
        with suppress(OSError):  # EIO: the other side is closed
            return os.read(self._master, 65536)
        return b""


_PIECE = re.compile(r"\x1b\[(\d*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class Screen:
    """Just enough of a terminal for bars: lines, wrapping, cursor up, erasing."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns = columns
        self._rows = rows
        self._cells: list[list[str]] = [[]]
        self._row = self._column = 0

    def lines(self) -> list[str]:
        """What is on it, without empty lines."""
        return [line for line in ("".join(cells).rstrip() for cells in self._cells) if line]

    def feed(self, text: str) -> None:
        for count, order, control, shown in _PIECE.findall(text):
            if order:
                self._obey(order, int(count or 1 if order == "A" else count or 0))
            elif control == "\r":
                self._column = 0
            elif control == "\n":
                self._go(self._row + 1)
            else:
                self._show(shown)

    def _obey(self, order: str, count: int) -> None:
        if order == "A":
            self._row = max(0, self._row - count, len(self._cells) - self._rows)
        elif order == "K":
            self._line()[self._column :] = []
        else:
            raise AssertionError(f"a bar needs no {order}")

    def _show(self, text: str) -> None:
        for character in text:
            if self._column >= self._columns:
                self._go(self._row + 1)
                self._column = 0
            line = self._line()
            line += " " * (self._column - len(line))
            line[self._column : self._column + 1] = [character]
            self._column += 1

    def _go(self, row: int) -> None:
        self._row = row
        self._line()

    def _line(self) -> list[str]:
        while len(self._cells) <= self._row:
            self._cells.append([])
        return self._cells[self._row]
