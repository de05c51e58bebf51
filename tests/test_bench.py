"""The benchmark: a run of a few seconds, and its figures on made-up results."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
FOLDER = Path(__file__).parents[1] / "scripts" / "benchmark"
WITHIN = 120.0


class Modules:
    """The benchmark's modules, which lie in a folder that is run, not installed."""

    def __init__(self) -> None:
        self.measure: ModuleType = importlib.import_module("measure")
        self.results: ModuleType = importlib.import_module("results")
        self.goals: ModuleType = importlib.import_module("goals")

    def row(self, tool: str, *seconds: float, failure: str | None = None) -> Any:
        runs = [self.measure.Run(each, 2 * each, 2**20) for each in seconds]
        if failure:
            runs.append(self.measure.failed(failure))
        return self.results.Row(tool, tool, tuple(runs))

    def scene(self, name: str, *rows: Any, line: int | None = None) -> Any:
        return self.results.Scene(name, name, 10**9, rows, (), line)

    def goal(self, what: str, *scenes: Any) -> Any:
        found = self.goals.goals({scene.name: scene for scene in scenes})
        return next(goal for goal in found if goal.what.startswith(what))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Modules:
    monkeypatch.syspath_prepend(str(FOLDER))
    return Modules()


@pytest.mark.skipif(NGINX is None, reason="server missing: nginx")
def test_a_tiny_order_is_measured(tmp_path: Path) -> None:
    asked = ["--scale", "tiny", "--scenes", "order", "--rounds", "1", "--output", str(tmp_path)]
    asked += ["--disk", str(tmp_path), "--tools", "segdl,floor,curl"]
    ended = subprocess.run(
        [sys.executable, FOLDER, *asked],
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    [scene] = json.loads((tmp_path / "results.json").read_text())["scenes"]
    assert scene["volume"] == 4 * 2 * 2**20
    runs = {row["tool"]: row["runs"] for row in scene["rows"]}
    for tool in ("segdl", "floor"):
        [run] = runs[tool]
        assert run["failure"] is None
        assert 0 < run["seconds"] < WITHIN and run["cpu"] > 0 and run["peak"] > 2**20
    text = (tmp_path / "results.md").read_text()
    assert "| **segdl** |" in text and "| floor |" in text
    assert str(tmp_path) not in text and sys.prefix not in text


def test_a_ratio_is_of_medians(bench: Modules) -> None:
    order = bench.scene("order", bench.row("segdl", 9, 1, 2), bench.row("curl", 4, 3, 5))
    goal = bench.goal("order: segdl / curl", order)
    assert (goal.value, goal.met()) == (0.5, "goal")
    assert bench.goal("order: segdl / aria2c", order).met() == "not measured"


@pytest.mark.parametrize(
    ("mine", "met"), [(0.8, "goal"), (1.0, "at least"), (1.1, "at least"), (1.2, "**missed**")]
)
def test_a_goal_has_two_thresholds(bench: Modules, mine: float, met: str) -> None:
    order = bench.scene("order", bench.row("segdl", mine), bench.row("curl", 1))
    assert bench.goal("order: segdl / curl", order).met() == met


def test_one_failed_run_fails_the_row(bench: Modules) -> None:
    curl = bench.row("curl", 1, 1, failure="exit 7")
    order = bench.scene("order", bench.row("segdl", 1), curl)
    assert (curl.seconds, curl.failure) == (None, "1 of 3 failed: exit 7")
    assert bench.goal("order: segdl / curl", order).met() == "not measured"
    text = importlib.import_module("report").markdown(facts(), {"order": order}, None)
    assert "| curl | failed |" in text and "- curl: 1 of 3 failed: exit 7" in text


def facts() -> Any:
    return importlib.import_module("report").Facts("today", "scripts/bench", 3, {}, {})


def test_a_failed_peer_is_never_the_best(bench: Modules) -> None:
    rows = [bench.row("aria2c -j4", failure="exit 1"), bench.row("aria2c -j8", 4)]
    small = bench.scene("small", bench.row("segdl", 2), bench.row("curl", 1), *rows)
    goal = bench.goal("small", small)
    assert (goal.what, goal.value) == ("small: segdl / best aria2c (aria2c -j8)", 0.5)


def test_the_longer_of_download_and_hashing_counts(bench: Modules) -> None:
    rows = [("segdl", 3), ("segdl without digests", 1), ("hashing", 2)]
    scene = bench.scene("sha256", *[bench.row(tool, each) for tool, each in rows])
    assert bench.goal("sha256: segdl / longer", scene).value == 1.5


def test_the_share_of_a_line(bench: Modules) -> None:
    line = bench.scene("throttled", bench.row("segdl", 10), line=10**9 // 9)
    slow = bench.scene("trickle", bench.row("segdl", 13), line=10**9 // 9)
    assert bench.goal("throttled", line, slow).value == pytest.approx(90)
    assert bench.goal("throttled", line, slow).met() == "**missed**"
    assert bench.goal("trickle", line, slow).value == pytest.approx(1.3)
