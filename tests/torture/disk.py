"""A disk that fails at every system call that changes the output directory, one a round.

The run ends by itself and says what to do, or it did without that call; the next one goes on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

from segdl.core.errors import ExitCode
from tests.torture import calls
from tests.torture.campaign import Campaign, Figures, Over, Round

ERRORS = {  # whether such a call fails for good, or once
    "ENOSPC": True,
    "EIO": False,
    "EDQUOT": True,
    "EROFS": True,
    "EMFILE": False,
}
ADVICE = re.compile(r"run again|take it away|move it away")
FULL = {"ENOSPC", "EDQUOT"}


def run(this: Round) -> Figures:
    pairs = list(product(calls.points(), ERRORS.items()))
    if this.number >= len(pairs):
        raise Over
    point, (error, ever) = pairs[this.number]
    what = f"{error} at {point}"
    with calls.order(this.folder, begun=point.begun) as case:
        strace = calls.options(point, f"error={error}", this.folder, ever=ever)
        ended = calls.run(case, *strace)
        if ended.code == 0:  # what `calls.run` found there is exact
            assert all(case.final(name).exists() for name in case.files), what
        else:
            told = f"{what}: {ended.code}: {ended.said[-2000:]}"
            assert ended.code == ExitCode.DISK, told
            assert ADVICE.search(ended.said), told
            # The disk has room in truth, as with a quota: no number of bytes would be true.
            assert error not in FULL or "free some room" in ended.said, told
        calls.go_on(case, point, ended, what)
    return {"refused": ended.code != 0, "seconds": ended.seconds}


def told(figures: Sequence[Figures]) -> str:
    refused = sum(each["refused"] for each in figures)
    longest = max(each["seconds"] for each in figures)
    return (
        f"{refused:.0f} ended with an error, {len(figures) - refused:.0f} did without the call; "
        f"{longest:.1f} s the longest run"
    )


CAMPAIGN = Campaign("disk", "the disk fails at each system call on the output", None, run, told)
