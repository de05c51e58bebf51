"""The network: one answer to one question, believed only after `core.verdict` has accepted it.

One `Connection` a worker. It speaks through an httpx transport: `wire`, or httpx's own where a
proxy applies. An httpx client in between would add redirects, cookies, netrc and a log of whole
URLs, all of which would have to be switched off, and half a millisecond a request. It follows
redirects by promise 13, keeps each origin's headers to that origin, and translates every foreign
exception once. No URL's text enters a message.
"""

from __future__ import annotations

import errno
import functools
import logging
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx

from segdl.core.complaint import read_complaint
from segdl.core.errors import (
    BrokenError,
    BusyError,
    MisansweredError,
    RefusedError,
    SegdlError,
    UnreachableError,
    UsageError,
    disk_error,
)
from segdl.core.head import REQUEST_IDS, Head, http_date
from segdl.core.pace import StallWatch
from segdl.core.ranges import range_header
from segdl.core.timeline import Heard
from segdl.core.urls import ShareURL, URLProblem, redirect
from segdl.core.verdict import Accepted, Ask, judge
from segdl.edges.transport.blot import Blotter, masked
from segdl.edges.transport.reach import Reach, check_proxy, system_proxy
from segdl.edges.transport.wire import Body, LookupFailed, TLSRejected, WireTransport
from segdl.version import VERSION

