"""What the fuzzing campaigns share: bytes made worse, and a watch on what is made of them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.torture.campaign import Figures

BATCH = 1_000  # mutations of a round
SLOWEST = 1.0  # seconds that one may take

Mutation = Callable[[random.Random, bytes, bytes], bytes]  # (chance, of these, with those)


def mutated(
    chance: random.Random, data: bytes, other: bytes, tokens: Sequence[bytes] = ()
) -> bytes:
    """`data` after one to three mutations; `other` is what is spliced in, as are `tokens`."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if tokens and chance.random() < 0.4:
            data = _insert(data, _place(chance, data), chance.choice(tokens))
        else:
            data = chance.choice(MUTATIONS)(chance, data, other)
    return data


def _place(chance: random.Random, data: bytes) -> int:
    return chance.randrange(len(data) + 1)


def _span(chance: random.Random, data: bytes) -> tuple[int, int]:
    """Somewhere in it: mostly short."""
    start = _place(chance, data)
    return start, min(len(data), start + chance.choice((1, 2, 8, 40, 300, len(data))))


def _insert(data: bytes, at: int, more: bytes) -> bytes:
    return data[:at] + more + data[at:]


def flip(chance: random.Random, data: bytes, other: bytes) -> bytes:
    if not data:
        return data
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def cut(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(chance, data)]


def leave_out(chance: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop = _span(chance, data)
    return data[:start] + data[stop:]


def zero(chance: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop = _span(chance, data)
    return data[:start] + bytes(stop - start) + data[stop:]


def garbage(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return _insert(data, _place(chance, data), chance.randbytes(chance.choice((1, 4, 64))))


def double(chance: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop = _span(chance, data)
    return _insert(data, _place(chance, data), data[start:stop])


def splice(chance: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop = _span(chance, other)
    left, right = _span(chance, data)
    return data[:left] + other[start:stop] + data[right:]


def swap_lines(chance: random.Random, data: bytes, other: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    if len(lines) > 1:
        one, two = chance.sample(range(len(lines)), 2)
        lines[one], lines[two] = lines[two], lines[one]
    return b"".join(lines)


def double_line(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return _with_line(chance, data, data)


def foreign_line(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return _with_line(chance, data, other)


def _with_line(chance: random.Random, data: bytes, source: bytes) -> bytes:
    lines, more = data.splitlines(keepends=True), source.splitlines(keepends=True)
    if more:
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(more))
    return b"".join(lines)


def lose_line(chance: random.Random, data: bytes, other: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        del lines[chance.randrange(len(lines))]
    return b"".join(lines)


MUTATIONS: tuple[Mutation, ...] = (
    flip, flip, cut, leave_out, zero, garbage, double, splice, swap_lines, double_line,
    foreign_line, lose_line,
)  # fmt: skip


def told(figures: Sequence[Figures]) -> str:
    """The sum of each figure, and of those that begin with `most` the largest."""
    totals: Counter[str] = Counter()
    most: dict[str, float] = {}
    for each in figures:
        for name, value in each.items():
            if name.startswith("most"):
                most[name] = max(most.get(name, 0.0), value)
            else:
                totals[name] += int(value)
    sums = [f"{count:,} {name}" for name, count in totals.items()]
    return ", ".join(sums + [f"{name} {value:.3f}" for name, value in most.items()])


@dataclass
class Watch:
    """How long the slowest took, in seconds of the processor: others work on it too."""

    slowest: float = 0.0
    _began: float = 0.0

    def __enter__(self) -> Watch:
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.slowest = max(self.slowest, time.process_time() - self._began)
