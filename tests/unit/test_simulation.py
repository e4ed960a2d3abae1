"""The simulation: its model by itself, and strategies in it."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from grpcpool import ConfigError
from grpcpool.simulation import (
    Antagonist,
    Backends,
    Failure,
    Figures,
    Latency,
    Resize,
    Scenario,
    Slowdown,
    contender,
    contenders,
    joined,
    run,
)
from grpcpool.simulation.figures import CURVE, latency_of, peak_share, percentile
from grpcpool.simulation.membership import changes
from grpcpool.simulation.reader import built_in, find, names, parse, read
from grpcpool.simulation.server import NEVER, Server
from grpcpool.strategies import RoundRobin, available
from grpcpool.strategies.base import Clock, Member, Picker

HALF = 0.5


def scenario(*backends: Backends, **fields: Any) -> Scenario:
    given = {"name": "test", "clients": 2, "qps": 200, "duration": 4, "warm_up": 0, "timeout": 0.5, **fields}
    return Scenario(backends=backends or (Backends(count=3),), **given)


class Recorder:
    """A round robin that keeps what it was shown and told."""

    def __init__(self) -> None:
        self.built: list[tuple[str, ...]] = []
        self.ids: set[int] = set()
        self.picked: list[tuple[float, str]] = []
        self.told: list[tuple[str, str, float, float | None]] = []

    def meter(self, member: Member) -> _Meter:
        return _Meter(self, member.endpoint)

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Picker:
        self.built.append(tuple(member.endpoint for member in members))
        self.ids |= {member.id for member in members}
        inner = RoundRobin().build(members, rng=rng, clock=clock)

        def pick() -> Member:
            member = inner()
            self.picked.append((clock(), member.endpoint))
            return member

        return pick


class _Meter:
    def __init__(self, recorder: Recorder, endpoint: str) -> None:
        self._told = recorder.told
        self._endpoint = endpoint

    def started(self, now: float, timed: bool) -> None:
        self._told.append(("started", self._endpoint, now, None))

    def answered(self, now: float, latency: float | None) -> None:
        self._told.append(("answered", self._endpoint, now, latency))

    def failed(self, now: float, latency: float | None) -> None:
        self._told.append(("failed", self._endpoint, now, latency))

    def dropped(self, now: float, latency: float | None) -> None:
        self._told.append(("dropped", self._endpoint, now, latency))


class Favourite:
    """Always the first."""

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Picker:
        first = members[0]
        return lambda: first


def recorded(what: Scenario, seed: int = 1) -> tuple[Figures, list[Recorder]]:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    return run(what, make, seed), made


# --- a backend


def server(**fields: Any) -> Server:
    given = {"distribution": "normal", "service": 1.0, "workers": 1, **fields}
    return Server(Backends(**given), random.Random(1))


def test_calls_wait_for_a_worker_in_the_order_in_which_they_came() -> None:
    two = server(workers=2)
    assert [two.serve(now, HALF) for now in (0.0, 0.5, 0.6, 0.7, 5.0)] == [1.0, 1.5, 2.0, 2.5, 6.0]


def test_without_a_limit_nobody_waits() -> None:
    unlimited = server(workers=0)
    assert [unlimited.serve(0.0, HALF) for _ in range(3)] == [1.0, 1.0, 1.0]


def test_the_speed_at_the_start_of_a_service_holds_to_its_end() -> None:
    slow = server(workers=0, slow=(Slowdown(start=10, end=20, factor=3), Slowdown(start=20, end=21, factor=0.5)))
    ends = {now: slow.serve(now, HALF) - now for now in (9.9, 10.0, 19.9, 20.0, 21.0, 30.0)}
    assert ends == pytest.approx({9.9: 1, 10.0: 3, 19.9: 3, 20.0: 0.5, 21.0: 1, 30.0: 1})


def test_a_call_that_waits_is_slow_if_its_service_starts_in_slow_times() -> None:
    slow = server(slow=(Slowdown(start=1, end=2, factor=3),))
    assert [slow.serve(0.5, HALF) for _ in range(3)] == [1.5, 4.5, 5.5]


def test_what_hangs_answers_nothing_nor_what_it_was_serving() -> None:
    hung = server(workers=2, hangs=10, slow=(Slowdown(start=50, end=60, factor=2),))
    assert hung.serve(8.9, HALF) == pytest.approx(9.9)
    assert [hung.serve(now, HALF) for now in (9.5, 9.6, 9.7, 10.0, 70.0)] == [NEVER] * 5


def test_what_refuses_does_so_between_two_times() -> None:
    refusing = server(fails=Failure(start=1, end=2))
    assert [refusing.refuses(now) for now in (0.9, 1.0, 1.9, 2.0)] == [False, True, True, False]
    assert server(fails=Failure()).refuses(1e9)
    assert not server().refuses(0.0)


def test_service_times_have_the_distribution_that_was_asked_for() -> None:
    chances = [(number + 0.5) / 10_000 for number in range(10_000)]
    exponential = server(workers=0, distribution="exponential", service=2.0)
    drawn = [exponential.serve(0.0, chance) for chance in chances]
    assert sum(drawn) / len(drawn) == pytest.approx(2.0, rel=0.01)
    assert sum(value > 2.0 for value in drawn) / len(drawn) == pytest.approx(math.exp(-1), abs=0.001)
    normal = server(workers=0, service=2.0, sigma=0.1)
    drawn = [normal.serve(0.0, chance) for chance in chances]
    assert sum(drawn) / len(drawn) == pytest.approx(2.0, rel=0.001)
    assert sum(1.9 < value < 2.1 for value in drawn) / len(drawn) == pytest.approx(0.6827, abs=0.001)
    assert server(workers=0, sigma=10.0).serve(0.0, 1e-6) == 0.0


def test_an_antagonist_comes_as_often_and_stays_as_long_as_it_was_told() -> None:
    antagonist = Antagonist(every=5, lasts=1, least=2, most=4)
    disturbed = server(workers=0, antagonist=antagonist)
    drawn = [disturbed.serve(now / 10, HALF) - now / 10 for now in range(100_000)]
    slowed = [value for value in drawn if value > 1.5]
    assert len(slowed) / len(drawn) == pytest.approx(0.2, abs=0.02)
    assert min(slowed) >= 2
    assert max(slowed) <= 4 + 1e-6
    assert sum(slowed) / len(slowed) == pytest.approx(3, abs=0.1)
    assert {round(value, 6) for value in drawn} - {round(value, 6) for value in slowed} == {1.0}


# --- who is a member


def test_members_join_and_leave() -> None:
    what = scenario(Backends(count=2), Backends(joins=1), Backends(leaves=3), Backends(joins=9))
    assert changes(what) == [(0.0, (0, 1, 3)), (1.0, (0, 1, 2, 3)), (3.0, (0, 1, 2))]


def test_a_resize_lets_those_go_that_have_been_members_longest() -> None:
    what = scenario(Backends(count=4), resize=Resize(every=1, sizes=(2, 3, 1)), duration=5.5)
    assert changes(what) == [
        (0, (0, 1)),
        (1, (0, 1, 2)),
        (2, (2,)),
        (3, (2, 3)),
        (4, (0, 2, 3)),
        (5, (0,)),
    ]


# --- a run


def test_the_same_seed_gives_the_same_and_another_seed_something_else() -> None:
    what = scenario(Backends(count=4, antagonist=Antagonist(every=1, lasts=0.2, least=2, most=5)))
    first = run(what, contender("power_of_two"), 1)
    assert run(what, contender("power_of_two"), 1) == first
    assert run(what, contender("power_of_two"), 2) != first


def test_all_strategies_meet_the_same_calls() -> None:
    # With no queues and equal backends, latency is the work that a call is, wherever it goes.
    what = scenario(Backends(count=3, workers=0))
    figures = [run(what, make, 1) for make in (RoundRobin, Favourite, contender("random"))]
    assert figures[0].latency == figures[1].latency == figures[2].latency
    assert figures[0].calls == figures[1].calls
    assert figures[0].traffic != figures[1].traffic


def test_calls_arrive_as_often_as_was_said_and_from_all_clients() -> None:
    figures, made = recorded(scenario(clients=4, qps=1000, duration=5))
    # Poisson: a standard deviation is the square root, here 71.
    assert figures.calls == pytest.approx(5000, abs=300)
    assert sum(len(client.picked) for client in made) == figures.calls
    assert [len(client.picked) for client in made] == pytest.approx([1250] * 4, abs=150)
    times = [time for time, _ in made[0].picked]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 5


def test_every_client_has_a_strategy_and_chances_of_its_own() -> None:
    _, made = recorded(scenario(clients=20))
    assert len({id(client) for client in made}) == 20
    assert all(client.built == [("backend-0", "backend-1", "backend-2")] for client in made)
    # A round robin starts at random.
    assert len({client.picked[0][1] for client in made}) == 3


def erlang_c(workers: int, offered: float) -> float:
    """The chance that a call has to wait, with `offered` workers' worth of work coming in."""
    waiting = offered**workers / math.factorial(workers) * workers / (workers - offered)
    return waiting / (sum(offered**busy / math.factorial(busy) for busy in range(workers)) + waiting)


