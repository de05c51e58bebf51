"""The floor: the plainest client there can be. `floor.py THREADS LIST [CA]`.

Each thread keeps one connection, asks for whole ranges of 8 MiB and writes what comes to its place.
Nothing is verified, recorded or flushed. LIST is JSON: [[url, path, size], …]. The standard
library only.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import threading
from collections import deque
from collections.abc import Iterator
from urllib.parse import urlsplit

SEGMENT = 8 * 2**20
BUFFER = 2**20

Range = tuple[str, int, int, int]  # path of the URL, descriptor, start, stop


def ranges(files: list[tuple[str, str, int]]) -> Iterator[Range]:
    for url, path, size in files:
        os.makedirs(path.rpartition("/")[0], exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        for start in range(0, size, SEGMENT):
            yield urlsplit(url).path, descriptor, start, min(start + SEGMENT, size)


def connect(host: str, port: int, ca: str | None) -> socket.socket:
    connection = socket.create_connection((host, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if ca is None:
        return connection
    return ssl.create_default_context(cafile=ca).wrap_socket(connection, server_hostname=host)


def fetch(connection: socket.socket, host: str, piece: Range, buffer: memoryview) -> None:
    path, descriptor, start, stop = piece
    asked = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={start}-{stop - 1}\r\n\r\n"
    connection.sendall(asked.encode())
    filled, end = 0, -1
    while end < 0:
        count = connection.recv_into(buffer[filled:])
        filled += count
        end = bytes(buffer[:filled]).find(b"\r\n\r\n")
        if not count:
            raise ConnectionError("closed within the head")
    if not bytes(buffer[:13]).startswith(b"HTTP/1.1 206"):
        raise ConnectionError(bytes(buffer[:60]))
    place = start + os.pwrite(descriptor, buffer[end + 4 : filled], start)
    while place < stop:
        count = connection.recv_into(buffer, min(BUFFER, stop - place))
        if not count:
            raise ConnectionError("closed within the body")
        place += os.pwrite(descriptor, buffer[:count], place)


def work(todo: deque[Range], host: str, port: int, ca: str | None) -> None:
    buffer = memoryview(bytearray(BUFFER))
    with connect(host, port, ca) as connection:
        while True:
            try:
                piece = todo.popleft()
            except IndexError:
                return
            fetch(connection, host, piece, buffer)


def main() -> None:
    threads, listed, *ca = sys.argv[1:]
    with open(listed) as file:
        files = json.load(file)
    address = urlsplit(files[0][0])
    assert address.hostname and address.port
    todo = deque(ranges(files))
    failed: list[BaseException] = []

    def worker() -> None:
        try:
            work(todo, str(address.hostname), int(address.port or 80), ca[0] if ca else None)
        except BaseException as error:
            failed.append(error)
            raise

    team = [threading.Thread(target=worker) for _ in range(int(threads))]
    for each in team:
        each.start()
    for each in team:
        each.join()
    sys.exit(1 if failed else 0)


main()
