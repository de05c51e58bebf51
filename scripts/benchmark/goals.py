"""What segdl must reach, computed from the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from results import Scene, Scenes, ratio, seconds

GIGA = 10**9
MIB = 2**20
NOT_PEERS = {"segdl", "floor", "hashing", "segdl without digests"}


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure with its two thresholds; `more` where a greater value is the better one."""

    what: str
    value: float | None
    least: float
    goal: float
    unit: str = "x"
    more: bool = False

    def met(self) -> str:
        if self.value is None:
            return "not measured"
        if self._reaches(self.goal):
            return "goal"
        return "at least" if self._reaches(self.least) else "**missed**"

    def _reaches(self, threshold: float) -> bool:
        assert self.value is not None
        return self.value >= threshold if self.more else self.value <= threshold

    def text(self, value: float | None) -> str:
        if value is None:
            return "-"
        digits = {"x": ".2f", "%": ".1f", "s": ".2f"}.get(self.unit, ".0f")
        return f"{value:{digits}}" + ("" if self.unit == "x" else f" {self.unit}")


Ratio = tuple[str, float, float]  # peer, at least, goal


def goals(scenes: Scenes) -> list[Goal]:
    """All of them, those of scenes that were left out without a value."""
    return [
        *_against(
            scenes, "order", [("aria2c", 0.6, 0.45), ("curl", 1.1, 0.8), ("wget2", 1.6, 1.0)]
        ),
        Goal("order: share of the floor's rate", _share_of_floor(scenes), 80, 80, "%", more=True),
        *_against(
            scenes,
            "big",
            [
                ("aria2c", 0.7, 0.5),
                ("curl", 1.2, 0.8),
                ("hf_transfer", 1.0, 0.8),
            ],
        ),
        _against_best(scenes, "big", "wget2", 1.3, 1.0),
        _against_best(scenes, "tls", "", 1.2, 1.0),
        Goal("sha256: segdl / longer of download and hashing", _hashing(scenes), 1.2, 1.05),
        *_against(scenes, "sha256", [("aria2c", 1.0, 1.0)]),
        Goal("throttled: share of the line", _share_of_line(scenes), 95, 98, "%", more=True),
        Goal("trickle: time with / time without", _trickled(scenes), 1.25, 1.1),
        _against_best(scenes, "small", "aria2c", 1.5, 0.7),
        Goal("order: CPU seconds a GB, segdl / curl", _cpu(scenes), 1.5, 1.1),
        Goal("peak memory at 16 connections", _peak(scenes, "memory16"), 120, 80, "MiB"),
        Goal("100,000 targets: peak memory", _peak(scenes, "many"), 300, 200, "MiB"),
        Goal("100,000 targets: start", seconds(scenes, "many", "segdl"), 5, 3, "s"),
    ]


def _against(scenes: Scenes, scene: str, peers: list[Ratio]) -> list[Goal]:
    mine = seconds(scenes, scene, "segdl")
    return [
        Goal(f"{scene}: segdl / {peer}", ratio(mine, seconds(scenes, scene, peer)), least, goal)
        for peer, least, goal in peers
    ]


def best_peer(scene: Scene, family: str = "") -> tuple[str, float] | None:
    """The fastest tool of others that did not fail, of those whose name begins so."""
    timed = [
        (row.tool, row.seconds)
        for row in scene.rows
        if row.seconds is not None and row.tool not in NOT_PEERS and row.tool.startswith(family)
    ]
    return min(timed, key=lambda pair: pair[1], default=None)


def _against_best(scenes: Scenes, scene: str, family: str, least: float, goal: float) -> Goal:
    best = best_peer(scenes[scene], family) if scene in scenes else None
    name = f" ({best[0]})" if best else ""
    of = f"best {family or 'peer'}{name}"
    value = ratio(seconds(scenes, scene, "segdl"), best[1] if best else None)
    return Goal(f"{scene}: segdl / {of}", value, least, goal)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _share_of_floor(scenes: Scenes) -> float | None:
    return _percent(ratio(seconds(scenes, "order", "floor"), seconds(scenes, "order", "segdl")))


def _hashing(scenes: Scenes) -> float | None:
    download = seconds(scenes, "sha256", "segdl without digests")
    hashing = seconds(scenes, "sha256", "hashing")
    if download is None or hashing is None:
        return None
    return ratio(seconds(scenes, "sha256", "segdl"), max(download, hashing))


def line_share(scene: Scene, tool: str) -> float | None:
    """Per cent of what the line could have carried in that time."""
    if scene.line is None:
        return None
    return _percent(ratio(scene.volume / scene.line, scene.seconds(tool)))


def _share_of_line(scenes: Scenes) -> float | None:
    return line_share(scenes["throttled"], "segdl") if "throttled" in scenes else None


def _trickled(scenes: Scenes) -> float | None:
    return ratio(seconds(scenes, "trickle", "segdl"), seconds(scenes, "throttled", "segdl"))


def _of_row(
    scenes: Scenes, scene: str, tool: str, get: Callable[[Scene, str], float | None]
) -> float | None:
    return get(scenes[scene], tool) if scene in scenes else None


def cpu_a_gb(scene: Scene, tool: str) -> float | None:
    row = scene.row(tool)
    return ratio(row.cpu, scene.volume / GIGA) if row and scene.volume else None


def peak_mib(scene: Scene, tool: str) -> float | None:
    row = scene.row(tool)
    return row.peak / MIB if row and row.peak is not None else None


def _cpu(scenes: Scenes) -> float | None:
    return ratio(
        _of_row(scenes, "order", "segdl", cpu_a_gb), _of_row(scenes, "order", "curl", cpu_a_gb)
    )


def _peak(scenes: Scenes, scene: str) -> float | None:
    return _of_row(scenes, scene, "segdl", peak_mib)
