"""The files of an order as nearly all of them are: a shortcut through the schema, for long orders.

It asks the same readers in `values` as the schema, and takes nothing that the schema would not take
or would take for something else. It notes no fault, but leaves the file to the schema, which does.
"""

from __future__ import annotations

from segdl.core.manifest import values
from segdl.core.manifest.model import Target

_KEYS = frozenset({"path", "url", "size", "hash"})
_NEEDED = frozenset({"path", "url"})


def ordinary(node: object) -> Target | None:
    """The target of one item of `files`; None if anything about it is unusual, or wrong."""
    if not isinstance(node, dict) or not _NEEDED <= node.keys() <= _KEYS:
        return None
    try:
        return Target(
            values.path(node["path"]),
            (values.url(node["url"]),),
            values.size(node["size"]) if "size" in node else None,
            _digest(node["hash"]) if "hash" in node else (),
        )
    except values.WrongError:
        return None


def _digest(node: object) -> tuple[tuple[str, str], ...]:
    """The one digest of a file. Raises WrongError if there is another number of them."""
    if not isinstance(node, dict) or len(node) != 1:
        raise values.WrongError
    [(name, value)] = node.items()
    return ((name, values.digest_value(values.algorithm(name))(value)),)
