"""Fresh links: of which files, when they are asked for, and whole runs that live on them."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import ceil, inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import segdl
from segdl.core import events
from segdl.core.errors import BrokenError, ExitCode
from segdl.core.manifest import Manifest, Slice, Target
from segdl.core.options import RateLimit, parse_command
from segdl.core.renewal import PAUSES, Renewed, Turns, first_end, only_later, same_file
from segdl.core.urls import parse_url
from segdl.edges.command import output_of
from segdl.edges.manifest_file import ManifestFile
from segdl.engine.delivery import Delivery
from tests.canary import CANARY
from tests.commands import PATIENCE, ROOT, Running, check_output, environment, running
from tests.commands import segdl as run_segdl
from tests.faults import EVERY_PATH, FaultServer, faults
from tests.faults.answers import Answer, Seen
from tests.faults.wire import Fault, Wire
from tests.orders import (
    HANGS,
    SECRET_HEADER,
    SEGMENT,
    Case,
    Proof,
    at_the_end,
    files_under,
    made,
    nothing_left_over,
)
from tests.servers import S3Server
from tests.steady import Steady

MIB = 1024 * 1024

# -- of which files --------------------------------------------------------------------------------


def target(query: str = "", **more: Any) -> Target:
    return Target("a.7z", (parse_url(f"http://h/a.7z?{query}"),), **more)


def ending(at: int, signature: str = "s") -> str:
    return f"AWSAccessKeyId=k&Expires={at}&Signature={signature}"


OURS = target(size=100, digests=(("sha256", "00"), ("md5", "11")))
FILES: dict[str, tuple[Target, bool]] = {
    "the same": (OURS, True),
    "from elsewhere": (replace(OURS, urls=(parse_url("https://other/b"),)), True),
    "of unknown size": (target(), True),
    "of another size": (target(size=101), False),
    "with another digest beside": (target(digests=(("sha1", "22"),)), True),
    "with one digest of another": (target(digests=(("md5", "11"), ("sha256", "01"))), False),
    "a slice": (target(size=100, slice=Slice(0, 100)), False),
}


@pytest.mark.parametrize(("fresh", "expected"), FILES.values(), ids=list(FILES))
def test_the_same_file(fresh: Target, expected: bool) -> None:
    assert same_file(OURS, 100, fresh) is expected


def test_a_size_that_was_learned_counts() -> None:
    assert same_file(target(), None, target(size=5))
    assert not same_file(target(), 4, target(size=5))


@pytest.mark.parametrize(
    ("present", "fresh", "expected"),
    [
        (ending(100), ending(101), True),
        (ending(100), ending(100), False),
        (ending(100), ending(100, "t"), False),
        (ending(100), ending(99, "t"), False),
        (ending(100), "Signature=t", True),  # who does not say may mean well
        ("Signature=s", "Signature=s", False),
        ("Signature=s", "Signature=t", True),
        ("Signature=s", ending(100), True),
    ],
)
def test_links_that_end_later(present: str, fresh: str, expected: bool) -> None:
    order = Manifest((target(fresh), Target("new", target().urls)))
    assert bool(only_later([target(present)], order).targets) is expected


def test_the_first_end() -> None:
    assert first_end([target(ending(7)), target(ending(5)), target("Signature=s")]) == 5
    assert first_end([]) == inf


def test_of_another_order() -> None:
    assert Renewed(lacking=3, other=3).foreign
    assert not Renewed(delivered=1, lacking=3, other=3).foreign
    assert not Renewed(same=1).foreign


# -- when they are asked for -----------------------------------------------------------------------

DATE = 1e9


def asked(turns: Turns, until: float, end: Callable[[float], float | None]) -> list[float]:
    """When it is asked while links are always wanted; `end` of those that come at each time."""
    times, now = [], 0.0
    while now < until:
        if turns.due(now, DATE + now):
            times.append(now)
            came = end(now)
            turns.asked(now, DATE + now, None if came is None else DATE + came)
        now += 0.5
    return times


def test_failures_are_asked_again_less_and_less() -> None:
    times = asked(Turns(900), 2000, lambda now: None)
    assert [b - a for a, b in pairwise(times)][:6] == [*PAUSES, PAUSES[-1]]


def test_links_of_a_few_seconds_are_asked_for_as_they_end() -> None:
    assert asked(Turns(900), 21, lambda now: now + 5) == [0, 5, 10, 15, 20]


def test_links_that_are_refused_at_once_count_as_failures() -> None:
    times = asked(Turns(900), 2000, lambda now: now + 86400)
    assert [b - a for a, b in pairwise(times)][:5] == [30, *PAUSES[:4]]


def test_success_after_failures_is_one() -> None:
    turns = Turns(900)
    times = asked(turns, 95, lambda now: now + 5 if now >= 90 else None)
    assert times == [0, 30, 90]
    assert turns.pause == PAUSES[0]
    assert turns.hopeful(1e9)


def test_links_that_were_good_for_long_begin_a_new_row() -> None:
    turns = Turns(900)
    for now in (0.0, 3000.0, 6000.0):  # asked for before their end
        turns.asked(now, DATE + now, DATE + now + 3600)
        assert turns.pause == PAUSES[0]
        assert turns.hopeful(now + 1e6)


def test_hope_lasts_as_long_as_patience() -> None:
    turns = Turns(100)
    assert turns.hopeful(1e6)
    asked(turns, 200, lambda now: None)
    assert turns.hopeful(99)
    assert not turns.hopeful(100)


@given(st.lists(st.one_of(st.none(), st.integers(1, 10_000)), max_size=30))
def test_never_twice_within_a_pause_unless_they_ended(ends: list[int | None]) -> None:
    left = iter(ends)
    came: dict[float, int | None] = {}

    def end(now: float) -> float | None:
        came[now] = next(left, None)
        return None if came[now] is None else now + (came[now] or 0)

    times = asked(Turns(900), 1000, end)
    for before, after in pairwise(times):
        lasted = came[before]
        assert after - before >= min(PAUSES[0], inf if lasted is None else lasted)


# -- the manifest's file ---------------------------------------------------------------------------


def test_a_file_is_read_once_it_stands_still(tmp_path: Path) -> None:
    path = tmp_path / "order.yaml"
    path.write_text("one")
    file = ManifestFile(str(path))
    assert [file.replaced() for _ in range(3)] == [False] * 3
    path.write_text("half")
    assert not file.replaced()
    path.write_text("half a manifest")
    assert not file.replaced()
    assert [file.replaced() for _ in range(3)] == [True, False, False]
    assert file.read(100) == b"half a manifest"
    assert file.read(3) == b"half"  # one more than was asked for, to tell that there is more


def test_a_file_that_is_renamed_into_its_place(tmp_path: Path) -> None:
    path, fresh = tmp_path / "order.yaml", tmp_path / "fresh"
    path.write_text("one")
    file = ManifestFile(str(path))
    fresh.write_text("two")
    os.utime(fresh, ns=(path.stat().st_mtime_ns,) * 2)
    path.unlink()
    assert not file.replaced()
    fresh.rename(path)
    assert [file.replaced() for _ in range(3)] == [False, True, False]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "order.yaml"
    path.write_text("x")
    file = ManifestFile.of(str(path))
    assert file is not None
    path.unlink()
    os.mkfifo(path)
    assert [file.replaced() for _ in range(3)] == [False] * 3
    for source in (str(path), "-", f"http://h/a?{'x' * 10_000}", "a\0b"):
        assert ManifestFile.of(source) is None


# -- the command -----------------------------------------------------------------------------------


def never() -> bool:
    return False


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_what_a_command_writes() -> None:
    code = "import sys; sys.stderr.write('x' * 10**6); print(sys.stdin.read() + 'y' * 10**6)"
    assert output_of(python(code), 2 * MIB, 10, never) == b"y" * 10**6 + b"\n"


FAILING: dict[str, tuple[str, str]] = {
    "code": ("raise SystemExit(7)", "ended with 7"),
    "signal": ("import os; os.kill(os.getpid(), 9)", "ended with -9"),
    "words": (
        "import sys; sys.exit('\\x1b[2Jno\\nway http://h/a?X=secret ' + 'z' * 9999 + ' end')",
        "ended with 1: " + "z" * 196 + " end",
    ),
    "half a url": (
        f"import sys; sys.exit('http://h/a?X={CANARY}' + '{CANARY}' * 9999 + ' gone')",
        "ended with 1: gone",
    ),
    "a header": (
        f"import sys; sys.exit('> Authorization: x {CANARY}\\n403')",
        "ended with 1: > Authorization:… 403",
    ),
    "a url": (
        "import sys; sys.exit('http://h/a?X=secret gone')",
        "ended with 1: http://h/a?… gone",
    ),
    "escapes": ("import sys; sys.exit('\\x1b[2J')", "ended with 1: \\u001b[2J"),
    "too much": ("print('x' * 3 * 2**20)", "writes more than 1 MiB"),
}


@pytest.mark.parametrize(("code", "message"), FAILING.values(), ids=list(FAILING))
@pytest.mark.plants_secrets
def test_a_command_that_fails(code: str, message: str) -> None:
    with nothing_left_over(), pytest.raises(BrokenError) as failed:
        output_of(python(code), MIB, 10, never)
    assert failed.value.message == message


@pytest.mark.parametrize("command", [["/nowhere/at/all"], ["/"], ["a\0b"]])
def test_a_command_that_cannot_be_run(command: list[str]) -> None:
    with pytest.raises(BrokenError, match="cannot be run"):
        output_of(command, MIB, 10, never)


def test_a_command_that_takes_too_long_leaves_nobody() -> None:
    """Not even whom it has started itself."""
    began = time.monotonic()
    with pytest.raises(BrokenError, match="takes too long"):
        output_of(["sh", "-c", "echo $$; sleep 60 & sleep 60"], MIB, 0.3, never)
    assert time.monotonic() - began < HANGS


def test_a_command_is_interrupted() -> None:
    over = threading.Event()
    threading.Timer(0.2, over.set).start()
    began = time.monotonic()
    with pytest.raises(BrokenError, match="was interrupted"):
        output_of(["sleep", "60"], MIB, 60, over.is_set)
    assert time.monotonic() - began < HANGS


def test_the_words_of_a_command() -> None:
    assert parse_command("fresh --order 'SO 42' $HOME") == ("fresh", "--order", "SO 42", "$HOME")
    for wrong in ("", "  ", "a 'b", "a\0"):
        with pytest.raises(ValueError, match=r"^expected a command") as refused:
            parse_command(wrong)
        assert "'b" not in str(refused.value)


# -- whole runs ------------------------------------------------------------------------------------

ORDER = 4 * SEGMENT + 7777
RATE = RateLimit(300 * 1024)
BRIEF = RateLimit(1000 * 1024)
MANIFEST = "/manifest"
SHORT = 2  # seconds that a link is good for


def has_ended(seen: Seen) -> bool:
    ends = parse_url(f"http://h/?{seen.query}").ends_at
    return ends is not None and ends <= time.time()


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """An order on a server that refuses links by the ends that they have."""
    monkeypatch.setattr("segdl.engine.renewal.LOOK", 0.05)
    fault_server.script(EVERY_PATH, faults.EXPIRED["MinIO"], on=has_ended)
    return Case(fault_server, tmp_path)


def lasting(seconds: float, signature: str = CANARY) -> str:
    """The query of a link that is good for so long, or up to a second more."""
    signed = datetime.fromtimestamp(ceil(time.time() + seconds), UTC) - timedelta(hours=1)
    dates = f"X-Amz-Date={signed:%Y%m%dT%H%M%SZ}&X-Amz-Expires=3600"
    return f"X-Amz-Algorithm=AWS4-HMAC-SHA256&{dates}&X-Amz-Signature={signature}"


def resigned(case: Case, seconds: float, **more: Any) -> str:
    """The manifest of the same order with links that are good for so long from now."""
    files = [
        entry | {"url": f"{entry['url'].partition('?')[0]}?{lasting(seconds, f'{CANARY}fresh')}"}
        for entry in case.files.values()
    ]
    return json.dumps({"segdl": 1, "files": files} | more)


def put(case: Case, number: int = 4, seconds: float = -2, size: int = ORDER) -> None:
    """An order whose links are good for so many seconds."""
    for n in range(number):
        case.put(made(size, n), f"/{n}.7z", query=lasting(seconds))


def serving(case: Case, text: Callable[[], str]) -> None:
    """Let the order's `refresh:` URL, which is a secret, give what `text` says."""

    def give(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        return answer.carrying(text().encode())

    case.server.put(MANIFEST, b"")
    case.server.script(MANIFEST, give)
    case.extra["refresh"] = case.server.url(MANIFEST, f"token={CANARY}")


def data_sent(case: Case) -> int:
    """Bytes of the objects that were sent; refusals are short."""
    seen = [r for r in case.server.requests if r.path != MANIFEST]
    return sum(r.sent for r in seen if r.sent > 2000)


def asked_for_manifest(case: Case) -> list[Seen]:
    return [seen for seen in case.server.requests if seen.path == MANIFEST]


def when(kind: type[events.Event], act: Callable[[], object]) -> Callable[[events.Event], None]:
    """A listener that acts at the first event of a kind."""
    left = [act]

    def listen(event: events.Event) -> None:
        if isinstance(event, kind) and left:
            left.pop()()

    return listen


@pytest.mark.usefixtures("steady")
def test_the_refresh_url_brings_links(case: Case) -> None:
    """Once for the order, with nothing held fetched again; headers by origin alone are sent."""
    put(case)
    serving(case, lambda: resigned(case, 3600))
    run = case.run(headers=(("X-Mine", CANARY),))
    assert run.code is ExitCode.DONE
    (asked,) = asked_for_manifest(case)
    assert asked.query == f"token={CANARY}"
    assert asked.headers["x-secret"] == SECRET_HEADER["X-Secret"]
    assert not {"range", "if-match", "x-mine"} & set(asked.headers)
    (told,) = run.of(events.LinksRefreshed)
    assert (told.targets, told.lacking, told.other) == (4, 0, 0)
    assert not run.of(events.RefreshFailed)
    assert data_sent(case) == 4 * ORDER


@pytest.mark.usefixtures("steady")
def test_links_of_a_few_seconds(case: Case) -> None:
    """An order that lasts longer than any of its links, with as many refreshes as it takes."""
    put(case, 6, 1)
    serving(case, lambda: resigned(case, 1))
    run = case.run(limit_rate=RATE, patience=5.0)
    assert run.code is ExitCode.DONE
    asked, told = len(asked_for_manifest(case)), len(run.of(events.LinksRefreshed))
    assert 2 <= told <= asked <= 6
    assert asked <= told + 1  # what nobody waits for any more is not told
    assert data_sent(case) == 6 * ORDER


BAD: dict[str, tuple[Callable[[Case], str], str]] = {
    "the same links": (
        lambda case: json.dumps({"segdl": 1, "files": list(case.files.values())}),
        "its links end no later than those that are here",
    ),
    "another order": (
        lambda case: '{"segdl": 1, "files": [{"path": "b", "url": "http://h/b"}]}',
        "it is of another order: no file of this one is in it",
    ),
    "a page": (lambda case: f"<html>{CANARY}</html>", "expected"),
    "faults": (
        lambda case: '{"segdl": 1, "files": [{"path": "../b", "url": "http://h/b"}, {}]}',
        "faults)",
    ),
    "nothing": (lambda case: "", "expected"),
}


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=list(BAD))
def test_a_manifest_that_is_no_good(case: Case, text: Callable[[Case], str], message: str) -> None:
    """It is told, asked again later, and waited for as long as patience lasts."""
    put(case, 2)
    serving(case, lambda: text(case))
    run = case.run(patience=0.5)
    assert run.code is ExitCode.LINKS
    (told,) = run.of(events.RefreshFailed)
    assert message in told.message
    assert told.source == case.server.url(MANIFEST) + "?…"
    assert told.wait == PAUSES[0]
    assert len(asked_for_manifest(case)) == 1


