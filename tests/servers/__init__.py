"""Real servers, each a context manager on free ports of loopback."""

from tests.servers.nginx import Nginx
from tests.servers.s3 import MinIO, Rclone, S3Server, SeaweedFS

__all__ = ["MinIO", "Nginx", "Rclone", "S3Server", "SeaweedFS"]
