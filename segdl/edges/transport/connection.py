"""The network: one answer to one question, believed only after `core.verdict` has accepted it.

One `Connection` a worker. It speaks through an httpx transport: `wire`, or httpx's own where a
proxy applies. An httpx client in between would add redirects, cookies, netrc and a log of whole
URLs, all of which would have to be switched off, and half a millisecond a request. It follows
redirects by promise 13, keeps each origin's headers to that origin, and translates every foreign
exception once. No URL's text enters a message.
"""

from __future__ import annotations

import base64
import errno
import functools
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from segdl.core.errors import (
    BrokenError,
    BusyError,
    DiskError,
    MisansweredError,
    SegdlError,
    UnreachableError,
    disk_error,
)
from segdl.core.options import Endpoint
from segdl.core.ranges import range_header
from segdl.core.timeline import Heard
from segdl.core.urls import ShareURL, URLProblem, redirect
from segdl.core.verdict import Accepted, Ask, Head, judge
from segdl.edges.transport.wire import Body, LookupFailed, TLSRejected, WireTransport
from segdl.version import VERSION

_REDIRECTS = 5
# With what the worker has not recorded yet, a kill -9 costs less than 1 MiB a connection.
_WINDOW = 256 * 1024  # bytes: received and not read
_EXCERPT = 16 * 1024
_PROXY_TIMEOUTS = dict.fromkeys(("connect", "read", "write", "pool"), 5.0)  # seconds
_REDIRECT_STATUS = {301, 302, 303, 307, 308}
_REQUEST_IDS = (
    "x-amz-request-id", "x-oss-request-id", "x-cos-request-id", "x-obs-request-id",
    "x-ms-request-id", "x-guploader-uploadid", "x-request-id", "cf-ray",
)  # fmt: skip
_SHORTEST = 8  # characters of a secret: less is in too many texts


@dataclass(frozen=True, slots=True)
class Reach:
    """How servers are reached: plain values, shared by all connections of a run."""

    timeout: float  # seconds: the stall window
    ca_file: str | None = None
    proxy: str | None = field(default=None, repr=False)
    connect_to: Mapping[Endpoint, Endpoint] = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # to the first origin
    by_origin: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)


