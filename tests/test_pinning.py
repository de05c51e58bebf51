"""core.pinning: what a target's mirrors are asked and believed; by tables, without I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from segdl.core.manifest import Slice, Target
from segdl.core.pinning import Pinning
from segdl.core.plan import Pin
from segdl.core.urls import parse_url
from segdl.core.verdict import Accepted
from tests.test_receipts import RECEIPT

ONE, TWO = parse_url("http://one/a"), parse_url("http://two/b")
SHA256 = (("sha256", "0" * 64),)
PIN = Pin(100, '"x"', modified="Sat, 28 Nov 2026 00:00:00 GMT")
LOOSE = Pin(100, None, by_digest=True)


def pinned(**facts: Any) -> Pinning:
    """By the first of two mirrors."""
    pinning = Pinning(Target("a.7z", **{"urls": (ONE, TWO), "size": 100, **facts}))
    pinning.admit(PIN, 0)
    return pinning


def accepted(pin: Pin) -> Accepted:
    return Accepted(0, 10, pin)


def test_a_probe_has_no_pin() -> None:
    ask = Pinning(Target("a.7z", urls=(ONE,), size=100)).ask(0, 10, 0)
    assert (ask.pin, ask.size, ask.proven, ask.foreign) == (None, 100, False, False)
    assert ask.url is ONE


@pytest.mark.parametrize(
    ("facts", "mirror", "pin"),
    [
        ({}, 0, PIN),
        ({}, 1, PIN),  # nothing would tell whether another ETag's bytes are the same
        ({"digests": SHA256}, 0, PIN),
        ({"digests": SHA256}, 1, LOOSE),
    ],
)
def test_another_mirror_may_have_an_etag_of_its_own_where_a_digest_will_tell(
    facts: dict[str, Any], mirror: int, pin: Pin
) -> None:
    ask = pinned(**facts).ask(0, 10, mirror)
    assert ask.pin == pin
    assert ask.foreign == (mirror == 1)


def test_what_another_mirror_has_given_holds_for_it() -> None:
    pinning = pinned(digests=SHA256)
    pinning.answered(1, accepted(Pin(100, '"y"', by_digest=True)))
    pinning.answered(1, accepted(Pin(100, '"z"', by_digest=True)))
    assert pinning.ask(0, 10, 1).pin == Pin(100, '"y"')
    assert pinning.ask(0, 10, 0).pin == PIN


def test_a_mirror_without_an_etag_goes_on_by_digest() -> None:
    pinning = pinned(digests=SHA256)
    pinning.answered(1, accepted(LOOSE))
    assert pinning.ask(0, 10, 1).pin == LOOSE


def test_after_a_wrong_digest_every_mirror_has_to_have_the_pinned_object() -> None:
    pinning = pinned(digests=SHA256)
    pinning.condemned = 1
    assert pinning.ask(0, 10, 1).pin == PIN


def test_a_url_that_has_given_bytes_is_proven_until_it_is_replaced() -> None:
    pinning = pinned()
    pinning.answered(0, accepted(PIN))
    assert [pinning.ask(0, 10, mirror).proven for mirror in (0, 1)] == [True, False]
    pinning.relink((ONE, TWO))
    assert not pinning.ask(0, 10, 0).proven


def test_the_next_object_is_another_pin() -> None:
    pinning = pinned(digests=SHA256)
    pinning.answered(1, accepted(Pin(100, '"y"', by_digest=True)))
    pinning.let_go()
    assert [pinning.ask(0, 10, mirror).pin for mirror in (0, 1)] == [None, None]
    assert not pinning.is_known


@pytest.mark.parametrize(
    ("etag", "links", "same"),
    [
        ('"x"', (TWO,), True),  # If-Match will tell
        (None, (TWO, ONE), True),
        (None, (parse_url("http://one/a?X-Amz-Signature=s"),), True),
        (None, (TWO,), False),
    ],
)
def test_fresh_links_are_of_the_object_if_something_says_so(
    etag: str | None, links: tuple[Any, ...], same: bool
) -> None:
    pinning = pinned()
    pinning.admit(Pin(100, etag), 0)
    assert pinning.relink(links) == same
    assert pinning.urls == links


def test_before_a_pin_any_link_will_do() -> None:
    pinning = Pinning(Target("a.7z", urls=(ONE,), size=100))
    assert pinning.relink((TWO,))


@pytest.mark.parametrize(("name", "known"), [(TWO.object_name, True), ("three/c", False)])
def test_an_earlier_run_tells_whose_object_it_was(name: str, known: bool) -> None:
    pinning = Pinning(Target("a.7z", urls=(ONE, TWO), size=100, digests=SHA256))
    pinning.go_on(PIN, name)
    assert pinning.is_known == known
    assert [pinning.ask(0, 10, mirror).foreign for mirror in (0, 1)] == [True, not known]
    assert pinning.object_name == (TWO if known else ONE).object_name


def test_a_slice_is_asked_for_in_the_objects_own_offsets() -> None:
    ask = pinned(slice=Slice(1000, 100)).ask(10, 20, 0)
    assert (ask.start, ask.stop, ask.size) == (1010, 1020, None)


def test_an_offer_is_asked_for_by_its_own_etag() -> None:
    offer = replace(RECEIPT, size=100, etag='"w"')
    ask = pinned().ask_for_offer(offer, 0)
    assert (ask.start, ask.stop, ask.pin) == (0, 1, Pin(100, '"w"'))
    assert pinned(slice=Slice(0, 100)).ask_for_offer(offer, 0).pin == Pin(None, '"w"')