@pytest.mark.parametrize(("workers", "load"), [(4, 0.3), (4, 0.7), (1, 0.5)])
def test_mean_latency_is_what_queueing_theory_says(workers: int, load: float) -> None:
    # M/M/c: one queue, Poisson arrivals, exponential service.
    mean, round_trip = 0.010, 0.002
    what = scenario(
        Backends(workers=workers, service=mean),
        load=load,
        qps=None,
        clients=3,
        duration=8000 / (load * workers / mean),
        warm_up=0.5,
        round_trip=round_trip,
        timeout=5,
    )
    wait = erlang_c(workers, load * workers) * mean / (workers * (1 - load))
    latency = run(what, RoundRobin, 3).latency
    assert latency is not None
    assert latency.mean == pytest.approx(mean + wait + round_trip, rel=0.08)


def test_a_call_that_takes_too_long_fails_at_its_deadline_and_its_work_stays() -> None:
    # One call in a second can be served and about ten come: those of the first half second get their turn in time.
    constant = Backends(workers=1, distribution="normal", service=1.0)
    what = scenario(constant, clients=1, qps=10, duration=20, timeout=1.5, round_trip=0.1)
    figures, (client,) = recorded(what)
    answered = [(now, latency) for kind, _, now, latency in client.told if kind == "answered"]
    failed = [latency for kind, _, _, latency in client.told if kind == "failed"]
    assert len(answered) == 1
    assert answered[0][1] == pytest.approx(1.1)
    # Had the work of those that timed out been thrown away, others would have been served in time after them.
    assert figures.errors == {"DEADLINE_EXCEEDED": figures.calls - 1}
    assert failed == pytest.approx([1.5] * len(failed))
    assert figures.latency is not None
    assert figures.latency.p50 == figures.latency.maximum == 1.5
    assert figures.over_1s == 1.0
    # Everything that was started has ended, each once.
    assert sum(kind == "started" for kind, *_ in client.told) == len(answered) + len(failed) == figures.calls


