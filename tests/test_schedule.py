"""The schedule: tables of what follows on what, outages played through, and any sequence at all."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from segdl.core.errors import (
    BrokenError,
    BusyError,
    DigestError,
    DiskError,
    ExpiredError,
    MisansweredError,
    NoRangesError,
    RefusedError,
    SegdlError,
    SizeError,
    StaleError,
    TransientError,
    UnreachableError,
)
from segdl.core.job import Missing
from segdl.core.pace import PROBE_WAITS
from segdl.core.schedule import Schedule
from segdl.core.settling import DENIALS, MEANT, RESTARTS, STRIKES
from segdl.core.traffic import PLENTY, Quota
from segdl.core.work import (
    Again,
    Decision,
    Fetch,
    Finished,
    GiveUp,
    Ignore,
    Merge,
    Pause,
    Restart,
    Wait,
)

HOUR = 3600.0


def schedule(retries: int = 8, patience: float = 900.0, chance: float = 0.5) -> Schedule:
    return Schedule(retries=retries, patience=patience, chance=lambda: chance)


def with_job(
    count: int = 3, hosts: tuple[str, ...] = ("a",), *, retries: int = 8, patience: float = 900.0
) -> Schedule:
    """A schedule with job 0, pinned, nothing held."""
    plan = schedule(retries, patience)
    plan.add(0, hosts, count, (), pinned=True, merge=False)
    return plan


def taken(plan: Schedule, worker: int = 0, now: float = 0.0, current: int | None = None) -> Fetch:
    """The segment that a worker is given; it must be one."""
    work = plan.take(worker, now, current)
    assert isinstance(work, Fetch), work
    return work


def busy(retry_after: float | None = None) -> BusyError:
    return BusyError("busy", retry_after=retry_after, status=503)


def digest_error() -> DigestError:
    return DigestError("rotten", algorithm="md5", expected="a", found="b")


# -- what is handed out ----------------------------------------------------------------------------


def test_nothing_is_finished() -> None:
    assert schedule().take(0, 0.0, None) == Finished()


@pytest.mark.parametrize(
    ("count", "held", "pinned", "given"),
    [
        (3, (), True, [0, 1, 2]),
        (3, (0, 2), True, [1]),
        (5, (1, 3), True, [0, 2, 4]),
        (3, (), False, [0]),
        (None, (), False, [0]),
        (0, (), False, [0]),
        (0, (), True, []),
        (2, (0, 1), True, []),
    ],
)
def test_the_lowest_missing_segment_goes_first(
    count: int | None, held: tuple[int, ...], pinned: bool, given: list[int]
) -> None:
    plan = schedule()
    plan.add(0, ("a",), count, held, pinned=pinned, merge=False)
    assert [taken(plan, worker).segment for worker in range(len(given))] == given
    assert plan.take(9, 0.0, None) == Wait(None)


def test_the_probe_goes_alone_and_opens_the_rest() -> None:
    plan = schedule()
    plan.add(0, ("a",), None, (), pinned=False, merge=False)
    probe = taken(plan)
    assert (probe.segment, probe.probe) == (0, True)
    assert plan.take(1, 0.0, None) == Wait(None)
    plan.learn(0, 3)
    assert [taken(plan, 1).segment, taken(plan, 2).segment] == [1, 2]
    assert not taken(with_job()).probe


def test_a_worker_stays_and_workers_spread() -> None:
    plan = schedule()
    for job in range(2):
        plan.add(job, ("a",), 9, (), pinned=True, merge=False)
    first, second = taken(plan, 0), taken(plan, 1)
    assert {first.job, second.job} == {0, 1}
    for work, worker in [(first, 0), (second, 1)] * 3:
        plan.done(work, worker)
        assert taken(plan, worker, current=work.job).job == work.job
        plan.release(Fetch(work.job, 9, 0, 0, False, "a", 0), worker)
    assert taken(plan, 2).segment > 0  # only now does one help ahead of a front


def test_fresh_targets_go_before_help_and_after_what_was_begun() -> None:
    plan = schedule()
    for job in range(3):
        plan.add(job, ("a",), 2, (), pinned=True, merge=False)
    first = taken(plan, 0)
    assert taken(plan, 1).job == 1
    plan.release(first, 0)
    assert taken(plan, 2).job == first.job


def test_a_stream_belongs_to_its_owner() -> None:
    plan = schedule()
    plan.add(0, ("a",), None, (), pinned=False, merge=False)
    probe = taken(plan, 5)
    plan.learn(0, None)
    plan.dedicate(0, 5)
    assert plan.take(1, 0.0, None) == Wait(None)
    plan.done(probe, 5)
    assert plan.take(1, 0.0, None) == Wait(None)
    assert plan.owns(5) and not plan.owns(1)
    following = taken(plan, 5)
    assert following.segment == 1
    plan.done(following, 5)
    assert taken(plan, 5).segment == 2
    plan.over(0)
    assert not plan.owns(5)


def test_a_recheck_goes_first_and_does_not_hold_the_rest_back() -> None:
    plan = schedule()
    plan.add(0, ("a",), 3, (0,), pinned=True, merge=True, epoch=4)
    check = plan.take_merge()
    assert check == Merge(0, 4)
    assert taken(plan, 1).segment == 1
    plan.release(check, 0)
    assert plan.take_merge() == Merge(0, 4)
    plan.done(check, 0)
    assert plan.take_merge() is None
    assert taken(plan, 0).segment == 2


def test_one_thread_at_a_time_merges_a_target() -> None:
    plan = with_job(3)
    works = [taken(plan, worker) for worker in range(3)]
    plan.committed(works[0], None)
    first = plan.take_merge()
    assert first == Merge(0, 0)
    plan.committed(works[1], None)
    assert plan.take_merge() is None  # somebody is at it, and comes again
    plan.done(first, 0)
    second = plan.take_merge()
    assert second == Merge(0, 0)
    plan.done(second, 0)
    assert plan.take_merge() is None
    plan.committed(works[2], None)
    plan.over(0)
    assert plan.take_merge() is None


def test_a_stream_that_has_ended_has_no_further_segment() -> None:
    plan = schedule()
    plan.add(0, ("a",), None, (), pinned=False, merge=False)
    probe = taken(plan, 5)
    plan.learn(0, None)
    plan.dedicate(0, 5)
    plan.committed(probe, 1)
    plan.done(probe, 5)
    assert plan.take(5, 0.0, 0) == Wait(None)


def test_a_restart_makes_a_merge_under_way_void() -> None:
    plan = with_job(2)
    work = taken(plan)
    plan.committed(work, None)
    old = plan.take_merge()
    assert old is not None
    plan.restarted(0, None)
    plan.committed(work, None)  # of the old object
    plan.done(old, 0)
    assert plan.take_merge() is None


def test_what_was_merged_first_and_started_again_is_fetched() -> None:
    plan = schedule()
    plan.add(0, ("a",), 1, (0,), pinned=True, merge=True)
    assert plan.take_merge() is not None
    plan.restarted(0, 1)
    assert taken(plan).probe


def test_untouched_targets_are_taken_in_the_order_s_order() -> None:
    plan = schedule()
    for job, host in enumerate("abab"):
        plan.expect(job, (host,))
    assert [taken(plan, worker).job for worker in range(4)] == [0, 1, 2, 3]
    assert plan.take(4, 0.0, None) == Wait(None)


def test_untouched_targets_of_a_busy_host_wait_and_others_go() -> None:
    plan = schedule()
    for job, hosts in enumerate([("a",), ("a",), ("b",), ("a", "b")]):
        plan.expect(job, hosts)
    plan.settle(taken(plan), 0, busy(), 0.0)
    assert [(taken(plan, n).job, taken(plan, 9).host) for n in (1,)] == [(2, "b")]
    assert isinstance(plan.take(3, 0.0, None), Wait)
    assert taken(plan, 3, 100.0).job in (0, 1)  # the probe


def test_a_host_that_is_given_up_takes_its_untouched_targets_along() -> None:
    plan = schedule(patience=0.0)
    for job, hosts in enumerate([("a",), ("a",), ("b",), ("a", "b")]):
        plan.expect(job, hosts)
    given_up = plan.settle(taken(plan), 0, busy(), 0.0)
    assert isinstance(given_up, GiveUp) and sorted(given_up.jobs) == [0, 1]
    assert [(taken(plan, n).job, n) for n in (1, 2)] == [(3, 1), (2, 2)]


def test_fresh_urls_for_untouched_targets() -> None:
    plan = schedule()
    for job in range(3):
        plan.expect(job, ("a",))
    assert taken(plan).job == 0
    plan.replace_untouched(lambda job: ("b",) if job == 2 else ("a",))
    assert [(w.job, w.host) for w in (taken(plan, 1), taken(plan, 2))] == [(1, "a"), (2, "b")]


def anything(job: int) -> bool:
    return True


def test_those_that_come_next_are_taken_with_one() -> None:
    """In the order's order, of the same host alone, as far as they fit; and given back one by
    one."""
    plan = schedule()
    for job, hosts in enumerate([("a",), ("b",), ("a",), ("a", "b"), ("a",), ("a",)]):
        plan.expect(job, hosts)
    first = taken(plan, 7)
    assert plan.take_next(first, 7, 0.0, lambda job: job != 2) is None
    more = [plan.take_next(first, 7, 0.0, lambda job: job < 5) for _ in range(3)]
    assert [work.job for work in more if work] == [2, 4]
    assert [(work.host, work.probe, work.segment) for work in more if work] == [("a", True, 0)] * 2
    plan.done(first, 7)
    plan.delivered(first.job)
    for work in more[:2]:
        assert work is not None
        assert plan.current(work)
        plan.began(work, 0.0)
        plan.release(work, 7)
    assert sorted(taken(plan, n).job for n in range(5)) == [1, 2, 3, 4, 5]


def test_those_that_come_next_are_no_requests_yet() -> None:
    """A host that takes few at once is not asked more slowly for what waits for its turn."""
    plan = schedule()
    for job in range(4):
        plan.expect(job, ("a",))
    first = taken(plan)
    more = [plan.take_next(first, 0, 0.0, anything) for _ in range(3)]
    assert plan.answered(first, 0, Quota(PLENTY), 0.0) is None
    plan.done(first, 0)
    for work in more:
        assert work is not None
        plan.began(work, 0.0)
        assert plan.answered(work, 0, Quota(PLENTY), 0.0) is None
        plan.done(work, 0)


def test_none_comes_next_of_a_host_that_is_held_back() -> None:
    """It is asked with one probe; once that is answered, more may go."""
    plan = schedule()
    for job in range(4):
        plan.expect(job, ("a",))
    first = taken(plan)
    plan.settle(first, 0, busy(), 0.0)
    assert plan.take_next(first, 0, 0.0, anything) is None
    probe = taken(plan, 0, 100.0)
    assert plan.take_next(probe, 0, 100.0, anything) is None
    plan.answered(probe, 0)
    assert plan.take_next(probe, 0, 100.0, anything) is not None


def test_none_comes_next_where_none_is_left() -> None:
    plan = schedule()
    plan.expect(0, ("a",))
    assert plan.take_next(taken(plan), 0, 0.0, anything) is None


def test_of_a_delivered_target_nothing_is_left_and_late_workers_do_no_harm() -> None:
    plan = with_job(2)
    first, second = taken(plan, 0), taken(plan, 1)
    plan.delivered(0)
    assert not plan.current(second)
    plan.answered(first, 0)
    plan.committed(first, None)
    plan.progressed(first)
    plan.done(first, 0)
    plan.lost(0, 1)
    assert plan.settle(second, 1, BrokenError("cut"), 0.0) == Ignore()
    assert plan.take_merge() is None
    assert plan.take(0, 0.0, None) == Finished()
    assert not plan.replace_hosts(0, ("b",))


def test_a_target_that_may_be_there_already_is_not_asked_for_meanwhile() -> None:
    plan = schedule()
    plan.add(0, ("a",), 3, (), pinned=False, merge=True)
    check = plan.take_merge()
    assert isinstance(check, Merge)
    assert plan.take(1, 0.0, None) == Wait(None)
    plan.done(check, 0)
    assert taken(plan, 1).probe


def test_epochs_begin_where_the_index_ended() -> None:
    plan = schedule()
    plan.add(0, ("a",), 3, (), pinned=True, merge=False, epoch=7)
    work = taken(plan)
    assert work.epoch == 7 and plan.current(work)
    plan.restarted(0, 3)
    assert not plan.current(work)
    assert taken(plan).epoch == 8


def test_a_target_of_any_size_takes_no_room() -> None:
    plan = schedule()
    plan.add(0, ("a",), 2**47, (), pinned=False, merge=False)
    plan.learn(0, 2**47) if taken(plan).probe else None
    assert [taken(plan, worker).segment for worker in range(1, 5)] == [1, 2, 3, 4]
    plan.restarted(0, 2**47)
    assert taken(plan).segment == 0


@pytest.mark.parametrize("when", ["missing", "busy", "waiting", "held", "held, not done yet"])
def test_a_lost_segment_is_missing_once(when: str) -> None:
    plan = with_job(1)
    work = None if when == "missing" else taken(plan)
    if work and when == "waiting":
        plan.settle(work, 0, BrokenError("cut"), 0.0)
    if work and when == "held":
        plan.done(work, 0)
    for _ in range(2):
        plan.lost(0, 0)
    if work and when == "busy":
        plan.settle(work, 0, BrokenError("cut"), 0.0)
    if work and when == "held, not done yet":
        plan.done(work, 0)
    again = taken(plan, 0, 1.0)
    assert again.segment == 0
    assert plan.take(1, 1.0, None) == Wait(None)
    plan.done(again, 0)
    assert plan.take(0, 1.0, None) == Wait(None)  # what was fetched again is not lost for ever


@given(
    st.integers(0, 30),
    st.sets(st.integers(0, 40)),
    st.lists(st.none() | st.integers(0, 30), max_size=60),
)
def test_missing_is_a_set_that_gives_its_lowest(
    count: int, held: set[int], steps: list[int | None]
) -> None:
    missing, model = Missing.without(count, held), set(range(count)) - held
    out: list[int] = []  # what was taken out, and may come back
    for step in steps:
        if step is not None and out:
            back = out.pop(step % len(out))
            missing.add(back)
            model.add(back)
        elif model:
            assert missing.lowest == min(model)
            out.append(missing.pop())
            model.remove(out[-1])
        assert bool(missing) == bool(model)
        assert {n for n in range(45) if n in missing} == model


# -- what follows on a failure ---------------------------------------------------------------------

# fmt: off
FAILURES: list[tuple[SegdlError, type[Decision], type[Decision], bool]] = [
    # error                       one mirror  two mirrors  the other mirror next
    (BrokenError("cut"),          Again,      Again,       False),
    (MisansweredError("what"),    Again,      Again,       False),
    (TransientError("408"),       Again,      Again,       False),
    (busy(),                      Again,      Again,       True),
    (digest_error(),              Again,      Again,       True),
    (SizeError("longer"),         Again,      Again,       True),
    (StaleError("another"),       Restart,    Again,       True),
    (NoRangesError("whole"),      Again,      Again,       False),
    (ExpiredError("over"),        Pause,      Again,       True),
    (RefusedError("404"),         GiveUp,     Again,       True),
    (UnreachableError("TLS"),     GiveUp,     Again,       True),
    (DiskError("read-only"),      GiveUp,     GiveUp,      False),
]
# fmt: on


@pytest.mark.parametrize(
    ("error", "alone", "mirrored", "moves"),
    FAILURES,
    ids=[type(row[0]).__name__ for row in FAILURES],
)
def test_a_failure(
    error: SegdlError, alone: type[Decision], mirrored: type[Decision], moves: bool
) -> None:
    plan = with_job(1)
    assert type(plan.settle(taken(plan), 0, error, 0.0)) is alone
    plan = with_job(1, ("a", "b"))
    assert type(plan.settle(taken(plan), 0, error, 0.0)) is mirrored
    if mirrored is Again:
        again = taken(plan, now=HOUR)
        assert (again.segment, again.mirror) == (0, int(moves))


def test_one_failure_leaves_the_others_alone() -> None:
    plan = schedule()
    for job in range(2):
        plan.add(job, ("a",), 1, (), pinned=True, merge=False)
    decision = plan.settle(taken(plan), 0, RefusedError("404"), 0.0)
    assert isinstance(decision, GiveUp) and decision.jobs == (0,)
    assert taken(plan).job == 1


def test_tries_are_counted_in_a_row() -> None:
    plan, now, error = with_job(1, retries=3), 0.0, BrokenError("cut", status=206)
    for number in range(7):
        work = taken(plan, now=now)
        if number == 3:
            plan.progressed(work)  # a byte beyond the furthest: from none again
        decision = plan.settle(work, 0, error, now)
        now += HOUR
        assert type(decision) is (GiveUp if number == 6 else Again)
    assert isinstance(decision, GiveUp)
    assert type(decision.error) is UnreachableError
    assert "cut; given up after 4 tries" in decision.error.message


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_pin_that_is_contradicted_is_doubted_unless_an_answer_confirmed_it(
    confirmed: bool,
) -> None:
    plan, error = schedule(retries=0), MisansweredError("other labels")
    error.contradicts = True
    plan.add(0, ("a",), None, (), pinned=False, merge=False)
    probe = taken(plan)
    plan.learn(0, 3)
    plan.answered(probe, 0)
    plan.done(probe, 0)
    if confirmed:
        second = taken(plan)
        plan.answered(second, 0)
        plan.done(second, 0)
    decision = plan.settle(taken(plan), 0, error, 0.0)
    assert type(decision) is (GiveUp if confirmed else Restart)


def test_tries_of_one_segment_are_not_another_s() -> None:
    plan, now = with_job(4, retries=1), 0.0
    for number in range(4):
        assert type(plan.settle(taken(plan, number), number, BrokenError("cut"), now)) is Again


@pytest.mark.parametrize(("status", "times"), [(401, 1), (403, MEANT)])
def test_a_link_that_is_refused_to_the_end_needs_another_link(status: int, times: int) -> None:
    plan, error = with_job(1, retries=0), TransientError("limited", status=status)
    for number in range(times):
        decision = plan.settle(taken(plan, 0, number * 60.0), 0, error, number * 60.0)
        assert isinstance(decision, GiveUp) == (number == times - 1)
    assert isinstance(decision, GiveUp)
    assert type(decision.error) is RefusedError


def test_waits_grow_and_are_waited_for() -> None:
    plan, now, waits = with_job(1), 0.0, []
    for _ in range(8):
        decision = plan.settle(taken(plan, now=now), 0, BrokenError("cut"), now)
        assert isinstance(decision, Again) and decision.host is None
        assert plan.take(0, now, None) == Wait(now + decision.wait)
        assert plan.take(0, now + decision.wait * 0.99, None) != Finished()
        now += decision.wait
        waits.append(decision.wait)
    assert waits == sorted(waits)
    assert 0.12 < waits[0] < 0.26 and waits[-1] <= 5.0


def test_wrong_content_is_believed_after_three_times() -> None:
    plan, now = with_job(1), 0.0
    for number in range(STRIKES):
        decision = plan.settle(taken(plan, now=now), 0, digest_error(), now)
        now += HOUR
        assert type(decision) is (GiveUp if number == STRIKES - 1 else Again)
    assert isinstance(decision, GiveUp) and isinstance(decision.error, DigestError)


def test_a_flipped_bit_costs_no_mirror() -> None:
    """Wrong bytes move a target on; only refusals use a mirror up."""
    plan = with_job(9, ("a", "b"))
    for number in range(6):
        plan.settle(taken(plan, number), number, digest_error(), 0.0)
    now = HOUR
    assert type(plan.settle(taken(plan, 0, now), 0, RefusedError("404"), now)) is Again
    assert type(plan.settle(taken(plan, 0, now), 0, RefusedError("404"), now)) is GiveUp


def test_an_object_that_is_replaced_for_ever() -> None:
    plan = with_job(2)
    for _ in range(RESTARTS):
        work = taken(plan)
        assert plan.settle(work, 0, StaleError("another"), 0.0) == Restart()
        plan.restarted(0, 2)
        plan.learn(0, 2) if taken(plan).probe else None
    decision = plan.settle(taken(plan), 0, StaleError("another"), 0.0)
    assert isinstance(decision, GiveUp) and type(decision.error) is UnreachableError


def test_work_of_a_passed_epoch_is_ignored() -> None:
    plan = with_job(3)
    old, older = taken(plan, 0), taken(plan, 1)
    plan.restarted(0, 3, not_before=5.0)
    assert plan.settle(old, 0, BrokenError("cut"), 0.0) == Ignore()
    plan.done(older, 1)
    plan.release(older, 1)
    assert plan.take(0, 0.0, None) == Wait(5.0)
    assert taken(plan, 0, 5.0).probe
    assert plan.take(1, 5.0, None) == Wait(None)


def test_whole_answers_give_up_what_is_held_only_in_the_end() -> None:
    plan, now = with_job(3), 0.0
    plan.done(taken(plan), 0)
    for number in range(DENIALS):
        decision = plan.settle(taken(plan, now=now), 0, NoRangesError("whole"), now)
        now += HOUR
        assert type(decision) is (Restart if number == DENIALS - 1 else Again)


def test_a_broken_stream_starts_again_and_counts_on() -> None:
    plan = schedule(retries=2)
    plan.add(0, ("a",), 4, (), pinned=False, merge=False)
    waits = []
    for _ in range(3):
        work = taken(plan, now=HOUR)
        plan.learn(0, 4)
        plan.dedicate(0, 0)
        plan.done(work, 0)
        decision = plan.settle(taken(plan, now=HOUR), 0, BrokenError("cut"), HOUR)
        if isinstance(decision, Restart):
            waits.append(decision.wait)
            plan.restarted(0, 4)
    assert len(waits) == 2 and waits[0] < waits[1]
    assert isinstance(decision, GiveUp)


def test_a_stream_with_wrong_content_starts_again() -> None:
    """From the middle it could not be read anyway."""
    plan = schedule()
    plan.add(0, ("a",), 4, (), pinned=False, merge=False)
    work = taken(plan)
    plan.learn(0, 4)
    plan.dedicate(0, 0)
    assert isinstance(plan.settle(work, 0, digest_error(), 0.0), Restart)


# -- fresh links -----------------------------------------------------------------------------------


def test_an_expired_link_is_a_pause() -> None:
    plan = with_job(3)
    first, second = taken(plan, 0), taken(plan, 1)
    assert plan.settle(first, 0, ExpiredError("over"), 0.0) == Pause()
    assert plan.settle(second, 1, ExpiredError("over"), 0.0) == Ignore()  # said once
    assert plan.take(0, 0.0, None) == Finished()
    assert plan.replace_hosts(0, ("b",))
    assert [taken(plan, n).segment for n in range(3)] == [0, 1, 2]
    assert not plan.replace_hosts(0, ("b",))


@pytest.mark.parametrize(
    "error", [ExpiredError("over"), RefusedError("404"), UnreachableError("x")]
)
def test_what_an_old_link_said_does_not_count_against_a_fresh_one(error: SegdlError) -> None:
    plan = with_job(3)
    first, late = taken(plan, 0), taken(plan, 1)
    plan.settle(first, 0, ExpiredError("over"), 0.0)
    plan.replace_hosts(0, ("a",))
    assert plan.settle(late, 1, error, 0.0) == Again(0.0)
    assert sorted(taken(plan, n).segment for n in range(3)) == [0, 1, 2]


def test_a_probe_of_a_host_that_was_replaced_frees_the_host() -> None:
    plan = with_job(2)
    plan.add(1, ("a",), 1, (), pinned=True, merge=False)
    plan.settle(taken(plan, 0), 0, busy(), 0.0)
    probe = taken(plan, 0, 10.0)
    plan.replace_hosts(probe.job, ("b",))
    plan.settle(probe, 0, busy(), 10.0)
    assert taken(plan, 1, 10.0).host == "b"
    assert taken(plan, 2, 20.0).host == "a"


def test_fresh_mirrors_have_refused_nothing() -> None:
    plan = with_job(1, ("a", "b"))
    plan.settle(taken(plan), 0, RefusedError("404"), 0.0)
    plan.replace_hosts(0, ("a", "b"))
    work = taken(plan)
    assert work.mirror == 0
    assert plan.settle(work, 0, RefusedError("404"), 0.0) == Again(0.0, left="a")


def test_a_failed_target_is_taken_up_again_with_all_its_segments() -> None:
    """Also those that were under way when it failed, and failed after it."""
    plan = with_job(3)
    works = [taken(plan, n) for n in range(3)]
    assert isinstance(plan.settle(works[0], 0, DiskError("full"), 0.0), GiveUp)
    assert plan.settle(works[1], 1, BrokenError("cut"), 0.0) == Ignore()
    plan.release(works[2], 2)
    assert plan.take(0, 0.0, None) == Finished()
    plan.reopen(0)
    assert isinstance(plan.take_merge(), Merge)
    assert sorted(taken(plan, n).segment for n in range(3)) == [0, 1, 2]


# -- busy hosts ------------------------------------------------------------------------------------


def test_a_busy_host_is_held_back_once_for_all() -> None:
    plan = with_job(20)
    works = [taken(plan, worker) for worker in range(4)]
    first = plan.settle(works[0], 0, busy(), 0.0)
    assert isinstance(first, Again) and first.host == "a"
    for worker in (1, 2, 3):
        again = plan.settle(works[worker], worker, busy(), 0.0)
        assert again == first  # counted once
    assert plan.take(0, 0.1, None) == Wait(first.wait)
    probe = taken(plan, 0, first.wait)
    assert plan.take(1, first.wait, None) == Wait(None)  # one at a time
    plan.answered(probe, 0)
    assert isinstance(plan.take(1, first.wait, None), Fetch)


def test_probes_grow_rare_but_not_too_rare() -> None:
    plan, now, waits = with_job(3, patience=HOUR), 0.0, []
    for _ in range(12):
        decision = plan.settle(taken(plan, 0, now), 0, busy(), now)
        assert isinstance(decision, Again)
        waits.append(decision.wait)
        now += decision.wait
        assert plan.take(0, now - 0.01, None) != Finished()
    for wait, most in zip(waits, PROBE_WAITS, strict=False):
        assert 0.9 * most <= wait <= most
    assert max(waits) <= 30.0


@pytest.mark.parametrize(("asked", "least"), [(60.0, 60.0), (0.0, 0.4), (None, 0.4)])
def test_retry_after_is_obeyed(asked: float | None, least: float) -> None:
    plan = with_job(2)
    decision = plan.settle(taken(plan), 0, busy(asked), 0.0)
    assert isinstance(decision, Again) and least <= decision.wait <= 60.0
    assert plan.take(0, least * 0.99, None) == Wait(decision.wait)


def test_retry_after_of_the_second_is_obeyed_too() -> None:
    plan = with_job(2)
    works = [taken(plan, 0), taken(plan, 1)]
    plan.settle(works[0], 0, busy(), 0.0)
    assert plan.settle(works[1], 1, busy(60.0), 0.1) == Again(60.0, "a")
    assert plan.take(0, 59.0, None) == Wait(60.1)


def test_a_host_does_not_hold_back_another() -> None:
    plan = with_job(2)
    plan.add(1, ("b",), 2, (), pinned=True, merge=False)
    plan.settle(taken(plan), 0, busy(), 0.0)
    assert taken(plan).job == 1


def test_the_next_probe_is_another_target_s() -> None:
    """Also for a worker that would rather stay: it may be the target that is bad, not the host."""
    plan = with_job(3)
    plan.add(1, ("a",), 3, (), pinned=True, merge=False)
    second = taken(plan, 1) if taken(plan, 0).job == 0 else None
    assert second is not None and second.job == 1
    plan.release(second, 1)
    plan.settle(Fetch(0, 0, 0, 0, False, "a", 0), 0, busy(), 0.0)
    assert taken(plan, 0, 10.0, current=0).job == 1


def test_a_probe_that_had_nothing_to_ask_frees_the_host() -> None:
    """All that the segment needed was held already: done without an answer."""
    plan = with_job(3)
    plan.settle(taken(plan), 0, busy(), 0.0)
    plan.done(taken(plan, 0, 1.0), 0)
    assert isinstance(plan.take(1, 1.0, None), Fetch)


@pytest.mark.parametrize("error", [BrokenError("cut"), MisansweredError("what")])
def test_a_probe_that_fails_otherwise_shows_that_the_host_is_up(error: SegdlError) -> None:
    plan = with_job(3)
    plan.settle(taken(plan), 0, busy(), 0.0)
    plan.settle(taken(plan, 0, 1.0), 0, error, 1.0)
    assert [isinstance(plan.take(n, 1.0, None), Fetch) for n in range(2)] == [True, True]


def test_patience_ends_for_the_host_s_targets_alone() -> None:
    plan = schedule(patience=100.0)
    for job, hosts in enumerate([("a",), ("a",), ("b",), ("a", "b")]):
        plan.add(job, hosts, 1, (), pinned=True, merge=False)
    works = {work.job: work for work in (taken(plan, n) for n in range(4))}
    plan.settle(works[0], 0, busy(), 0.0)
    decision = plan.settle(works[1], 1, busy(), 100.0)
    assert isinstance(decision, GiveUp) and decision.jobs == (0, 1)
    assert "busy; patience is used up" in decision.error.message
    plan.release(works[3], 3)
    moved = taken(plan, 0, 100.0)
    assert (moved.job, moved.host) == (3, "b")


def test_no_patience_at_all() -> None:
    plan = with_job(1, patience=0.0)
    assert isinstance(plan.settle(taken(plan), 0, busy(), 0.0), GiveUp)


def test_a_held_host_is_left_for_a_mirror_that_has_not_refused() -> None:
    plan = with_job(9, ("a", "b", "c"))
    plan.settle(taken(plan, 0), 0, RefusedError("404"), 0.0)  # a has it not
    work = taken(plan, 0)
    assert work.host == "b"
    plan.settle(work, 0, busy(), 0.0)
    assert taken(plan, 0).host == "c"
    late = taken(plan, 1)
    plan.settle(late, 1, busy(), 0.0)
    assert isinstance(plan.take(0, 0.0, None), Wait)  # b and c are held, and a is of no use
    assert taken(plan, 0, HOUR).host == "c"


def test_a_fresh_target_goes_to_a_mirror_too() -> None:
    plan = with_job(1)
    plan.settle(taken(plan), 0, busy(), 0.0)
    plan.add(1, ("a", "b"), 1, (), pinned=True, merge=False)
    assert taken(plan).host == "b"


def test_half_of_the_mirrors_are_dead() -> None:
    """N08: the order finishes from the rest, whichever they are."""
    plan, hosts = with_job(40, ("a", "b", "c", "d")), []
    for number in range(40):
        work = taken(plan, 0, float(number))
        while work.host in ("a", "c"):
            error = busy() if work.host == "a" else RefusedError("404")
            plan.settle(work, 0, error, float(number))
            work = taken(plan, 0, float(number))
        plan.answered(work, 0)
        plan.done(work, 0)
        hosts.append(work.host)
    assert set(hosts) <= {"b", "d"}


# -- outages, played through -----------------------------------------------------------------------

Server = Callable[[float, Fetch], tuple[float, SegdlError | None]]  # (seconds, what went wrong)


@dataclass
class World:
    """Workers, servers and a clock: what the engine does around a schedule, without the engine."""

    plan: Schedule
    server: Server
    workers: int = 16
    counts: dict[int, int] = field(default_factory=dict)
    asked: list[tuple[float, Fetch]] = field(default_factory=list)
    failed: dict[int, float] = field(default_factory=dict)
    done: dict[int, float] = field(default_factory=dict)  # job: when
    now: float = 0.0
    _held: Counter[int] = field(default_factory=Counter)

    def add(self, job: int, count: int, hosts: tuple[str, ...] = ("a",)) -> None:
        self.counts[job] = count
        self.plan.add(job, hosts, count, (), pinned=True, merge=False)

    def run(self, until: float = 40 * HOUR) -> None:
        """Until all is finished."""
        idle: dict[int, int | None] = dict.fromkeys(range(self.workers))
        ends: list[tuple[float, int, Fetch, SegdlError | None]] = []
        while self.now < until:
            wakes = []
            for worker in list(idle):
                match self.plan.take(worker, self.now, idle[worker]):
                    case Fetch() as work:
                        del idle[worker]
                        self.asked.append((self.now, work))
                        seconds, error = self.server(self.now, work)
                        heapq.heappush(ends, (self.now + seconds, worker, work, error))
                    case Wait(time) if time is not None:
                        assert time > self.now
                        wakes.append(time)
                    case Finished():
                        assert set(self.done) | set(self.failed) == set(self.counts)
                        return
            nexts = [*wakes, *(end[0] for end in ends[:1])]
            assert nexts, "everybody waits for nothing"
            self.now = min(nexts)
            while ends and ends[0][0] <= self.now:
                _, worker, work, error = heapq.heappop(ends)
                idle[worker] = work.job
                self._report(worker, work, error)
        raise AssertionError("it never ends")

    def _report(self, worker: int, work: Fetch, error: SegdlError | None) -> None:
        if error is None:
            self.plan.answered(work, worker)
            self.plan.done(work, worker)
            self._held[work.job] += 1
            if self._held[work.job] == self.counts[work.job]:
                self.done[work.job] = self.now
                self.plan.over(work.job)
            return
        decision = self.plan.settle(work, worker, error, self.now)
        if isinstance(decision, GiveUp):
            self.failed |= dict.fromkeys(decision.jobs, self.now)

    def requests(self, start: float, stop: float, host: str = "a") -> int:
        return sum(start <= when < stop and work.host == host for when, work in self.asked)


OUTAGES: dict[str, tuple[float, Callable[[], SegdlError]]] = {
    "refused": (0.001, lambda: BusyError("refused")),
    "503": (0.05, busy),
    "503 with Retry-After": (0.05, lambda: busy(60.0)),
    "slow to say so": (9.0, busy),
    "blackhole": (30.0, lambda: BusyError("no answer")),
}


@pytest.mark.parametrize("chance", [0.0, 0.999])
@pytest.mark.parametrize("jobs", [1, 3, 200])
@pytest.mark.parametrize("kind", OUTAGES)
def test_an_outage_of_ten_minutes(kind: str, jobs: int, chance: float) -> None:
    """At most 40 requests a host with 16 workers, and a tenth of a request a segment; all is
    delivered, soon after."""
    seconds, failure = OUTAGES[kind]
    down, up = 10.0, 610.0

    def server(now: float, work: Fetch) -> tuple[float, SegdlError | None]:
        if down <= now < up:
            return seconds, failure()
        return 0.25 + (work.segment % 7) / 20, None

    world = World(schedule(chance=chance), server)
    for job in range(jobs):
        world.add(job, 3000 // jobs)
    world.run()
    assert not world.failed
    during = world.requests(down, up)
    assert 1 <= during <= 40
    assert during <= sum(world.counts.values()) / 10
    back = next(when for when, _ in world.asked if when >= up)
    assert back <= up + seconds + (60.0 if "After" in kind else 31.0)
    assert world.now <= up + 60.0 + 3000 / 16 * 0.55 + 31.0


def test_an_outage_of_two_hosts_is_two_outages() -> None:
    def server(now: float, work: Fetch) -> tuple[float, SegdlError | None]:
        return (0.01, busy()) if now < 600 and work.host != "c" else (0.2, None)

    world = World(schedule(), server)
    for job, host in enumerate("abc"):
        world.add(job, 200, (host,))
    world.run()
    assert not world.failed
    assert all(world.requests(0, 600, host) <= 40 for host in "ab")
    assert world.done[2] < 20.0


def test_a_host_that_is_rate_limiting_at_random_loses_no_target() -> None:
    """Every third request is too many."""
    count = 0

    def server(now: float, work: Fetch) -> tuple[float, SegdlError | None]:
        nonlocal count
        count += 1
        return (0.01, busy()) if count % 3 == 0 else (0.3, None)

    world = World(schedule(), server)
    for job in range(100):
        world.add(job, 2)
    world.run()
    assert not world.failed


@pytest.mark.parametrize("count", [1, 500], ids=["one segment", "many"])
def test_one_object_that_answers_500_for_ever_is_one_target_s_failure(count: int) -> None:
    """Its host answers for the others, which are not held back for long, nor given up."""

    def server(now: float, work: Fetch) -> tuple[float, SegdlError | None]:
        return (0.01, busy()) if work.job == 0 else (1.0, None)

    world = World(schedule(patience=900.0), server, workers=4)
    world.add(0, count)
    for job in range(1, 4):
        world.add(job, 400)
    world.run()
    assert set(world.failed) == {0}
    assert world.failed[0] == pytest.approx(900.0, abs=40.0)
    assert max(world.done.values()) < 1200 / 4 * 1.15
    assert sum(work.job == 0 for _, work in world.asked) < 60


# -- any sequence at all ---------------------------------------------------------------------------

HOSTS = ("a", "b", "c")
ERRORS: dict[str, Callable[[], SegdlError]] = {
    "busy": busy,
    "busy, for long": lambda: busy(60.0),
    "broken": lambda: BrokenError("cut"),
    "misanswered": lambda: MisansweredError("what"),
    "digest": digest_error,
    "stale": lambda: StaleError("another"),
    "no ranges": lambda: NoRangesError("whole"),
    "expired": lambda: ExpiredError("over"),
    "refused": lambda: RefusedError("404"),
    "unreachable": lambda: UnreachableError("TLS"),
    "disk": lambda: DiskError("full"),
}
hosts_lists = st.lists(st.sampled_from(HOSTS), min_size=1, max_size=3).map(tuple)


@dataclass
class Target:
    """What the test knows of a job."""

    count: int
    told: bool  # the manifest tells the size
    stream: bool  # the server ignores ranges
    epoch: int
    hosts: tuple[str, ...]
    held: set[int] = field(default_factory=set)
    state: str = "open"
    owner: int | None = None
    pinned: bool = False

    @property
    def known(self) -> int | None:
        return self.count if self.told else None


class Orders(RuleBasedStateMachine):
    """Workers that take, succeed, fail, give back; targets that restart, lose, pause, refresh."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.jobs: dict[int, Target] = {}
        self.under_way: dict[int, Fetch | Merge] = {}
        self.last: dict[int, int] = {}
        self.silent: dict[str, set[int]] = {}  # hosts that are held back: who probes
        self.not_before: dict[str, float] = {}

    @initialize(
        retries=st.integers(0, 3),
        patience=st.sampled_from([0.0, 5.0, 900.0, 900.0]),
        chance=st.floats(0, 0.999),
        workers=st.integers(1, 5),
    )
    def begin(self, retries: int, patience: float, chance: float, workers: int) -> None:
        self.plan = Schedule(retries=retries, patience=patience, chance=lambda: chance)
        self.workers = range(workers)
        self.enter(6, True, False, ("a",), 0, {1}, True)
        self.enter(3, False, False, ("a", "b"), 0, set(), False)

    # -- the order

    @precondition(lambda self: len(self.jobs) < 6)
    @rule(
        count=st.integers(0, 6),
        told=st.booleans(),
        stream=st.booleans(),
        hosts=hosts_lists,
        epoch=st.integers(0, 2),
        held=st.sets(st.integers(0, 5)),
        pinned=st.booleans(),
    )
    def enter(
        self, count: int, told: bool, stream: bool, hosts: tuple[str, ...], epoch: int,
        held: set[int], pinned: bool,
    ) -> None:  # fmt: skip
        job, pinned = len(self.jobs), pinned and not stream
        target = Target(count, told or pinned, stream, epoch, hosts, pinned=pinned)
        target.held = {n for n in held if n < count} if pinned else set()
        self.jobs[job] = target
        self.plan.add(job, hosts, target.known, target.held, pinned=pinned, merge=pinned,
                      epoch=epoch)  # fmt: skip

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 5.0, 31.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), hosts=hosts_lists)
    def refresh(self, data: st.DataObject, hosts: tuple[str, ...]) -> None:
        job = data.draw(st.sampled_from(sorted(self.jobs)))
        target = self.jobs[job]
        resumed = self.plan.replace_hosts(job, hosts)
        assert resumed == (target.state == "paused")
        target.hosts = hosts
        target.state = "open" if resumed else target.state

    @precondition(lambda self: any(t.state == "failed" for t in self.jobs.values()))
    @rule()
    def retry(self) -> None:
        job = next(job for job, t in self.jobs.items() if t.state == "failed")
        self.plan.reopen(job)
        self.jobs[job].state = "open"

    @precondition(lambda self: any(t.held and t.state == "open" for t in self.jobs.values()))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """What was held is not what its record said."""
        job = data.draw(
            st.sampled_from([j for j, t in self.jobs.items() if t.held and t.state == "open"])
        )
        if not self.jobs[job].stream:
            segment = data.draw(st.sampled_from(sorted(self.jobs[job].held)))
            self.jobs[job].held.remove(segment)
            self.plan.lost(job, segment)

    # -- the workers

    @precondition(lambda self: len(self.under_way) < len(self.workers))
    @rule(most=st.sampled_from([1, 5]))
    def take(self, most: int) -> None:
        idle = sorted(set(self.workers) - set(self.under_way))
        for worker in idle[:most]:
            self.take_for(worker)

    def take_for(self, worker: int) -> float | None:
        """Let a worker take work; returns until when it has to wait."""
        match self.plan.take_merge() or self.plan.take(worker, self.now, self.last.get(worker)):
            case Fetch() as work:
                self.check_fetch(worker, work)
                self.under_way[worker] = work
            case Merge() as work:
                assert self.jobs[work.job].state in ("open", "paused")
                assert self.jobs[work.job].epoch == work.epoch
                assert work not in self.under_way.values()
                self.under_way[worker] = work
            case Wait(until):
                assert until is None or until > self.now
                assert any(t.state == "open" for t in self.jobs.values())
                return until
            case Finished():
                assert not any(t.state == "open" for t in self.jobs.values())
        return None

    def check_fetch(self, worker: int, work: Fetch) -> None:
        target = self.jobs[work.job]
        assert target.state == "open"
        assert work.epoch == target.epoch
        assert work.segment not in target.held
        assert work.probe == (not target.pinned)
        assert not work.probe or work.segment == 0
        assert work.segment < max(target.count, 1) or (target.stream and not target.told)
        assert work.host == target.hosts[work.mirror]
        assert target.owner in (None, worker)
        for other in self.under_way.values():
            assert (work.job, work.epoch, work.segment) != (
                other.job, other.epoch, getattr(other, "segment", None),
            )  # fmt: skip
        if work.host in self.silent:
            assert not self.silent[work.host], "a second probe"
            assert self.now >= self.not_before[work.host]
            self.silent[work.host].add(worker)

    def finish(self, worker: int) -> Fetch | Merge:
        work = self.under_way.pop(worker)
        self.last[worker] = work.job
        for probing in self.silent.values():
            probing.discard(worker)
        return work

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), rots=st.sampled_from([False, False, True]))
    def succeed(self, data: st.DataObject, rots: bool) -> None:
        self.succeed_for(data.draw(st.sampled_from(sorted(self.under_way))), rots)

    def succeed_for(self, worker: int, rots: bool = False) -> None:
        """A worker does what it took; `rots`: what it held was lost before it could say so."""
        work = self.finish(worker)
        target = self.jobs[work.job]
        counts = self.plan.current(work)
        if not counts:
            self.plan.release(work, worker)
            return
        if isinstance(work, Fetch):
            self.plan.answered(work, worker)
            self.silent.pop(work.host, None)
            if work.probe:
                self.plan.learn(work.job, target.known if target.stream else target.count)
                target.pinned = True
                if target.stream:
                    self.plan.dedicate(work.job, worker)
                    target.owner = worker
            if rots and target.count and not target.stream:
                self.plan.lost(work.job, work.segment)
            elif work.segment < target.count:
                target.held.add(work.segment)
        if len(target.held) == target.count and target.pinned:
            target.state = "delivered"
            self.plan.over(work.job)
        self.plan.done(work, worker)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.under_way)))
        self.plan.release(self.finish(worker), worker)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), kind=st.sampled_from([*ERRORS, *["busy"] * 9]), progress=st.booleans())
    def fail(self, data: st.DataObject, kind: str, progress: bool) -> None:
        worker = data.draw(st.sampled_from(sorted(self.under_way)))
        work, error = self.finish(worker), ERRORS[kind]()
        current = self.plan.current(work)
        if progress and isinstance(work, Fetch):
            self.plan.progressed(work)
        decision = self.plan.settle(work, worker, error, self.now)
        if not current or isinstance(work, Merge):
            assert isinstance(decision, GiveUp if current else Ignore)
        elif isinstance(error, BusyError):
            self.silent.setdefault(work.host, set())
            due = self.now + (error.retry_after or 0.0)
            self.not_before[work.host] = max(due, self.not_before.get(work.host, 0.0))
        else:
            self.silent.pop(work.host, None)
        self.act(work, decision)

    def act(self, work: Fetch | Merge, decision: Decision) -> None:
        """What the desk does."""
        target = self.jobs[work.job]
        match decision:
            case Restart(wait):
                target.epoch += 1
                target.held.clear()
                target.pinned, target.owner = False, None
                self.plan.restarted(work.job, target.known, self.now + wait)
            case Pause():
                assert target.state == "open"
                target.state = "paused"
            case GiveUp(jobs):
                if isinstance(work, Fetch):  # patience with its host may be used up
                    self.silent.pop(work.host, None)
                for job in jobs:
                    assert self.jobs[job].state in ("open", "paused")
                    self.jobs[job].state = "failed"
            case Again(wait):
                assert 0.0 <= wait < 60.001

    # -- the end

    def teardown(self) -> None:
        """Once nothing fails any more, everything is delivered: nothing was lost on the way."""
        if not hasattr(self, "plan"):
            return
        for job, target in self.jobs.items():
            if target.state == "paused":
                self.refresh_now(job)
            elif target.state == "failed":
                self.plan.reopen(job)
                target.state = "open"
        for worker in list(self.under_way):
            self.succeed_for(worker)
        for _ in range(400):
            untils = [self.take_for(worker) for worker in self.workers]
            for worker in list(self.under_way):
                self.succeed_for(worker)
            left = [job for job, t in self.jobs.items() if t.state != "delivered"]
            if not left:
                return
            if due := [until for until in untils if until is not None]:
                self.now = max(self.now, min(due))
        raise AssertionError(f"never delivered: {left}")

    def refresh_now(self, job: int) -> None:
        assert self.plan.replace_hosts(job, ("a",))
        self.jobs[job].hosts, self.jobs[job].state = ("a",), "open"


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
