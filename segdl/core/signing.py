"""How a share URL is signed: what the parameters of its query say, in every dialect."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote_plus

SIGNATURES = {
    "x-amz-signature", "x-goog-signature", "x-oss-signature", "signature", "sig", "q-signature",
}  # fmt: skip
_TOKENS = {
    "x-amz-security-token", "x-goog-security-token", "x-oss-security-token", "security-token",
    "x-cos-security-token", "x-obs-security-token",
}  # fmt: skip
KEYS = {"ossaccesskeyid", "awsaccesskeyid", "accesskeyid", "key-pair-id", "googleaccessid"}
_HMAC = 64  # hexadecimal digits of the HMAC-SHA256 that signs an S3 URL (V4)
_V4 = ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
_WHOLE = {  # by one parameter, in lower case: what makes a signature whole
    "x-amz-algorithm": tuple(f"X-Amz-{name}" for name in _V4),
    "x-goog-algorithm": tuple(f"X-Goog-{name}" for name in _V4),
    "awsaccesskeyid": ("Expires", "Signature"),
    "ossaccesskeyid": ("Expires", "Signature"),
    "googleaccessid": ("Expires", "Signature"),
    "key-pair-id": ("Signature",),
    "q-sign-algorithm": ("q-ak", "q-sign-time", "q-key-time", "q-signature"),
    "sv": ("sig",),
}
_SIGNING = SIGNATURES | _TOKENS | KEYS | {
    "expires", "policy", "se", "st", "sp", "sr", "sv", "skoid",
    "sktid", "skt", "ske", "sks", "skv", "sip", "spr",
}  # fmt: skip
_SIGNING_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "q-")


def name_of(parameter: str) -> str:
    """The name in `name=value`, decoded and in lower case."""
    return _read_name(parameter.partition("=")[0])


@lru_cache(maxsize=64)
def _read_name(text: str) -> str:
    return unquote_plus(text).lower()


def parameters(query: str) -> dict[str, str]:
    """The values by their names, decoded; the names in lower case."""
    pairs = (p.partition("=") for p in query.split("&"))
    return {unquote_plus(k).lower(): unquote_plus(v) for k, _, v in pairs}


def signs(name: str) -> bool:
    """Whether a query parameter belongs to the signature, and so changes with every signing."""
    return name in _SIGNING or name.startswith(_SIGNING_PREFIXES)


def signed_headers(query: str) -> frozenset[str]:
    """The header names that the signature covers, lower case (S3 V4, GCS, OSS V4)."""
    given = parameters(query)
    for name in ("x-amz-signedheaders", "x-goog-signedheaders", "x-oss-additional-headers"):
        if value := given.get(name):
            return frozenset(value.lower().split(";"))
    return frozenset()


def temporary(query: str) -> bool:
    """Whether temporary credentials signed it: it dies with them, before its own end."""
    given = parameters(query)
    keys = (given.get(name, "") for name in ("x-amz-credential", *KEYS))
    return not _TOKENS.isdisjoint(given) or any(k.startswith(("ASIA", "STS.")) for k in keys)


def flaw(query: str) -> str | None:
    """What keeps a signature from being whole, by the URL alone; the values are not told."""
    given = parameters(query)
    if any(name.startswith("amp;") for name in given):
        return "it holds `&amp;` where `&` should be"
    for sign, names in _WHOLE.items():
        if sign in given and (lacking := [n for n in names if not given.get(n.lower())]):
            return f"it lacks {' and '.join(lacking)}"
    signature = given.get("x-amz-signature", "")
    if given.get("x-amz-algorithm") == "AWS4-HMAC-SHA256" and len(signature) != _HMAC:
        return f"its signature has {len(signature)} characters, and not {_HMAC}"
    return None
