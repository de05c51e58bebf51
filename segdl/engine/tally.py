"""How much an order has, and how much of it is delivered: counted as it changes."""

from __future__ import annotations

from collections.abc import Sequence

from segdl.core.manifest import Target


class Tally:
    """Bytes of the whole order. The listener hears of them ten times a second, however many
    targets there are. Not thread-safe."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.delivered = 0
        sizes = [target.size for target in targets if target.size is not None]
        self._known = sum(sizes)
        self._told = len(sizes)
        self._unknown = len(targets) - len(sizes)  # in the manifest
        self._learned: dict[int, int] = {}  # of those, by the target's number

    def learn(self, number: int, target: Target, size: int | None) -> None:
        """A target's size, told by an answer or a receipt."""
        if target.size is None and size is not None:
            self._learned[number] = size

    @property
    def typical(self) -> float:
        """The mean size of the targets whose size is known; 0 where none is."""
        known = self._known + sum(self._learned.values())
        return known / max(self._told + len(self._learned), 1)

    @property
    def total(self) -> int | None:
        """The order's bytes; None while a size is not known."""
        if len(self._learned) < self._unknown:
            return None
        return self._known + sum(self._learned.values())
