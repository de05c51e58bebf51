"""From the bytes of a manifest to its Manifest, or to every fault in it."""

from __future__ import annotations

import gc
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from segdl.core.errors import Fault, ManifestError
from segdl.core.manifest.document import BrokenError, FullError, Log, Syntax, problems_of
from segdl.core.manifest.encoding import check
from segdl.core.manifest.faults import faults
from segdl.core.manifest.headers import Variables
from segdl.core.manifest.model import Manifest
from segdl.core.manifest.schema import read_file, read_order
from segdl.core.manifest.wording import printable

_FIRST = re.compile(rb"\s*(\S)")
_URL_LIST = re.compile(rb"(?:[ \t\r]*(?:#[^\n]*)?\n)*+[ \t]*[A-Za-z][A-Za-z0-9+.-]*://")


def parse_manifest(
    data: bytes,
    source: str,
    *,
    allow_env: Collection[str] = (),
    environment: Mapping[str, str],
) -> Manifest:
    """The order that `data` describes, in any of the four syntaxes.

    `source` is the name that faults show ("order.yaml", "<stdin>"). `environment` is where header
    values take their `${NAME}` from: names that begin with SEGDL_VAR_, and those in `allow_env`.
    Raises ManifestError with every fault, by line.
    """
    try:
        check(data)
        with _no_collector():
            return _read(_syntax(data), data, source, Variables(environment, allow_env))
    except BrokenError as broken:
        where = f"{printable(source)}:{broken.line}"
        raise ManifestError((Fault(where, "", broken.problem),)) from None


@contextmanager
def _no_collector() -> Iterator[None]:
    """No search for cycles meanwhile: there are none, and it would look at every target, often."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def manifest_of_url(text: str) -> Manifest:
    """The order of one object that a bare share URL stands for. Raises ManifestError."""
    log = Log()
    target = read_file(log, 0, {"url": text})
    if log.count:
        raise ManifestError(tuple(Fault("", "URL", problem.text) for problem in log.kept))
    return Manifest((target,))


def _read(syntax: Syntax, data: bytes, source: str, variables: Variables) -> Manifest:
    log = Log()
    try:
        document = syntax.read(data, partial(read_file, log))
        manifest = read_order(document.tree, log, variables)
        for problem in problems_of(syntax.places(data)) if document.refused else ():
            log.note(problem)
    except FullError:
        pass
    if not log.count:
        return manifest
    found = faults(log, lambda: syntax.places(data), source)
    raise ManifestError(found if syntax.NAMED else tuple(replace(each, field="") for each in found))


def _syntax(data: bytes) -> Syntax:
    """The one syntax that a manifest looks like; `data` is text.

    Each is imported when it is met: a run reads one manifest, and start-up counts.
    """
    found = _FIRST.match(data)
    match found[0][-1:] if found else b"":
        case b"{" | b"[":
            from segdl.core.manifest import syntax_json

            return syntax_json
        case b"<":
            from segdl.core.manifest import syntax_metalink

            return syntax_metalink
    if _URL_LIST.match(data):
        from segdl.core.manifest import syntax_list

        return syntax_list
    from segdl.core.manifest import syntax_yaml

    return syntax_yaml
