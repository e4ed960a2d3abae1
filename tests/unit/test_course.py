"""Whether an RPC that failed is sent again, and when."""

from __future__ import annotations

from typing import Any

import pytest

from grpcpool.core.course import NOTHING, Course, End, Plan
from grpcpool.core.quantile import EVERY, REMEMBERED, Usual

BUSY, BAD = "busy", "bad"
RETRY = Plan(attempts=3, codes=frozenset({BUSY}), backoff_min=0.1, backoff_max=0.15)
UNTOUCHED = End(untouched=True, code=BUSY)
FAILED = End(untouched=False, code=BUSY)


def course(plan: Plan, afford: Any = lambda: True) -> Course:
    """Return a course that rests for as long as it may."""
    return Course(plan, afford, lambda least, most: most)


def test_what_reached_no_server_moves_to_another_member_at_once_and_once() -> None:
    one = course(Plan())
    assert one.next(UNTOUCHED, others=True, left=None) == 0.0
    assert one.kind == "failover"
    assert one.counted == 1
    assert one.next(UNTOUCHED, others=True, left=None) is None


def test_it_stays_where_it_is_if_there_is_nobody_else() -> None:
    assert course(Plan()).next(UNTOUCHED, others=False, left=None) is None


def test_it_stays_where_it_is_if_so_configured() -> None:
    assert course(NOTHING).next(UNTOUCHED, others=True, left=None) is None


def test_what_may_have_reached_a_server_is_not_sent_again_unasked() -> None:
    assert course(Plan()).next(FAILED, others=True, left=None) is None


def test_an_idempotent_one_is_sent_again_so_often_and_no_oftener() -> None:
    one = course(RETRY)
    assert one.next(FAILED, others=True, left=None) == 0.1
    assert (one.kind, one.counted) == ("retry", 2)
    # Twice that, but no more than the most.
    assert one.next(FAILED, others=False, left=None) == 0.15
    assert one.counted == 3
    assert one.next(FAILED, others=True, left=None) is None


def test_a_move_does_not_count_as_an_attempt() -> None:
    one = course(RETRY)
    assert one.next(UNTOUCHED, others=True, left=None) == 0.0
    assert one.next(UNTOUCHED, others=True, left=None) == 0.1
    assert one.counted == 2


def test_what_reached_no_server_is_worth_another_attempt_whatever_its_status() -> None:
    one = course(RETRY._replace(failover=False))
    assert one.next(End(untouched=True, code=BAD), others=False, left=None) == 0.1


def test_what_nobody_is_likely_to_have_seen_is_worth_another_attempt() -> None:
    lost = End(untouched=False, code=BAD, lost=True)
    assert course(RETRY).next(lost, others=True, left=None) == 0.1
    assert course(Plan()).next(lost, others=True, left=None) is None


def test_only_after_the_statuses_named() -> None:
    assert course(RETRY).next(End(untouched=False, code=BAD), others=True, left=None) is None


def test_the_server_says_when_to_come_back() -> None:
    one = course(RETRY)
    assert one.next(FAILED._replace(pushback=2.5), others=True, left=None) == 2.5
    assert one.next(FAILED._replace(pushback=-1.0), others=True, left=None) is None


@pytest.mark.parametrize(("left", "rest"), [(0.1, None), (0.05, None), (0.2, 0.1)])
def test_not_beyond_its_deadline(left: float, rest: float | None) -> None:
    spent: list[None] = []
    one = course(RETRY, lambda: not spent.append(None))
    assert one.next(FAILED, others=True, left=left) == rest
    # What does not happen is not paid for.
    assert len(spent) == (rest is not None)


def test_what_could_not_be_sent_at_all_is_sent_elsewhere_at_no_cost() -> None:
    unsent = UNTOUCHED._replace(unsent=True)
    assert course(Plan(), lambda: False).next(unsent, others=True, left=None) == 0.0
    assert course(Plan(), lambda: False).next(unsent, others=False, left=None) is None


def test_not_if_too_many_are_sent_again_already() -> None:
    assert course(RETRY, lambda: False).next(FAILED, others=True, left=None) is None
    assert course(RETRY, lambda: False).next(UNTOUCHED, others=True, left=None) is None


def test_of_twenty_calls_one_may_be_sent_twice() -> None:
    usual = Usual()
    sent = 0
    for number in range(1, 401):
        usual.learn(1.0)
        sent += usual.spare()
        assert sent <= number / 20
    assert sent == 20


def test_what_is_usual_is_known_after_some_calls_and_follows_the_latest() -> None:
    usual = Usual()
    for number in range(EVERY - 1):
        usual.learn(number)
        assert usual.seconds is None
    usual.learn(EVERY - 1)
    assert usual.seconds == pytest.approx(EVERY * 0.95, abs=1)
    for _ in range(2 * REMEMBERED):
        usual.learn(0.01)
    assert usual.seconds == 0.01
    # One of a hundred is not what is usual; twenty are.
    for number in range(REMEMBERED):
        usual.learn(1.0 if number % 100 == 0 else 0.01)
    assert usual.seconds == 0.01
    for number in range(REMEMBERED):
        usual.learn(1.0 if number % 5 == 0 else 0.01)
    assert usual.seconds == 1.0
