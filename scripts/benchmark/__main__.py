"""segdl beside other downloaders: one command, one report."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import machine
import origin
import plot
import report
import results
import scenes
from measure import ROOT, Run

TMPFS = Path("/dev/shm")
HEADROOM = 6  # times the order, so that its files and two outputs fit


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="scripts/bench", description="segdl beside other downloaders, on loopback."
    )
    add = found.add_argument
    names = [scene.name for scene in scenes.SCENES]
    add("--list", action="store_true", help="name the scenes and end")
    add("--scenes", metavar="A,B", type=_among(names), default=names, help="only these scenes")
    add("--tools", metavar="A,B", type=_listed, default=[], help="only these tools, and segdl")
    add("--rounds", metavar="N", type=int, default=5, help="runs of each tool [5]")
    add("--scale", choices=tuple(scenes.SCALES), default="full", help="small, tiny: a smoke run")
    add("--disk", metavar="DIR", type=Path, help="for the scenes on a disk [in .cache]")
    add("--timeout", metavar="S", type=float, default=120.0, help="seconds for a run [120]")
    add(
        "--output",
        metavar="DIR",
        default=str(ROOT / "docs" / "benchmark"),
        help="where the report goes; - prints it [docs/benchmark]",
    )
    return found


def _listed(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _among(names: Sequence[str]) -> Callable[[str], list[str]]:
    def chosen(text: str) -> list[str]:
        found = _listed(text)
        unknown = [name for name in found if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"no scene {unknown[0]}; there are {', '.join(names)}")
        return found

    return chosen


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def tmpfs(scale: scenes.Scale) -> str | None:
    """Memory to work in where there is enough of it, else the system's temporary folder."""
    need = HEADROOM * max(scale.order[0] * scale.order[1], scale.big) // 2
    if TMPFS.is_dir() and shutil.disk_usage(TMPFS).free > need:
        return str(TMPFS)
    say(f"{TMPFS} has less than {need / 2**30:.1f} GiB free: the system's temporary folder is used")
    return None


def once(scene: scenes.Scene, entry: scenes.Entry, number: int, rounds: int) -> Run:
    """One run, told in one line."""
    found = entry.attempt()
    said = f"FAILED: {found.failure}" if found.failure else f"{found.seconds:8.3f} s"
    say(f"{scene.name:<11} {number}/{rounds}  {entry.tool:<22} {said}")
    return found


def played(bench: scenes.Bench, scene: scenes.Scene, rounds: int) -> results.Scene:
    """The scene: all its tools in turn, round after round; one that has failed is out."""
    with ExitStack() as stack:
        plan = scene.setting(bench, stack)
        runs: list[list[Run]] = [[] for _ in plan.entries]
        for number in range(1, rounds + 1):
            for entry, found in zip(plan.entries, runs, strict=True):
                if not any(run.failure for run in found):
                    found.append(once(scene, entry, number, rounds))
        rows = tuple(
            results.Row(entry.tool, entry.command, tuple(found), entry.note)
            for entry, found in zip(plan.entries, runs, strict=True)
        )
    return results.Scene(scene.name, scene.title, plan.volume, rows, plan.left_out, plan.line)


def measured(options: argparse.Namespace) -> results.Scenes:
    scale = scenes.SCALES[options.scale]
    disk = options.disk or ROOT / ".cache"
    disk.mkdir(parents=True, exist_ok=True)
    tools = frozenset([*options.tools, "segdl"] if options.tools else [])
    with tempfile.TemporaryDirectory(prefix="segdl-bench-", dir=tmpfs(scale)) as folder:
        home = Path(folder)
        ca = home / "ca.pem" if origin.certify(home) else None
        bench = scenes.Bench(scale, home, disk, ca, options.timeout, tools)
        chosen = [scene for scene in scenes.SCENES if scene.name in options.scenes]
        return {scene.name: played(bench, scene, options.rounds) for scene in chosen}


def publish(options: argparse.Namespace, found: results.Scenes) -> None:
    shown = f"scripts/bench --scale {options.scale} --scenes {','.join(options.scenes)}"
    facts = report.Facts(
        f"{datetime.now(UTC):%Y-%m-%d}", shown, options.rounds, machine.facts(), machine.versions()
    )
    if options.output == "-":
        print(report.markdown(facts, found, None), end="")
        return
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    picture = plot.drawn(found, folder / "results.png")
    text = report.markdown(facts, found, "results.png" if picture else None)
    (folder / "results.md").write_text(text)
    (folder / "results.json").write_text(report.raw(facts, found))
    say(f"written: {', '.join(sorted(path.name for path in folder.glob('results.*')))}")


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    options = parser().parse_args()
    if options.list:
        print("\n".join(f"{scene.name:<11} {scene.title}" for scene in scenes.SCENES))
        return 0
    if not origin.program():
        say(origin.MISSING)
        return 2
    signal.signal(signal.SIGTERM, stopped)
    try:
        found = measured(options)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    publish(options, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
