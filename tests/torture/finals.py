"""The final names of an order, looked at again and again: each is absent or exact."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

Seen = tuple[int, int, int, int]


@dataclass(slots=True)
class Finals:
    """A file that is the one of the last look is not read again."""

    out: Path
    contents: Mapping[str, tuple[bytes, ...]]  # what a path may hold
    _seen: dict[str, Seen] = field(default_factory=dict)

    def look(self) -> None:
        """Raises AssertionError for a final name that holds what it must not, or that has gone."""
        for name, contents in self.contents.items():
            path, found = self.out / name, None
            with suppress(FileNotFoundError):
                found = os.lstat(path)
            if found is None:
                assert name not in self._seen, f"{name} was delivered, and has gone"
                continue
            seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if self._seen.get(name) != seen:
                assert path.read_bytes() in contents, f"{name} holds what it must not"
                self._seen[name] = seen
