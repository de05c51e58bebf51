"""core.urls: what a share URL is, when it ends, where it may lead, and that it never shows."""

from __future__ import annotations

import base64
import dataclasses
import json
import pprint
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segdl.core.urls import LONGEST, ShareURL, URLProblem, parse_url, redirect

settings.register_profile("patient", deadline=None)  # a busy machine is no fault
settings.load_profile("patient")

SIGNED = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=KEY%2F20231213%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20231213T080000Z&X-Amz-Expires=604800&X-Amz-SignedHeaders=host%3Bx-amz-date"
    "&X-Amz-Signature=5ecre75ecre75ecre7"
)


@pytest.mark.parametrize(
    ("text", "netloc", "target"),
    [
        ("http://h", "h", b"/"),
        ("HTTP://H:80/A", "h", b"/A"),
        ("https://h:443", "h", b"/"),
        ("https://h:80/", "h:80", b"/"),
        ("http://minio:9000/b/k?x=1", "minio:9000", b"/b/k?x=1"),
        ("http://h?x=1", "h", b"/?x=1"),
        ("http://h/a#part", "h", b"/a"),
        ("http://h/a?b#c?d", "h", b"/a?b"),
        ("http://h/a?", "h", b"/a"),
        ("http://h:/a", "h", b"/a"),
        ("http://[::1]:9000/a", "[::1]:9000", b"/a"),
        ("http://[FE80::A]/", "[fe80::a]", b"/"),
        ("http://[1:2:3:4:5:6:7:8]/", "[1:2:3:4:5:6:7:8]", b"/"),
        ("http://127.0.0.1/", "127.0.0.1", b"/"),
        ("http://a_b.example./", "a_b.example.", b"/"),
        ("http://b\u00fccher.example/\u00e9?\u00e9", "xn--bcher-kva.example", b"/%C3%A9?%C3%A9"),
        ("http://h//a/./../b;c=d/%2e%2E?a=b+c%20d&&=", "h", b"//a/./../b;c=d/%2e%2E?a=b+c%20d&&="),
        ('http://h/"<>\\^`{|}', "h", b'/"<>\\^`{|}'),
    ],
)
def test_taken_apart(text: str, netloc: str, target: bytes) -> None:
    """The target is what was signed, byte for byte."""
    url = parse_url(text)
    assert (url.netloc, url.target) == (netloc, target)
    assert url.origin == f"{text.partition(':')[0].lower()}://{netloc}"


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        *(("not an http", t) for t in ("", "x", "ftp://h/x", "file:///etc/passwd", "data:,x")),
        *(("not an http", t) for t in ("//h/x", "http:/h", "http:h", "http\u017f://h/", "/x")),
        *(("no host", t) for t in ("http://", "http:///x", "https://?x", "http://:80/")),
        *(("port", t) for t in ("http://h:70000/", "http://h:0/", "http://h:x/", "http://h:-1/")),
        *(("port", t) for t in ("http://a:1:2/", "http://::1/", "http://[::1/", "http://[::1]x/")),
        *(("space or a control", t) for t in ("http://h/a b", "http://h/\r\nX: y", "http://h/\x00")),
        *(("space or a control", t) for t in (" http://h/", "http://h/\n", "ht\ttp://h/", "http://h/\x7f")),
        *(("password", t) for t in ("http://u:p@h/", "http://u@h/", "http://@h/", "http://h@[::1]/")),
        *(("valid name", t) for t in ("http://a..b/", "http://.a/", "http://a%20b/", "http://a\\b/")),
        *(("valid name", t) for t in ("http://[x]/", "http://[]/", "http://[fe80::1%25eth0]/")),
        *(("valid name", t) for t in ("http://" + "a" * 64 + "/", "http://" + "a." * 127 + "a/")),
        *(("valid name", t) for t in ("http://127.1/", "http://0x7f.1/", "http://2130706433/")),
        *(("valid name", t) for t in ("http://127.0.0.01/", "http://1.2.3.4.5/", "http://256.1.1.1/")),
        *(("valid name", t) for t in ("http://a\uff0fb/", "http://\ud800/", "http://127.0.0.1./")),
        ("surrogate", "http://h/\ud800"),
        ("surrogate", "http://h/?\udfff"),
        ("a URL has at most", "http://h/" + "x" * LONGEST),
        ("a URL has at most", "x" * 100_000),
        ("once it is percent-encoded", "http://h/" + "é" * 4000),
    ],
)  # fmt: skip
def test_refused(problem: str, text: str) -> None:
    """FAULTS.md, M06."""
    with pytest.raises(URLProblem, match=problem):
        parse_url(text)


