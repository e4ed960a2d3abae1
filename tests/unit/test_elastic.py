"""How many members the load asks for, reading by reading; and which options about it go together."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcpool import ConfigError, PoolConfig
from grpcpool.core.elastic import Elasticity
from grpcpool.elastic import HIGH, LOW, STREAMS, band_of

INTERVAL = 5.0
# Between two readings, in seconds.
PACE = 0.5


class Load:
    """A pool that has no members but a size, and whose members carry any load: what `judge` says is done at once."""

    def __init__(
        self, low: float = 20, high: float = 80, *, size: int = 1, least: int = 1, most: int = 16, pace: float = PACE
    ) -> None:
        self.elasticity = Elasticity(low, high, INTERVAL)
        self.now = 100.0
        self.size, self.least, self.most = size, least, most
        self.pace = pace
        self.sizes: list[int] = []
        self.reasons: list[str] = []

    def read(self, in_flight: int, waiting: int = 0) -> int:
        """Take one reading and return the size afterwards."""
        verdict = self.elasticity.judge(
            self.now, size=self.size, least=self.least, most=self.most, in_flight=in_flight, waiting=waiting
        )
        if verdict is not None:
            self.size, reason = verdict
            self.sizes.append(self.size)
            self.reasons.append(reason)
        self.now += self.pace
        return self.size

    def keep(self, in_flight: int, seconds: float, waiting: int = 0) -> int:
        """Take readings of the same load for so long, and return the size afterwards."""
        for _ in range(math.ceil(seconds / self.pace)):
            self.read(in_flight, waiting)
        return self.size


# --- growing


def test_within_the_band_nothing_changes_and_its_edges_belong_to_it() -> None:
    load = Load(size=4)
    for in_flight in (80, 200, 320):
        load.keep(in_flight, 4 * INTERVAL)
    assert load.sizes == []


def test_above_the_band_it_grows_at_the_first_reading_to_the_middle_of_the_band() -> None:
    load = Load(size=4)
    assert load.read(321) == 7
    assert load.reasons == ["321 RPCs run on 4 members, and 80 on each are enough"]
    assert 20 < 321 / 7 < 50


def test_whoever_waits_makes_it_grow_even_within_the_band() -> None:
    load = Load(size=4)
    assert load.read(100, waiting=1) == 5
    assert load.reasons == ["1 RPCs wait and 100 run on 4 members, and 80 on each are enough"]


def test_those_who_wait_count_as_load() -> None:
    assert Load(size=4).read(100, waiting=200) == 6


def test_it_doubles_at_most() -> None:
    load = Load(most=100)
    assert [load.read(5000) for _ in range(5)] == [2, 4, 8, 16, 32]


def test_it_never_grows_beyond_its_bound() -> None:
    load = Load(size=10, most=13)
    assert load.keep(5000, 1, waiting=500) == 13
    assert load.sizes == [13]


def test_after_a_growth_that_failed_it_waits_for_a_while() -> None:
    load = Load()
    load.elasticity.pause(load.now + 1)
    assert [load.read(500, waiting=3) for _ in range(4)] == [1, 1, 2, 4]


# --- shrinking


def test_it_shrinks_only_after_a_whole_interval_of_low_readings() -> None:
    load = Load(size=8)
    assert load.keep(8, INTERVAL) == 8
    assert load.read(8) == 6
    assert load.reasons == ["no more than 8 RPCs ran on 8 members for 5 s"]


def test_each_step_down_takes_an_interval_of_its_own() -> None:
    load = Load(size=8)
    before = load.now
    times = []
    while load.size > 1:
        if load.read(0) < (times[-1][1] if times else 8):
            times.append((load.now - PACE - before, load.size))
    assert [size for _, size in times] == [6, 5, 4, 3, 2, 1]
    assert [time for time, _ in times] == [5.0, 10.5, 16.0, 21.5, 27.0, 32.5]


def test_one_reading_that_is_not_low_starts_the_interval_anew() -> None:
    load = Load(size=8)
    load.keep(8, INTERVAL)
    load.read(160)
    assert load.keep(8, INTERVAL) == 8
    assert load.read(8) == 6


def test_the_highest_of_the_low_readings_counts() -> None:
    load = Load(size=8)
    load.read(8)
    # With what ran then, seven members are at the middle of the band, and six would be above it.
    load.elasticity.low, load.elasticity.high = 40, 60
    load.read(310)
    load.keep(8, INTERVAL - 2 * PACE)
    assert load.size == 8
    assert load.read(8) == 7


def test_a_quarter_of_the_members_leave_at_most_and_one_at_least() -> None:
    assert Load(size=16).keep(0, INTERVAL + PACE) == 12
    assert Load(size=3).keep(0, INTERVAL + PACE) == 2


def test_it_never_shrinks_below_its_bound() -> None:
    load = Load(size=9, least=8)
    assert load.keep(0, 10 * INTERVAL) == 8
    assert load.sizes == [8]


def test_it_does_not_shrink_while_rpcs_wait_however_low_the_load() -> None:
    load = Load(size=16)
    assert load.keep(10, 10 * INTERVAL, waiting=1) == 16
    assert load.sizes == []


def test_a_low_edge_of_zero_never_shrinks() -> None:
    load = Load(0, 10, size=8)
    assert load.keep(0, 10 * INTERVAL) == 8


def test_what_was_read_before_a_resize_is_forgotten() -> None:
    load = Load(size=8)
    load.keep(8, INTERVAL)
    load.elasticity.forget()
    assert load.keep(8, INTERVAL) == 8
    assert load.read(8) == 6


def test_a_narrow_band_that_no_size_can_meet_settles_above_it_or_below() -> None:
    # One member has too much to do, two have too little.
    load = Load(9, 10)
    assert load.keep(11, 20 * INTERVAL) == 2
    assert load.sizes == [2]


# --- any load


def band(low: float, ratio: float) -> tuple[float, float]:
    return low, low * ratio


loads = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 300)), max_size=60)


@given(
    loads, st.floats(0, 100), st.floats(0.1, 100), st.integers(1, 20), st.integers(0, 20), st.sampled_from([0.1, 1, 9])
)
def test_whatever_the_load_each_step_is_bounded(
    readings: list[tuple[int, int]], low: float, width: float, least: int, room: int, pace: float
) -> None:
    load = Load(low, low + width, size=least, least=least, most=least + room, pace=pace)
    for in_flight, waiting in readings:
        before = load.size
        after = load.read(in_flight, waiting)
        assert least <= after <= least + room
        assert after <= 2 * before
        assert before - after <= max(before // 4, 1)
        if after > before:
            assert waiting or in_flight > load.elasticity.high * before
        if after < before:
            assert not waiting
            # What made it shrink cannot make it grow again.
            assert in_flight <= load.elasticity.high * after
    assert len(load.reasons) == len(load.sizes)


@given(
    level=st.integers(1, 1500),
    noise=st.lists(st.floats(-0.05, 0.05), min_size=40, max_size=40),
    low=st.floats(1, 100),
    ratio=st.floats(1.25, 8),
    size=st.integers(1, 40),
)
def test_under_a_steady_load_with_some_noise_it_settles_and_stays(
    level: int, noise: list[float], low: float, ratio: float, size: int
) -> None:
    load = Load(*band(low, ratio), size=size, most=2000)

    def run(seconds: float) -> None:
        for at in range(int(seconds / PACE)):
            load.read(round(level * (1 + noise[at % len(noise)])))

    run(40 * INTERVAL)
    settled = len(load.sizes)
    run(60)
    assert len(load.sizes) - settled <= 2, load.sizes
    grew = [after > before for before, after in zip([size, *load.sizes], load.sizes, strict=False)]
    # Never down and then up again.
    assert grew == sorted(grew, reverse=True), load.sizes


# --- the options


def config(**fields: Any) -> PoolConfig:
    return PoolConfig(**{"target": "a:1", **fields})


TWO = ["a:1", "b:1"]
NAN = math.nan

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "it could never scale": ("min_size", {"min_size": 2}),
    "a fixed size has another name": ("max_size", {"min_size": 4, "max_size": 4}),
    "the bounds are crossed": ("max_size", {"min_size": 4, "max_size": 3}),
    "nothing to grow to": ("max_size", {"max_size": 1}),
    "nothing to grow to with two targets": ("max_size", {"target": TWO, "max_size": 2}),
    "fewer members than targets": ("min_size", {"target": TWO, "min_size": 1, "max_size": 5}),
    "no members": ("min_size", {"min_size": 0, "max_size": 5}),
    "a bound that is no integer": ("min_size", {"min_size": 1.5, "max_size": 5}),
    "a bound that is text": ("max_size", {"min_size": 1, "max_size": "5"}),
    "a bound that is a flag": ("max_size", {"max_size": True}),
    "two sizes to begin with": ("size", {"size": 3, "min_size": 2, "max_size": 5}),
    "a size beside the highest one": ("size", {"size": 3, "max_size": 5}),
    "a band for a fixed size": ("target_in_flight", {"target_in_flight": (1, 2)}),
    "idleness for a fixed size": ("max_idle", {"size": 3, "max_idle": 5.0}),
    "an empty band": ("target_in_flight", {"max_size": 5, "target_in_flight": (5, 5)}),
    "a band upside down": ("target_in_flight", {"max_size": 5, "target_in_flight": (8, 5)}),
    "a band below zero": ("target_in_flight", {"max_size": 5, "target_in_flight": (-1, 5)}),
    "a band without an end": ("target_in_flight", {"max_size": 5, "target_in_flight": (1, math.inf)}),
    "a band beyond reckoning": ("target_in_flight", {"max_size": 5, "target_in_flight": (1, 10**400)}),
    "a band that is no number": ("target_in_flight", {"max_size": 5, "target_in_flight": (NAN, 5)}),
    "a band with one edge": ("target_in_flight", {"max_size": 5, "target_in_flight": (5,)}),
    "a band that is a list": ("target_in_flight", {"max_size": 5, "target_in_flight": [5, 20]}),
    "a band that is text": ("target_in_flight", {"max_size": 5, "target_in_flight": "5,20"}),
    "a band of text": ("target_in_flight", {"max_size": 5, "target_in_flight": ("5", "20")}),
    "a band of flags": ("target_in_flight", {"max_size": 5, "target_in_flight": (False, True)}),
    "a band that a full member does not pass": (
        "target_in_flight",
        {"max_size": 5, "max_concurrent_streams": 10, "target_in_flight": (5, 10.5)},
    ),
    "a band beside a limit that is none": (
        "max_concurrent_streams",
        {"max_size": 5, "max_concurrent_streams": "10", "target_in_flight": (5, 10)},
    ),
    "no interval": ("scale_down_interval", {"max_size": 5, "scale_down_interval": None}),
    "an interval of nothing": ("scale_down_interval", {"max_size": 5, "scale_down_interval": 0}),
    **{
        f"{field} of {value!r}": (field, {"max_size": 5, field: value})
        for field in ("max_lifetime", "max_idle", "drain_timeout", "primer_timeout")
        for value in (0, -1, NAN, math.inf, "5")
    },
    "no patience with the primer": ("primer_timeout", {"primer_timeout": None}),
    "a primer that cannot be called": ("primer", {"primer": "warm"}),
}


@pytest.mark.parametrize(("field", "fields"), REFUSED.values(), ids=REFUSED.keys())
def test_what_contradicts_itself_is_refused_by_the_options_name(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**fields)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


def test_the_messages_say_what_to_write_instead() -> None:
    with pytest.raises(ConfigError, match="max_size beside it, above it; for a fixed size there is `size`"):
        config(min_size=2)
    with pytest.raises(ConfigError, match="min_size and max_size let it vary"):
        config(max_idle=3.0)
    with pytest.raises(ConfigError, match="with which such a pool begins"):
        config(size=3, min_size=2, max_size=5)
    with pytest.raises(ConfigError, match="with a high of 10 at most, which is max_concurrent_streams"):
        config(max_size=5, max_concurrent_streams=10, target_in_flight=(5, 20))


def test_the_size_is_fixed_unless_it_may_vary() -> None:
    made = config()
    assert (made.min_size, made.max_size, made.member_count) == (None, None, 4)
    assert band_of(made) is None


def test_a_pool_that_may_vary_begins_with_its_least() -> None:
    assert config(min_size=2, max_size=5).member_count == 2
    assert config(max_size=5).member_count == 1
    made = config(target=TWO, max_size=5)
    assert (made.min_size, made.member_count) == (2, 2)
    with pytest.raises(ConfigError, match="None beside min_size"):
        config(size=2, min_size=2, max_size=5)


def test_the_band_is_the_users_or_follows_from_the_limit_of_streams() -> None:
    assert band_of(config(max_size=5)) == (LOW * STREAMS, HIGH * STREAMS) == (20, 80)
    assert band_of(config(max_size=5, max_concurrent_streams=10)) == (2, 8)
    assert band_of(config(max_size=5, target_in_flight=(5, 20))) == (5, 20)
    assert band_of(config(max_size=5, max_concurrent_streams=20, target_in_flight=(0, 20))) == (0, 20)


def test_a_configuration_of_varying_size_can_be_replaced() -> None:
    made = config(min_size=2, max_size=5, target_in_flight=(5, 20))
    assert dataclasses.replace(made) == made
    assert dataclasses.replace(made, max_size=9).max_size == 9
    assert dataclasses.replace(made, min_size=3).member_count == 3
    assert dataclasses.replace(made, target_in_flight=None, max_idle=60.0).max_idle == 60.0
    with pytest.raises(ConfigError, match="max_size"):
        dataclasses.replace(made, max_size=2)
    with pytest.raises(ConfigError, match="target_in_flight"):
        dataclasses.replace(made, min_size=None, max_size=None)


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in list(os.environ):
        if name.upper().startswith("GRPCPOOL_"):
            monkeypatch.delenv(name)

    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"GRPCPOOL_{name}", value)

    return put


WANTED = config(
    min_size=2, max_size=9, target_in_flight=(5, 20), scale_down_interval=3.0, max_lifetime=60.0, max_idle=30.0,
    primer_timeout=2.0, drain_timeout=8.0,
)  # fmt: skip


def test_the_environment_can_say_it_all(env: Any) -> None:
    env(
        TARGET="a:1", MIN_SIZE="2", MAX_SIZE="9", TARGET_IN_FLIGHT="5, 20", SCALE_DOWN_INTERVAL="3", MAX_LIFETIME="60",
        MAX_IDLE="30", PRIMER_TIMEOUT="2", DRAIN_TIMEOUT="8",
    )  # fmt: skip
    assert PoolConfig.from_env() == WANTED


@pytest.mark.parametrize("band", ["[5, 20]", "[5.0, 20.0]"])
def test_a_file_can_say_it_all(tmp_path: Path, band: str) -> None:
    file = tmp_path / "pool.toml"
    file.write_text(
        f'[grpcpool]\ntarget = ["a:1"]\nmin_size = 2\nmax_size = 9\ntarget_in_flight = {band}\n'
        "scale_down_interval = 3\nmax_lifetime = 60\nmax_idle = 30\nprimer_timeout = 2\ndrain_timeout = 8\n"
    )
    assert PoolConfig.from_file(file) == WANTED


@pytest.mark.parametrize("band", ["5", "5,", "5,20,40", "few,many", "20,5", ""])
def test_a_wrong_band_in_the_environment_is_named(env: Any, band: str) -> None:
    env(TARGET="a:1", MAX_SIZE="9", TARGET_IN_FLIGHT=band)
    with pytest.raises(ConfigError, match="GRPCPOOL_TARGET_IN_FLIGHT"):
        PoolConfig.from_env()


@pytest.mark.parametrize("band", ["5", '"5,20"', "[5]", "[20, 5]", '["few", "many"]', "{low = 5}"])
def test_a_wrong_band_in_a_file_is_named(tmp_path: Path, band: str) -> None:
    file = tmp_path / "pool.toml"
    file.write_text(f'[grpcpool]\ntarget = "a:1"\nmax_size = 9\ntarget_in_flight = {band}\n')
    with pytest.raises(ConfigError, match="target_in_flight"):
        PoolConfig.from_file(file)
