"""The report: Markdown and JSON of what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from goals import MIB, cpu_a_gb, goals, line_share, peak_mib
from results import Row, Scene, Scenes, ratio, seconds

NOTE = """\
Every tool runs as a whole process, with its start, in turn with the others (A B C A B C …), into an
empty folder; what it leaves is compared byte by byte outside the timing, and one run that fails is
a row that failed. Seconds are medians. `segdl / tool` below 1: segdl is the faster one. CPU is user
and system time of the tool and its children, without the server's. Peak memory is of the largest
process of the tool, the greatest of all runs. Before a scene its files are copied to where the
tools write, and removed: nobody is the first in memory that the machine has to get. The floor is a
program of plain sockets that writes ranges of 8 MiB in four threads and verifies nothing."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the figures depend on."""

    date: str
    command: str
    rounds: int
    machine: dict[str, str]
    versions: dict[str, str]


def markdown(facts: Facts, scenes: Scenes, picture: str | None) -> str:
    """The whole report."""
    parts = ["# Benchmark", _machine(facts), NOTE]
    if picture:
        parts.append(f"![Medians of every scene]({picture})")
    parts += ["## Goals", _goals(scenes)]
    parts += [_scene(scene, scenes) for scene in scenes.values()]
    return "\n\n".join(parts) + "\n"


def raw(facts: Facts, scenes: Scenes) -> str:
    """The raw figures as JSON; seconds and bytes."""
    found = {
        "facts": asdict(facts),
        "scenes": [asdict(scene) for scene in scenes.values()],
        "goals": [{**asdict(goal), "met": goal.met()} for goal in goals(scenes)],
    }
    return json.dumps(found, indent=1) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine(facts: Facts) -> str:
    machine = "; ".join(f"{name}: {value}" for name, value in facts.machine.items())
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    said = f"`{facts.command}`, {facts.date}, {facts.rounds} rounds; nginx on loopback."
    return f"{said}\n\n- {machine}\n- {versions}"


def _goals(scenes: Scenes) -> str:
    rows = [
        (goal.what, goal.text(goal.value), goal.text(goal.least), goal.text(goal.goal), goal.met())
        for goal in goals(scenes)
    ]
    return table(("figure", "value", "at least", "goal", "met"), rows)


def _scene(scene: Scene, scenes: Scenes) -> str:
    parts = [f"## `{scene.name}`: {scene.title}"]
    if scene.volume:
        parts[0] += f", {scene.volume / MIB:,.0f} MiB"
    extra = [
        name for name, wanted in (("line", scene.line), ("trickle", _is_trickle(scene))) if wanted
    ]
    head = ["tool", "median s", "min..max", "segdl / tool", "CPU s a GB", "peak MiB"]
    head += ["share of the line" if name == "line" else "with / without" for name in extra]
    if scene.rows:
        parts.append(table(head, [_row(scene, row, scenes, extra) for row in _ranked(scene)]))
    failures = [f"- {row.tool}: {row.failure}" for row in scene.rows if row.failure]
    if failures:
        parts.append("Failed:\n\n" + "\n".join(failures))
    if scene.left_out:
        parts.append("Left out:\n\n" + "\n".join(f"- {each}" for each in scene.left_out))
    if scene.rows:
        parts.append(_commands(scene))
    return "\n\n".join(parts)


def _is_trickle(scene: Scene) -> bool:
    return scene.name == "trickle"


def _ranked(scene: Scene) -> list[Row]:
    """The fastest first, those that failed last."""
    return sorted(scene.rows, key=lambda row: (row.seconds is None, row.seconds or 0.0))


def _row(scene: Scene, row: Row, scenes: Scenes, extra: Sequence[str]) -> list[str]:
    name = f"**{row.tool}**" if row.tool == "segdl" else row.tool
    if row.seconds is None:
        return [name, "failed", *[""] * (4 + len(extra))]
    low, high = row.spread
    cells = [
        name,
        f"{row.seconds:.2f}",
        f"{low:.2f}..{high:.2f}",
        number(ratio(scene.seconds("segdl"), row.seconds), ".2f"),
        number(cpu_a_gb(scene, row.tool), ".2f"),
        number(peak_mib(scene, row.tool), ".0f"),
    ]
    if "line" in extra:
        cells.append(number(line_share(scene, row.tool), ".1f", " %"))
    if "trickle" in extra:
        cells.append(number(ratio(row.seconds, seconds(scenes, "throttled", row.tool)), ".2f"))
    return cells


def number(value: float | None, how: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{how}}{unit}"


def _commands(scene: Scene) -> str:
    lines = [f"{row.command}{f'   # {row.note}' if row.note else ''}" for row in scene.rows]
    return "```\n" + "\n".join(lines) + "\n```"
