"""A manifest, from wherever it is named: a file, standard input, a bare URL."""

from __future__ import annotations

import os
import sys

from segdl.core.errors import Fault, ManifestError
from segdl.core.manifest import Manifest, manifest_of_url, parse_manifest
from segdl.core.options import Options

LARGEST_MANIFEST = 128 * 1024 * 1024  # bytes


def load(source: str | os.PathLike[str], options: Options | None = None) -> Manifest:
    """The manifest in a file, on standard input (`-`), or of one bare http(s) URL.

    Raises ManifestError with every fault.
    """
    name = os.fspath(source)
    return parse(read(name), name, options or Options())


def parse(data: bytes, source: str, options: Options) -> Manifest:
    """The manifest that was read from a source. Raises ManifestError with every fault."""
    if is_url(source):
        return manifest_of_url(source)
    shown = "<stdin>" if source == "-" else source
    return parse_manifest(data, shown, allow_env=options.allow_env, environment=os.environ)


def is_url(source: str) -> bool:
    """Whether a manifest is named by the URL of its one object."""
    return source[:8].lower().startswith(("http://", "https://"))


def read(source: str) -> bytes:
    """What stands in a file, on standard input (`-`), or is said by one bare URL: a list of one.

    Raises ManifestError.
    """
    if is_url(source):
        return source.encode("utf-8", "surrogatepass")
    try:
        if source == "-":
            return sys.stdin.buffer.read(LARGEST_MANIFEST + 1)
        with open(source, "rb") as file:
            return file.read(LARGEST_MANIFEST + 1)
    except OSError as error:
        problem = f"cannot be read ({error.strerror}): expected a manifest, `-`, or an http(s) URL"
        shown = source.partition("?")[0]  # it may be a share URL that was mistyped
        raise ManifestError((Fault(shown, "", problem),)) from None
