"""How servers are reached: connect-to, proxies, trust, certificates, addresses, headers."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from segdl.core.errors import ExitCode, UsageError
from segdl.core.urls import parse_url
from segdl.edges.transport import Reach, trust
from segdl.edges.transport.reach import system_proxy
from segdl.edges.transport.wire.dial import HEAD_START, Address, first_to_answer
from segdl.edges.transport.wire.patience import Patience
from tests.canary import CANARY
from tests.commands import Ended, environment, segdl
from tests.faults import EVERY_PATH, FaultServer, faults
from tests.orders import NAME, PATH, QUERY, Case, made
from tests.scripted import RawServer, raw_server, read_head

DATA = made(200_000)
LATE = 20.0  # seconds: of patience that no test here uses up


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


@pytest.fixture
def secure(server_tls: ssl.SSLContext) -> Iterator[FaultServer]:
    with FaultServer(tls=server_tls) as server:
        server.put(PATH, DATA)
        yield server


def get(case: Case, *arguments: str | Path, **env: str) -> Ended:
    """`segdl order.json -o out …`, as its own process."""
    case.manifest()
    return segdl(
        "order.json",
        "-o",
        "out",
        *arguments,
        cwd=case.folder,
        env={"no_proxy": "", "https_proxy": "", **env},
    )


# -- connect-to ------------------------------------------------------------------------------------


def test_connect_to_keeps_the_host_header(case: Case) -> None:
    case.put(DATA, url=f"http://minio.example:9000{PATH}?{QUERY}")
    there = (("minio.example", 9000), (case.server.host, case.server.port))
    case.run(connect_to=(there,)).report.raise_for_failures()
    case.check_delivered()
    assert {request.headers["host"] for request in case.server.requests} == {"minio.example:9000"}


def test_connect_to_keeps_the_name_that_tls_checks(
    case: Case, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate is for the URL's name, and that name goes to the server."""
    monkeypatch.delenv("https_proxy")
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("minio.example").configure_cert(context)
    context.sni_callback = lambda sock, name, whole: names.append(name)
    ca_file = case.folder / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    with FaultServer(tls=context) as server:
        server.put(PATH, DATA)
        case.put(DATA, url=f"https://minio.example{PATH}?{QUERY}")
        there = (("minio.example", 443), (server.host, server.port))
        case.run(connect_to=(there,), ca_file=str(ca_file)).report.raise_for_failures()
    case.check_delivered()
    assert set(names) == {"minio.example"}


# -- proxies ---------------------------------------------------------------------------------------


