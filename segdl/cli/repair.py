"""`segdl repair`: fetch again what verify finds rotten."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from segdl.cli import wording
from segdl.cli.arguments import Parser
from segdl.cli.get import NOTE, read_arguments, read_order, tell
from segdl.cli.settings import Settings
from segdl.cli.signals import Signals
from segdl.cli.summary import command
from segdl.cli.verify import look, told
from segdl.core.errors import ExitCode

if TYPE_CHECKING:
    from segdl.core.manifest import Manifest
    from segdl.core.report import Report
    from segdl.engine.verify import Finding

USAGE = "repair MANIFEST [option ...]     (the order's own, or a fresh one)"


def run(arguments: list[str], signals: Signals) -> int:
    parser = Parser("repair", USAGE, "repair order.yaml -o out", NOTE)
    source, settings = read_arguments(parser, arguments)
    order, output = read_order(source, settings)
    findings = look(output, order, settings.options)
    out = sys.stderr if settings.progress == "json" else sys.stdout
    for line in told(findings):
        print(line, file=out)
    if settings.dry_run:
        return ExitCode.DONE
    report = _repair(order, output, findings, settings, signals)
    if report.receipts or report.failures:
        tell(report, source, output, settings)
    if missing := _missing(findings):
        noun = wording.count(missing, "file")
        print(f"{noun} missing: fetch with {command(source, output)}", file=out)
    return report.exit_code or (ExitCode.MIXED if missing else ExitCode.DONE)


def _missing(findings: Iterable[Finding]) -> int:
    return sum(finding.verdict.value == "missing" for finding in findings)


def _repair(
    order: Manifest,
    output: Path,
    findings: tuple[Finding, ...],
    settings: Settings,
    signals: Signals,
) -> Report:
    from segdl.cli.progress import shown
    from segdl.engine.control import Control
    from segdl.engine.repair import repair

    control = Control()
    with shown(settings.progress) as view, signals.steering(control):
        return repair(
            order, output, findings, options=settings.options, on_event=view, control=control
        )