ANSWERS = {
    "refused": (faults.s3_error(403, "AccessDenied", f"no {CANARY}"), "the server answers 403"),
    "down": (faults.status(500), "the server answers 500"),
    "cut": (faults.cut(1000), "the connection broke in the middle of the body"),
    "blackhole": (faults.blackhole(1000), "the answer takes too long"),
    "endless": (faults.endless_body(declared=False), "the answer is longer than 1 MiB"),
    "elsewhere": (faults.redirect("ftp://h/x"), "a redirect was refused"),
    "round": (faults.redirect(MANIFEST), "more than 5 redirects"),
}


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(("fault", "message"), ANSWERS.values(), ids=list(ANSWERS))
def test_a_refresh_url_that_fails(
    case: Case, fault: Fault, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segdl.engine.renewal.LARGEST", MIB)
    put(case, 2)
    serving(case, str)
    case.server.put(MANIFEST, made(100_000))
    case.server.script(MANIFEST, fault)
    run = case.run(patience=0.7, timeout=0.3)
    assert run.code is ExitCode.LINKS
    (told,) = run.of(events.RefreshFailed)
    assert message in told.message


@pytest.mark.usefixtures("steady")
def test_headers_do_not_follow_to_another_origin(case: Case) -> None:
    put(case, 2)
    with FaultServer() as other:
        other.put(MANIFEST, resigned(case, 3600).encode())
        serving(case, str)
        there = other.url(MANIFEST, f"X-Amz-Signature={CANARY}")
        case.server.script(MANIFEST, faults.redirect(there))
        assert case.run().code is ExitCode.DONE
        (asked,) = other.requests
        assert "x-secret" not in asked.headers
        assert asked_for_manifest(case)[0].headers["x-secret"]


def writer(case: Case, *texts: str) -> tuple[str, ...]:
    """A command that writes one text after the other, and then fails."""
    for number, text in enumerate(texts):
        (case.folder / f"fresh{number}").write_text(text)
    code = "import pathlib, sys; p = min(pathlib.Path().glob('fresh?'), default=None);"
    code += "sys.exit('gone http://h/x?' + sys.argv[1]) if p is None else print(p.read_text());"
    return (sys.executable, "-c", f"import os; os.chdir({str(case.folder)!r}); {code} p.unlink()",
            CANARY)  # fmt: skip


@pytest.mark.usefixtures("steady")
@pytest.mark.plants_secrets
def test_the_refresh_command_brings_links(case: Case) -> None:
    put(case)
    serving(case, lambda: resigned(case, 3600))
    run = case.run(refresh_command=writer(case, resigned(case, 3600)))
    assert run.code is ExitCode.DONE
    assert not asked_for_manifest(case)  # the command comes first


@pytest.mark.usefixtures("steady")
@pytest.mark.plants_secrets
def test_the_refresh_url_stands_in_for_the_command(case: Case) -> None:
    put(case)
    serving(case, lambda: resigned(case, 3600))
    run = case.run(refresh_command=writer(case))
    assert run.code is ExitCode.DONE
    (told,) = run.of(events.RefreshFailed)
    assert told.source == "the refresh command"
    assert told.message == "ended with 1: gone http://h/x?…"


def test_a_command_that_hangs_holds_nobody(case: Case) -> None:
    """A run that is stopped is over at once, and so is its command."""
    put(case, 1)
    control = segdl.Control()
    threading.Timer(0.7, control.cancel).start()
    run = case.run(control=control, refresh_command=("sleep", "60"), patience=60.0)
    assert run.code is ExitCode.INTERRUPTED


def test_a_command_that_hangs_keeps_nobody_from_the_manifest_s_file(case: Case) -> None:
    put(case, 1)
    fresh, order = case.folder / "fresh", case.folder / "order.json"
    fresh.write_text(resigned(case, 3600))
    hanging = ("sh", "-c", f"mv {shlex.quote(str(fresh))} {shlex.quote(str(order))}; sleep 60")
    run = case.run(refresh_command=hanging, patience=60.0)
    assert run.code is ExitCode.DONE


@pytest.mark.usefixtures("steady")
def test_a_manifest_that_echoes_the_secret_of_its_url(case: Case) -> None:
    put(case, 1)
    serving(case, lambda: json.dumps({"segdl": 1, CANARY: CANARY, "files": []}))
    run = case.run(patience=0.5)
    assert run.code is ExitCode.LINKS
    (told,) = run.of(events.RefreshFailed)
    assert "***: unknown key" in told.message


@pytest.mark.usefixtures("steady")
def test_the_manifest_s_file_is_replaced(case: Case) -> None:
    put(case, 1)
    gate = threading.Event()
    case.put(made(SEGMENT, 9), "/held.7z", query=lasting(3600))
    case.server.script("/held.7z", faults.held(gate), on=1)

    def listen(event: segdl.Event) -> None:
        replaced(event)
        if isinstance(event, events.TargetDone):
            gate.set()

    fresh = case.folder / "fresh"
    replaced = when(
        events.TargetPaused,
        lambda: (
            (fresh.write_text(resigned(case, 3600)), fresh.rename(case.folder / "order.json"))
        ),
    )
    run = case.run(listener=listen, connections=2, timeout=60.0)
    assert run.code is ExitCode.DONE
    assert [event.target for event in run.of(events.TargetResumed)] == ["0.7z"]
    assert len(run.of(events.LinksRefreshed)) == 1


def until_told(case: Case, act: Callable[[events.Event], None]) -> Callable[[events.Event], None]:
    """A listener that acts, in an order that does not end before a refresh was told to fail."""
    gate = threading.Event()
    case.server.script("/3.7z", faults.held(gate), on=1)

    def listen(event: segdl.Event) -> None:
        act(event)
        if isinstance(event, events.RefreshFailed):
            gate.set()

    return listen


@pytest.mark.usefixtures("steady")
def test_a_broken_file_is_told_of_once(case: Case) -> None:
    """The old links stay."""
    put(case, 4, 3600)
    path = case.folder / "order.json"
    broken = when(events.SegmentDone, lambda: path.write_text('{"segdl": 1, "files": [{'))
    run = case.run(listener=until_told(case, broken), limit_rate=BRIEF)
    assert run.code is ExitCode.DONE
    (told,) = run.of(events.RefreshFailed)
    assert told.source == str(path)
    assert told.message.startswith(f"{path}:1: ")
    assert told.wait is None


@pytest.mark.usefixtures("steady")
def test_a_file_of_another_order_is_told_of(case: Case) -> None:
    put(case, 4, 3600)
    other = '{"segdl": 1, "files": [{"path": "b", "url": "http://h/b"}]}'
    replaced = when(events.SegmentDone, lambda: (case.folder / "order.json").write_text(other))
    run = case.run(listener=until_told(case, replaced), limit_rate=BRIEF)
    assert run.code is ExitCode.DONE
    (told,) = run.of(events.RefreshFailed)
    assert "another order" in told.message


def test_segments_under_way_change_their_link_without_losing_a_byte(case: Case) -> None:
    """What runs goes on with the old answer; when that breaks, the rest comes by the new link."""
    case.put(made(ORDER), query=lasting(3600))
    case.server.script("/orders/a.7z", faults.cut(30_000), on=lambda r: "fresh" not in r.query)
    control, gate = segdl.Control(), threading.Event()
    case.server.script("/orders/a.7z", faults.held(gate, 1000), on=1)  # until there is a new link

    def come() -> None:
        control.refresh(segdl.load(rewritten(case, resigned(case, 7200))))
        gate.set()

    refresh = when(events.TargetStarted, come)
    run = case.run(control=control, listener=refresh, connections=1, segment_size=2 * SEGMENT)
    assert run.code is ExitCode.DONE
    assert case.server.sent() == ORDER
    first, *rest = case.server.requests
    assert "fresh" not in first.query and first.sent
    assert rest and all("fresh" in seen.query for seen in rest)


def rewritten(case: Case, text: str) -> Path:
    path = case.folder / "fresh.json"
    path.write_text(text)
    return path


@dataclass
class Replaced:
    """An order of one target, and links of an object that nothing says is the same."""

    case: Case
    control: segdl.Control = field(default_factory=segdl.Control)

    def put(self, size: int) -> tuple[bytes, bytes]:
        """What the two objects hold."""
        old, new = made(size, 1), made(size, 2)
        self.case.put(old, "/old", name="a.7z", proof=Proof.NOTHING)
        self.case.server.put("/new", new, etag='W/"weak"')
        return old, new

    def refresh(self) -> None:
        size = len(self.case.contents["a.7z"][0])
        entry = {"path": "a.7z", "size": size, "url": self.case.server.url("/new")}
        text = json.dumps({"segdl": 1, "files": [entry]})
        assert self.control.refresh(segdl.load(rewritten(self.case, text))) == 1


@pytest.fixture
def replaced(case: Case) -> Replaced:
    return Replaced(case)


def test_an_object_that_nothing_says_is_the_same_is_started_again(
    case: Case, replaced: Replaced
) -> None:
    """Another key, and no strong ETag: what is held could be of anything."""
    _, new = replaced.put(ORDER)
    case.may_hold("a.7z", new)
    gate = threading.Event()
    case.server.script("/old", faults.held(gate, 1000), on=2)  # it is not all there before

    def come() -> None:
        replaced.refresh()
        gate.set()

    refresh = when(events.SegmentDone, come)
    run = case.run(control=replaced.control, listener=refresh, connections=1)
    assert run.code is ExitCode.DONE
    assert case.final("a.7z").read_bytes() == new


SIZES = pytest.mark.parametrize(
    ("size", "deliver"), [(5000, "deliver_drafts"), (ORDER, "deliver")], ids=["small", "large"]
)


@SIZES
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_target_that_is_being_delivered_is_not_begun_again(
    case: Case, replaced: Replaced, monkeypatch: pytest.MonkeyPatch,
    size: int, deliver: str, late: bool,
) -> None:  # fmt: skip
    """All of it came by the links before: that is one object, too."""
    old, _ = replaced.put(size)
    real = getattr(Delivery, deliver)

    def called(self: Delivery, tasks: Any) -> Any:
        if not late:
            replaced.refresh()
        found = real(self, tasks)
        if late:
            replaced.refresh()
        return found

    monkeypatch.setattr(Delivery, deliver, called)
    run = case.run(control=replaced.control)
    assert run.code is ExitCode.DONE
    assert case.final("a.7z").read_bytes() == old
    assert not [seen for seen in case.server.requests if seen.path == "/new"]


@SIZES
def test_a_target_that_could_not_be_delivered_goes_on_with_the_links_that_came_meanwhile(
    case: Case, replaced: Replaced, monkeypatch: pytest.MonkeyPatch, size: int, deliver: str
) -> None:
    _, new = replaced.put(size)
    case.may_hold("a.7z", new)
    real, refreshed = getattr(Delivery, deliver), list[bool]()

    def called(self: Delivery, tasks: Any) -> Any:
        if refreshed:
            return real(self, tasks)
        replaced.refresh()
        refreshed.append(True)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Delivery, deliver, called)
    run = case.run(control=replaced.control)
    assert run.code is ExitCode.DONE
    assert case.final("a.7z").read_bytes() == new
    kinds = [kind for kind in run.kinds() if kind in ("target_failed", "target_resumed")]
    assert kinds == ["target_failed", "target_resumed"]


