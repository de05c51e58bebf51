"""The schema of version 1: from a tree to a Manifest, whatever the syntax was.

Every key that a manifest can have is named in one of the four sets here, and in docs/manifest.md.
The walk never stops at a fault: what is wrong goes into the log, and the Manifest that comes out
counts only if the log stayed empty.
"""

from __future__ import annotations

from segdl.core import digests
from segdl.core.manifest import values
from segdl.core.manifest.document import MOST_TARGETS, FullError, Log, Problem
from segdl.core.manifest.fields import Fields
from segdl.core.manifest.headers import Variables, read_headers
from segdl.core.manifest.model import Manifest, Pieces, Slice, Target
from segdl.core.manifest.names import collisions, component_problem
from segdl.core.manifest.ordinary import ordinary
from segdl.core.manifest.wording import shown
from segdl.core.options import LARGEST_SIZE
from segdl.core.urls import ShareURL

ORDER_KEYS = frozenset({"segdl", "order", "segment_size", "headers", "refresh", "files"})
FILE_KEYS = frozenset({"path", "url", "urls", "size", "hash", "pieces", "slice"})
PIECES_KEYS = frozenset({"size", "algorithm", "values"})
SLICE_KEYS = frozenset({"offset", "size"})


def read_order(tree: object, log: Log, variables: Variables) -> Manifest:
    """The order that a tree describes, whose files `read_file` has read already."""
    order = Fields(tree, (), log, ORDER_KEYS)
    order.need("segdl", values.version, f"`segdl: {values.VERSION}`")
    headers = order.within("headers", None)
    files = order.need("files", values.items, "a list of files") or ()
    targets = tuple(file for file in files if isinstance(file, Target))
    _keep_apart(order, targets)
    return Manifest(
        targets=targets,
        order=order.take("order", values.component),
        segment_size=order.take("segment_size", values.segment_size),
        headers=read_headers(headers, variables) if headers is not None else {},
        refresh=order.take("refresh", values.url),
    )


def read_file(log: Log, number: int, node: object) -> Target:
    """One item of `files`; where something of it is wrong, a stand-in."""
    if number == MOST_TARGETS:
        log.note(Problem(("files",), f"has more than {MOST_TARGETS:,} files; split the order"))
        raise FullError
    return ordinary(node) or _any_file(Fields(node, ("files", number), log, FILE_KEYS))


def _any_file(file: Fields) -> Target:
    urls = _urls(file)
    part = _slice(file)
    size = _size(file, part)
    return Target(
        path=_path(file, urls),
        urls=urls,
        size=size,
        digests=_digests(file),
        pieces=_pieces(file, size),
        slice=part,
    )


def _urls(file: Fields) -> tuple[ShareURL, ...]:
    if "urls" not in file:
        url = file.need("url", values.url, "a share URL, or mirrors under `urls`")
        return (url,) if url else ()
    if "url" in file:
        file.take("url", values.url)
        file.wrong("expected either `url` or `urls`, found both", "urls")
    return _mirrors(file, file.take("urls", values.items) or [])


def _mirrors(file: Fields, entries: list[object]) -> tuple[ShareURL, ...]:
    """The URLs of a list, best first."""
    urls: dict[ShareURL, int] = {}
    for number, entry in enumerate(entries):
        url = file.read(values.url, entry, "urls", number)
        if url in urls:
            file.wrong(f"is the same URL as urls[{urls[url]}]", "urls", number)
        elif url is not None:
            urls[url] = number
    return tuple(urls)


def _path(file: Fields, urls: tuple[ShareURL, ...]) -> str:
    """Where the target goes: as `path` says, else under the name that its first URL has."""
    if "path" in file:
        return file.take("path", values.path) or ""
    if not urls:
        return ""
    name = urls[0].name
    problem = component_problem(name) or ("is not UTF-8" if "\ufffd" in name else None)
    if problem is None:
        return name
    last = f"{shown(name)}, which {problem}" if name else "empty"
    file.wrong(f"give a `path`: the last component of the URL is {last}", "path")
    return ""


def _slice(file: Fields) -> Slice | None:
    part = file.within("slice", SLICE_KEYS)
    if part is None:
        return None
    offset = part.need("offset", values.size, "the first byte's number, from 0")
    size = part.need("size", values.slice_size, "a number of bytes")
    if offset is None or size is None:
        return None
    if offset + size > LARGEST_SIZE:
        part.wrong("expected a slice that ends below 8 EiB")
    return Slice(offset, size)


def _size(file: Fields, part: Slice | None) -> int | None:
    """The target's size: the slice's, where there is one."""
    size = file.take("size", values.size)
    if part is None:
        return size
    if size not in (None, part.size):
        file.wrong(f"expected {part.size}, the size of the slice, found {size}", "size")
    return part.size


def _digests(file: Fields) -> tuple[tuple[str, str], ...]:
    """(algorithm, value), the strongest first."""
    hashes = file.within("hash", None)
    if hashes is None:
        return ()
    found: dict[str, str] = {}
    for name in hashes:
        if hashes.read(values.algorithm, name, name):
            found[name] = hashes.take(name, values.digest_value(name)) or ""
    return tuple((name, found[name]) for name in digests.ALGORITHMS if name in found)


def _pieces(file: Fields, size: int | None) -> Pieces | None:
    pieces = file.within("pieces", PIECES_KEYS)
    if pieces is None:
        return None
    length = pieces.need("size", values.segment_size, "the size of a piece")
    algorithm = pieces.need("algorithm", values.algorithm, "the name of a digest")
    entries = pieces.need("values", values.listed, "a list of digests")
    if length is None or algorithm is None or entries is None:
        return None
    if problem := _miscounted(len(entries), length, size):
        pieces.wrong(problem, "values")
    return Pieces(
        length, algorithm, tuple(pieces.each("values", entries, values.digest_value(algorithm)))
    )


def _miscounted(count: int, length: int, size: int | None) -> str | None:
    """What is wrong with this many pieces of `length` bytes for `size`, or None."""
    if size is None:
        return None if count else "expected at least one digest, found an empty list"
    right = -(-size // length)
    if count == right or (size == 0 and count == 1):
        return None
    return f"expected {right} digests, one for each {length} bytes of {size}, found {count}"


def _keep_apart(order: Fields, targets: tuple[Target, ...]) -> None:
    """Note every two targets that would be one file, or of which one would lie in the other."""
    for collision in collisions(target.path for target in targets):
        path, other = targets[collision.number].path, targets[collision.other].path
        if collision.inside:
            text = f"{shown(path)} would lie in {shown(other)}, which is a file of the order"
        elif path == other:
            text = f"{shown(path)} is the path of another file of the order"
        else:
            same = f"{shown(path)} is the same file as {shown(other)}"
            text = f"{same} where case or Unicode form is ignored"
        order.wrong(
            text, "files", collision.number, "path", other=("files", collision.other, "path")
        )
