"""The machine and the versions of every tool."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import origin

PROGRAMS = ("aria2c", "curl", "wget", "wget2", "axel", "rclone")
LIBRARIES = ("hf_transfer", "pypdl", "parfive", "obstore", "httpx")
VERSION = re.compile(r"\d+(?:\.\d+)+")


def facts() -> dict[str, str]:
    """What the figures depend on."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{pages / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Tool: version, of those that are here."""
    found = {"segdl": _said([sys.executable, "-m", "segdl", "--version"])}
    if nginx := origin.program():
        found["nginx"] = _said([nginx, "-v"])
    found |= {name: _said([name, "--version"]) for name in PROGRAMS if shutil.which(name)}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _said(command: list[str]) -> str:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=30, env=environment
    )
    found = VERSION.search(ended.stdout + ended.stderr)
    return found[0] if found else "?"
