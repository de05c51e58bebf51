"""`segdl get`: download an order."""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from segdl.cli import wording
from segdl.cli.arguments import Parser
from segdl.cli.settings import Settings, add_settings, read_settings
from segdl.cli.signals import Signals
from segdl.core.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from segdl.core.manifest import Manifest
    from segdl.core.report import Report
    from segdl.edges.manifest_file import ManifestFile
    from segdl.engine.audit import Standing

USAGE = "[get] MANIFEST [option ...]     (MANIFEST: a file, - or a URL)"
NOTE = "Each also as SEGDL_CONNECTIONS=4, or in segdl.toml (--config FILE)"


def run(arguments: list[str], signals: Signals) -> int:
    parser = Parser("get", USAGE, "order.yaml -o out --limit-rate 2MiB", NOTE)
    source, settings = read_arguments(parser, arguments)
    return fetch(source, settings, signals)


def fetch(source: str, settings: Settings, signals: Signals, data: bytes | None = None) -> int:
    """Download the order that a source names; `data` is what was read from there already."""
    from segdl.edges.manifest_file import ManifestFile

    file = ManifestFile.of(source)
    order, output = read_order(source, settings, data)
    if settings.dry_run:
        return _rehearse(order, output, settings)
    report = _download(order, output, settings, signals, file)
    tell(report, source, output, settings)
    return report.exit_code


def read_arguments(parser: Parser, arguments: list[str]) -> tuple[str, Settings]:
    """The manifest as it was named, and the settings. Raises UsageError."""
    parser.add_argument("manifest", metavar="MANIFEST", help=argparse.SUPPRESS)
    add_settings(parser)
    given = parser.parse(arguments)
    return given.manifest, read_settings(given, os.environ)


def read_order(source: str, settings: Settings, data: bytes | None = None) -> tuple[Manifest, Path]:
    """The manifest, and where its files go. Raises ManifestError, UsageError."""
    from segdl.engine.loading import parse, read

    order = parse(read(source) if data is None else data, source, settings.options)
    globs = settings.options.select
    paths = [target.path for target in order.targets]
    if globs and not any(fnmatch.filter(paths, glob) for glob in globs):
        raise UsageError("--select matches no file of the order")
    return order, settings.output or Path(order.order or ".")


def _download(
    order: Manifest, output: Path, settings: Settings, signals: Signals, file: ManifestFile | None
) -> Report:
    from segdl.cli.progress import shown
    from segdl.engine import deliver
    from segdl.engine.control import Control
    from segdl.service.steering import steered

    control, options = Control(), settings.options
    with shown(settings.progress) as view, signals.steering(control):
        beside = steered(control, options)
        return deliver(order, output, options, view, control, file=file, beside=beside)


def tell(report: Report, source: str, output: Path, settings: Settings) -> None:
    """The summary, on standard output unless that is for NDJSON."""
    from segdl.cli.summary import summary

    out = sys.stderr if settings.progress == "json" else sys.stdout
    for line in summary(report, source, output):
        print(line, file=out)


def _rehearse(order: Manifest, output: Path, settings: Settings) -> int:
    """Say what would be done, from the manifest and the disk alone."""
    from segdl.core.runway import last_end
    from segdl.core.selection import chosen
    from segdl.engine.audit import State, rehearse

    targets = chosen(order, settings.options)
    survey = rehearse(targets, output)
    for standing in survey.standings:
        print(_plan_line(standing, overwrite=settings.options.overwrite))
    print("; ".join(_plan_total(survey.standings)))
    left = {standing.path for standing in survey.standings if standing.state is not State.DELIVERED}
    ended = sum(t.path in left and last_end(t.urls) <= time.time() for t in targets)
    if ended:
        files = wording.count(ended, "file")
        print(f"The links of {files} have expired, by this machine's clock: get a fresh manifest")
    return ExitCode.DONE


def _plan_line(standing: Standing, *, overwrite: bool) -> str:
    size = "?" if standing.size is None else wording.size(standing.size)
    return f"{_plan(standing, overwrite=overwrite):<20} {size:>10}  {standing.path}"


def _plan(standing: Standing, *, overwrite: bool) -> str:
    from segdl.engine.audit import State

    match standing.state:
        case State.DELIVERED:
            return "here already"
        case State.CHANGED | State.FOUND:
            return "check, then replace" if overwrite else "check what is here"
        case State.HELD:
            return f"go on from {wording.percent(standing.held, standing.size)}"
    return "fetch"


def _plan_total(standings: tuple[Standing, ...]) -> Iterator[str]:
    from segdl.engine.audit import State

    left = [s for s in standings if s.state is not State.DELIVERED]
    known = sum(s.size - min(s.held, s.size) for s in left if s.size is not None)
    unknown = sum(s.size is None for s in left)
    yield f"{wording.count(len(left), 'file')} of {len(standings)} to fetch or check"
    yield f"{wording.size(known)}" + (f" and {unknown} of unknown size" if unknown else "")
