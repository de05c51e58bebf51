"""Fixtures: the fault server, the real servers, data; a summary of the servers that were missing.

A test that asks for a real server gets the marker `servers` by itself.
"""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import settings

from tests import canary
from tests.faults import FaultServer
from tests.servers import MinIO, Nginx, Rclone, S3Server, SeaweedFS
from tests.steady import Steady

S3_SERVERS: dict[str, type[S3Server]] = {"seaweed": SeaweedFS, "rclone": Rclone, "minio": MinIO}
SERVER_FIXTURES = {*S3_SERVERS, "nginx", "s3"}
MISSING = "server missing: "
# These take long and hardly depend on the interpreter: one Python is enough for them.
LONG = {
    "test_audit",
    "test_drafts",
    "test_fault_server",
    "test_faults_end_to_end",
    "test_manifest",
    "test_renewal",
    "test_resume",
    "test_runners",
    "test_runway",
    "test_schedule",
    "test_survey",
    "test_tails",
    "test_torture_kill",
    "test_torture_power",
    "test_verdict",
}

Made = Callable[[int, int], bytes]


def _made(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="session")
def made() -> Made:
    """`made(size, seed)`: that many bytes, the same ones every time."""
    return _made


@pytest.fixture
def standstills() -> Iterator[Steady]:
    """Tells how long the machine stood still during a test, whose time goes on."""
    with Steady() as clock:
        yield clock


@pytest.fixture
def steady() -> Iterator[Steady]:
    """The time of this process stands still while the machine does."""
    with Steady() as clock, pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", clock.monotonic)
        patch.setattr(time, "time", clock.time)
        yield clock


@pytest.fixture
def fault_server() -> Iterator[FaultServer]:
    """A fresh FaultServer over plain HTTP."""
    with FaultServer() as server:
        yield server


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that nobody trusts, but who is given `trusting`."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """For `FaultServer(tls=…)`: a certificate for localhost and 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate as a PEM file, for `--ca-file`."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedFS]:
    """SeaweedFS with a bucket, one for the session: keep to keys of your own."""
    _needs(SeaweedFS.available())
    with SeaweedFS() as server:
        yield server


@pytest.fixture(scope="session")
def rclone() -> Iterator[Rclone]:
    """rclone's S3 server with a bucket, one for the session."""
    _needs(Rclone.available())
    with Rclone() as server:
        yield server


@pytest.fixture(scope="session")
def minio() -> Iterator[MinIO]:
    """MinIO with a versioned bucket, one for the session."""
    _needs(MinIO.available())
    with MinIO(versioned=True) as server:
        yield server


@pytest.fixture(scope="session", params=list(S3_SERVERS))
def s3(request: pytest.FixtureRequest) -> S3Server:
    """Each of the S3 servers in turn."""
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session")
def nginx(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx with files, gated files and files over TLS, one for the session."""
    folder = tmp_path_factory.mktemp("nginx-certificate")
    chain, key = folder / "chain.pem", folder / "key.pem"
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(key)
    for pem in issued.cert_chain_pems:
        pem.write_to_path(chain, append=True)
    _needs(Nginx.available())
    with Nginx((chain, key)) as server:
        yield server


@pytest.fixture(autouse=True)
def no_secret_gets_out(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The secrets of every test, and where they must not be after it (see tests.canary)."""
    for name, value in canary.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    used = "tmp_path" in request.fixturenames and not _plants(request.node)
    folder: Path | None = request.getfixturevalue("tmp_path") if used else None
    yield
    given = canary.children()
    assert not given or _plants(request.node), f"a secret went to {given}"
    found = list(canary.leaks(folder)) if folder else []
    assert not found, f"a secret in {', '.join(found)}"


def _plants(item: pytest.Item) -> bool:
    return item.get_closest_marker("plants_secrets") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed or logged holds no secret; one that does has failed."""
    report = yield
    if report.passed and not _plants(item):
        for title, text in report.sections:
            if canary.CANARY in text:
                report.outcome, report.longrepr = "failed", f"a secret in {title}"
    return report


def pytest_configure() -> None:
    canary.watch_children()
    settings.register_profile("suite", deadline=None)  # a busy machine is no fault of an example
    settings.load_profile("suite")
    logging.getLogger("botocore").setLevel(logging.INFO)  # below, it tells all that it signs


def _needs(missing: str | None) -> None:
    if missing is not None:
        pytest.skip(MISSING + missing)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for a real server, before `-m` selects."""
    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("servers")
        if item.path.stem in LONG:
            item.add_marker("slow")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the servers that were missing, and how many tests went without them."""
    missing: Counter[str] = Counter()
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        _, found, what = reason.partition(MISSING)
        if found:
            missing[what] += 1
    if missing:
        terminalreporter.section("servers that were not here", yellow=True)
    for what, count in sorted(missing.items()):
        terminalreporter.line(f"{what}; {count} tests skipped")
