"""`segdl clean`: remove what is held of unfinished files."""

from __future__ import annotations

import sys
from pathlib import Path

from segdl.cli import wording
from segdl.cli.arguments import Parser, add_directory
from segdl.cli.signals import Signals
from segdl.core.complaint import printable
from segdl.core.errors import ExitCode, UsageError


def run(arguments: list[str], signals: Signals) -> int:
    parser = Parser("clean", "clean [DIR] [--yes]      DIR is where an order goes [.]",
                    "clean out --yes", "Delivered files and their receipts stay.")  # fmt: skip
    add_directory(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    given = parser.parse(arguments)

    from segdl.engine.audit import depot
    from segdl.engine.premises import premises

    with depot(given.directory), premises(given.directory) as workspace:
        names = workspace.under_way()
        if not names:
            print("Nothing to remove: no file is unfinished")
            return ExitCode.DONE
        if not (given.yes or _agreed(len(names), given.directory)):
            print("Nothing was removed")
            return ExitCode.DONE
        freed = sum(map(workspace.remove_work_named, names))
    print(f"Removed {wording.count(len(names), 'unfinished file')}, {wording.size(freed)} freed")
    return ExitCode.DONE


def _agreed(number: int, directory: Path) -> bool:
    """Ask on standard error. Raises UsageError where nobody answers."""
    from segdl.engine.audit import status

    held = sum(standing.held for standing in status(directory).standings)
    files = wording.count(number, "unfinished file")
    where = printable(str(directory))
    print(f"Remove {files} in {where}, {wording.size(held)} held? [y/N] ",
          end="", file=sys.stderr, flush=True)  # fmt: skip
    answer = sys.stdin.readline()
    if not answer and not sys.stdin.isatty():
        print(file=sys.stderr)
        raise UsageError("clean asks, and nobody answers: give --yes")
    return answer.strip().lower() in ("y", "yes")
