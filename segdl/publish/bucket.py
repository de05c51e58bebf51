"""A bucket: put, presign, list — the one door to boto3."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from segdl.core.dataclass import dataclass
from segdl.core.errors import ExitCode, SegdlError

WEEK = timedelta(days=7)


class BucketError(SegdlError):
    """The store refused, or could not be reached. `code` and `request_id` are the store's."""

    exit_code = ExitCode.NETWORK


@dataclass(frozen=True, slots=True)
class Held:
    """An object in a bucket: its key, its size in bytes, its ETag with the quotes."""

    key: str
    size: int
    etag: str


class Bucket:
    """A bucket of an S3 store, addressed by path, signed with V4.

    `endpoint` is the store's URL (`http://minio:9000`), and share URLs begin with it: the host is
    signed. A store on loopback is never asked through a proxy. Use it in a `with`, or `close` it.
    """

    def __init__(
        self,
        endpoint: str,
        name: str,
        access_key: str,
        secret_key: str,
        region: str = "us-east-1",
    ) -> None:
        self.endpoint = endpoint
        self.name = name
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=region,
            config=_config(endpoint),
        )

    def create(self, *, versioned: bool = False) -> None:
        """Make the bucket; one that is ours already is fine. Raises BucketError.

        rclone says `BucketAlreadyExists` of our own as well, so the bucket itself is asked.
        """
        with _translated():
            try:
                self._client.create_bucket(Bucket=self.name)
            except ClientError as error:
                if not error.response["Error"].get("Code", "").startswith("BucketAlready"):
                    raise
                self._client.head_bucket(Bucket=self.name)
            if versioned:
                state = {"Status": "Enabled"}
                self._client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration=state)

    def put(self, key: str, data: bytes | Path, part_size: int | None = None) -> str | None:
        """Upload bytes or a file, and return the version's id where the bucket keeps versions.

        With `part_size` (bytes; S3 wants 5 MiB or more of all parts but the last) as a multipart
        upload, even of one part; otherwise in one request, so that the ETag is the MD5.
        Raises BucketError, and OSError if the file cannot be read.
        """
        with data.open("rb") if isinstance(data, Path) else BytesIO(data) as body, _translated():
            if part_size is None:
                answer = self._client.put_object(Bucket=self.name, Key=key, Body=body)
            else:
                answer = self._put_parts(key, body, part_size)
        version: str | None = answer.get("VersionId")
        return version

    def _put_parts(self, key: str, body: BinaryIO, part_size: int) -> dict[str, Any]:
        """A multipart upload, one part after the other; a failed one leaves nothing behind."""
        started = self._client.create_multipart_upload(Bucket=self.name, Key=key)
        upload = {"Bucket": self.name, "Key": key, "UploadId": started["UploadId"]}
        try:
            parts = list(self._parts(upload, body, part_size))
            answer: dict[str, Any] = self._client.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": parts}
            )
        except BaseException:
            with contextlib.suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**upload)
            raise
        return answer

    def _parts(
        self, upload: dict[str, str], body: BinaryIO, part_size: int
    ) -> Iterator[dict[str, Any]]:
        for number in itertools.count(1):
            data = body.read(part_size)
            if not data and number > 1:
                return
            sent = self._client.upload_part(**upload, PartNumber=number, Body=data)
            yield {"PartNumber": number, "ETag": sent["ETag"]}

    def presign(
        self, key: str, expires: timedelta | int = WEEK, *, version_id: str | None = None
    ) -> str:
        """A share URL for a GET of `key`, good for `expires` (seconds if an int; a week at most).

        Made from the keys alone: nothing is asked, so the object need not be there.
        """
        seconds = expires if isinstance(expires, int) else int(expires.total_seconds())
        params = {"Bucket": self.name, "Key": key}
        if version_id is not None:
            params["VersionId"] = version_id
        with _translated():
            url: str = self._client.generate_presigned_url(
                "get_object", Params=params, ExpiresIn=seconds
            )
        return url

    def list(self, prefix: str = "") -> Iterator[Held]:
        """Every object whose key begins with `prefix`, in the store's order. Raises BucketError.

        rclone lists ETags without their quotes; here all have them.
        """
        with _translated():
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.name, Prefix=prefix):
                for each in page.get("Contents", ()):
                    yield Held(each["Key"], each["Size"], f'"{each["ETag"].strip(chr(34))}"')

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine. Raises BucketError."""
        with _translated():
            self._client.delete_object(Bucket=self.name, Key=key)

    def close(self) -> None:
        """Close the connections to the store."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _config(endpoint: str) -> Config:
    """V4 signatures (boto3 presigns V2 by itself), and no checksums that only AWS knows."""
    return Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "max_attempts": 5},
        proxies={} if _on_loopback(endpoint) else None,
    )


def _on_loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """boto's exceptions as ours; `from None`, since theirs may hold a signed URL."""
    try:
        yield
    except ClientError as error:
        told = error.response.get("Error", {})
        about = error.response.get("ResponseMetadata", {})
        raise BucketError(
            f"the store refused {error.operation_name}: {told.get('Message') or told.get('Code')}",
            status=about.get("HTTPStatusCode"),
            code=told.get("Code"),
            request_id=about.get("RequestId"),
        ) from None
    except BotoCoreError as error:
        raise BucketError(f"the store could not be asked: {type(error).__name__}") from None
