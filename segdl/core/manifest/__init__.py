"""The manifest: what an order asks for, from text to typed targets.

Four syntaxes (`syntax_*`) each give a plain tree, quickly and without lines. One `schema` turns any
such tree into a `Manifest`, file by file, and notes every problem on the way. Only if there is one,
the text is read a second time, for the lines, and `faults` puts the two together. A share URL's
query and a header's value never get there.
"""

from __future__ import annotations

from segdl.core.manifest.encoding import LARGEST
from segdl.core.manifest.model import Manifest, Pieces, Slice, Target
from segdl.core.manifest.parse import manifest_of_url, parse_manifest

__all__ = [
    "LARGEST",
    "Manifest",
    "Pieces",
    "Slice",
    "Target",
    "manifest_of_url",
    "parse_manifest",
]
