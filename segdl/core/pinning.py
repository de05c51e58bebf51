"""Which object a target is pinned to, and what each of its mirrors is asked and believed.

The same bytes have other ETags in other stores. Where a digest will tell whether they are the same,
another mirror may have an ETag of its own, which then holds for it; until the whole was wrong once.
"""

from __future__ import annotations

from dataclasses import replace

from segdl.core.manifest.model import Target
from segdl.core.plan import Pin
from segdl.core.report import Receipt
from segdl.core.urls import ShareURL
from segdl.core.verdict import Accepted, Ask


class Pinning:
    """The links of one target, and the pin of the object behind them. Not thread-safe."""

    def __init__(self, target: Target) -> None:
        self.urls = target.urls
        self.pin: Pin | None = None
        self.condemned = 0  # times that all of it was fetched, and its digest was wrong
        self._target = target
        self._mirror: int | None = None  # whose answer made the pin, if it is known
        self._own: dict[int, Pin] = {}  # pins of mirrors with another ETag, settled by a digest
        self._proven: set[int] = set()  # mirrors that have given bytes in this run

    def admit(self, pin: Pin, mirror: int) -> None:
        """A mirror's answer makes the pin."""
        self.pin, self._mirror = pin, mirror

    def go_on(self, pin: Pin, object_name: str) -> None:
        """Take over a pin of an earlier run, and what it said of the object's name."""
        self.pin = pin
        self._find(object_name)

    def let_go(self) -> None:
        """The object is another one now."""
        self.pin = self._mirror = None
        self._own.clear()

    def relink(self, urls: tuple[ShareURL, ...]) -> bool:
        """Take fresh links. False if nothing says that they are of the object that is held."""
        held, name, self.urls = self.is_of(urls), self.object_name, urls
        self._find(name)
        self._proven.clear()
        self._own.clear()
        return held

    def is_of(self, urls: tuple[ShareURL, ...]) -> bool:
        """Whether something says that such links are of the object that is held: its name, or an
        ETag, which every request will ask for."""
        if self.pin is None or self.pin.etag is not None:
            return True
        return self.object_name in {url.object_name for url in urls}

    def _find(self, object_name: str) -> None:
        names = [url.object_name for url in self.urls]
        self._mirror = names.index(object_name) if object_name in names else None

    @property
    def is_known(self) -> bool:
        """Whether the pin is known to be of one of the links."""
        return self._mirror is not None

    @property
    def object_name(self) -> str:
        """Which object the pin is of."""
        return self.urls[self._mirror or 0].object_name

    @property
    def offset(self) -> int:
        """Where in the object the target begins."""
        return self._target.slice.offset if self._target.slice else 0

    def ask(self, start: int, stop: int, mirror: int) -> Ask:
        """The question for bytes [start, stop) of the target, in the object's own offsets."""
        return Ask(
            start=start + self.offset,
            stop=stop + self.offset,
            pin=self._pin_for(mirror),
            size=None if self._target.slice else self._target.size,
            name=self._target.path,
            url=self.urls[mirror % len(self.urls)],
            proven=mirror in self._proven,
            foreign=self._is_foreign(mirror),
        )

    def ask_for_offer(self, offer: Receipt, mirror: int) -> Ask:
        """The question whether what is there is the object: for its first byte."""
        total = None if self._target.slice else offer.size
        return replace(self.ask(0, 1, mirror), pin=Pin(total, offer.etag))

    def answered(self, mirror: int, accepted: Accepted) -> None:
        """A mirror's URL has given what was asked for."""
        self._proven.add(mirror)
        if accepted.pin.by_digest and self.pin is not None and mirror not in self._own:
            by_digest = accepted.pin.etag is None
            self._own[mirror] = replace(accepted.pin, by_digest=by_digest)

    def _is_foreign(self, mirror: int) -> bool:
        return self.pin is not None and len(self.urls) > 1 and mirror != self._mirror

    def _pin_for(self, mirror: int) -> Pin | None:
        """What a mirror's answers must agree with."""
        if (own := self._own.get(mirror)) is not None:
            return own
        if self.pin is None or not self._is_foreign(mirror):
            return self.pin
        if self.condemned or not self._target.provable:
            return self.pin
        return replace(self.pin, etag=None, modified=None, by_digest=True)