def test_a_hung_backend_times_its_calls_out_and_no_others() -> None:
    figures, made = recorded(scenario(Backends(), Backends(hangs=2), timeout=0.5))
    told = [entry for client in made for entry in client.told]
    failed = [(endpoint, now) for kind, endpoint, now, _ in told if kind == "failed"]
    assert {endpoint for endpoint, _ in failed} == {"backend-1"}
    # What it was serving at that time had been given to it not long before.
    assert min(now for _, now in failed) > 2.3
    assert figures.errors == {"DEADLINE_EXCEEDED": len(failed)}
    assert figures.error_share == pytest.approx(0.25, abs=0.02)
    assert figures.latency is not None
    assert figures.latency.maximum == 0.5


def test_a_refused_call_fails_at_once_and_is_no_quick_one() -> None:
    figures, made = recorded(scenario(Backends(distribution="normal"), Backends(fails=Failure()), round_trip=0.001))
    refused = [latency for client in made for kind, _, _, latency in client.told if kind == "failed"]
    assert figures.errors == {"UNAVAILABLE": len(refused)}
    assert refused == pytest.approx([0.001] * len(refused))
    assert figures.error_share == pytest.approx(0.5, abs=0.01)
    assert figures.latency is not None
    assert min(figures.latency.curve) == pytest.approx(0.011)