# -- the same order, run again ---------------------------------------------------------------------


def stopped_half_way(case: Case, **options: Any) -> int:
    """An order whose run was stopped: the bytes that were sent."""
    control = segdl.Control()
    stop = when(events.SegmentDone, control.cancel)
    case.server.script(EVERY_PATH, faults.trickle(5e5))
    # Of none all comes.
    case.server.script(EVERY_PATH, faults.blackhole(1000), on=at_the_end(ORDER))
    assert case.run(control=control, listener=stop, **options).code is ExitCode.INTERRUPTED
    case.server.mend()
    return case.server.sent()


def rehosted(case: Case) -> dict[str, dict[str, Any]]:
    """The same files, in another order, elsewhere: another host and other keys."""
    for name in list(case.files):
        case.server.put(f"/moved/{name}", case.contents[name][0])
    host = f"localhost:{case.server.port}"
    return {
        name: {**entry, "url": f"http://{host}/moved/{name}?{lasting(3600)}"}
        for name, entry in reversed(case.files.items())
    }


@pytest.mark.parametrize("proof", [Proof.ETAG, Proof.DIGEST])
def test_what_is_held_goes_on_from_other_hosts(case: Case, proof: Proof) -> None:
    for n in range(3):
        case.put(made(ORDER, n), f"/{n}.7z", query=lasting(3600), proof=proof)
    stopped_half_way(case)
    case.files = rehosted(case)
    case.finish()


