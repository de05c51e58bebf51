"""`segdl refresh`: fresh links for an order, whether it is under way or not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from segdl.cli import wording
from segdl.cli.arguments import Parser
from segdl.cli.get import NOTE, fetch, read_arguments, read_order
from segdl.cli.signals import Signals
from segdl.core.complaint import printable
from segdl.core.errors import ExitCode

if TYPE_CHECKING:
    from segdl.core.renewal import Renewed

USAGE = "refresh MANIFEST [option ...]     (a fresh one, of the same order)"


def run(arguments: list[str], signals: Signals) -> int:
    parser = Parser("refresh", USAGE, "refresh order2.yaml -o out", NOTE)
    source, settings = read_arguments(parser, arguments)

    from segdl.engine.loading import read
    from segdl.service.control_socket import Refused
    from segdl.service.steering import hand_over

    data = read(source)
    _, output = read_order(source, settings, data)
    answer = None if settings.dry_run else hand_over(output, data)
    if answer is None:  # nobody is at work there
        return fetch(source, settings, signals, data)
    if isinstance(answer, Refused):
        for line in answer.message.splitlines():
            print(f"segdl: {printable(line, 2000)}", file=sys.stderr)
        return answer.exit_code
    out = sys.stderr if settings.progress == "json" else sys.stdout
    for line in told(answer, output):
        print(line, file=out)
    return ExitCode.DONE


def told(renewed: Renewed, output: Path) -> Iterator[str]:
    """What came of it, for a person."""
    files, where = wording.count(renewed.taken, "file"), printable(str(output))
    yield f"Fresh links for {files} of the order under way in {where}"
    if renewed.same:
        yield f"{wording.count(renewed.same, 'file')} had these very links already"
    if renewed.lacking:
        yield f"Still without a fresh link: {wording.count(renewed.lacking, 'file')}"
    if renewed.other:
        yield f"Not of that order, and left alone: {wording.count(renewed.other, 'file')}"
