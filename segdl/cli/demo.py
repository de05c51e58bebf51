"""`segdl demo`: an S3 server, a made-up order, its download, on one machine.

What is shown is what users live through: an order is on its way, the process is killed with -9,
`segdl status` says what is held, the same command goes on, `segdl verify` hashes it all again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segdl.cli import wording
from segdl.cli.arguments import Parser
from segdl.cli.progress import on_terminal
from segdl.cli.signals import Signals
from segdl.core.dataclass import dataclass
from segdl.core.errors import ExitCode, SegdlError, UsageError
from segdl.core.options import MIB, parse_count, parse_size

if TYPE_CHECKING:
    from segdl.publish.servers import S3Server

FILES, SIZE = 20, 24 * MIB
MOST_FILES = 1000
ORDER = "SO-DEMO"
WATCH_EVERY = 0.02  # seconds
_BLOCK = MIB


def run(arguments: list[str], signals: Signals) -> int:
    parser = Parser("demo", "demo [option ...]", "demo --files 40 --size 100MiB")
    parser.add_argument("--files", metavar="N", default=str(FILES), help=f"archives [{FILES}]")
    parser.add_argument("--size", metavar="SIZE", default="24MiB", help="of each, about [24MiB]")
    parser.add_argument("--dir", metavar="DIR", type=Path, help="work here, not in /tmp")
    parser.add_argument("--keep", action="store_true", help="leave what was made and downloaded")
    given = parser.parse(arguments)
    files, size = _numbers(given.files, given.size)
    server = _server()
    with _folder(given.dir, keep=given.keep) as folder:
        _Demo(folder, files, size, signals).run(server)
    return ExitCode.DONE


def _numbers(files: str, size: str) -> tuple[int, int]:
    try:
        number, length = parse_count(files), parse_size(size)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not (1 <= number <= MOST_FILES and length >= 1):
        raise UsageError(f"expected 1 to {MOST_FILES} files of at least one byte")
    return number, length


def _server() -> S3Server:
    """A server that can be started here. Raises UsageError, which says how to get one."""
    install = "the demo needs its own S3 server: pip install 'segdl[demo]'"
    try:
        from segdl.publish.loopback import StartError
        from segdl.publish.servers import first_available
    except ImportError:
        raise UsageError(install) from None
    try:
        return first_available()("orders")
    except StartError:
        raise UsageError(install) from None


@contextmanager
def _folder(wanted: Path | None, *, keep: bool) -> Iterator[Path]:
    """A fresh folder to work in, gone at the end unless it is to be kept."""
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="segdl-demo-", dir=wanted))
    try:
        yield folder
    finally:
        if keep:
            print(f"Kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Archive:
    """One made-up file."""

    path: str
    size: int
    sha256: str


class DemoError(SegdlError):
    """The demonstration did not show what it should."""


class _Demo:
    """One demonstration, in one folder."""

    def __init__(self, folder: Path, files: int, size: int, signals: Signals) -> None:
        self._originals = folder / "originals"
        self._manifest = folder / "order.yaml"
        self._out = folder / "out"
        self._folder = folder
        self._files = files
        self._size = size
        self._signals = signals

    def run(self, server: S3Server) -> None:
        """Show it all. Raises DemoError if segdl did not do what it promises."""
        print(f"Making {self._files} archives of about {wording.size(self._size)}", flush=True)
        archives = [self._make(number) for number in range(self._files)]
        total = sum(archive.size for archive in archives)
        print(f"Starting {server.title} on loopback", flush=True)
        with server:
            self._publish(server, archives)
            held = self._killed(total)
            self._call("status")
            began = time.monotonic()
            fetched = self._finish()
            seconds = time.monotonic() - began
        self._call("verify")
        self._compare(archives)
        self._tell(archives, held, fetched, seconds)

    def _make(self, number: int) -> Archive:
        """An archive that is the same every time, and does not compress."""
        chance = random.Random(number)
        size = max(1, self._size - chance.randrange(self._size // 16 + 1))
        archive = self._originals / f"chips/{318677224273 + number}.7z"
        archive.parent.mkdir(parents=True, exist_ok=True)
        running = hashlib.sha256()
        with archive.open("wb") as out:
            for start in range(0, size, _BLOCK):
                block = chance.randbytes(min(_BLOCK, size - start))
                running.update(block)
                out.write(block)
        path = archive.relative_to(self._originals).as_posix()
        return Archive(path, size, running.hexdigest())

    def _publish(self, server: S3Server, archives: list[Archive]) -> None:
        """Upload them, and write their manifest for our eyes alone: share URLs are passwords."""
        print("Uploading them, and writing the manifest of presigned URLs", flush=True)
        files = []
        for archive in archives:
            server.put(archive.path, self._originals / archive.path)
            files.append({
                "path": archive.path, "size": archive.size, "hash": {"sha256": archive.sha256},
                "url": server.presign(archive.path),
            })  # fmt: skip
        self._manifest.touch(mode=0o600)
        text = json.dumps({"segdl": 1, "order": ORDER, "files": files}, indent=1)
        self._manifest.write_text(text, encoding="utf-8")

    # -- segdl itself, as a child ----------------------------------------------------------------

    def _killed(self, total: int) -> int:
        """Download until half of it is held, kill -9, and say how many bytes were held then."""
        with self._child("get", self._manifest.name, "-o", self._out.name) as child:
            while child.poll() is None and self._present() < total // 2:
                time.sleep(WATCH_EVERY)
            child.kill()
            killed = child.wait() == -signal.SIGKILL
        if on_terminal():
            print("\r\x1b[J", end="", file=sys.stderr, flush=True)  # the bars it left behind
        held = self._present()
        how = "Killed with -9" if killed else "Over before it could be killed"
        print(f"\n{how}: {held} of {total} bytes were held", flush=True)
        return held

    def _finish(self) -> int:
        """The same command again: the bytes that it fetched."""
        said = self._call("get", self._manifest.name, "-o")
        found = re.search(r"\((\d+) bytes\)", said)
        return int(found[1]) if found else 0

    def _present(self) -> int:
        from segdl.engine.audit import status

        try:
            return status(self._out).present
        except SegdlError:  # it has only begun
            return 0

    def _call(self, *words: str) -> str:
        """Run segdl on the output folder, show what it says, return that. Raises DemoError."""
        with self._child(*words, self._out.name, stdout=subprocess.PIPE) as child:
            said, _ = child.communicate()
        print(said, end="", flush=True)
        if child.returncode != 0:
            raise DemoError(f"segdl {words[0]} ended with exit code {child.returncode}")
        return str(said)

    @contextmanager
    def _child(self, *words: str, stdout: int | None = None) -> Iterator[subprocess.Popen[str]]:
        """segdl as a child that knows no settings of the user's; killed if we are stopped."""
        print(f"\n$ segdl {' '.join(words)}", flush=True)
        command = [sys.executable, "-m", "segdl", *words]
        with ExitStack() as stack:
            with self._signals.held():  # or nobody would know the child
                child = stack.enter_context(
                    subprocess.Popen(
                        command, cwd=self._folder, env=_environment(), stdout=stdout, text=True
                    )
                )
                stack.callback(child.kill)
            yield child

    # -- what was shown ----------------------------------------------------------------------------

    def _compare(self, archives: list[Archive]) -> None:
        for archive in archives:
            with (self._out / archive.path).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != archive.sha256:
                    raise DemoError(f"{archive.path} is not what was uploaded")

    def _tell(self, archives: list[Archive], held: int, fetched: int, seconds: float) -> None:
        total = sum(archive.size for archive in archives)
        again = max(0, fetched - (total - held))
        rate = wording.rate(fetched / max(seconds, 0.001))
        print(f"\nShown: {len(archives)} archives, {wording.size(total)}, byte for byte the same")
        print(f"  held by the first run: {held} bytes")
        print(f"  fetched by the second run: {fetched} bytes in {wording.span(seconds)}, {rate}")
        print(f"  of what was held, fetched again: {again} bytes")


def _environment() -> dict[str, str]:
    """Ours, without the user's settings and proxies, and with this very segdl."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEGDL_")}
    paths = [str(Path(__file__).parents[2]), kept.get("PYTHONPATH", "")]
    return kept | {
        "SEGDL_CONFIG": os.devnull,
        "NO_PROXY": "*",
        "no_proxy": "*",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
