"""How values cross to another process: rebuilt from their fields.

`pickle` takes a frozen dataclass with slots apart, and puts it together, one attribute at a time in
Python. This is a third of that; a class takes it by `__reduce__ = by_fields`.
"""

from __future__ import annotations

from typing import Any


def by_fields(value: Any) -> tuple[type, tuple[Any, ...]]:
    """A `__reduce__` for dataclasses with slots whose `__init__` takes every field in its place."""
    kind = type(value)
    return kind, tuple([getattr(value, name) for name in kind.__slots__])
