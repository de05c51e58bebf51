"""Hosts that take so many requests and no more: by their word, by 429 and 503, by 403."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdl.core import events
from segdl.core.errors import (
    BrokenError,
    BusyError,
    ExitCode,
    RefusedError,
    SegdlError,
    TransientError,
)
from segdl.core.head import Head
from segdl.core.schedule import Schedule
from segdl.core.settling import MEANT
from segdl.core.traffic import (
    FREELY,
    LONGEST,
    SLOWLY,
    Course,
    Quota,
    Traffic,
    course,
    read_quota,
)
from segdl.core.verdict import Accepted, Ask, judge
from segdl.core.work import Again, Fetch, GiveUp, Wait
from tests.faults import EVERY_PATH, Fault, FaultServer, Seen, Wire, faults
from tests.faults.answers import Answer
from tests.orders import PATH, SEGMENT, Case, made

NOW = 1_700_000_000.0


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path) -> Case:
    return Case(fault_server, tmp_path)


# -- the word of a host ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "quota"),
    [
        ({}, None),
        ({"retry-after": "5"}, None),
        ({"x-ratelimit-limit": "100"}, None),
        ({"x-ratelimit-remaining": "7"}, Quota(7)),
        ({"x-ratelimit-limit": "100", "x-ratelimit-remaining": "0"}, Quota(0)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "30"}, Quota(7, 30)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": f"{NOW + 90:.0f}"}, Quota(7, 90)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": f"{NOW - 90:.0f}"}, Quota(7, 0)),
        ({"ratelimit-remaining": "3", "ratelimit-reset": "9"}, Quota(3, 9)),
        ({"ratelimit-remaining": "100, 100;w=60"}, Quota(100)),
        ({"x-ratelimit-remaining": "-1"}, None),
        ({"x-ratelimit-remaining": "1e9"}, Quota(1)),
        ({"x-ratelimit-remaining": "1.5"}, None),
        ({"x-ratelimit-remaining": "nan"}, None),
        ({"x-ratelimit-remaining": ""}, None),
        ({"x-ratelimit-remaining": "\u0667"}, None),
        ({"x-ratelimit-remaining": "9" * 40}, None),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "soon"}, Quota(7)),
    ],
)
def test_what_headers_say(headers: dict[str, str], quota: Quota | None) -> None:
    assert read_quota(headers.items(), NOW) == quota


@pytest.mark.parametrize(
    ("quota", "under_way", "expected"),
    [
        (None, 4, FREELY),
        (Quota(1000), 4, FREELY),
        (Quota(16), 4, FREELY),  # four for each that is under way
        (Quota(15, 30.0), 4, Course(gap=2.0)),  # what remains, over the time that it is for
        (Quota(1, 30.0), 4, Course(gap=30.0)),
        (Quota(0, 30.0), 4, Course(gap=30.0)),
        (Quota(0, 1e8), 4, Course(gap=LONGEST)),
        (Quota(0, 0.0), 4, FREELY),  # it has begun anew
        (Quota(15), 4, Course(14)),  # at once: a quarter is left to others
        (Quota(2), 4, Course(4)),
        (Quota(0), 4, Course(3, SLOWLY)),
        (Quota(0), 1, Course(1, SLOWLY)),
        (Quota(3), 0, Course(2)),
    ],
)
def test_what_follows_from_it(quota: Quota | None, under_way: int, expected: Course) -> None:
    assert course(quota, under_way) == expected


@given(
    st.integers(0, 10**12), st.none() | st.floats(0, 1e12), st.integers(0, 256)
)  # fmt: skip
def test_no_word_stops_a_host_for_long(remaining: int, reset: float | None, many: int) -> None:
    found = course(Quota(remaining, reset), many)
    assert 0 <= found.gap <= LONGEST
    assert found.most is None or found.most >= 1


def test_a_server_with_room_for_six_settles(most: int = 6) -> None:
    """MinIO's word: what remains of the requests that it serves at once, ours not among them."""
    under_way = 4
    for _ in range(20):
        found = course(Quota(most - under_way), under_way)
        under_way = min(found.most or 16, 16)
    assert under_way == 4


HEAD = (
    ("content-range", "bytes 0-9/10"),
    ("content-length", "10"),
    ("date", "Tue, 14 Nov 2023 22:13:20 GMT"),  # NOW
)


