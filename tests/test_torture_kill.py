"""A fixed share of the campaigns that kill segdl, or let its disk fail."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.torture import calls, disk, kill, syscalls
from tests.torture.campaign import Campaign, Figures, Impossible, run

SEED = 1


def passed(campaign: Campaign, numbers: Iterable[int]) -> list[Figures]:
    """The figures of rounds that all have to pass."""
    outcome = run(campaign, numbers, SEED)
    told = "\n".join(outcome.lines())
    print(told)
    assert not outcome.failed, told
    return outcome.figures


def spread(share: int, of: int) -> list[int]:
    """A share of the numbers up to `of`, evenly spread."""
    return [number * of // share for number in range(share)]


@pytest.fixture(scope="module")
def points() -> int:
    """How many system calls there are to fail at."""
    try:
        return len(calls.points())
    except Impossible as reason:
        pytest.skip(f"no system call can be made to fail: {reason}")


def test_kills_at_random_moments() -> None:
    """Twenty, on a machine that is not slow: else some runs are over before, and more begin."""
    figures = passed(kill.CAMPAIGN, range(12))
    while sum(each["kills"] for each in figures) < 12 and len(figures) < 48:
        figures += passed(kill.CAMPAIGN, range(len(figures), len(figures) + 1))
    assert sum(each["kills"] for each in figures) >= 12
    assert sum(each["many"] for each in figures) >= 3


def test_kills_at_system_calls(points: int) -> None:
    assert points > 100
    figures = passed(syscalls.CAMPAIGN, spread(25, points))
    assert sum(each["killed"] for each in figures) >= 20


def test_errors_of_the_disk(points: int) -> None:
    figures = passed(disk.CAMPAIGN, spread(25, points * len(disk.ERRORS)))
    assert sum(each["refused"] for each in figures) >= 12


@pytest.mark.parametrize("campaign", [syscalls.CAMPAIGN, disk.CAMPAIGN])
def test_a_campaign_ends_after_the_last_call(points: int, campaign: Campaign) -> None:
    last = points * len(disk.ERRORS) - 1
    assert not passed(campaign, [last + 1, last])
