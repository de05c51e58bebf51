"""Whole orders from real servers: killed, re-signed, expired, gated; byte-exact every time.

`SEGDL_TEST_ORDER=20x100MiB` sets the size of the killed order; the default keeps the suite short.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

import segdl
from segdl.core.options import MIB, parse_size
from segdl.publish.bucket import Bucket
from tests.conftest import Made
from tests.faults import TCPProxy
from tests.servers import MinIO, Nginx, Rclone, S3Server

CONNECTIONS = 4
KILLS = 10


@dataclass(frozen=True, slots=True)
class Archive:
    """One object of a made-up order."""

    key: str
    size: int
    sha256: str


def order_size() -> tuple[int, int]:
    """How many archives the killed order has, and the bytes of one."""
    count, _, size = os.environ.get("SEGDL_TEST_ORDER", "6x12MiB").partition("x")
    return int(count), parse_size(size)


def upload(server: S3Server, made: Made, prefix: str, count: int, size: int) -> list[Archive]:
    """A made-up order in a server's bucket; no two archives are of one size."""
    archives = []
    for number in range(count):
        data = made(size + number * 1111, number)
        key = f"{prefix}/{number:03d}.7z"
        server.put(key, data)
        archives.append(Archive(key, len(data), hashlib.sha256(data).hexdigest()))
    return archives


def manifest(
    bucket: Bucket, archives: list[Archive], path: Path, *, proven: bool = True, **signing: object
) -> Path:
    """Write the manifest of presigned URLs; `proven` puts the digests in."""
    files = []
    for archive in archives:
        url = bucket.presign(archive.key, **signing)  # type: ignore[arg-type]
        entry: dict[str, object] = {"path": archive.key, "url": url, "size": archive.size}
        files.append(entry | ({"hash": {"sha256": archive.sha256}} if proven else {}))
    path.write_text(json.dumps({"segdl": 1, "order": "SO-1", "files": files}))
    return path


def exact(out: Path, archives: list[Archive]) -> bool:
    """Whether every archive is there, byte for byte."""
    return all(
        hashlib.sha256((out / archive.key).read_bytes()).hexdigest() == archive.sha256
        for archive in archives
    )


@contextmanager
def child(source: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`segdl get` in a process group of its own, ended for sure."""
    command = [sys.executable, "-m", "segdl", "get", str(source), "-o", str(out)]
    command += ["--connections", str(CONNECTIONS), "--progress", "none"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until_sent(proxy: TCPProxy, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server has sent so many bytes, or the client is done."""
    while proxy.sent < count and process.poll() is None:
        time.sleep(0.001)


def test_killed_ten_times_and_still_exact(s3: S3Server, made: Made, tmp_path: Path) -> None:
    count, size = order_size()
    archives = upload(s3, made, f"killed-{type(s3).__name__}", count, size)
    total = sum(archive.size for archive in archives)
    chance = random.Random(20231213)
    out = tmp_path / "out"
    with TCPProxy("127.0.0.1", s3.port) as proxy:
        bucket = s3.bucket_at(f"http://127.0.0.1:{proxy.port}")
        source = manifest(bucket, archives, tmp_path / "order.json")
        for moment in sorted(chance.uniform(0.02, 0.98) for _ in range(KILLS)):
            with child(source, out) as process:
                until_sent(proxy, int(total * moment), process)
                assert process.poll() is None, "the order was over before it could be killed"
        with child(source, out) as process:
            assert process.wait(600) == 0
        heads = 64 * 1024 * (KILLS + 1)
        again = proxy.sent - total
    assert exact(out, archives)
    print(f"{type(s3).__name__}: {again} bytes again after {KILLS} kills")
    assert again <= KILLS * CONNECTIONS * MIB + heads


def test_a_re_signed_order_goes_on(s3: S3Server, made: Made, tmp_path: Path) -> None:
    archives = upload(s3, made, f"resigned-{type(s3).__name__}", 3, 9 * MIB)
    total = sum(archive.size for archive in archives)
    out = tmp_path / "out"
    with TCPProxy("127.0.0.1", s3.port) as proxy:
        bucket = s3.bucket_at(f"http://127.0.0.1:{proxy.port}")
        first = manifest(bucket, archives, tmp_path / "1.json", proven=False)
        with child(first, out) as process:
            until_sent(proxy, total // 2, process)
        held = segdl_held(out)
        before = proxy.sent
        second = manifest(bucket, archives, tmp_path / "2.json", proven=False, expires=1234)
        assert first.read_text() != second.read_text()
        report = segdl.download(second, out)
        report.raise_for_failures()
        assert proxy.sent - before <= total - held + 64 * 1024
        assert report.bytes == total - held
    assert exact(out, archives)


def segdl_held(out: Path) -> int:
    """What the next run will find held, delivered files included."""
    held: list[int] = []

    def first(event: segdl.Event) -> None:
        if event.event == "order_started":
            held.append(event.held)  # type: ignore[attr-defined]

    control = segdl.Control()
    control.cancel()
    segdl.download(out.parent / "1.json", out, on_event=first, control=control)
    return held[0]


def test_links_that_have_ended_are_named_and_a_fresh_manifest_goes_on(
    s3: S3Server, made: Made, tmp_path: Path
) -> None:
    archives = upload(s3, made, f"expired-{type(s3).__name__}", 2, 3 * MIB)
    out = tmp_path / "out"
    stale = manifest(s3.bucket, archives, tmp_path / "1.json", expires=timedelta(seconds=1))
    time.sleep(2.1)
    report = segdl.download(stale, out)
    assert report.exit_code == 3
    assert [type(f.error) for f in report.failures] == [segdl.ExpiredError] * 2
    assert report.bytes == 0
    fresh = manifest(s3.bucket, archives, tmp_path / "2.json")
    assert segdl.download(fresh, out).exit_code == 0
    assert exact(out, archives)


def test_a_refused_signature_is_no_expiry(s3: S3Server, made: Made, tmp_path: Path) -> None:
    (archive,) = upload(s3, made, f"forged-{type(s3).__name__}", 1, 70_000)
    url = s3.presign(archive.key)
    forged = url[:-4] + ("0000" if not url.endswith("0000") else "1111")
    listed = tmp_path / "urls.txt"
    listed.write_text(forged + "\n")
    report = segdl.download(listed, tmp_path / "out")
    assert report.exit_code == 3
    (failure,) = report.failures
    assert type(failure.error) is segdl.RefusedError
    assert failure.error.status in (400, 403)
    assert url[-20:-4] not in str(failure.error)


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, 16 * MIB - 1])
def test_every_length(s3: S3Server, made: Made, tmp_path: Path, size: int) -> None:
    data = made(size, size)
    s3.put(f"length-{size}.bin", data)
    listed = tmp_path / "urls.txt"
    listed.write_text(s3.presign(f"length-{size}.bin") + "\n")
    segdl.download(listed, tmp_path / "out").raise_for_failures()
    assert (tmp_path / "out" / f"length-{size}.bin").read_bytes() == data