def test_what_is_delivered_is_not_fetched_from_other_hosts(case: Case) -> None:
    """Where the manifest proves nothing the ETag does: a byte is asked for, once."""
    put(case, 3, 3600)
    case.put(b"", "/empty", query=lasting(3600))
    case.put(made(ORDER, 9), "/weak", query=lasting(3600), proof=Proof.NOTHING)
    assert case.run().code is ExitCode.DONE
    case.files = rehosted(case)
    case.server.forget()
    run = case.run()
    assert run.code is ExitCode.DONE
    there = {event.target for event in run.of(events.TargetDone) if not event.fetched}
    assert {"0.7z", "1.7z", "2.7z"} <= there
    seen = [r for r in case.server.requests if r.path.endswith(".7z")]
    assert [r.range for r in seen] == [(0, 1)] * 3
    assert sum(r.sent for r in seen) == 3
    case.server.forget()
    assert case.run().code is ExitCode.DONE  # by its receipt
    assert not [r for r in case.server.requests if r.path.endswith(".7z")]


def test_what_is_delivered_and_another_object_elsewhere(case: Case) -> None:
    """It is in the way, as any file is; on request it is replaced."""
    case.put(made(ORDER), query=lasting(3600))
    assert case.run().code is ExitCode.DONE
    other = made(ORDER, 2)
    case.files = rehosted(case)
    case.server.put("/moved/a.7z", other)
    assert case.run().code is ExitCode.DISK
    case.may_hold("a.7z", made(ORDER), other)
    assert case.run(overwrite=True).code is ExitCode.DONE
    assert case.final().read_bytes() == other