def test_if_all_calls_are_refused_there_is_no_latency() -> None:
    figures = run(scenario(Backends(fails=Failure())), RoundRobin, 1)
    assert figures.latency is None
    assert figures.error_share == 1.0
    assert figures.over_1s == 0.0


def test_if_no_call_arrives_there_is_nothing_to_see() -> None:
    figures = run(scenario(qps=0.001, duration=0.5), RoundRobin, 1)
    assert (figures.calls, figures.error_share, figures.over_1s, figures.peak_share) == (0, 0.0, 0.0, 0.0)
    assert figures.traffic == ((0.0, 0.0, 0.0),)


def test_who_leaves_ends_its_calls_and_gets_no_more() -> None:
    slow = {"distribution": "normal", "service": 0.3, "workers": 0}
    figures, made = recorded(scenario(Backends(**slow), Backends(leaves=2, **slow)))
    for client in made:
        assert client.built == [("backend-0", "backend-1"), ("backend-0",)]
        assert max(time for time, endpoint in client.picked if endpoint == "backend-1") < 2
        ended = [now for kind, endpoint, now, _ in client.told if (kind, endpoint) == ("answered", "backend-1")]
        assert max(ended) > 2.1
    assert figures.errors == {}
    assert [second[1] > 0 for second in figures.traffic] == [True, True, False, False]


def test_who_joins_gets_its_share_from_then_on() -> None:
    figures = run(scenario(Backends(count=2), Backends(joins=2), qps=900), RoundRobin, 1)
    assert [second[2] for second in figures.traffic] == pytest.approx([0, 0, 1 / 3, 1 / 3], abs=0.01)
    assert figures.peak_share == pytest.approx(1, abs=0.02)


def test_who_comes_back_is_a_new_member() -> None:
    figures, made = recorded(scenario(Backends(count=2), resize=Resize(every=1, sizes=(2, 1))))
    for client in made:
        assert [len(members) for members in client.built] == [2, 1, 2, 1]
        assert client.built[1] != client.built[3]
        assert client.ids == {0, 1, 2}
    assert figures.errors == {}


def test_what_comes_before_the_warm_up_is_over_is_not_measured() -> None:
    failing = Backends(fails=Failure(end=1))
    figures = run(scenario(failing, warm_up=1), RoundRobin, 1)
    everything = run(scenario(failing), RoundRobin, 1)
    assert figures.errors == {}
    assert everything.errors["UNAVAILABLE"] == everything.calls - figures.calls
    assert len(figures.traffic) == 4


def test_what_a_strategy_does_wrong_is_said_and_the_run_goes_on() -> None:
    class Broken(Favourite):
        def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Picker:
            raise RuntimeError

    figures = run(scenario(), Broken, 1)
    assert figures.strategy_errors == ("build() raised RuntimeError",)
    assert figures.errors == {}
    assert run(scenario(), Favourite, 1).strategy_errors == ()


def test_a_favourite_gets_more_than_its_share() -> None:
    figures = run(scenario(Backends(count=2), Backends(weight=2)), Favourite, 1)
    assert figures.peak_share == pytest.approx(4)


def test_a_strategy_that_goes_by_keys_is_given_some() -> None:
    def busiest(keys: int) -> float:
        what = scenario(qps=20, duration=20, keys=keys)
        picked = [sum(shares) for shares in zip(*run(what, contender("consistent_hash"), 1).traffic, strict=True)]
        return max(picked) / sum(picked)

    # With one key everything goes to one member, but for what comes while that has more than enough to do.
    assert busiest(1) > 0.8
    assert busiest(1000) < 0.5


# --- figures


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 10), (50, 500), (99, 990), (99.9, 999), (99.91, 1000), (100, 1000)]
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(percent: float, expected: int) -> None:
    assert percentile(range(1, 1001), percent) == expected


