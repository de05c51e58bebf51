"""Run one program and print what it cost: `launch.py RESULT SYNC LOG COMMAND…`.

A process of its own, because the kernel's peak memory of a child begins at what its parent held
when it started it: this parent is small. Its figures are JSON in RESULT; the standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    result, sync, log, *command = sys.argv[1:]
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    if sync == "sync":
        os.sync()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    _, status, usage = os.wait4(child, 0)
    if sync == "sync":
        os.sync()
    seconds = time.perf_counter() - started
    code = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    peak = usage.ru_maxrss * 1024
    with open(result, "w") as file:
        json.dump({"seconds": seconds, "cpu": cpu, "peak": peak, "code": code}, file)


main()
