"""The S3 servers of the tests: those of the demonstration, and MinIO where it is on PATH."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from segdl.publish.loopback import LOOPBACK, free_ports
from segdl.publish.servers import Rclone, S3Server, SeaweedFS

__all__ = ["MinIO", "Rclone", "S3Server", "SeaweedFS"]


class MinIO(S3Server):
    """`minio server`, with one drive, and nothing that asks the outside world."""

    title = "MinIO"
    program = "minio"
    remedy = "scripts/get-minio builds it where Go is present"

    def command(self, program: Path, folder: Path) -> list[str | Path]:
        (self.port,) = free_ports(1)
        return [program, "server", folder / "data", f"--address={LOOPBACK}:{self.port}"]

    def environment(self) -> Mapping[str, str]:
        return {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_UPDATE": "off",
            "MINIO_BROWSER": "off",
        }
