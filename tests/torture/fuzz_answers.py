# ruff: noqa: E501 -- tables
"""Answers made worse: there is a verdict, and no other range than asked is believed."""

from __future__ import annotations

import random
from email.utils import formatdate

from segdl.core.errors import BusyError, SegdlError
from segdl.core.head import Head
from segdl.core.plan import Pin
from segdl.core.urls import parse_url
from segdl.core.verdict import LONGEST_WAIT, Accepted, Ask, judge
from tests.torture.campaign import Campaign, Figures, Round
from tests.torture.fuzz import BATCH, SLOWEST, Watch, mutated, told

NOW = 1_702_454_400.0
NUMBERS = ["0", "1", "99", "100", "199", "200", "999", "1000", "1001", "-1", "+1", "1e3", "0x64", "",
           "00100", " 100", "1_000", "\u0661", "²", str(2**63 - 1), str(2**63), str(2**70), "9" * 400,
           "100, 100", "100, 101", "NaN", "*"]  # fmt: skip
PINS = [None, Pin(1000, '"e"'), Pin(1000, None), Pin(None, '"e"'), Pin(1000, '"e"', "gzip"),
        Pin(1000, None, modified="Tue, 12 Dec 2023 08:00:00 GMT"), Pin(1000, None, by_digest=True),
        Pin(0, None)]  # fmt: skip
ETAGS = ['"e"', 'W/"e"', '"f"', "e", '"', '""', '"e', '"e", "f"', '"é"', "*", '"' + "x" * 600 + '"',
         ' "e" ', '"e\t"', '"\x00"']  # fmt: skip
ENCODINGS = ["gzip", "identity", "GZIP", "", "br, gzip", "\x1b[2J", "x" * 300]
DATES = [
    formatdate(NOW, usegmt=True),
    "Tue, 12 Dec 2023 08:00:00 GMT",
    "Wed, 13 Dec 2023",
    "now",
    "",
    "Thu, 01 Jan 0000 00:00:00 GMT",
    "Thu, 99 Foo 99999 99:99:99 +9999",
    "1702454400",
    "Wed, 13 Dec 2023 08:00:00 +99999999999",
    "9" * 500,
    "Mon, 01 Jan 9999 00:00:00 -2400",
]
WAITS = ["0", "1", "60", "61", "-1", "1.5", "1e9", "9" * 400, "soon", "", "²", *DATES]
STATUSES = [*[206] * 16, *[200] * 6, 416, 416, 412, 403, 404, 400, 429, 503, 500, 407, 408, 304, 301,
            204, 201, 100, 0, 999, -1]  # fmt: skip
BODIES = [
    b"", b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
    b"<Error><Code>InvalidRange</Code><ActualObjectSize>1000</ActualObjectSize></Error>",
    b"<Error><Code>RequestTimeTooSkewed</Code><ServerTime>2023-12-13T08:00:00Z</ServerTime></Error>",
    b'{"code": "SlowDown", "message": "\\u001b[2J \\"quoted\\" ' + b"x" * 500 + b'"}',
    b"<html><title>503 Service Unavailable</title>", b"<Error><Message>" + b" " * 15000,
    b'"message": "' + b"\\" * 9000, b"<CanonicalRequest>GET\n/o\n\nhost:a.example:80\n", b"\xff\xfe\0",
    b"<Code>" * 2000, b"&#x1b;&lt;" * 1000, b"<?xml " * 3000, b"Date is too old\n\x1b]0;x\x07",
]  # fmt: skip
URLS = [
    None, parse_url(f"https://s.example/o?AWSAccessKeyId=k&Expires={int(NOW) - 5}&Signature=s"),
    parse_url("https://s.example/o?X-Amz-Date=20231213T080000Z&X-Amz-Expires=60&X-Amz-Signature=s"),
]  # fmt: skip


def fuzz_answers(given: Round) -> Figures:
    """Whatever is answered, there is a verdict, and no other range than asked is believed."""
    chance, watch, accepted = given.chance, Watch(), 0
    for _ in range(BATCH):
        ask = _asked(chance)
        head = _answered(chance, ask)
        with watch:
            verdict = judge(ask, head, NOW)
        if isinstance(verdict, Accepted):
            accepted += 1
            assert believable(ask, head, verdict), (ask, head, verdict)
        else:
            _check_refusal(verdict)
        assert watch.slowest < SLOWEST, head
    return {"mutations": BATCH, "accepted": accepted, "most seconds": watch.slowest}


def _asked(chance: random.Random) -> Ask:
    start, stop = chance.choice([(0, 100), (100, 200), (900, 1000), (0, 1), (0, 1000)])
    size = chance.choice([None, None, 1000, 1000, 0])
    return Ask(start, stop, chance.choice(PINS), size, "a.7z", chance.choice(URLS),
               proven=chance.random() < 0.3, foreign=chance.random() < 0.2)  # fmt: skip


