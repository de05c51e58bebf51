"""What was measured: scenes of rows of runs."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from measure import Run


@dataclass(frozen=True, slots=True)
class Row:
    """A tool in a scene: all its runs, in the order they ran."""

    tool: str
    command: str
    runs: tuple[Run, ...]
    note: str = ""

    @property
    def good(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.failure is None)

    @property
    def failure(self) -> str | None:
        """Why the row does not count: one run that fails is enough."""
        reasons = [run.failure for run in self.runs if run.failure is not None]
        if not reasons:
            return None if self.runs else "never ran"
        return f"{len(reasons)} of {len(self.runs)} failed: {reasons[0]}"

    @property
    def seconds(self) -> float | None:
        return None if self.failure else median(run.seconds for run in self.runs)

    @property
    def spread(self) -> tuple[float, float]:
        return min(run.seconds for run in self.good), max(run.seconds for run in self.good)

    @property
    def cpu(self) -> float | None:
        return None if self.failure else median(run.cpu for run in self.runs)

    @property
    def peak(self) -> int | None:
        return None if self.failure else max(run.peak for run in self.runs)


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene that was run; `line` is the bytes a second that all its connections may carry."""

    name: str
    title: str
    volume: int
    rows: tuple[Row, ...]
    left_out: tuple[str, ...] = ()
    line: int | None = None

    def row(self, tool: str) -> Row | None:
        return next((row for row in self.rows if row.tool == tool), None)

    def seconds(self, tool: str) -> float | None:
        row = self.row(tool)
        return row.seconds if row else None


Scenes = dict[str, Scene]


def seconds(scenes: Scenes, scene: str, tool: str) -> float | None:
    """The median of a tool in a scene; None where it failed or never ran."""
    return scenes[scene].seconds(tool) if scene in scenes else None


def ratio(over: float | None, under: float | None) -> float | None:
    return over / under if over is not None and under else None
