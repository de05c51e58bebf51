"""From when to when a share URL is good, by its own words."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from functools import lru_cache

from segdl.core.dataclass import dataclass
from segdl.core.signing import KEYS, parameters


@dataclass(frozen=True, slots=True)
class Term:
    """From when to when a URL is good, in unix seconds; None where it does not say."""

    begins: float | None = None
    ends: float | None = None


@lru_cache(maxsize=64)
def term(query: str) -> Term:
    """The term that a URL's query tells: S3, GCS, OSS, COS, OBS, Azure, CloudFront."""
    given = parameters(query)
    for brand in ("x-amz-", "x-goog-", "x-oss-"):
        start, seconds = _basic_date(given.get(brand + "date")), given.get(brand + "expires", "")
        if start is not None and seconds.isdecimal():
            return Term(start, start + int(seconds[:10]))
    if not KEYS.isdisjoint(given) and given.get("expires", "").isdecimal():
        return Term(ends=float(given["expires"][:12]))
    if "x-oss-date" not in given and given.get("x-oss-expires", "").isdecimal():
        return Term(ends=float(given["x-oss-expires"][:12]))
    cos_start, _, cos_end = given.get("q-sign-time", "").partition(";")
    if cos_end.isdecimal():
        start = float(cos_start[:12]) if cos_start.isdecimal() else None
        return Term(start, float(cos_end[:12]))
    if "sig" in given and "se" in given:
        return _azure_term(given)
    return _policy_term(given["policy"]) if "policy" in given else Term()


def _azure_term(given: dict[str, str]) -> Term:
    """A SAS is good no longer than the user's key that signed it, where one did (`skt`, `ske`)."""
    starts = [t for name in ("st", "skt") if (t := iso_date(given.get(name))) is not None]
    ends = [t for name in ("se", "ske") if (t := iso_date(given.get(name))) is not None]
    return Term(max(starts, default=None), min(ends, default=None))


_BASIC_DATE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)


def _basic_date(text: str | None) -> float | None:
    return iso_date(text) if _BASIC_DATE.fullmatch(text or "") else None


def iso_date(text: str | None) -> float | None:
    """Unix seconds of an ISO 8601 date, in UTC where it does not say; None if it is none."""
    try:
        when = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _policy_term(policy: str) -> Term:
    """CloudFront's policy: base64 with `-_~` for `+=/`, JSON within."""
    import base64

    try:
        text = base64.b64decode(policy.translate(str.maketrans("-_~", "+=/")))
        condition = json.loads(text)["Statement"][0]["Condition"]
        return Term(_moment(condition, "DateGreaterThan"), _moment(condition, "DateLessThan"))
    except (ValueError, LookupError, TypeError, RecursionError):
        return Term()


def _moment(condition: dict[str, dict[str, float]], bound: str) -> float | None:
    try:
        moment = float(condition[bound]["AWS:EpochTime"])
    except (ValueError, LookupError, TypeError, OverflowError):
        return None
    return moment if math.isfinite(moment) else None
