"""What can go wrong between a request and the last byte of its answer.

Both ways to a server, `wire` and `proxied`, fail in these words; `connection` says them to the
user. No text of a URL beyond its host is in one: the query is a password.
"""


class Fault(Exception):
    """No answer, or a body that is cut short."""


class ConnectFailed(Fault):
    """No connection came to be."""


class ConnectTimedOut(ConnectFailed):
    """Nobody answered in time."""


class LookupFailed(ConnectFailed):
    """The host's name gave no address."""


class TLSRejected(ConnectFailed):
    """The server's certificate was refused; `reason` is OpenSSL's text."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"certificate refused: {reason}")
        self.reason = reason


class ProxyRefused(Fault):
    """A proxy does not let the request through; `status` is its answer's, if it has one."""

    def __init__(self, status: int | None) -> None:
        super().__init__(f"the proxy answers {status}")
        self.status = status


class TimedOut(Fault):
    """The connection stands, and no whole head came in time."""


class Lost(Fault):
    """The connection is lost, or the wait was interrupted."""


class Unanswered(Lost):
    """The connection died before the first byte of its answer."""


class BadRequest(Fault):
    """A request that cannot be written in HTTP."""


class BadAnswer(Fault):
    """An answer that breaks a rule of HTTP; its text says which one."""
