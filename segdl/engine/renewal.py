"""Fresh links for a run, from where its order says, or its user: one asking for all of it.

One thread looks at the manifest's own file now and then, and reads it once it is replaced; another
asks, for that may take minutes. When links are wanted, the `--refresh-command` is run or, if there
is none or it fails, the order's `refresh:` URL is asked; of what comes only links that end later
are taken. Whatever fails is told, and the old links stay.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from segdl.core import events
from segdl.core.dataclass import dataclass
from segdl.core.errors import ManifestError, SegdlError, disk_error
from segdl.core.manifest import LARGEST, Manifest, Target, parse_manifest
from segdl.core.options import Options
from segdl.core.renewal import Renewed, Turns, first_end, only_later
from segdl.edges.manifest_file import ManifestFile
from segdl.edges.transport import Connection, Reach

LOOK = 0.5  # seconds between two looks
LONGEST = 120.0  # seconds that a manifest may take to come
COMMAND = "the refresh command"
_FOREIGN = "it is of another order: no file of this one is in it"


class Run(Protocol):
    """What a run offers to whoever brings it links."""

    targets: list[Target]

    def links_wanted(self) -> object | None: ...
    def expect_links(self, may_come: bool) -> None: ...
    def refresh(self, manifest: Manifest) -> Renewed: ...
    def crashed(self, error: BaseException) -> None: ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where a manifest comes from when it is asked for."""

    name: str  # as people may read it: no secret is in it
    ask: Callable[[], bytes]  # raises SegdlError
    mask: Callable[[str], str] = str  # what it says, without what it echoes of a secret


class Renewal:
    """Those who bring fresh links to a run, until it is over."""

    def __init__(
        self,
        desk: Run,
        file: ManifestFile | None,
        order: Manifest,
        reach: Reach,
        options: Options,
        emit: Callable[[events.Event], None],
    ) -> None:
        """`file` is the manifest's own, where it has one; `order` says what it said."""
        self._desk = desk
        self._file = file
        self._options = options
        self._emit = emit
        self._over = threading.Event()
        self._turns = Turns(options.patience)
        # What `--header` says is for the servers of the files: it may be a password.
        self._connection = Connection(replace(reach, headers=()), self._over.is_set)
        self._sources = tuple(self._find_sources(order))
        self._hopeful = bool(self._sources)
        acts = {"segdl-manifest": self._watch} if file is not None else {}
        acts |= {"segdl-renewal": self._renew} if self._sources else {}
        self.threads = tuple(
            threading.Thread(target=act, name=name, daemon=True) for name, act in acts.items()
        )
        if self._sources:
            desk.expect_links(True)

    def _find_sources(self, order: Manifest) -> Sequence[Source]:
        sources, over = [], self._over.is_set
        if command := self._options.refresh_command:
            from segdl.edges.command import output_of  # few orders have one

            sources.append(Source(COMMAND, partial(output_of, command, LARGEST, LONGEST, over)))
        if url := order.refresh:
            asking = partial(self._connection.document, url, LARGEST, LONGEST)
            sources.append(Source(str(url), asking, url.mask))
        return sources

    def stop(self) -> None:
        """End, within a moment; from any thread."""
        self._over.set()
        self._connection.abort()

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def _watch(self) -> None:
        file = self._file
        self._repeat(lambda: self._take_file(file) if file and file.replaced() else None)

    def _renew(self) -> None:
        try:
            self._repeat(self._ask_and_hope)
        finally:
            self._connection.close()

    def _repeat(self, look: Callable[[], None]) -> None:
        try:
            while not self._over.wait(LOOK):
                look()
        except BaseException as error:
            self._desk.crashed(error)

    def _ask_and_hope(self) -> None:
        self._ask_if_due()
        self._keep_hope()

    # -- the manifest's own file -------------------------------------------------------------------

    def _take_file(self, file: ManifestFile) -> None:
        try:
            renewed = self._desk.refresh(self._parse(file.read(LARGEST), file.path))
        except OSError as error:
            self._tell(file.path, disk_error(error).message)
        except SegdlError as error:
            self._tell(file.path, _summary(error))
        else:
            if renewed.foreign:
                self._tell(file.path, _FOREIGN)

    # -- asking ------------------------------------------------------------------------------------

    def _ask_if_due(self) -> None:
        due = self._turns.due(time.monotonic(), time.time())
        if not due or self._desk.links_wanted() is None:
            return
        failures, end = [], None
        for source in self._sources:
            outcome = self._ask(source)
            if isinstance(outcome, float):
                end = outcome
                break
            failures.append((source, outcome))
        self._turns.asked(time.monotonic(), time.time(), end)
        for source, failure in failures:
            self._tell(source.name, source.mask(failure), self._turns.pause)

    def _ask(self, source: Source) -> float | str:
        """When the first of the fresh links that came will end; or why none came."""
        try:
            fresh = self._parse(source.ask(), "<manifest>")
        except SegdlError as error:
            return _summary(error)
        paths = {target.path for target in self._desk.targets}
        if not any(target.path in paths for target in fresh.targets):
            return _FOREIGN
        later = only_later(self._desk.targets, fresh)
        if not self._desk.refresh(later).taken:
            return "its links end no later than those that are here"
        return first_end(later.targets)

    def _keep_hope(self) -> None:
        """Targets wait for links no longer than they may come."""
        hopeful = self._turns.hopeful(time.monotonic())
        if hopeful is not self._hopeful:
            self._hopeful = hopeful
            self._desk.expect_links(hopeful)

    # -- both --------------------------------------------------------------------------------------

    def _parse(self, data: bytes, name: str) -> Manifest:
        allowed = self._options.allow_env
        return parse_manifest(data, name, allow_env=allowed, environment=os.environ)

    def _tell(self, source: str, message: str, wait: float | None = None) -> None:
        if not self._over.is_set():
            self._emit(events.RefreshFailed(source=source, message=message, wait=wait))


def _summary(error: SegdlError) -> str:
    """An error in one line: of a manifest's faults the first."""
    if not isinstance(error, ManifestError):
        return error.message
    more = f" (and {len(error.faults) - 1} more faults)" if len(error.faults) > 1 else ""
    return f"{error.faults[0]}{more}"
