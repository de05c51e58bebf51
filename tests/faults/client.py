"""A client that hides nothing: one request, and the bytes of its answer."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection, IncompleteRead
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: `headers` in lower case, `complete` if the body ended where it had to."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def says(self, element: str) -> str | None:
        """The text of an element of an XML error, `Code` for one; None if there is none."""
        _, found, rest = self.text.partition(f"<{element}>")
        return rest.partition("<")[0] if found else None


def ask(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    span: tuple[int, int] | None = None,
    tls: ssl.SSLContext | None = None,
    timeout: float = 30.0,
) -> Reply:
    """Send one request on a new connection, the URL untouched; `span` is a half-open range.

    A body that was cut comes back as far as it came, with `complete=False`. Raises OSError and
    `http.client.HTTPException` when there is no whole head.
    """
    connection = _connection(url, tls, timeout)
    wanted = {"Range": f"bytes={span[0]}-{span[1] - 1}"} if span else {}
    try:
        connection.request(method, _target(url), headers={**(headers or {}), **wanted})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        try:
            return Reply(response.status, found, response.read())
        except IncompleteRead as error:
            return Reply(response.status, found, error.partial, complete=False)
    finally:
        connection.close()


def raw(url: str, *headers: str, timeout: float = 30.0, stop: int | None = None) -> bytes:
    """Every byte that comes back to a GET with these header lines, heads and all.

    Plain HTTP only. It reads until the connection ends, in order or by a reset, or until `stop`
    bytes have come. Raises TimeoutError after `timeout` seconds of silence.
    """
    parts = urlsplit(url)
    lines = [f"GET {_target(url)} HTTP/1.1", f"Host: {parts.netloc}", *headers, "", ""]
    received = bytearray()
    with socket.create_connection((parts.hostname, parts.port or 80), timeout) as sock:
        sock.sendall("\r\n".join(lines).encode("latin-1"))
        with contextlib.suppress(ConnectionResetError):
            while (stop is None or len(received) < stop) and (data := sock.recv(65536)):
                received += data
    return bytes(received)


def _connection(url: str, tls: ssl.SSLContext | None, timeout: float) -> HTTPConnection:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        return HTTPSConnection(host, parts.port, context=tls, timeout=timeout)
    return HTTPConnection(host, parts.port, timeout=timeout)


def _target(url: str) -> str:
    """Path and query exactly as they stand in the URL."""
    _, _, rest = url.partition("://")
    slash = rest.find("/")
    return rest[slash:] if slash >= 0 else "/"
