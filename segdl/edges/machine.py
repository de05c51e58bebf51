"""The machine that segdl runs on: versions and facts for whoever has to help.

Of the environment only the names of proxy variables are told, never a value.
"""

from __future__ import annotations

import locale
import os
import platform
import re
import resource
import ssl
import sys
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segdl.version import VERSION

_PACKAGES = ("httpx", "httpcore", "h11", "tqdm", "PyYAML", "xxhash")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "segdl_proxy")


def versions() -> dict[str, Any]:
    """Of segdl, what it stands on, and what that stands on; None where one cannot be told."""
    return {
        "segdl": VERSION,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        **{name: _told(version, name) for name in _PACKAGES},
        "openssl": ssl.OPENSSL_VERSION,
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
    }


def system(root: int, output: Path) -> dict[str, Any]:
    """Facts of the machine, of this process, and of the file system that `root`, an open
    descriptor of the folder `output`, lies on; None where one cannot be told."""
    now = datetime.now().astimezone()
    return {
        "time": now.isoformat(timespec="milliseconds"),
        "cpus": os.cpu_count(),
        "cpus_allowed": _told(lambda: len(os.sched_getaffinity(0))),
        "memory_bytes": _told(lambda: os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        "memory_available_bytes": _told(_available),
        "memory_limit_bytes": _told(lambda: int(_read("/sys/fs/cgroup/memory.max"))),
        "file_system": _told(_file_system, output),
        **_room(root),
        "umask": _told(lambda: _field("/proc/self/status", "Umask")),
        "open_files_limit": _limit(resource.RLIMIT_NOFILE),
        "file_size_limit": _limit(resource.RLIMIT_FSIZE),
        "locale": _told(locale.setlocale, locale.LC_CTYPE),
        "encoding": locale.getencoding(),
        "file_name_encoding": sys.getfilesystemencoding(),
        "proxy_variables_set": sorted(n for n in os.environ if n.lower() in _PROXIES),
    }


def _told(tell: Callable[..., Any], *given: Any) -> Any:
    """What `tell` says, or None: no fact is worth a bundle."""
    try:
        return tell(*given)
    except Exception:
        return None


def _room(root: int) -> dict[str, Any]:
    found = _told(os.fstatvfs, root)
    if found is None:
        return {"free_bytes": None, "size_bytes": None, "free_inodes": None}
    return {
        "free_bytes": found.f_bavail * found.f_frsize,
        "size_bytes": found.f_blocks * found.f_frsize,
        "free_inodes": found.f_favail,
    }


def _limit(what: int) -> dict[str, int | str]:
    soft, hard = resource.getrlimit(what)
    shown = ["unlimited" if n == resource.RLIM_INFINITY else n for n in (soft, hard)]
    return {"soft": shown[0], "hard": shown[1]}


def _available() -> int:
    return int(_field("/proc/meminfo", "MemAvailable").split()[0]) * 1024


def _field(path: str, name: str) -> str:
    """The value of `name:` in a file of /proc."""
    lines = (line.partition(":") for line in _read(path).splitlines())
    return next(value.strip() for key, _, value in lines if key == name)


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def _file_system(output: Path) -> str | None:
    """The type of the file system that holds a folder, from /proc (proc(5), mountinfo).

    Of the mounts on its way the longest counts, of two in one place the later. What is mounted is
    not told: the name of a network share may hold a password.
    """
    place, best, kind = os.path.realpath(output), "", None
    for line in _read("/proc/self/mountinfo").splitlines():
        facts, _, more = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), facts.split()[4])
        holds = place == point or place.startswith(point.rstrip("/") + "/")
        if holds and len(point) >= len(best):
            best, kind = point, more.split()[0]
    return kind