def test_a_manifest_that_holds_only_what_is_missing(case: Case) -> None:
    put(case, 3, 3600)
    case.server.script("/1.7z", faults.EXPIRED["AWS"])
    assert case.run().code is ExitCode.LINKS
    case.server.mend()
    case.server.forget()
    case.files = {"1.7z": case.files["1.7z"]}
    run = case.run()
    assert run.code is ExitCode.DONE
    assert case.server.sent() == ORDER - run.held
    assert {seen.path for seen in case.server.requests} == {"/1.7z"}


# -- the command line ------------------------------------------------------------------------------


def segments_done(child: Running, count: int) -> None:
    left = iter(range(count))
    child.until(lambda event: event["event"] == "segment_done" and next(left, None) is None)


def refresh(case: Case, *arguments: str | Path, stdin: str = "") -> tuple[int, str, str]:
    ended = run_segdl("refresh", *arguments, cwd=case.folder, stdin=stdin)
    return ended.returncode, ended.stdout, ended.stderr


GET = ("-o", "out", "--segment-size", "64KiB", "--limit-rate", "400KiB", "--progress", "json")


@pytest.mark.parametrize("stdin", [False, True])
def test_refresh_hands_the_manifest_to_who_is_at_work(case: Case, stdin: bool) -> None:
    """It says what came of it, and nothing of it is in any file."""
    put(case, 4, 3600)
    case.extra["order"] = "out"
    order = case.manifest()
    fresh = rewritten(case, resigned(case, 7200, order="out"))
    gate = threading.Event()
    case.server.script(EVERY_PATH, faults.held(gate, 1000), on=lambda r: r.number > 1)
    with running(order, *GET, cwd=case.folder) as child:
        segments_done(child, 1)
        given = ("-", "-o", "out") if stdin else (fresh,)  # by its order's name
        code, out, err = refresh(case, *given, stdin=fresh.read_text() if stdin else "")
        assert (code, err) == (0, "")
        assert out == "Fresh links for 4 files of the order under way in out\n"
        said = child.until(lambda event: event["event"] == "links_refreshed")
        assert said["targets"] == 4
        assert stat.S_ISSOCK((case.out / ".segdl" / "control").lstat().st_mode)
        for path in files_under(case.out):
            assert CANARY.encode() not in path.read_bytes()
        gate.set()
        rest, err = child.process.communicate(timeout=PATIENCE)
        check_output(rest + err)
        assert child.process.returncode == 0
    assert not (case.out / ".segdl" / "control").exists()
    assert data_sent(case) == 4 * ORDER
    case.check_delivered()


