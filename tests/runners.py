"""Runners for orders of any length, ready when the order begins: most here are over before that."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import segdl.engine.order
import segdl.engine.runner
from segdl.engine.runner import Runner

_PATIENCE = 40.0  # seconds that a runner may take to start


def always(
    replace: Callable[[object, str, object], None] = setattr,
    most: Callable[[], int] = lambda: 1,
) -> None:
    """Let every order have two. `replace` is how, `most` how many targets the first errand has; one
    that went well is followed by one twice as large, however slow the machine is."""
    start = Runner.start

    def started(self: Runner) -> None:
        start(self)
        if self._process is not None:
            self._channel.poll(_PATIENCE)
        self._most = most()

    replace(segdl.engine.order, "WORTH", 1)
    replace(segdl.engine.runner, "_SHORT", math.inf)
    replace(os, "sched_getaffinity", lambda _: {0, 1})
    replace(Runner, "start", started)