@given(
    st.text(st.characters(), max_size=40) | st.from_regex(r"https?://[^\s]{0,30}", fullmatch=True)
)
@example("http://[v1.x]/")
@example("http://h/\ud800")
@example("http://h:99999999999999999999/")
def test_any_text_is_taken_or_refused(text: str) -> None:
    with suppress(URLProblem):
        url = parse_url(text)
        assert url.target.isascii() and url.target[:1] == b"/"
        assert 0 < url.port < 65536
        assert parse_url(url.origin).origin == url.origin


PLAIN = st.from_regex(
    r"https?://[a-z][a-z0-9.-]{0,10}[a-z](:[1-9][0-9]{0,3})?(/[!-~]{0,20})?(\?[!-~]{0,20})?",
    fullmatch=True,
)


@given(PLAIN)
def test_as_urllib_takes_it_apart(text: str) -> None:
    """The fast way agrees with the standard library's slow one."""
    with suppress(URLProblem):
        url, parts = parse_url(text), urlsplit(text)
        assert (url.scheme, url.host, url.path, url.query) == (
            parts.scheme, parts.hostname, parts.path or "/", parts.query,
        )  # fmt: skip
        assert url.port == (parts.port or {"http": 80, "https": 443}[url.scheme])


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("", ""),
        (SIGNED, ""),
        ("versionId=7&" + SIGNED, "?versionId=7"),
        (SIGNED + "&versionId=7&partNumber=2", "?partNumber=2&versionId=7"),
        (SIGNED + "&X-Amz-Security-Token=t&x-amz-checksum-mode=ENABLED", ""),
        ("X-Goog-Signature=s&X-Goog-Expires=60&generation=5", "?generation=5"),
        ("AWSAccessKeyId=k&Expires=1&Signature=s&uploadId=1", "?uploadId=1"),
        ("OSSAccessKeyId=k&Expires=1&Signature=s&security-token=t", ""),
        ("sv=2022-11-02&st=1&se=2&sr=b&sp=r&sig=s&snapshot=2023", "?snapshot=2023"),
        ("Policy=p&Signature=s&Key-Pair-Id=k&v=1", "?v=1"),
        ("q-sign-algorithm=sha1&q-ak=k&q-sign-time=1;2&q-signature=s&id=3", "?id=3"),
        ("policy=7&expires=never&st=1", "?expires=never&policy=7&st=1"),  # unsigned: all counts
        ("b=2&a=1", "?a=1&b=2"),
    ],
)
def test_identity(query: str, kept: str) -> None:
    """The same object, whatever the signature; another version is another object."""
    url = parse_url(f"https://h:8443/b/k%20x?{query}")
    assert url.identity == f"h:8443/b/k%20x{kept}"


def test_identity_tells_objects_apart() -> None:
    one = parse_url(f"http://h/a?versionId=1&{SIGNED}")
    for other in (f"http://h/a?versionId=2&{SIGNED}", f"http://h/A?versionId=1&{SIGNED}"):
        assert parse_url(other).identity != one.identity


def test_presigned_and_what_was_signed() -> None:
    url = parse_url(f"http://h/a?{SIGNED}")
    assert url.presigned and url.signed_headers == {"host", "x-amz-date"}
    assert parse_url("http://h/?x-oss-additional-headers=Host").signed_headers == {"host"}
    plain = parse_url("http://h/a?token=t")
    assert not plain.presigned and plain.signed_headers == frozenset()
    for name in ("sig", "Signature", "q-signature", "X-Goog-Signature", "x-oss-signature"):
        assert parse_url(f"http://h/a?{name}=x").presigned


