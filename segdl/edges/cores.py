"""How many cores this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """At least 1. Where the system tells no more (macOS, Windows): as many as there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
