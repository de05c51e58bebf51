"""One secret in every secret place, and where it is looked for after every test.

It is in the query of every share URL, in headers, in a proxy's password, in the environment. It may
come back in no file of an output directory (nor in a name or an attribute of one), in nothing that
is printed or logged, at whatever level, and in no argument of a program that segdl starts.

A test that plants it there itself, or on segdl's command line, has the marker `plants_secrets`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

CANARY = "CANARY7d41c09be5f26a83"  # each place adds a word: none is blotted out with another
SIGNATURE = re.compile(rb"X-Amz-Signature=[0-9a-f]{16}")  # of the real stores' links
WATCH = Path(__file__).parent / "watch"

ENVIRONMENT = {  # of every segdl under test; no test asks a proxy for more than loopback
    "https_proxy": f"http://somebody:{CANARY}proxy@127.0.0.1:9",
    "no_proxy": "localhost,127.0.0.1",
    "SEGDL_VAR_TOKEN": f"{CANARY}variable",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}key",
}

MANIFESTS = {"order.json", "urls.txt"}  # of tests that deliver into the folder of the manifest
_LARGEST = 16 * 2**20  # bytes of one file that are looked through: some are huge, and sparse
_STARTS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system"}
_children: list[str] = []


def leaks(folder: Path) -> Iterator[str]:
    """Where the secret is, in the output directories under a folder."""
    for hidden in folder.rglob(".segdl"):
        for path in (hidden.parent, *hidden.parent.rglob("*")):
            yield from _leaks_of(path)


def _leaks_of(path: Path) -> Iterator[str]:
    if CANARY in path.name:
        yield f"the name of {path}"
    if path.is_symlink() or (path.name in MANIFESTS and path.parent.name != ".segdl"):
        return
    for name in os.listxattr(path, follow_symlinks=False):
        if CANARY.encode() in os.getxattr(path, name) or CANARY in name:
            yield f"the attribute {name} of {path}"
    if path.is_file():
        with path.open("rb") as file:
            data = file.read(_LARGEST)
        if CANARY.encode() in data or SIGNATURE.search(data):
            yield str(path)


def watch_children() -> None:
    """From now on, note the children of segdl in this process that are given the secret."""
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event in _STARTS and CANARY in repr(arguments[:2]) and _by_segdl():
        _children.append(repr(arguments[:2]))


def _by_segdl() -> bool:
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__", "").startswith("segdl."):
            return True
    return False


def children() -> list[str]:
    """The children that were given the secret since this was asked last."""
    given, _children[:] = _children[:], []
    return given
