"""How fast and how patiently: the stall window, the rate limit, backoff. All time is made up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdl.core.pace import FLOOR, PROBE_WAITS, Bucket, StallWatch, backoff, probe_wait

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
