"""When links end, whose do not last, and who is told: tables, properties, and whole runs."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import ceil, inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import segdl
from segdl.cli.incidents import Incidents
from segdl.cli.summary import summary
from segdl.core import events
from segdl.core.clocks import MARGIN, Clocks
from segdl.core.errors import ExitCode, ExpiredError
from segdl.core.head import Head
from segdl.core.options import KIB, RateLimit
from segdl.core.pace import Rate
from segdl.core.runway import EVERY, Left, Runway, Short, forecast, last_end, lead
from segdl.core.schedule import Schedule
from segdl.core.urls import parse_url
from segdl.core.verdict import Ask, judge
from segdl.core.work import Fetch, Finished, Pause, Wait
from segdl.engine.control import Steerable
from segdl.engine.desk import Desk
from segdl.engine.outlook import LinksWanted
from tests.canary import CANARY
from tests.faults import FaultServer, faults
from tests.faults.answers import Answer, Seen
from tests.faults.server import EVERY_PATH
from tests.faults.wire import Fault, Wire
from tests.orders import SEGMENT, Case, Proof, made, until

# -- from when to when a URL is good ---------------------------------------------------------------

DAY = datetime(2023, 12, 13, 8, tzinfo=UTC).timestamp()


def policy(condition: object, how: str = "Policy") -> str:
    text = json.dumps({"Statement": [{"Resource": "*", "Condition": condition}]})
    coded = base64.b64encode(text.encode()).decode().translate(str.maketrans("+=/", "-_~"))
    return f"{how}={coded}&Signature=s&Key-Pair-Id=K"


def epoch(**bounds: object) -> dict[str, object]:
    return {name: {"AWS:EpochTime": when} for name, when in bounds.items()}


V4 = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20231213T080000Z&X-Amz-Expires=3600"
SAS = "sv=2022-11-02&sr=b&sp=r&st=2023-12-13T08%3A00%3A00Z&se=2023-12-13T10%3A00%3A00Z"
USER = "&skoid=o&sktid=t&sks=b&skv=2022-11-02"

TERMS: dict[str, tuple[str, float | None, float | None]] = {
    "S3 V4": (f"{V4}&X-Amz-SignedHeaders=host&X-Amz-Signature=a", DAY, DAY + 3600),
    "S3 V4, signature first": (f"X-Amz-Signature=a&{V4}", DAY, DAY + 3600),
    "S3 V4, a token behind": (f"{V4}&X-Amz-Signature=a&X-Amz-Security-Token=t", DAY, DAY + 3600),
    "S3 V2": ("AWSAccessKeyId=k&Signature=s&Expires=1702454400", None, 1702454400),
    "GCS V4": (
        "X-Goog-Date=20231213T080000Z&X-Goog-Expires=60&X-Goog-Signature=s", DAY, DAY + 60,
    ),
    "GCS V2": ("GoogleAccessId=a%40b&Expires=1702454400&Signature=s", None, 1702454400),
    "OSS V1": ("OSSAccessKeyId=k&Expires=1702454400&Signature=s", None, 1702454400),
    "OSS V2": (
        "x-oss-signature-version=OSS2&x-oss-expires=1702454400&x-oss-signature=s",
        None, 1702454400,
    ),
    "OSS V4": (
        "x-oss-date=20231213T080000Z&x-oss-expires=60&x-oss-signature=s", DAY, DAY + 60,
    ),
    "COS": (
        "q-ak=k&q-sign-time=1702450800;1702454400&q-signature=s", 1702450800, 1702454400,
    ),
    "COS, percent-encoded": ("q-sign-time=1702450800%3B1702454400", 1702450800, 1702454400),
    "OBS": ("AccessKeyId=k&Expires=1702454400&Signature=s", None, 1702454400),
    "Azure": (f"{SAS}&sig=s", DAY, DAY + 7200),
    "Azure, no start": ("se=2023-12-13T10:00Z&sig=s", None, DAY + 7200),
    "Azure, days": ("st=2023-12-12&se=2023-12-14&sig=s", DAY - 32 * 3600, DAY + 16 * 3600),
    "Azure, the user's key ends first": (
        f"{SAS}{USER}&skt=2023-12-13T07:00:00Z&ske=2023-12-13T09:00:00Z&sig=s", DAY, DAY + 3600,
    ),
    "Azure, the user's key outlasts it": (
        f"{SAS}{USER}&skt=2023-12-13T08:30:00Z&ske=2023-12-19T08:00:00Z&sig=s",
        DAY + 1800, DAY + 7200,
    ),
    "CloudFront, canned": ("Expires=1702454400&Signature=s&Key-Pair-Id=K", None, 1702454400),
    "CloudFront, custom": (policy(epoch(DateLessThan=1702454400)), None, 1702454400),
    "CloudFront, custom from": (
        policy(epoch(DateLessThan=1702454400, DateGreaterThan=1702450800)), 1702450800, 1702454400,
    ),
    "CloudFront, only from": (policy(epoch(DateGreaterThan=1702450800)), 1702450800, None),
    "CloudFront, no bound": (policy({"IpAddress": {"AWS:SourceIp": "0.0.0.0/0"}}), None, None),
    "CloudFront, nonsense": (policy(["DateLessThan"]), None, None),
    "not signed": ("versionId=7", None, None),
    "nothing": ("", None, None),
}  # fmt: skip


@pytest.mark.parametrize("dialect", TERMS)
def test_the_term_of_a_url(dialect: str) -> None:
    """FIELD_NOTES.md: where a URL says when it ends."""
    query, begins, ends = TERMS[dialect]
    url = parse_url(f"https://h/a?{query}" if query else "https://h/a")
    assert (url.begins_at, url.ends_at) == (begins, ends)


@pytest.mark.parametrize("first", [True, False])
def test_the_end_is_its_own_whoever_was_signed_with_it(first: bool) -> None:
    """What is remembered of one URL is not told of another."""
    dated = "X-Amz-Date=20231213T0{}0000Z&X-Amz-Expires=60"
    query = "X-Amz-Signature=s{}&" + dated if first else dated + "&X-Amz-Signature=s{}"
    ends = [parse_url(f"http://h/{n}?{query.format(n, n)}").ends_at for n in range(8)]
    assert ends == [DAY + 3600 * (n - 8) + 60 for n in range(8)]
    v2 = [f"AWSAccessKeyId=k&Signature=s&Expires=170245440{n}" for n in range(8)]
    assert [parse_url(f"http://h/?{q}").ends_at for q in v2] == [1702454400 + n for n in range(8)]


@pytest.mark.parametrize(
    ("query", "temporary"),
    [
        (V4, False),
        (f"{V4}&X-Amz-Security-Token=t&X-Amz-Signature=s", True),
        ("OSSAccessKeyId=k&Expires=1&Signature=s&security-token=t", True),
        ("x-oss-security-token=t&x-oss-signature=s", True),
        ("q-signature=s&x-cos-security-token=t", True),
        ("AccessKeyId=k&Signature=s&x-obs-security-token=t", True),
        ("token=t", False),
        ("", False),
    ],
)
def test_temporary_credentials(query: str, temporary: bool) -> None:
    url = parse_url(f"http://h/a?{query}")
    assert url.temporary == temporary
    if temporary:
        assert url.identity == "h/a"  # the token is no part of the object's name


@pytest.mark.parametrize(
    ("queries", "end"),
    [(["se=2023-12-13&sig=s"], DAY - 8 * 3600), (["x-oss-expires=5", "x-oss-expires=7"], 7.0),
     (["x-oss-expires=5", "a=b"], inf), ([""], inf)],
)  # fmt: skip
def test_a_target_lasts_as_long_as_its_last_link(queries: list[str], end: float) -> None:
    assert last_end([parse_url(f"http://h/a?{query}") for query in queries]) == end


# -- the clocks of servers -------------------------------------------------------------------------


def test_one_refusal_speaks_for_all_that_end_before_it() -> None:
    clocks = Clocks()
    assert not clocks.over("h", 1000.0, 5.0)
    clocks.refused("h", 1000.0, 1000.0, 5.0)
    assert clocks.over("h", 1000.0, 5.0)
    assert clocks.over("h", 999.0, 5.0)
    assert not clocks.over("h", 1001.0, 5.0)
    assert clocks.over("h", 1001.0, 6.0)  # its clock goes on
    assert not clocks.over("other", 1000.0, 5.0)
    assert not clocks.over("h", None, 5.0)


def test_a_date_is_believed_with_a_margin() -> None:
    clocks = Clocks()
    clocks.refused("h", 1000.0, 9000.0, 0.0)
    assert clocks.over("h", 9000.0 - MARGIN, 0.0)
    assert not clocks.over("h", 9001.0 - MARGIN, 0.0)


def test_a_refusal_before_the_end_proves_nothing() -> None:
    """It was something else that ended: temporary credentials."""
    clocks = Clocks()
    clocks.refused("h", 1000.0, 999.0, 0.0)
    assert not clocks.over("h", 10.0, 1e6)


def test_what_was_proved_stays_proved() -> None:
    clocks = Clocks()
    clocks.refused("h", 1000.0, 1000.0, 0.0)
    clocks.refused("h", 500.0, 500.0, 1.0)
    assert clocks.over("h", 1000.0, 1.0)


def test_the_clock_that_is_furthest_ahead_is_counted_by() -> None:
    clocks = Clocks()
    assert clocks.there(100.0, 0.0) == 100.0
    assert clocks.wants("a", 0.0)
    clocks.told("a", 50.0, 0.0)
    assert not clocks.wants("a", 1.0)
    assert clocks.wants("a", 60.0)
    assert clocks.there(100.0, 10.0) == 60.0
    clocks.told("b", 70.0, 10.0)
    assert clocks.there(100.0, 11.0) == 71.0


NOW = datetime(2023, 12, 13, 8, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("date", "known"), [("Wed, 13 Dec 2023 09:00:00 GMT", NOW + 3600), (None, None), ("x", None)]
)
def test_a_refusal_carries_what_it_was_judged_by(date: str | None, known: float | None) -> None:
    head = Head(
        403, (("date", date),) if date else (), b"<Error><Message>expired</Message></Error>"
    )
    error = judge(
        Ask(0, 10, url=parse_url(f"http://h/o?OSSAccessKeyId=k&Expires={NOW - 5:.0f}&Signature=s")),
        head,
        NOW,
    )
    assert isinstance(error, ExpiredError)
    assert (error.ends_at, error.server_time) == (NOW - 5, known)


# -- the rate --------------------------------------------------------------------------------------


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate(10.0)
    assert rate.look(0.0, 0) == 0.0
    assert rate.look(1.0, 100) == 100.0
    assert rate.look(10.0, 1000) == 100.0
    assert rate.look(11.0, 1000) == 90.0
    assert rate.look(40.0, 1000) == 0.0
    rate.forget()
    assert (rate.look(50.0, 5000), rate.age) == (0.0, 0.0)
    assert rate.look(51.0, 5001) == 1.0


# -- the forecast ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "at_once", "short"),
    [
        ([], 4, []),
        ([(1000, 99)], 4, [(0, 100)]),  # by one target several connections are at work
        ([(1000, 100)], 4, []),
        ([(1000, inf)], 4, []),
        ([(0, -5)], 1, [(0, 0)]),
        ([(500, 60), (500, 60)], 1, [(1, 100)]),  # one after the other
        ([(500, 60), (500, 60)], 2, [(0, 100), (1, 100)]),  # side by side
        ([(100, 60), (900, 60)], 2, [(1, 100)]),  # the first is done, and helps
        ([(100, 21), (100, 21), (100, 45), (700, 90)], 2, [(3, 100)]),
        ([(100, 15), (100, 9)], 2, [(1, 20), (0, 20)]),  # the first end is told first
    ],
)
def test_the_forecast(
    left: list[tuple[float, float]], at_once: int, short: list[tuple[int, float]]
) -> None:
    """At ten bytes a second, from 0 on: (bytes, end) of each; who is late, and when it is done."""
    targets = [Left(job, count, end) for job, (count, end) in enumerate(left)]
    found = forecast(targets, 10.0, at_once, 0.0)
    assert [(each.job, round(each.done, 6)) for each in found] == short


ends = st.floats(0, 1e6) | st.just(inf)
lefts = st.lists(st.tuples(st.integers(0, 10**6), ends), max_size=30).map(
    lambda pairs: [Left(job, count, end) for job, (count, end) in enumerate(pairs)]
)


@given(lefts, st.floats(1, 1e6), st.integers(1, 16))
def test_any_forecast(left: list[Left], rate: float, at_once: int) -> None:
    short = forecast(left, rate, at_once, 1000.0)
    late = {each.job for each in short}
    total = sum(target.bytes for target in left)
    assert [each.end for each in short] == sorted(each.end for each in short)
    assert all(each.lack > 0 and each.done <= 1000.0 + total / rate for each in short)
    assert not any(left[job].end == inf for job in late)
    for target in left:  # nobody is faster than the whole line
        assert target.job in late or 1000.0 + target.bytes / rate <= target.end + 1e-6
    faster = {each.job for each in forecast(left, 2 * rate, at_once, 1000.0)}
    assert faster <= late
    longer = [Left(job, count, end + 10) for job, count, end in left]
    assert {each.job for each in forecast(longer, rate, at_once, 1000.0)} <= late


@pytest.mark.parametrize(
    ("life", "before"), [(0, 0), (5, 2.5), (60, 30), (120, 30), (3600, 900), (86400, 21600)]
)
def test_links_are_renewed_in_time_and_not_at_once(life: float, before: float) -> None:
    assert lead(life) == before


class Forecasts:
    """A run whose one target needs `need` more seconds than its link has, whatever happens."""

    def __init__(self, life: float) -> None:
        self.end = 1e9 + life
        self.now = 0.0
        self.runway = Runway(0.0)

    @property
    def date(self) -> float:
        return 1e9 + self.now

    def told(self, lack: float | None, *, busy: int = 1, seconds: float = EVERY) -> list[Short]:
        """What is told after so many seconds more at 1000 bytes a second."""
        self.now += seconds
        issue = self.runway.issue
        landed = int(self.now * 1000)
        if self.runway.measure(self.now, landed, busy) is None:
            return []
        self.runway.rest(self.now, 0.0)
        short = [] if lack is None else [Short(0, self.end, self.end + lack)]
        return self.runway.judge(issue, [Left(0, 1, self.end)], short, self.date)


def test_told_once_for_a_link() -> None:
    run = Forecasts(life=100.0)
    told = [run.told(10.0) for _ in range(40)]
    assert [len(each) for each in told].index(1) == 9  # after a tenth of what it has left
    assert sum(len(each) for each in told) == 1
    assert run.runway.short == 1


def test_a_short_life_is_not_waited_out() -> None:
    run = Forecasts(life=5.0)
    assert not run.told(10.0, seconds=0.1)
    assert not run.told(10.0, seconds=1.8)
    assert run.told(10.0, seconds=0.2)


def test_not_told_of_a_link_that_has_ended() -> None:
    run = Forecasts(life=3.0)
    run.told(None)
    assert not run.told(10.0)
    assert not run.told(10.0)


@pytest.mark.parametrize(
    ("lack", "again"), [(5.0, False), (10.0, False), (60.0, False), (75.0, True)]
)
def test_a_fresh_link_is_told_of_only_if_it_is_much_worse(lack: float, again: bool) -> None:
    run = Forecasts(life=30.0)
    assert sum(len(run.told(10.0)) for _ in range(8)) == 1
    run.runway.renewed(run.now)
    run.end += 30.0
    assert bool(run.told(lack)) == again


def test_a_fresh_link_that_did_and_then_does_not_is_told_of() -> None:
    run = Forecasts(life=30.0)
    assert sum(len(run.told(10.0)) for _ in range(8)) == 1
    assert not run.told(None)  # the rate rose, and falls again: the link is the same
    assert not run.told(10.0)
    run.runway.renewed(run.now)
    run.end += 1000.0
    assert not run.told(None)
    assert run.told(5.0)


def test_a_forecast_of_links_that_were_replaced_meanwhile_is_void() -> None:
    runway = Runway(0.0)
    runway.measure(0.0, 0, 1)
    assert runway.measure(10.0, 10_000, 1) == 900.0  # a tenth is not counted on
    runway.renewed(10.0)
    assert not runway.judge(0, [Left(0, 1, 20.0)], [Short(0, 20.0, 30.0)], 10.0)
    assert not runway.wanted(15.0, 15.0)
    assert runway.judge(1, [Left(0, 1, 20.0)], [Short(0, 20.0, 30.0)], 10.0)
    assert runway.wanted(15.0, 15.0)


def test_links_are_wanted_when_the_first_end_is_near() -> None:
    run = Forecasts(life=60.0)
    for _ in range(8):
        run.told(10.0)
    assert not run.runway.wanted(29.0, 1e9 + 29.0)
    assert run.runway.wanted(31.0, 1e9 + 31.0)
    run.told(None)  # it will do after all
    assert not run.runway.wanted(59.0, 1e9 + 59.0)


def test_while_nobody_is_at_work_the_last_rate_counts() -> None:
    """In an outage links end as they do."""
    runway = Runway(0.0)
    for second in range(11):
        runway.measure(float(second), second * 1000, 1)
    rates = [runway.measure(second, 10_000, 0) for second in (12.0, 60.0, 600.0)]
    assert rates == [pytest.approx(900.0, rel=0.2)] * 3
    assert runway.measure(601.0, 10_000, 1) == rates[0]
    assert runway.measure(602.0, 60_000, 1) == rates[0]
    assert runway.measure(604.0, 160_000, 1) == pytest.approx(45_000.0)


def test_a_forecast_that_takes_long_is_seldom() -> None:
    runway = Runway(0.0)
    runway.measure(0.0, 0, 1)
    assert runway.measure(5.0, 5000, 1)
    runway.rest(5.0, 0.0)
    assert not runway.measure(5.0 + EVERY / 2, 5000, 1)
    assert runway.measure(5.0 + EVERY, 5000, 1)
    runway.rest(7.0, 1.0)
    assert not runway.measure(26.0, 26_000, 1)
    assert runway.measure(27.0, 27_000, 1)


# -- the schedule: the first end first, and waiting for links --------------------------------------

HOSTS = st.sampled_from([("a",), ("b",), ("a", "b")])


def schedule(patience: float = 900.0) -> Schedule:
    return Schedule(retries=8, patience=patience, chance=lambda: 0.5)


def taken(plan: Schedule, worker: int, current: int | None = None, now: float = 0.0) -> Fetch:
    work = plan.take(worker, now, current)
    assert isinstance(work, Fetch), work
    return work


@given(st.lists(st.tuples(HOSTS, st.sampled_from([5.0, 7.0, inf]))))
def test_untouched_targets_go_by_their_ends_and_then_in_order(
    targets: list[tuple[tuple[str, ...], float]],
) -> None:
    plan = schedule()
    for job, (hosts, end) in enumerate(targets):
        plan.expect(job, hosts, end)
    order = sorted(range(len(targets)), key=lambda job: (targets[job][1], job))
    assert [job for _, job in plan.ahead()] == order
    assert [taken(plan, worker).job for worker in order] == order
    assert plan.ending == any(end < inf for _, end in targets)


def test_targets_under_way_go_by_their_ends_too() -> None:
    plan = schedule()
    for job, end in enumerate([inf, 9.0, 5.0, 9.0]):
        plan.add(job, ("a",), 2, (), pinned=True, merge=False, end=end)
        plan.take(job, 0.0, None)
    for worker in range(4):
        plan.release(Fetch(worker, 0, 0, 0, probe=False, host="a", issue=0), worker)
    assert [taken(plan, worker).job for worker in range(4)] == [2, 1, 3, 0]


def test_a_worker_stays_with_its_target_whatever_ends() -> None:
    plan = schedule()
    for job, end in enumerate([inf, 5.0]):
        plan.add(job, ("a",), 2, (), pinned=True, merge=False, end=end)
    work, other = taken(plan, 0), taken(plan, 1)
    plan.done(work, 0)
    plan.done(other, 1)
    assert taken(plan, 0, current=work.job).job == work.job


def test_fresh_links_are_another_order() -> None:
    plan = schedule()
    for job in range(4):
        plan.expect(job, ("a",), 5.0 - job)
    first = taken(plan, 0)
    assert first.job == 3
    plan.replace_hosts(3, ("a",), 100.0)
    plan.replace_untouched(lambda job: ("b",), lambda job: 10.0 + job)
    assert plan.ahead() == [(100.0, 3), (10.0, 0), (11.0, 1), (12.0, 2)]
    assert [taken(plan, worker).job for worker in (1, 2, 3)] == [0, 1, 2]


def paused(plan: Schedule, worker: int = 0, now: float = 0.0) -> Fetch:
    work = taken(plan, worker, now=now)
    assert plan.settle(work, worker, ExpiredError("over"), now) == Pause()
    return work


def test_a_paused_target_ends_the_run_unless_links_may_come() -> None:
    plan = schedule(patience=60.0)
    plan.expect(0, ("a",))
    work = paused(plan)
    assert plan.paused == 1
    assert plan.take(0, 0.0, None) == Finished()
    plan.expect_links(True)
    assert plan.take(0, 10.0, None) == Wait(70.0)
    assert plan.take(0, 50.0, None) == Wait(70.0)  # patience is counted once
    assert plan.take(0, 70.0, None) == Finished()
    plan.expect_links(False)
    assert plan.take(0, 20.0, None) == Finished()
    assert plan.replace_hosts(work.job, ("a",))
    assert plan.paused == 0
    assert taken(plan, 0).job == work.job


def test_patience_with_links_begins_anew_when_they_came() -> None:
    plan = schedule(patience=60.0)
    plan.expect(0, ("a",))
    plan.expect_links(True)
    work = paused(plan)
    assert plan.take(0, 10.0, None) == Wait(70.0)
    plan.replace_hosts(work.job, ("a",))
    paused(plan, now=65.0)
    assert plan.take(0, 66.0, None) == Wait(126.0)


def test_while_others_are_at_work_nobody_is_impatient() -> None:
    plan = schedule(patience=60.0)
    plan.expect_links(True)
    plan.expect(0, ("a",))
    paused(plan)
    plan.expect(1, ("a",))
    work = taken(plan, 0)
    assert plan.take(1, 500.0, None) == Wait(None)
    plan.over(work.job)
    assert plan.take(1, 500.0, None) == Wait(560.0)


@pytest.mark.parametrize("how", ["delivered", "failed"])
def test_a_target_that_is_over_waits_for_no_link(how: str) -> None:
    """What is held of a paused target may turn out to be all of it."""
    plan = schedule()
    plan.expect(0, ("a",))
    plan.expect_links(True)
    work = paused(plan)
    plan.delivered(work.job) if how == "delivered" else plan.over(work.job)
    assert plan.paused == 0
    assert plan.take(0, 0.0, None) == Finished()


# -- whole runs ------------------------------------------------------------------------------------

RATE = RateLimit(200 * KIB)


@pytest.fixture
def refused() -> list[Seen]:
    """The requests that were refused, for their links had ended."""
    return []


@pytest.fixture
def case(fault_server: FaultServer, tmp_path: Path, refused: list[Seen]) -> Case:
    """An order on a server that refuses links by the ends that they have."""

    def refuse(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        refused.append(request)
        return faults.EXPIRED["MinIO"](wire, request, answer)

    fault_server.script(EVERY_PATH, refuse, on=has_ended)
    return Case(fault_server, tmp_path)


def has_ended(seen: Seen) -> bool:
    ends = parse_url(f"http://h/?{seen.query}").ends_at
    return ends is not None and ends <= time.time()


def lasting(seconds: float, signature: str = CANARY) -> str:
    """The query of a link that is good for so long, or up to a second more."""
    signed = datetime.fromtimestamp(ceil(time.time() + seconds), UTC) - timedelta(hours=1)
    dates = f"X-Amz-Date={signed:%Y%m%dT%H%M%SZ}&X-Amz-Expires=3600"
    return f"X-Amz-Algorithm=AWS4-HMAC-SHA256&{dates}&X-Amz-Signature={signature}"


def resign(case: Case, seconds: float) -> Path:
    """The manifest of the same order with links that are good for so long from now."""
    for entry in case.files.values():
        place = "urls" if "urls" in entry else "url"
        fresh = lasting(seconds, f"{CANARY}{time.monotonic_ns()}")
        old = entry[place] if place == "urls" else [entry[place]]
        new = [f"{url.partition('?')[0]}?{fresh}" for url in old]
        entry[place] = new if place == "urls" else new[0]
    return case.manifest()


ORDER = 4 * SEGMENT + 777


@pytest.mark.usefixtures("steady")
def test_links_that_end_on_the_way(case: Case, refused: list[Seen]) -> None:
    """Told in time, paused with few refusals, the others go on, and nothing is fetched again."""
    query = lasting(3)
    names = [case.put(made(ORDER, n), f"/{n}.7z", query=query) for n in range(8)]
    case.put(made(SEGMENT, 9), "/lasts.7z", query=lasting(3600))
    case.put(made(SEGMENT, 10), "/any.7z", query=f"X-Amz-Signature={CANARY}")
    run = case.run(limit_rate=RATE, connections=2)
    assert run.code is ExitCode.LINKS
    assert {"lasts.7z", "any.7z"} <= {receipt.path for receipt in run.report.receipts}
    waiting = {failure.path for failure in run.report.failures}
    assert waiting and waiting < set(names)  # the first ones were done in time
    assert {failure.error.cause for failure in run.report.failures} == {"expired"}
    kinds = run.kinds()
    told = run.of(events.UrlExpiring)
    assert kinds.index("url_expiring") < kinds.index("url_expired")
    assert waiting <= {event.target for event in told} <= set(names)
    assert len({event.target for event in told}) == len(told)
    assert max(event.targets for event in told) >= len(waiting)
    for event in told:
        assert 0 < event.minutes_left < 2.1 / 60 < event.minutes_needed < 1
        end = datetime.fromisoformat(event.ends_at).timestamp()
        assert end == parse_url(f"http://h/?{query}").ends_at
    assert {event.target for event in run.of(events.UrlExpired)} == waiting
    assert {event.target for event in run.of(events.TargetPaused)} == waiting
    assert 1 <= len(refused) <= 2  # one a connection, at most
    resign(case, 3600)
    assert case.finish().held > 4 * SEGMENT


@pytest.mark.parametrize("connections", [1, 4])
def test_a_hundred_targets_whose_links_have_ended(case: Case, connections: int) -> None:
    """Each of another second: one refusal tells what time it is, and speaks for all."""
    for number in range(100):
        case.put(made(10, number), f"/{number}.7z", query=lasting(-200 - number))
    run = case.run(connections=connections)
    assert run.code is ExitCode.LINKS
    assert 1 <= len(case.server.requests) <= connections
    assert len(run.report.failures) == len(run.of(events.UrlExpired)) == 100
    assert not run.of(events.UrlExpiring)
    unasked = [f for f in run.report.failures if f.error.request_id is None]
    assert len(unasked) >= 100 - connections
    assert unasked[0].error.message.startswith("the link has expired (it ended at 2")
    resign(case, 3600)
    case.finish()


def test_a_server_that_takes_old_links_is_asked(case: Case) -> None:
    """It is not this machine's clock that decides."""
    case.server.mend()
    for number in range(5):
        case.put(made(100, number), f"/{number}.7z", query=lasting(-1000))
    assert case.run().code is ExitCode.DONE


