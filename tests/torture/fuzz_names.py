# ruff: noqa: E501 -- tables
"""Hostile names: refused, or delivered inside the output directory, exactly there."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import segdl
from segdl.core.errors import ManifestError
from segdl.core.manifest import parse_manifest
from segdl.core.manifest.names import collisions
from tests.faults import FaultServer
from tests.orders import quick
from tests.torture.campaign import Campaign, Figures, Round
from tests.torture.fuzz import BATCH, told
from tests.torture.fuzz_manifest import check_path

PIECES = [
    *("..", ".", "/", "//", "\\", "~", "-rf", "*", "?", "a", "b.7z", "CON", "nul.txt", "COM1", "a:b", "C:"),
    *(".segdl", ".SEGDL", "segdl~1", "work", "front", "index.jsonl", "order.json", "lock", "etc", "passwd"),
    *(" ", ". ", "\t", "\n", "\r", "\0", "\x1b[2J", "\x7f", "\u202e", "\u200b", "\u2028", "\ufeff", "\u00ad"),
    *("é", "e\u0301", "ß", "SS", "\u212b", "\u00e5", "日本", "😀", "\u017f", "İ", "\u0131", "\uff0e\uff0e", "\u2215"),
    *("%2e%2e", "%2f", "%00", "%5c", "%", "%zz", "$HOME", "`id`", "$(id)", ";", "&", "|", "'", '"', "#", "+"),
    *("x" * 255, "x" * 256, "é" * 127, "a/" * 60, "../" * 9, "{}", "[0]", "=", "@", ",", "!", "0", "00"),
]  # fmt: skip
MOST_AT_ONCE = 250  # files of one order


def fuzz_names(given: Round) -> Figures:
    """Whatever a file is called, it is refused, or delivered inside `out`, exactly there."""
    chance = given.chance
    entries = [_named(chance) for _ in range(BATCH)]
    taken = {path: entry for entry in entries if (path := _path_of(entry)) is not None}
    for path in taken:
        check_path(path)
    apart = _without_collisions(list(taken))
    outside = given.folder / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"mine")
    with FaultServer() as server:
        for first in range(0, len(apart), MOST_AT_ONCE):
            paths = apart[first : first + MOST_AT_ONCE]
            _deliver(server, given.folder / "run", paths)
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_bytes() == b"mine"
    return {"names": BATCH, "accepted": len(taken), "delivered": len(apart)}


def _named(chance: random.Random) -> dict[str, str]:
    """An entry of a manifest, with a name of its own or one by its URL."""
    name = "".join(chance.choice(PIECES) for _ in range(chance.choice((1, 1, 2, 2, 3, 4))))
    if chance.random() < 0.3:
        name = "".join(c for c in name if c not in '\\:*?"<>|\0\t\n\r\x1b\x7f')
    if chance.random() < 0.6:
        return {"path": name, "url": "http://127.0.0.1/o"}
    return {"url": f"http://127.0.0.1/{quote(name, safe=chance.choice(('', '/', '/%')))}"}


def _path_of(entry: dict[str, str]) -> str | None:
    """What the only file of this order is called; None if it is refused."""
    try:
        manifest = parse_manifest(_order([entry]), "order", environment={})
    except ManifestError:
        return None
    return manifest.targets[0].path


def _order(files: Sequence[dict[str, str]]) -> bytes:
    return json.dumps({"segdl": "1", "files": files}).encode()


def _without_collisions(paths: list[str]) -> list[str]:
    gone = {collision.number for collision in collisions(paths)}
    return [path for number, path in enumerate(paths) if number not in gone]


def _deliver(server: FaultServer, folder: Path, paths: Sequence[str]) -> None:
    """An order of these: each arrives, under its name, and nothing else does."""
    folder.mkdir()
    bodies = {path: f"<{path}>".encode() for path in paths}
    files = []
    for number, (path, body) in enumerate(bodies.items()):
        server.put(f"/{number}", body)
        files.append({"path": path, "url": server.url(f"/{number}")})
    order, out = folder / "order.json", folder / "out"
    order.write_bytes(_order(files))
    report = segdl.download(order, out, options=quick(connections=8, timeout=5.0))
    report.raise_for_failures()
    found = {os.fsencode(path.relative_to(out)).decode(): path.read_bytes() for path in _files(out)}
    assert found == bodies
    assert sorted(path.name for path in folder.iterdir()) == ["order.json", "out"]
    shutil.rmtree(folder)


def _files(out: Path) -> Iterator[Path]:
    for path in out.rglob("*"):
        if ".segdl" not in path.relative_to(out).parts and not path.is_dir():
            yield path


CAMPAIGN = Campaign("fuzz-names", "hostile file names", 10, fuzz_names, told)