def test_refresh_says_what_still_lacks_a_link(case: Case) -> None:
    put(case, 4, 3600)
    order = case.manifest()
    one, two, *_ = json.loads(resigned(case, 7200))["files"]
    new = {"path": "new", "url": "http://h/new"}
    unlike = two | {"size": 5}
    some = rewritten(case, json.dumps({"segdl": 1, "files": [new, unlike, one]}))
    other = case.folder / "other.json"
    other.write_text(json.dumps({"segdl": 1, "files": [new]}))
    bad = case.folder / "bad.json"
    bad.write_text('{"segdl": 1, "files": []}')
    case.server.script(EVERY_PATH, faults.held(threading.Event()), on=lambda r: r.number > 1)
    with running(order, *GET, cwd=case.folder) as child:  # it does not end meanwhile
        segments_done(child, 1)
        code, out, err = refresh(case, some, "-o", "out")
        assert (code, err, out.splitlines()) == (0, "", [
            "Fresh links for 1 file of the order under way in out",
            "Still without a fresh link: 3 files",
            "Not of that order, and left alone: 1 file",
        ])  # fmt: skip
        code, out, err = refresh(case, some, "-o", "out")
        assert (code, out.splitlines()[1]) == (0, "1 file had these very links already")
        code, out, err = refresh(case, other, "-o", "out")
        assert (code, out) == (2, "")
        assert err.startswith("segdl: the order under way there is another")
        code, out, err = refresh(case, bad, "-o", "out")
        assert (code, out) == (2, "")
        assert err.startswith(f"{bad}:1: files")