def test_what_is_there_needs_no_link(case: Case) -> None:
    """A file that was delivered without a receipt is recognised, whatever its link says."""
    for number in range(3):
        data = made(1000, number)
        case.put(data, f"/{number}.7z", query=lasting(-1000), proof=Proof.DIGEST)
    case.out.mkdir()
    case.final("2.7z").write_bytes(made(1000, 2))
    run = case.run(connections=1)
    assert [receipt.path for receipt in run.report.receipts] == ["2.7z"]
    assert len(case.server.requests) == 1


def test_a_mirror_whose_link_has_ended_is_left_alone(case: Case, refused: list[Seen]) -> None:
    for number in range(20):
        data, ended, good = made(1000, number), f"/ended/{number}.7z", f"/good/{number}.7z"
        case.server.put(ended, data)
        urls = [case.server.url(ended, lasting(-500)), case.server.url(good, lasting(3600))]
        case.put(data, good, urls=urls)
    run = case.run(connections=2)
    assert run.code is ExitCode.DONE
    assert 1 <= len(refused) <= 2
    assert not run.of(events.UrlExpired)


def test_credentials_that_ended_say_nothing_of_other_links(case: Case) -> None:
    """Refused before its own end: each is asked for, once."""
    for number in range(5):
        case.put(made(1000, number), f"/{number}.7z", query=lasting(3600))
        if number != 3:
            case.server.script(f"/{number}.7z", faults.EXPIRED["AWS STS"])
    run = case.run(connections=1)
    assert [receipt.path for receipt in run.report.receipts] == ["3.7z"]
    assert len(case.server.requests) == 5