@pytest.mark.parametrize("part_size", [5 * MIB, 8 * MIB, 16 * MIB])
def test_a_multipart_upload_is_proved_by_its_etag(
    minio: MinIO, made: Made, tmp_path: Path, part_size: int
) -> None:
    data = made(33 * MIB + 5, part_size)
    minio.put("multipart.7z", data, part_size=part_size)
    with TCPProxy("127.0.0.1", minio.port) as proxy:
        bucket = minio.bucket_at(f"http://127.0.0.1:{proxy.port}")
        listed = tmp_path / "urls.txt"
        listed.write_text(bucket.presign("multipart.7z") + "\n")
        report = segdl.download(listed, tmp_path / "out")
        # Where the parts are shorter than what the probe asked for, the rest may be in flight.
        assert proxy.sent < len(data) + (MIB if part_size < 8 * MIB else 64 * 1024)
    (receipt,) = report.receipts
    assert receipt.grade is segdl.Grade.ETAG
    assert receipt.segments.size == part_size
    assert (tmp_path / "out" / "multipart.7z").read_bytes() == data


def test_an_object_replaced_between_two_runs_is_never_mixed(
    minio: MinIO, made: Made, tmp_path: Path
) -> None:
    old, new = made(20 * MIB, 1), made(20 * MIB, 2)
    minio.put("replaced.7z", old)
    with TCPProxy("127.0.0.1", minio.port) as proxy:
        bucket = minio.bucket_at(f"http://127.0.0.1:{proxy.port}")
        source = tmp_path / "urls.txt"
        source.write_text(bucket.presign("replaced.7z") + "\n")
        proxy.blackhole(4 * MIB)  # of each connection: not all of it comes
        with child(source, tmp_path / "out") as process:
            until_sent(proxy, 10 * MIB, process)
        proxy.clear()
        minio.put("replaced.7z", new)
        segdl.download(source, tmp_path / "out").raise_for_failures()
    assert (tmp_path / "out" / "replaced.7z").read_bytes() == new


def test_rclone_answers_ranges_with_200_and_is_believed(
    rclone: Rclone, made: Made, tmp_path: Path
) -> None:
    data = made(20 * MIB, 3)
    rclone.put("two-hundred.7z", data)
    listed = tmp_path / "urls.txt"
    listed.write_text(rclone.presign("two-hundred.7z") + "\n")
    report = segdl.download(listed, tmp_path / "out")
    assert report.receipts[0].resumable
    assert (tmp_path / "out" / "two-hundred.7z").read_bytes() == data


def test_nginx_serves_files(nginx: Nginx, made: Made, tmp_path: Path) -> None:
    data = made(20 * MIB + 7, 4)
    nginx.put("plain.7z", data)
    report = segdl.download(nginx.url("plain.7z"), tmp_path)
    assert report.receipts[0].grade is segdl.Grade.PINNED
    assert (tmp_path / "plain.7z").read_bytes() == data


def test_nginx_behind_an_application_wants_its_header(
    nginx: Nginx, made: Made, tmp_path: Path
) -> None:
    data = made(20 * MIB + 7, 5)
    nginx.put("gated.7z", data)
    url = nginx.gated_url("gated.7z")
    origin = url.rsplit("/", url.count("/") - 2)[0]
    assert segdl.download(url, tmp_path).exit_code == 3
    order = {"segdl": 1, "headers": {origin: nginx.headers}, "files": [{"url": url}]}
    source = tmp_path / "order.json"
    source.write_text(json.dumps(order))
    segdl.download(source, tmp_path).raise_for_failures()
    assert (tmp_path / "gated.7z").read_bytes() == data


def test_nginx_over_tls(nginx: Nginx, ca_file: Path, made: Made, tmp_path: Path) -> None:
    data = made(9 * MIB, 6)
    nginx.put("secure.7z", data)
    url = nginx.secure_url("secure.7z")
    distrusted = segdl.download(url, tmp_path)
    assert distrusted.exit_code == 7
    assert "certificate" in str(distrusted.failures[0].error)
    options = segdl.Options(ca_file=str(ca_file))
    segdl.download(url, tmp_path, options=options).raise_for_failures()
    assert (tmp_path / "secure.7z").read_bytes() == data
