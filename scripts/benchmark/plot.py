"""The picture: medians of every scene as bars."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from results import Row, Scene, Scenes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
OURS, THEIRS, REFERENCE = "#0b6e4f", "#c3c9d0", "#8a94a0"
REFERENCES = {"hashing", "segdl without digests"}
INK = "#2b2f33"


def drawn(scenes: Scenes, path: Path) -> bool:
    """Store the picture; False where matplotlib is not here or there is nothing to compare."""
    wanted = [scene for scene in scenes.values() if len(_bars(scene)) > 1]
    try:
        import matplotlib
    except ImportError:
        return False
    if not wanted:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(COLUMNS, len(wanted))
    bands = [wanted[start : start + columns] for start in range(0, len(wanted), columns)]
    heights = [max(len(_bars(scene)) for scene in band) + 2.2 for band in bands]
    figure, grid = pyplot.subplots(
        math.ceil(len(wanted) / columns),
        columns,
        figsize=(4.2 * columns, 0.235 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for place, axes in enumerate(grid.flat):
        if place < len(wanted):
            _panel(axes, wanted[place], max(len(_bars(each)) for each in bands[place // columns]))
        else:
            axes.set_axis_off()
    figure.suptitle("Seconds, medians: shorter is better", fontsize=11, color=INK)
    figure.savefig(path, dpi=110, facecolor="white")
    pyplot.close(figure)
    return True


def _bars(scene: Scene) -> list[Row]:
    """What gets a bar, the fastest first; the floor is a line."""
    timed = [row for row in scene.rows if row.tool != "floor"]
    return sorted(timed, key=lambda row: math.inf if row.seconds is None else row.seconds)


def _panel(axes: Axes, scene: Scene, slots: int) -> None:
    rows = _bars(scene)
    longest = max([row.seconds for row in rows if row.seconds is not None], default=1.0)
    for place, row in enumerate(rows):
        color = OURS if row.tool == "segdl" else REFERENCE if row.tool in REFERENCES else THEIRS
        axes.barh(place, row.seconds or 0.0, color=color, height=0.74)
        said = "failed" if row.seconds is None else f"{row.seconds:.{1 if longest >= 10 else 2}f}"
        weight = "bold" if row.tool == "segdl" else "normal"
        at = (row.seconds or 0.0) + longest * 0.015
        axes.text(at, place, said, va="center", fontsize=7.5, color=INK, weight=weight)
    axes.set_yticks(range(len(rows)), [row.tool for row in rows], fontsize=8, color=INK)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.tool == "segdl" else "normal")
    _floor(axes, scene)
    axes.set_ylim(slots - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.16)
    axes.set_title(scene.name, fontsize=9.5, loc="left", color=INK, weight="bold")
    axes.tick_params(length=0)
    axes.set_xticks([])
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(THEIRS)


def _floor(axes: Axes, scene: Scene) -> None:
    level = scene.seconds("floor")
    if level is not None:
        axes.axvline(level, color="#b5442c", linewidth=1.1, linestyle=(0, (4, 2)))
        axes.set_title(f"floor {level:.2f}", fontsize=7.5, loc="right", color="#b5442c")
