"""Orders for tests: objects on a fault server, their manifest, and runs that are watched.

Whatever a test is about, every run through here must keep what is always promised: the final name
is absent, what it was, or exact, at every event; no secret is in any file, event or error; no
thread and no descriptor is left over.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import segdl
from segdl.core.digests import digest
from segdl.core.errors import ExitCode, SegdlError
from segdl.core.events import Event
from segdl.core.options import Options
from segdl.core.report import Report
from tests.canary import CANARY
from tests.faults import FaultServer, Seen

SEGMENT = 64 * 1024
SIZE = 4 * SEGMENT + 12_345  # five segments, the last one short
PATH = "/orders/a.7z"
NAME = "a.7z"

QUERY = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20231213%2Fus-east-1%2Fs3%2F"
    f"aws4_request&X-Amz-SignedHeaders=host&X-Amz-Signature={CANARY}query"
)
SECRET_HEADER = {"X-Secret": f"Bearer {CANARY}header"}

SOON = 15.0  # seconds: far longer than it takes, as a machine may stand still; far less than never
HANGS = 25.0  # seconds after which a run does not end

E = TypeVar("E", bound=Event)


class Proof(Enum):
    """What a manifest and its server give to prove an object by."""

    DIGEST = "digest"  # a sha256 in the manifest
    ETAG = "etag"  # the MD5 as a strong ETag
    NOTHING = "nothing"  # a weak ETag alone


def made(size: int, seed: int = 1) -> bytes:
    """That many bytes, the same ones every time."""
    return random.Random(seed).randbytes(size)


def pieces_of(data: bytes, size: int = SEGMENT, algorithm: str = "xxh3_64") -> dict[str, Any]:
    """`pieces` of a manifest: a digest for every `size` bytes."""
    values = [digest(algorithm, data[at : at + size]) for at in range(0, len(data), size)]
    return {"size": str(size), "algorithm": algorithm, "values": values}


@dataclass
class Run:
    """One run of `download`: its report, and the events that came."""

    report: Report
    events: list[Event]

    @property
    def code(self) -> ExitCode:
        return self.report.exit_code

    @property
    def held(self) -> int:
        """Bytes that were on disk when the run began."""
        (started,) = self.of(segdl.core.events.OrderStarted)
        return started.held

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def kinds(self) -> list[str]:
        return [event.event for event in self.events]

    def error(self, path: str = NAME) -> SegdlError:
        """The error of a target that failed."""
        return next(f.error for f in self.report.failures if f.path == path)


@dataclass
class Case:
    """An order on a fault server, and the folder that it is delivered into."""

    server: FaultServer
    folder: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # manifest entries, by path
    contents: dict[str, tuple[bytes, ...]] = field(default_factory=dict)  # what a path may hold
    extra: dict[str, Any] = field(default_factory=dict)  # beside `files` in the manifest

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def final(self, name: str = NAME) -> Path:
        return self.out / name

    # -- the order -------------------------------------------------------------------------------

    def put(
        self,
        data: bytes,
        path: str = PATH,
        *,
        proof: Proof = Proof.ETAG,
        name: str | None = None,
        sized: bool = True,
        query: str = QUERY,
        etag: str | None = None,
        **entry: Any,
    ) -> str:
        """Store an object and ask for it. Returns the target's name."""
        name = name or path.rsplit("/", 1)[-1]
        weak = 'W/"weak"' if proof is Proof.NOTHING else None
        self.server.put(path, data, etag=weak if etag is None else etag)
        asked: dict[str, Any] = {"path": name, "url": self.server.url(path, query)}
        if sized:
            asked["size"] = str(len(data))
        if proof is Proof.DIGEST:
            asked["hash"] = {"sha256": digest("sha256", data)}
        asked |= entry
        if "urls" in asked:
            del asked["url"]
        self.files[name] = asked
        self.contents[name] = (data,)
        return name

    def may_hold(self, name: str, *contents: bytes) -> None:
        """From now on the final name may hold these, and nothing else."""
        self.contents[name] = contents

    def manifest(self) -> Path:
        """The order as a file, with a secret header for the server's origin."""
        headers = {self.server.url("").rstrip("/"): SECRET_HEADER}
        tree = {"segdl": "1", "headers": headers, **self.extra, "files": list(self.files.values())}
        path = self.folder / "order.json"
        path.write_text(json.dumps(tree), encoding="utf-8")
        return path

    # -- runs ------------------------------------------------------------------------------------

    def run(
        self,
        *,
        control: segdl.Control | None = None,
        listener: Callable[[Event], None] | None = None,
        **options: Any,
    ) -> Run:
        """Download the order, and check what must hold in every run."""
        seen: list[Event] = []

        def listen(event: Event) -> None:
            seen.append(event)
            self.check_finals()
            if listener is not None:
                listener(event)

        control = control or segdl.Control()
        with nothing_left_over(), never_hanging(control):
            report = segdl.download(
                self.manifest(), self.out, options=quick(**options), on_event=listen,
                control=control,
            )  # fmt: skip
            self.server.let_in()  # else its last request may be counted with those of the next run
        run = Run(report, seen)
        self.check_finals()
        self.check_secrets(run)
        for receipt in report.receipts:
            assert self.final(receipt.path).stat().st_size == receipt.size
        return run

    def finish(self, *, again: bool = False, **options: Any) -> Run:
        """A later run against the honest server: it delivers everything, by itself.

        It fetches what is not held and nothing else, unless what was held is worth nothing
        (`again`).
        """
        self.server.mend()
        self.server.forget()
        run = self.run(**options)
        run.report.raise_for_failures()
        self.check_delivered()
        if not again:
            total = sum(self.final(name).stat().st_size for name in self.files)
            assert run.held + self.server.sent() == total
        return run

    # -- what must hold --------------------------------------------------------------------------

    def check_finals(self) -> None:
        """Every final name is absent or exact.

        What it may hold is looked up after the read: a server's thread may have put something else
        there meanwhile.
        """
        for name in self.contents:
            path = self.final(name)
            if path.is_file():
                data = path.read_bytes()
                assert data in self.contents[name], f"{name} holds what it must not"

    def check_delivered(self) -> None:
        """Every target is there, and nothing is left under way."""
        for name, contents in self.contents.items():
            assert self.final(name).read_bytes() in contents
        assert not list((self.out / ".segdl" / "work").iterdir())

    def check_secrets(self, run: Run) -> None:
        """No secret in any file, event, receipt or error."""
        for path in files_under(self.out):
            assert CANARY not in str(path)
            assert CANARY.encode() not in path.read_bytes(), f"a secret in {path}"
        for event in run.events:
            assert CANARY not in repr(event) + json.dumps(event.as_dict())
        assert CANARY not in repr(run.report)
        for failure in run.report.failures:
            assert_no_secret(failure.error)

    def check_no_data(self) -> None:
        """Nothing on disk but segdl's own notes: no byte of any answer was kept."""
        kept = [p for p in files_under(self.out) if p.suffix == ".part" or p.name == "front"]
        assert not [path for path in kept if path.stat().st_size]