def dated(ahead: float) -> Fault:
    """Answers from a server whose clock is so far ahead."""

    def fault(wire: Wire, request: Seen, answer: Answer) -> Answer | None:
        return answer.having(Date=format_datetime(faults.in_seconds(ahead), usegmt=True))

    return fault


@pytest.mark.usefixtures("steady")
def test_the_forecast_is_by_the_server_s_clock(case: Case) -> None:
    """By this machine's the links would last for an hour more."""
    case.server.mend()
    case.server.script(EVERY_PATH, dated(3600))
    case.put(made(40 * SEGMENT), query=lasting(3600 + 5))
    control = segdl.Control()

    def listen(event: segdl.Event) -> None:
        if isinstance(event, events.UrlExpiring):
            control.cancel()

    (told,) = case.run(limit_rate=RATE, control=control, listener=listen).of(events.UrlExpiring)
    assert 0 < told.minutes_left < 6 / 60


# -- fresh links, as whoever gets them is asked for them -------------------------------------------


class Hand(segdl.Control):
    """A control that shows the desk; `patient` says that fresh links may come."""

    desk: Desk

    def __init__(self, *, patient: bool = True) -> None:
        super().__init__()
        self.asked: list[LinksWanted] = []
        self._patient = patient

    def attach(self, run: Steerable) -> None:
        assert isinstance(run, Desk)
        self.desk = run
        run.expect_links(self._patient)
        super().attach(run)