@functools.cache
def trust(ca_file: str | None) -> ssl.SSLContext:
    """The TLS context of a run: the system's trust store, or `ca_file`. Raises DiskError."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or "it holds no certificate"
        raise DiskError(f"--ca-file {ca_file} cannot be used: {reason}") from None
    return context


class Answer:
    """An accepted answer: its body, read through one seam."""

    def __init__(self, accepted: Accepted, response: httpx.Response, body: Body, prefix: bytes):
        self.accepted = accepted
        self.at = accepted.start  # the object's offset of the next byte
        self._response = response
        self._body = body
        self._prefix = prefix

    def readinto(self, view: memoryview) -> int:
        """Read the next bytes into `view`: their number, or 0 at the proper end of the body.

        Raises TimeoutError when nothing came for a moment (call again), BrokenError when the body
        ends early or the connection fails. A body that goes on after the accepted bytes is not
        read any further: nothing says which bytes those would be.
        """
        stop = self.accepted.stop
        count = self._read(view if stop is None else view[: stop - self.at])
        self.at += count
        if not count and view and stop is not None and self.at < stop:
            raise BrokenError("the body ended early")
        return count

    def _read(self, view: memoryview) -> int:
        if not view:
            return 0
        if self._prefix:
            count = min(len(view), len(self._prefix))
            view[:count], self._prefix = self._prefix[:count], self._prefix[count:]
            return count
        try:
            return self._body.readinto(view)
        except (httpx.HTTPError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise BrokenError("the connection broke in the middle of the body") from None

    @property
    def framed(self) -> bool:
        """Whether the end of the body proves that it is whole."""
        return bool(getattr(self._body, "framed", True))

    def close(self) -> None:
        """Give the connection back, or close it if bytes are left."""
        self._response.close()


class Connection:
    """One worker's way to servers: at most one open connection at a time."""

    def __init__(self, reach: Reach, interrupted: Callable[[], bool]) -> None:
        self._reach = reach
        self._interrupted = interrupted
        self._wire = WireTransport(
            tls=lambda: trust(reach.ca_file),
            timeout=reach.timeout,
            interrupted=interrupted,
            connect_to=reach.connect_to,
            window=_WINDOW,
        )
        self._proxied: dict[str, httpx.BaseTransport] = {}
        self._response: httpx.Response | None = None
        values = [value for _, value in reach.headers]
        values += [value for sent in reach.by_origin.values() for value in sent.values()]
        self._secrets = _secrets(values)  # beside the URLs' queries
        self.heard: Heard | None = None  # of the answer to the last `open`, accepted or not

    def open(self, url: ShareURL, ask: Ask) -> Answer:
        """Ask for bytes of an object. Raises a SegdlError that `core.schedule` can settle."""
        way = [url]  # of redirects: each may be a share URL of its own
        self.heard = None
        try:
            return self._open(way, ask)
        except SegdlError as error:
            error.message = self._blotted(way, error.message)
            error.args = (error.message,)
            error.code = self._blotted(way, error.code) if error.code else None
            error.request_id = self._blotted(way, error.request_id) if error.request_id else None
            raise

    def _open(self, way: list[ShareURL], ask: Ask) -> Answer:
        response = self._follow(way, ask)
        self._response = response
        try:
            body: Body = response.extensions.get("body") or _IteratedBody(response)
            excerpt = self._excerpt(response, body) if _suspicious(response) else b""
            # Masked before it is read: a message that is cut could end in half a secret.
            shown = self._blotted(way, excerpt.decode("latin-1")).encode("latin-1")
            fields = _fields(response, way)
            self.heard = self._head_of(response.status_code, way[-1], fields)
            head = Head(response.status_code, tuple(self._told(fields)), shown)
            verdict = judge(ask, head, time.time())
        except BaseException:
            response.close()
            raise
        if isinstance(verdict, Accepted):
            prefix = excerpt if response.status_code == 200 else b""
            return Answer(verdict, response, body, prefix)
        response.close()
        raise verdict

    def _head_of(self, status: int, url: ShareURL, fields: Sequence[_Field]) -> Heard:
        said = {name: shown for name, _, shown in fields}
        request_id = next((said[name] for name in _REQUEST_IDS if name in said), None)
        etag = said.get("etag")
        return Heard(
            host=url.netloc,
            status=status,
            request_id=self._without_secrets(request_id) if request_id else None,
            etag=self._without_secrets(etag) if etag else None,
        )

    def _told(self, fields: Sequence[_Field]) -> Iterator[tuple[str, str]]:
        """The headers for the verdict: the ETag as it came, for it has to go back so; without our
        own headers' values those that a verdict quotes, which it may cut."""
        for name, value, shown in fields:
            if name in ("content-range", "content-encoding"):
                shown = self._without_secrets(shown)
            yield name, value if name == "etag" else shown

    def _blotted(self, way: list[ShareURL], text: str) -> str:
        """`text` without what it echoes of a share URL, a header or the proxy's password."""
        return self._without_secrets(_masked(way, text))

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _follow(self, way: list[ShareURL], ask: Ask) -> httpx.Response:
        for _ in range(_REDIRECTS + 1):
            response = self._send(way[0], way[-1], ask)
            if response.status_code not in _REDIRECT_STATUS:
                return response
            response.close()
            try:
                way.append(redirect(way[-1], response.headers.get("location", "")))
            except URLProblem as problem:
                raise UnreachableError(
                    f"a redirect was refused: it {problem}", status=response.status_code
                ) from None
        raise UnreachableError(f"more than {_REDIRECTS} redirects, one after the other")

    def _send(self, first: ShareURL, url: ShareURL, ask: Ask) -> httpx.Response:
        where = _bare(url.scheme, url.host, url.port)
        headers = self._headers(first, url, ask)
        extensions = {"target": url.target, "timeout": _PROXY_TIMEOUTS}
        request = httpx.Request("GET", where, headers=headers, extensions=extensions)
        try:
            return self._transport_for(url).handle_request(request)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _translate(error, url) from None

    def _excerpt(self, response: httpx.Response, body: Body) -> bytes:
        """The beginning of a body: of a refusal what comes is enough, of data nothing is lost."""
        wanted = 1024 if response.status_code == 200 else _EXCERPT
        view = memoryview(bytearray(wanted))
        count, deadline = 0, time.monotonic() + 5.0
        while count < wanted and time.monotonic() < deadline and not self._interrupted():
            try:
                got = body.readinto(view[count:])
            except TimeoutError:
                continue
            except (httpx.HTTPError, OSError):
                break
            if not got:
                break
            count += got
        return bytes(view[:count])

    def _headers(self, first: ShareURL, url: ShareURL, ask: Ask) -> list[tuple[bytes, bytes]]:
        headers = {
            "Host": url.netloc,
            "User-Agent": f"segdl/{VERSION}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Range": range_header(ask.start, ask.stop),
        }
        if ask.pin and ask.pin.etag:
            headers["If-Match"] = ask.pin.etag
        if not url.presigned:
            headers.update(self._reach.by_origin.get(url.origin, {}))
        if url.origin == first.origin:
            headers.update(self._reach.headers)
        return [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]

    def _transport_for(self, url: ShareURL) -> httpx.BaseTransport:
        proxy = self._reach.proxy or _system_proxy(url)
        if proxy is None:
            return self._wire
        if proxy not in self._proxied:
            self._proxied[proxy] = self._through(proxy)
        return self._proxied[proxy]

    def _through(self, proxy: str) -> httpx.BaseTransport:
        try:
            reached = httpx.Proxy(proxy)
            self._secrets += _secrets(_credentials(reached))
            return httpx.HTTPTransport(
                verify=trust(self._reach.ca_file),
                proxy=reached,
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            )
        except (ValueError, httpx.InvalidURL, ImportError):
            raise UnreachableError(
                "the proxy's URL cannot be used: http, https, or socks5 with httpx's extra"
            ) from None

    def abort(self) -> None:
        """Wake a blocked read, from any thread."""
        self._wire.abort()
        response = self._response
        stream = response.extensions.get("network_stream") if response else None
        raw = stream.get_extra_info("socket") if stream else None
        if raw is not None:
            _shut(raw)

    def hang_up(self) -> None:
        """Close the connection that is kept; the next request opens another."""
        self._wire.close()

    def close(self) -> None:
        for transport in (self._wire, *self._proxied.values()):
            transport.close()


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
            self._left = memoryview(next(self._chunks, b""))
        count = min(len(view), len(self._left))
        view[:count], self._left = self._left[:count], self._left[count:]
        return count

    def close(self) -> None:
        self._response.close()


