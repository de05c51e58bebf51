"""A slow line before a fast server: `relay.py PORT ORIGIN_PORT RATE TRICKLE`.

Every connection is paced by itself: RATE bytes a second, and an idle one saves nothing up. (nginx's
`limit_rate` gives every request one second's worth at once, so small ranges would beat the line.)
The TRICKLE-th connection (0: none) gets 100 bytes a second after its first MiB. The standard
library only.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
import time

HOST = "127.0.0.1"
PIECE = 32 * 1024
BURST = 0.01  # seconds that a late piece may catch up with
TRICKLE_AFTER = 2**20
TRICKLE_RATE = 100


def upstream(client: socket.socket, origin: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(PIECE):
            origin.sendall(data)
    with contextlib.suppress(OSError):
        origin.shutdown(socket.SHUT_RDWR)


def downstream(origin: socket.socket, client: socket.socket, rate: int, trickles: bool) -> None:
    sent, due = 0, time.monotonic()
    while True:
        slow = trickles and sent >= TRICKLE_AFTER
        data = origin.recv(TRICKLE_RATE // 2 if slow else PIECE)
        if not data:
            return
        due = max(due, time.monotonic() - BURST) + len(data) / (TRICKLE_RATE if slow else rate)
        time.sleep(max(0.0, due - time.monotonic()))
        client.sendall(data)
        sent += len(data)


def serve(client: socket.socket, port: int, rate: int, trickles: bool) -> None:
    with client, contextlib.suppress(OSError), socket.create_connection((HOST, port)) as origin:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=upstream, args=(client, origin), daemon=True).start()
        downstream(origin, client, rate, trickles)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def main() -> None:
    port, origin, rate, trickle = map(int, sys.argv[1:])
    with socket.create_server((HOST, port), backlog=256) as listener:
        print("ready", flush=True)
        for serial in itertools.count(1):
            client, _ = listener.accept()
            arguments = (client, origin, rate, serial == trickle)
            threading.Thread(target=serve, args=arguments, daemon=True).start()


main()