def test_the_verdict_passes_it_on() -> None:
    told = (*HEAD, ("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", f"{NOW + 5:.0f}"))
    accepted = judge(Ask(0, 10), Head(206, told), NOW + 1000)
    assert isinstance(accepted, Accepted) and accepted.quota == Quota(3, 5.0)
    plain = judge(Ask(0, 10), Head(206, HEAD), NOW)
    assert isinstance(plain, Accepted) and plain.quota is None


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ((("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "7")), 7.0),
        ((("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "7000")), 60.0),
        ((("x-ratelimit-remaining", "5"), ("x-ratelimit-reset", "7")), None),
        ((("x-ratelimit-remaining", "0"), ("retry-after", "3")), 3.0),
    ],
)
def test_a_429_may_say_when_in_either_way(
    headers: tuple[tuple[str, str], ...], wait: float | None
) -> None:
    busy = judge(Ask(0, 10), Head(429, headers), NOW)
    assert isinstance(busy, BusyError) and busy.retry_after == wait


# -- traffic ---------------------------------------------------------------------------------------


def test_what_a_host_refused_is_not_asked_at_once_and_then_one_more() -> None:
    traffic = Traffic()
    for _ in range(8):
        traffic.begin(0.0)
    for _ in range(4):
        traffic.answered(None, 0.0)
    for _ in range(4):
        traffic.end(served=False)
        assert traffic.refused(0.0)
    assert traffic.most == 4 and not traffic.is_free(1.0)
    (later,) = traffic.when()
    assert traffic.is_free(later)
    traffic.begin(later)
    assert not traffic.is_free(later + 1.0)
    traffic.end(served=False)
    assert traffic.refused(later) and traffic.most == 4
    assert traffic.when()[0] - later > later  # the more often it says no, the later


def test_what_was_a_passing_limit_is_soon_forgotten() -> None:
    traffic, now = Traffic(), 0.0
    for _ in range(12):
        traffic.begin(now)
    for _ in range(11):
        traffic.end(served=False)
        traffic.refused(now)
    while traffic.under_way < 12:
        now = max(now, *traffic.when())
        traffic.begin(now)
    assert now < 60.0


def test_a_host_that_serves_more_is_believed() -> None:
    """Refusals come before the answers to what was asked with them."""
    traffic = Traffic()
    for _ in range(8):
        traffic.begin(0.0)
    traffic.end(served=False)
    traffic.refused(0.0)
    for _ in range(7):
        traffic.answered(None, 0.0)
    assert traffic.most == 7


def test_one_alone_is_not_refused_for_others() -> None:
    traffic = Traffic()
    traffic.begin(0.0)
    traffic.end(served=False)
    assert not traffic.refused(0.0)
    assert traffic.is_free(0.0)


# -- the schedule ----------------------------------------------------------------------------------


def plan_of(segments: int = 20, jobs: int = 1) -> Schedule:
    plan = Schedule(retries=8, patience=900.0, chance=lambda: 0.5)
    for job in range(jobs):
        plan.add(job, ("a",), segments, (), pinned=True, merge=False)
    return plan


def take(plan: Schedule, worker: int, now: float) -> Fetch:
    work = plan.take(worker, now, None)
    assert isinstance(work, Fetch), work
    return work


def test_requests_are_spread_over_the_time_that_the_quota_is_for() -> None:
    plan = plan_of()
    first, second = take(plan, 0, 0.0), take(plan, 1, 0.0)
    assert plan.answered(first, 0, Quota(4, 20.0), 1.0) == 5.0  # told once, ...
    assert plan.answered(second, 1, Quota(3, 19.0), 1.0) is None  # ... and not each time
    plan.done(first, 0)
    wait = plan.take(0, 1.0, None)
    assert isinstance(wait, Wait) and wait.until == pytest.approx(1.0 + 19 / 3)
    assert wait.until is not None
    third = take(plan, 0, wait.until)
    assert isinstance(plan.take(2, wait.until, None), Wait)
    plan.answered(third, 0, Quota(100, 60.0), wait.until)
    take(plan, 2, wait.until)  # plenty again


def test_no_more_are_at_a_host_than_it_has_room_for() -> None:
    plan = plan_of()
    works = [take(plan, worker, 0.0) for worker in range(4)]
    for worker, work in enumerate(works):
        plan.answered(work, worker, Quota(0), 0.0)
    assert isinstance(plan.take(4, 100.0, None), Wait)
    plan.done(works[0], 0)
    assert isinstance(plan.take(0, 100.0, None), Wait)  # three are enough
    plan.done(works[1], 1)
    take(plan, 1, 100.0)


SEGMENTS = 240


def refusals_of_a_host(
    plan: Schedule, most: int, workers: int, error: Callable[[], SegdlError]
) -> int:
    """Play a host that serves `most` at once, each for a second; the number of its refusals."""
    served: dict[int, tuple[Fetch, float]] = {}
    now, refused, left = 0.0, 0, SEGMENTS
    for _ in range(4000):
        for worker, (work, until) in list(served.items()):
            if until <= now:
                plan.done(work, worker)
                del served[worker]
                left -= 1
        if not left:
            return refused
        for worker in range(workers):
            if worker in served:
                continue
            match plan.take(worker, now, None):
                case Fetch() as work if len(served) < most:
                    plan.answered(work, worker, None, now)
                    served[worker] = work, now + 1.0
                case Fetch() as work:
                    refused += 1
                    decision = plan.settle(work, worker, error(), now)
                    assert isinstance(decision, Again)
        now += 0.05
    raise AssertionError("it never ends")


@pytest.mark.parametrize("workers", [5, 8, 16])
@pytest.mark.parametrize(
    "error",
    [
        lambda: TransientError("403", status=403),
        lambda: BusyError("429", status=429),
        lambda: BusyError("503", status=503, retry_after=2.0),
    ],
    ids=["403", "429", "503"],
)
def test_a_limit_that_is_met_is_not_met_again_and_again(
    workers: int, error: Callable[[], SegdlError]
) -> None:
    plan = plan_of(SEGMENTS // 4, jobs=4)
    assert refusals_of_a_host(plan, 4, workers, error) <= workers + 8  # in a minute


def test_a_link_that_is_refused_alone_is_given_up_after_a_minute() -> None:
    plan, now, waits = plan_of(1), 0.0, []
    while True:
        decision = plan.settle(take(plan, 0, now), 0, TransientError("no", status=403), now)
        if isinstance(decision, GiveUp):
            break
        assert isinstance(decision, Again)
        now += decision.wait
        waits.append(decision.wait)
    assert type(decision.error) is RefusedError
    assert len(waits) == MEANT - 1 and 60 < sum(waits) < 90


def doubtful() -> RefusedError:
    error = RefusedError("no", status=403)
    error.doubtful = True
    return error


def test_a_first_refusal_is_doubted_where_others_got_past() -> None:
    plan = plan_of(1, jobs=3)
    served, refused = take(plan, 0, 0.0), take(plan, 1, 0.0)
    plan.answered(served, 0)
    now = 0.0
    for _ in range(2):
        decision = plan.settle(refused, 1, doubtful(), now)
        assert isinstance(decision, Again) and decision.host is None
        other = take(plan, 2, now)
        assert other.job == 2  # the host is not held back
        now += decision.wait
        refused = take(plan, 1, now)
        assert refused.job == 1
        plan.release(other, 2)
    assert isinstance(plan.settle(refused, 1, doubtful(), now), GiveUp)


def test_a_doubt_that_was_right_is_remembered() -> None:
    """The link got past in the end: so this host says 403 when it means "too many"."""
    plan = plan_of(1, jobs=9)
    works = [take(plan, worker, 0.0) for worker in range(8)]
    for worker in range(4):
        plan.answered(works[worker], worker)
    decision = plan.settle(works[4], 4, doubtful(), 0.0)
    assert isinstance(decision, Again)
    again = take(plan, 4, decision.wait)
    assert again.job == works[4].job  # before what was never asked for: it has something to tell
    plan.answered(again, 4)
    plan.done(again, 4)
    plan.settle(works[5], 5, doubtful(), 1.0)
    assert isinstance(plan.take(8, 1.0, None), Wait)  # as many as it serves, and no more


def test_a_first_refusal_is_believed_where_nobody_got_past() -> None:
    plan = plan_of(1)
    assert isinstance(plan.settle(take(plan, 0, 0.0), 0, doubtful(), 0.0), GiveUp)


def test_other_failures_are_no_limit() -> None:
    plan = plan_of()
    works = [take(plan, worker, 0.0) for worker in range(4)]
    plan.answered(works[0], 0)
    plan.settle(works[1], 1, BrokenError("cut"), 0.0)
    plan.settle(works[2], 2, BusyError("502", status=502), 0.0)
    plan.answered(take(plan, 5, 100.0), 5)  # the probe
    for worker in range(6, 16):
        take(plan, worker, 100.0)


# -- end to end ------------------------------------------------------------------------------------


class Room:
    """A server's room for so many requests at once; it refuses the others."""

    def __init__(self, most: int, refusal: Fault, seconds: float = 0.03) -> None:
        self.most, self.refusal, self.seconds = most, refusal, seconds
        self.inside = self.refused = self.served = self.peak = 0
        self._lock = threading.Lock()

    def __call__(self, wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        with self._lock:
            full = self.inside >= self.most
            self.refused += full
            self.served += not full
            self.inside += not full
            self.peak = max(self.peak, self.inside)
        if full:
            return self.refusal(wire, request, answer)
        try:
            wire.pause(self.seconds)
            wire.send(answer.head)
            wire.body(answer.body[:-1])
        finally:
            with self._lock:
                self.inside -= 1
        wire.body(answer.body[-1:])  # last: who has its answer does not find its own place taken
        return None


REFUSALS = {
    "403": faults.status(403, body=b"<html><title>403 Forbidden</title></html>"),
    "429": faults.slow_down(None, 429, "TooManyRequests"),
    "503": faults.slow_down(1, 503),
}


@pytest.mark.parametrize(("kind", "targets"), [("403", 1), ("403", 12), ("429", 12), ("503", 12)])
def test_a_server_with_room_for_four(case: Case, kind: str, targets: int) -> None:
    """It gets there, and is refused a few times: not each segment again and again."""
    for number in range(targets):
        case.put(made(48 * SEGMENT // targets, number), f"/{number}.7z")
    room = Room(4, REFUSALS[kind])
    case.server.script(EVERY_PATH, room)
    run = case.run(connections=12, patience=60.0, retries=1)
    assert run.code is ExitCode.DONE, [str(f.error) for f in run.report.failures]
    case.check_delivered()
    assert room.served >= 48
    assert room.refused <= 24


def test_many_small_files_past_a_server_with_room_for_four(case: Case) -> None:
    """None of their links has ever worked before: what others got past is doubted."""
    for number in range(60):
        case.put(made(1000, number), f"/{number}.7z")
    room = Room(4, REFUSALS["403"], 0.01)
    case.server.script(EVERY_PATH, room)
    run = case.run(connections=8, patience=60.0)
    assert run.code is ExitCode.DONE, [str(f.error) for f in run.report.failures]
    assert room.refused < 60  # of 60 that are served


def test_a_403_that_is_meant_costs_two_more_requests_at_most(case: Case) -> None:
    for number in range(8):
        case.put(made(4 * SEGMENT, number), f"/{number}.7z")
    case.server.script("/3.7z", faults.s3_error(403, "AccessDenied", "Access Denied."))
    run = case.run(patience=60.0)
    assert run.code is ExitCode.LINKS
    assert [failure.path for failure in run.report.failures] == ["3.7z"]
    assert len([r for r in case.server.requests if r.path == "/3.7z"]) <= 3


def test_the_word_of_a_server_slows_it_down_before_it_refuses(case: Case) -> None:
    """A window of a second with 12 requests in it: all are served, none is refused."""
    case.put(made(20 * SEGMENT))
    lock, windows = threading.Lock(), list[float]()
    refused: list[Seen] = []

    def limited(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        with lock:
            windows[:] = [t for t in windows if t > request.time - 1.0]
            if len(windows) >= 12:
                refused.append(request)
                return faults.slow_down(1, 429)(wire, request, answer)
            windows.append(request.time)
            left = 12 - len(windows)
        return answer.having(X_RateLimit_Limit="12", X_RateLimit_Remaining=str(left)).having(
            X_RateLimit_Reset="1"
        )

    case.server.script(PATH, limited)
    run = case.run(connections=4, patience=60.0)
    assert run.code is ExitCode.DONE
    case.check_delivered()
    assert len(refused) <= 1
    (told,) = [e for e in run.of(events.Throttled) if "more requests" in e.message][:1]
    assert told.host == f"{case.server.host}:{case.server.port}"


def test_a_server_that_is_nearly_full_is_asked_by_fewer(case: Case) -> None:
    """MinIO's word: with others in nearly all of its places, segdl takes no more than is left."""
    case.put(made(40 * SEGMENT))
    room = Room(100, faults.honest())

    def word(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        left = max(0, 3 - room.inside)
        return room(wire, request, answer.having(X_RateLimit_Remaining=str(left)))

    case.server.script(PATH, word, on=lambda request: request.number > 1)
    run = case.run(connections=12)
    assert run.code is ExitCode.DONE
    late = [r for r in case.server.requests if r.number > 20]
    assert late
    assert room.peak <= 12
    assert not run.of(events.Retry)