@functools.lru_cache(maxsize=64)
def _bare(scheme: str, host: str, port: int) -> httpx.URL:
    """Where to connect to: httpx sees neither path nor query, which it would rewrite."""
    return httpx.URL(scheme=scheme, host=host, port=port, path="/")


def _masked(way: list[ShareURL], text: str) -> str:
    for url in way:
        text = url.mask(text)
    return text


_Field = tuple[str, str, str]  # a header's name, its value, and that without echoed secrets


def _fields(response: httpx.Response, way: list[ShareURL]) -> list[_Field]:
    """The answer's headers, also with what they echo of a share URL blotted out."""
    raw = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in response.headers.raw]
    shown = _masked(way, "\n".join(v for _, v in raw)).split("\n")  # at once: it is not cheap
    return [(k, v, s) for (k, v), s in zip(raw, shown, strict=bool(raw))]


def _secrets(values: Iterable[str]) -> tuple[str, ...]:
    """What is blotted out of texts to show: whole values before the words in them."""
    found = {piece for value in values for piece in (value, *value.split())}
    return tuple(sorted((s for s in found if len(s) >= _SHORTEST), key=len, reverse=True))


def _credentials(proxy: httpx.Proxy) -> Iterator[str]:
    """A proxy's password, as it may be echoed: itself, and as Basic authentication sends it."""
    if proxy.raw_auth is not None:
        yield proxy.raw_auth[1].decode("utf-8", "replace")
        yield base64.b64encode(b":".join(proxy.raw_auth)).decode("ascii")


def _suspicious(response: httpx.Response) -> bool:
    """Whether the body's beginning is wanted: a refusal, or a page in place of the object."""
    if response.status_code not in (200, 206):
        return True
    return response.status_code == 200 and "content-range" not in response.headers


def _translate(error: Exception, url: ShareURL) -> SegdlError:
    host = url.netloc
    match error:
        case TLSRejected():
            return UnreachableError(f"the TLS certificate of {host} is not valid: {error.reason}")
        case LookupFailed():
            return BusyError(f"the name {url.host} cannot be found")
        case httpx.ConnectTimeout():
            return BusyError(f"{host} does not answer")
        case httpx.ProxyError():
            return UnreachableError(f"the proxy refuses the way to {host}")
        case httpx.ConnectError():
            return BusyError(f"{host} cannot be reached")
        case httpx.TimeoutException():
            return BrokenError(f"{host} accepted the connection and did not answer in time")
        case httpx.ProtocolError() | httpx.InvalidURL():
            return MisansweredError(f"{host} does not speak HTTP as it should: {_reason(error)}")
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return disk_error(error)
    return BrokenError(f"the connection to {host} broke")


def _reason(error: Exception) -> str:
    return str(error)[:120] if isinstance(error, httpx.RemoteProtocolError) else "bad request"


def _system_proxy(url: ShareURL) -> str | None:
    proxies = _proxies()
    if not proxies or urllib.request.proxy_bypass(url.host):
        return None
    return proxies.get(url.scheme) or proxies.get("all")


@functools.cache
def _proxies() -> dict[str, str]:
    return urllib.request.getproxies()


def _shut(raw: object) -> None:
    import socket

    if isinstance(raw, socket.socket):
        try:
            socket.socket.shutdown(raw, socket.SHUT_RDWR)
        except OSError:
            return