def test_the_figures_of_latency() -> None:
    latency = latency_of([float(value) for value in range(1000, 0, -1)])
    assert latency is not None
    assert (latency.p50, latency.p90, latency.p99, latency.p999, latency.maximum) == (500, 900, 990, 999, 1000)
    assert latency.mean == 500.5
    assert len(latency.curve) == len(CURVE)
    assert latency.curve[0] == 1
    assert latency.curve[-1] == 1000
    assert latency_of([]) is None


def test_peak_share_by_hand() -> None:
    def peak(picks: list[list[int]], members: list[tuple[float, tuple[int, ...]]], **fields: Any) -> float:
        given: dict[str, Any] = {"weights": [1.0, 1.0, 2.0], "since": 0.0, "duration": float(len(picks)), **fields}
        return peak_share(picks, members, **given)

    always = [(0.0, (0, 1, 2))]
    assert peak([[25, 25, 50]], always) == pytest.approx(1)
    assert peak([[50, 25, 25]], always) == pytest.approx(2)
    assert peak([[90, 5, 5], [25, 50, 25]], always, since=0.5) == pytest.approx(2)
    # The third is there for the second half, and then entitled to half of what comes: a quarter of the whole.
    half = [(0.0, (0, 1)), (0.5, (0, 1, 2))]
    assert peak([[30, 30, 40]], half) == pytest.approx(1.6)
    # For the last moment only: nobody is judged by that.
    assert peak([[49, 50, 1]], [(0.0, (0, 1)), (0.95, (0, 1, 2))]) < 1.1
    # The last second is half a second.
    assert peak([[10, 10, 20], [5, 5, 10]], always, duration=1.5) == pytest.approx(1)


def figures(calls: float, errors: dict[str, float], p99: float | None, traffic: float, problem: str = "") -> Figures:
    latency = None if p99 is None else Latency(1, 2, 3, p99, 5, 6, tuple(p99 for _ in CURVE))
    return Figures(calls, errors, latency, 0.1 * calls, calls, ((traffic, 1 - traffic),), (problem,) if problem else ())


def test_several_runs_are_joined_by_the_median_of_each_figure() -> None:
    together = joined(
        [
            figures(1, {"UNAVAILABLE": 5}, 30, 0.1, "late"),
            figures(3, {"UNAVAILABLE": 1}, 10, 0.5),
            figures(2, {"DEADLINE_EXCEEDED": 7, "UNAVAILABLE": 3}, 20, 0.2, "late"),
        ]
    )
    assert together.calls == 2
    assert together.errors == {"DEADLINE_EXCEEDED": 0, "UNAVAILABLE": 3}
    assert together.latency is not None
    assert together.latency.p99 == 20
    assert together.latency.curve == (20,) * len(CURVE)
    assert together.over_1s == pytest.approx(0.2)
    assert together.traffic == ((0.2, 0.8),)
    assert together.strategy_errors == ("late",)
    assert joined([figures(1, {}, None, 0.1)]).latency is None


# --- scenarios


def test_the_scenarios_that_come_with_it() -> None:
    assert names() == tuple("ABCDEFGHIJ")
    found = {name: built_in(name) for name in names()}
    assert all(each.name == name and 0 < len(each.title) <= 75 for name, each in found.items())
    rates = {name: round(each.rate) for name, each in found.items()}
    assert rates == {
        "A": 1000,
        "B": 2548,
        "C": 3200,
        "D": 4800,
        "E": 4800,
        "F": 2800,
        "G": 2800,
        "H": 6400,
        "I": 3200,
        "J": 2400,
    }
    assert {name: each.clients for name, each in found.items() if each.clients != 10} == {
        "A": 1,
        "D": 20,
        "E": 20,
        "H": 400,
    }
    assert built_in("b") == found["B"]
    assert find("B") == found["B"]


