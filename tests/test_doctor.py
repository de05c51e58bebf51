# ruff: noqa: E501 -- a table has a row a line
"""Why a link is refused: a table of what stores, gateways and filters answer, and what it means.

The bodies are as they were recorded (our own servers, tests/servers/RECORDED.md; others, from their
documentation and from what users have reported), with names and ids made up.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import segdl
from segdl.core.complaint import read_complaint
from segdl.core.diagnosis import EXPIRED, MISSING, Diagnosis, Kind, Who
from segdl.core.errors import BusyError, ExpiredError, RefusedError, SegdlError, TransientError
from segdl.core.events import TargetFailed, trouble
from segdl.core.head import Head
from segdl.core.urls import ShareURL, parse_url
from segdl.core.verdict import Ask, judge
from tests.servers import MinIO, Rclone, S3Server

NOW = datetime(2023, 12, 13, 8, tzinfo=UTC).timestamp()
HOUR = 3600.0
SECRET = "c0ffee" * 10 + "beef"  # 64 digits, as a signature has


def basic(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")


def v4(
    signed: float = -HOUR, lasts: int = 7200, *, key: str = "AKIAKEY", token: str = "", **more: str
) -> ShareURL:
    """An S3 V4 link, signed so many seconds from now, that lasts so many."""
    names = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{key}%2F20231213%2Fus-east-1%2Fs3%2Faws4_request",
        "X-Amz-Date": basic(NOW + signed),
        "X-Amz-Expires": str(lasts),
        **({"X-Amz-Security-Token": token} if token else {}),
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": SECRET,
    }
    names |= {f"X-Amz-{name}": value for name, value in more.items()}
    query = "&".join(f"{name}={value}" for name, value in names.items() if value)
    return parse_url(f"https://orders.store.example/chips/1.7z?{query}")


def v2(ends: float, key: str = "AWSAccessKeyId", host: str = "store.example") -> ShareURL:
    return parse_url(f"https://{host}/o/1.7z?{key}=KEY&Expires={NOW + ends:.0f}&Signature={SECRET}")


def gcs(signed: float = -HOUR, lasts: int = 7200) -> ShareURL:
    return parse_url(
        "https://storage.googleapis.com/o/1.7z?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=me%2Fx"
        f"&X-Goog-Date={basic(NOW + signed)}&X-Goog-Expires={lasts}&X-Goog-SignedHeaders=host&X-Goog-Signature={SECRET}"
    )


def azure(start: float = -HOUR, end: float = HOUR) -> ShareURL:
    times = [
        datetime.fromtimestamp(NOW + t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for t in (start, end)
    ]
    return parse_url(
        f"https://me.blob.core.windows.net/o/1.7z?sv=2022-11-02&st={times[0]}&se={times[1]}&sr=b&sp=r&sig={SECRET}"
    )


def cos(start: float = -HOUR, end: float = HOUR) -> ShareURL:
    span = f"{NOW + start:.0f};{NOW + end:.0f}"
    return parse_url(
        f"https://o-125.cos.example/1.7z?q-sign-algorithm=sha1&q-ak=AK&q-sign-time={span}&q-key-time={span}&q-header-list=host&q-url-param-list=&q-signature={SECRET}"
    )


def cloudfront(ends: float) -> ShareURL:
    policy = {
        "Statement": [
            {"Resource": "*", "Condition": {"DateLessThan": {"AWS:EpochTime": NOW + ends}}}
        ]
    }
    text = (
        base64.b64encode(json.dumps(policy).encode())
        .decode()
        .translate(str.maketrans("+=/", "-_~"))
    )
    return parse_url(
        f"https://d1.cloudfront.net/1.7z?Policy={text}&Signature={SECRET}&Key-Pair-Id=K1"
    )


def head(status: int, body: str = "", *, there: float | None = NOW, **headers: Any) -> Head:
    """An answer; an underscore stands for a hyphen. `there` is the server's clock."""
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    pairs += [("date", formatdate(there, usegmt=True))] if there is not None else []
    return Head(status, tuple(pairs), body.encode())


def s3(
    status: int, code: str, message: str = "", more: str = "", *, there: float | None = NOW
) -> Head:
    said = f"<Message>{message}</Message>" if message else ""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>{said}{more}'
        "<Resource>/o/1.7z</Resource><RequestId>REQ1</RequestId><HostId>h</HostId></Error>"
    )
    return head(status, body, there=there, content_type="application/xml", x_amz_request_id="REQ1")


def page(status: int, text: str, **headers: Any) -> Head:
    return head(
        status,
        f"<!DOCTYPE html>\n<html><head>{text}</head><body></body></html>",
        content_type="text/html",
        **headers,
    )


AZURE = (
    '﻿<?xml version="1.0" encoding="utf-8"?><Error><Code>AuthenticationFailed</Code><Message>Server failed to '
    "authenticate the request. Make sure the value of Authorization header is formed correctly including the "
    "signature.\nRequestId:2c25ad7c-a01e-0004-04a3-56c77b000000\nTime:2023-12-13T08:00:00.8096444Z</Message>"
    "<AuthenticationErrorDetail>{}</AuthenticationErrorDetail></Error>"
)
MISMATCH = "The request signature we calculated does not match the signature you provided. Check your key and signing method."
RCLONE = (
    "The difference between the request time and the server&#39;s time exceeds the maximum allowed."
)
CANONICAL = (
    "<StringToSign>AWS4-HMAC-SHA256\n20231213T070000Z\nx</StringToSign><CanonicalRequest>GET\n/chips/1.7z\n"
    f"X-Amz-Algorithm=AWS4-HMAC-SHA256&amp;X-Amz-Signature={SECRET}\nhost:HOST\n\nhost\nUNSIGNED-PAYLOAD</CanonicalRequest>"
)


