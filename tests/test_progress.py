"""What a person sees of a download: bars on a terminal, lines in a log, sizes and times."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from segdl.cli import wording
from segdl.cli.incidents import QUIET, Incidents
from segdl.cli.plain import EVERY, Plain
from segdl.core.events import (
    Event,
    OrderFinished,
    OrderStarted,
    Progress,
    Retry,
    SegmentDone,
    TargetDone,
    TargetFailed,
    TargetResumed,
    Throttled,
    UrlExpired,
)
from tests.commands import Screen, Terminal
from tests.faults import FaultServer, faults
from tests.orders import Case, Proof, made

MIB = 2**20
SLOW = made(2 * MIB)


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1048575, "1.0 MiB"),
     (25_165_824, "24.0 MiB"), (2**30, "1.0 GiB"), (5 * 2**40, "5.0 TiB"), (2**63, "8388608.0 TiB"),
     ],
)  # fmt: skip
def test_sizes(count: int, shown: str) -> None:
    assert wording.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown", "clock"),
    [(0.04, "0.0 s", "0:00"), (4.21, "4.2 s", "0:04"), (59.96, "1 min 0 s", "1:00"),
     (200, "3 min 20 s", "3:20"), (3600, "1 h 0 min", "1:00:00"), (7530, "2 h 5 min", "2:05:30")],
)  # fmt: skip
def test_times(seconds: float, shown: str, clock: str) -> None:
    assert (wording.span(seconds), wording.clock(seconds)) == (shown, clock)


@pytest.mark.parametrize("width", range(1, 20))
def test_names_are_cut_in_the_middle(width: int) -> None:
    for mark in ("…", "..."):
        short = wording.shorten("chips/12345.7z", width, mark)
        assert len(short) == min(width, 14)
    assert wording.shorten("chips/318677224273.7z", 12) == "chips…273.7z"


# -- incidents -------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def retry(**facts: Any) -> Retry:
    given: dict[str, Any] = {
        "target": "a.7z", "segment": 3, "cause": "broken", "message": "it broke", "wait": 0.25,
        "request_id": None,
    }  # fmt: skip
    return Retry(**given | facts)


INCIDENTS = [
    (retry(), "retry a.7z: it broke, again in 0.2 s"),
    (retry(request_id="R1"), "retry a.7z: it broke (request id R1), again in 0.2 s"),
    (retry(request_id="R1", message="R1 broke"), "retry a.7z: R1 broke, again in 0.2 s"),
    (Throttled(host="minio:9000", wait=30, message="the server is busy: 503"),
     "waiting for minio:9000: the server is busy: 503, asked again in 30.0 s"),
    (UrlExpired(target="a.7z", cause="expired", message="expired", request_id="R2"),
     "expired a.7z: expired (request id R2)"),
    (TargetResumed(target="a.7z"), "resumed a.7z"),
    (TargetFailed(target="a.7z", cause="refused", code=None, status=404, request_id=None,
                  message="gone\x1b[2J\r\nbye"), "FAILED a.7z: gone\\u001b[2J bye"),
    (SegmentDone(target="a.7z", segment=1, bytes=2, seconds=0.1), None),
]  # fmt: skip


@pytest.mark.parametrize(("event", "line"), INCIDENTS)
def test_an_incident_is_one_printable_line(event: Event, line: str | None) -> None:
    assert Incidents().line(event) == line


def test_the_same_incident_is_told_once_in_a_while() -> None:
    clock = Clock()
    incidents = Incidents(clock)
    assert incidents.line(retry())
    assert not incidents.line(retry(segment=4))
    assert incidents.line(retry(cause="stale"))
    assert incidents.line(retry(target="b.7z"))
    clock.now += QUIET
    assert incidents.line(retry())


# -- plain lines -----------------------------------------------------------------------------------


def progress(count: int, total: int | None, rate: float = MIB) -> Progress:
    return Progress(bytes=count, total=total, rate=rate, connections=1, in_flight={})


def done(target: str, *, fetched: bool = True) -> TargetDone:
    return TargetDone(
        target=target, size=MIB, seconds=1, digests={}, grade="digest", fetched=fetched
    )


class Log:
    """Plain lines, without their times, which are checked here."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._out = io.StringIO()
        self._plain = Plain(self._out, self.clock)

    def tell(self, *events: Event, after: float = 0.0) -> list[str]:
        """The lines that these events make."""
        self.clock.now += after
        self._out.seek(0)
        self._out.truncate()
        for event in events:
            self._plain(event)
        text = self._out.getvalue()
        lines = re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.+)\n", text)
        assert len(lines) == text.count("\n")
        return lines