def test_refresh_of_a_stopped_order_is_get(case: Case) -> None:
    """Also where a run that was killed has left its socket."""
    put(case, 4, 3600)
    order = case.manifest()
    case.server.script(EVERY_PATH, faults.held(threading.Event()), on=lambda r: r.number > 2)
    with running(order, *GET, cwd=case.folder) as child:
        segments_done(child, 3)
        child.process.send_signal(signal.SIGKILL)
        child.process.wait()
    case.server.mend()
    assert (case.out / ".segdl" / "control").exists()
    case.server.until(lambda: case.server.open == 0)
    fresh = rewritten(case, resigned(case, 7200, order="out"))
    before = case.server.sent()
    code, out, _ = refresh(case, fresh, "--segment-size", "64KiB")
    assert code == 0
    assert "Delivered 4 of 4 files" in out
    case.check_delivered()
    assert before < 4 * ORDER <= case.server.sent() <= 4 * ORDER + 4 * MIB
    assert not (case.out / ".segdl" / "control").exists()


def test_hot_and_cold_by_the_command_line(case: Case) -> None:
    """Links of two seconds: a command, `segdl refresh` and a stop; nothing is fetched again."""
    put(case, 6, SHORT)
    order, handed_over = case.manifest(), threading.Event()

    def ended(seen: Seen) -> bool:
        """Fresh links do not end on their way, however long it takes to start another segdl."""
        return has_ended(seen) and ("fresh" not in seen.query or handed_over.is_set())

    case.server.mend()
    case.server.script(EVERY_PATH, faults.EXPIRED["MinIO"], on=ended)
    with running(order, *GET, cwd=case.folder) as child:
        child.until(lambda event: event["event"] in ("url_expiring", "url_expired"))
        fresh = rewritten(case, resigned(case, SHORT))
        assert refresh(case, fresh, "-o", "out")[0] == 0
        handed_over.set()
        child.until(lambda event: event["event"] in ("url_expired", "order_finished"))
        child.stop(signal.SIGTERM)
    script = case.folder / "sign.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.test_renewal import lasting\nimport json\n"
        f"order = json.load(open({str(order)!r}))\n"
        "for file in order['files']:\n"
        "    file['url'] = file['url'].partition('?')[0] + '?' + lasting(3600)\n"
        "print(json.dumps(order))\n"
    )
    code, out, err = refresh(
        case, order, *GET[:-2], "--refresh-command", f"{sys.executable} {script}",
    )  # fmt: skip
    assert code == 0, out + err
    case.check_delivered()
    assert data_sent(case) <= 6 * ORDER + 4 * 2 * SEGMENT  # what a stop leaves on the way


