"""Steering a run from outside: from any thread, before it starts or while it runs."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Protocol

from segdl.core.errors import ExitCode
from segdl.core.options import RateLimit
from segdl.core.renewal import Renewed

if TYPE_CHECKING:
    from segdl.core.manifest import Manifest


class Steerable(Protocol):
    """What a run offers to its control."""

    def set_paused(self, paused: bool) -> None: ...
    def stop(self, code: ExitCode) -> None: ...
    def retry_failed(self) -> None: ...
    def set_limit(self, limit: RateLimit) -> None: ...
    def refresh(self, manifest: Manifest) -> Renewed: ...


class Control:
    """Pause, resume, cancel, retry, limit and refresh one run of `download`.

    All methods are thread-safe and return at once. Before the run starts, `pause`, `cancel` and
    `set_limit` are remembered; after it has ended, all of them do nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal may cancel in the middle of `attach`
        self._run: Steerable | None = None
        self._paused = False
        self._stopped: ExitCode | None = None
        self._limit: RateLimit | None = None

    def pause(self) -> None:
        """Stop fetching; what is held stays, connections are closed."""
        with self._lock:
            self._paused = True
            if self._run:
                self._run.set_paused(True)

    def resume(self) -> None:
        """Go on after `pause`."""
        with self._lock:
            self._paused = False
            if self._run:
                self._run.set_paused(False)

    def cancel(self, code: ExitCode = ExitCode.INTERRUPTED) -> None:
        """End the run; all that was fetched is kept. `code` becomes the report's exit code."""
        with self._lock:
            self._stopped = self._stopped or code
            if self._run:
                self._run.stop(code)

    @property
    def stopped(self) -> ExitCode | None:
        """The code that `cancel` was called with, or None."""
        return self._stopped

    def retry(self) -> None:
        """Try the targets that failed so far again."""
        with self._lock:
            if self._run:
                self._run.retry_failed()

    def set_limit(self, rate: int | str | None) -> None:
        """Limit the whole order to `rate`: bytes a second, or a text as `--limit-rate` takes it.

        None lifts the limit. Raises UsageError for a rate that cannot be meant.
        """
        limit = RateLimit.of(rate)
        with self._lock:
            self._limit = limit
            if self._run:
                self._run.set_limit(self._limit)

    def refresh(self, manifest: str | os.PathLike[str] | Manifest) -> int:
        """Give the run fresh URLs for the same objects. Returns how many targets took one.

        `manifest` is what `download` takes. Raises ManifestError for one that is not valid.
        """
        from segdl.engine.loading import load

        renewed = self.renew(
            load(manifest) if isinstance(manifest, str | os.PathLike) else manifest
        )
        return renewed.taken if renewed else 0

    def renew(self, manifest: Manifest) -> Renewed | None:
        """As `refresh`, with all that came of it; None if no run is under way."""
        with self._lock:
            return self._run.refresh(manifest) if self._run else None

    def attach(self, run: Steerable) -> None:
        """Used by the engine: the run begins."""
        with self._lock:
            self._run = run
            if self._limit is not None:
                run.set_limit(self._limit)
            if self._paused:
                run.set_paused(True)
            if self._stopped is not None:
                run.stop(self._stopped)

    def detach(self) -> None:
        """Used by the engine: the run is over."""
        with self._lock:
            self._run = None
