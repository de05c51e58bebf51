"""A secret is blotted out in whatever spelling it comes back."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdl.core.errors import ExitCode
from segdl.core.secrets import Secret
from segdl.core.urls import parse_url
from tests.canary import CANARY
from tests.faults import FaultServer, faults
from tests.orders import Case

SECRET = f"AbCd/{CANARY}+ijKl/mn~&Op+qr="

SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "percents": lambda s: quote(s, safe=""),
    "percents in lower case": lambda s: quote(s, safe="").lower(),
    "percents twice": lambda s: quote(quote(s, safe=""), safe=""),
    "spaces": lambda s: s.replace("+", " "),
    "HTML": html.escape,
    "HTML by numbers": lambda s: "".join(c if c.isalnum() else f"&#{ord(c)};" for c in s),
    "HTML by hexadecimal numbers": lambda s: "".join(
        c if c.isalnum() else f"&#x{ord(c):X};" for c in s
    ),
    "JSON of PHP": lambda s: json.dumps(s)[1:-1].replace("/", "\\/"),
    "JSON of Go": lambda s: "".join(c if c.isalnum() else f"\\u{ord(c):04x}" for c in s),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=list(SPELLINGS))
def test_a_spelling_of_a_secret(spell: Callable[[str], str]) -> None:
    url = parse_url(f"http://h/a?Signature={quote(SECRET, safe='')}")
    assert url.mask(f"bad ({spell(SECRET)}) here") == "bad (***) here"


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=list(SPELLINGS))
def test_a_spelling_of_a_password(spell: Callable[[str], str]) -> None:
    """A header's value has signs in it that no query has."""
    password = f"{CANARY}\"<'>&\\/end"
    found = Secret.of(password)
    assert found is not None and found.blot(f"bad ({spell(password)}) here") == "bad (***) here"


def test_a_query_without_names_is_a_secret() -> None:
    assert parse_url(f"http://h/a?{CANARY}").mask(f"no {CANARY}!") == "no ***!"


@given(st.binary(min_size=8, max_size=40), st.text(max_size=20))
def test_any_bytes(secret: bytes, text: str) -> None:
    """Whatever a value is, it is blotted out as it was sent, and as the bytes that it means."""
    url = parse_url(f"http://h/a?Signature={quote(secret, safe='')}")
    for spelled in (quote(secret, safe=""), secret.decode("latin-1")):
        assert spelled not in url.mask(f"{text}<{spelled}>") or spelled in "<***>"


@given(st.text(min_size=8, max_size=40))
def test_any_words(secret: str) -> None:
    found = Secret.of(secret)
    assert found is not None and found.blot(f"<{secret}>") == "<***>"


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=list(SPELLINGS))
@pytest.mark.parametrize(
    "body",
    [
        "<Error><Code>AccessDenied</Code><Message>bad {}</Message></Error>",
        '{{"code": "AccessDenied", "message": "bad {}"}}',
        "<Error><Code>AccessDenied</Code><Message>" + "x" * 170 + " {}</Message></Error>",
    ],
)
def test_a_server_that_echoes(
    spell: Callable[[str], str], body: str, fault_server: FaultServer, tmp_path: Path
) -> None:
    """No file, event and error of the run has it; `Case` and the watch over secrets look."""
    case = Case(fault_server, tmp_path)
    case.put(b"x" * 100, query=f"AWSAccessKeyId=k&Signature={quote(SECRET, safe='')}")
    fault_server.script(
        "/orders/a.7z", faults.status(403, body=body.format(spell(SECRET)).encode())
    )
    run = case.run()
    assert run.code is ExitCode.LINKS
    assert CANARY.lower() not in run.error().message.lower()
    assert CANARY[:8].lower() not in run.error().message.lower()
