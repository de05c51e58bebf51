"""Run one process, and say what it cost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BLOCK = 512  # the unit of st_blocks, whatever the file system
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Run:
    """Wall-clock and CPU seconds, peak memory in bytes; `failure` says why it does not count."""

    seconds: float
    cpu: float
    peak: int
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs: its home, its log, how long it may take, and who pays for flushing."""

    work: Path
    timeout: float
    sync: bool = False
    more: Mapping[str, str] | None = None

    @property
    def log(self) -> Path:
        return self.work / "log"

    def environment(self) -> dict[str, str]:
        """Nobody's own settings: a home that is empty, and this checkout's segdl."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return {**kept, "HOME": str(self.work), "PYTHONPATH": str(ROOT), **(self.more or {})}


def failed(reason: str) -> Run:
    return Run(0.0, 0.0, 0, reason)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def launched(command: Sequence[str], place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher with the command under it; whatever happens, nothing of it is left."""
    result = place.work / "result.json"
    result.unlink(missing_ok=True)
    launcher = [sys.executable, "-I", "-S", str(HERE / "launch.py"), str(result)]
    process = subprocess.Popen(
        [*launcher, "sync" if place.sync else "no", str(place.log), *command],
        cwd=place.work,
        env=place.environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end_group(process)


def run(command: Sequence[str], place: Place) -> Run:
    """The command from its start to its end."""
    with launched(command, place) as process:
        try:
            process.wait(place.timeout)
        except subprocess.TimeoutExpired:
            return failed(f"did not end in {place.timeout:.0f} s")
    try:
        found = json.loads((place.work / "result.json").read_text())
    except (OSError, ValueError):
        return failed("the launcher died")
    failure = None if found["code"] == 0 else f"exit {found['code']}{last_words(place.log)}"
    return Run(found["seconds"], found["cpu"], found["peak"], failure)


def last_words(log: Path, most: int = 120) -> str:
    """The end of what a failed program said."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1][:most]}" if said else ""
    return ""


def allocated(folder: Path) -> int:
    """Bytes that the files under a folder take."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(where, name).stat().st_blocks * BLOCK
    return total


def killed_at(command: Sequence[str], place: Place, folder: Path, volume: int) -> str | None:
    """Start it and kill it when so many bytes are on disk; a reason when it never came to that."""
    give_up = time.monotonic() + place.timeout
    with launched(command, place) as process:
        while allocated(folder) < volume:
            if process.poll() is not None:
                return "ended before it was half done"
            if time.monotonic() > give_up:
                return f"was not half done in {place.timeout:.0f} s"
            time.sleep(0.005)
    return None


@dataclass(frozen=True, slots=True)
class Until:
    """Start a command, and stop it when its output says so."""

    mark: bytes
    linger: float  # seconds that it then goes on, for its peak memory


def until(command: Sequence[str], place: Place, said: Until) -> Run:
    """Seconds to the first line of output that holds the mark; peak memory a moment later."""
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=place.work,
        env=place.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        bufsize=0,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if said.mark in line:
                break
        else:
            return failed(f"never said {said.mark.decode()}")
        seconds = time.monotonic() - started
        drained_until(process, time.monotonic() + said.linger)
        return Run(seconds, cpu_of(process.pid), peak_of(process.pid))
    finally:
        end_group(process)
        process.stdout.close()


def drained_until(process: subprocess.Popen[bytes], when: float) -> None:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    while time.monotonic() < when:
        process.stdout.read(2**20)
        time.sleep(0.02)


def peak_of(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


Attempt = Callable[[], Run]