def _answered(chance: random.Random, ask: Ask) -> Head:
    """An honest answer, mostly to this question, with faults."""
    start, stop = ask.start, ask.stop
    if chance.random() < 0.3:
        start, stop = chance.choice([(100, 200), (0, 50), (0, 1000), (start, stop + 1),
                                     (start + 1, stop), (start, start + 1)])  # fmt: skip
    headers = {"content-range": f"bytes {start}-{stop - 1}/1000", "content-length": str(stop - start),
               "etag": '"e"', "date": DATES[0]}  # fmt: skip
    for _ in range(chance.choice((0, 0, 1, 1, 2, 3, 5))):
        name, value = _header(chance)
        if chance.random() < 0.15:
            headers.pop(name, None)
        else:
            headers[name] = value
    pairs = list(headers.items())
    if chance.random() < 0.1:
        pairs.append(chance.choice(pairs or [_header(chance)]))
    body = chance.choice(BODIES)
    if chance.random() < 0.5:
        body = mutated(chance, body, chance.choice(BODIES))
    return Head(chance.choice(STATUSES), tuple(pairs), body)


def _header(chance: random.Random) -> tuple[str, str]:
    def number() -> str:
        return chance.choice(NUMBERS)

    separator = chance.choice(("-", "-", "-", "--", " - ", "", "\u2013"))
    unit = chance.choice(
        ("bytes ", "bytes ", "bytes ", "items ", "BYTES ", "bytes=", "bytes\t", "")
    )
    name, value = chance.choice([
        ("content-range", f"{unit}{number()}{separator}{number()}/{number()}"),
        ("content-range", f"{unit}*/{number()}"),
        ("content-range", f"bytes {number()}-{number()}/1000"),
        ("content-length", number()),
        ("etag", chance.choice(ETAGS)),
        ("content-encoding", chance.choice(ENCODINGS)),
        ("transfer-encoding", chance.choice(["chunked", "gzip, chunked", ""])),
        ("content-type", chance.choice(["text/html", "multipart/byteranges; boundary=x", "x" * 99])),
        ("retry-after", chance.choice(WAITS)),
        ("date", chance.choice(DATES)),
        ("last-modified", chance.choice(DATES)),
        ("x-ratelimit-remaining", number()),
        ("x-ratelimit-reset", number()),
        ("ratelimit", f'"default";r={number()};t={number()}'),
        ("ratelimit-policy", f"{number()};w={number()}"),
        ("x-amz-request-id", chance.choice(["R1", "\x1b[2J", "x" * 999])),
    ])  # fmt: skip
    if chance.random() < 0.1:
        value = mutated(chance, value.encode("utf-8"), b"0123/-* ").decode("latin-1")
    return name, value


def believable(ask: Ask, head: Head, said: Accepted) -> bool:
    """Whether an answer may be believed, by an opinion of its own: promises 2 and 3."""
    label, length = head.get("content-range"), head.get("content-length")
    pin = ask.pin or Pin(None, None)
    if pin.etag is not None and (head.get("etag") or "").strip() != pin.etag:
        return False
    totals = {total for total in (pin.total, ask.size) if total is not None}
    if head.status == 416:
        return ask.start == said.start == said.stop == 0 and totals <= {0}
    if head.status == 200 and label is None:
        whole = said.whole and ask.start == said.start == 0
        return whole and said.stop == (None if length is None else int(length)) and (
            said.stop is None or totals <= {said.stop}
        )  # fmt: skip
    if head.status not in (200, 206) or label is None or said.whole:
        return False
    spelled = f"{said.start}-{(said.stop or 0) - 1}/"
    body, _, total = label.strip().partition("/")
    unit, _, span = body.partition(" ")
    exact = [int(n) for n in span.split("-")] if span.replace("-", "").strip().isdecimal() else []
    return (
        unit.lower() == "bytes"
        and f"{exact[0]}-{exact[1]}/" == spelled
        and ask.start == said.start < (said.stop or 0) <= ask.stop
        and (length is None or int(length) == (said.stop or 0) - said.start)
        and (total == "*" or totals <= {int(total)})
    )


def _check_refusal(error: SegdlError) -> None:
    assert str(error) and all(line.isprintable() for line in str(error).splitlines()), repr(error)
    assert error.request_id is None or len(error.request_id) <= 120
    if isinstance(error, BusyError) and error.retry_after is not None:
        assert 0.0 <= error.retry_after <= LONGEST_WAIT


CAMPAIGN = Campaign("fuzz-answers", "answers made worse", 100, fuzz_answers, told)