def test_size_load_and_duration_can_be_changed() -> None:
    assert [group.count for group in built_in("A").adjusted(size=24).backends] == [23, 1]
    assert [group.count for group in built_in("D").adjusted(size=40).backends] == [20, 20]
    assert [group.count for group in built_in("D").adjusted(size=2).backends] == [1, 1]
    alone = scenario(Backends(), Backends())
    assert [group.count for group in alone.adjusted(size=5).backends] == [4, 1]
    resized = built_in("J").adjusted(size=24)
    assert resized.resize is not None
    assert resized.resize.sizes == (20, 24, 18, 22, 16)
    assert built_in("C").adjusted(load=0.4).rate == 1600
    assert scenario().adjusted(load=0.5).rate == 600
    shorter = built_in("C").adjusted(duration=10)
    assert (shorter.duration, shorter.warm_up) == (10, 2)
    assert built_in("C").adjusted(duration=100).warm_up == 5
    assert built_in("C").adjusted() == built_in("C")


@pytest.mark.parametrize(
    "change",
    [{"size": 1}, {"size": 2.5}, {"load": 0}, {"load": math.nan}, {"duration": 0}, {"duration": "long"}],
    ids=str,
)
def test_what_cannot_be_changed_so_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        built_in("D").adjusted(**change)