def test_plain_tells_the_start_the_files_and_the_end() -> None:
    log = Log()
    started = OrderStarted(targets=3, bytes=3 * MIB, held=MIB)
    assert log.tell(started) == ["start: 3 files, 3.0 MiB, 1.0 MiB of it here already"]
    assert log.tell(done("a.7z")) == ["done a.7z: 1.0 MiB, digest"]
    assert log.tell(done("b.7z", fetched=False)) == []
    assert log.tell(retry()) == ["retry a.7z: it broke, again in 0.2 s"]
    finished = OrderFinished(delivered=2, failed=1, bytes=MIB, seconds=1, exit_code=7)
    assert log.tell(finished) == ["end: 2 delivered, 1 not"]
    assert Log().tell(OrderStarted(targets=1, bytes=None, held=0)) == [
        "start: 1 file, size not known yet"
    ]


def test_plain_has_a_line_for_each_tenth_but_not_two_a_second() -> None:
    log = Log()
    log.tell(OrderStarted(targets=1, bytes=100 * MIB, held=0))
    assert log.tell(progress(5 * MIB, 100 * MIB), after=2) == []
    assert log.tell(progress(10 * MIB, 100 * MIB), after=2) == [
        "10 %, 10.0 MiB of 100.0 MiB, 1.0 MiB/s, 1 min 30 s left"
    ]
    assert log.tell(progress(20 * MIB, 100 * MIB), after=0.5) == []
    assert len(log.tell(progress(21 * MIB, 100 * MIB), after=0.5)) == 1
    assert log.tell(progress(22 * MIB, 100 * MIB), after=1) == []


def test_plain_has_a_line_now_and_then_however_slow_it_goes() -> None:
    log = Log()
    log.tell(OrderStarted(targets=1, bytes=None, held=0))
    assert log.tell(progress(1024, None, 0), after=EVERY - 1) == []
    assert log.tell(progress(1024, None, 0), after=1) == ["1.0 KiB, 0 B/s"]


def test_plain_after_a_resume_begins_where_it_stands() -> None:
    log = Log()
    log.tell(OrderStarted(targets=1, bytes=100 * MIB, held=55 * MIB))
    assert log.tell(progress(56 * MIB, 100 * MIB), after=2) == []
    assert len(log.tell(progress(60 * MIB, 100 * MIB), after=2)) == 1


# -- bars, on a terminal ---------------------------------------------------------------------------


def on_terminal(
    case: Case, columns: int, rows: int, *arguments: str, **env: str
) -> tuple[int, list[str], str]:
    """A run on a terminal: its exit code, what is left on the screen, all that was written."""
    case.manifest()
    terminal = Terminal(columns, rows)
    words = ("order.json", "-o", "out", "--segment-size", "64KiB", *arguments)
    with terminal.running(*words, cwd=case.folder, env=env) as child:
        lines = terminal.to_end()
        code = child.process.wait()
    return code, lines, terminal.written


def test_bars_leave_nothing_but_the_summary(case: Case) -> None:
    for number in range(6):
        case.put(SLOW, f"/chips/{number}-an-archive-with-a-long-name.7z", proof=Proof.DIGEST)
    code, lines, written = on_terminal(case, 80, 24, "--limit-rate", "8MiB")
    assert code == 0
    assert re.fullmatch(r"order +.*\d+ % of 12\.0 MiB, .* left, [0-6]/6 files", bar(written))
    assert re.search("[1-6]/6 files", written)
    assert "\r0-an-archiv…ong-name.7z " in written
    assert [line.split(" in ")[0] for line in lines] == [
        "Delivered 6 of 6 files", "Fetched 12.0 MiB (12582912 bytes)", "Proof: 6 by sha256",
    ]  # fmt: skip
    assert "\x1b[3" not in written  # no colours, with NO_COLOR or without


def bar(written: str, name: str = "order") -> str:
    """The last drawing of a bar, with a rate in it."""
    drawn = [piece.rstrip() for piece in re.split(r"[\r\n]|\x1b\[\w", written)]
    return [piece for piece in drawn if piece.startswith(name) and "left" in piece][-1]


