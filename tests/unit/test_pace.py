"""How long to wait, and where to put members: backoff, pace, placement."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcpool.core.backoff import backoff
from grpcpool.core.pace import FAST, Pace
from grpcpool.endpoint import Endpoint, place


@given(st.integers(1, 10_000), st.floats(0.1, 10), st.floats(10, 100), st.integers())
def test_backoff_grows_within_its_bounds(failures: int, minimum: float, maximum: float, seed: int) -> None:
    delay = backoff(failures, minimum=minimum, maximum=maximum, rng=random.Random(seed))
    assert 0.8 * minimum <= delay <= maximum
    if failures > 60:
        assert delay >= 0.8 * maximum


def test_backoff_is_grpcs() -> None:
    rng = random.Random(1)
    delays = [backoff(4, minimum=1, maximum=100, rng=rng) for _ in range(1000)]
    assert 1.6**3 * 0.8 <= min(delays) < 1.6**3 * 0.82
    assert 1.6**3 * 1.18 < max(delays) <= 1.6**3 * 1.2


def test_the_pace_slackens_without_news_and_appointments_are_kept() -> None:
    pace = Pace(0.1)
    quiet = [pace.next(False, None) for _ in range(20)]
    assert quiet == sorted(quiet)
    assert (quiet[0], quiet[-1]) == (FAST * 1.5, 0.1)
    assert pace.next(False, 0.03) == 0.03
    assert pace.next(False, -5.0) == FAST
    assert pace.next(True, None) == FAST
    pace.next(False, None)
    pace.quicken()
    assert pace.next(False, None) == FAST * 1.5
    for members, slow in ((1, 0.05), (70, 0.07), (1000, 0.09)):
        pace.suit(members, least=0.05, most=0.09)
        assert pace.slow == pytest.approx(slow)


@given(st.integers(1, 6), st.integers(1, 40))
def test_members_are_never_more_than_one_apart(targets: int, size: int) -> None:
    endpoints = [Endpoint(f"t{number}") for number in range(targets)]
    taken: list[str] = ["somewhere else"]
    for _ in range(size):
        taken.append(place(endpoints, taken).target)
    counts = [taken.count(endpoint.target) for endpoint in endpoints]
    assert max(counts) - min(counts) <= 1