def renewing(case: Case, hand: Hand, seconds: float) -> Callable[[segdl.Event], None]:
    """A listener that gets links of so many seconds, once for each time that they are wanted."""

    def listen(event: segdl.Event) -> None:
        if isinstance(event, events.Progress) and (wanted := hand.desk.links_wanted()):
            hand.asked.append(wanted)
            hand.refresh(segdl.load(resign(case, seconds)))

    return listen


@pytest.mark.usefixtures("steady")
def test_links_of_a_few_seconds_are_renewed_before_they_end(
    case: Case, refused: list[Seen]
) -> None:
    """Asked for in time: no link ends in use, and nothing is fetched twice."""
    for number in range(5):
        case.put(made(ORDER, number), f"/{number}.7z", query=lasting(3))
    hand = Hand()
    run = case.run(control=hand, listener=renewing(case, hand, 2), limit_rate=RATE)
    assert run.code is ExitCode.DONE
    assert 2 <= len(hand.asked) <= 6
    assert [wanted.issue for wanted in hand.asked] == list(range(len(hand.asked)))
    assert all(wanted.expiring and not wanted.waiting for wanted in hand.asked)
    assert not run.of(events.UrlExpired)
    assert not refused
    told = [(event.target, event.ends_at) for event in run.of(events.UrlExpiring)]
    assert len(set(told)) == len(told)
    assert case.server.sent() == 5 * ORDER


