"""The network: one answer to one question, believed only after `core.verdict` has accepted it.

One `Connection` a worker. It speaks through a transport: `wire`, or `proxied` where a proxy
applies. An httpx client in between would add redirects, cookies, netrc and a log of whole URLs, all
of which would have to be switched off, and half a millisecond a request. It follows redirects by
promise 13, keeps each origin's headers to that origin, and translates every foreign exception once.
No URL's text enters a message.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

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
from segdl.edges.transport.faults import (
    BadAnswer,
    BadRequest,
    ConnectFailed,
    ConnectTimedOut,
    Fault,
    LookupFailed,
    ProxyRefused,
    TimedOut,
    TLSRejected,
)
from segdl.edges.transport.reach import Reach, system_proxies, system_proxy
from segdl.edges.transport.wire import Body, Origin, Reply, WireTransport
from segdl.version import VERSION

if TYPE_CHECKING:
    from segdl.edges.transport.proxied import Proxied

_REDIRECTS = 5
# With what the worker has not recorded yet, a kill -9 costs less than 1 MiB a connection.
_WINDOW = 256 * 1024  # bytes: received and not read
_EXCERPT = 16 * 1024
_REDIRECT_STATUS = {301, 302, 303, 307, 308}
_SHOWN = {"etag", "content-range", "content-encoding", *REQUEST_IDS}  # in messages and files


class Answer:
    """An accepted answer: its body, read through one seam."""

    def __init__(self, accepted: Accepted, date: str | None, body: Body, prefix: bytes):
        self.accepted = accepted
        self.at = accepted.start  # the object's offset of the next byte
        self._date = date
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
        return http_date(self._date)

    @property
    def framed(self) -> bool:
        """Whether the end of the body proves that it is whole."""
        return self._body.framed

    def close(self) -> None:
        """Give the connection back, or close it if bytes are left."""
        self._body.close()


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
        self._system = system_proxies()
        self._proxied: dict[tuple[str, bool], Proxied] = {}
        self._at_home = True  # the request goes to the origin that the manifest names
        values = [value for _, value in reach.headers]
        values += [value for sent in reach.by_origin.values() for value in sent.values()]
        self._blotter = Blotter(values)
        self.heard: Heard | None = None  # of the answer to the last `open`, accepted or not

    def open(self, url: ShareURL, ask: Ask) -> Answer:
        """Ask for bytes of an object. Raises a SegdlError that `core.settling` knows."""
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
            reply = self._follow(way, None)
            try:
                if reply.status != 200:
                    raise _no_document(self._head(reply, way, self._excerpt(reply)))
                return self._whole(reply.body, largest, deadline)
            finally:
                reply.body.close()

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
        reply = self._follow(way, ask)
        try:
            excerpt = self._excerpt(reply) if _suspicious(reply) else b""
            head = self._head(reply, way, excerpt)
            verdict = judge(ask, head, time.time())
        except BaseException:
            reply.body.close()
            raise
        if isinstance(verdict, Accepted):
            prefix = excerpt if reply.status == 200 else b""
            return Answer(verdict, head.get("date"), reply.body, prefix)
        reply.body.close()
        raise verdict

    def _head(self, reply: Reply, way: Sequence[ShareURL], excerpt: bytes) -> Head:
        """What an answer says of itself, without what it echoes of a secret.

        An ETag goes back as it came, and into files: one that echoes a secret is none. The excerpt
        is cleaned before it is read: a message that is cut could end in half a secret.
        """
        status = reply.status
        raw = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in reply.headers]
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

    def _follow(self, way: list[ShareURL], ask: Ask | None) -> Reply:
        for _ in range(_REDIRECTS + 1):
            reply = self._send(way[0], way[-1], ask)
            if reply.status not in _REDIRECT_STATUS:
                return reply
            reply.body.close()
            try:
                way.append(redirect(way[-1], reply.get(b"location") or ""))
            except URLProblem as problem:
                raise UnreachableError(
                    f"a redirect was refused: it {problem}", status=reply.status
                ) from None
        raise UnreachableError(f"more than {_REDIRECTS} redirects, one after the other")

    def _send(self, first: ShareURL, url: ShareURL, ask: Ask | None) -> Reply:
        headers = self._headers(first, url, ask)
        self._at_home = url.origin == first.origin
        proxy = self._reach.proxy or system_proxy(url, self._system)
        through = self._through(proxy) if proxy else None
        try:
            if through is None:
                return self._wire.get(Origin(url.scheme, url.host, url.port), url.target, headers)
            return through.get(url, headers)
        except (Fault, OSError) as error:
            raise _translate(error, url, through.address if through else None) from None

    def _excerpt(self, reply: Reply) -> bytes:
        """The beginning of a body: of a refusal what comes is enough, of data nothing is lost."""
        wanted = 1024 if reply.status == 200 else _EXCERPT
        view = memoryview(bytearray(wanted))
        count, deadline = 0, time.monotonic() + 5.0
        while count < wanted and time.monotonic() < deadline and not self._interrupted():
            try:
                got = reply.body.readinto(view[count:])
            except TimeoutError:
                continue
            except (Fault, OSError):
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

    def _through(self, proxy: str) -> Proxied:
        from segdl.edges.transport.proxied import Proxied  # with httpx, which takes time

        way = (proxy, self._at_home)
        if way not in self._proxied:
            tls, own = self._reach.tls, self._at_home
            try:
                self._proxied[way] = Proxied(
                    proxy, tls(own=own), lambda: tls(own=False), self._blotter.learn
                )
            except UsageError as error:
                # One that was given by name was checked before the run began.
                raise UnreachableError(
                    f"the proxy of the environment cannot be used: {error.message}"
                ) from None
        return self._proxied[way]

    def abort(self) -> None:
        """Wake a blocked read, from any thread."""
        self._wire.abort()
        for proxied in list(self._proxied.values()):
            proxied.abort()

    def hang_up(self) -> None:
        """Close the connection that is kept; the next request opens another."""
        self._wire.close()

    def close(self) -> None:
        self._wire.close()
        for proxied in self._proxied.values():
            proxied.close()


def _placed(body: Body, view: memoryview) -> int:
    """Bytes placed in `view`, 0 at the end. Raises TimeoutError after a tick, BrokenError."""
    try:
        return body.readinto(view)
    except (Fault, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise BrokenError("the connection broke in the middle of the body") from None


def _with(headers: dict[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Headers with more that go before: a name has one value, in whatever case it is written."""
    names = {name.lower() for name in more}
    return {k: v for k, v in headers.items() if k.lower() not in names} | dict(more)


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


