"""Debian's nginx: files, files behind an application, files over TLS.

Three servers in one process. The first serves the folder as it is. The second asks an application
(a thread here) about every request; it checks the `Authorization` header and hands the request
back, to an internal location, with `X-Accel-Redirect`. The third is the first over TLS, given a
certificate.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from segdl.publish.loopback import LOOPBACK, Child, find, free_ports, running
from tests.faults.answers import asked_range

READY_WITHIN = 20.0

CONFIGURATION = """\
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    log_format bytes '$server_port\\t$status\\t$body_bytes_sent\\t$http_range';
    access_log access.log bytes;
    server {{
        listen {address}:{files};
        root files;
    }}
    server {{
        listen {address}:{gated};
        location / {{
            proxy_pass http://{address}:{application};
            proxy_set_header Range "";
        }}
        location /internal/ {{
            internal;
            alias files/;
        }}
    }}
    {secure}
}}
"""

SECURE = """\
server {{
        listen {address}:{port} ssl;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        root files;
    }}"""


@dataclass(frozen=True, slots=True)
class Served:
    """A line of the access log: `range` as asked, half-open; `sent` bytes of body."""

    port: int
    status: int
    sent: int
    range: tuple[int, int] | None


class Nginx:
    """`with Nginx() as nginx: nginx.put("a.7z", data)`, then `url`, `gated_url` or `secure_url`.

    `certificate` is (chain file, key file), both PEM. The gate opens to
    `Authorization: Bearer <token>` alone; `asked` counts the application's requests.
    """

    title = "nginx"

    def __init__(
        self, certificate: tuple[Path, Path] | None = None, *, token: str = "open-sesame"
    ) -> None:
        self.token = token
        self._certificate = certificate
        self._stack = contextlib.ExitStack()
        self._ports: tuple[int, ...] = (0, 0, 0)
        self._root = Path()
        self._gate: Gate | None = None

    @classmethod
    def available(cls) -> str | None:
        """None if it can be started here, else what is missing and how to get it."""
        if _program():
            return None
        return "nginx is not here: no program named nginx (Debian: apt-get install nginx-light)"

    @property
    def folder(self) -> Path:
        """What it serves."""
        return self._root / "files"

    @property
    def asked(self) -> int:
        """How many requests the application has answered."""
        return self._gate.asked if self._gate else 0

    @property
    def headers(self) -> dict[str, str]:
        """What opens the gate."""
        return {"Authorization": f"Bearer {self.token}"}

    def put(self, name: str, data: bytes) -> None:
        """Store a file under the folder; nginx makes its ETag from size and time."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def url(self, name: str) -> str:
        return f"http://{LOOPBACK}:{self._ports[0]}/{name}"

    def gated_url(self, name: str) -> str:
        return f"http://{LOOPBACK}:{self._ports[1]}/{name}"

    def secure_url(self, name: str, host: str = LOOPBACK) -> str:
        return f"https://{host}:{self._ports[2]}/{name}"

    @property
    def log(self) -> list[Served]:
        """Every finished request, in order. A line follows its answer a little later."""
        path = self._root / "access.log"
        return [_served(line) for line in path.read_text().splitlines()] if path.exists() else []

    def sent(self) -> int:
        """Bytes of bodies sent, by the log."""
        return sum(each.sent for each in self.log)

    def __enter__(self) -> Self:
        program = _program()
        if program is None:
            raise RuntimeError(self.available())
        with contextlib.ExitStack() as stack:
            temporary = tempfile.TemporaryDirectory(prefix="segdl-nginx-")
            self._root = Path(stack.enter_context(temporary))
            for folder in ("files", "temp"):
                (self._root / folder).mkdir()
            self._gate = gate = stack.enter_context(Gate(self.token))
            prepare = partial(self._child, program, gate)
            stack.enter_context(running(prepare, self._ready, READY_WITHIN))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _ready(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection((LOOPBACK, self._ports[0]), 1.0).close()
            return True
        return False

    def _child(self, program: Path, gate: Gate) -> Child:
        self._ports = free_ports(3)
        configuration = self._root / "nginx.conf"
        configuration.write_text(self._configured(gate, *self._ports))
        return Child([program, "-p", self._root, "-c", configuration, "-e", "stderr"], self._root)

    def _configured(self, gate: Gate, files: int, gated: int, secure: int) -> str:
        tls = ""
        if self._certificate:
            chain, key = self._certificate
            tls = SECURE.format(address=LOOPBACK, port=secure, chain=chain, key=key)
        return CONFIGURATION.format(
            user="user root;" if os.geteuid() == 0 else "",
            address=LOOPBACK,
            files=files,
            gated=gated,
            application=gate.port,
            secure=tls,
        )


class Gate:
    """The application: it opens to a bearer token, and leaves the file to nginx."""

    def __init__(self, token: str) -> None:
        self.asked = 0
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gate.asked += 1
                if self.headers.get("Authorization") == f"Bearer {token}":
                    self.send_response(200)
                    self.send_header("X-Accel-Redirect", f"/internal{self.path}")
                else:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Bearer realm="orders"')
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nothing: a test's output is its own."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="gate")

    @property
    def port(self) -> int:
        return self._server.server_port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _program() -> Path | None:
    """Debian keeps nginx where only root's PATH looks."""
    return find("nginx") or find("nginx", "/usr/sbin")


def _served(line: str) -> Served:
    port, status, sent, range_ = line.split("\t")
    return Served(int(port), int(status), int(sent), asked_range(range_, None))
