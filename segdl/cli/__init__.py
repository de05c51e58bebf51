"""The command line: argv in, exit code out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from segdl.version import VERSION


def main(argv: Sequence[str] | None = None) -> int:
    """Run segdl on `argv` (without the program's name) and return its exit code.

    Imports are late, here and below: they are most of a short run.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"segdl {VERSION}")
        return 0
    from segdl.cli.shell import run

    return run(arguments)
