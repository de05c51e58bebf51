"""One mapping of the manifest, read key by key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from segdl.core.manifest.document import UNREADABLE, Log, Path, Problem
from segdl.core.manifest.values import WrongError
from segdl.core.manifest.wording import kind, nearest

T = TypeVar("T")
Reader = Callable[[object], T]
Known = frozenset[str] | None


class Fields:
    """A mapping under its path: gives out typed values, and notes in the log what is wrong.

    Whatever is missing or wrong comes out as None. So the schema reads on to the end, and a run
    names every fault; its result counts only if the log is empty.
    """

    __slots__ = ("_log", "_there", "_values", "path")

    def __init__(self, value: object, path: Path, log: Log, known: Known) -> None:
        """`known` are the keys that this mapping may have; None is any."""
        self.path = path
        self._log = log
        self._values: dict[str, object] = {}
        self._there = isinstance(value, dict)
        if isinstance(value, dict):
            self._values = value
            if known is not None and not value.keys() <= known:
                self._unknown(known)
        elif value is not UNREADABLE:
            whole = "" if path else " with `segdl: 1` and `files`"
            self.wrong(f"expected a mapping{whole}, found {kind(value)}")

    def _unknown(self, known: frozenset[str]) -> None:
        for key in [key for key in self._values if key not in known]:
            if key == "<<":
                self.wrong("merge keys are not read; write the values out", key)
            else:
                guess = nearest(key, known) or f"; expected one of {', '.join(sorted(known))}"
                self.wrong(f"unknown key{guess}", key)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def take(self, key: str, read: Reader[T]) -> T | None:
        """The value of `key` as `read` sees it, or None."""
        if key not in self._values:
            return None
        return self.read(read, self._values[key], key)

    def need(self, key: str, read: Reader[T], what: str) -> T | None:
        """The value of a key that has to be there; `what` says what was expected."""
        if self._there and key not in self._values:
            self.wrong(f"expected {what}, found nothing", key)
        return self.take(key, read)

    def each(self, key: str, values: list[object], read: Reader[T]) -> Iterator[T]:
        """The items of a list that was taken from `key`, those that are right."""
        for number, value in enumerate(values):
            item = self.read(read, value, key, number)
            if item is not None:
                yield item

    def within(self, key: str, known: Known) -> Fields | None:
        """The mapping that is the value of `key`, or None if there is no such key."""
        if key not in self._values:
            return None
        return Fields(self._values[key], (*self.path, key), self._log, known)

    def mappings(self) -> Iterator[tuple[str, Fields]]:
        """Every key with the mapping, of any keys, that has to be its value."""
        for key, value in self._values.items():
            yield key, Fields(value, (*self.path, key), self._log, None)

    def wrong(self, text: str, *steps: str | int, other: Path | None = None) -> None:
        """Note a problem at the mapping, or at what `steps` lead to from it."""
        self._log.note(Problem((*self.path, *steps), text, other=other))

    def read(self, read: Reader[T], value: object, *steps: str | int) -> T | None:
        """`value` as `read` sees it, or None; a problem stands where `steps` lead to."""
        if value is UNREADABLE:
            return None
        try:
            return read(value)
        except WrongError as wrong:
            self.wrong(str(wrong), *steps)
            return None