@pytest.mark.usefixtures("steady")
def test_paused_targets_wait_for_links_that_may_come(case: Case) -> None:
    for number in range(3):
        case.put(made(ORDER, number), f"/{number}.7z", query=lasting(-500))
    hand = Hand()

    def come() -> None:
        until(lambda: len(hand.desk.outcomes.failures) == 3)
        wanted = hand.desk.links_wanted()
        assert wanted == LinksWanted(0, 3, 0)
        assert not hand.desk.tasks  # what waits from the start costs little: it may be everything
        assert not any(error.__traceback__ for error in hand.desk.outcomes.failures.values())
        hand.refresh(segdl.load(resign(case, 3600)))
        assert hand.desk.links_wanted() is None

    other = threading.Thread(target=come)

    def listen(event: segdl.Event) -> None:
        if isinstance(event, events.TargetPaused) and other.ident is None:
            other.start()

    run = case.run(control=hand, listener=listen, patience=5.0)
    other.join()
    assert run.code is ExitCode.DONE
    assert len(run.of(events.TargetResumed)) == 3


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("patient", [True, False])
def test_links_that_never_come_are_waited_for_as_long_as_patience_lasts(
    case: Case, patient: bool
) -> None:
    case.put(made(10), query=lasting(-500))
    began = time.monotonic()
    run = case.run(control=Hand(patient=patient), patience=0.5)
    assert run.code is ExitCode.LINKS
    assert (time.monotonic() - began >= 0.5) == patient