def test_nobody_sees_what_is_handed_over(case: Case) -> None:
    """No argument and no environment of the command has more than it was given."""
    put(case, 1)
    seen = case.folder / "seen"
    code = f"import os, sys; open({str(seen)!r}, 'w').write(repr((sys.argv, dict(os.environ))))"
    ended = run_segdl(
        case.manifest(), "-o", "out", "--patience", "0.7s", "--refresh-command",
        shlex.join([sys.executable, "-c", code]), cwd=case.folder,
    )  # fmt: skip
    assert ended.returncode == 3
    argv, variables = eval(seen.read_text())
    assert argv == ["-c"]
    ours = environment(case.folder)
    assert {k: v for k, v in variables.items() if k not in ("LC_CTYPE",)} == ours


# -- real servers ----------------------------------------------------------------------------------

LINKS = int(os.environ.get("SEGDL_TEST_LINKS", "4"))  # seconds that a link is good for
ARCHIVE = 300 * 1024


@pytest.mark.slow
def test_an_order_outlives_its_links(s3: S3Server, standstills: Steady, tmp_path: Path) -> None:
    """Through three refreshes, hot and cold, from a real server; nothing is fetched again."""
    data = {f"{type(s3).__name__}/{n}.7z": made(ARCHIVE + n, n) for n in range(20)}
    bucket = s3.bucket_at(f"http://127.0.0.1:{s3.port}")
    for key, content in data.items():
        s3.put(key, content)

    def sign(name: str) -> Path:
        files = [
            {"path": key, "url": bucket.presign(key, LINKS), "size": len(content)}
            for key, content in data.items()
        ]
        text = json.dumps({"segdl": 1, "order": "out", "files": files})
        (tmp_path / "part").write_text(text)
        return (tmp_path / "part").rename(tmp_path / name)

    rate = str(20 * ARCHIVE // (4 * LINKS))
    command = ["--limit-rate", rate, "--progress", "json", "-c", "4"]
    fetched, refreshed, ends = 0, 0, list[int]()
    order = sign("order.json")
    while 0 not in ends and len(ends) < 20:
        with running("refresh", order, *command, cwd=tmp_path) as child:
            for event in child.events():
                refreshed += event["event"] == "links_refreshed"
                if event["event"] in ("url_expiring", "url_expired"):
                    sign("order.json")  # its own file is replaced: once for each of their ends
                if event["event"] == "links_refreshed" and refreshed >= 2 and 143 not in ends:
                    child.process.send_signal(signal.SIGTERM)
                if event["event"] == "order_finished":
                    fetched += event["bytes"]
            ends.append(child.process.wait())
        order = sign("order.json")
    assert ends[-1] == 0
    assert set(ends) <= {0, 3, 143}  # 3: all links ended before the file was replaced
    if standstills.lost < LINKS / 4:  # else links may have ended before anybody could look
        assert ends.count(143) == 1
        assert refreshed >= 2
    print(f"{type(s3).__name__}: {refreshed} hot and {len(ends) - 1} cold, {fetched} bytes fetched")
    assert fetched == sum(map(len, data.values()))
    assert all((tmp_path / "out" / key).read_bytes() == content for key, content in data.items())
