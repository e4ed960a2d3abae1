"""Which calls a fault is for, what random bytes are, and those who wait for news."""

from __future__ import annotations

import random
import threading

import grpc
import pytest

import grpcpool.testing
from grpcpool.testing.background import LoopThread, News
from grpcpool.testing.faults import Fail, Failure, Faults, Garbage, Hang, Misgreet, Refuse, Rule, Slow, number_of
from grpcpool.testing.garbage import GOAWAY, frame, garbage


def everything() -> Rule:
    return Rule()


def test_a_rule_is_for_everything_unless_it_says_otherwise() -> None:
    rng = random.Random(0)
    assert all(Rule().applies(method, rng) for method in ("/a/b", "/c/d"))
    assert Rule().everything
    only = Rule(methods="/a/b")
    assert (only.applies("/a/b", rng), only.applies("/c/d", rng), only.everything) == (True, False, False)


def test_a_rule_with_a_fraction_is_for_about_that_many() -> None:
    rng, rule = random.Random(1), Rule(fraction=0.25)
    assert 200 < sum(rule.applies("/a/b", rng) for _ in range(1000)) < 300
    assert not Rule(fraction=0).applies("/a/b", rng)
    with pytest.raises(ValueError, match="fraction"):
        Rule(fraction=1.5)


def test_a_rule_counts_only_the_calls_that_it_is_for() -> None:
    rng, rule = random.Random(0), Rule(methods=["/a/b"], times=2)
    hit = [rule.applies(method, rng) for method in ("/c/d", "/a/b", "/a/b", "/a/b")]
    assert hit == [False, True, True, False]


def test_the_latest_fault_of_a_kind_counts() -> None:
    faults = Faults(random.Random(0))
    usual, rare = Slow(everything(), 1), Slow(Rule(methods=["/a/b"]), 2)
    faults.add(usual)
    faults.add(rare)
    assert faults.find(Slow, "/a/b") is rare
    assert faults.find(Slow, "/c/d") is usual
    assert faults.find(Refuse, "/a/b") is None
    latest = Slow(everything(), 3)
    faults.add(latest)
    assert faults.find(Slow, "/a/b") is latest


def test_faults_that_are_over_let_go() -> None:
    faults = Faults(random.Random(0))
    first, second = Hang(everything()), Hang(everything())
    faults.add(first)
    assert not first.over.is_set()
    faults.add(second)
    assert first.over.is_set()
    assert faults
    faults.clear()
    assert second.over.is_set()
    assert not faults


def test_new_connections_suffer_what_is_meant_for_them() -> None:
    faults = Faults(random.Random(0))
    faults.add(Slow(everything(), 1))
    assert faults.at_connect() is None
    bad = Misgreet(Rule(times=1))
    faults.add(bad)
    assert [faults.at_connect() for _ in range(2)] == [bad, None]
    anything = Garbage(everything(), random.Random(0))
    faults.add(anything)
    assert 50 < sum(faults.at_connect() is anything for _ in range(1000)) < 150


def test_how_long_may_be_said_for_each_call() -> None:
    assert Slow(everything(), 0.5).draw() == 0.5
    assert Slow(everything(), iter([1.0, 2.0]).__next__).draw() == 1.0


def test_a_status_is_known_by_its_number() -> None:
    assert [number_of(code) for code in (grpc.StatusCode.UNAVAILABLE, 5)] == [14, 5]
    failure = Failure(grpc.StatusCode.ABORTED, "why")
    assert (failure.code, failure.details) == (10, "why")
    with pytest.raises(TypeError, match="'UNAVAILABLE'"):
        number_of("UNAVAILABLE")
    assert Fail(everything(), 14, "", 0, ()).code == 14


def test_a_frame() -> None:
    assert frame(6, 1, 3, b"12345678") == b"\x00\x00\x08\x06\x01\x00\x00\x00\x0312345678"
    assert frame(0, 0, 1, b"", length=300)[:3] == b"\x00\x01\x2c"


def test_random_bytes_are_the_same_for_the_same_seed() -> None:
    def some(seed: int) -> list[bytes]:
        rng = random.Random(seed)
        return [garbage(rng, 5) for _ in range(200)]

    assert some(1) == some(1)
    assert some(1) != some(2)
    assert len(set(some(1))) > 150


def test_random_bytes_spare_a_client_the_goaway_that_ends_its_process() -> None:
    rng = random.Random(4)
    seen = 0
    for _ in range(3000):
        data = garbage(rng, 5)
        while len(data) >= 17:
            length, kind, stream = int.from_bytes(data[:3], "big"), data[3], data[5:9]
            if kind == GOAWAY and not any(stream) and 8 <= length <= len(data) - 9:
                seen += 1
                assert int.from_bytes(data[13:17], "big") < 13
            data = data[9 + length :]
    assert seen > 100


def test_waiting_for_news() -> None:
    news, happened = News(), threading.Event()

    def look() -> bool:
        looks.append(happened.is_set())
        if len(looks) == 1:
            threading.Thread(target=tell).start()
        return looks[-1]

    def tell() -> None:
        # Who waits looks again after each piece of news, whatever it was.
        news.tell()
        happened.set()
        news.tell()

    looks: list[bool] = []
    news.wait_for(look, 20, lambda: "")
    assert looks[0] is False
    assert looks[-1] is True
    with pytest.raises(TimeoutError, match=r"not within 0 s; nothing"):
        news.wait_for(lambda: False, 0, lambda: "nothing")


def test_a_condition_may_ask_the_thread_that_tells_the_news() -> None:
    news, thread = News(), LoopThread("test")
    asked: list[int] = []

    def ask() -> bool:
        # While this waits for the thread, the thread has news.
        asked.append(thread.run(lambda: news.tell() or len(asked)))
        return len(asked) == 3

    news.wait_for(ask, 20, lambda: "")
    thread.close()
    assert asked == [0, 1, 2]


def test_a_loop_does_not_wait_for_itself() -> None:
    thread = LoopThread("test")

    async def nothing() -> None:
        return

    def wait_for_itself() -> None:
        thread.finish(nothing())

    assert thread.run(lambda: thread.run(lambda: 7)) == 7
    with pytest.raises(RuntimeError, match="very thread"):
        thread.run(wait_for_itself)
    thread.close()
    assert thread.loop.is_closed()


def test_every_public_name_is_there() -> None:
    pytest.importorskip("h2")
    assert [name for name in grpcpool.testing.__all__ if getattr(grpcpool.testing, name, None) is None] == []
    assert dir(grpcpool.testing) == sorted(grpcpool.testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = grpcpool.testing.nothing
