"""What is to be expected of one target, before its run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf

from segdl.core.dataclass import dataclass
from segdl.core.digests import etag_md5
from segdl.core.errors import (
    DiskError,
    ExpiredError,
    OccupiedError,
    SegdlError,
    SizeError,
    TransientError,
    UnreachableError,
)
from segdl.core.manifest.model import Target
from segdl.core.outset import Ground, Link, Outset, Present, Terms
from segdl.core.plan import Layout, Pin, aligned
from segdl.core.proof import Proof
from segdl.core.urls import ShareURL
from segdl.core.verdict import Ask


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is to be expected of one target. `error` is what it would fail with."""

    outset: Outset
    size: int | None  # bytes
    held: int = 0  # bytes that are gone on with
    left: int = 0  # bytes to fetch, as far as is known
    room: int = 0  # bytes that they take of what is free
    ahead: int = 0  # bytes that its segments ahead of the front may take beside them
    end: float = inf  # unix seconds: when the last of its good links ends
    error: SegdlError | None = None
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return self.outset.target.path


def expected(outset: Outset, terms: Terms, ground: Ground | None) -> Prospect:
    if outset.delivered is not None:
        return Prospect(outset, outset.delivered)
    good = [link for link in outset.links if link.pin is not None]
    size = size_of(outset.target, good[0].pin) if good and good[0].pin else outset.target.size
    if to_be_hashed(outset.target, outset.present):
        return Prospect(outset, size, notes=(_hashed(outset, terms),))
    held = _held(outset, good)
    etag = good[0].pin.etag if good and good[0].pin else None
    segment = outset.segment or aligned(size or 0, etag)
    room = max((size or 0) - outset.used, 0)
    return Prospect(
        outset,
        size,
        held=held,
        left=0 if outset.elsewhere else max((size or 0) - held, 0),
        room=room,
        # The segment at the front is written where it belongs.
        ahead=min(terms.ahead * segment, max((size or 0) - segment, 0)) if room else 0,
        end=max((inf if (end := link.url.ends_at) is None else end for link in good), default=inf),
        error=_error(outset, size, terms, ground),
        notes=tuple(_notes(outset, good, terms, held)),
    )


def _held(outset: Outset, good: Sequence[Link]) -> int:
    """Bytes that a run goes on with: while nobody answers, what is there is believed."""
    if outset.pin is None:
        return 0
    if not good:
        return outset.used
    same = any(link.pin and same_object(outset.pin, link.pin) for link in good)
    return outset.used if same and good[0].ranged else 0


def _error(
    outset: Outset, size: int | None, terms: Terms, ground: Ground | None
) -> SegdlError | None:
    error = outset.blocked or _in_the_way(outset, size, terms) or _long_name(outset.target, ground)
    if error is not None:
        return error
    if outset.elsewhere or any(link.pin is not None for link in outset.links):
        return None
    error = _refused(outset)
    return None if isinstance(error, ExpiredError) and terms.renewable else error


def _refused(outset: Outset) -> SegdlError | None:
    """What a target ends with whose links are all bad: a host that is down is waited for last."""
    errors = [link.error for link in outset.links if link.error is not None]
    down = (error for error in errors if isinstance(error, TransientError))
    return next((_exhausted(error) for error in down), errors[-1] if errors else None)


def _exhausted(error: TransientError) -> UnreachableError:
    """What a run ends with if that does not change as long as it is patient."""
    return error.become(UnreachableError)


def to_be_hashed(target: Target, present: Present | None) -> bool:
    """Whether `get` will hash a file that is there, before it asks for any link."""
    if present is None or present.size is None or not target.provable:
        return False
    return target.size in (None, present.size)


def _hashed(outset: Outset, terms: Terms) -> str:
    other = "replaced" if terms.overwrite else "refused"
    return f"a file is here without a receipt: it is hashed, and {other} if it is another"


def _in_the_way(outset: Outset, size: int | None, terms: Terms) -> OccupiedError | None:
    present, path = outset.present, outset.target.path
    if present is None:
        return None
    if present.folder:
        return OccupiedError(f"{path} is a folder here: move it away")
    if terms.overwrite or (present.size is not None and size in (None, present.size)):
        return None
    return OccupiedError(
        f"{path} is here already with other content: move it away, or give --overwrite"
    )


