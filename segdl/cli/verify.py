"""`segdl verify`: hash what is delivered against its receipts or a manifest."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from segdl.cli.arguments import Parser, add_directory
from segdl.cli.progress import on_terminal
from segdl.cli.signals import Signals
from segdl.core.complaint import printable
from segdl.core.errors import ExitCode
from segdl.core.options import Options

if TYPE_CHECKING:
    from segdl.core.manifest import Manifest
    from segdl.engine.verify import Finding

RANGES = 8  # rotten ranges that are told of one file


def run(arguments: list[str], signals: Signals) -> int:
    parser = Parser(
        "verify", "verify [DIR] [--manifest FILE]      DIR is where an order went [.]",
        "verify out", "Exit code: 0 all good, 4 something is rotten, 1 something is missing",
    )  # fmt: skip
    add_directory(parser)
    parser.add_argument("--manifest", metavar="FILE", help="hold the files against its digests")
    parser.add_argument("--allow-env", metavar="NAME", action="append", default=[],
                        help="let the manifest use this variable (repeatable)")  # fmt: skip
    given = parser.parse(arguments)

    from segdl.engine.loading import load

    options = Options(allow_env=tuple(given.allow_env))
    manifest = load(given.manifest, options) if given.manifest else None
    findings = look(given.directory, manifest, options)
    for line in told(findings):
        print(line)
    where, found = printable(os.fspath(given.directory)), {f.verdict.value for f in findings}
    if "rotten" in found:
        print(f"Mend it with: segdl repair MANIFEST -o {where}")
    if "missing" in found:
        print(f"Fetch what is missing with: segdl MANIFEST -o {where}")
    return verdict(findings)


def look(directory: Path, manifest: Manifest | None, options: Options) -> tuple[Finding, ...]:
    """Hash what is there, with a bar on a terminal. Raises UsageError, DiskError."""
    from segdl.engine.verify import verify

    if not on_terminal():
        return verify(directory, manifest, options=options)
    from segdl.cli.bars import Meter

    meter = Meter(sys.stderr, "verify")
    try:
        return verify(directory, manifest, options=options, on_progress=meter.show)
    finally:
        meter.close()


def told(findings: Iterable[Finding]) -> Iterator[str]:
    """A line for each file that is not good, and how many are what."""
    from segdl.engine.verify import Verdict

    counts: Counter[str] = Counter()
    for finding in findings:
        counts[finding.verdict.value] += 1
        if finding.verdict is not Verdict.GOOD:
            yield _line(finding)
    yield ", ".join(f"{counts[name]} {name}" for name in Verdict if counts[name]) or "no files"


def verdict(findings: Iterable[Finding]) -> ExitCode:
    """CONTENT if anything is rotten, else MIXED if anything is missing or cannot be proved."""
    verdicts = {finding.verdict.value for finding in findings}
    if "rotten" in verdicts:
        return ExitCode.CONTENT
    return ExitCode.MIXED if verdicts - {"good"} else ExitCode.DONE


def _line(finding: Finding) -> str:
    facts = [finding.note] if finding.note else []
    if finding.rotten:
        facts.append(f"segments {_numbers(finding.rotten)}, bytes {_ranges(finding)}")
    return f"{finding.verdict:<8} {printable(finding.path, 1000)}: {'; '.join(facts)}"


def _numbers(rotten: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, rotten[:RANGES]))
    return shown + (f" and {len(rotten) - RANGES} more" if len(rotten) > RANGES else "")


def _ranges(finding: Finding) -> str:
    """The rotten bytes, half-open: `0-8388608`."""
    shown = [f"{start}-{stop}" for start, stop in islice(finding.ranges, RANGES + 1)]
    return ", ".join(shown[:RANGES]) + (", ..." if len(shown) > RANGES else "")
