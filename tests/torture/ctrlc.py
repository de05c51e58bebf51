"""Ctrl-C at a random moment, from the first import to the end: two seconds, and all is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from segdl.edges.index import index_damage
from tests.commands import PATIENCE, check_output, environment
from tests.faults import EVERY_PATH, FaultServer, faults
from tests.orders import SIZE, Case, Proof, made
from tests.torture.campaign import Campaign, Figures, Round

# It tells when Ctrl-C is no more what Python makes of it while it starts, and looks for segdl.
COMMAND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
real = signal.signal
def tell(*given):
    signal.signal = real
    real(*given)
    os.write(1, b".")
signal.signal = tell
from segdl.cli import main
sys.exit(main())
"""
LONGEST = 1.6  # seconds after the start; a run takes about as long
WITHIN = 15.0  # seconds from the signal to the end: a machine may stand still; see the figures
BY_SIGNAL = -signal.SIGINT  # of which a shell says 130


def ctrl_c(given: Round) -> Figures:
    """One order, one Ctrl-C."""
    chance = given.chance
    delay = chance.uniform(0.0, chance.choice((0.01, 0.3, LONGEST, LONGEST, LONGEST)))
    with FaultServer() as server:
        case = Case(server, given.folder)
        for number, proof in enumerate(Proof):
            case.put(made(SIZE, number), f"/{number}.7z", proof=proof)
        server.script(EVERY_PATH, faults.trickle(400_000))
        code, seconds = _interrupted(case, delay)
        assert code in (0, 130, BY_SIGNAL), code
        assert seconds < WITHIN, seconds
        case.check_finals()
        for index in (case.out / ".segdl" / "work").glob("*/index.jsonl"):
            _check_index(index.parent)
        case.finish(again=True)
    told = {0: "over", 130: "told", BY_SIGNAL: "before segdl listened"}
    return {told[code]: 1, "seconds": seconds}


def _interrupted(case: Case, delay: float) -> tuple[int, float]:
    """Its exit code, and the seconds from the signal to the end. Nothing is left of it."""
    words: list[str | Path] = ["get", case.manifest(), "-o", case.out, "--segment-size", "64KiB"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words], cwd=case.folder, env=environment(case.folder),
        start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(1)
    time.sleep(delay)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    seconds = time.monotonic() - began
    text = (out + err).decode()
    assert "Traceback" not in text, text
    check_output(text)
    _check_gone(process.pid)
    return process.returncode, seconds


def _check_gone(group: int) -> None:
    """No process of that session is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return
    raise AssertionError("a process was left")


def _check_index(work: Path) -> None:
    """Every line proves itself."""
    folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert index_damage(folder) == 0
    finally:
        os.close(folder)


def told(figures: Sequence[Figures]) -> str:
    """How the runs ended, and the longest that one took to end."""
    ends = Counter(name for each in figures for name in each if name != "seconds")
    slowest = max(each["seconds"] for each in figures)
    listed = ", ".join(f"{count} {name}" for name, count in ends.most_common())
    return f"{listed}; at most {slowest:.2f} s to the end"


CAMPAIGN = Campaign("ctrl-c", "Ctrl-C at random moments", 100, ctrl_c, told)