def assert_no_secret(error: BaseException) -> None:
    """No secret in an error, however it is shown."""
    shown = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    assert not [text for text in shown if CANARY in text]


def at_the_end(size: int) -> Callable[[Seen], bool]:
    """Whether a request asks for the last segment of an object of so many bytes."""
    return lambda request: request.range is not None and request.range[1] == size


def quick(**options: Any) -> Options:
    """Options with little patience."""
    defaults: dict[str, Any] = {
        "connections": 4,
        "segment_size": SEGMENT,
        "retries": 1,
        "patience": 1.0,
        "timeout": SOON,
    }
    return Options(**defaults | options)


def files_under(folder: Path) -> Iterator[Path]:
    """Every regular file, however deep."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            if path.is_file() and not path.is_symlink():
                yield path


@contextmanager
def nothing_left_over() -> Iterator[None]:
    """No thread of segdl's and no descriptor survives the block, whatever it raises."""
    before = descriptors()
    try:
        yield
    finally:
        assert not [t.name for t in threading.enumerate() if t.name.startswith("segdl")]
        until(lambda: descriptors() <= before)  # servers live in this very process


def until(true: Callable[[], bool], seconds: float = HANGS) -> None:
    """Wait until `true()`, looking now and again."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.001)


@contextmanager
def never_hanging(control: segdl.Control, seconds: float = HANGS) -> Iterator[None]:
    """Fail, rather than hang, when a run does not end."""
    late = threading.Event()

    def cancel() -> None:
        late.set()
        control.cancel()

    timer = threading.Timer(seconds, cancel)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    assert not late.is_set(), f"the run did not end within {seconds} s"


def descriptors() -> set[tuple[str, str]]:
    """This process's open files, by number and what they are."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor that lists them
            found.add((link.name, os.readlink(link)))  # noqa: PTH115  (as it stands)
    return found


def facts(event: Event) -> Mapping[str, Any]:
    """An event as it stands in NDJSON, read back."""
    read: Mapping[str, Any] = json.loads(json.dumps(event.as_dict()))
    return read
