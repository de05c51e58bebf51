"""A command of the user's, run for what it writes to its standard output.

No shell is in between, nothing is added to its arguments or its environment, and its standard input
is empty. It has a process group of its own, which is killed where it takes too long or says too
much: nothing of it outlives the call.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from segdl.core.complaint import printable
from segdl.core.errors import BrokenError

_TICK = 0.1  # seconds between two looks at `interrupted`
_PIECE = 64 * 1024
_SAID = 64 * 1024  # bytes of standard error that are kept: more than a URL has
_SECRET = re.compile(
    r"(https?://[^\s?#'\"]*\?)[^\s'\"]*|((?:authorization|cookie):).*", re.IGNORECASE
)


def output_of(
    command: Sequence[str], largest: int, seconds: float, interrupted: Callable[[], bool]
) -> bytes:
    """What the command writes, at most `largest` bytes, within so many seconds.

    Raises BrokenError if it cannot be run, fails, writes more, takes longer, or is interrupted.
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            bufsize=0, start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no command"
        raise BrokenError(f"cannot be run ({reason})") from None
    with process:
        try:
            out, said = _read(process, largest, time.monotonic() + seconds, interrupted)
            code = process.wait(1.0)  # it has closed its output, and has nothing else to do
        except subprocess.TimeoutExpired:
            raise BrokenError("does not end") from None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    if code:
        raise BrokenError(f"ended with {code}{_shown(said)}")
    return out


def _read(
    process: subprocess.Popen[bytes], largest: int, deadline: float, interrupted: Callable[[], bool]
) -> tuple[bytes, bytes]:
    """Its standard output, and the end of its standard error."""
    assert process.stdout is not None and process.stderr is not None
    out, said = bytearray(), bytearray()
    with selectors.DefaultSelector() as streams:
        streams.register(process.stdout, selectors.EVENT_READ, out)
        streams.register(process.stderr, selectors.EVENT_READ, said)
        while streams.get_map():
            if interrupted():
                raise BrokenError("was interrupted")
            if time.monotonic() >= deadline:
                raise BrokenError("takes too long")
            for key, _ in streams.select(_TICK):
                piece = os.read(key.fd, _PIECE)
                key.data.extend(piece)
                if not piece:
                    streams.unregister(key.fileobj)
            del said[:-_SAID]
            if len(out) > largest:
                raise BrokenError(f"writes more than {largest >> 20} MiB")
    return bytes(out), bytes(said)


def _shown(said: bytes) -> str:
    """What it complained of, on one line: the end of that, without the query of any URL."""
    text = said.decode("utf-8", "replace")
    if len(said) == _SAID:  # its first word may be the rest of a secret
        text = "".join(text.split(maxsplit=1)[1:])
    text = _SECRET.sub(r"\1\2…", text).strip()
    return f": {printable(text[-200:])}" if text else ""