def _suspicious(reply: Reply) -> bool:
    """Whether the body's beginning is wanted: a refusal, or a page in place of the object."""
    if reply.status not in (200, 206):
        return True
    return reply.status == 200 and reply.get(b"content-range") is None


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
    match error:
        case TLSRejected():
            return _distrusted(host, error.reason)
        case ProxyRefused(status=407):
            return UnreachableError("the proxy wants other credentials: 407")
        case ProxyRefused(status=status):
            told = f": {status}" if status else ""
            return UnreachableError(f"the proxy refuses the way to {host}{told}")
        case ConnectFailed() if proxy is not None:
            return BusyError(f"{host} cannot be reached through the proxy {proxy}")
        case LookupFailed():
            return BusyError(f"the name {url.host} cannot be found")
        case ConnectTimedOut():
            return BusyError(f"{host} does not answer")
        case ConnectFailed():
            return BusyError(f"{host} cannot be reached")
        case TimedOut():
            return BrokenError(f"{host} accepted the connection and did not answer in time")
        case BadAnswer():
            return MisansweredError(f"{host} does not speak HTTP as it should: {str(error)[:120]}")
        case BadRequest():
            return MisansweredError(f"{host} does not speak HTTP as it should: bad request")
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return disk_error(error)
    return BrokenError(f"the connection to {host} broke")
