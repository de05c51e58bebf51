"""How fast and how patiently: stalls, the rate limit, backoff, who lags. All time is made up."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdl.core.pace import FLOOR, PROBE_WAITS, Bucket, Flows, StallWatch, backoff, probe_wait

TICK = 0.2  # seconds between two looks, as the wire has it


def ends(
    watch: StallWatch, rate: float, burst: float, start: float, seconds: float
) -> float | None:
    """When a watch calls a line dead, or None: `rate` bytes a second, a burst every `burst` s."""
    step = min(TICK, watch.window / 64)
    for count in range(int(seconds / step)):
        passed = count * step
        if watch.stalled(start + passed, int(passed // burst * burst * rate)):
            return start + passed
    return None


@pytest.mark.parametrize("window", [0.1, 1.0, 30.0, 600.0])
@pytest.mark.parametrize("rate", [0.0, 1.0, 100.0, 1000.0])
def test_a_trickle_is_dead_within_the_window(window: float, rate: float) -> None:
    died = ends(StallWatch(window), rate, 0.01, 1000.0, window * 1.2)
    assert died is not None
    assert window * 0.99 <= died - 1000.0 <= window * 1.1


@pytest.mark.parametrize("window", [1.0, 30.0, 600.0])
@pytest.mark.parametrize("burst", [0.001, 0.02, 0.06])
def test_a_slow_line_lives(window: float, burst: float) -> None:
    """1.1 KiB a second, evenly or in bursts that are much shorter than the window."""
    assert ends(StallWatch(window), FLOOR * 1.1, burst * window, 0.0, window * 30) is None


@pytest.mark.parametrize("window", [1.0, 30.0])
@pytest.mark.parametrize("before", [0.05, 0.5, 1.0, 7.3])
def test_a_fast_line_that_stops_is_dead_within_the_window(window: float, before: float) -> None:
    watch, step, fast = StallWatch(window), window / 64, 50e6
    stop = before * window
    for count in range(int(10 * window / step)):
        now = count * step
        if watch.stalled(now, int(min(now, stop) * fast)):
            assert window * 0.99 <= now - stop <= window * 1.1
            return
    raise AssertionError("never dead")


def test_a_first_look_is_never_a_stall() -> None:
    assert not StallWatch(30.0).stalled(1e9, 0)
    watch = StallWatch(30.0)
    watch.stalled(0.0, 0)
    assert watch.stalled(30.0, 30 * FLOOR - 1)
    assert not watch.stalled(30.0, 30 * FLOOR)


def test_what_segdl_held_back_itself_is_no_stall() -> None:
    watch = StallWatch(30.0)
    watch.stalled(0.0, 0)
    watch.excuse()
    assert not watch.stalled(31.0, 0)
    assert not watch.stalled(60.0, 0)
    assert watch.stalled(61.0, 0)


def test_a_watch_keeps_little() -> None:
    watch = StallWatch(30.0)
    for count in range(10_000):
        watch.stalled(count / 100, count * 10_000)
    assert len(watch._seen) < 40


@settings(deadline=None)
@given(
    rate=st.integers(1024, 10**9),
    seconds=st.lists(st.floats(0.005, 0.5), min_size=1, max_size=20),
    workers=st.integers(1, 16),
)
def test_a_bucket_holds_the_rate(rate: int, seconds: list[float], workers: int) -> None:
    """Over all workers, within 5 %, whatever the pieces are that come at once."""
    bucket, ready, landed = Bucket(), [1000.0] * workers, 0
    for piece in itertools.cycle([max(1, int(rate * each)) for each in seconds]):
        worker = min(range(workers), key=ready.__getitem__)
        wait = bucket.take(ready[worker], piece, rate)
        ready[worker] += wait
        landed += piece
        if landed > 20 * rate:
            break
    assert landed / (max(ready) - 1000.0) == pytest.approx(rate, rel=0.05)


def test_idle_time_saves_little_up() -> None:
    bucket = Bucket()
    bucket.take(0.0, 1000, 1000)
    assert bucket.take(1e6, 1100, 1000) == pytest.approx(1.0)


def test_no_limit_is_no_wait_and_no_debt() -> None:
    bucket = Bucket()
    assert bucket.take(0.0, 10**12, None) == 0.0
    assert bucket.take(0.0, 1000, 1000) == pytest.approx(1.0)
    assert bucket.take(0.0, 10**12, None) == 0.0
    assert bucket.take(0.0, 500, 1000) == pytest.approx(0.5)


def test_another_limit_holds_at_once() -> None:
    """What is owed is bytes, not the hours that they would have taken at the old rate."""
    bucket = Bucket()
    assert bucket.take(0.0, 1_000_000, 1000) == pytest.approx(1000.0)
    assert bucket.take(0.0, 0, 1_000_000) == pytest.approx(1.0)


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded(tries: int, chance: float) -> None:
    wait = backoff(tries, chance)
    most = min(5.0, 0.25 * 2 ** min(tries - 1, 40))
    assert most / 2 <= wait <= most


def test_backoff_doubles() -> None:
    waits = [backoff(tries, 0.5) for tries in range(1, 9)]
    assert [b / a for a, b in itertools.pairwise(waits)][:4] == [2.0] * 4
    assert waits[-1] == waits[-2] == 3.75


def test_probes_are_at_most_half_a_minute_apart() -> None:
    waits = [probe_wait(probes) for probes in range(1, 50)]
    assert tuple(waits[: len(PROBE_WAITS)]) == PROBE_WAITS
    assert waits == sorted(waits)
    assert max(waits) == 30.0


# -- who lags --------------------------------------------------------------------------------------

LOOK = 0.1  # seconds between two looks, as the engine has it
SPAN, LAG = 3.0, 8  # seconds that a rate is judged over; times slower than usual
FAST = 1_000_000.0  # bytes a second


class Run:
    """Connections at made-up rates, looked at ten times a second."""

    def __init__(self, rates: Mapping[int, float], start: float = 1000.0) -> None:
        self.flows, self.rates, self.now = Flows(), dict(rates), start
        self._landed: dict[int, float] = dict.fromkeys(rates, 0.0)

    def go_on(self, seconds: float) -> list[tuple[float, int]]:
        """Who was said to lag, and when, from now on."""
        lagged, began = [], self.now
        for count in range(round(seconds / LOOK)):
            self.now = began + (count + 1) * LOOK
            for number, rate in self.rates.items():
                self._landed[number] = self._landed.get(number, 0.0) + rate * LOOK
            landed = {number: int(self._landed[number]) for number in self.rates}
            lagged += [(self.now - began, n) for n in self.flows.look(self.now, landed)]
        return lagged


@pytest.mark.parametrize("rate", [0.0, 1.0, FAST / 100, FAST / LAG - 5000])
@pytest.mark.parametrize("others", [2, 3, 7, 15])
def test_one_far_slower_than_the_others_lags(rate: float, others: int) -> None:
    run = Run({0: rate, **dict.fromkeys(range(1, others + 1), FAST)})
    ((when, who),) = run.go_on(SPAN + 2.0)
    assert who == 0
    assert SPAN <= when <= SPAN + 3 * LOOK
    assert run.flows.usual == pytest.approx(FAST, rel=0.01)


@pytest.mark.parametrize("rate", [FAST / LAG + 5000, FAST / 2, FAST * 20])
def test_a_slower_or_a_faster_one_does_not_lag(rate: float) -> None:
    assert not Run({0: rate, 1: FAST, 2: FAST, 3: FAST}).go_on(30.0)


@pytest.mark.parametrize("count", [1, 2])
def test_of_fewer_than_three_nothing_is_usual(count: int) -> None:
    run = Run({0: 0.0, **dict.fromkeys(range(1, count), FAST)})
    assert not run.go_on(30.0)
    assert run.flows.usual == 0.0


def test_nobody_is_judged_before_three_seconds() -> None:
    run = Run({0: 1.0, 1: FAST, 2: FAST, 3: FAST})
    assert not run.go_on(SPAN - LOOK)
    run.rates[4] = 0.0  # one that came late is not judged with the others
    assert {who for _, who in run.go_on(SPAN - 5 * LOOK)} == {0}


def test_what_is_usual_is_known_as_soon_as_three_rates_are() -> None:
    run = Run({0: 1.0, 1: FAST})
    assert not run.go_on(10.0)
    run.rates |= {2: FAST, 3: FAST}
    assert not run.go_on(0.3)
    assert run.flows.usual == 0.0
    assert [who for _, who in run.go_on(0.2)] == [0]
    assert run.flows.usual == pytest.approx(FAST)


def test_what_was_usual_is_remembered_for_the_last_one() -> None:
    """It was as fast as all others, and crawls now that it is alone."""
    run = Run(dict.fromkeys(range(8), FAST))
    assert not run.go_on(5.0)
    run.rates = {3: 1.0}
    ((when, who),) = run.go_on(6.0)
    assert who == 3
    assert SPAN * (1 - 1 / LAG) - LOOK <= when <= SPAN + 2 * LOOK
    assert run.flows.usual == pytest.approx(FAST, rel=0.01)


def test_one_that_lags_is_spared_four_times_longer_each_time() -> None:
    run = Run({0: 1.0, 1: FAST, 2: FAST, 3: FAST})
    times = [when for when, who in run.go_on(300.0) if who == 0]
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert waits == [pytest.approx(SPAN * 4**n, abs=3 * LOOK) for n in (1, 2, 3)]


def test_each_is_spared_for_itself() -> None:
    run = Run({0: 1.0, **dict.fromkeys(range(1, 9), FAST)})
    assert [who for _, who in run.go_on(4.0)] == [0]
    run.rates[1] = 1.0
    assert {who for _, who in run.go_on(4.0)} == {1}


def test_a_connection_that_was_forgotten_is_young_again() -> None:
    run = Run({0: 1.0, 1: FAST, 2: FAST, 3: FAST})
    run.go_on(SPAN + 1.0)
    assert run.flows.rate(0) == pytest.approx(1.0, abs=1.0)
    run.flows.forget(0)
    assert run.flows.rate(0) is None
    run.rates[0] = FAST / 2  # the new one
    assert not run.go_on(1.0)
    assert run.flows.rate(0) == pytest.approx(FAST / 2, rel=0.01)  # nothing of before
    run.flows.forget(99)  # unknown: nothing to forget


def test_who_was_away_begins_anew() -> None:
    """Idle time is no slowness."""
    run = Run(dict.fromkeys(range(4), FAST))
    run.go_on(5.0)
    del run.rates[0]
    run.go_on(20.0)
    run.rates[0] = FAST
    assert not run.go_on(0.2)
    assert run.flows.rate(0) is None
    assert not run.go_on(10.0)


def test_a_rate_is_told_after_a_third_of_a_second() -> None:
    run = Run({0: FAST})
    assert run.flows.rate(0) is None
    run.go_on(0.3)  # two looks are 0.1 s apart, three 0.2
    assert run.flows.rate(0) is None
    run.go_on(0.2)
    assert run.flows.rate(0) == pytest.approx(FAST)
    assert run.flows.rate(1) is None


def test_a_rate_is_that_of_the_last_three_seconds() -> None:
    run = Run({0: FAST})
    run.go_on(30.0)
    run.rates[0] = FAST / 10
    run.go_on(SPAN + 2 * LOOK)
    assert run.flows.rate(0) == pytest.approx(FAST / 10, rel=0.05)
    assert len(run.flows._seen[0]) < SPAN / LOOK + 5


RATES = st.lists(st.integers(0, 10**9).map(lambda each: each * 10.0), min_size=1, max_size=16)


@settings(deadline=None)
@given(RATES)
def test_whoever_lags_is_an_eighth_of_the_median(rates: list[float]) -> None:
    """For any rates: only those, all of those, and never the half that is faster."""
    run = Run(dict(enumerate(rates)), start=0.0)
    lagged = {who for _, who in run.go_on(SPAN + 1.0)}
    if len(rates) < 3:
        assert not lagged
        return
    usual = statistics.median(rates)
    assert run.flows.usual == pytest.approx(usual, rel=0.01, abs=20)
    slower = {n for n, rate in enumerate(rates) if rate * LAG < usual * 0.98 - 200}
    no_faster = {n for n, rate in enumerate(rates) if rate * LAG < usual * 1.02 + 200}
    assert slower <= lagged <= no_faster
    assert len(lagged) <= len(rates) / 2