_REDIRECTS = 5
# With what the worker has not recorded yet, a kill -9 costs less than 1 MiB a connection.
_WINDOW = 256 * 1024  # bytes: received and not read
_EXCERPT = 16 * 1024
_CONNECT = 5.0  # seconds, through a proxy
_TIMEOUTS = dict.fromkeys(("connect", "read", "write", "pool"), _CONNECT)
_REDIRECT_STATUS = {301, 302, 303, 307, 308}
_SHOWN = {"etag", "content-range", "content-encoding", *REQUEST_IDS}  # in messages and files


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
        return _placed(self._body, view)

    @property
    def date(self) -> float | None:
        """When the server gave it, in unix seconds by its own clock, if it said so."""
        return http_date(self._response.headers.get("date"))

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
            tls=lambda: reach.tls(own=self._at_home),
            timeout=reach.timeout,
            interrupted=interrupted,
            connect_to=reach.connect_to,
            window=_WINDOW,
        )
        self._system = urllib.request.getproxies()
        self._proxied: dict[tuple[str, bool], httpx.BaseTransport] = {}
        self._at_home = True  # the request goes to the origin that the manifest names
        self._response: httpx.Response | None = None
        self._asked: tuple[httpx.URL, list[tuple[bytes, bytes]], httpx.Request] | None = None
        values = [value for _, value in reach.headers]
        values += [value for sent in reach.by_origin.values() for value in sent.values()]
        self._blotter = Blotter(values)
        self.heard: Heard | None = None  # of the answer to the last `open`, accepted or not

    def open(self, url: ShareURL, ask: Ask) -> Answer:
        """Ask for bytes of an object. Raises a SegdlError that `core.schedule` can settle."""
        way = [url]  # of redirects: each may be a share URL of its own
        self.heard = None
        with self._blotter.cleaning(way):
            return self._open(way, ask)

    def document(self, url: ShareURL, largest: int, seconds: float) -> bytes:
        """All that is there, by one GET without a range, within so many seconds.

        Raises a SegdlError, also if it is more than `largest` bytes.
        """
        way, deadline = [url], time.monotonic() + seconds
        with self._blotter.cleaning(way):
            response = self._response = self._follow(way, None)
            try:
                body: Body = response.extensions.get("body") or _IteratedBody(response)
                if response.status_code != 200:
                    excerpt = self._excerpt(response, body)
                    raise _no_document(self._head(response, way, excerpt))
                return self._whole(body, largest, deadline)
            finally:
                response.close()

    def _whole(self, body: Body, largest: int, deadline: float) -> bytes:
        data, piece = bytearray(), memoryview(bytearray(64 * 1024))
        watch = StallWatch(self._reach.timeout)
        while True:
            with suppress(TimeoutError):
                count = _placed(body, piece)
                if not count:
                    return bytes(data)
                data += piece[:count]
            now = time.monotonic()
            if self._interrupted() or now >= deadline or watch.stalled(now, len(data)):
                raise BrokenError("the answer takes too long")
            if len(data) > largest:
                raise MisansweredError(f"the answer is longer than {largest >> 20} MiB")

    def _open(self, way: list[ShareURL], ask: Ask) -> Answer:
        response = self._follow(way, ask)
        self._response = response
        try:
            body: Body = response.extensions.get("body") or _IteratedBody(response)
            excerpt = self._excerpt(response, body) if _suspicious(response) else b""
            verdict = judge(ask, self._head(response, way, excerpt), time.time())
        except BaseException:
            response.close()
            raise
        if isinstance(verdict, Accepted):
            prefix = excerpt if response.status_code == 200 else b""
            return Answer(verdict, response, body, prefix)
        response.close()
        raise verdict

    def _head(self, response: httpx.Response, way: Sequence[ShareURL], excerpt: bytes) -> Head:
        """What an answer says of itself, without what it echoes of a secret.

        An ETag goes back as it came, and into files: one that echoes a secret is none. The excerpt
        is cleaned before it is read: a message that is cut could end in half a secret.
        """
        status = response.status_code
        raw = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in response.headers.raw]
        clean = self._clean(way, raw)
        said = Head(status, tuple(clean))
        self.heard = Heard(way[-1].netloc, status, said.request_id, said.get("etag"))
        if clean != raw:
            told = (c for v, c in zip(raw, clean, strict=True) if v == c or c[0] != "etag")
            said = Head(status, tuple(told))
        if not excerpt:
            return said
        words = self._blotter.clean(way, excerpt.decode("latin-1")).encode("latin-1")
        return replace(said, excerpt=words)

    def _clean(self, way: Sequence[ShareURL], raw: list[tuple[str, str]]) -> list[tuple[str, str]]:
        values = "\n".join(v for _, v in raw)
        shown = masked(way, values)  # at once: it is not cheap
        if shown == values and not self._blotter:
            return raw
        return [
            (k, self._blotter.without_values(s) if k in _SHOWN else s)
            for (k, _), s in zip(raw, shown.split("\n"), strict=bool(raw))
        ]

    def _follow(self, way: list[ShareURL], ask: Ask | None) -> httpx.Response:
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

    def _send(self, first: ShareURL, url: ShareURL, ask: Ask | None) -> httpx.Response:
        where = _bare(url.scheme, url.host, url.port)
        headers = self._headers(first, url, ask)
        self._at_home = url.origin == first.origin
        proxy = self._reach.proxy or system_proxy(url, self._system)
        try:
            if proxy is None:
                request = self._request(where, headers)
                request.extensions = {"target": url.target}
                return self._wire.handle_request(request)
            request = httpx.Request("GET", where, headers=headers)
            request.url = _SignedURL(where, url.target)
            return _watched(self._through(proxy), request)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            through = proxy and httpx.URL(proxy).netloc.decode("ascii").rpartition("@")[2]
            raise _translate(error, url, through) from None

    def _request(self, where: httpx.URL, headers: list[tuple[bytes, bytes]]) -> httpx.Request:
        """A request, the last one again if it is the same: of small files most are, but for the
        target, and httpx takes as long over one as over a kilobyte."""
        if self._asked is None or self._asked[:2] != (where, headers):
            self._asked = where, headers, httpx.Request("GET", where, headers=headers)
        return self._asked[2]

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

    def _headers(
        self, first: ShareURL, url: ShareURL, ask: Ask | None
    ) -> list[tuple[bytes, bytes]]:
        headers = {
            "Host": url.netloc,
            "User-Agent": f"segdl/{VERSION}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        if ask is not None:
            headers["Range"] = range_header(ask.start, ask.stop)
        if ask is not None and ask.pin and ask.pin.etag:
            headers["If-Match"] = ask.pin.etag
        if not url.presigned:
            headers = _with(headers, self._reach.by_origin.get(url.origin, {}))
        if self._reach.headers and url.origin == first.origin:
            headers = _with(headers, dict(self._reach.headers))
        return [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]

    def _through(self, proxy: str) -> httpx.BaseTransport:
        way = (proxy, self._at_home)
        if way not in self._proxied:
            try:
                self._proxied[way] = self._proxied_by(proxy)
            except UsageError as error:
                raise UnreachableError(error.message) from None
        return self._proxied[way]

    def _proxied_by(self, proxy: str) -> httpx.BaseTransport:
        url = check_proxy(proxy)
        # Without a context of ours httpcore trusts certifi here, and refuses one for plain http.
        inner = self._reach.tls(own=False) if url.scheme == "https" else None
        reached = httpx.Proxy(url, ssl_context=inner)
        self._blotter.learn(reached)
        logging.getLogger("httpcore").setLevel(logging.INFO)  # below it tells passwords, queries
        return httpx.HTTPTransport(
            verify=self._reach.tls(own=self._at_home),
            proxy=reached,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
        )

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


def _placed(body: Body, view: memoryview) -> int:
    """Bytes placed in `view`, 0 at the end. Raises TimeoutError after a tick, BrokenError."""
    try:
        return body.readinto(view)
    except (httpx.HTTPError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise BrokenError("the connection broke in the middle of the body") from None


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


def _watched(transport: httpx.BaseTransport, request: httpx.Request) -> httpx.Response:
    """The answer through a proxy."""
    watch = _Watch()
    request.extensions = {"timeout": _TIMEOUTS, "trace": watch}
    try:
        return transport.handle_request(request)
    except BaseException as error:
        watch.close()
        if isinstance(error, Exception) and type(error).__module__.startswith("socksio"):
            raise httpx.ProxyError("it does not speak SOCKS") from None
        raise


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


def _with(headers: dict[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Headers with more that go before: a name has one value, in whatever case it is written."""
    names = {name.lower() for name in more}
    return {k: v for k, v in headers.items() if k.lower() not in names} | dict(more)


@functools.lru_cache(maxsize=64)
def _bare(scheme: str, host: str, port: int) -> httpx.URL:
    """Where to connect to: httpx sees neither path nor query, which it would rewrite."""
    return httpx.URL(scheme=scheme, host=host, port=port, path="/")


def _no_document(head: Head) -> SegdlError:
    """The error for an answer that is not the document."""
    complaint = read_complaint(head.excerpt)
    words = str(complaint).removeprefix(str(head.status)).strip()
    return RefusedError(
        f"the server answers {f'{head.status} {words}'.strip()}",
        status=head.status,
        code=complaint.code,
        request_id=complaint.request_id or head.request_id,
    )


def _suspicious(response: httpx.Response) -> bool:
    """Whether the body's beginning is wanted: a refusal, or a page in place of the object."""
    if response.status_code not in (200, 206):
        return True
    return response.status_code == 200 and "content-range" not in response.headers


def _distrusted(host: str, reason: str) -> UnreachableError:
    """A certificate that does not hold, and who can mend that."""
    private = "issuer" in reason or "self" in reason
    what = "give --ca-file for a private authority" if private else "tell those who run it"
    return UnreachableError(
        f"the TLS certificate of {host} is not valid: {reason.rstrip('.')}: {what}"
    )


def _translate(error: Exception, url: ShareURL, proxy: str | None = None) -> SegdlError:
    """What a request failed with. `proxy` is the address of the one on the way, if one is."""
    host = url.netloc
    if proxy is not None and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        if (reason := _rejected(error)) is not None:
            return _distrusted(host, reason)
        return BusyError(f"{host} cannot be reached through the proxy {proxy}")
    match error:
        case TLSRejected():
            return _distrusted(host, error.reason)
        case LookupFailed():
            return BusyError(f"the name {url.host} cannot be found")
        case httpx.ConnectTimeout():
            return BusyError(f"{host} does not answer")
        case httpx.ProxyError():
            status = str(error)[:3]
            if status == "407":
                return UnreachableError("the proxy wants other credentials: 407")
            told = f": {status}" if status.isdecimal() else ""
            return UnreachableError(f"the proxy refuses the way to {host}{told}")
        case httpx.ConnectError():
            return BusyError(f"{host} cannot be reached")
        case httpx.TimeoutException():
            return BrokenError(f"{host} accepted the connection and did not answer in time")
        case httpx.ProtocolError() | httpx.InvalidURL():
            return MisansweredError(f"{host} does not speak HTTP as it should: {_reason(error)}")
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return disk_error(error)
    return BrokenError(f"the connection to {host} broke")


def _rejected(error: BaseException | None) -> str | None:
    """Why a certificate was refused, if that is what an error of httpx's is about."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


def _reason(error: Exception) -> str:
    return str(error)[:120] if isinstance(error, httpx.RemoteProtocolError) else "bad request"


def _shut(raw: object) -> None:
    import socket

    if isinstance(raw, socket.socket):
        try:
            socket.socket.shutdown(raw, socket.SHUT_RDWR)
        except OSError:
            return
