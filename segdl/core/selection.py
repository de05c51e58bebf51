"""Which targets of a manifest are meant."""

from __future__ import annotations

import fnmatch

from segdl.core.digests import digest
from segdl.core.manifest.model import Manifest, Target
from segdl.core.options import Options


def chosen(manifest: Manifest, options: Options) -> tuple[Target, ...]:
    """The targets that `--select`, `--exclude` and `--shard` leave, in the manifest's order."""
    return tuple(target for target in manifest.targets if _wanted(target.path, options))


def _wanted(path: str, options: Options) -> bool:
    if options.select and not any(fnmatch.fnmatchcase(path, glob) for glob in options.select):
        return False
    if any(fnmatch.fnmatchcase(path, glob) for glob in options.exclude):
        return False
    if options.shard is None:
        return True
    part, parts = options.shard
    return int(digest("xxh3_64", path.encode()), 16) % parts == part - 1
