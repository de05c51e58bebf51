"""The command line: argv in, exit code out."""

from __future__ import annotations

import signal
import sys

from segdl.version import VERSION

TYPE_CHECKING = False  # see segdl/__init__.py
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run segdl on `argv` (without the program's name) and return its exit code.

    Without `argv` this is the process `segdl`, as it was called. Imports are late, here and below:
    they are most of a short run.
    """
    if argv is None:
        _end_quietly()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"segdl {VERSION}")
        return 0
    from segdl.cli.shell import run

    return run(arguments)


def _end_quietly() -> None:
    """Before `shell` listens to Ctrl-C, and after it, the system ends the process: a traceback out
    of an import helps nobody."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
