"""Which listener shows a download's events, by `--progress`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from segdl.core.events import Event


class View(Protocol):
    """A listener with an end."""

    def __call__(self, event: Event, /) -> None: ...

    def close(self) -> None:
        """Leave nothing behind on the terminal."""


class Silence:
    """Shows nothing."""

    def __call__(self, event: Event, /) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def shown(how: str) -> Iterator[View]:
    """The view for `--progress how`: `auto` is bars on a terminal, plain lines elsewhere."""
    view = _view(how)
    try:
        yield view
    finally:
        view.close()


def on_terminal() -> bool:
    """Whether standard error is a terminal that moves its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _view(how: str) -> View:
    if how == "auto":
        how = "bar" if on_terminal() else "plain"
    match how:
        case "bar":
            from segdl.cli.bars import Bars

            return Bars(sys.stderr)
        case "plain":
            from segdl.cli.plain import Plain

            return Plain(sys.stderr)
        case "json":
            from segdl.cli.ndjson import Ndjson

            return Ndjson(sys.stdout)
    return Silence()