def window(start: str, end: str, current: str) -> str:
    return AZURE.format(
        f"Signature not valid in the specified time frame: Start [{start}] - Expiry [{end}] - Current [{current}]"
    )


LASTING, STS = v4(), v4(token="FwoGZXIvYXdzE", key="ASIAKEY")
FUTURE = v4(signed=20 * 60)
ENDED = v4(signed=-3 * HOUR)

# fmt: off
TABLE: list[tuple[str, ShareURL, Head, Kind, Who, str]] = [
    # -- expired, in every dialect
    ("MinIO, expired", ENDED, s3(403, "AccessDenied", "Request has expired"), Kind.EXPIRED, Who.PUBLISHER, "the link has expired"),
    ("AWS, expired", ENDED, s3(403, "AccessDenied", "Request has expired", "<X-Amz-Expires>7200</X-Amz-Expires><Expires>2023-12-13T07:00:00Z</Expires><ServerTime>2023-12-13T08:00:00Z</ServerTime>"), Kind.EXPIRED, Who.PUBLISHER, "fresh manifest"),
    ("AWS V2, expired", v2(-60), s3(403, "AccessDenied", "Request has expired", "<Expires>2023-12-13T07:59:00Z</Expires><ServerTime>2023-12-13T08:00:00Z</ServerTime>"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("SeaweedFS, expired", ENDED, s3(403, "AccessDenied", "Request has expired"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("Ceph, expired", ENDED, s3(403, "AccessDenied", "The pre-signed URL has expired"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("Garage, expired", ENDED, s3(400, "InvalidRequest", "Bad request: Date is too old"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("R2, expired", ENDED, s3(403, "ExpiredRequest", "Request has expired"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("GCS V4, expired", gcs(-3 * HOUR), s3(400, "ExpiredToken", "Invalid argument."), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("GCS V2, expired", v2(-60, "GoogleAccessId"), s3(400, "ExpiredToken", "The provided token has expired.", "<Details>Request has expired: 1702454340</Details>"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("GCS, expired by its clock alone", gcs(), s3(400, "ExpiredToken", "Invalid argument."), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("Azure, expired", azure(-25 * HOUR, -24 * HOUR), head(403, window("Tue, 12 Dec 2023 07:00:00 GMT", "Tue, 12 Dec 2023 08:00:00 GMT", "Wed, 13 Dec 2023 08:00:00 GMT"), x_ms_request_id="2c25", x_ms_error_code="AuthenticationFailed"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("Azure, expired, no start", azure(-25 * HOUR, -24 * HOUR), head(403, AZURE.format("Signed expiry time [Tue, 12 Dec 2023 08:00:00 GMT] has to be after signed start time [Wed, 13 Dec 2023 08:00:00 GMT]")), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("COS, expired", cos(-2 * HOUR, -HOUR), s3(403, "AccessDenied", "Request has expired"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("OSS, expired", v2(-60, "OSSAccessKeyId"), s3(403, "AccessDenied", "Request has expired.", "<Expires>2023-12-13T07:59:00.000Z</Expires><ServerTime>2023-12-13T08:00:00.000Z</ServerTime><EC>0002-00000069</EC>"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("OBS, expired", v2(-60, "AccessKeyId"), s3(403, "AccessDenied", "Request has expired"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("CloudFront, expired", cloudfront(-60), s3(403, "AccessDenied", "Access denied"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("rclone, expired", ENDED, s3(400, "AccessDenied", RCLONE), Kind.EXPIRED, Who.PUBLISHER, "the link has expired"),
    ("noobaa, expired", ENDED, s3(403, "RequestExpired", "Request has expired."), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("noobaa, older", ENDED, s3(403, "RequestTimeTooSkewed", RCLONE), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("nginx, its own end is over", ENDED, page(403, "<title>403 Forbidden</title>"), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("no body, its own end is over", ENDED, head(403), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("a signature that does not matter any more", ENDED, s3(403, "SignatureDoesNotMatch", MISMATCH), Kind.EXPIRED, Who.PUBLISHER, ""),
    # -- not yet valid, and clocks
    ("MinIO, not yet valid", FUTURE, s3(403, "AccessDenied", "Request is not valid yet"), Kind.NOT_YET_VALID, Who.CUSTOMER, "run again in 20 minutes"),
    ("AWS, not yet valid", v4(signed=40 * HOUR), s3(403, "AccessDenied", "Request is not yet valid", "<ServerTime>2023-12-13T08:00:00Z</ServerTime>"), Kind.NOT_YET_VALID, Who.PUBLISHER, "clock of whoever signed it"),
    ("Azure, not yet valid", azure(10 * 60, HOUR), head(403, window("Wed, 13 Dec 2023 08:10:00 GMT", "Wed, 13 Dec 2023 09:00:00 GMT", "Wed, 13 Dec 2023 08:00:00 GMT")), Kind.NOT_YET_VALID, Who.CUSTOMER, "run again in 10 minutes"),
    ("Azure, not yet valid, by its own clock alone", azure(-15 * 60, HOUR), head(403, window("Wed, 13 Dec 2023 07:45:00 GMT", "Wed, 13 Dec 2023 09:00:00 GMT", "Wed, 13 Dec 2023 07:30:00 GMT"), there=None), Kind.NOT_YET_VALID, Who.CUSTOMER, "run again in 15 minutes"),
    ("the server's clock is behind", v4(signed=-60), s3(403, "AccessDenied", "Request is not valid yet", there=NOW - 30 * 60), Kind.NOT_YET_VALID, Who.CUSTOMER, "this machine's clock is 30 minutes ahead of the server's"),
    ("this machine's clock is behind", v4(signed=-HOUR), s3(403, "AccessDenied", "Request has expired", there=NOW + 2 * HOUR), Kind.EXPIRED, Who.PUBLISHER, "this machine's clock is 120 minutes behind the server's"),
    ("the same, by ServerTime", v4(signed=-HOUR), s3(403, "AccessDenied", "Request has expired", "<ServerTime>2023-12-13T10:00:00Z</ServerTime>", there=None), Kind.EXPIRED, Who.PUBLISHER, "120 minutes behind"),
    ("rclone, and the link lasts", LASTING, s3(400, "AccessDenied", RCLONE), Kind.CLOCK, Who.OPERATOR, "clock"),
    ("S3, skewed, and the link lasts", LASTING, s3(403, "RequestTimeTooSkewed", RCLONE, there=NOW + 30 * 60), Kind.CLOCK, Who.OPERATOR, "30 minutes behind"),
    # -- credentials that ended or were revoked
    ("AWS, temporary credentials", STS, s3(400, "ExpiredToken", "The provided token has expired."), Kind.CREDENTIALS_ENDED, Who.PUBLISHER, "temporary credentials"),
    ("AWS, a bad token", STS, s3(400, "InvalidToken", "The provided token is malformed or otherwise invalid."), Kind.CREDENTIALS_ENDED, Who.PUBLISHER, ""),
    ("MinIO, temporary credentials", STS, s3(403, "InvalidTokenId", "The security token included in the request is invalid"), Kind.CREDENTIALS_ENDED, Who.PUBLISHER, ""),
    ("MinIO, a temporary key is gone", STS, s3(403, "InvalidAccessKeyId", "The Access Key Id you provided does not exist in our records."), Kind.CREDENTIALS_ENDED, Who.PUBLISHER, ""),
    ("OSS, temporary credentials", parse_url(f"{v2(HOUR, 'OSSAccessKeyId').origin}/1?OSSAccessKeyId=STS.X&Expires={NOW + HOUR:.0f}&security-token=t&Signature={SECRET}"), s3(403, "SecurityTokenExpired", "The security token you provided has expired."), Kind.CREDENTIALS_ENDED, Who.PUBLISHER, ""),
    ("expired before its own end, temporary", STS, s3(403, "AccessDenied", "Request has expired"), Kind.CREDENTIALS_ENDED, Who.PUBLISHER, ""),
    ("temporary, and its own end is over", v4(signed=-3 * HOUR, token="t", key="ASIA1"), s3(400, "ExpiredToken", "The provided token has expired."), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("MinIO, key", LASTING, s3(403, "InvalidAccessKeyId", "The Access Key Id you provided does not exist in our records."), Kind.KEY_REVOKED, Who.PUBLISHER, "does not know the key"),
    ("OSS, key disabled", v2(HOUR, "OSSAccessKeyId"), s3(403, "InvalidAccessKeyId", "The OSS Access Key Id is disabled."), Kind.KEY_REVOKED, Who.PUBLISHER, ""),
    ("Garage, key", LASTING, s3(403, "AccessDenied", "Forbidden: No such key: GK31c2f218a2e44f485b94239e"), Kind.KEY_REVOKED, Who.PUBLISHER, ""),
    ("CloudFront, key", cloudfront(HOUR), head(403, '<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidKey</Code><Message>Unknown Key</Message></Error>', x_amz_cf_id="cf"), Kind.KEY_REVOKED, Who.PUBLISHER, ""),
    ("R2, key", LASTING, s3(401, "Unauthorized", "Unauthorized"), Kind.KEY_REVOKED, Who.PUBLISHER, ""),
    ("OSS, account", v2(HOUR, "OSSAccessKeyId"), s3(403, "UserDisable", "UserDisable"), Kind.ACCOUNT, Who.PUBLISHER, "blocked at the store"),
    ("AWS, account", LASTING, s3(403, "AllAccessDisabled", "All access to this object has been disabled"), Kind.ACCOUNT, Who.PUBLISHER, ""),
    # -- changed on the way
    ("MinIO, signature", LASTING, s3(403, "SignatureDoesNotMatch", MISMATCH), Kind.ALTERED, Who.PUBLISHER, "--connect-to"),
    ("AWS, host changed on the way", LASTING, s3(403, "SignatureDoesNotMatch", MISMATCH, CANONICAL.replace("HOST", "10.0.0.7:9000")), Kind.ALTERED, Who.CUSTOMER, "asked as 10.0.0.7:9000, and the link is for orders.store.example"),
    ("AWS, signature, the same host", LASTING, s3(403, "SignatureDoesNotMatch", MISMATCH, CANONICAL.replace("HOST", "orders.store.example")), Kind.ALTERED, Who.PUBLISHER, "another secret"),
    ("GCS, signature", gcs(), s3(403, "SignatureDoesNotMatch", "Access denied.", "<Details>The request signature we calculated does not match the signature you provided. Check your Google secret key and signing method.</Details>"), Kind.ALTERED, Who.PUBLISHER, ""),
    ("Azure, signature", azure(), head(403, AZURE.format("Signature did not match. String to sign used was r\n\n2023-12-13T09:00:00Z")), Kind.ALTERED, Who.PUBLISHER, ""),
    ("Garage, signature", LASTING, s3(403, "AccessDenied", "Forbidden: Invalid signature"), Kind.ALTERED, Who.PUBLISHER, ""),
    ("AWS, an unsigned header", LASTING, s3(403, "AccessDenied", "There were headers present in the request which were not signed", "<HeadersNotSigned>x-amz-meta</HeadersNotSigned>"), Kind.ALTERED, Who.CUSTOMER, "--header"),
    ("Garage, an unsigned header", LASTING, s3(400, "InvalidRequest", "Bad request: Header `x-amz-checksum-mode` is not signed"), Kind.ALTERED, Who.CUSTOMER, "--header"),
    ("GCS, the query was dropped", gcs(), s3(403, "AccessDenied", "Access denied.", "<Details>Anonymous caller does not have storage.objects.get access to the object.</Details>"), Kind.ALTERED, Who.CUSTOMER, "did not reach"),
    # -- the link itself
    ("copied from a web page", parse_url(str(LASTING.origin) + "/1.7z?" + LASTING.query.replace("&", "&amp;")), s3(403, "AccessDenied", "Access Denied."), Kind.MALFORMED, Who.CUSTOMER, "`&amp;`"),
    ("cut short: no signature", v4(Signature=""), s3(403, "AccessDenied", "Access Denied."), Kind.MALFORMED, Who.CUSTOMER, "lacks X-Amz-Signature"),
    ("cut short: half a signature", v4(Signature=SECRET[:20]), s3(403, "SignatureDoesNotMatch", MISMATCH), Kind.MALFORMED, Who.CUSTOMER, "20 characters"),
    ("cut short at the first &", v4(Credential="", Date="", Expires="", SignedHeaders="", Signature=""), s3(400, "AuthorizationQueryParametersError", "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential parameters"), Kind.MALFORMED, Who.CUSTOMER, "copy the manifest again"),
    ("MinIO, over a week", v4(lasts=700_000), s3(400, "AuthorizationQueryParametersError", "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds"), Kind.MALFORMED, Who.PUBLISHER, "tell the publisher"),
    ("AWS, region", LASTING, s3(400, "AuthorizationHeaderMalformed", "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'", "<Region>eu-west-1</Region>"), Kind.MALFORMED, Who.PUBLISHER, ""),
    ("AWS, V2 is not taken", v2(HOUR), s3(400, "InvalidRequest", "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."), Kind.MALFORMED, Who.PUBLISHER, ""),
    ("CloudFront, no key", cloudfront(HOUR), head(403, "<Error><Code>MissingKey</Code><Message>Missing Key-Pair-Id query parameter or cookie value</Message></Error>"), Kind.MALFORMED, Who.PUBLISHER, ""),
    ("GCS, malformed", gcs(), s3(400, "MalformedSecurityHeader", "Your request has a malformed header.", "<Details>Expiration must be less than 604800</Details>"), Kind.MALFORMED, Who.PUBLISHER, ""),
    # -- policy
    ("MinIO, policy", LASTING, s3(403, "AccessDenied", "Access Denied."), Kind.POLICY, Who.PUBLISHER, "does not let the link's key read"),
    ("AWS, policy", LASTING, s3(403, "AccessDenied", "User: arn:aws:iam::1:user/x is not authorized to perform: s3:GetObject because no identity-based policy allows it"), Kind.POLICY, Who.PUBLISHER, ""),
    ("OSS, policy", v2(HOUR, "OSSAccessKeyId"), s3(403, "AccessDenied", "You have no right to access this object because of bucket acl."), Kind.POLICY, Who.PUBLISHER, ""),
    ("Azure, address", azure(), head(403, '<Error><Code>AuthorizationSourceIPMismatch</Code><Message>This request is not authorized to perform this operation using this source IP 10.0.0.1.</Message></Error>'), Kind.POLICY, Who.PUBLISHER, ""),
    ("Azure, permission", azure(), head(403, "", x_ms_error_code="AuthorizationPermissionMismatch", x_ms_request_id="R"), Kind.POLICY, Who.PUBLISHER, ""),
    ("by law", LASTING, head(451), Kind.POLICY, Who.PUBLISHER, "the law"),
    # -- nothing there, archived, encrypted
    ("no key", LASTING, s3(404, "NoSuchKey", "The specified key does not exist."), Kind.MISSING, Who.PUBLISHER, "nothing is there"),
    ("rclone, no key", LASTING, s3(404, "NoSuchKey"), Kind.MISSING, Who.PUBLISHER, "nothing is there"),
    ("no bucket", LASTING, s3(404, "NoSuchBucket", "The specified bucket does not exist"), Kind.MISSING, Who.PUBLISHER, "no such bucket"),
    ("no version", LASTING, s3(404, "NoSuchVersion", "The specified version does not exist."), Kind.MISSING, Who.PUBLISHER, "no such version"),
    ("Azure, no blob", azure(), head(404, "<Error><Code>BlobNotFound</Code><Message>The specified blob does not exist.</Message></Error>"), Kind.MISSING, Who.PUBLISHER, ""),
    ("Azure, no container", azure(), head(404, "<Error><Code>ContainerNotFound</Code><Message>The specified container does not exist.</Message></Error>"), Kind.MISSING, Who.PUBLISHER, "there is no such bucket"),
    ("nothing, whenever it ends", ENDED, s3(404, "NoSuchKey", "The specified key does not exist."), Kind.MISSING, Who.PUBLISHER, ""),
    ("gone", LASTING, head(410), Kind.MISSING, Who.PUBLISHER, ""),
    ("AWS, archived", LASTING, s3(403, "InvalidObjectState", "The operation is not valid for the object's storage class", "<StorageClass>GLACIER</StorageClass>"), Kind.ARCHIVED, Who.PUBLISHER, "restore"),
    ("Azure, archived", azure(), head(409, "<Error><Code>BlobArchived</Code><Message>This operation is not permitted on an archived blob.</Message></Error>"), Kind.ARCHIVED, Who.PUBLISHER, ""),
    ("AWS, encrypted", LASTING, s3(400, "InvalidRequest", "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object."), Kind.ENCRYPTED, Who.PUBLISHER, "encrypted"),
    # -- too much at once
    ("GCS, too much", gcs(), head(403, '{"error": {"code": 403, "message": "Rate Limit Exceeded", "errors": [{"reason": "rateLimitExceeded"}]}}'), Kind.RATE_LIMIT, Who.NOBODY, "too much"),
    ("a CDN, too much", LASTING, page(403, "<title>Too many requests</title>"), Kind.RATE_LIMIT, Who.NOBODY, ""),
    ("a 403 that says when to come again", LASTING, head(403, "Forbidden", retry_after="30"), Kind.RATE_LIMIT, Who.NOBODY, ""),
    # -- not the store
    ("Squid", LASTING, page(403, "<title>ERROR: The requested URL could not be retrieved</title>", server="squid/5.7", x_squid_error="ERR_ACCESS_DENIED 0", via="1.1 proxy (squid/5.7)"), Kind.GATEWAY, Who.CUSTOMER, "network's administrators"),
    ("FortiGate", LASTING, page(403, "<title>FortiGuard Intrusion Prevention - Access Blocked</title>"), Kind.GATEWAY, Who.CUSTOMER, ""),
    ("Zscaler", LASTING, page(403, "<title>Internet Security by Zscaler</title>", server="Zscaler/6.2"), Kind.GATEWAY, Who.CUSTOMER, ""),
    ("Cloudflare", LASTING, page(403, "<title>Attention Required! | Cloudflare</title>", server="cloudflare", cf_ray="8a1-FRA"), Kind.GATEWAY, Who.OPERATOR, "before the store"),
    ("CloudFront, blocked", LASTING, page(403, "<TITLE>ERROR: The request could not be satisfied</TITLE>", server="CloudFront", x_amz_cf_id="x=="), Kind.GATEWAY, Who.OPERATOR, ""),
    ("Akamai", LASTING, page(403, "<TITLE>Access Denied</TITLE>", server="AkamaiGHost"), Kind.GATEWAY, Who.OPERATOR, ""),
    ("nginx", LASTING, page(403, "<title>403 Forbidden</title>", server="nginx"), Kind.GATEWAY, Who.OPERATOR, ""),
    ("nginx, behind a proxy that passes on", LASTING, page(403, "<title>403 Forbidden</title>", server="nginx", via="1.1 proxy (squid/5.7)"), Kind.GATEWAY, Who.OPERATOR, ""),
    ("a page that talks of archives", LASTING, page(403, "<title>403 Forbidden: archive.example</title>"), Kind.GATEWAY, Who.OPERATOR, ""),
    # -- credentials are wanted
    ("401", parse_url("https://files.example/1.7z"), head(401, www_authenticate='Basic realm="x"'), Kind.LOGIN, Who.CUSTOMER, "--header"),
    ("a private bucket", parse_url("https://store.example/o/1.7z"), s3(403, "AccessDenied", "Access Denied."), Kind.LOGIN, Who.CUSTOMER, "share URLs"),
    ("Azure, a private bucket", parse_url("https://me.blob.core.windows.net/o/1.7z"), head(401, "<Error><Code>NoAuthenticationInformation</Code><Message>Server failed to authenticate the request.</Message></Error>"), Kind.LOGIN, Who.CUSTOMER, ""),
    # -- what else stores say, by their documentation
    ("AWS, policy, and a name that says archive", LASTING, s3(403, "AccessDenied", 'User: arn:aws:iam::1:user/x is not authorized to perform: s3:GetObject on resource: "arn:aws:s3:::archive/expired.7z" because no identity-based policy allows the s3:GetObject action'), Kind.POLICY, Who.PUBLISHER, ""),
    ("a store that repeats the name", LASTING, s3(403, "AccessDenied", "no access to archive/chips/glacier.7z"), Kind.POLICY, Who.PUBLISHER, ""),
    ("AWS, KMS", LASTING, s3(403, "AccessDenied", "User: arn:aws:iam::1:user/x is not authorized to perform: kms:Decrypt on the resource associated with this ciphertext"), Kind.ENCRYPTED, Who.PUBLISHER, ""),
    ("AWS, KMS wants V4", v2(HOUR), s3(400, "InvalidArgument", "Requests specifying Server Side Encryption with AWS KMS managed keys require AWS Signature Version 4."), Kind.MALFORMED, Who.PUBLISHER, ""),
    ("AWS, another region's endpoint", LASTING, s3(400, "IllegalLocationConstraintException", "The unspecified location constraint is incompatible for the region specific endpoint this request was sent to."), Kind.MALFORMED, Who.PUBLISHER, ""),
    ("OSS, overdue", v2(HOUR, "OSSAccessKeyId"), s3(403, "AccessForbidden", "The bucket you visit is not available because of overdue payment"), Kind.ACCOUNT, Who.PUBLISHER, ""),
    ("OSS, its own domain", v2(HOUR, "OSSAccessKeyId"), s3(400, "PublicEndpointForbidden", "You can not download it from the default domain"), Kind.POLICY, Who.PUBLISHER, ""),
    ("OSS, token", v2(HOUR, "OSSAccessKeyId"), s3(400, "SecurityTokenNotSupported", "This interface doesn't support security token."), Kind.MALFORMED, Who.PUBLISHER, ""),
    ("COS, arrears", cos(), s3(451, "UnavailableForLegalReasons", "Your account is in arrears"), Kind.ACCOUNT, Who.PUBLISHER, ""),
    ("OBS, arrears", v2(HOUR, "AccessKeyId"), s3(403, "InArrearOrInsufficientBalance", "The account is in arrears or balance is insufficient."), Kind.ACCOUNT, Who.PUBLISHER, ""),
    ("OBS, virtual host", v2(HOUR, "AccessKeyId"), s3(403, "VirtualHostDomainRequired", "Virtual host domain is required when accessing a specific bucket."), Kind.MALFORMED, Who.PUBLISHER, ""),
    ("GCS, account", gcs(), head(403, '{"error":{"code":403,"message":"The billing account is disabled in state closed","errors":[{"message":"x","reason":"accountDisabled"}]}}'), Kind.ACCOUNT, Who.PUBLISHER, ""),
    ("GCS, the service account is gone", gcs(), s3(403, "AccessDenied", "Access denied.", "<Details>Service account sa@p.iam.gserviceaccount.com does not exist</Details>"), Kind.KEY_REVOKED, Who.PUBLISHER, ""),
    ("GCS, security", gcs(), s3(403, "InvalidSecurity", "The provided security credentials are not valid."), Kind.KEY_REVOKED, Who.PUBLISHER, ""),
    ("Azure, no public access", parse_url("https://me.blob.core.windows.net/o/1.7z"), head(409, "<Error><Code>PublicAccessNotPermitted</Code><Message>Public access is not permitted on this storage account.</Message></Error>"), Kind.LOGIN, Who.CUSTOMER, "share URLs"),
    ("Azure, customer's key", azure(), head(409, "<Error><Code>BlobUsesCustomerSpecifiedEncryption</Code><Message>The blob is encrypted with customer specified encryption, but it was not provided in the request.</Message></Error>"), Kind.ENCRYPTED, Who.PUBLISHER, ""),
    ("Azure, key vault", azure(), head(403, "<Error><Code>KeyVaultEncryptionKeyNotFound</Code><Message>The key vault key is not found to unwrap the encryption key.</Message></Error>"), Kind.ENCRYPTED, Who.PUBLISHER, ""),
    ("Azure, no permission named", azure(), head(403, AZURE.format("sp is mandatory. Cannot be empty")), Kind.MALFORMED, Who.PUBLISHER, ""),
    ("Azure, fields", azure(), head(403, AZURE.format("Signature fields not well formed.")), Kind.MALFORMED, Who.PUBLISHER, ""),
    ("Azure, end before start", azure(), head(403, AZURE.format("Signed expiry time [Wed, 13 Dec 2023 09:00:00 GMT] must be after signed start time [Wed, 13 Dec 2023 09:30:00 GMT]")), Kind.MALFORMED, Who.PUBLISHER, ""),
    ("B2, cap", LASTING, s3(403, "AccessDenied", "Cannot download file, download cap exceeded.  See the Caps &amp; Alerts page to increase your cap."), Kind.ACCOUNT, Who.PUBLISHER, ""),
    ("B2, bucket", LASTING, s3(401, "UnauthorizedAccess", "bucket is not authorized: orders"), Kind.POLICY, Who.PUBLISHER, ""),
    ("Wasabi, account", LASTING, s3(403, "AccountNotActive", "The account is not active"), Kind.ACCOUNT, Who.PUBLISHER, ""),
    ("a JSON error in one word", parse_url("https://cdn.example/1.7z?e=1&token=ak:sig"), head(401, '{"error":"expired token"}'), Kind.EXPIRED, Who.PUBLISHER, ""),
    ("Cloudflare, in plain text", LASTING, head(403, "error code: 1020", server="cloudflare"), Kind.GATEWAY, Who.OPERATOR, ""),
    ("Istio", LASTING, head(403, "RBAC: access denied", server="istio-envoy"), Kind.GATEWAY, Who.OPERATOR, ""),
    ("nginx, a head that is too long for it", LASTING, page(400, "<title>400 Request Header Or Cookie Too Large</title>", server="nginx"), Kind.GATEWAY, Who.OPERATOR, ""),
    ("nginx, a URL that is too long for it", LASTING, page(414, "<title>414 Request-URI Too Large</title>", server="nginx"), Kind.GATEWAY, Who.OPERATOR, ""),
    # -- who knows
    ("403 and no word", LASTING, head(403), Kind.UNKNOWN, Who.PUBLISHER, "the server refuses the link (403)"),
    ("405", LASTING, s3(405, "MethodNotAllowed", "The specified method is not allowed against this resource."), Kind.UNKNOWN, Who.PUBLISHER, ""),
]
# fmt: on


def diagnosed(url: ShareURL, answer: Head, *, proven: bool = False) -> tuple[SegdlError, Diagnosis]:
    error = judge(Ask(0, 10, url=url, proven=proven), answer, NOW)
    assert isinstance(error, SegdlError) and error.diagnosis is not None
    return error, error.diagnosis


@pytest.mark.parametrize(("url", "answer", "kind", "who", "words"), [r[1:] for r in TABLE],
                         ids=[r[0] for r in TABLE])  # fmt: skip
def test_the_table(url: ShareURL, answer: Head, kind: Kind, who: Who, words: str) -> None:
    error, found = diagnosed(url, answer)
    assert (found.kind, found.who) == (kind, who)
    assert words in error.message
    assert SECRET not in error.message
    expected = {
        Kind.EXPIRED: ExpiredError,
        Kind.CREDENTIALS_ENDED: ExpiredError,
        Kind.RATE_LIMIT: BusyError,
    }
    assert type(error) is expected.get(kind, RefusedError)


def test_the_table_is_whole() -> None:
    assert len({row[0] for row in TABLE}) == len(TABLE) >= 40
    assert {row[3] for row in TABLE} == set(Kind)
    assert {row[4] for row in TABLE} == set(Who)


@pytest.mark.parametrize(
    ("skew", "words"),
    [
        (None, ""),
        (-299.0, ""),
        (299.0, ""),
        (-300.0, " (this machine's clock is 5 minutes behind the server's)"),
        (300.0, " (this machine's clock is 5 minutes ahead of the server's)"),
    ],
)
def test_a_clock_is_spoken_of_where_it_can_explain(skew: float | None, words: str) -> None:
    expired = f"the link has expired (403): get a fresh manifest{words}"
    assert replace(EXPIRED, skew=skew).sentence("403") == expired
    assert "clock" not in replace(MISSING, skew=skew).sentence("404")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (s3(403, "AccessDenied", "Access Denied."), Kind.RATE_LIMIT),
        (page(403, "<title>Forbidden</title>", server="cloudflare"), Kind.RATE_LIMIT),
        (head(403), Kind.RATE_LIMIT),
        (s3(403, "AccessDenied", "Request has expired"), Kind.EXPIRED),
        (s3(403, "SignatureDoesNotMatch", MISMATCH), Kind.ALTERED),
        (s3(403, "InvalidAccessKeyId", "gone"), Kind.KEY_REVOKED),
        (s3(401, "Unauthorized", "no"), Kind.KEY_REVOKED),
    ],
)
def test_a_link_that_worked_is_refused(answer: Head, kind: Kind) -> None:
    """Without a word on why, it is asked for too much at once: some say so with a 403."""
    error, found = diagnosed(LASTING, answer, proven=True)
    assert found.kind is kind
    assert (type(error) is TransientError) == (kind is Kind.RATE_LIMIT)


def test_what_may_mean_too_much_at_once_is_doubtful() -> None:
    for name, url, answer, *_ in TABLE:
        error, found = diagnosed(url, answer)
        if isinstance(error, RefusedError):
            assert error.doubtful == (answer.status == 403 and found.guessed), name
            vague = {Kind.POLICY, Kind.LOGIN, Kind.GATEWAY, Kind.UNKNOWN, Kind.MALFORMED}
            vague |= {Kind.KEY_REVOKED} if answer.status == 401 else set()
            assert not found.guessed or found.kind in vague, name
    row = {name: diagnosed(url, answer)[1] for name, url, answer, *_ in TABLE}
    for name in ("MinIO, policy", "403 and no word", "nginx", "cut short: no signature"):
        assert row[name].guessed, name
    for name in ("MinIO, key", "MinIO, signature", "cut short: half a signature", "AWS, account"):
        assert not row[name].guessed, name


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"x_amz_request_id": "HEAD"}, "<Error><RequestId>BODY</RequestId></Error>", "BODY"),
        ({"x_ms_request_id": "AZ", "x_request_id": "LB"}, "", "AZ"),
        ({"x_guploader_uploadid": "GU"}, "", "GU"),
        ({"cf_ray": "8a1-FRA"}, "<html>", "8a1-FRA"),
        ({"x_oss_request_id": "\x1b[2J"}, "", "\\u001b[2J"),
        ({}, "", None),
    ],
)
def test_the_request_id_to_quote(headers: dict[str, Any], body: str, expected: str | None) -> None:
    error, _ = diagnosed(LASTING, head(403, body, **headers))
    assert error.request_id == expected


def test_programs_are_told_too() -> None:
    error, _ = diagnosed(FUTURE, s3(403, "AccessDenied", "Request is not valid yet", there=NOW + 7))
    event = TargetFailed(target="1.7z", **trouble(error))
    told = event.as_dict()
    assert (told["diagnosis"], told["who"], told["skew"]) == ("not_yet_valid", "customer", -7.0)
    assert (told["code"], told["status"], told["request_id"]) == ("AccessDenied", 403, "REQ1")


def test_another_kind_of_error_keeps_what_was_found() -> None:
    error, found = diagnosed(LASTING, s3(403, "AccessDenied", "Access Denied."))
    other = error.about("1.7z").become(TransientError, "later")
    assert (other.diagnosis, other.request_id, other.target) == (found, "REQ1", "1.7z")
    assert (other.message, other.status, other.code) == ("later", 403, "AccessDenied")


# -- what the link's own form tells ----------------------------------------------------------------


@pytest.mark.parametrize("url", [v4(), v2(HOUR), gcs(), azure(), cos(), cloudfront(HOUR), STS,
                                 v2(HOUR, "OSSAccessKeyId"), parse_url("http://h/a"),
                                 parse_url("http://h/a?versionId=7")])  # fmt: skip
def test_a_whole_link_has_no_flaw(url: ShareURL) -> None:
    assert url.flaw is None


@pytest.mark.parametrize(
    ("url", "flaw"),
    [
        (v4(Date=""), "it lacks X-Amz-Date"),
        (v4(Expires="", Signature=""), "it lacks X-Amz-Expires and X-Amz-Signature"),
        (v4(Signature=SECRET + "0"), "its signature has 65 characters, and not 64"),
        (parse_url("http://h/a?AWSAccessKeyId=k&Expires=7"), "it lacks Signature"),
        (parse_url("http://h/a?sv=1&se=2&sp=r"), "it lacks sig"),
        (parse_url("http://h/a?q-sign-algorithm=sha1&q-ak=a&q-sign-time=1;2"), "it lacks q-key-time and q-signature"),
    ],
)  # fmt: skip
def test_a_link_that_is_not_whole(url: ShareURL, flaw: str) -> None:
    assert url.flaw == flaw


@pytest.mark.parametrize(
    ("query", "temporary"),
    [
        ("X-Amz-Credential=ASIAX%2F20231213", True),
        ("X-Amz-Credential=AKIAX%2F20231213", False),
        ("OSSAccessKeyId=STS.NX", True),
        ("x-cos-security-token=t", True),
        ("", False),
    ],
)
def test_temporary_credentials_are_known(query: str, temporary: bool) -> None:
    assert parse_url(f"https://h/a?{query}").temporary == temporary


# -- what is hostile -------------------------------------------------------------------------------

ANYTHING = st.text(max_size=300) | st.sampled_from(
    [row[2].excerpt.decode() for row in TABLE] + ["\x1b[31m", "‮", "</Error>", "x" * 9000]
)


@given(
    st.sampled_from([400, 401, 403, 404, 405, 409, 410, 418, 451, 499]),
    st.lists(ANYTHING, max_size=4).map("".join),
    st.sampled_from([row[1] for row in TABLE]),
    st.dictionaries(st.sampled_from(["server", "date", "retry_after", "via", "cf_ray"]), ANYTHING),
    st.booleans(),
)
@example(
    403, "<Error><Message>" + "\x1b[2J\r\nowned" * 50 + "</Message></Error>", LASTING, {}, False
)
def test_a_hostile_refusal_is_one_short_line(
    status: int, body: str, url: ShareURL, headers: dict[str, Any], proven: bool
) -> None:
    answer = head(status, body, there=None, **headers)
    error, found = diagnosed(url, answer, proven=proven)
    assert error.message.isprintable()
    assert len(error.message) < 900
    assert found.kind in Kind and found.who in Who
    assert error.request_id is None or (
        error.request_id.isprintable() and len(error.request_id) <= 120
    )


@given(st.text(alphabet="<>/Canoicl Requsthost:\n", max_size=400))
def test_the_host_that_a_server_names_is_a_name(text: str) -> None:
    complaint = read_complaint(f"<CanonicalRequest>{text}</CanonicalRequest>".encode())
    assert complaint.signed_host is None or complaint.signed_host.isascii()


# -- real servers ----------------------------------------------------------------------------------


def signed_ahead(server: S3Server, key: str, by: timedelta, patch: pytest.MonkeyPatch) -> str:
    """A share URL of somebody whose clock is ahead."""
    ahead = datetime.now(UTC).replace(tzinfo=None) + by
    with patch.context() as patched:
        patched.setattr("botocore.auth.get_current_datetime", lambda: ahead)
        return server.presign(key)


def test_what_real_stores_refuse(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One order in which every link is bad in its own way, and each is told from the others."""
    s3.put("doctor.7z", b"x" * 1000)
    good = s3.presign("doctor.7z")
    query = good.partition("?")[2]
    bucket = good.partition("/doctor.7z?")[0]
    links = {
        Kind.EXPIRED: s3.presign("doctor.7z", 1),
        Kind.ALTERED: good[:-4] + ("0000" if good[-4:] != "0000" else "1111"),
        Kind.KEY_REVOKED: good.replace(s3.access_key, "0" * 20),
        Kind.MISSING: s3.presign("never.7z"),
        Kind.MALFORMED: good.replace("&", "&amp;"),
        Kind.LOGIN: f"{bucket}/doctor.7z",
    }
    more = {
        "host": (good.replace("127.0.0.1", "localhost"), Kind.ALTERED),
        "query": (good + "&x=1", Kind.ALTERED),
        "half": (f"{bucket}/doctor.7z?{query[:-30]}", Kind.MALFORMED),
    }
    if isinstance(s3, MinIO):
        ahead = signed_ahead(s3, "doctor.7z", timedelta(minutes=30), monkeypatch)
        more["early"] = (ahead, Kind.NOT_YET_VALID)
    if not isinstance(s3, Rclone):
        long = s3.presign("doctor.7z", timedelta(days=8))
        more["long"] = (long, Kind.MALFORMED)
    wanted = {kind.value: (url, kind) for kind, url in links.items()} | more
    order = {"segdl": 1, "files": [{"path": n, "url": url} for n, (url, _) in wanted.items()]}
    manifest = tmp_path / "order.json"
    manifest.write_text(json.dumps(order))
    time.sleep(2.1)
    report = segdl.download(manifest, tmp_path / "out")
    found = {f.path: f.error.diagnosis for f in report.failures}
    kinds = {name: diagnosis.kind for name, diagnosis in found.items() if diagnosis}
    expected = {name: kind for name, (_, kind) in wanted.items()}
    if isinstance(s3, Rclone):  # what has no signature is malformed to it
        expected["login"] = Kind.MALFORMED
    assert kinds == expected
    assert report.exit_code == 3
    assert all(diagnosis and diagnosis.who in Who for diagnosis in found.values())
    if not isinstance(s3, Rclone):
        assert all(f.error.request_id for f in report.failures)
