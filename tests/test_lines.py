"""Lines that are slow, lossy by the look of it, or down for a while (N05); listeners that block."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

import segdl
from segdl.core import events
from segdl.core.errors import ExitCode
from segdl.core.pace import FIRST, Crowd
from tests.faults import Answer, FaultServer, Seen, TCPProxy, Wire
from tests.orders import HANGS, NAME, PATH, QUERY, SEGMENT, Case, Proof, made, until

MIB = 1024 * 1024
DATA = made(2 * MIB)


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


def through(case: Case, proxy: TCPProxy, data: bytes = DATA) -> None:
    """An order that goes by way of a proxy."""
    case.put(data, proof=Proof.DIGEST, url=f"http://127.0.0.1:{proxy.port}{PATH}?{QUERY}")


@pytest.mark.usefixtures("steady")
def test_n05_a_slow_line_is_no_stall(case: Case) -> None:
    """8 Mbit/s over eight connections with a window of half a second: nobody is given up."""
    with TCPProxy(case.server.host, case.server.port) as proxy:
        through(case, proxy)
        proxy.limit(1e6)
        proxy.delay(0.05)
        run = case.run(connections=8, timeout=0.5, segment_size=4 * SEGMENT)
        assert run.code is ExitCode.DONE
        assert run.of(events.Retry) == []
        assert proxy.sent <= len(DATA) + 64 * 1024  # heads


def test_n05_small_cuts_all_the_time(case: Case) -> None:
    """What loss looks like from above: connections that break after some hundred kB."""
    with TCPProxy(case.server.host, case.server.port) as proxy:
        through(case, proxy)
        proxy.reset(150_000)
        run = case.run(connections=4, retries=3, segment_size=8 * SEGMENT)
        assert run.code is ExitCode.DONE
        case.check_delivered()
        assert case.server.sent() <= 2 * len(DATA)


@pytest.mark.usefixtures("steady")
def test_n05_a_line_that_is_down_for_a_while(case: Case) -> None:
    """Silent for three stall windows, open connections and new ones: nothing is given up."""
    with TCPProxy(case.server.host, case.server.port) as proxy:
        through(case, proxy)
        proxy.limit(4e6)
        down = threading.Event()

        def listen(event: segdl.Event) -> None:
            if isinstance(event, events.Progress) and event.bytes > MIB // 2 and not down.is_set():
                down.set()
                proxy.blackhole()
                threading.Timer(0.9, proxy.clear).start()

        run = case.run(connections=4, timeout=0.3, patience=60.0, retries=8, listener=listen)
        assert down.is_set()
        assert run.code is ExitCode.DONE
        case.check_delivered()


def test_connections_that_were_too_many_for_a_while_are_used_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four, one, four: the last four requests wait for each other."""
    case.put(made(24 * SEGMENT))
    numbers, all_four = itertools.count(1), threading.Barrier(FIRST)
    wanted, seen = FIRST, FIRST

    def look(self: Crowd, *_: object) -> int:
        nonlocal seen
        self.allowed = seen = wanted
        return self.allowed

    def meanwhile(wire: Wire, request: Seen, answer: Answer) -> Answer:
        nonlocal wanted
        number = next(numbers)
        if number == 8:
            wanted = 1
        if number >= 8:
            until(lambda: seen == 1 or number > 17)
        if number == 17:
            until(lambda: case.server.open == 1)  # the others have hung up, and wait
            wanted = FIRST
        if 17 <= number <= 20:
            all_four.wait(HANGS)
        return answer

    monkeypatch.setattr(Crowd, "look", look)
    case.server.script(PATH, meanwhile)
    run = case.run(connections=None, timeout=2 * HANGS)
    assert run.code is ExitCode.DONE
    case.check_delivered()


def test_a_listener_that_blocks_holds_nobody_else(case: Case) -> None:
    """The download goes on while it blocks, and it hears everything afterwards."""
    case.put(DATA)
    seen: list[str] = []

    def listen(event: segdl.Event) -> None:
        if event.event == "target_started":
            until(lambda: case.server.sent() == len(DATA))
        seen.append(event.event)

    run = case.run(listener=listen)
    assert run.code is ExitCode.DONE
    assert seen[0] == "order_started" and seen[-1] == "order_finished"
    assert seen.count("target_done") == 1 and case.final(NAME).read_bytes() == DATA