def test_whoever_was_to_bring_links_gives_up(case: Case) -> None:
    case.put(made(10), query=lasting(-500))
    hand = Hand()

    def listen(event: segdl.Event) -> None:
        if isinstance(event, events.TargetPaused):
            hand.desk.expect_links(False)

    assert case.run(control=hand, listener=listen, patience=60.0).code is ExitCode.LINKS


def test_begun_targets_whose_links_end_first_go_on_first(case: Case) -> None:
    """A run that goes on from disk keeps to the order of ends."""
    for number, hours in enumerate([30, 20, 10]):
        case.put(made(ORDER, number), f"/{number}.7z", query=lasting(3600 * hours))
    case.server.script(EVERY_PATH, faults.EXPIRED["MinIO"], on=lambda seen: seen.number > 1)
    assert len(case.run(connections=1).report.failures) == 3
    order = [request.path for request in case.server.requests]
    assert order == [f"/{n}.7z" for n in (2, 2, 1, 1, 0, 0)]
    case.server.mend()
    case.server.forget()
    assert case.run(connections=1).code is ExitCode.DONE
    paths = [request.path for request in case.server.requests]
    assert list(dict.fromkeys(paths)) == ["/2.7z", "/1.7z", "/0.7z"]


# -- what a person is told -------------------------------------------------------------------------


