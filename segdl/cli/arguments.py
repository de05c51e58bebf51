"""Arguments by argparse: its faults are UsageErrors, and its help fits a screen."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from segdl.core.errors import UsageError

WIDTH = 79


class Parser(argparse.ArgumentParser):
    """The arguments of one command.

    `usage` and `example` begin the help, `note` ends it; between them stand the options, one a
    line. No fault repeats an argument that segdl does not know: it may be a secret.
    """

    def __init__(self, command: str, usage: str, example: str, note: str = "") -> None:
        super().__init__(
            prog=f"segdl {command}",
            add_help=False,
            allow_abbrev=False,
            # Without a width it would ask the terminal, for every argument.
            formatter_class=functools.partial(argparse.HelpFormatter, width=WIDTH),
        )
        self._lines = (f"usage: segdl {usage}", f"example: segdl {example}")
        self._note = note
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """What was given. Raises UsageError."""
        given, unknown = self.parse_known_args(arguments)
        for text in unknown:
            if text.startswith("-") and text != "-":
                self.error(self._no_option(text))
        if unknown:
            self.error("too many arguments")
        return given

    def _no_option(self, text: str) -> str:
        name = text.partition("=")[0] if text.startswith("--") else text[:2]
        known = [flag for action in self._actions for flag in action.option_strings]
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        return f"there is no option {name}" + (f": did you mean {near[0]}?" if near else "")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")

    def format_help(self) -> str:
        shown = [a for a in self._actions if a.help is not argparse.SUPPRESS]
        lines = [*self._lines, *map(_line, shown), self._note]
        return "\n".join(filter(None, lines)) + "\n"


def _line(action: argparse.Action) -> str:
    """One argument on one line: flags, metavar, help."""
    flags = ", ".join(action.option_strings)
    flags = flags if action.option_strings[:1] != action.option_strings[-1:] else f"    {flags}"
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    return f"  {f'{flags} {metavar}'.rstrip():<25} {action.help}"


def add_directory(parser: Parser) -> None:
    """Let a command take the folder of an order, by itself the current one."""
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), help=argparse.SUPPRESS)
