"""httpx's own transport, where a proxy applies, through the same seam as `wire`."""

from __future__ import annotations

import base64
import functools
import importlib.util
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import httpx

from segdl.core.errors import UsageError
from segdl.core.urls import ShareURL
from segdl.edges.transport.faults import (
    BadAnswer,
    BadRequest,
    ConnectFailed,
    Fault,
    Lost,
    ProxyRefused,
    TimedOut,
    TLSRejected,
)
from segdl.edges.transport.wire import RawHeaders, Reply

_CONNECT = 5.0  # seconds
_TIMEOUTS = dict.fromkeys(("connect", "read", "write", "pool"), _CONNECT)


class Proxied:
    """The way to servers through one proxy. One thread; `abort` from any."""

    def __init__(
        self,
        proxy: str,
        servers: ssl.SSLContext,
        itself: Callable[[], ssl.SSLContext],
        learn: Callable[[Iterable[str]], None],
    ) -> None:
        """`servers` is the trust in those behind it, `itself` in a proxy that speaks TLS; `learn`
        hears of the proxy's password. Raises UsageError for what cannot be used."""
        url = check_proxy(proxy)
        self.address = url.netloc.decode("ascii").rpartition("@")[2]
        # Without a context of ours httpcore trusts certifi here, and refuses one for plain http.
        inner = itself() if url.scheme == "https" else None
        reached = httpx.Proxy(url, ssl_context=inner)
        learn(_secrets(reached))
        logging.getLogger("httpcore").setLevel(logging.INFO)  # below it tells passwords, queries
        self._response: httpx.Response | None = None
        self._transport = httpx.HTTPTransport(
            verify=servers,
            proxy=reached,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
        )

    def get(self, url: ShareURL, headers: RawHeaders) -> Reply:
        """The answer to a GET, its body unread. Raises Fault, OSError."""
        try:
            where = _bare(url.scheme, url.host, url.port)
            request = httpx.Request("GET", where, headers=headers)
            request.url = _SignedURL(where, url.target)
            response = self._response = self._watched(request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _fault(error) from None
        return Reply(response.status_code, response.headers.raw, _IteratedBody(response))

    def _watched(self, request: httpx.Request) -> httpx.Response:
        watch = _Watch()
        request.extensions = {"timeout": _TIMEOUTS, "trace": watch}
        try:
            return self._transport.handle_request(request)
        except BaseException as error:
            watch.close()
            if isinstance(error, Exception) and type(error).__module__.startswith("socksio"):
                raise ProxyRefused(None) from None  # it does not speak SOCKS
            raise

    def abort(self) -> None:
        """Wake a blocked read, from any thread."""
        response = self._response
        stream = response.extensions.get("network_stream") if response else None
        raw = stream.get_extra_info("socket") if stream else None
        if raw is not None:
            _shut(raw)

    def close(self) -> None:
        self._transport.close()


def check_proxy(proxy: str) -> httpx.URL:
    """A proxy's URL. Raises UsageError, whose message never has it: it may hold a password."""
    try:
        url = httpx.URL(proxy)
    except httpx.InvalidURL:
        raise UsageError("the proxy's URL cannot be read") from None
    if url.port is not None and not 0 < url.port < 65536:
        raise UsageError("the proxy's URL has a port that none can have: expected 1 to 65535")
    if url.scheme not in ("http", "https", "socks5", "socks5h"):
        raise UsageError("the proxy's URL begins with none of http, https, socks5 and socks5h")
    if url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise UsageError(
            "a socks5 proxy wants a package that is not here: pip install 'segdl[socks]'"
        )
    return url


def _secrets(proxy: httpx.Proxy) -> tuple[str, ...]:
    """A proxy's password, as it may be echoed: itself, and as Basic authentication sends it."""
    if proxy.raw_auth is None:
        return ()
    password = proxy.raw_auth[1].decode("utf-8", "replace")
    return password, base64.b64encode(b":".join(proxy.raw_auth)).decode("ascii")


def _fault(error: Exception) -> Fault:
    """The same in the words of `wire`."""
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout():
            rejected = _rejected(error)
            return ConnectFailed("no way through") if rejected is None else TLSRejected(rejected)
        case httpx.ProxyError():
            status = str(error)[:3]
            return ProxyRefused(int(status) if status.isdecimal() else None)
        case httpx.TimeoutException():
            return TimedOut("no answer in time")
        case httpx.RemoteProtocolError():
            return BadAnswer(str(error))
        case httpx.ProtocolError() | httpx.InvalidURL():
            return BadRequest("bad request")
    return Lost("connection lost")


def _rejected(error: BaseException | None) -> str | None:
    """Why a certificate was refused, if that is what an error of httpx's is about."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


@functools.lru_cache(maxsize=64)
def _bare(scheme: str, host: str, port: int) -> httpx.URL:
    """Where to connect to: httpx sees neither path nor query, which it would rewrite."""
    return httpx.URL(scheme=scheme, host=host, port=port, path="/")


class _IteratedBody:
    """The body seam over httpx's own transport, where a proxy applies."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._chunks: Iterator[bytes] = response.iter_raw()
        self._left = memoryview(b"")
        headers = response.headers
        self.framed = "content-length" in headers or "transfer-encoding" in headers

    def readinto(self, view: memoryview) -> int:
        if not self._left:
            try:
                self._left = memoryview(next(self._chunks, b""))
            except httpx.HTTPError as error:
                raise _fault(error) from None
        count = min(len(view), len(self._left))
        view[:count], self._left = self._left[:count], self._left[count:]
        return count

    def close(self) -> None:
        self._response.close()


class _Watch:
    """What httpcore lets go of while it opens a way through a SOCKS proxy, by its `trace`.

    It gives the handshake no time limit, so that a proxy which never answers would hold a worker
    for ever, and it forgets the socket of one that refuses, which the error then keeps open.
    """

    def __init__(self) -> None:
        self._streams: list[Any] = []
        self._timer: threading.Timer | None = None

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        match event:
            case "socks.connect_tcp.complete":
                self._streams.append(facts["return_value"])
            case "socks.setup_socks5_connection.started":
                self._timer = threading.Timer(_CONNECT, self.shut)
                self._timer.daemon = True
                self._timer.start()
            case "socks.setup_socks5_connection.complete" | "socks.setup_socks5_connection.failed":
                self.over()

    def shut(self) -> None:
        for stream in self._streams:
            _shut(stream.get_extra_info("socket"))

    def over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()

    def close(self) -> None:
        self.over()
        for stream in self._streams:
            stream.close()


class _SignedURL(httpx.URL):
    """A URL whose path and query go out as they were signed, where a proxy applies.

    The request extension `target`, which does that on the wire, would take the place of the whole
    URL that a proxy is asked for, and of the host in its CONNECT, in clear.
    """

    def __init__(self, where: httpx.URL, target: bytes) -> None:
        super().__init__(where)
        self._target = target

    @property
    def raw_path(self) -> bytes:
        return self._target


def _shut(raw: object) -> None:
    if isinstance(raw, socket.socket):
        try:
            socket.socket.shutdown(raw, socket.SHUT_RDWR)
        except OSError:
            return