def _policy(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    coded = base64.b64encode(text.encode()).decode()
    return "Key-Pair-Id=K&Signature=s&Policy=" + coded.translate(str.maketrans("+=/", "-_~"))


def _until(end: object) -> str:
    condition = {"DateLessThan": {"AWS:EpochTime": end}}
    return _policy({"Statement": [{"Resource": "*", "Condition": condition}]})


DAY = datetime(2023, 12, 13, 8, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("query", "end"),
    [
        (SIGNED, DAY + 604800),
        ("x-amz-date=20231213T080000Z&x-amz-expires=60", DAY + 60),
        ("X-Goog-Date=20231213T080000Z&X-Goog-Expires=60", DAY + 60),
        ("x-oss-date=20231213T080000Z&x-oss-expires=60", DAY + 60),
        ("x-oss-expires=1702454400", 1702454400),
        ("OSSAccessKeyId=k&Expires=1702454400&Signature=s", 1702454400),
        ("AWSAccessKeyId=k&Expires=1702454400&Signature=s", 1702454400),
        ("AccessKeyId=k&Expires=1702454400&Signature=s", 1702454400),
        ("Key-Pair-Id=k&Expires=1702454400&Signature=s", 1702454400),
        ("GoogleAccessId=k&Expires=1702454400&Signature=s", 1702454400),
        ("q-sign-time=1702450800;1702454400&q-signature=s", 1702454400),
        ("q-sign-time=1702450800%3B1702454400", 1702454400),
        ("sv=2022&st=2023-12-13T00%3A00%3A00Z&se=2023-12-13T08%3A00%3A00Z&sig=s", DAY),
        ("se=2023-12-13&sig=s", datetime(2023, 12, 13, tzinfo=UTC).timestamp()),
        ("se=2023-12-13T09:00:00%2B01:00&sig=s", DAY),
        (_until(1702454400), 1702454400),
        ("", None),
        ("Expires=1702454400", None),  # whose parameter this is, nobody knows
        ("se=2023-12-13T08:00:00Z", None),
        ("X-Amz-Date=yesterday&X-Amz-Expires=60", None),
        ("X-Amz-Date=20231213T080000Z&X-Amz-Expires=-60", None),
        ("x-oss-date=nonsense&x-oss-expires=60", None),
        ("q-sign-time=1;x", None),
        ("se=soon&sig=s", None),
        (_until("NaN"), None),
        (_until(float("inf")), None),
        (_until(None), None),
        (_policy("[" * 10_000), None),
        (_policy("5"), None),
        (_policy({"Statement": []}), None),
        ("Policy=%FF&Signature=s", None),
    ],
)
def test_end(query: str, end: float | None) -> None:
    """FIELD_NOTES.md: where a URL says when it ends."""
    assert parse_url(f"http://h/a?{query}").ends_at == end


KEYS = st.sampled_from(
    [
        *(
            "X-Amz-Date",
            "X-Amz-Expires",
            "x-oss-expires",
            "Expires",
            "AWSAccessKeyId",
            "q-sign-time",
        ),
        *("se", "sig", "Policy"),
    ]
)
VALUES = st.text(max_size=20) | st.integers(-(10**20), 10**20).map(str) | st.datetimes().map(str)


@given(st.dictionaries(KEYS, VALUES))
@example({"se": "0001-01-01T00:00:00+14:00", "sig": "s"})
def test_any_end_is_a_number_or_none(parameters: dict[str, str]) -> None:
    with suppress(URLProblem):
        query = "&".join(f"{k}={quote(v, errors='replace')}" for k, v in parameters.items())
        end = parse_url(f"http://h/a?{query}").ends_at
        assert end is None or abs(end) < 1e13


SECRET = "5ecre7"


@dataclasses.dataclass(frozen=True)
class Holder:
    """Something that holds a URL, as a target does."""

    url: ShareURL
    urls: tuple[ShareURL, ...]


def test_never_shown() -> None:
    url = parse_url(f"http://h:9000/b/k?{SIGNED}")
    holder = Holder(url, (url,))
    shown = [str(url), repr(url), f"{url}", f"{url!r:>80}", format(url), f"{url}", ascii(url)]
    shown += [repr(holder), str([url]), repr({url: url}), pprint.pformat(holder), f"{holder}"]
    assert SECRET not in "".join(shown)
    assert str(url) == "http://h:9000/b/k?…"
    assert repr(url) == "<ShareURL http://h:9000/b/k?…>"


def test_not_in_a_traceback() -> None:
    holder = Holder(parse_url(f"http://h/k?{SIGNED}"), ())
    try:
        raise ValueError(holder, holder.url)
    except ValueError as error:
        lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    assert "ShareURL" in (text := "".join(lines)) and SECRET not in text


@pytest.mark.parametrize("end", ["", " ", "\ud800", "x" * LONGEST])
@pytest.mark.parametrize(
    "start", ["", "ftp://h/", "http://u:p@h/", "http://h:x/", "http://127.1/", "http:///"]
)
def test_a_refused_url_is_not_shown(start: str, end: str) -> None:
    with pytest.raises(URLProblem) as raised:
        parse_url(f"{start}{SECRET}?sig={SECRET}{end}")
    assert SECRET not in str(raised.value)


def test_equal_as_text_not_as_objects() -> None:
    one, same = parse_url("http://h:80/a?b"), parse_url("HTTP://h/a?b")
    assert one == same and hash(one) == hash(same) and len({one, same}) == 1
    assert (
        one != parse_url("https://h/a?b") and one != parse_url("http://h/a?c") and one != object()
    )


def test_mask() -> None:
    """A server that echoes the query, as it stands or decoded, tells no secret."""
    url = parse_url(f"http://h/k?X-Amz-Signature={SECRET * 3}&X-Amz-Credential=KEYKEY%2Fus-1&n=5")
    body = f"<U>/k?{url.query.replace('&', '&amp;')}</U> {SECRET * 3} KEYKEY/us-1 n=5 at h"
    masked = url.mask(body)
    assert SECRET not in masked and "KEYKEY" not in masked
    assert masked.endswith("n=5 at h") and url.mask("plain words") == "plain words"
    assert parse_url("http://h/k").mask(body) == body
    advice = "Please use AWS4-HMAC-SHA256"
    assert parse_url("http://h/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&a=b").mask(advice) == advice


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b%20c.7z?x=/y", "b c.7z"),
        ("http://h/", ""),
        ("http://h/a/", ""),
        ("http://h/a%2Fb", "a/b"),
        ("http://h/%E6%97%A5", "日"),
        ("http://h/%FF", "\ufffd"),
    ],
)
def test_name(url: str, name: str) -> None:
    assert parse_url(url).name == name