@pytest.mark.parametrize(("columns", "rows"), [(40, 24), (80, 5), (20, 10), (200, 60)])
def test_bars_fit_the_terminal(columns: int, rows: int, case: Case) -> None:
    for number in range(8):
        case.put(SLOW, f"/chips/{number}-an-archive-with-a-long-name.7z")
    code, lines, written = on_terminal(case, columns, rows, "-c", "8", "--limit-rate", "8MiB")
    assert code == 0
    assert "".join(lines).startswith("Delivered 8 of 8 files in out: 16.0 MiB")
    drawn = re.split(r"[\r\n]|\x1b\[\w", written.partition("Delivered")[0])
    assert max(map(len, drawn)) <= columns - 2
    ups = re.findall(r"(?:\x1b\[A)+", written)  # how far below the first bar it drew
    assert max(map(len, ups)) // 3 == min(rows - 3, 8)


def test_bars_in_ascii_where_there_is_no_unicode(case: Case) -> None:
    case.put(SLOW, "/an-archive-with-a-name-that-is-far-too-long-for-a-bar.7z")
    code, _, written = on_terminal(case, 80, 24, "--limit-rate", "2MiB", PYTHONIOENCODING="ascii")
    assert code == 0
    assert written.isascii()
    assert "\ran-archive...r-a-bar.7z " in written
    assert "#" in written


def test_incidents_stand_above_the_bars_and_stay(case: Case) -> None:
    case.put(SLOW, "/good.7z")
    case.put(SLOW, "/gone.7z")
    case.server.remove("/gone.7z")
    case.server.script("/good.7z", faults.cut(1000), on=1)
    code, lines, _ = on_terminal(case, 160, 24, "--limit-rate", "2MiB")
    assert code == 3
    told = [line.split(":")[0] for line in lines]
    assert set(told[:2]) == {"FAILED gone.7z", "retry good.7z"}
    assert told[2] == "Delivered 1 of 2 files in out"


def test_a_resumed_order_begins_where_it_stands(case: Case) -> None:
    """The rate is that of new bytes, and the bar does not begin at nothing."""
    case.put(SLOW, "/a.7z", proof=Proof.DIGEST)
    case.manifest()
    case.server.script("/a.7z", faults.cut(0), on=lambda seen: (seen.range or (0,))[0] >= MIB)
    assert on_terminal(case, 80, 24, "--retries", "0", "-c", "1")[0] == 7
    case.server.mend()
    code, _, written = on_terminal(case, 80, 24, "--limit-rate", "1MiB")
    assert code == 0
    shown = [int(n) for n in re.findall(r"order[^\r\n]*?(\d+) % of 2\.0 MiB", written)]
    assert shown and min(shown) >= 50
    rates = re.findall(r"order[^\r\n]*?([\d.]+) ([KM]i)?B/s", written)
    assert rates and all(float(n) < 4 for n, unit in rates if unit == "Mi")


def test_ctrl_c_on_a_terminal_leaves_nothing_either(case: Case) -> None:
    for number in range(3):
        case.put(SLOW, f"/chips/{number}.7z")
    case.manifest()
    terminal = Terminal(80, 24)
    words = ("order.json", "-o", "out", "--limit-rate", "1MiB", "--segment-size", "64KiB")
    with terminal.running(*words, cwd=case.folder) as child:
        terminal.until(lambda: " % of 6.0 MiB" in terminal.written)
        terminal.type("\x03")
        lines = terminal.to_end()
        assert child.process.wait() == 130
    assert lines[0] == "Delivered 0 of 3 files in out: 0 B"
    assert lines[-1] == "Stopped. To go on, run: segdl order.json -o out (what is held stays)"


def test_plain_lines_on_a_terminal_that_cannot_move_its_cursor(case: Case) -> None:
    case.put(SLOW, "/a.7z")
    code, lines, written = on_terminal(case, 80, 24, TERM="dumb")
    assert code == 0
    assert "\x1b" not in written
    assert written.count("\r") == written.count("\n")  # the terminal's own
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d start: 1 file, 2\.0 MiB", lines[0])


def test_verify_draws_a_bar_and_wipes_it(case: Case) -> None:
    case.put(SLOW, "/a.7z")
    assert on_terminal(case, 80, 24)[0] == 0
    terminal = Terminal(80, 24)
    with terminal.running("verify", "out", cwd=case.folder) as child:
        assert terminal.to_end() == ["1 good"]
        assert child.process.wait() == 0
    assert re.search(r"verify [^\r\n]+100 % of 2\.0 MiB", terminal.written)


def test_the_screen_of_these_tests() -> None:
    screen = Screen(10, 3)
    screen.feed("one\r\ntwo\r\nthree\x1b[A\rTWO\x1b[A\r\x1b[K")
    assert screen.lines() == ["TWO", "three"]
    screen.feed("0123456789ab")
    assert screen.lines() == ["0123456789", "abO", "three"]
