"""Counters, leases and members: exact, whatever threads do."""

from __future__ import annotations

from grpcpool.core.counters import Tally
from grpcpool.core.lease import Lease
from grpcpool.core.member import Member

from .helpers import in_threads


def test_a_tally_is_exact_with_many_threads_and_many_looks(hasty: None) -> None:
    tally = Tally()

    def work() -> None:
        for step in range(2000):
            tally.add()
            if step % 50 == 0:
                tally.value()

    in_threads(16, work)
    assert tally.value() == 32000
    assert tally.value() == 32000


def test_a_lease_counts_once_however_often_it_is_given_back() -> None:
    member = Member(0, "a")
    lease = Lease.on(member, 0.0)
    assert (member.in_flight, member.picks) == (1, 1)
    assert lease.fail(1.0)
    assert not lease.fail(1.0)
    assert not lease.succeed(9.0)
    assert not lease.release(9.0)
    assert (member.in_flight, member.picks, member.failures, member.latency) == (0, 1, 1, None)


def test_the_average_latency_follows_the_last_calls() -> None:
    member = Member(0, "a")
    assert member.latency is None
    for latency in (1.0, 2.0):
        Lease.on(member, 0.0).succeed(latency)
    Lease.on(member, 0.0, timed=False).succeed(9.0)
    assert member.latency == 1.125


def test_leases_are_exact_with_many_threads(hasty: None) -> None:
    member = Member(0, "a")
    assert not member.retire() or member.retired
    idle = Tally()
    member.on_idle = lambda _: idle.add()

    def work() -> None:
        for _ in range(500):
            lease = Lease.on(member, 0.0)
            # Three ends of the same call, as when it is cancelled while it ends and is collected.
            lease.succeed(0.1)
            lease.release(0.1)
            lease.fail(0.1)

    in_threads(16, work)
    assert (member.in_flight, member.picks, member.failures) == (0, 8000, 0)
    assert idle.value() >= 1, "the last one says that the member is idle"


def test_a_retired_member_says_when_its_last_lease_ends() -> None:
    member = Member(3, "a")
    told: list[Member] = []
    member.on_idle = told.append
    first, second = Lease.on(member, 0.0), Lease.on(member, 0.0)
    first.release(0.0)
    assert not member.retire()
    assert "retired" in repr(member)
    assert told == []
    second.release(0.0)
    assert told == [member]


def test_a_retired_member_that_nobody_waits_for_ends_its_rpcs_all_the_same() -> None:
    member = Member(3, "a")
    lease = Lease.on(member, 0.0)
    assert not member.retire()
    assert lease.release(0.0)
    assert member.in_flight == 0


def test_a_member_retired_during_a_pick_is_noticed_by_one_side_or_the_other(hasty: None) -> None:
    for _ in range(300):
        member = Member(0, "a")
        seen: list[str] = []
        member.on_idle = lambda _, seen=seen: seen.append("idle")  # type: ignore[misc]

        def retire(member: Member = member, seen: list[str] = seen) -> None:
            if member.retire():
                seen.append("idle")

        def pick(member: Member = member) -> None:
            lease = Lease.on(member, 0.0)
            if member.retired:
                lease.release(0.0)
            else:
                lease.succeed(0.0)

        todo = iter([retire, pick])
        in_threads(2, lambda todo=todo: next(todo)())
        assert "idle" in seen


def test_a_retired_member_is_never_let_in_again() -> None:
    member = Member(0, "a", limit=3)
    assert member.retire()
    member.allow(5)
    assert member.limit == -1
    assert not member.admit("token")
