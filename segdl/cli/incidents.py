"""Incidents of a download as one line each: what went wrong, and what segdl does about it."""

from __future__ import annotations

import time
from collections.abc import Callable

from segdl.cli import wording
from segdl.core.complaint import printable
from segdl.core.events import (
    Event,
    LinksRefreshed,
    MirrorLeft,
    RefreshFailed,
    Retry,
    TargetFailed,
    TargetResumed,
    Throttled,
    UrlExpired,
    UrlExpiring,
)

QUIET = 10.0  # seconds in which the same incident is told once


class Incidents:
    """Tells incidents; the retries of one target for one cause are told once in a while."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._told: dict[tuple[str, str], float] = {}

    def line(self, event: Event) -> str | None:
        """The line for an event, or None if it is no incident or was told a moment ago."""
        match event:
            case Retry() if self._new(event.target, event.cause):
                said = wording.quoting(event.message, event.request_id)
                return f"retry {event.target}: {said}, again in {wording.span(event.wait)}"
            case Throttled() if self._new(event.host, "throttled"):
                again = f"asked again in {wording.span(event.wait)}"
                return f"waiting for {printable(event.host)}: {printable(event.message)}, {again}"
            case MirrorLeft() if self._new(event.host, event.cause):
                why = wording.quoting(event.message, event.request_id)
                return f"left mirror {printable(event.host)} for {event.target}: {why}"
            case UrlExpiring() if self._new("", "expiring"):
                return _expiring(event)
            case UrlExpired():
                return f"expired {event.target}: {wording.quoting(event.message, event.request_id)}"
            case TargetResumed():
                return f"resumed {event.target}"
            case LinksRefreshed():
                return _refreshed(event)
            case RefreshFailed():
                return _not_refreshed(event)
            case TargetFailed() if event.cause != "expired":  # which was told when it was paused
                return f"FAILED {event.target}: {wording.quoting(event.message, event.request_id)}"
        return None

    def _new(self, where: str, cause: str) -> bool:
        now, before = self._now(), self._told.get((where, cause))
        if before is not None and now - before < QUIET:
            return False
        self._told[where, cause] = now
        return True


def _expiring(event: UrlExpiring) -> str:
    """One line for the order: its events come together, the first end first."""
    when = f"in {wording.span(60 * event.minutes_left)}: get a fresh manifest"
    if event.targets == 1:
        return f"{event.target} will outlive its link, which ends {when}"
    return f"{event.targets} files will outlive their links, the first {when}"


def _refreshed(event: LinksRefreshed) -> str:
    lacking = f", {event.lacking} still lack one" * bool(event.lacking)
    other = f"; {wording.count(event.other, 'other file')} in it left alone" * bool(event.other)
    return f"fresh links for {wording.count(event.targets, 'file')}{lacking}{other}"


def _not_refreshed(event: RefreshFailed) -> str:
    again = "" if event.wait is None else f", asked again in {wording.span(event.wait)}"
    said = printable(event.message, 400)
    return f"no fresh links from {printable(event.source)}: {said}; the old ones stay{again}"
