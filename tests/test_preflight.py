"""core.preflight: what is known of an order before its run, weighed; by tables, without I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from segdl.core.errors import (
    BusyError,
    DiskError,
    ExitCode,
    ExpiredError,
    LockedError,
    OccupiedError,
    RefusedError,
    SegdlError,
    SizeError,
)
from segdl.core.manifest import Pieces, Slice, Target
from segdl.core.options import MIB
from segdl.core.outset import Ground, Link, Outset, Present, Sample, Terms
from segdl.core.plan import Pin
from segdl.core.preflight import ExpiringError, Preflight, Source, steady, weigh
from segdl.core.prospect import question, same_object, size_of
from segdl.core.urls import parse_url
from tests.test_runway import DAY, V4

SIZE = 100 * MIB
GROUND = Ground(free=1000 * SIZE, longest_name=255, longest_path=4096, cased=True)
TAG = '"5d41402abc4b2a76b9719d911017c592"'
OTHER_TAG = '"7d793037a0760186574b0282f2f435e7"'
PIN = Pin(SIZE, TAG)


def url(host: str = "h", ends: bool = False) -> Any:
    """With `ends`, at DAY + 3600."""
    return parse_url(f"http://{host}/a" + (f"?{V4}&X-Amz-Signature=s" if ends else ""))


def target(path: str = "a.7z", **facts: Any) -> Target:
    return Target(path, **{"urls": (url(),), "size": SIZE, **facts})


def good(pin: Pin = PIN, host: str = "h", ends: bool = False, **facts: Any) -> Link:
    return Link(url(host, ends), pin=pin, **facts)


def outset(link: Link | None = None, path: str = "a.7z", **facts: Any) -> Outset:
    return Outset(**{"target": target(path), "links": (link or good(),), **facts})


def weighed(
    *outsets: Outset, terms: Terms | None = None, ground: Ground | None = GROUND,
    rate: float = 0.0, bars: tuple[SegdlError, ...] = (), root: str = "/out", now: float = DAY,
) -> Preflight:  # fmt: skip
    samples = (Sample("h", 1, MIB, rate),) if rate else ()
    return weigh(outsets, terms or Terms(), ground, samples, bars, root, now)


def texts(found: Preflight) -> str:
    return "\n".join(note.text for note in found.notes)


# -- the exit code ---------------------------------------------------------------------------------

REFUSED, EXPIRED = RefusedError("nothing is there"), ExpiredError("the link has expired")
DOWN = BusyError("h cannot be reached")


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([None, None], ExitCode.DONE),
        ([None, REFUSED], ExitCode.LINKS),
        ([EXPIRED, REFUSED], ExitCode.LINKS),
        ([SizeError("other"), None], ExitCode.CONTENT),
        ([DOWN, None], ExitCode.NETWORK),
        ([DOWN, REFUSED], ExitCode.MIXED),
    ],
)
def test_the_code_is_that_of_get(errors: list[SegdlError | None], code: ExitCode) -> None:
    outsets = [outset(good() if e is None else Link(url(), error=e)) for e in errors]
    assert weighed(*outsets, rate=MIB).exit_code == code


def test_what_bars_the_whole_goes_before_what_bars_a_target() -> None:
    refused = outset(Link(url(), error=REFUSED))
    assert weighed(refused, bars=(LockedError("busy"),)).exit_code == ExitCode.BUSY
    bars = (DiskError("read-only"), LockedError("busy"))
    assert weighed(refused, bars=bars, ground=None).exit_code == ExitCode.DISK


def test_what_was_met_at_several_looks_is_told_once() -> None:
    bars = (DiskError("no right"), LockedError("busy"), DiskError("no right"))
    found = weighed(outset(), bars=bars, ground=None)
    assert [error.message for error in found.bars] == ["no right", "busy"]


def test_a_host_that_is_down_fails_as_unreachable_with_the_servers_words() -> None:
    busy = BusyError("the server is busy: 503 SlowDown", status=503, code="SlowDown")
    busy.request_id = "REQ1"
    error = weighed(outset(Link(url(), error=busy))).prospects[0].error
    assert error is not None
    assert (error.cause, error.status, error.code, error.request_id) == (
        "unreachable", 503, "SlowDown", "REQ1",
    )  # fmt: skip
    assert error.message == busy.message


# -- mirrors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("errors", [(DOWN, REFUSED), (REFUSED, DOWN)])
def test_of_mirrors_that_are_all_bad_the_one_that_is_waited_for_counts(
    errors: tuple[SegdlError, ...],
) -> None:
    links = tuple(Link(url(), error=error) for error in errors)
    assert weighed(outset(links=links)).exit_code == ExitCode.NETWORK


def test_one_mirror_is_enough_and_a_dead_one_is_named() -> None:
    links = (Link(url("dead"), error=DOWN), good(host="alive"))
    found = weighed(outset(links=links))
    assert found.exit_code == ExitCode.DONE
    assert "the mirror dead is of no use: h cannot be reached" in texts(found)


@pytest.mark.parametrize(
    ("pin", "provable", "another"),
    [
        (PIN, False, False),
        (Pin(SIZE, OTHER_TAG), False, True),
        (Pin(SIZE, OTHER_TAG), True, False),  # the same bytes have other ETags elsewhere
        (Pin(SIZE - 1, TAG), True, True),
    ],
)
def test_a_mirror_with_another_object_is_named(pin: Pin, provable: bool, another: bool) -> None:
    digests = (("sha256", "0" * 64),) if provable else ()
    found = weighed(outset(target=target(digests=digests), links=(good(), good(pin, "two"))))
    assert ("the mirror two has another object than h" in texts(found)) == another
    assert found.exit_code == ExitCode.DONE


# -- size and object -------------------------------------------------------------------------------


def test_one_byte_is_asked_for_with_what_the_manifest_says() -> None:
    ask = question(target(), url(ends=True))
    assert (ask.start, ask.stop, ask.size, ask.pin) == (0, 1, SIZE, None)
    assert (ask.name, ask.url) == ("a.7z", url(ends=True))
    part = question(target(size=5, slice=Slice(100, 5)), url())
    assert (part.start, part.stop, part.size) == (100, 101, None)


def test_sizes() -> None:
    assert size_of(target(size=None), PIN) == SIZE
    assert size_of(target(), Pin(None, TAG)) == SIZE
    assert size_of(target(size=5, slice=Slice(100, 5)), PIN) == 5
    with pytest.raises(SizeError, match="slice ends beyond"):
        size_of(target(size=5, slice=Slice(SIZE - 4, 5)), PIN)
    with pytest.raises(SizeError, match="1 pieces"):
        size_of(target(size=None, pieces=Pieces(MIB, "md5", ("0" * 32,))), PIN)


WEAK = Pin(SIZE, None, modified="Wed, 13 Dec 2023 08:00:00 GMT")


@pytest.mark.parametrize(
    ("held", "found", "same"),
    [
        (PIN, PIN, True),
        (PIN, Pin(SIZE, OTHER_TAG), False),
        (PIN, Pin(SIZE, None), False),
        (PIN, Pin(SIZE + 1, TAG), False),
        (PIN, Pin(None, TAG), True),
        (PIN, Pin(SIZE, TAG, encoding="gzip"), False),
        (Pin(SIZE, None), PIN, False),
        (Pin(SIZE, None, by_digest=True), PIN, True),
        (WEAK, WEAK, True),
        (WEAK, Pin(SIZE, None), True),
        (WEAK, replace(WEAK, modified="Thu, 14 Dec 2023 08:00:00 GMT"), False),
    ],
)
def test_same_object(held: Pin, found: Pin, same: bool) -> None:
    assert same_object(held, found) == same


def test_what_is_held_is_gone_on_with_unless_the_object_is_another() -> None:
    kept = weighed(outset(used=MIB, pin=PIN)).prospects[0]
    assert (kept.held, kept.left, kept.room) == (MIB, SIZE - MIB, SIZE - MIB)
    found = weighed(outset(good(Pin(SIZE, OTHER_TAG)), used=MIB, pin=PIN))
    again = found.prospects[0]
    assert (again.held, again.left, again.room) == (0, SIZE, SIZE - MIB)
    assert f"the object was replaced: the {MIB} bytes that are held start again" in texts(found)
    assert found.exit_code == ExitCode.DONE


def test_held_bytes_of_an_unknown_object_only_give_their_room_back() -> None:
    lost = weighed(outset(used=MIB, pin=None)).prospects[0]
    assert (lost.held, lost.left, lost.room) == (0, SIZE, SIZE - MIB)


def test_a_server_that_ignores_ranges_takes_what_is_held() -> None:
    found = weighed(outset(good(ranged=False), used=MIB, pin=PIN))
    assert found.prospects[0].held == 0
    assert "ignores ranges: one stream from the start" in texts(found)


def test_an_etag_that_is_not_the_md5_is_told_and_stops_nothing() -> None:
    for md5, told in ((TAG.strip('"'), False), (OTHER_TAG.strip('"'), True)):
        found = weighed(outset(target=target(digests=(("md5", md5),))))
        assert ("its ETag is not the manifest's md5" in texts(found)) == told
        assert found.exit_code == ExitCode.DONE


# -- files in the way, names -----------------------------------------------------------------------

PROVABLE = target(digests=(("sha256", "0" * 64),))


@pytest.mark.parametrize(
    ("present", "asked", "overwrite", "code"),
    [
        (Present(SIZE), target(), False, ExitCode.DONE),  # compared when all is fetched
        (Present(SIZE), PROVABLE, False, ExitCode.DONE),  # hashed
        (Present(SIZE - 1), target(), False, ExitCode.DISK),
        (Present(SIZE - 1), PROVABLE, False, ExitCode.DISK),
        (Present(SIZE - 1), target(), True, ExitCode.DONE),
        (Present(SIZE - 1), target(size=None), False, ExitCode.DISK),  # as the answer told
        (Present(None), target(), False, ExitCode.DISK),
        (Present(None), target(), True, ExitCode.DONE),
        (Present(None, folder=True), target(), True, ExitCode.DISK),
    ],
)
def test_files_in_the_way(present: Present, asked: Target, overwrite: bool, code: ExitCode) -> None:
    found = weighed(outset(target=asked, present=present), terms=Terms(overwrite=overwrite))
    assert found.exit_code == code
    assert all(isinstance(p.error, OccupiedError) for p in found.failing)


def test_a_file_to_be_hashed_needs_neither_line_nor_room() -> None:
    found = weighed(outset(target=PROVABLE, present=Present(SIZE), links=()))
    assert (found.left, found.needed, found.seconds) == (0, 0, 0.0)
    assert "it is hashed" in texts(found)


@pytest.mark.parametrize(
    ("name", "longest", "code"),
    [("x" * 143, 143, 0), ("x" * 144, 143, 5), ("é" * 72, 143, 5), (f"d/{'x' * 144}/a", 143, 5)],
)
def test_a_name_that_this_file_system_does_not_take(name: str, longest: int, code: int) -> None:
    found = weighed(outset(path=name), ground=replace(GROUND, longest_name=longest))
    assert found.exit_code == code
    said = f"a name of 144 bytes, where this file system takes {longest}: give another folder"
    assert [str(p.error).startswith(said) for p in found.failing] == [True] * bool(code)


def test_names_that_others_cannot_open_are_notes() -> None:
    path = "/".join(["x" * 100] * 3)
    found = weighed(outset(path=path), outset(path="z"), root="/" + "o" * 3900)
    assert found.exit_code == ExitCode.DONE
    assert [note.path for note in found.notes if "Windows" in note.text] == [path]
    assert "Windows may not open it" in texts(found)
    assert "many programs here open 4096" in texts(found)
    assert weighed(outset()).notes[1:] == ()


def test_an_order_without_files_is_a_go() -> None:
    assert weighed().exit_code == ExitCode.DONE


# -- room ------------------------------------------------------------------------------------------


def test_two_targets_that_fit_one_by_one_do_not_fit_together() -> None:
    ground = replace(GROUND, free=SIZE + SIZE // 2)
    assert weighed(outset(), ground=ground).exit_code == ExitCode.DONE
    both = weighed(outset(), outset(path="b"), ground=ground)
    assert both.exit_code == ExitCode.DISK
    assert both.full is not None
    assert both.full.missing == both.needed - ground.free
    assert str(both.full.missing) in both.full.message


def test_the_peak_is_what_is_missing_and_a_few_segments() -> None:
    terms = Terms(at_once=2, ahead=4)
    whole = replace(outset(), segment=SIZE)  # its one segment is written where it belongs
    assert weighed(whole, terms=terms).needed == SIZE
    cut = [outset(path=str(n), segment=MIB) for n in range(3)]
    assert weighed(*cut, terms=terms).needed == 3 * SIZE + 2 * 4 * MIB
    kept = weighed(replace(cut[0], used=SIZE - MIB, pin=PIN), terms=terms)
    assert kept.needed == MIB + 4 * MIB


def test_what_fails_for_good_needs_no_room_and_what_is_delivered_neither() -> None:
    ground = replace(GROUND, free=2 * SIZE)
    other = outset(Link(url(), error=SizeError("other")), path="b")
    assert weighed(outset(), other, ground=ground).exit_code == ExitCode.CONTENT
    here = outset(path="b", delivered=SIZE, links=())
    assert weighed(outset(), here, ground=ground).exit_code == ExitCode.DONE


def test_what_cannot_be_fetched_now_will_need_its_room() -> None:
    terms, late = Terms(ahead=0), outset(Link(url(), error=EXPIRED), path="b")
    ground = replace(GROUND, free=2 * SIZE - 7)
    found = weighed(outset(), late, terms=terms, ground=ground)
    assert found.exit_code == ExitCode.LINKS
    assert "with what cannot be fetched now, 7 bytes of room lack" in texts(found)
    enough = weighed(outset(), late, terms=terms, ground=replace(ground, free=2 * SIZE))
    assert "of room lack" not in texts(enough)


# -- links against time ----------------------------------------------------------------------------

LASTS = SIZE / 3600  # bytes a second at which one target is done as its link ends


@pytest.mark.parametrize(
    ("rate", "code", "told"),
    [
        (LASTS * 1.3, 0, False),
        (LASTS * 0.8, 0, True),  # it is an estimate
        (LASTS * 0.3, 3, True),
    ],
)
def test_a_link_that_ends_too_early_by_an_estimate(rate: float, code: int, told: bool) -> None:
    found = weighed(outset(good(ends=True)), rate=rate)
    assert found.exit_code == code
    why = [str(p.error) for p in found.failing]
    assert ("its link ends in 60.0 minutes" in texts(found) + "".join(why)) == told
    assert found.pace is not None
    assert found.pace.source is Source.ESTIMATE


@pytest.mark.parametrize("terms", [Terms(rate=LASTS * 0.8), Terms(limit=int(LASTS * 0.8))])
def test_a_rate_that_is_given_or_a_limit_is_certain(terms: Terms) -> None:
    found = weighed(outset(good(ends=True)), terms=terms, rate=100 * LASTS)
    assert found.exit_code == ExitCode.LINKS
    (failing,) = found.failing
    assert isinstance(failing.error, ExpiringError)
    assert failing.error.cause == "expiring"
    assert failing.error.ends_at == DAY + 3600


def test_only_the_targets_whose_turn_comes_too_late_fail() -> None:
    outsets = [outset(good(ends=True), path=str(n)) for n in range(4)]
    found = weighed(*outsets, terms=Terms(rate=2.5 * LASTS, at_once=1))
    assert [p.path for p in found.failing] == ["2", "3"]


def test_what_will_not_be_fetched_takes_nobody_s_turn() -> None:
    blocked = outset(good(ends=True), path="0", blocked=DiskError("read-only"))
    terms = Terms(rate=1.5 * LASTS, at_once=1)
    found = weighed(blocked, outset(good(ends=True), path="1"), terms=terms)
    assert [p.path for p in found.failing] == ["0"]


def test_a_mirror_that_is_good_longer_is_what_counts() -> None:
    links = (good(ends=True), good(host="two"))
    assert weighed(outset(links=links), terms=Terms(rate=1024)).exit_code == ExitCode.DONE
    dead = (good(ends=True), Link(url("two"), error=DOWN))
    assert weighed(outset(links=dead), terms=Terms(rate=1024)).exit_code == ExitCode.LINKS


def test_with_refresh_the_end_of_a_link_stops_nothing() -> None:
    terms = Terms(rate=1024, renewable=True)
    assert weighed(outset(good(ends=True)), terms=terms).exit_code == ExitCode.DONE
    found = weighed(outset(Link(url(), error=EXPIRED)), terms=terms)
    assert found.exit_code == ExitCode.DONE
    assert "`refresh` has to give a fresh one" in texts(found)
    assert weighed(outset(Link(url(), error=REFUSED)), terms=terms).exit_code == ExitCode.LINKS


def test_links_end_by_the_servers_clock() -> None:
    at_the_servers = outset(good(ends=True, skew=3500.0))
    found = weighed(at_the_servers, terms=Terms(rate=2 * LASTS))
    assert found.exit_code == ExitCode.LINKS
    assert "this machine's clock is 58 minutes behind that of h" in texts(found)
    ahead = weighed(outset(good(skew=-3500.0)))
    assert "this machine's clock is 58 minutes ahead of that of h" in texts(ahead)
    assert "clock" not in texts(weighed(outset(good(skew=299.0))))


# -- the rate --------------------------------------------------------------------------------------


def test_the_limit_caps_the_rate_and_samples_add_up() -> None:
    samples = (Sample("h", 1, MIB, 1000.0), Sample("i", 2, MIB, 500.0))
    found = weigh([outset()], Terms(), GROUND, samples, (), "/out", DAY)
    assert found.pace is not None
    assert found.seconds == SIZE / 1500
    found = weigh([outset()], Terms(limit=100), GROUND, samples, (), "/out", DAY)
    assert (found.pace and found.pace.rate, found.seconds) == (100, SIZE / 100)


def test_without_a_rate_nothing_is_said_of_the_time() -> None:
    found = weighed(outset(good(ends=True)))
    assert (found.pace, found.seconds, found.exit_code) == (None, None, ExitCode.DONE)
    assert "no rate could be measured" in texts(found)


@pytest.mark.parametrize(
    ("seen", "rate"),
    [
        ([(0.0, 0)], None),
        ([(0.0, 0), (1.0, 0)], None),
        ([(0.0, 0), (2.0, 100)], 50.0),
        ([(0.0, 0), (1.0, 10), (2.0, 50), (3.0, 100)], 50.0),  # not the slow beginning
        ([(0.0, 0), (1.0, 50), (1.0, 100)], 100.0),  # a clock that stood
    ],
)
def test_the_rate_of_a_sample(seen: list[tuple[float, int]], rate: float | None) -> None:
    assert steady(seen) == rate
