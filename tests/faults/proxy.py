"""A line of loopback that can be slow, cut, silent or down: a TCP proxy that counts.

One thread runs an event loop, so that nothing but the loop touches a connection. What is scripted
holds for the bytes from the server to the client, at once and for open connections too.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self

from tests.faults.wire import SEND_BUFFER

PIECE = 16 * 1024
GLANCE = 0.005  # seconds between two looks at something that changes without telling


class End(Enum):
    """What becomes of a connection that has carried its bytes."""

    CUT = auto()
    RESET = auto()
    SILENCE = auto()


@dataclass(slots=True)
class Limit:
    """Connections end in this way after so many bytes; `times` more of them, None: all."""

    end: End
    after: int
    times: int | None


@dataclass(slots=True)
class Line:
    """A connection: the client's socket, the server's, and what the client was sent."""

    client: socket.socket
    upstream: socket.socket
    sent: int = 0
    asked: bool = False  # the client has spoken last

    def reset_on_close(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    @property
    def unacknowledged(self) -> int:
        answer = fcntl.ioctl(self.client, termios.TIOCOUTQ, struct.pack("i", 0))
        return int(struct.unpack("i", answer)[0])

    def close(self) -> None:
        self.client.close()
        self.upstream.close()


class TCPProxy:
    """`with TCPProxy("127.0.0.1", port) as proxy:` and connect to `proxy.port` instead.

    `connections` counts those that were accepted.
    """

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self._upstream = (upstream_host, upstream_port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener = _bound(0)
        self._accepting: asyncio.Task[None] | None = None
        self._lines: dict[asyncio.Task[None], Line] = {}
        self._delay = 0.0
        self._rate: float | None = None
        self._free_at = 0.0  # the loop's time at which all that was taken is carried, at the rate
        self._limit: Limit | None = None
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._sent = 0
        self._guard = threading.Lock()

    @property
    def sent(self) -> int:
        """Bytes handed to clients' sockets, heads and all."""
        with self._guard:
            return self._sent

    def delay(self, seconds: float) -> None:
        """Each answer begins this much later."""
        self._delay = seconds

    def limit(self, rate: float | None) -> None:
        """Bytes a second over all connections together; None lifts it."""
        self._rate = rate

    def cut(self, after: int, *, times: int | None = None) -> None:
        """An orderly end of connections after exactly `after` bytes, of the next `times` or all.

        One that has carried more already ends at its next byte; with 0, as the server answers.
        """
        self._limit = Limit(End.CUT, after, times)

    def reset(self, after: int, *, times: int | None = None) -> None:
        """Like `cut`, with a TCP reset."""
        self._limit = Limit(End.RESET, after, times)

    def blackhole(self, after: int = 0, *, times: int | None = None) -> None:
        """Connections that have carried `after` bytes fall silent, until `clear` or `down`."""
        self._limit = Limit(End.SILENCE, after, times)

    def clear(self) -> None:
        """An honest line again; what was silent goes on."""
        self._delay, self._rate, self._limit = 0.0, None, None

    def down(self) -> None:
        """Reset the open connections and refuse new ones. The port stays ours."""
        self._call(self._down())

    def up(self) -> None:
        """Accept again."""
        self._call(self._up())

    def __enter__(self) -> Self:
        self._thread.start()
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20.0)
        self._listener.close()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20.0)

    async def _up(self) -> None:
        if self._accepting is None:
            self._listener.listen(256)
            self._accepting = asyncio.create_task(self._accept())

    async def _down(self) -> None:
        """A bound socket that does not listen refuses connections and keeps its port."""
        if self._accepting is None:
            return
        await _ended(self._accepting)
        self._accepting = None
        self._listener.close()
        self._listener = _bound(self.port)
        for line in self._lines.values():
            line.reset_on_close()
        await _ended(*self._lines)

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            self.connections += 1
            line = Line(client, _plain_socket())
            task = asyncio.create_task(self._carry(line))
            self._lines[task] = line
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._lines.pop(task).close()

    async def _carry(self, line: Line) -> None:
        """The life of a connection; it ends when the server's side does, or with its limit."""
        line.client.setblocking(False)
        line.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(line.upstream, self._upstream)
            upward = asyncio.create_task(self._upward(line))
            try:
                await self._downward(line)
            finally:
                await _ended(upward)
        except OSError:
            with contextlib.suppress(OSError):
                line.reset_on_close()

    async def _upward(self, line: Line) -> None:
        with contextlib.suppress(OSError):
            while data := await self._loop.sock_recv(line.client, PIECE):
                line.asked = True
                await self._loop.sock_sendall(line.upstream, data)
            line.upstream.shutdown(socket.SHUT_WR)

    async def _downward(self, line: Line) -> None:
        while data := await self._loop.sock_recv(line.upstream, PIECE):
            if line.asked:
                line.asked = False
                await asyncio.sleep(self._delay)
            rest = memoryview(data)
            while rest:
                limit = self._limit_in_force()
                room = len(rest) if limit is None else max(0, limit.after - line.sent)
                await self._send(line, rest[:room])
                rest = rest[room:]
                if limit and line.sent >= limit.after and await self._finish(line, limit):
                    return

    async def _send(self, line: Line, data: memoryview) -> None:
        """Hand `data` to the client's socket; what has arrived there is never uncounted."""
        if data and self._rate is not None:
            self._free_at = max(self._free_at, self._loop.time()) + len(data) / self._rate
            await asyncio.sleep(self._free_at - self._loop.time())
        while data:
            try:
                with self._guard:
                    taken = line.client.send(data)
                    self._sent += taken
                line.sent += taken
                data = data[taken:]
            except BlockingIOError:
                await self._writable(line.client)

    async def _writable(self, sock: socket.socket) -> None:
        ready = asyncio.Event()
        self._loop.add_writer(sock, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_writer(sock)

    def _limit_in_force(self) -> Limit | None:
        limit = self._limit
        return None if limit is None or limit.times == 0 else limit

    async def _finish(self, line: Line, limit: Limit) -> bool:
        """Let the limit have its way with a line; False: the line goes on."""
        if limit.times is not None:
            limit.times -= 1
        while limit.end is End.SILENCE and self._limit is limit:
            await asyncio.sleep(GLANCE)
        if limit.end is End.RESET:
            await self._drained(line)
            line.reset_on_close()
        return limit.end is not End.SILENCE

    async def _drained(self, line: Line) -> None:
        """Until the client's kernel has every byte: a reset would drop what is still on the way."""
        deadline = self._loop.time() + 20.0
        while line.unacknowledged and self._loop.time() < deadline:
            await asyncio.sleep(GLANCE)


def _bound(port: int) -> socket.socket:
    """A socket on loopback that does not listen yet."""
    sock = _plain_socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # `sent` is near what came
    sock.bind(("127.0.0.1", port))
    return sock


def _plain_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