class Proxy:
    """A forward proxy: heads as they came, and what it answers in place of doing its work."""

    def __init__(self, refusal: bytes = b"") -> None:
        self.heads: list[str] = []
        self._refusal = refusal

    def __call__(self, client: socket.socket) -> None:
        while head := read_head(client):
            self.heads.append(head.decode("latin-1"))
            method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
            if self._refusal:
                client.sendall(self._refusal)
            elif method == b"CONNECT":
                self._tunnel(client, target)
            else:
                self._forward(client, head, target)

    def _tunnel(self, client: socket.socket, target: bytes) -> None:
        host, _, port = target.decode().rpartition(":")
        with socket.create_connection((host, int(port)), LATE) as server:
            client.sendall(b"HTTP/1.1 200 Established\r\n\r\n")
            other = threading.Thread(target=_pump, args=(client, server))
            other.start()
            _pump(server, client)
            other.join(LATE)

    def _forward(self, client: socket.socket, head: bytes, target: bytes) -> None:
        assert target.startswith(b"http://"), "a proxy is asked for a whole URL"
        host, slash, path = target.removeprefix(b"http://").partition(b"/")
        name, _, port = host.decode().partition(":")
        with socket.create_connection((name, int(port or 80)), LATE) as server:
            lines = head.replace(target, slash + path, 1)
            server.sendall(lines.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            _pump(server, client)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


@pytest.fixture
def proxied(proxy: Proxy) -> Iterator[RawServer]:
    with raw_server(proxy) as server:
        yield server


def address(server: RawServer, scheme: str = "http") -> str:
    """The proxy's URL, with a password."""
    return f"{scheme}://user:{CANARY}@127.0.0.1:{server.port}"


def test_http_through_a_proxy(case: Case, proxy: Proxy, proxied: RawServer) -> None:
    """It is asked for the whole URL, byte for byte as it was signed, as the user that it knows."""
    path, query = "/a%2Fb/./x'y.7z", f"x=%2f&{QUERY}"
    case.put(DATA, path, name=NAME, query=query)
    case.run(proxy=address(proxied)).report.raise_for_failures()
    case.check_delivered()
    wanted = f"GET {case.server.url(path, query)} HTTP/1.1\r\n"
    assert proxy.heads and all(head.startswith(wanted) for head in proxy.heads)
    assert all("proxy-authorization: basic" in head.lower() for head in proxy.heads)
    assert {request.target for request in case.server.requests} == {f"{path}?{query}"}


def test_https_through_a_proxy(
    case: Case, proxy: Proxy, proxied: RawServer, secure: FaultServer, ca_file: Path
) -> None:
    """The proxy hears the host and the port, and nothing of the share URL."""
    case.put(DATA, url=secure.url(PATH, QUERY))
    case.run(proxy=address(proxied), ca_file=str(ca_file)).report.raise_for_failures()
    case.check_delivered()
    assert {request.target for request in secure.requests} == {f"{PATH}?{QUERY}"}
    place = f"127.0.0.1:{secure.port}"
    assert proxy.heads
    for head in proxy.heads:
        assert head.startswith(f"CONNECT {place} HTTP/1.1\r\n")
        assert CANARY not in head and PATH not in head


def test_a_proxy_that_is_not_there(case: Case) -> None:
    """It is named, and not the server alone; its password is not."""
    case.put(DATA)
    run = case.run(proxy=f"http://user:{CANARY}@127.0.0.1:9", patience=0.0)
    assert run.code == ExitCode.NETWORK
    assert "cannot be reached through the proxy 127.0.0.1:9" in str(run.error())


def test_a_certificate_that_is_not_trusted_through_a_proxy(
    case: Case, proxied: RawServer, secure: FaultServer
) -> None:
    """Nobody waits for it to become valid."""
    case.files["a.7z"] = {"path": "a.7z", "url": secure.url(PATH, QUERY, host="localhost")}
    run = case.run(proxy=address(proxied))
    assert run.code == ExitCode.NETWORK
    assert "the TLS certificate of localhost" in str(run.error())
    assert "is not valid" in str(run.error())


def test_a_proxy_that_speaks_tls(
    case: Case, proxy: Proxy, server_tls: ssl.SSLContext, ca_file: Path
) -> None:
    case.put(DATA)
    with raw_server(proxy, tls=server_tls) as server:
        run = case.run(proxy=address(server, "https"), ca_file=str(ca_file))
        run.report.raise_for_failures()
        case.check_delivered()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment(
    case: Case, proxy: Proxy, proxied: RawServer, name: str
) -> None:
    case.put(DATA)
    ended = get(case, **{name: address(proxied)})
    assert ended.returncode == 0, ended.stderr
    assert len(proxy.heads) == len(case.server.requests)


def test_a_proxy_of_the_environment_without_a_scheme(
    case: Case, proxy: Proxy, proxied: RawServer
) -> None:
    case.put(DATA)
    ended = get(case, http_proxy=address(proxied).removeprefix("http://"))
    assert ended.returncode == 0, ended.stderr
    assert len(proxy.heads) == len(case.server.requests)


@pytest.mark.parametrize("named", ["ftp://a", "http://127.0.0.1:99999"])
def test_a_proxy_of_the_environment_that_cannot_be_one(case: Case, named: str) -> None:
    case.put(DATA)
    ended = get(case, http_proxy=named)
    assert ended.returncode == 7
    assert "the proxy of the environment cannot be used: the proxy's URL" in ended.stderr


def test_which_hosts_need_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, with a port, and by network, as curl and others have it."""
    direct = {
        "127.0.0.1": True, "127.0.0.1:9000": True, "127.0.0.1:9001": False, "127.0.0.0/8": True,
        "10.0.0.0/8, 127.0.0.1/16": True, "10.0.0.0/8": False, "::1/128": False, "*": True,
        "nonsense/8,/,127.0.0.0/99": False, "": False,
    }  # fmt: skip
    url = parse_url("http://127.0.0.1:9000/a")
    for exempt, expected in direct.items():
        monkeypatch.setenv("no_proxy", exempt)
        found = system_proxy(url, {"http": "http://a", "no": exempt})
        assert (found is None) == expected, exempt
    monkeypatch.setenv("no_proxy", "fd00::/8")
    assert system_proxy(parse_url("http://[fd00::1]/a"), {"all": "a", "no": "fd00::/8"}) is None
    assert system_proxy(parse_url("http://h/a"), {"all": "a", "no": "fd00::/8"}) == "http://a"


@pytest.mark.parametrize("exempt", ["127.0.0.1", "127.0.0.0/8"])
def test_no_proxy_for_hosts_that_need_none(
    case: Case, proxy: Proxy, proxied: RawServer, exempt: str
) -> None:
    case.put(DATA)
    ended = get(case, http_proxy=address(proxied), no_proxy=exempt)
    assert ended.returncode == 0, ended.stderr
    assert not proxy.heads and case.server.requests


REFUSALS = {
    "407": (b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n", "credentials"),
    "502": (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "busy"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_n07_a_proxy_that_refuses(case: Case, kind: str) -> None:
    """Named, with the password in nothing that is shown (see Case.check_secrets)."""
    refusal, word = REFUSALS[kind]
    case.put(DATA)
    with raw_server(Proxy(refusal)) as server:
        run = case.run(proxy=address(server), patience=0.0)
    assert run.code is ExitCode.NETWORK
    assert word in str(run.error())


@pytest.mark.parametrize("kind", REFUSALS)
def test_n07_a_proxy_that_opens_no_tunnel(case: Case, secure: FaultServer, kind: str) -> None:
    case.put(DATA, url=secure.url(PATH, QUERY))
    with raw_server(Proxy(REFUSALS[kind][0])) as server:
        run = case.run(proxy=address(server), patience=0.0)
    assert run.code is ExitCode.NETWORK
    told = {"407": "the proxy wants other credentials: 407", "502": ": 502"}[kind]
    assert str(run.error()).endswith(told)


WITHOUT = "import sys; sys.modules['socksio'] = None; import segdl.cli; "
MAIN = "sys.exit(segdl.cli.main(sys.argv[1:]))"


@pytest.mark.parametrize("given", ["option", "environment"])
def test_socks_without_the_extra_is_one_sentence(case: Case, given: str) -> None:
    case.put(DATA)
    case.manifest()
    proxy = f"socks5://user:{CANARY}@127.0.0.1:1"
    option = ("--proxy", proxy) if given == "option" else ()
    inherited = environment(case.folder, {} if option else {"all_proxy": proxy, "no_proxy": ""})
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT + MAIN, "order.json", "-o", "out", *option],
        cwd=case.folder, env=inherited, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == (ExitCode.USAGE if option else ExitCode.NETWORK)
    assert "pip install 'segdl[socks]'" in ended.stdout + ended.stderr
    assert CANARY not in ended.stdout + ended.stderr
    assert not case.server.requests


class Socks:
    """A SOCKS 5 proxy (RFC 1928) that wants a name and a password (RFC 1929)."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def __call__(self, client: socket.socket) -> None:
        methods = _exactly(client, 2)[1]
        assert 2 in _exactly(client, methods)
        client.sendall(b"\5\2")
        assert _exactly(client, 1) == b"\1"
        name, password = _field(client), _field(client)
        good = (name, password) == (b"user", CANARY.encode())
        client.sendall(b"\1\0" if good else b"\1\1")
        if not good:
            return
        kind = _exactly(client, 4)[3]
        where = _field(client).decode() if kind == 3 else socket.inet_ntoa(_exactly(client, 4))
        port = int.from_bytes(_exactly(client, 2))
        self.places.append(f"{where}:{port}")
        with socket.create_connection((where, port), LATE) as server:
            client.sendall(b"\5\0\0\1\0\0\0\0\0\0")
            other = threading.Thread(target=_pump, args=(client, server))
            other.start()
            _pump(server, client)
            other.join(LATE)


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def _field(client: socket.socket) -> bytes:
    return _exactly(client, _exactly(client, 1)[0])


def test_a_socks_proxy(case: Case) -> None:
    socks = Socks()
    case.put(DATA)
    with raw_server(socks) as server:
        proxy = f"socks5://user:{CANARY}@127.0.0.1:{server.port}"
        case.run(proxy=proxy).report.raise_for_failures()
    case.check_delivered()
    assert set(socks.places) == {f"{case.server.host}:{case.server.port}"}


def test_a_socks_proxy_and_tls(case: Case, secure: FaultServer, ca_file: Path) -> None:
    socks = Socks()
    case.put(DATA, url=secure.url(PATH, QUERY))
    with raw_server(socks) as server:
        proxy = f"socks5h://user:{CANARY}@127.0.0.1:{server.port}"
        case.run(proxy=proxy, ca_file=str(ca_file)).report.raise_for_failures()
    case.check_delivered()
    assert set(socks.places) == {f"127.0.0.1:{secure.port}"}


def test_a_socks_proxy_that_refuses(case: Case) -> None:
    case.put(DATA)
    with raw_server(Socks()) as server:
        proxy = f"socks5://somebody:{CANARY}@127.0.0.1:{server.port}"
        run = case.run(proxy=proxy, patience=0.0)
    assert run.code is ExitCode.NETWORK
    assert "the proxy refuses the way" in str(run.error())
    assert not case.server.requests


def _listens(client: socket.socket) -> None:
    """It takes whatever comes, and says nothing."""
    while client.recv(4096):
        pass


def test_n03_a_socks_proxy_that_never_answers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdl.edges.transport.proxied._CONNECT", 0.3)
    case.put(DATA)
    with raw_server(_listens) as server:
        proxy = f"socks5://127.0.0.1:{server.port}"
        run = case.run(proxy=proxy, patience=0.0, retries=0, timeout=60.0)
    assert run.code is ExitCode.NETWORK
    assert "the proxy refuses the way" in str(run.error())


def test_a_proxy_that_cannot_be_one() -> None:
    for proxy in (
        "ftp://a",
        f"http://user:{CANARY}@a:99999",
        f"http://user:{CANARY}@[::1",
        "http://\0",
    ):
        with pytest.raises(UsageError) as refused:
            Reach(timeout=1.0, proxy=proxy).check()
        assert CANARY not in str(refused.value)


# -- trust and certificates ------------------------------------------------------------------------


def test_the_system_s_store_is_trusted(case: Case, secure: FaultServer, ca_file: Path) -> None:
    """What OpenSSL finds for itself, and not a bundle of Python's."""
    case.put(DATA, url=secure.url(PATH, QUERY))
    assert get(case).returncode == ExitCode.NETWORK
    ended = get(case, SSL_CERT_FILE=str(ca_file))
    assert ended.returncode == 0, ended.stderr
    case.check_delivered()


@pytest.fixture
def strict(authority: trustme.CA) -> Iterator[FaultServer]:
    """A server that lets nobody in without a certificate of the authority's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with FaultServer(tls=context) as server:
        server.put(PATH, DATA)
        yield server


@pytest.fixture
def mine(authority: trustme.CA, tmp_path: Path) -> Path:
    """A folder with a client certificate: `both.pem`, or `cert.pem` and `key.pem`, or locked."""
    folder = tmp_path / "mine"
    folder.mkdir()
    issued = authority.issue_cert("client.example")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(folder / "cert.pem", append=True)
    authority.issue_cert("other").private_key_pem.write_to_path(folder / "other.pem")
    subprocess.run(
        ["openssl", "pkey", "-in", folder / "key.pem", "-out", folder / "locked.pem", "-aes256",
         "-passout", "pass:secret"], check=True,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("names", [("both.pem", None), ("cert.pem", "key.pem")])
def test_a_client_certificate(
    case: Case, strict: FaultServer, mine: Path, ca_file: Path, names: tuple[str, str | None]
) -> None:
    case.put(DATA, url=strict.url(PATH, QUERY))
    cert, key = (None if name is None else str(mine / name) for name in names)
    assert case.run(ca_file=str(ca_file)).code is ExitCode.NETWORK
    assert not strict.requests
    case.run(ca_file=str(ca_file), cert=cert, key=key).report.raise_for_failures()
    case.check_delivered()


WRONG = {
    "locked": (("cert.pem", "locked.pem"), "locked by a password"),
    "another's": (("cert.pem", "other.pem"), "another certificate's"),
    "no key": (("cert.pem", None), "no key, in PEM"),
    "no certificate": (("key.pem", None), "no certificate"),
    "damaged": (("other.pem", "cert.pem"), "no key, in PEM"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_client_certificate_that_cannot_be_used(case: Case, mine: Path, kind: str) -> None:
    """Said once, before anything is asked for, and never with a prompt."""
    (cert, key), words = WRONG[kind]
    case.put(DATA)
    given = ["--cert", str(mine / cert)] + (["--key", str(mine / key)] if key else [])
    ended = get(case, *given)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (ExitCode.USAGE, 1), ended.stderr
    assert words in ended.stderr
    assert not case.server.requests


def test_a_file_of_certificates_without_one(case: Case) -> None:
    case.put(DATA)
    empty = case.folder / "empty.pem"
    empty.write_text("nothing\n", encoding="ascii")
    ended = get(case, "--ca-file", empty)
    assert (ended.returncode, ended.stdout) == (ExitCode.USAGE, "")
    said = f"segdl: --ca-file {empty} cannot be used: it holds no certificate in PEM\n"
    assert ended.stderr == said
    assert not case.server.requests


def test_n06_a_certificate_of_a_private_authority(case: Case, secure: FaultServer) -> None:
    """It is said how to trust it."""
    case.put(DATA, url=secure.url(PATH, QUERY))
    run = case.run()
    assert run.code is ExitCode.NETWORK
    assert str(run.error()).endswith(": give --ca-file for a private authority")


def test_a_password_behind_a_certificate_is_not_shown(case: Case, mine: Path) -> None:
    case.put(DATA)
    for file in (mine / "both.pem", mine / "nowhere.pem"):
        ended = get(case, "--cert", f"{file}:{CANARY}")  # `segdl` looks for it in what is shown
        assert ended.returncode == ExitCode.USAGE
    ended = get(case, "--key", mine / "key.pem")
    assert (ended.returncode, "--key: there is no --cert" in ended.stderr) == (2, True)


def test_a_client_certificate_is_shown_to_no_other_origin(
    case: Case, strict: FaultServer, mine: Path, authority: trustme.CA, ca_file: Path
) -> None:
    """Promise 13: credentials never to another origin, to which a redirect leads."""
    seen: list[bool] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"

    def elsewhere(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        while read_head(sock):
            seen.append(bool(sock.getpeercert()))
            sock.sendall(answer)

    case.put(DATA, url=strict.url(PATH, QUERY))
    with raw_server(elsewhere, tls=context) as other:
        strict.script(PATH, faults.redirect(f"https://127.0.0.1:{other.port}/there"))
        run = case.run(ca_file=str(ca_file), cert=str(mine / "both.pem"))
    assert run.error().status == 404
    assert seen == [False]
    assert strict.requests


# -- addresses -------------------------------------------------------------------------------------


def of(family: socket.AddressFamily, *place: str | int) -> Address:
    return Address(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, place)


@pytest.fixture
def silent() -> Iterator[Address]:
    """An address that lets nobody in: its queue is full, so Linux answers nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield of(socket.AF_INET, *listener.getsockname())
        for filler in fillers:
            filler.close()


def connect(addresses: list[Address]) -> None:
    patience = Patience(LATE, 0.05, lambda: False)
    first_to_answer(addresses, "host.example", patience.deadline(), 0, patience).close()


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a head start's end waits in vain."""
    monkeypatch.setattr("segdl.edges.transport.wire.dial.HEAD_START", 10 * LATE)


@pytest.mark.usefixtures("never")
def test_n08_an_ipv6_address_that_refuses_costs_nothing(case: Case) -> None:
    with raw_server(lambda sock: None) as server:
        alive = of(socket.AF_INET, "127.0.0.1", server.port)
        closed = of(socket.AF_INET6, "::1", server.port, 0, 0)
        connect([closed, alive])


def test_n08_addresses_that_are_silent_cost_a_head_start_each(silent: Address) -> None:
    with raw_server(lambda sock: None) as server:
        alive = of(socket.AF_INET, "127.0.0.1", server.port)
        began = time.monotonic()
        connect([silent, silent, alive])
        assert time.monotonic() - began >= 2 * HEAD_START


@pytest.mark.usefixtures("never")
def test_n08_an_address_that_answers_waits_for_no_other(silent: Address) -> None:
    with raw_server(lambda sock: None) as server:
        connect([of(socket.AF_INET, "127.0.0.1", server.port), silent])


def test_whoever_answers_first_is_the_one_and_the_others_are_closed(silent: Address) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with raw_server(lambda sock: None) as server:
        alive = of(socket.AF_INET, "127.0.0.1", server.port)
        connect([silent, alive, alive])
        server.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# -- headers ---------------------------------------------------------------------------------------


def test_no_request_has_a_header_that_a_store_would_refuse(case: Case) -> None:
    """Of what SignedHeaders does not name, a store refuses every `x-amz-*` and `x-oss-*`."""
    case.put(DATA)
    case.server.script(PATH, faults.hang_up(), on={2, 3})
    case.run(retries=4).report.raise_for_failures()
    free = {"host", "user-agent", "accept", "accept-encoding", "range", "if-match"}
    for request in case.server.requests:
        assert set(request.headers) <= free
        assert request.method == "GET"


def test_a_header_that_is_given_goes_before_segdl_s_own(case: Case) -> None:
    case.put(DATA)
    case.run(headers=(("USER-agent", "mine"),)).report.raise_for_failures()
    assert {request.headers["user-agent"] for request in case.server.requests} == {"mine"}


def test_the_command_line_s_header_goes_before_the_manifest_s(case: Case) -> None:
    case.put(DATA, query="")
    case.run(headers=(("x-secret", "mine"),)).report.raise_for_failures()
    assert {request.headers["x-secret"] for request in case.server.requests} == {"mine"}


@pytest.mark.parametrize("presigned", [True, False])
def test_headers_of_an_origin_come_back_with_it(case: Case, presigned: bool) -> None:
    """A redirect from another origin is no way to a presigned URL with headers, nor to none."""
    with FaultServer() as first:
        first.script(
            EVERY_PATH,
            faults.redirect(case.server.url(PATH, QUERY if presigned else "")),
        )
        case.put(DATA, url=first.url("/x"))
        case.run(headers=(("X-Own", f"secret {CANARY}"),)).report.raise_for_failures()
    for request in case.server.requests:
        assert ("x-secret" in request.headers) is not presigned
        assert "x-own" not in request.headers
    assert all("x-own" in request.headers for request in first.requests)


def test_workers_that_begin_together_load_the_trust_store_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[ssl.SSLContext] = []
    load, begun = ssl.create_default_context, threading.Barrier(4)

    def slowly(cafile: str | None = None) -> ssl.SSLContext:
        loaded.append(load(cafile=cafile))
        time.sleep(0.05)  # as long as a store of many certificates takes
        return loaded[-1]

    def begin() -> None:
        begun.wait()
        assert Reach(timeout=1.0, ca_file=None).tls(own=False) is loaded[0]

    monkeypatch.setattr(ssl, "create_default_context", slowly)
    trust._trust.cache_clear()
    with ThreadPoolExecutor(4) as workers:
        for worker in [workers.submit(begin) for _ in range(4)]:
            worker.result()
    assert len(loaded) == 1
    trust._trust.cache_clear()
