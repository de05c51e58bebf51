"""`segdl status`: what is delivered, held and missing, from disk alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from segdl.cli import wording
from segdl.cli.arguments import Parser, add_directory
from segdl.cli.signals import Signals
from segdl.core.complaint import printable
from segdl.core.errors import ExitCode

if TYPE_CHECKING:
    from segdl.engine.audit import Audit, Standing

SHOWN = 20  # files that are not delivered, told one by one


def run(arguments: list[str], signals: Signals) -> int:
    parser = Parser("status", "status [DIR] [option ...]      DIR is where an order goes [.]",
                    "status out")  # fmt: skip
    add_directory(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.add_argument("--bundle", metavar="FILE.zip", type=Path,
                        help="pack what support asks for, without links, instead")  # fmt: skip
    given = parser.parse(arguments)
    if given.bundle is not None:
        _pack(given.directory, given.bundle, as_json=given.json)
        return ExitCode.DONE

    from segdl.engine.audit import status

    audit = status(given.directory)
    if given.json:
        print(json.dumps(_as_json(audit, given.directory)))
    else:
        _tell(audit, given.directory)
    return ExitCode.DONE


def _pack(directory: Path, file: Path, *, as_json: bool) -> None:
    from segdl.engine.bundle import bundle

    packed = bundle(directory, file)
    if as_json:
        print(json.dumps({"bundle": str(file), **asdict(packed)}))
        return
    what = f"{', '.join(packed.contents)}; {wording.count(packed.requests, 'request')}, no links"
    unread = len(packed.unreadable)
    note = f"; {wording.count(unread, 'piece')} could not be read, see README.txt" if unread else ""
    print(f"{printable(str(file))} ({wording.size(packed.bytes)}) holds {what}{note}")


def _as_json(audit: Audit, directory: Path) -> dict[str, object]:
    told = ("path", "state", "size", "held", "note")
    targets = [{name: getattr(s, name) for name in told} for s in audit.standings]
    return {
        "order": audit.order,
        "directory": str(directory),
        "counts": _counts(audit),
        "bytes": audit.size,
        "present": audit.present,
        "targets": targets,
    }


def _counts(audit: Audit) -> dict[str, int]:
    from segdl.engine.audit import State

    return {state.value: len(audit.of(state)) for state in State}


def _tell(audit: Audit, directory: Path) -> None:
    from segdl.engine.audit import State

    print(f"{audit.order or 'Order'} in {printable(str(directory))}: {_amount(audit)}")
    counts = [f"{number} {state}" for state, number in _counts(audit).items() if number]
    print(f"{wording.count(len(audit.standings), 'file')}: {', '.join(counts) or 'none'}")
    open_ = [s for s in audit.standings if s.state is not State.DELIVERED]
    for standing in open_[:SHOWN]:
        print(f"  {_line(standing)}")
    if len(open_) > SHOWN:
        print(f"  and {len(open_) - SHOWN} more (--json tells all)")


def _amount(audit: Audit) -> str:
    present = wording.size(audit.present)
    if audit.size is None:
        return f"{present} here"
    return f"{present} of {wording.size(audit.size)} here"


def _line(standing: Standing) -> str:
    size = "?" if standing.size is None else wording.size(standing.size)
    held = f"{wording.size(standing.held)} of {size}" if standing.held else size
    note = f" ({standing.note})" if standing.note else ""
    return f"{standing.state:<9} {held:>22}  {printable(standing.path, 1000)}{note}"
