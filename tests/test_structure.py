"""The house: which room may import which, who opens which door, and the public names."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import segdl
from segdl.core import events
from tests.test_api import kinds_of
from tests.torture.planted import BUGS

ROOT = Path(segdl.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
DOORS = {  # third-party package: the one room that imports it
    "httpx": "edges.transport.proxied",
    "h11": "edges.transport",
    "yaml": "core.manifest",
    "xxhash": "core.digests",
    "tqdm": "cli",
    "boto3": "publish",
    "botocore": "publish",
}
ABOVE = ("process", "version")  # what every room may ask
FLOORS = {  # room: what it may import of segdl beside itself and what is ABOVE
    "core": {"core"},
    "edges": {"core"},
    "engine": {"core", "edges"},
    "publish": {"core"},
    "service": {"core", "edges", "engine"},
    "cli": {"core", "edges", "engine", "publish", "service"},
}
PUBLIC = [
    "Control", "ContentError", "DigestError", "DiskError", "DiskFullError", "Event", "ExitCode",
    "ExpiredError", "Failure", "Fault", "Grade", "LockedError", "Manifest", "ManifestError",
    "OccupiedError", "Options", "OrderError", "Receipt", "RefusedError", "Report", "SegdlError",
    "SizeError", "StaleError", "StoppedError", "Target", "TransientError", "UnreachableError",
    "UsageError", "__version__", "download", "load",
]  # fmt: skip


def name_of(path: Path) -> str:
    """`core.manifest.names` of `segdl/core/manifest/names.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> Iterator[str]:
    """The full names of the modules that a module imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def edge_room(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    module = name_of(path)
    floor = module.split(".")[0]
    if floor in ("", "__main__", *ABOVE):
        return  # these stand above the floors
    assert floor in FLOORS, f"{floor} is no room of this house: say here what it may import"
    for imported in imports(path):
        if not within(imported, "segdl") or imported == "segdl":
            continue
        there = imported.removeprefix("segdl.").split(".")[0]
        if there in (*ABOVE, floor):
            continue
        assert there in FLOORS[floor], f"{module} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_edges_never_import_each_other(path: Path) -> None:
    module = name_of(path)
    if not within(module, "edges"):
        return
    for imported in imports(path):
        if within(imported, "segdl.edges") and imported != "segdl.edges":
            assert edge_room(imported.removeprefix("segdl.")) == edge_room(module), imported


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even for types. (`from package import module` imports the module.)"""
    modules = {f"segdl.{name_of(path)}".rstrip("."): path for path in MODULES}
    graph = {name: set(imports(path)) & modules.keys() for name, path in modules.items()}
    for name, inner in graph.items():
        inner -= {name, *[module.rpartition(".")[0] for module in inner]}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_package_has_one_door(path: Path) -> None:
    module = name_of(path)
    for imported in imports(path):
        package = imported.split(".")[0]
        if package in sys.stdlib_module_names or package == "segdl":
            continue
        assert package in DOORS, f"{module} imports {package}, which is nobody's"
        assert within(module, DOORS[package]), f"{module} imports {package}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert doc
    first, *rest = doc.splitlines()
    assert 0 < len(first) <= 100
    assert not rest or not rest[0].strip()


def test_the_public_names() -> None:
    assert segdl.__all__ == PUBLIC
    assert all(getattr(segdl, name) is not None for name in PUBLIC)
    assert set(PUBLIC) == set(dir(segdl))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = segdl.nothing


def test_the_types_are_shipped() -> None:
    assert (ROOT / "py.typed").exists()
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["package-data"]["segdl"] == ["py.typed"]


def test_the_runtime_needs_the_four_and_h11() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    names = {line.split(">=")[0] for line in project["project"]["dependencies"]}
    assert names == {"httpx", "h11", "tqdm", "pyyaml", "xxhash"}


def test_the_guarantees_name_the_tests_that_were_seen_to_fail() -> None:
    """The README's table and `scripts/torture planted` have the same tests, for every promise."""
    readme = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Guarantees")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (\d+) \| .*\| ([^|]*) \|$", section, re.MULTILINE))
    named = {int(number): set(re.findall(r"`(test_\w+)`", tests)) for number, tests in rows.items()}
    planted: dict[int, set[str]] = {}
    for bug in BUGS:
        if "::" in bug.test:  # and no story of the state machine
            planted.setdefault(bug.promise, set()).add(bug.test.partition("::")[2])
    assert named == planted
    assert set(planted) == set(range(1, 16))


def test_the_documentation_names_every_event_with_its_fields() -> None:
    text = (ROOT.parent / "docs" / "events.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", text, re.MULTILINE))
    trouble = {f.name for f in fields(events.Trouble)} - {"time"}
    assert all(f"`{name}`" in text for name in trouble)
    kinds = {kind for kind in kinds_of(events.Event) if kind.event}
    assert set(rows) == {kind.event for kind in kinds}
    for kind in kinds:
        own = {f.name for f in fields(kind)} - {"time"}
        if issubclass(kind, events.Trouble):
            own -= trouble
            assert "*trouble*" in rows[kind.event]
        assert own <= set(re.findall(r"`(\w+)`", rows[kind.event])), kind.event
