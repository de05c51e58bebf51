"""kill -9 at every system call that changes the output directory, one a round."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from tests.torture import calls
from tests.torture.campaign import Campaign, Figures, Over, Round


def run(this: Round) -> Figures:
    points = calls.points()
    if this.number >= len(points):
        raise Over
    point = points[this.number]
    with calls.order(this.folder, begun=point.begun) as case:
        ended = calls.run(case, *calls.options(point, "signal=SIGKILL", this.folder))
        assert ended.code in (0, -signal.SIGKILL), f"{point}: {ended.code}: {ended.said[-2000:]}"
        calls.go_on(case, point, ended, f"killed at {point}")
    return {"killed": ended.code != 0}


def told(figures: Sequence[Figures]) -> str:
    killed = sum(each["killed"] for each in figures)
    return f"{killed:.0f} killed, {len(figures) - killed:.0f} ended before their call came"


CAMPAIGN = Campaign("syscalls", "kill -9 at each system call on the output", None, run, told)
