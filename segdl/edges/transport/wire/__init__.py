"""One connection at a time: HTTP/1.1 over a plain socket.

httpx's own stack hands a body out as byte strings, from a pool that many threads share. Here the
bytes go from the socket straight into the caller's buffer, on the one connection that the worker
owns. A request takes these steps, each in its module:

    dial        name -> address -> TCP -> TLS            one deadline after the lookup
    exchange    request out, heads in                    one deadline, 64 KiB, 16 interim answers
      plain       a head as nearly all are               read here: of small files it is the most
      parsed      every other head, and chunks           by h11
    bodies      bytes into the caller's view             one tick a call; patience is the caller's
    transport   the connection kept, or closed           kept only when nothing is left to doubt

Two invariants. Every wait lasts at most one tick (`dial`'s name lookup excepted: the resolver
cannot be woken), so whoever waits can ask whether to go on. And no text of a URL beyond its host
enters an exception, for the query is a password.

There is no proxy here: a request goes to the URL's host, or to where `connect_to` says.
"""

from segdl.edges.transport.wire.bodies import Body, Reply
from segdl.edges.transport.wire.channel import Origin
from segdl.edges.transport.wire.heads import RawHeaders
from segdl.edges.transport.wire.transport import WireTransport

__all__ = [
    "Body",
    "Origin",
    "RawHeaders",
    "Reply",
    "WireTransport",
]