def test_a_scenario_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        qps = 10
        resize = { every = 1, sizes = [2, 3] }
        [[backends]]
        count = 3
        slow = [{ start = 1, end = 2, factor = 2 }]
        fails = { start = 3 }
        [[backends]]
        antagonist = { every = 5, lasts = 1, least = 2, most = 3 }
        """
    )
    expected = Scenario(
        name="mine",
        qps=10,
        resize=Resize(every=1, sizes=(2, 3)),
        backends=(
            Backends(count=3, slow=(Slowdown(start=1, end=2, factor=2),), fails=Failure(start=3)),
            Backends(antagonist=Antagonist(every=5, lasts=1, least=2, most=3)),
        ),
    )
    assert read(path) == find(str(path)) == expected
    assert {expected} == {dataclasses.replace(expected)}


ONE = "qps = 1\n[[backends]]\n"


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("qps = ", "scenario", "TOML"),
        ("qps = 1", "backends", "required"),
        ("qps = 1\nbackends = []", "backends", "one or more"),
        ("qps = 1\n[backends]\ncount = 1", "backends", "[[backends]]"),
        ("qps = 1\nbackends = [1]", "backends[0]", "a table"),
        ("[[backends]]", "load", "either load or qps"),
        ("load = 0.5\n" + ONE, "qps", "only one of load and qps"),
        ("load = true\n[[backends]]", "load", "a number above 0"),
        ("load = 0.5\n[[backends]]\nworkers = 0", "load", "need qps"),
        ("qsp = 1\n[[backends]]", "qsp", "did you mean 'qps'?"),
        ("qps = -1\n[[backends]]", "qps", "a number above 0"),
        ("name = 1\n" + ONE, "name", "text"),
        ("clients = 0\n" + ONE, "clients", "1 or more"),
        ("clients = [1]\n" + ONE, "clients", "an integer"),
        ("keys = 0\n" + ONE, "keys", "1 or more"),
        ("duration = 1\nwarm_up = 1\n" + ONE, "warm_up", "below duration, which is 1"),
        ("round_trip = 9\n" + ONE, "round_trip", "below timeout"),
        (ONE + "count = 1.5", "backends[0].count", "an integer"),
        (ONE + "[[backends]]\nwieght = 1", "backends[1].wieght", "did you mean 'weight'?"),
        (ONE + "distribution = 'gamma'", "backends[0].distribution", "'exponential' or 'normal'"),
        (ONE + "service = 0", "backends[0].service", "above 0"),
        (ONE + "joins = 2\nleaves = 1", "backends[0].leaves", "above joins, which is 2"),
        (ONE + "joins = 2", "backends", "nobody from 0 s on"),
        (ONE + "leaves = 2\n[[backends]]\njoins = 3", "backends", "nobody from 2 s on"),
        (ONE + "hangs = 'soon'", "backends[0].hangs", "seconds"),
        (ONE + "fails = true", "backends[0].fails", "a table"),
        (ONE + "fails = { start = 2, end = 1 }", "backends[0].fails.end", "above start, which is 2"),
        (ONE + "slow = { start = 1, end = 2, factor = 2 }", "backends[0].slow", "[[backends[0].slow]]"),
        (ONE + "slow = [{ start = 1, end = 2 }]", "backends[0].slow[0].factor", "required"),
        (ONE + "slow = [{ start = 2, end = 1, factor = 2 }]", "backends[0].slow[0].end", "above start"),
        (
            ONE + "slow = [{ start = 1, end = 3, factor = 2 }, { start = 2, end = 4, factor = 2 }]",
            "backends[0].slow",
            "a start at 3",
        ),
        (
            ONE
            + "slow = [{ start = 1, end = 3, factor = 2 }]\nantagonist = { every = 5, lasts = 1, least = 2, most = 3 }",
            "backends[0].antagonist",
            "only one of both",
        ),
        (
            ONE + "antagonist = { every = 1, lasts = 1, least = 2, most = 3 }",
            "backends[0].antagonist.every",
            "above lasts",
        ),
        (
            ONE + "antagonist = { every = 2, lasts = 1, least = 2, most = 1 }",
            "backends[0].antagonist.most",
            "least, which is 2",
        ),
        ("resize = { every = 1, sizes = [] }\n" + ONE, "resize.sizes", "one or more integers"),
        ("resize = { every = 1, sizes = 2 }\n" + ONE, "resize.sizes", "one or more integers"),
        ("resize = { every = 1, sizes = [0] }\n" + ONE, "resize.sizes", "1 or more"),
        ("resize = { every = 1, sizes = [2] }\n" + ONE, "sizes", "at most 1"),
        ("resize = { every = 1, sizes = [1] }\n" + ONE + "leaves = 1", "resize", "only one of both"),
    ],
)
def test_what_is_no_scenario_is_refused_with_the_place_and_what_is_allowed(text: str, field: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text, name="wrong")
    assert refused.value.field == field
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.toml", None, "can be read"),
        ("latin.toml", b"title = '\xe4'", "not UTF-8"),
        ("wrong.toml", b"qps = 1", "wrong.toml: backends"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        find(str(path))


def test_a_scenario_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match="A, B, C, D, E, F, G, H, I, J, or the path of a TOML file"):
        find("Z")


# --- strategies by name


def picks(make: Callable[[], Any]) -> tuple[tuple[float, ...], ...]:
    return run(scenario(), make, 1).traffic


SHARED = Favourite()
NO_STRATEGY = 3


def make_favourite() -> Favourite:
    return Favourite()


def make_with(favourite: object) -> object:
    return favourite


@pytest.mark.parametrize("name", ["Favourite", "make_favourite", "SHARED"])
def test_a_strategy_may_be_named_by_module_and_object(name: str) -> None:
    make = contender(f"{__name__}:{name}")
    first, second = make(), make()
    assert isinstance(first, Favourite)
    assert isinstance(second, Favourite)
    # Each client has one of its own, and nobody has the one that was named.
    assert len({id(first), id(second), id(SHARED)}) == 3
    assert picks(make) == picks(Favourite)


@pytest.mark.parametrize("entry", ["Favourite", "SHARED"])
def test_a_strategy_may_be_an_entry_point(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group = "grpcpool.strategies"
    found = [metadata.EntryPoint("favourite", f"{__name__}:{entry}", group)]
    monkeypatch.setattr(metadata, "entry_points", lambda **selected: found if selected == {"group": group} else [])
    make = contender("favourite")
    assert make() is not make()
    assert picks(make) == picks(Favourite)
    assert "favourite" in contenders()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody", "one of round_robin, .*, or module:object"),
        ("no.such.module:Strategy", "ModuleNotFoundError"),
        (f"{__name__}:Nobody", "AttributeError"),
        (":", "ValueError"),
        (f"{__name__}:make_with", "TypeError"),
        (f"{__name__}:NO_STRATEGY", "build"),
        ("math:pi", "build"),
        (f"{__name__}:dict", "AttributeError"),
    ],
)
def test_what_names_no_strategy_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        contender(name)
    assert refused.value.field == "strategy"
    assert name in refused.value.value


def test_a_built_in_strategy_is_new_for_each_client() -> None:
    make = contender("round_robin")
    assert make() is not make()
    assert isinstance(make(), RoundRobin)


def test_all_strategies_but_those_with_keys_compete() -> None:
    assert {"round_robin", "power_of_two"} <= set(contenders()) <= set(available())
