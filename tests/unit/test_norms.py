"""Norms: what makes the latencies of different methods comparable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcpool.core.member import Member
from grpcpool.core.norm import REMEMBERED, Norm, Norms

from .helpers import Diary, in_threads


def norms(**usual: float) -> dict[str, Norm]:
    """Return the norms of methods that take so many seconds each and are called equally often."""
    pool = Norms()
    made = {method: pool.of(method) for method in usual}
    for _ in range(1000):
        for method, norm in made.items():
            norm.learn(usual[method])
    return made


@given(st.lists(st.floats(1e-6, 1e3), min_size=1))
def test_where_all_rpcs_are_of_one_method_the_norm_is_the_latency(latencies: list[float]) -> None:
    norm = Norms().of("/a")
    for latency in latencies:
        assert norm.learn(latency) == pytest.approx(latency)
        assert norm.apply(2 * latency) == pytest.approx(2 * latency)


def test_methods_of_different_speed_are_made_comparable() -> None:
    quick, slow = norms(quick=0.010, slow=1.0).values()
    typical = quick.apply(0.010)
    assert 0.010 < typical < 1.0
    assert slow.apply(1.0) == pytest.approx(typical)
    # A member that takes twice as long does so by either.
    assert quick.apply(0.020) == pytest.approx(2 * typical)
    assert slow.apply(2.0) == pytest.approx(2 * typical)
    assert slow.learn(2.0) == pytest.approx(2 * typical, rel=0.05)


def test_a_norm_learns_from_what_it_is_to_learn_from_and_not_from_the_rest() -> None:
    pool = Norms()
    norm = pool.of("/a")
    assert norm.apply(5.0) == 5.0, "nothing is known yet"
    assert (norm.usual, pool.typical) == (None, None)
    norm.learn(1.0)
    norm.apply(9.0)
    assert (norm.usual, pool.typical) == (1.0, 1.0)
    norm.learn(2.0)
    assert norm.usual == pool.typical == pytest.approx(1 + 1 / 64)
    other = pool.of("/b")
    assert other.apply(5.0) == 5.0, "nothing is known of that method"


def test_a_method_that_takes_no_time_at_all_breaks_nothing() -> None:
    norm = Norms().of("/a")
    assert (norm.learn(0.0), norm.apply(0.0), norm.apply(1.0)) == (0.0, 0.0, 1.0)


def test_every_method_has_one_norm_among_many_threads(hasty: None) -> None:
    pool = Norms()
    found: list[Norm] = []
    in_threads(16, lambda: found.extend(pool.of(f"/{number}") for number in range(50)))
    assert len(found) == 800
    assert len(set(map(id, found))) == 50


def test_norms_of_methods_that_somebody_makes_up_do_not_pile_up() -> None:
    made = Norms()
    first = made.of("first")
    others = [made.of(str(number)) for number in range(REMEMBERED)]
    assert made.of(str(REMEMBERED - 1)) is others[-1]
    assert first.learn(1.0) == 1.0, "whoever has it can use it"
    assert made.of("first") is not first


def test_meters_are_told_latencies_with_the_differences_between_methods_taken_out() -> None:
    quick, slow = norms(quick=0.010, slow=1.0).values()
    member = Member(0, "a")
    member.observer = diary = Diary()
    for norm, latency in ((quick, 0.010), (slow, 1.0)):
        assert member.answered(member.begin(0.0, True), latency, latency, norm)
        assert member.failed(member.begin(0.0, True), latency, latency, norm)
        assert member.failed(member.begin(0.0, True), latency, latency, norm, blame=False)
        assert member.dropped(member.begin(0.0, True), latency, latency, norm)
    told = [latency for kind, _, latency in diary.told if kind != "started"]
    assert told == [pytest.approx(told[0], rel=0.05)] * 8
    assert member.latency == pytest.approx(0.010 + (1.0 - 0.010) / 8), "the member's own average is of seconds"


def test_norms_learn_from_answers_only() -> None:
    pool = Norms()
    norm, _ = pool.of("/a"), pool.of("/b")
    member = Member(0, "a")
    member.observer = diary = Diary()
    for end in (member.failed, member.dropped):
        assert end(member.begin(0.0, True), 1.0, 1.0, norm)
    for end in (member.answered, member.failed, member.dropped):
        assert end(member.begin(0.0, False), 1.0, None, norm)
    assert norm.usual is None
    assert [latency for kind, _, latency in diary.told if kind != "started"] == [1.0, 1.0, None, None, None]
    assert member.answered(member.begin(0.0, True), 1.0, 1.0, norm)
    assert norm.usual == 1.0


def test_nothing_need_be_learnt_while_there_is_one_method() -> None:
    pool = Norms()
    first = pool.of("/a")
    assert first.alone
    assert pool.of("/a").alone
    second = pool.of("/b")
    assert not first.alone
    assert not second.alone
