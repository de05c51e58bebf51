"""A raw-socket HTTP server whose faults are scripted by path and request number.

One thread accepts, and each connection has a thread of its own, which reads a request, makes the
honest answer and gives both to the newest rule that fits. A fault returns an answer, to be sent as
it is, or None, when it has spoken on the wire itself. Nothing here waits without noticing that the
peer has gone or that the server ends: to end, it shuts every socket down, which wakes every thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import select
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.answers import Answer, Seen, Stored, asked_range, honest
from tests.faults.wire import SEND_BUFFER, Exchange, Fault, Wire

EVERY_PATH = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    path: str
    fits: Callable[[Seen], bool]
    fault: Fault


class FaultServer:
    """Objects at paths, and the faults that are scripted for them.

        with FaultServer() as server:
            server.put("/a.7z", data)
            server.script("/a.7z", faults.cut(100), on=2)

    It serves honestly what no rule fits: see `answers.honest`. Paths are compared raw, as they
    stand on the wire. With `tls` it speaks TLS only.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._tls = tls
        self._listener = socket.create_server((host, 0), backlog=256)
        self._listener.setblocking(False)  # it is waited for without the lock, and taken with it
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._changed = threading.Condition()
        self._objects: dict[str, Stored] = {}
        self._rules: list[Rule] = []
        self._exchanges: list[Exchange] = []
        self._numbers: Counter[str] = Counter()
        self._wires: set[Wire] = set()
        self._threads: list[threading.Thread] = []
        self._connections = 0
        self._crash: BaseException | None = None
        self._peak = 0
        self._ending = False

    # What a test says before.

    def put(
        self,
        path: str,
        data: bytes | memoryview,
        *,
        etag: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Stored:
        """Store an object, or another one in its place. The ETag is the MD5 unless given."""
        tag = f'"{hashlib.md5(data).hexdigest()}"' if etag is None else etag
        stored = Stored(memoryview(data), tag, dict(headers or {}))
        with self._changed:
            self._objects[path] = stored
        return stored

    def remove(self, path: str) -> None:
        """From now on 404."""
        with self._changed:
            del self._objects[path]

    def script(
        self,
        path: str,
        fault: Fault,
        *,
        on: int | Iterable[int] | Callable[[Seen], bool] | None = None,
    ) -> None:
        """Answer the requests for `path` with `fault`; the newest rule that fits is the one.

        `on` is a request's number from 1, several numbers, a predicate, or None for every request.
        The path `"*"` is every path, and then the numbers count the requests of the whole server.
        """
        rule = Rule(path, _fits(on, every=path == EVERY_PATH), fault)
        with self._changed:
            self._rules.insert(0, rule)

    def mend(self) -> None:
        """Honest from now on: forget every rule."""
        with self._changed:
            self._rules.clear()

    def forget(self) -> None:
        """Forget the requests: numbers start at 1 again, and nothing was sent."""
        with self._changed:
            self._exchanges.clear()
            self._numbers.clear()

    def url(self, path: str, query: str = "", *, host: str | None = None) -> str:
        """The absolute URL of a path; `host` instead of the address, for a certificate's name."""
        scheme = "https" if self._tls else "http"
        tail = f"?{query}" if query else ""
        return f"{scheme}://{host or self.host}:{self.port}{path}{tail}"

    # What a test asks afterwards, or meanwhile.

    @property
    def requests(self) -> list[Seen]:
        """Every request so far, in the order of arrival."""
        with self._changed:
            return [replace(each.seen, sent=each.sent) for each in self._exchanges]

    def sent(self, path: str | None = None) -> int:
        """Bytes of bodies handed to the kernel, of one path or of all."""
        with self._changed:
            return sum(each.sent for each in self._exchanges if path in (None, each.seen.path))

    def unread(self) -> int:
        """Bytes that lie in the kernel for clients on this machine, heads too: sent, and not read.

        For clients that stand still: it waits until the server stands still as well.
        """
        before = -1
        while before != self.sent():
            before = self.sent()
            found = sum(_queued(self.port))
        return found

    @property
    def open(self) -> int:
        """Connections that are open now; those that nobody has let in yet are one."""
        with self._changed:
            return len(self._wires) + self._is_knocked_at()

    def let_in(self) -> None:
        """Wait until nobody is left at the door: a client that has come and gone again is then
        among the connections, and what it has asked for is not taken for a later client's."""
        self.until(lambda: not self._is_knocked_at())

    def _is_knocked_at(self) -> bool:
        return not self._ending and _is_ready(self._listener, 0)

    @property
    def peak(self) -> int:
        """The most connections that were ever open at once."""
        with self._changed:
            return self._peak

    def until(self, true: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until `true()`, asked again whenever something happens here. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(true, timeout=seconds):
                raise TimeoutError(f"not so within {seconds} s")

    # Living and dying.

    def __enter__(self) -> Self:
        self._start("accept", self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends every thread, at once if it can. A fault that crashed is raised here."""
        with self._changed:
            self._ending = True
            wires = list(self._wires)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for wire in wires:
            wire.end()
        self._join(20.0)
        self._listener.close()
        if error is None and self._crash is not None:
            raise self._crash

    def _join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        left = [thread.name for thread in self._threads if thread.is_alive()]
        if left:
            raise RuntimeError(f"threads of the fault server hang: {left}")

    def _start(self, name: str, work: Callable[..., None], *given: Wire) -> None:
        thread = threading.Thread(target=work, args=given, name=f"faults-{name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while not self._ending:
            _is_ready(self._listener, None)
            try:
                wire = self._adopt()
            except OSError:
                time.sleep(0.01)  # out of descriptors, or a client that left while it waited
                continue
            if wire is not None:
                self._start(f"connection-{wire.number}", self._serve, wire)

    def _adopt(self) -> Wire | None:
        """The next client: at the door or among the connections, whoever looks."""
        with self._changed:
            if self._ending:
                return None
            sock, _ = self._listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections += 1
            wire = Wire(sock, self._connections, self._counted)
            self._wires.add(wire)
            self._peak = max(self._peak, len(self._wires))
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._changed.notify_all()
            return wire

    def _serve(self, wire: Wire) -> None:
        """The life of a connection. A client that vanishes is no news; a fault that crashes is."""
        try:
            if self._tls:
                wire.shake_hands(self._tls)
            while not wire.closed and (head := wire.read_head()) is not None:
                self._respond(wire, head)
        except OSError:
            pass
        except BaseException as error:
            self._crash = error
        finally:
            wire.discard()
            with self._changed:
                self._wires.discard(wire)
                self._changed.notify_all()

    def _respond(self, wire: Wire, head: bytes) -> None:
        wire.exchange = exchange = self._note(wire, head)
        if exchange is None:
            wire.close()
            return
        seen = exchange.seen
        wire.skip(int(seen.headers.get("content-length", "0")))
        with self._changed:
            stored = self._objects.get(seen.path)
            fault = next((rule.fault for rule in self._rules if _meets(rule, seen)), None)
        answer: Answer | None = honest(seen, stored)
        if fault is not None and answer is not None:
            answer = fault(wire, seen, answer)
        if answer is not None:
            wire.answer(answer)
        if seen.closes:
            wire.close()

    def _note(self, wire: Wire, head: bytes) -> Exchange | None:
        """Log a request, so that rules and tests see it before it is answered; None: no HTTP."""
        first, *lines = head.decode("latin-1").split("\r\n")
        request_line = re.fullmatch(r"([A-Z]+) (\S+) (HTTP/1\.[01])", first)
        if request_line is None:
            return None
        method, target, version = request_line.groups()
        path, _, query = _origin_form(target).partition("?")
        headers = _headers(lines)
        with self._changed:
            self._numbers[path] += 1
            stored = self._objects.get(path)
            seen = Seen(
                method=method,
                target=target,
                path=path,
                query=query,
                version=version,
                headers=headers,
                range=asked_range(headers.get("range"), stored.size if stored else None),
                number=self._numbers[path],
                serial=self._numbers.total(),
                connection=wire.number,
                time=time.monotonic(),
            )
            exchange = Exchange(seen)
            self._exchanges.append(exchange)
            self._changed.notify_all()
        return exchange

    def _counted(self, exchange: Exchange, send: Callable[[], int]) -> int:
        with self._changed:
            taken = send()
            exchange.sent += taken
            self._changed.notify_all()
            return taken


def _is_ready(listener: socket.socket, milliseconds: int | None) -> bool:
    """Whether a client is at the door, or the listener was shut down; None: once that is so."""
    poll = select.poll()  # of one thread alone
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(milliseconds))


def _queued(port: int) -> Iterator[int]:
    """What each end of a port's connections has not handed on yet (Linux: proc(5), net/tcp)."""
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, ours, theirs, _, queues, *_ = line.split()
        tx, _, rx = queues.partition(":")
        if ours.endswith(f":{port:04X}"):
            yield int(tx, 16)
        elif theirs.endswith(f":{port:04X}"):
            yield int(rx, 16)


def _fits(
    on: int | Iterable[int] | Callable[[Seen], bool] | None, *, every: bool
) -> Callable[[Seen], bool]:
    """`on` as a predicate."""
    if on is None:
        return lambda seen: True
    if callable(on):
        return on
    numbers = {on} if isinstance(on, int) else on if isinstance(on, range) else frozenset(on)
    return lambda seen: (seen.serial if every else seen.number) in numbers


def _meets(rule: Rule, seen: Seen) -> bool:
    return rule.path in (EVERY_PATH, seen.path) and rule.fits(seen)


def _origin_form(target: str) -> str:
    """`http://host/path`, as a proxy is asked, without its authority."""
    if not target.lower().startswith(("http://", "https://")):
        return target
    _, _, rest = target.partition("://")
    slash = rest.find("/")
    return rest[slash:] if slash >= 0 else "/"


def _headers(lines: Iterable[str]) -> dict[str, str]:
    """Names in lower case; values of a repeated header joined by commas (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        key = name.strip().lower()
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return headers
