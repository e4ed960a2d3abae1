"""The turn: one at a time, nobody waits for it, and nothing is left undone."""

from __future__ import annotations

from collections import deque

import pytest

from grpcpool.core.turn import Turn

from .helpers import in_threads


def test_what_comes_up_while_working_is_done_by_whoever_works() -> None:
    turn = Turn()
    pending = deque([3])
    done: list[int] = []

    def step() -> None:
        number = pending.popleft()
        done.append(number)
        if number:
            pending.append(number - 1)
            # Whoever has the turn already does not get it again.
            turn.work(pending.__len__, pytest.fail)

    turn.work(pending.__len__, step)
    assert done == [3, 2, 1, 0]


def test_a_step_that_raises_gives_the_turn_back() -> None:
    turn = Turn()
    pending = deque([KeyboardInterrupt(), None])
    done: list[object] = []

    def step() -> None:
        error = pending.popleft()
        if error is not None:
            raise error
        done.append(error)

    with pytest.raises(KeyboardInterrupt):
        turn.work(pending.__len__, step)
    turn.work(pending.__len__, step)
    assert done == [None]


def test_only_whoever_has_taken_the_turn_can_give_it_back() -> None:
    turn = Turn()
    mine, other = object(), object()
    assert turn.take(mine)
    assert not turn.take(other)
    turn.give_back(other)
    assert not turn.take(other)
    turn.give_back(mine)
    assert turn.take(other)


@pytest.mark.usefixtures("hasty")
def test_sixteen_threads_leave_nothing_undone_and_are_never_two_at_a_time() -> None:
    turn = Turn()
    pending: deque[int] = deque()
    done: list[int] = []
    inside: list[int] = []
    together: list[int] = []

    def step() -> None:
        inside.append(1)
        if len(inside) > 1:
            together.append(1)
        done.append(pending.popleft())
        inside.pop()

    def work() -> None:
        for number in range(500):
            pending.append(number)
            turn.work(pending.__len__, step)

    in_threads(16, work)
    assert together == []
    assert not pending
    assert sorted(done) == sorted(list(range(500)) * 16)
