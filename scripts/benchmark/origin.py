"""The origin: made-up files, and nginx to serve them on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
READY_WITHIN = 10.0
PIECE = 2**20
MISSING = "nginx is not here. On Debian and Ubuntu: apt-get install nginx-light"

CONFIGURATION = """\
{user}
daemon off;
worker_processes {workers};
pid {home}/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    default_type application/octet-stream;
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    server {{
        listen {host}:{plain} backlog=4096;
        root {files};
    }}
{secure}
}}
"""
SECURE = """\
    server {{
        listen {host}:{port} ssl backlog=4096;
        ssl_certificate {home}/chain.pem;
        ssl_certificate_key {home}/key.pem;
        ssl_session_cache shared:tls:8m;
        root {files};
    }}"""


@dataclass(frozen=True, slots=True)
class File:
    """One file of an order: where it goes, its bytes, and what they must be."""

    path: str
    size: int
    xxh3: str
    sha256: str


def made(folder: Path, sizes: Sequence[tuple[str, int]]) -> tuple[File, ...]:
    """Files of random bytes under a folder."""
    return tuple(_made(folder, path, size) for path, size in sizes)


def _made(folder: Path, path: str, size: int) -> File:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    quick, sha = xxhash.xxh3_128(), hashlib.sha256()
    with target.open("wb") as file:
        for start in range(0, size, PIECE):
            data = os.urandom(min(PIECE, size - start))
            file.write(data)
            quick.update(data)
            sha.update(data)
    return File(path, size, quick.hexdigest(), sha.hexdigest())


def wrong(folder: Path, files: Sequence[File]) -> str | None:
    """What is wrong with a delivered order, or None."""
    for file in files:
        target = folder / file.path
        if not target.is_file():
            return f"{file.path} is not there"
        if target.stat().st_size != file.size:
            return f"{file.path} has {target.stat().st_size} of {file.size} bytes"
        if _xxh3(target) != file.xxh3:
            return f"{file.path} has wrong content"
    return None


def _xxh3(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while data := file.read(PIECE):
            digest.update(data)
    return digest.hexdigest()


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def program() -> str | None:
    """nginx; Debian keeps it where only root's PATH looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def certify(home: Path) -> bool:
    """ca.pem, chain.pem, key.pem for the loopback; False where neither trustme nor openssl is."""
    try:
        import trustme
    except ImportError:
        return _certify_by_openssl(home)
    authority = trustme.CA()
    issued = authority.issue_cert(HOST, "localhost")
    authority.cert_pem.write_to_path(home / "ca.pem")
    issued.private_key_pem.write_to_path(home / "key.pem")
    (home / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    return True


def _certify_by_openssl(home: Path) -> bool:
    if not shutil.which("openssl"):
        return False
    asked = "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -keyout key.pem"
    names = ["-addext", f"subjectAltName=IP:{HOST},DNS:localhost", "-out", "chain.pem"]
    ended = subprocess.run(
        ["openssl", *asked.split(), *names], cwd=home, capture_output=True, check=False
    )
    if ended.returncode:
        return False
    shutil.copy(home / "chain.pem", home / "ca.pem")
    return True


@dataclass(frozen=True, slots=True)
class Origin:
    """A running nginx: its ports on the loopback; the TLS one is 0 without a certificate."""

    plain: int
    secure: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.plain}"

    @property
    def secure_url(self) -> str:
        return f"https://{HOST}:{self.secure}"


@contextmanager
def serving(home: Path, files: Path, *, tls: bool) -> Iterator[Origin]:
    """nginx over a folder, until the block ends."""
    found = program()
    assert found, MISSING
    origin = Origin(free_port(), free_port() if tls else 0)
    configuration = home / "nginx.conf"
    configuration.write_text(_configured(origin, home, files))
    command = [found, "-p", str(home), "-c", str(configuration), "-e", "stderr"]
    with child(command):
        _await(origin.plain)
        yield origin


def _configured(origin: Origin, home: Path, files: Path) -> str:
    facts = {"host": HOST, "home": home, "files": files}
    return CONFIGURATION.format(
        user="user root;" if os.geteuid() == 0 else "",
        workers=max(2, os.cpu_count() or 2),
        plain=origin.plain,
        secure=SECURE.format(port=origin.secure, **facts) if origin.secure else "",
        **facts,
    )


@contextmanager
def relayed(port: int, origin: Origin, rate: int, trickle: int = 0) -> Iterator[None]:
    """A line of so many bytes a second a connection, on a port; the trickle-th one trickles."""
    numbers = map(str, (port, origin.plain, rate, trickle))
    with child([sys.executable, "-I", "-S", str(HERE / "relay.py"), *numbers]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield


@contextmanager
def child(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a session of its own, so that Ctrl-C reaches it only through us."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def _await(port: int) -> None:
    give_up = time.monotonic() + READY_WITHIN
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError):
            socket.create_connection((HOST, port), 1.0).close()
            return
        time.sleep(0.02)
    raise SystemExit("nginx did not start")
