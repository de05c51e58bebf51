"""The network: a connection a worker."""

from segdl.edges.transport.connection import Answer, Connection
from segdl.edges.transport.reach import Reach

__all__ = ["Answer", "Connection", "Reach"]