def expiring(targets: int, minutes: float = 12.0) -> events.UrlExpiring:
    return events.UrlExpiring(
        target="a.7z", ends_at="2023-12-13T08:00:00Z", minutes_left=minutes, minutes_needed=30.0,
        targets=targets,
    )  # fmt: skip


def test_one_line_for_the_order() -> None:
    incidents = Incidents()
    assert incidents.line(expiring(7)) == (
        "7 files will outlive their links, the first in 12 min 0 s: get a fresh manifest"
    )
    assert incidents.line(expiring(7, 15.0)) is None
    assert Incidents().line(expiring(1, 0.5)) == (
        "a.7z will outlive its link, which ends in 30.0 s: get a fresh manifest"
    )


def test_the_targets_that_need_links_and_the_one_command(case: Case) -> None:
    for number in range(23):
        case.put(made(10, number), f"/{number}.7z", query=lasting(-500))
    case.put(made(10), "/gone.7z", query=lasting(3600))
    case.server.script("/gone.7z", faults.status(404))
    lines = list(summary(case.run().report, "order.json", Path("out")))
    assert "Failed: 1 file" in lines
    at = lines.index("Waiting for fresh links: 23 files")
    assert lines[at + 1].startswith("  the link has expired (")  # the reason once
    assert all(line.startswith("    ") for line in lines[at + 2 : at + 22])
    assert lines[at + 22] == "  and 3 more"
    assert lines[at + 23] == (
        "Get a fresh manifest and run: segdl NEW.yaml -o out (what is held stays)"
    )
