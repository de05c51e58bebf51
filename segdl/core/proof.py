"""What proves a target: which digests to take, what they are held against, and the grade.

In order of trust: the manifest's digests of the whole, its digests of every segment (`pieces`),
and S3's ETag, which may be the content's MD5 or the MD5 of its upload parts' MD5s. An ETag that
matches raises the grade; one that does not proves nothing (SSE-C, SSE-KMS) and is no failure.
"""

from __future__ import annotations

from collections.abc import Mapping

from segdl.core.dataclass import dataclass
from segdl.core.digests import digest, digest_of_parts, etag_md5, etag_parts
from segdl.core.errors import DigestError, SizeError
from segdl.core.manifest.model import Target
from segdl.core.plan import Layout, Pin
from segdl.core.report import Grade


@dataclass(frozen=True, slots=True)
class Proof:
    """What is to be proved of one target, as it is cut and pinned."""

    target: Target
    layout: Layout
    pin: Pin | None

    @property
    def of_whole(self) -> tuple[str, ...]:
        """The digests to take over the whole file, as the front moves."""
        if self.target.digests:
            return tuple(name for name, _ in self.target.digests)
        return ("md5",) if self._etag_md5 else ()

    @property
    def of_segment(self) -> tuple[str, ...]:
        """The digests to take of every segment, beside the record's own, as its bytes land."""
        if self.target.pieces:
            return (self.target.pieces.algorithm,)
        return ("md5",) if self._etag_parts else ()

    def check_size(self, size: int) -> None:
        """Raises SizeError if the manifest's `pieces` are not those of `size` bytes."""
        if pieces := self.target.pieces:
            count = len(pieces.values)
            if count != -(-size // pieces.size) and (size or count > 1):
                raise SizeError(f"the target has {size} bytes, the manifest has {count} pieces")
            if count and not size:
                self.check_segment(0, {pieces.algorithm: digest(pieces.algorithm, b"")})

    def check_segment(self, number: int, digests: Mapping[str, str]) -> None:
        """Raises DigestError if a segment is not what the manifest's `pieces` say."""
        if pieces := self.target.pieces:
            what = f"segment {number}"
            _compare(what, pieces.algorithm, pieces.values[number], digests[pieces.algorithm])

    def check_whole(self, digests: Mapping[str, str]) -> None:
        """Raises DigestError if the file is not what the manifest's `hash` says."""
        for algorithm, expected in self.target.digests:
            _compare("the content", algorithm, expected, digests[algorithm])

    def grade(self, whole: Mapping[str, str], segments: Mapping[int, Mapping[str, str]]) -> Grade:
        """The grade of a complete target by the digests of the whole and of its segments."""
        if self.target.digests:
            return Grade.DIGEST
        if self.target.pieces:
            return Grade.PIECES
        if self._etag_md5 and whole.get("md5") == self._etag_md5:
            return Grade.ETAG
        if self._etag_parts and len(segments) == self.layout.count:
            md5s = [segments[number].get("md5") for number in sorted(segments)]
            known = [md5 for md5 in md5s if md5]  # none, where the size was learned at the end
            if len(known) == len(md5s) and digest_of_parts(known) == self._etag_parts:
                return Grade.ETAG
        return Grade.PINNED if self.pin and self.pin.etag else Grade.UNVERIFIED

    @property
    def _etag_md5(self) -> str | None:
        return etag_md5(self._etag)

    @property
    def _etag_parts(self) -> str | None:
        """The multipart ETag, if its parts are this layout's segments: no second read then."""
        parts = etag_parts(self._etag, self.layout.size or 0)
        return parts[0] if parts and parts[1] == self.layout.segment_size else None

    @property
    def _etag(self) -> str | None:
        """The ETag, where it could say anything about the target's bytes that is not known."""
        if self.pin is None or self.target.slice or self.target.provable:
            return None
        return self.pin.etag


def _compare(what: str, algorithm: str, expected: str, found: str) -> None:
    if found != expected:
        raise DigestError(
            f"{what} does not match its {algorithm} in the manifest: tell the publisher",
            algorithm=algorithm,
            expected=expected,
            found=found,
        )