@pytest.mark.parametrize(
    ("source", "location", "there"),
    [
        ("http://h/a/b?s", "/c?x=1", "http://h/c?x=1"),
        ("http://h/a/b?s", "c", "http://h/a/c"),
        ("http://h/a/b?s", "../c", "http://h/c"),
        ("http://h/a/b?s", "?x=1", "http://h/a/b?x=1"),
        ("http://h/a/b?s", "//other:9000/c", "http://other:9000/c"),
        ("https://h/a", "//other/c", "https://other/c"),
        ("http://h/a", "https://other/c#f", "https://other/c"),
        ("http://h/a", "HTTPS://Other/c", "https://other/c"),
        ("http://h/a", "http://h/a/../%2e?q=%20+", "http://h/a/../%2e?q=%20+"),  # kept as it is
        ("http://127.0.0.1:1/a", "http://127.0.0.1:2/b", "http://127.0.0.1:2/b"),
        ("http://localhost/a", "http://10.0.0.1/b", "http://10.0.0.1/b"),
        ("http://10.0.0.1/a", "http://192.168.1.1/b", "http://192.168.1.1/b"),
        ("http://169.254.1.1/a", "http://127.0.0.1/", "http://127.0.0.1/"),
        ("http://10.0.0.1/a", "http://93.184.216.34/", "http://93.184.216.34/"),
        ("http://h/a", "http://[64:ff9b::5db8:d822]/", "http://[64:ff9b::5db8:d822]/"),
        ("http://h/a", "http://[2002:5db8:d822::]/", "http://[2002:5db8:d822::]/"),
        ("http://h/a", "http://[2606:4700::1]/", "http://[2606:4700::1]/"),
    ],
)
def test_redirect(source: str, location: str, there: str) -> None:
    found = redirect(parse_url(source), location)
    assert found == parse_url(there)


