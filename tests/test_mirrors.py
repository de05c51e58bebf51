"""Mirrors: the fastest first, one object for all, one with another object named and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from segdl.core import events
from segdl.core.errors import BusyError, ExitCode, RefusedError, SizeError, StaleError
from segdl.core.head import Head
from segdl.core.mirrors import FASTER, STAY, TRY_FIRST, TRY_MOST, Mirrors
from segdl.core.plan import Pin
from segdl.core.schedule import Schedule
from segdl.core.settling import RESTARTS
from segdl.core.urls import parse_url
from segdl.core.verdict import Accepted, Ask, judge
from segdl.core.work import Again, Fetch, GiveUp, Restart, Wait
from tests.commands import segdl
from tests.faults import FaultServer, faults
from tests.orders import NAME, QUERY, SEGMENT, SIZE, Case, Proof, made, pieces_of

DATA, OTHER = made(SIZE), made(SIZE, 2)
MIB = 1024 * 1024
BUSY = BusyError("down")


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


@pytest.fixture
def second() -> Iterator[FaultServer]:
    """Another host with an object of the same path."""
    with FaultServer() as server:
        yield server


# -- the measure -----------------------------------------------------------------------------------


def known(now: float = 0.0, **rates: float) -> Mirrors:
    mirrors = Mirrors()
    for host, rate in rates.items():
        mirrors.measured(host, now, int(rate * MIB), 1.0)
    return mirrors


@pytest.mark.parametrize(
    ("rates", "current", "best"),
    [
        ({}, 0, 0),
        ({"b": 9.0}, 0, 0),  # the manifest's order, until its own host is measured
        ({"a": 1.0}, 0, 0),
        ({"a": 1.0, "b": FASTER * 0.99}, 0, 0),  # not far faster
        ({"a": 1.0, "b": FASTER * 1.01}, 0, 1),
        ({"a": 1.0, "b": FASTER * 1.01}, 1, 1),
        ({"a": 1.0, "b": 2.0, "c": 3.0}, 0, 2),
        ({"a": 0.0, "c": 0.001}, 0, 2),
    ],
)
def test_best(rates: dict[str, float], current: int, best: int) -> None:
    others = [n for n in range(3) if n != current]
    assert known(**rates).best(("a", "b", "c"), current, others) == best


def test_only_those_that_may_be_asked_are_chosen_from() -> None:
    assert known(a=1, b=9, c=5).best(("a", "b", "c"), 0, [2]) == 2
    assert known(a=1, b=9, c=5).fastest(("a", "b", "c"), [0, 2]) == 2
    assert Mirrors().fastest(("a", "b", "c"), [1, 2]) == 1
    assert Mirrors().fastest(("a", "b", "c"), []) is None


def test_the_latest_minute_counts_for_most() -> None:
    mirrors = known(a=100.0)
    for second in range(60):
        mirrors.measured("a", float(second), MIB, 1.0)
    rate = mirrors.rate("a")
    assert rate is not None and rate / MIB < 3.0


def test_little_work_is_no_measure() -> None:
    mirrors = Mirrors()
    mirrors.measured("a", 0.0, 1000, 0.01)
    assert mirrors.rate("a") is None
    assert mirrors.is_due("a", 0.0)
    mirrors.measured("a", 0.0, MIB, 0.01)
    assert mirrors.rate("a")


def test_what_is_not_measured_is_tried_and_ever_more_rarely() -> None:
    mirrors = Mirrors()
    assert not mirrors.is_due("b", 1000.0)  # nothing has come at all yet
    mirrors.measured("a", 0.0, MIB, 1.0)
    now, times = 0.0, []
    while now < 3600.0:
        if mirrors.is_due("b", now):
            mirrors.tried("b", now)
            times.append(now)
        now += 1.0
    waits = [late - early for early, late in pairwise(times)]
    assert times[0] == TRY_FIRST
    assert waits == sorted(waits) and waits[-1] == TRY_MOST
    mirrors.measured("b", now, MIB, 1.0)
    assert not mirrors.is_due("b", now + TRY_MOST - 1)
    assert mirrors.is_due("b", now + TRY_MOST)  # a measure grows old


# -- the schedule ----------------------------------------------------------------------------------


def plan_of(count: int, hosts: tuple[str, ...], jobs: int = 1) -> Schedule:
    plan = Schedule(retries=8, patience=900.0, chance=lambda: 0.5)
    for job in range(jobs):
        plan.add(job, hosts, count, (), pinned=True, merge=False)
    return plan


def take(plan: Schedule, worker: int = 0, now: float = 0.0) -> Fetch:
    work = plan.take(worker, now, None)
    assert isinstance(work, Fetch), work
    return work


@dataclass
class World:
    """Hosts with a rate for each connection, and a clock."""

    plan: Schedule
    rates: dict[str, float]  # segments a second; 0 is down
    workers: int = 4
    asked: list[tuple[float, str]] = field(default_factory=list)

    def play(self, seconds: float, now: float = 0.0) -> Counter[str]:
        """Who served how many segments until `seconds`."""
        busy: dict[int, tuple[Fetch, float, float]] = {}
        done: Counter[str] = Counter()
        while now < seconds:
            for worker in range(self.workers):
                if worker in busy and busy[worker][1] <= now:
                    work, _, began = busy.pop(worker)
                    self.plan.measured(work.host, now, MIB, now - began)
                    self.plan.done(work, worker)
                    done[work.host] += 1
                given = self.plan.take(worker, now, None) if worker not in busy else None
                if isinstance(given, Fetch):
                    work = given
                    self.asked.append((now, work.host))
                    if rate := self.rates[work.host]:
                        self.plan.answered(work, worker, None, now)
                        busy[worker] = work, now + 1 / rate, now
                    else:
                        self.plan.settle(work, worker, BUSY, now)
            now += 0.05
        for worker, (work, *_) in busy.items():
            self.plan.release(work, worker)
        return done


def test_a_faster_mirror_is_found_and_kept() -> None:
    world = World(plan_of(10_000, ("slow", "fast", "dead")), {"slow": 1, "fast": 10, "dead": 0})
    done = world.play(60.0)
    assert done["fast"] > 4 * 10 * 50 * 0.8
    switches = [a for a, b in pairwise(world.asked) if a[1] != b[1]]
    assert len(switches) < 20


def test_a_slower_mirror_gets_a_segment_now_and_then() -> None:
    world = World(plan_of(10_000, ("fast", "slow")), {"fast": 5, "slow": 1})
    done = world.play(120.0)
    assert done["slow"] == 1 and done["fast"] > 4 * 5 * 120 * 0.75


def test_mirrors_of_much_the_same_rate_are_not_changed_all_the_time() -> None:
    plan = plan_of(10_000, ("a", "b"))
    world = World(plan, {"a": 4.0, "b": 5.0})
    assert world.play(300.0)["b"] <= 2
    plan.measured("b", 300.0, 1000 * MIB, 1.0)  # far faster: it moves, once
    moved = take(plan, 0, 301.0)
    assert moved.host == "b"
    plan.measured("a", 302.0, 10**6 * MIB, 1.0)
    assert take(plan, 1, 301.0 + STAY / 2).host == "b"
    assert take(plan, 2, 301.0 + STAY).host == "a"


def test_a_dead_mirror_is_asked_rarely_and_found_again() -> None:
    world = World(plan_of(100_000, ("dead", "b")), {"dead": 0, "b": 5})
    done = world.play(1200.0)
    assert done["b"] > 4 * 5 * 1200 * 0.75
    times = [now for now, host in world.asked if host == "dead"]
    assert 4 <= len(times) <= 10
    assert times[-1] - times[-2] == pytest.approx(TRY_MOST, abs=1.0)
    world.rates["dead"] = 50
    assert world.play(1700.0, now=1200.0)["dead"] > 4 * 50 * 100


def test_a_dead_mirror_is_not_asked_by_the_only_worker() -> None:
    world = World(plan_of(10_000, ("dead", "b")), {"dead": 0, "b": 5}, workers=1)
    world.play(600.0)
    assert len([host for _, host in world.asked if host == "dead"]) == 1


def test_the_last_segment_is_not_for_trying() -> None:
    plan = plan_of(2, ("a", "b"))
    plan.measured("a", 0.0, MIB, 1.0)
    assert take(plan, 0, 100.0).host == "b"
    assert take(plan, 1, 1000.0).host == "a"


def test_an_outage_of_all_mirrors_costs_few_requests_and_any_may_end_it() -> None:
    """Promise 10: at most 40 requests a host in ten minutes; whichever comes back first serves."""
    plan = plan_of(1000, ("a", "b"), jobs=1)
    world = World(plan, {"a": 0, "b": 0})
    world.play(600.0)
    asked = Counter(host for _, host in world.asked)
    assert 10 < asked["a"] <= 40 and 10 < asked["b"] <= 40
    world.rates["b"] = 5
    assert world.play(700.0, now=600.0)["b"] > 100


def test_patience_with_all_mirrors_ends() -> None:
    plan, now, over = plan_of(10, ("a", "b"), jobs=3), 0.0, set[int]()
    while len(over) < 3:
        match plan.take(0, now, None):
            case Fetch() as work:
                decision = plan.settle(work, 0, BUSY, now)
                over |= set(decision.jobs) if isinstance(decision, GiveUp) else set()
            case Wait(until):
                assert until is not None
                now = until
        assert now < 2 * 900.0 + 60.0


def test_a_held_back_host_is_left_for_another_also_where_it_is_only_slowed() -> None:
    plan = plan_of(10, ("a", "b"))
    works = [take(plan, worker) for worker in range(4)]
    for worker, work in enumerate(works):
        plan.answered(work, worker)
    plan.settle(take(plan, 4), 4, BusyError("too many", status=429, retry_after=60.0), 0.0)
    assert take(plan, 4, 1.0).host == "b"


@pytest.mark.parametrize("error", [StaleError("another"), SizeError("longer")], ids=str)
def test_a_mirror_with_another_object_is_left_out_once(error: StaleError | SizeError) -> None:
    plan = plan_of(9, ("a", "b"))
    works = [take(plan, worker) for worker in range(3)]
    first, *later = [plan.settle(work, worker, error, 0.0) for worker, work in enumerate(works)]
    assert first == Again(0.0, left="a")
    assert later == [Again(0.0)] * 2
    assert {take(plan, worker).host for worker in range(3)} == {"b"}


def test_an_object_that_is_another_everywhere_starts_again_with_all_mirrors() -> None:
    plan = plan_of(9, ("a", "b", "c"))
    plan.settle(take(plan), 0, RefusedError("404"), 0.0)
    assert isinstance(plan.settle(take(plan), 0, StaleError("another"), 0.0), Again)
    assert plan.settle(take(plan), 0, StaleError("another"), 0.0) == Restart()
    plan.restarted(0, 9)
    assert take(plan).host == "b"  # a has refused, and is still of no use


def test_mirrors_that_never_agree_come_to_an_end() -> None:
    plan = plan_of(9, ("a", "b"))
    for number in range(2 * RESTARTS + 2):
        work = take(plan)
        if work.probe:
            plan.learn(0, 9)
        decision = plan.settle(work, 0, StaleError("another"), 0.0)
        if isinstance(decision, Restart):
            plan.restarted(0, 9)
        assert isinstance(decision, GiveUp) == (number == 2 * RESTARTS + 1)


def test_a_helper_goes_to_the_faster_mirror() -> None:
    plan = plan_of(9, ("a", "b"))
    work = take(plan)
    plan.measured("a", 0.0, MIB, 1.0)
    plan.measured("b", 0.0, 9 * MIB, 1.0)
    helper = plan.helper(work, 1.0)
    assert helper is not None and (helper.mirror, helper.host) == (1, "b")
    plan.helped(helper, 1)
    plan.settle(take(plan, 1, 1.0), 1, BUSY, 1.0)
    helper = plan.helper(work, 1.1)
    assert helper is not None and helper.host == "a"


# -- the verdict on another mirror's answer --------------------------------------------------------


PIN = Pin(10, '"one"')


def answer(**headers: str) -> Head:
    base = {"content-range": "bytes 0-4/10", "content-length": "5"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Head(206, tuple((base | named).items()))


@pytest.mark.parametrize(
    "head",
    [
        answer(etag='"two"'),
        answer(),
        answer(etag='W/"one"'),
        answer(etag='"one"', content_encoding="gzip"),
        answer(etag='"one"', content_range="bytes 0-4/11"),
        Head(412),
    ],
    ids=str,
)
def test_another_mirror_s_other_object_is_no_replacement(head: Head) -> None:
    """What it says is about the mirror: no try of a segment, and no doubt of the pin."""
    verdict = judge(Ask(0, 5, pin=PIN, foreign=True), head, 0.0)
    assert isinstance(verdict, StaleError)
    assert "another object" in verdict.message
    assert "replaced" not in verdict.message


def test_a_digest_allows_an_etag_of_its_own() -> None:
    ask = Ask(0, 5, pin=Pin(10, None, by_digest=True), foreign=True)
    verdict = judge(ask, answer(etag='"two"'), 0.0)
    assert isinstance(verdict, Accepted) and verdict.pin.etag == '"two"'


# -- end to end ------------------------------------------------------------------------------------


def mirrored(case: Case, second: FaultServer, data: bytes = DATA, **entry: object) -> None:
    """One target at two hosts; the first one is busy from its third request on."""
    urls = [case.server.url("/a.7z", QUERY), second.url("/a.7z", QUERY)]
    case.put(DATA, "/a.7z", name=NAME, urls=urls, **entry)  # type: ignore[arg-type]
    second.put("/a.7z", data, etag='"another-store"')
    case.server.script("/a.7z", faults.slow_down(60), on=range(3, 1000))


@pytest.mark.parametrize("digest", ["hash", "pieces"])
def test_another_etag_of_the_same_bytes_goes_on_where_a_digest_settles_it(
    case: Case, second: FaultServer, digest: str
) -> None:
    """Nothing is fetched again; what the other store says of itself then holds for it."""
    given = {"proof": Proof.DIGEST} if digest == "hash" else {"pieces": pieces_of(DATA)}
    mirrored(case, second, **given)
    run = case.run(connections=1)
    run.report.raise_for_failures()
    case.check_delivered()
    assert run.report.bytes == SIZE
    assert not run.report.left_out
    first, *later = second.requests
    assert "if-match" not in first.headers
    assert {request.headers["if-match"] for request in later} == {'"another-store"'}


def test_another_etag_is_another_object_where_nothing_settles_it(
    case: Case, second: FaultServer
) -> None:
    """It is named, in an event and in the report; what is held stays, and is gone on with."""
    mirrored(case, second, OTHER)

    def mend(event: events.Event) -> None:
        if isinstance(event, events.MirrorLeft):
            case.server.mend()

    case.server.script("/a.7z", faults.slow_down(None), on=range(3, 1000))
    run = case.run(connections=1, patience=60.0, listener=mend)
    run.report.raise_for_failures()
    assert case.final().read_bytes() == DATA
    assert run.report.bytes == SIZE
    assert len(second.requests) == 1
    (left,) = run.of(events.MirrorLeft)
    (out,) = run.report.left_out
    host = f"{second.host}:{second.port}"
    assert (left.target, left.host, left.cause) == (NAME, host, "stale")
    assert (out.host, out.path, out.targets) == (host, NAME, 1)


def test_the_summary_names_a_mirror_with_another_object(case: Case, second: FaultServer) -> None:
    urls = [second.url("/a.7z", QUERY), case.server.url("/a.7z", QUERY)]
    second.put("/a.7z", DATA[:-1])
    case.put(DATA, "/a.7z", name=NAME, urls=urls)
    case.manifest()
    ended = segdl("order.json", "-o", "out", cwd=case.folder)
    assert ended.returncode == 0
    line = f"Mirror {second.host}:{second.port} was left out for {NAME}: "
    assert line in ended.stdout
    assert f"left mirror {second.host}:{second.port} for {NAME}: " in ended.stderr
    assert len(second.requests) == 1


def test_an_object_that_is_replaced_at_both_mirrors_starts_again(
    case: Case, second: FaultServer
) -> None:
    mirrored(case, second, sized=False)
    case.may_hold(NAME, OTHER)
    case.server.script("/a.7z", faults.replaced(OTHER, '"new"'), on=range(3, 1000))
    second.put("/a.7z", OTHER, etag='"new"')
    run = case.run(connections=1)
    run.report.raise_for_failures()
    assert case.final().read_bytes() == OTHER
    assert run.report.bytes == SIZE + 2 * SEGMENT


@pytest.mark.parametrize("good", [0, 1])
def test_one_mirror_is_wrong_and_only_the_whole_shows_it(
    case: Case, second: FaultServer, good: int
) -> None:
    """Bytes of both, and a digest that does not hold: each has to give all of it by itself."""
    servers = [case.server, second]
    urls = [server.url("/a.7z", QUERY) for server in servers]
    case.put(DATA, "/a.7z", name=NAME, urls=urls, proof=Proof.DIGEST)
    servers[good].put("/a.7z", DATA, etag='"good"')
    servers[1 - good].put("/a.7z", OTHER, etag='"bad"')
    case.server.script("/a.7z", faults.slow_down(None), on=3)
    run = case.run(connections=1, patience=60.0)
    run.report.raise_for_failures()
    case.check_delivered()
    assert run.report.bytes == (2 + good) * SIZE


def test_a_good_mirror_is_found_among_bad_ones(case: Case, second: FaultServer) -> None:
    """The first link has ended, the second host has other content, the third is down: only the
    fourth is good, and each of the others is bad in its own way."""
    with FaultServer() as dead:
        pass
    with FaultServer() as third:
        servers = (case.server, second, dead, third)
        urls = [server.url("/a.7z", QUERY) for server in servers]
        case.put(DATA, "/a.7z", name=NAME, urls=urls, proof=Proof.DIGEST)
        case.server.script("/a.7z", faults.EXPIRED["MinIO"])
        second.put("/a.7z", OTHER)
        third.put("/a.7z", DATA)
        run = case.run(patience=60.0)
        run.report.raise_for_failures()
    case.check_delivered()
    assert run.report.bytes == 3 * SIZE  # two of them the wrong ones
    assert {left.host for left in run.report.left_out} == {parse_url(urls[0]).netloc}


def test_a_mirror_that_ends_while_it_has_to_give_all(case: Case, second: FaultServer) -> None:
    """Its content was not the one to blame, but its link ends: the other one gets its turn."""
    servers = [case.server, second]
    urls = [server.url("/a.7z", QUERY) for server in servers]
    case.put(DATA, "/a.7z", name=NAME, urls=urls, proof=Proof.DIGEST)
    case.server.put("/a.7z", OTHER)
    second.put("/a.7z", DATA)
    case.server.script(
        "/a.7z", faults.EXPIRED["MinIO"], on=lambda seen: case.server.sent() >= SIZE + SEGMENT
    )
    run = case.run(connections=1, segment_size=SEGMENT)
    run.report.raise_for_failures()
    case.check_delivered()


def test_both_mirrors_are_wrong(case: Case, second: FaultServer) -> None:
    mirrored(case, second, OTHER, proof=Proof.DIGEST)
    case.server.mend()
    case.server.put("/a.7z", OTHER)
    run = case.run(connections=1)
    assert (run.code, run.error().cause) == (ExitCode.CONTENT, "digest")
    assert run.report.bytes == 3 * SIZE


def test_an_order_goes_on_at_the_mirror_that_its_pin_is_of(case: Case, second: FaultServer) -> None:
    """The first was down when the target began; the next run knows whose the ETag is."""
    mirrored(case, second)
    case.server.script("/a.7z", faults.slow_down(None))
    second.script("/a.7z", faults.status(404), on=range(3, 1000))
    assert case.run(connections=1, patience=0.5).code is not ExitCode.DONE
    case.server.mend()
    second.mend()
    second.forget()
    run = case.run(connections=1)
    run.report.raise_for_failures()
    assert case.final().read_bytes() == DATA
    assert run.held == 2 * SEGMENT
    assert run.report.bytes == SIZE - run.held
    (receipt,) = run.report.receipts
    assert receipt.object.startswith(f"{second.host}:{second.port}/")
    assert case.run().report.skipped == {NAME}


def test_mirrors_of_many_small_files(case: Case, second: FaultServer) -> None:
    """A host that is down costs the order a few requests, and none of its files."""
    for number in range(100):
        path, data = f"/{number}.7z", made(1000, number)
        urls = [case.server.url(path, QUERY), second.url(path, QUERY)]
        case.put(data, path, urls=urls)
        second.put(path, data)
    case.server.script("*", faults.status(500))
    run = case.run(patience=60.0)
    run.report.raise_for_failures()
    case.check_delivered()
    assert len(case.server.requests) <= 8
    assert len(second.requests) == 100
