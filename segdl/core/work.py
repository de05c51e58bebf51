"""What the schedule hands out: work, waits, and its decisions on work that failed."""

from __future__ import annotations

from segdl.core.dataclass import dataclass
from segdl.core.errors import SegdlError


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch a segment. `epoch` tells a restarted target's work from what went before."""

    job: int
    segment: int
    epoch: int
    mirror: int
    probe: bool  # the target is not pinned yet
    host: str
    issue: int  # of the target's URLs: fresh ones may come while this is under way


@dataclass(frozen=True, slots=True)
class Merge:
    """Look at what is on disk of a target, move its front, deliver it if it is all there."""

    job: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until`, or until something changes (None)."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is left to do: every job is delivered, failed or paused."""


Work = Fetch | Merge
NOBODY = -1  # where a worker is asked for: a merger, or none
Answer = Fetch | Wait | Finished


@dataclass(frozen=True, slots=True)
class Again:
    """Try it again in `wait` seconds; `host` is set if the whole host is held back, `left` if it is
    tried at another mirror, and the target has done with the one of this name."""

    wait: float
    host: str | None = None
    left: str | None = None


@dataclass(frozen=True, slots=True)
class Restart:
    """What is held of the target is of no use: start it again in `wait` seconds."""

    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """The target waits for a fresh URL."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The targets are over: of this failure alone, or of a host whose patience is used up."""

    jobs: tuple[int, ...]
    error: SegdlError


@dataclass(frozen=True, slots=True)
class Ignore:
    """The work was of an epoch that has passed, or its target is over or paused already."""


Decision = Again | Restart | Pause | GiveUp | Ignore
