"""`--connections auto`: grows while the rate of the whole order grows, else steps back.

The line is simulated: what it carries with so many connections is a function.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from segdl.core.pace import FEWEST, FIRST, MOST, Crowd

MB = 1_000_000


def climb(carries: Callable[[int], float], seconds: int, busy: int = MOST) -> list[int]:
    """The allowed numbers, second by second."""
    crowd, landed, allowed = Crowd(), 0.0, []
    for second in range(seconds):
        allowed.append(crowd.look(float(second), int(landed), min(busy, crowd.allowed)))
        landed += carries(allowed[-1])
    return allowed


def test_begins_with_four() -> None:
    assert climb(lambda n: n * MB, 1) == [FIRST]


def test_grows_to_the_most_where_every_connection_brings_more() -> None:
    assert climb(lambda n: n * MB, 20)[-1] == MOST


@pytest.mark.parametrize("enough", [1, 4, 6, 9])
def test_a_full_line_is_not_crowded(enough: int) -> None:
    allowed = climb(lambda n: min(n, enough) * MB, 120)
    beyond = [n for n in allowed if n > max(enough * 1.5, FIRST + 2)]
    assert len(beyond) <= len(allowed) * 0.1
    assert min(allowed) >= min(enough, FIRST)


def test_idle_connections_are_no_reason_for_more() -> None:
    assert set(climb(lambda n: n * MB, 30, busy=2)) == {FIRST}


def test_a_server_that_says_too_many_halves_it_at_once() -> None:
    crowd = Crowd(allowed=16)
    crowd.refused(0.0)
    assert crowd.allowed == 8
    for _ in range(9):
        crowd.refused(0.0)
    assert crowd.allowed == 1


def test_after_a_refusal_it_waits_before_it_grows_again() -> None:
    crowd, landed = Crowd(allowed=8), 0
    crowd.refused(0.0)
    for second in range(1, 15):
        landed += 4 * MB
        assert crowd.look(float(second), landed, 4) == 4


def test_a_process_that_is_busy_itself_goes_down_and_up_again() -> None:
    """Many small files: more connections bring nothing to an interpreter that has no time."""
    crowd = Crowd()
    for second in range(10):
        crowd.look(float(second), second * 100 * MB, MOST, worked=second * 0.9)
    assert crowd.allowed == FEWEST
    for second in range(10, 12):
        crowd.look(float(second), second * 100 * MB, MOST, worked=9.0)
    assert crowd.allowed > FEWEST


@pytest.mark.parametrize("load", [0.6, 1.2, 1.9])
def test_a_process_that_is_busy_with_bytes_stays_as_it_is(load: float) -> None:
    """Who receives, decrypts and writes leaves the interpreter to the others."""
    crowd = Crowd()
    for second in range(10):
        crowd.look(float(second), second * 600 * MB, MOST, worked=second * load)
        assert crowd.allowed == FIRST


def test_a_step_down_that_costs_is_taken_back() -> None:
    crowd, landed = Crowd(), 0.0
    for second in range(10):
        allowed = crowd.look(float(second), int(landed), MOST, worked=second * 1.0)
        landed += allowed * MB
    assert crowd.allowed == FIRST


def test_a_busy_process_is_seen_at_a_glance() -> None:
    """Workers that are busy are fewer after a quarter of a second; a line is not judged by that."""
    crowd = Crowd()
    for moment in (0.0, 0.2):
        assert crowd.look(moment, int(moment * MB), FIRST, worked=moment) == FIRST
    assert crowd.look(0.25, MB, FIRST, worked=0.25) < FIRST
    crowd = Crowd()
    for moment in (0.0, 0.25, 0.5, 0.9):
        assert crowd.look(moment, int(moment * MB), FIRST, worked=moment * 0.1) == FIRST
    assert crowd.look(1.0, MB, FIRST, worked=0.1) > FIRST


@pytest.mark.parametrize("least", [1, 2, 3, 4, 9])
def test_a_busy_process_keeps_the_least(least: int) -> None:
    """Runners do not wait for each other's interpreter."""
    crowd = Crowd(least=least)
    for second in range(10):
        crowd.look(float(second), second * 100 * MB, MOST, worked=second * 0.9)
    assert crowd.allowed == min(least, FIRST)


def test_a_refusal_goes_below_the_least() -> None:
    crowd = Crowd(least=4)
    for _ in range(5):
        crowd.refused(0.0)
    assert crowd.allowed == FEWEST
