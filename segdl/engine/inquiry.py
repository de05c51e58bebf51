"""Every link of an order asked once, for the first byte of its object."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from segdl.core.errors import BrokenError, BusyError, ExpiredError, SegdlError, UnreachableError
from segdl.core.manifest import Target
from segdl.core.outset import Link, Outset
from segdl.core.prospect import question, size_of, to_be_hashed
from segdl.core.urls import ShareURL
from segdl.edges.transport import Answer, Connection
from segdl.engine.crew import Call

QUICK = 1.0  # seconds: what fails sooner is asked for once more, ...
BREATH = 0.25  # ... after so many
SILENCES = 4  # in a row, after which a host is not asked any more
_SILENT = (UnreachableError, BrokenError)


class Inquiry:
    """Every link that a run could need, asked once. A host that is silent is not asked for ever."""

    def __init__(self, outsets: Sequence[Outset], timeout: float) -> None:
        """`timeout`: seconds for an answer's head, and again for its byte."""
        self._outsets = list(outsets)
        self._timeout = timeout
        self._links: dict[tuple[int, int], Link] = {}
        self._silences: dict[str, int] = {}
        self._dead: dict[str, SegdlError] = {}
        self._lock = threading.Lock()

    def calls(self) -> Iterator[Call]:
        """One for every link. The mirrors of one target come one after the other."""
        for number, outset in enumerate(self._outsets):
            if outset.delivered is None and not to_be_hashed(outset.target, outset.present):
                for mirror in range(len(outset.target.urls)):
                    yield self._call(number, mirror)

    def _call(self, number: int, mirror: int) -> Call:
        target = self._outsets[number].target

        def ask(connection: Connection) -> None:
            self._links[number, mirror] = self._ask(connection, target, target.urls[mirror])

        return ask

    def outsets(self) -> list[Outset]:
        """What was known before, with what the links gave."""
        return [
            replace(outset, links=tuple(self._of(number, len(outset.target.urls))))
            for number, outset in enumerate(self._outsets)
        ]

    def _of(self, number: int, count: int) -> Iterator[Link]:
        found = (self._links.get((number, mirror)) for mirror in range(count))
        return (link for link in found if link is not None)

    def _ask(self, connection: Connection, target: Target, url: ShareURL) -> Link:
        if (dead := self._dead.get(url.netloc)) is not None:
            return Link(url, dead.about(target.path))
        began = time.monotonic()
        link = self._tried(connection, target, url)
        if _may_pass(link.error) and time.monotonic() - began < QUICK:
            time.sleep(BREATH)
            link = self._tried(connection, target, url)
        self._heard(url.netloc, link.error)
        return link

    def _tried(self, connection: Connection, target: Target, url: ShareURL) -> Link:
        try:
            answer = connection.open(url, question(target, url))
            return _answered(target, url, answer, self._timeout)
        except SegdlError as error:
            return Link(url, error.about(target.path), skew=_skew(_date(error)))

    def _heard(self, host: str, error: SegdlError | None) -> None:
        """A host that is down, busy or silent several times in a row is asked no more."""
        silent = isinstance(error, BusyError) or (
            isinstance(error, _SILENT) and error.status is None
        )
        with self._lock:
            self._silences[host] = self._silences.get(host, 0) + 1 if silent else 0
            if error is not None and self._silences[host] >= SILENCES:
                self._dead[host] = error


def _may_pass(error: SegdlError | None) -> bool:
    """Whether a second try may well go better: a connection that broke, a server that is busy."""
    if isinstance(error, BusyError):
        return error.status is not None
    return isinstance(error, BrokenError)


def _answered(target: Target, url: ShareURL, answer: Answer, timeout: float) -> Link:
    """A link that gave an answer. Raises SizeError if it is not of the target, BrokenError."""
    accepted, skew = answer.accepted, _skew(answer.date)
    try:
        if not accepted.whole:
            _read_out(answer, timeout)
        size_of(target, accepted.pin)
    finally:
        answer.close()
    return Link(url, pin=accepted.pin, ranged=not accepted.whole, skew=skew)


def _read_out(answer: Answer, timeout: float) -> None:
    """Read a byte, so that the connection can be used again. Raises BrokenError if it does not
    come."""
    room = memoryview(bytearray(1))
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if not answer.readinto(room):
                return
        except TimeoutError:
            continue
    raise BrokenError("the first byte did not come in time")


def _date(error: SegdlError) -> float | None:
    return error.server_time if isinstance(error, ExpiredError) else None


def _skew(date: float | None) -> float | None:
    return None if date is None else date - time.time()
