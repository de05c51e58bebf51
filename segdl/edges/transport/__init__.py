"""The network, behind httpx: a connection a worker."""

from segdl.edges.transport.connection import Answer, Connection, Reach

__all__ = ["Answer", "Connection", "Reach"]
