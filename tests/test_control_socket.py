"""The control socket: who may ask, what is answered, and what is left behind (nothing)."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from segdl.core.errors import ExitCode, Fault, ManifestError, UsageError
from segdl.service import control_socket
from segdl.service.control_socket import Act, Refused, ask, served
from tests.orders import SOON, nothing_left_over, until


def echo(request: dict[str, Any]) -> dict[str, Any]:
    return {"heard": request.get("text")}


def refuse(request: dict[str, Any]) -> dict[str, Any]:
    raise UsageError("not today")


def find_faults(request: dict[str, Any]) -> dict[str, Any]:
    raise ManifestError((Fault("x:1", "files", "is missing"), Fault("x:2", "", "is worse")))


def crash(request: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("a secret")


ACTS: dict[str, Act] = {
    "echo": echo, "refuse": refuse, "find faults": find_faults, "crash": crash,
}  # fmt: skip


@contextmanager
def serving(out: Path, acts: dict[str, Act] | None = None) -> Iterator[None]:
    """A run in `out` that can be asked."""
    hidden = out / ".segdl"
    hidden.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(hidden, os.O_RDONLY)
    try:
        with served(folder, acts or ACTS):
            yield
    finally:
        os.close(folder)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A directory whose name is longer than the address of a socket may be."""
    with nothing_left_over():
        yield tmp_path / ("long" * 30)


def test_it_answers_and_leaves_nothing(out: Path) -> None:
    with serving(out):
        assert ask(out, "echo", text="ä\ud800\n") == {"segdl": 1, "ok": True, "heard": "ä\ud800\n"}
        found = (out / ".segdl" / "control").lstat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
    assert not os.listdir(out / ".segdl")
    assert ask(out, "echo") is None


def test_nobody_is_there(tmp_path: Path) -> None:
    assert ask(tmp_path, "echo") is None
    (tmp_path / ".segdl").mkdir()
    assert ask(tmp_path, "echo") is None
    (tmp_path / ".segdl" / "control").write_text("x")
    assert ask(tmp_path, "echo") is None


def test_one_that_was_left_is_replaced(out: Path) -> None:
    """A run that was killed leaves its socket: nobody answers there, and the next run may."""
    (out / ".segdl").mkdir(parents=True)
    folder = os.open(out / ".segdl", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"/proc/self/fd/{folder}/control")
    os.close(folder)
    assert ask(out, "echo") is None
    with serving(out):
        assert ask(out, "echo", text="x") == {"segdl": 1, "ok": True, "heard": "x"}


@pytest.mark.parametrize(
    ("do", "message", "code"),
    [
        ("refuse", "not today", ExitCode.USAGE),
        ("find faults", "x:1: files: is missing\nx:2: is worse", ExitCode.USAGE),
        ("crash", "unexpected RuntimeError", ExitCode.MIXED),
        ("dance", "this segdl does not know how to do that", ExitCode.USAGE),
    ],
)
def test_refusals(out: Path, do: str, message: str, code: ExitCode) -> None:
    with serving(out):
        assert ask(out, do) == Refused(message, code)
        assert isinstance(ask(out, "echo", text="x"), dict)  # it goes on


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"nonsense\n", b"[]\n", b'{"segdl":2,"do":"echo"}\n', b'{"segdl":1,"do":[]}\n',
        b'{"do":"echo"}\n', b"[" * 100_000 + b"\n", b"\xff\n",
    ],
)  # fmt: skip
def test_whatever_is_said_is_answered(out: Path, line: bytes) -> None:
    with serving(out), connected(out) as peer:
        peer.sendall(line)
        answer = json.loads(peer.makefile().readline())
        assert (answer["ok"], answer["exit_code"]) == (False, 2)


@contextmanager
def connected(out: Path) -> Iterator[socket.socket]:
    folder = os.open(out / ".segdl", os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(4 * SOON)
            peer.connect(f"/proc/self/fd/{folder}/control")
            yield peer
    finally:
        os.close(folder)


def test_one_who_says_half_and_hangs_up(out: Path) -> None:
    with serving(out):
        with connected(out) as peer:
            peer.sendall(b'{"segdl":1,')
        assert isinstance(ask(out, "echo", text="x"), dict)


def test_one_who_says_nothing_holds_it_no_longer_than_the_run_lasts(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segdl.service.control_socket._PATIENCE", 4 * SOON)
    with serving(out):
        peer = connected(out)
        peer.__enter__()
        began = time.monotonic()
    assert time.monotonic() - began < SOON
    peer.__exit__(None, None, None)


def test_one_who_says_nothing_is_left(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "_PATIENCE", 0.3)
    with serving(out), connected(out) as peer:
        assert peer.recv(1) == b""


def test_a_line_that_never_ends_is_not_kept(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "LARGEST", 100_000)
    with serving(out), connected(out) as peer, pytest.raises(OSError):
        for _ in range(100):
            peer.sendall(b"x" * 100_000)


def test_another_user_is_not_heard(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may open the folder is the system's to say; that is not all that is asked."""
    heard = threading.Event()

    def hear(request: dict[str, Any]) -> dict[str, Any]:
        heard.set()
        return {}

    with serving(out, {"hear": hear}):
        monkeypatch.setattr(control_socket, "_user", lambda peer: 12345)
        with connected(out) as peer:
            peer.settimeout(4 * SOON)
            assert peer.recv(1) == b""
        assert ask(out, "hear") is None  # nor is another user told anything
    assert not heard.is_set()


def test_a_folder_in_the_way(out: Path) -> None:
    """The run goes on without a socket."""
    (out / ".segdl" / "control").mkdir(parents=True)
    with serving(out):
        assert ask(out, "echo") is None
    assert (out / ".segdl" / "control").is_dir()


def test_a_link_in_the_way_leads_nowhere(out: Path, tmp_path: Path) -> None:
    (out / ".segdl").mkdir(parents=True)
    (out / ".segdl" / "control").symlink_to(tmp_path / "elsewhere")
    with serving(out):
        assert isinstance(ask(out, "echo", text="x"), dict)
    assert not (tmp_path / "elsewhere").exists()


def test_a_system_without_such_sockets(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED")
    with serving(out):
        assert not os.listdir(out / ".segdl")
    assert ask(out, "echo") is None


def test_many_at_once_are_all_answered(out: Path) -> None:
    answers: list[object] = []

    def one(number: int) -> None:
        answers.append(ask(out, "echo", text=number))

    with serving(out):
        threads = [threading.Thread(target=one, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
    until(lambda: len(answers) == 20)
    assert all(isinstance(answer, dict) for answer in answers)
