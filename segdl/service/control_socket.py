"""The control socket: a Unix-domain socket in `.segdl`, through which a run is steered.

One line of JSON asks, one line answers, one pair a connection; nothing of either is kept. The
folder and the socket are their owner's alone, and both sides look who is at the other end: a
manifest holds share URLs. It is no listener on any network.

The socket is made by whoever holds the directory's lock, who may take away what a killed run has
left. Where the file system or the system has no such sockets, the run goes on without one. The
address of a socket is at most 108 bytes long, so it is reached through the open folder.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from segdl.core.dataclass import dataclass
from segdl.core.errors import ExitCode, ManifestError, SegdlError

NAME = "control"
VERSION = 1
LARGEST = 300 * 1024 * 1024  # bytes of a line: a manifest of 128 MiB, escaped
_PATIENCE = 5.0  # seconds without a byte
_ANSWER_PATIENCE = 60.0  # seconds for a long manifest to be read by a run that is busy
_PIECE = 256 * 1024

Request = dict[str, Any]
Act = Callable[[Request], dict[str, Any]]  # facts for the answer; raises SegdlError


@dataclass(frozen=True, slots=True)
class Refused:
    """The run did not do what it was asked for."""

    message: str
    exit_code: ExitCode


# -- the run's side --------------------------------------------------------------------------------


@contextmanager
def served(hidden: int, acts: dict[str, Act]) -> Iterator[None]:
    """Answer requests for `acts`, by their name, while the block lasts.

    `hidden` is the folder `.segdl`, whose lock is held.
    """
    listener = _listen(hidden)
    if listener is None:
        yield
        return
    server = _Server(listener, acts)
    server.start()
    try:
        yield
    finally:
        server.stop()
        with suppress(OSError):
            os.unlink(NAME, dir_fd=hidden)


def _listen(hidden: int) -> socket.socket | None:
    """A socket under its name in the folder; None where there can be none."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    listener = None
    try:
        with suppress(FileNotFoundError):
            os.unlink(NAME, dir_fd=hidden)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.fchmod(listener.fileno(), 0o600)  # before it has a name
        listener.bind(_address(hidden))
        listener.listen(128)
    except OSError:
        if listener is not None:
            listener.close()
        return None
    return listener


def _address(hidden: int) -> str:
    return f"/proc/self/fd/{hidden}/{NAME}"


class _Server(threading.Thread):
    """Answers one connection after the other."""

    def __init__(self, listener: socket.socket, acts: dict[str, Act]) -> None:
        super().__init__(name="segdl-control", daemon=True)
        self._listener = listener
        self._acts = acts
        self._over = threading.Event()

    def stop(self) -> None:
        """End, within a moment, and close everything."""
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self.join()
        self._listener.close()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                peer, _ = self._listener.accept()
            except OSError:
                if not self._over.wait(0.1):  # too many open files, perhaps
                    continue
                return
            with peer, suppress(OSError):
                if _user(peer) in (os.geteuid(), 0):
                    self._serve(peer)

    def _serve(self, peer: socket.socket) -> None:
        line = _read_line(peer, _PATIENCE, self._over.is_set)
        if line is not None:
            _send_line(peer, _answer(line, self._acts))


def _answer(line: bytes, acts: dict[str, Act]) -> dict[str, Any]:
    try:
        request = json.loads(line)
        act = acts[request["do"]] if request["segdl"] == VERSION else None
    except (ValueError, LookupError, TypeError, RecursionError):
        act = None
    if act is None:
        return _refusal("this segdl does not know how to do that", ExitCode.USAGE)
    try:
        return {"segdl": VERSION, "ok": True, **act(request)}
    except ManifestError as error:
        faults = [str(fault) for fault in error.faults[:100]]
        return _refusal("\n".join(faults), error.exit_code)
    except SegdlError as error:
        return _refusal(error.message, error.exit_code)
    except Exception as error:  # the run does not end for it
        return _refusal(f"unexpected {type(error).__name__}", ExitCode.MIXED)


def _refusal(message: str, code: ExitCode) -> dict[str, Any]:
    return {"segdl": VERSION, "ok": False, "message": message, "exit_code": int(code)}


# -- the other side --------------------------------------------------------------------------------


def ask(output: str | os.PathLike[str], do: str, **facts: Any) -> dict[str, Any] | Refused | None:
    """Ask the run that is at work in a directory; None if there is none that can be asked.

    The answer's facts, or why the run did not do it.
    """
    try:
        hidden = os.open(os.path.join(output, ".segdl"), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        owner = os.fstat(hidden).st_uid
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(_PATIENCE)
            peer.connect(_address(hidden))
            if _user(peer) not in (os.geteuid(), owner, 0):
                return None
            _send_line(peer, {"segdl": VERSION, "do": do, **facts})
            return _read_answer(_read_line(peer, _ANSWER_PATIENCE, lambda: False))
    except OSError:
        return None
    finally:
        os.close(hidden)


def _read_answer(line: bytes | None) -> dict[str, Any] | Refused | None:
    try:
        answer = json.loads(line or b"")
        if answer["ok"] is True:
            return dict(answer)
        return Refused(str(answer["message"]), ExitCode(answer["exit_code"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


# -- both ------------------------------------------------------------------------------------------


def _user(peer: socket.socket) -> int:
    """Whose process is at the other end (unix(7), SO_PEERCRED)."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return int(user)


def _send_line(peer: socket.socket, facts: dict[str, Any]) -> None:
    peer.settimeout(_PATIENCE)
    peer.sendall(json.dumps(facts, separators=(",", ":")).encode() + b"\n")


def _read_line(
    peer: socket.socket, patience: float, interrupted: Callable[[], bool]
) -> bytes | None:
    """A line without its end; None if it does not come whole, in time and within bounds."""
    line, since = bytearray(), time.monotonic()
    peer.settimeout(0.1)
    while not interrupted() and time.monotonic() - since < patience and len(line) <= LARGEST:
        try:
            piece = peer.recv(_PIECE)
        except TimeoutError:
            continue
        if not piece:
            return None
        since = time.monotonic()
        line += piece
        if line.endswith(b"\n"):
            return bytes(line[:-1])
    return None
