"""The command line: argv in, exit code out."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress

from segdl.process import claim
from segdl.version import VERSION

TYPE_CHECKING = False  # see segdl/__init__.py
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_FEW_COLLECTIONS = 50_000  # new objects before one: nearly all that a start makes stays
_FILES = 4096  # 256 connections with up to eight open files each, twice over


def main(argv: Sequence[str] | None = None) -> int:
    """Run segdl on `argv` (without the program's name) and return its exit code.

    Without `argv` this is the process `segdl`, as it was called, and it ends here. Imports are
    late, here and below: they are most of a short run.
    """
    if argv is None:
        _end_quietly()
        gc.set_threshold(_FEW_COLLECTIONS)
        _open_more()
        claim()
        _leave(_run(sys.argv[1:]))
    return _run(list(argv))


def _run(arguments: list[str]) -> int:
    if arguments[:1] in (["--version"], ["-V"]):
        try:
            print(f"segdl {VERSION}")
        except OSError:
            return 1
        return 0
    from segdl.cli.shell import run

    return run(arguments)


def _leave(code: int) -> NoReturn:
    """End the process. Nothing is left to do, and to take the interpreter apart takes 20 ms."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:  # nobody reads it any more, or the disk that it goes to is full
            code = code or 1
    os._exit(code)


def _open_more() -> None:
    """Let this process open as many files as it may need, where whoever limits it lets it: what
    most systems begin with is too little for the most connections that can be asked for."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    wanted = _FILES if hard == endless else min(_FILES, hard)
    if soft != endless and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has another limit, below the one it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _end_quietly() -> None:
    """Before `shell` listens to Ctrl-C, and after it, the system ends the process: a traceback out
    of an import helps nobody."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
