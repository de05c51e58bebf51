"""What durability costs: an order at 1 Gbit/s to a disk, with its flushes and without, in turn.

Without them `fsync` and its like do nothing, which no user can ask for. The figure is a ratio of
wall times, of whole processes one after the other: on a noisy machine only a median says anything.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.commands import ROOT, environment
from tests.orders import made
from tests.servers import Nginx
from tests.torture.campaign import Campaign, Figures, Impossible, Round

RATE = 125_000_000  # bytes a second: 1 Gbit/s
FILES, SIZE = 8, 50 * 2**20  # 3.4 seconds of that line
CODE = "import sys; {before}; import segdl.cli; sys.exit(segdl.cli.main(sys.argv[1:]))"
UNFLUSHED = "import os; os.fsync = os.fdatasync = lambda file: None"


def run(turn: Round) -> Figures:
    """An order with the flushes, and the same without."""
    if (missing := Nginx.available()) is not None:
        raise Impossible(missing)
    with Nginx() as server:
        for number in range(FILES):
            server.put(f"{number}.bin", made(SIZE, number))
        order = turn.folder / "order.json"
        files = [{"url": server.url(f"{n}.bin"), "size": str(SIZE)} for n in range(FILES)]
        order.write_text(json.dumps({"segdl": 1, "files": files}))
        both = [("flushed", "pass"), ("unflushed", UNFLUSHED)]
        if turn.number % 2:
            both.reverse()
        return {name: _seconds(turn.folder / name, order, before) for name, before in both}


def _seconds(out: Path, order: Path, before: str) -> float:
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", CODE.format(before=before), str(order), "-o", str(out),
         "--limit-rate", str(RATE), "--progress", "none"],
        check=True, capture_output=True, cwd=ROOT, env=environment(out.parent),
    )  # fmt: skip
    seconds = time.monotonic() - began
    os.sync()  # what was not flushed is not left to the next
    return seconds


def told(figures: Sequence[Figures]) -> str:
    with_them = statistics.median(each["flushed"] for each in figures)
    without = statistics.median(each["unflushed"] for each in figures)
    return (
        f"{with_them:.2f} s with the flushes, {without:.2f} s without: "
        f"{100 * (with_them / without - 1):+.1f} %"
    )


CAMPAIGN = Campaign("durability", "what flushing costs at 1 Gbit/s", 7, run, told)
