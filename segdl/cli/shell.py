"""From arguments to a command, from whatever it raises to an exit code and a sentence."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from segdl.cli.signals import Signals
from segdl.cli.streams import require_written, sheltered
from segdl.core.complaint import printable
from segdl.core.errors import DiskError, ExitCode, ManifestError, SegdlError, UsageError, disk_error

COMMANDS = {
    "get": ("MANIFEST", "download an order; run again to resume"),
    "plan": ("MANIFEST", "ask every link, try the disk: go or no-go"),
    "status": ("[DIR]", "what is delivered, held and missing, from disk alone"),
    "verify": ("[DIR]", "hash what is delivered against its receipts or a manifest"),
    "repair": ("MANIFEST", "fetch the segments again that verify finds rotten"),
    "refresh": ("MANIFEST", "give an order fresh links, also while it is under way"),
    "clean": ("[DIR]", "remove what is held of unfinished files"),
    "demo": ("", "an S3 server, an order and its download, on this machine"),
}
_HELP = """\
usage: segdl COMMAND ...            `segdl MANIFEST` is `segdl get MANIFEST`
example: segdl order.yaml -o out
{commands}
`segdl COMMAND --help` shows its options, `segdl --version` the version.
"""
_NARROW = "this locale cannot write the order's file names: set LC_ALL=C.UTF-8 and run again"
_SHORT = (
    "this machine gives no more memory, or no more threads: free some, or raise its limits "
    "(`ulimit -v`, `ulimit -u`), and run again; all that was fetched is kept"
)
_TOLD = {"plan", "status", "verify"}  # whose result is what they print
_QUERY = re.compile(r"(https?://[^\s?#'\"]*)\?[^\s'\"]*", re.IGNORECASE)


class Command(Protocol):
    """A module of one command."""

    def run(self, arguments: list[str], signals: Signals) -> int:
        """Do it; returns the exit code. Raises SegdlError."""


def run(arguments: list[str]) -> int:
    """Run segdl; returns its exit code. Nothing escapes but the end of the process."""
    with sheltered(), Signals() as signals:
        try:
            return _dispatch(arguments, signals)
        except SystemExit as end:  # argparse has shown the help
            return int(end.code or 0)
        except SegdlError as error:
            return _complain(error)
        except OSError as error:
            return _complain(disk_error(error))
        except UnicodeEncodeError:
            return _complain(DiskError(_NARROW))
        except BaseException as error:
            return _unexpected(error)


def _dispatch(arguments: list[str], signals: Signals) -> int:
    if arguments[:1] in (["--help"], ["-h"]):
        print(_help(), end="")
        return ExitCode.DONE
    if not arguments:
        print(_help(), end="", file=sys.stderr)
        return ExitCode.USAGE
    name, rest = _command(arguments)
    module = cast(Command, import_module(f"segdl.cli.{name}"))
    code = int(module.run(rest, signals))
    if name in _TOLD:
        require_written()
    return code


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command and what is left for it. Raises UsageError."""
    first = arguments[0]
    if first in COMMANDS:
        return first, arguments[1:]
    if re.fullmatch(r"[a-z]+", first) and not os.path.lexists(first):
        known = ", ".join(COMMANDS)
        raise UsageError(f"there is no command and no manifest {first}: the commands are {known}")
    return "get", arguments


def _help() -> str:
    lines = (f"  {f'{name} {what}':<16} {about}" for name, (what, about) in COMMANDS.items())
    return _HELP.format(commands="\n".join(lines))


def _complain(error: SegdlError) -> int:
    """Say what is wrong: a manifest's faults as they are, so that editors find the lines."""
    mark = "" if isinstance(error, ManifestError) else "segdl: "
    for line in error.message.splitlines() if mark else map(str, getattr(error, "faults", ())):
        print(f"{mark}{printable(line, 2000)}", file=sys.stderr)
    return error.exit_code


def _unexpected(error: BaseException) -> int:
    """One sentence; a traceback only where it was asked for, and without any URL's query."""
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):
        return _complain(DiskError(_SHORT))
    import traceback

    if os.environ.get("SEGDL_DEBUG", "0") not in ("", "0"):
        print(_QUERY.sub(r"\1?...", traceback.format_exc()), end="", file=sys.stderr)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    print(
        f"segdl: unexpected {type(error).__name__} at {where}: run it again with SEGDL_DEBUG=1 "
        "for a traceback to report; all that was fetched is kept",
        file=sys.stderr,
    )
    return ExitCode.MIXED
