"""How fast bytes come: the largest target of each host, read for a moment, together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from segdl.core.dataclass import dataclass
from segdl.core.errors import SegdlError
from segdl.core.manifest import Target
from segdl.core.options import KIB, MIB
from segdl.core.outset import Link, Outset, Sample
from segdl.core.pace import Bucket
from segdl.core.preflight import steady
from segdl.core.prospect import question, size_of
from segdl.core.urls import ShareURL
from segdl.core.verdict import Ask
from segdl.edges.transport import Answer, Connection
from segdl.engine.crew import Call

STRANDS = 4  # connections that sample one host
SAMPLED = 8 * MIB  # bytes at most, of all hosts
SAMPLED_FOR = 1.5  # seconds
_BUFFER = 256 * KIB


@dataclass(frozen=True, slots=True)
class Strand:
    """What one connection reads for the sample: bytes [start, stop) of a target's object."""

    target: Target
    url: ShareURL
    ask: Ask


class Sampling:
    """How fast bytes come, all hosts at once, bounded in bytes and in seconds."""

    def __init__(self, outsets: Sequence[Outset], most: int, limit: int | None) -> None:
        """`most` connections, `limit` bytes a second."""
        self._strands = tuple(_strands(outsets, most))
        self._limit = limit
        self._bucket = Bucket()
        self._lock = threading.Lock()
        self._read: dict[int, tuple[int, float]] = {}  # by strand: bytes, and bytes a second

    def calls(self) -> Iterator[Call]:
        for number in range(len(self._strands)):
            yield partial(self._sample, number)

    def samples(self) -> tuple[Sample, ...]:
        """What was found, by host; a host that gave nothing is not in it."""
        found: dict[str, Sample] = {}
        for number, (count, rate) in self._read.items():
            host = self._strands[number].url.netloc
            one = found.get(host, Sample(host, 0, 0, 0.0))
            found[host] = Sample(host, one.connections + 1, one.bytes + count, one.rate + rate)
        return tuple(found.values())

    def _sample(self, number: int, connection: Connection) -> None:
        """Read one strand. It was good a moment ago: an error now only spoils the estimate."""
        strand, began = self._strands[number], time.monotonic()
        deadline, count = began + SAMPLED_FOR, 0
        seen = [(began, 0)]
        with suppress(SegdlError):
            answer = connection.open(strand.url, strand.ask)
            try:
                for got in _read_until(answer, strand.ask.stop - strand.ask.start, deadline):
                    count += got
                    seen.append((time.monotonic(), count))
                    self._pay(got, deadline)
            finally:
                answer.close()
        if (rate := steady(seen)) is not None:
            self._read[number] = count, rate

    def _pay(self, count: int, deadline: float) -> None:
        now = time.monotonic()
        with self._lock:
            wait = self._bucket.take(now, count, self._limit)
        time.sleep(max(min(wait, deadline - now), 0.0))


def _read_until(answer: Answer, most: int, deadline: float) -> Iterator[int]:
    """The counts of bytes as they come. Raises BrokenError."""
    room = memoryview(bytearray(_BUFFER))
    while most and time.monotonic() < deadline:
        try:
            count = answer.readinto(room[:most])
        except TimeoutError:
            continue
        if not count:
            return
        most -= count
        yield count


def _strands(outsets: Sequence[Outset], most: int) -> Iterator[Strand]:
    """The largest target of each host that is asked first, in a few pieces."""
    largest: dict[str, tuple[int, Target, Link]] = {}
    for outset in outsets:
        link = next((link for link in outset.links if link.pin is not None), None)
        if link is None or outset.blocked is not None:
            continue
        size = size_of(outset.target, link.pin) if link.pin else None
        if size and size > largest.get(link.url.netloc, (0,))[0]:
            largest[link.url.netloc] = (size, outset.target, link)
    chosen = sorted(largest.values(), key=lambda each: each[0], reverse=True)[:most]
    for size, target, link in chosen:
        count = min(STRANDS, most // len(chosen), max(size // MIB, 1)) if link.ranged else 1
        share = min(SAMPLED // len(chosen), size) // count
        for number in range(count):
            yield Strand(target, link.url, _piece(target, link, number * share, share))


def _piece(target: Target, link: Link, start: int, length: int) -> Ask:
    first = question(target, link.url)
    at = first.start + start
    return replace(first, start=at, stop=at + max(length, 1), pin=link.pin, proven=True)
