"""What came of an order: receipts and failures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from enum import StrEnum

from segdl.core.dataclass import dataclass
from segdl.core.errors import ExitCode, SegdlError


class Grade(StrEnum):
    """What proved a target, best first."""

    DIGEST = "digest"  # a digest of the whole file, from the manifest
    PIECES = "pieces"  # a digest of every segment, from the manifest
    ETAG = "etag"  # the S3 ETag is the content's MD5, or its multipart form
    PINNED = "pinned"  # all bytes from answers with one strong ETag and one size
    UNVERIFIED = "unverified"  # neither digest nor strong ETag


@dataclass(frozen=True, slots=True)
class SegmentDigests:
    """A digest for each segment of `size` bytes, so that `repair` knows which one rots."""

    size: int
    algorithm: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    """A delivered target. `digests` are of the whole file, by algorithm."""

    path: str
    size: int  # bytes
    digests: Mapping[str, str]
    segments: SegmentDigests
    grade: Grade
    delivered: str  # RFC 3339
    object: str  # which object it is: host, path, version
    etag: str | None
    modified_ns: int  # the file's time when it was delivered
    resumable: bool = True  # False where the server ignores ranges
    offset: int = 0  # where in the object the target begins (a slice)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A mirror's host that targets have done with, for one reason."""

    host: str
    cause: str
    message: str  # of the first of them
    path: str  # the first of them
    targets: int  # how many there are


@dataclass(frozen=True, slots=True)
class Taken:
    """What came from the folders that were named with `--from`."""

    files: int = 0  # targets that something was taken for
    bytes: int = 0
    unproved: int = 0  # targets of which there was a file, and nothing in the manifest to prove it


@dataclass(frozen=True, slots=True)
class Failure:
    """A target that was not delivered, and why."""

    path: str
    error: SegdlError


class OrderError(SegdlError):
    """Several targets failed; `failures` has each."""

    def __init__(self, failures: tuple[Failure, ...], exit_code: ExitCode) -> None:
        names = ", ".join(f.path for f in failures[:3]) + (" …" if len(failures) > 3 else "")
        super().__init__(f"{len(failures)} targets failed: {names}")
        self.failures = failures
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a run."""

    receipts: tuple[Receipt, ...]
    failures: tuple[Failure, ...]
    bytes: int  # fetched in this run
    seconds: float
    skipped: frozenset[str] = field(default_factory=frozenset)  # paths that were there already
    stopped: ExitCode | None = None  # the run was stopped from outside
    left_out: tuple[LeftOut, ...] = ()  # mirrors
    taken: Taken = Taken()

    @property
    def exit_code(self) -> ExitCode:
        """The contract's code: of what stopped it, or of what failed."""
        if self.stopped is not None:
            return self.stopped
        return common_code(failure.error for failure in self.failures)

    def raise_for_failures(self) -> None:
        """Raises the error of the one failed target, or an OrderError for several."""
        if len(self.failures) == 1:
            raise self.failures[0].error
        if self.failures:
            raise OrderError(self.failures, self.exit_code)


def common_code(errors: Iterable[SegdlError]) -> ExitCode:
    """DONE without errors, the code of the one reason that they have in common, else MIXED."""
    codes = {error.exit_code for error in errors}
    if not codes:
        return ExitCode.DONE
    return codes.pop() if len(codes) == 1 else ExitCode.MIXED
