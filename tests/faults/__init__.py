"""A server and a line that misbehave on demand.

`from tests.faults import FaultServer, faults`; `server.script(path, faults.cut(100), on=2)`.
"""

from tests.faults import faults
from tests.faults.answers import Answer, Seen, Stored
from tests.faults.client import Reply, ask, raw
from tests.faults.proxy import TCPProxy
from tests.faults.server import EVERY_PATH, FaultServer
from tests.faults.wire import Fault, Wire

__all__ = [
    "EVERY_PATH",
    "Answer",
    "Fault",
    "FaultServer",
    "Reply",
    "Seen",
    "Stored",
    "TCPProxy",
    "Wire",
    "ask",
    "faults",
    "raw",
]
