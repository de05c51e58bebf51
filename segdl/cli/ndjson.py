"""Events for programs: one JSON object a line."""

from __future__ import annotations

import json
from typing import TextIO

from segdl.core.events import Event


class Ndjson:
    """Writes every event at once, so that a reader is never behind."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, event: Event, /) -> None:
        print(json.dumps(event.as_dict(), separators=(",", ":")), file=self._out, flush=True)

    def close(self) -> None:
        pass