@pytest.mark.parametrize(
    ("source", "location"),
    [
        ("https://h/a", "http://h/a"),  # never https to http
        ("https://h/a", "HTTP://other/"),
        *(("http://h/a", t) for t in ("file:///etc/passwd", "ftp://h/a", "data:,x", "script:x")),
        *(("http://h/a", t) for t in ("http://u:p@h/", "http://h:0/", "/a b", "/a\r\nX: y", "c\n")),
        *(("http://h/a", t) for t in ("http://localhost/", "http://x.localhost./", "//localhost.")),
        *(("http://h/a", t) for t in ("http://127.0.0.1/", "http://127.9.9.9/", "http://[::1]:80/")),
        *(("http://h/a", t) for t in ("http://169.254.169.254/latest", "http://[fe80::1]/")),
        *(("http://h/a", t) for t in ("http://10.1.2.3/", "http://192.168.0.1/", "http://172.16.0.1/")),
        *(("http://h/a", t) for t in ("http://100.64.0.1/", "http://[fd00::1]/", "http://0.0.0.0/")),
        *(("http://h/a", t) for t in ("http://[::]/", "http://[::ffff:127.0.0.1]/", "http://224.0.0.1/")),
        *(("http://h/a", t) for t in ("http://[::ffff:a00:1]/", "http://[64:ff9b::7f00:1]/")),
        *(("http://h/a", t) for t in ("http://[2002:7f00:1::]/", "http://[::7f00:1]/")),
        *(("http://h/a", t) for t in ("http://2130706433/", "http://127.1/", "http://0x7f000001/")),
        *(("http://h/a", t) for t in ("http://0177.0.0.1/", "http://\uff11\uff12\uff17.0.0.1/")),
        ("http://10.0.0.1/a", "http://127.0.0.1/"),  # each may lead only as near as it is itself
        ("http://10.0.0.1/a", "http://169.254.169.254/"),
        ("http://127.0.0.1/a", "http://169.254.169.254/"),
        ("http://93.184.216.34/a", "http://10.0.0.1/"),
    ],
)  # fmt: skip
def test_no_redirect(source: str, location: str) -> None:
    """FAULTS.md, S21: decided by the text alone, nothing is connected to or looked up."""
    with pytest.raises(URLProblem):
        redirect(parse_url(source), location)


@given(
    st.text(st.characters(), max_size=30)
    | st.from_regex(r"(https?:)?//[0-9a-fx.:\[\]]{0,20}/?", fullmatch=True)
)
@example("//[")
@example("[")
@example("")
def test_any_location_leads_somewhere_or_is_refused(location: str) -> None:
    source = parse_url(f"https://93.184.216.34/a/b?{SIGNED}")
    try:
        there = redirect(source, location)
    except URLProblem as problem:
        assert SECRET not in str(problem)
    else:
        assert there.scheme == "https" and SECRET not in there.query


def test_a_redirect_s_own_query_is_not_shown() -> None:
    with pytest.raises(URLProblem) as raised:
        redirect(parse_url("http://h/a"), f"http://127.0.0.1/a?sig={SECRET}")
    assert SECRET not in str(raised.value) and "127.0.0.1" in str(raised.value)