def _long_name(target: Target, ground: Ground | None) -> DiskError | None:
    if ground is None:
        return None
    longest = max(len(name.encode()) for name in target.path.split("/"))
    if longest <= ground.longest_name:
        return None
    return DiskError(
        f"a name of {longest} bytes, where this file system takes {ground.longest_name}: "
        "give another folder with -o"
    )


def _notes(outset: Outset, good: Sequence[Link], terms: Terms, held: int) -> Iterator[str]:
    if good and not good[0].ranged:
        yield "its server ignores ranges: one stream from the start, which cannot be resumed"
    elif outset.pin and outset.used and not held:
        yield f"the object was replaced: the {outset.used} bytes that are held start again"
    if outset.present is not None:
        yield "a file is here: " + (
            "it is replaced" if terms.overwrite else "it is compared when all is fetched"
        )
    if outset.elsewhere:
        yield "a file in --from may be all of it: it is taken if its digest holds"
    if good:
        yield from _etag_notes(outset.target, good[0])
        yield from _mirror_notes(outset, good)
    elif outset.elsewhere and (error := _refused(outset)):
        yield f"if it is not, nothing else is good: {worded(error)}"
    elif terms.renewable and isinstance(_refused(outset), ExpiredError):
        yield "its link has expired: `refresh` has to give a fresh one"


def _etag_notes(target: Target, link: Link) -> Iterator[str]:
    """An ETag that is not the content's MD5 proves nothing (SSE-C, SSE-KMS), but may tell."""
    found, wanted = etag_md5(link.pin.etag if link.pin else None), dict(target.digests).get("md5")
    if None not in (found, wanted) and found != wanted and target.slice is None:
        yield "its ETag is not the manifest's md5: it may be another object, or an encrypted one"


def _mirror_notes(outset: Outset, good: Sequence[Link]) -> Iterator[str]:
    """Mirrors that will not do, and those that have another object than the first that does."""
    first, provable = good[0].pin, outset.target.provable
    for link in outset.links:
        if link.error is not None:
            yield f"the mirror {link.url.netloc} is of no use: {worded(link.error)}"
        elif first and link.pin and not _mirrors(first, link.pin, provable=provable):
            yield f"the mirror {link.url.netloc} has another object than {good[0].url.netloc}"


def _mirrors(first: Pin, other: Pin, *, provable: bool) -> bool:
    """Whether two hosts may have one object. Each may have an ETag of its own where a digest will
    tell whether the bytes are the same."""
    return same_object(replace(first, by_digest=True) if provable else first, other)


def same_object(held: Pin, found: Pin) -> bool:
    """Whether an answer may be of the object that a pin says (see `verdict`)."""
    if None not in (held.total, found.total) and held.total != found.total:
        return False
    if held.encoding != found.encoding:
        return False
    if held.etag is not None or found.etag is not None:
        return held.by_digest or held.etag == found.etag
    return None in (held.modified, found.modified) or held.modified == found.modified


def worded(error: SegdlError) -> str:
    """What is wrong, with the request id to quote to the server's operator."""
    quoted = error.request_id and error.request_id not in error.message
    return error.message + (f" (request id {error.request_id})" if quoted else "")


def question(target: Target, link: ShareURL) -> Ask:
    """What a link is asked for: the first byte of its target. (Asked for more than there is, OSS
    answers with 200 and all of it.)"""
    start = target.slice.offset if target.slice else 0
    return Ask(
        start=start,
        stop=start + 1,
        size=None if target.slice else target.size,
        name=target.path,
        url=link,
    )


def size_of(target: Target, pin: Pin) -> int | None:
    """The target's size by an answer. Raises SizeError if it cannot be the manifest's target."""
    part, size = target.slice, pin.total
    if part is not None:
        if size is not None and part.offset + part.size > size:
            raise SizeError(f"the object has {size} bytes, and the slice ends beyond them")
        size = part.size
    if size is not None:
        Proof(target, Layout(size, 1), pin).check_size(size)
    return target.size if size is None else size
