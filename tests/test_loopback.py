"""Child programs: they start when they can, and end with us whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from segdl.publish.loopback import LOOPBACK, PORTS, Child, StartError, find, free_ports, running
from tests.orders import HANGS, SOON

SLEEP = ["sh", "-c", "echo started; exec sleep 1000"]


def wait_for(true: Callable[[], bool], seconds: float = HANGS) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.01)


def tell(folder: Path) -> str:
    """Shell: write the process id to `folder/pid`, whole."""
    return f"echo $$ > {folder}/pid.new; mv {folder}/pid.new {folder}/pid"


def tell_pid(folder: Path) -> list[str | Path]:
    """A program that tells its process id and sleeps."""
    return ["sh", "-c", f"{tell(folder)}; exec sleep 1000"]


def pid_in(folder: Path) -> int:
    wait_for((folder / "pid").exists)
    return int((folder / "pid").read_text())


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_child_lives_and_ends(tmp_path: Path) -> None:
    with Child(tell_pid(tmp_path), tmp_path) as child:
        pid = pid_in(tmp_path)
        assert child.alive
        assert not gone(pid)
    assert gone(pid)
    assert not child.alive


def test_a_child_that_will_not_listen_is_killed(tmp_path: Path) -> None:
    loop = "while :; do sleep 0.05; done"
    deaf = ["sh", "-c", f"trap '' TERM; {tell(tmp_path)}; {loop}"]
    with Child(deaf, tmp_path, grace=0.2):
        pid = pid_in(tmp_path)
    assert gone(pid)


def test_a_child_ends_when_we_are_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\n"
        "from segdl.publish.loopback import Child\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with Child(sys.argv[2:], folder): time.sleep(1000)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), *map(str, tell_pid(tmp_path))]
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent) as parent:
        pid = pid_in(tmp_path)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: gone(pid))


def test_a_child_sees_little_of_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:1")
    monkeypatch.setenv("SECRET", "x")
    with Child(["env"], tmp_path, {"KEY": "value"}) as child:
        wait_for(lambda: not child.alive)
        seen = dict(line.split("=", 1) for line in child.said.splitlines())
    assert seen["KEY"] == "value"
    assert seen["HOME"] == seen["TMPDIR"] == str(tmp_path)
    assert "PATH" in seen
    assert not {"HTTP_PROXY", "SECRET"} & set(seen)


def test_running_waits_until_ready(tmp_path: Path) -> None:
    looks = iter([False, False, True])
    with running(lambda: Child(SLEEP, tmp_path), lambda: next(looks), HANGS) as child:
        assert child.alive
        assert next(looks, None) is None
    assert not child.alive


def test_running_prepares_afresh_what_ends_early(tmp_path: Path) -> None:
    commands = iter([["sh", "-c", "exit 1"], ["sh", "-c", "exit 2"], SLEEP])
    children: list[Child] = []

    def prepare() -> Child:
        children.append(Child(next(commands), tmp_path))
        return children[-1]

    with running(prepare, lambda: "started" in children[-1].said, HANGS):
        assert len(children) == 3


def test_running_gives_up_with_the_log(tmp_path: Path) -> None:
    broken = ["sh", "-c", "echo out of luck >&2; exit 3"]
    began = time.monotonic()
    with (
        pytest.raises(StartError, match=r"sh did not start(.|\n)*out of luck"),
        running(lambda: Child(broken, tmp_path), lambda: False, 4 * SOON),
    ):
        pass
    assert time.monotonic() - began < SOON  # what has ended is not waited for


def test_running_gives_up_on_what_is_never_ready(tmp_path: Path) -> None:
    with (
        pytest.raises(StartError),
        running(lambda: Child(SLEEP, tmp_path), lambda: False, 0.1),
    ):
        pass


def test_free_ports_are_free_and_differ() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert set(ports) <= set(PORTS)
    for port in ports:
        with socket.socket() as sock:
            sock.bind((LOOPBACK, port))


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "made-up-program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find("made-up-program") is None
    assert find("made-up-program", str(tmp_path)) == program
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find("made-up-program") == program
    assert find("pytest") is not None  # beside the interpreter, though not on PATH
