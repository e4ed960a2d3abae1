"""What a pool tells: each event at its time, to every listener."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from typing import Any

import pytest

import grpcpool
from grpcpool import events
from grpcpool.testing import ServerProcess

from .helpers import QUICK, UNARY, Recorder

pytestmark = pytest.mark.integration

# How much later than due something may happen on a busy machine.
LATE = 30.0

# --- a life


def live(recorder: Recorder, target: str) -> None:
    with grpcpool.insecure_channel(target, name="billing", listeners=recorder, **QUICK) as pool:
        pool.wait_ready(min_ready=2)
        for _ in range(4):
            pool.unary_unary(UNARY)(b"x")
        pool.scale_up(1)
        pool.scale_down(2)


async def live_aio(recorder: Recorder, target: str) -> None:
    async with grpcpool.aio.insecure_channel(target, name="billing", listeners=recorder, **QUICK) as pool:
        await pool.wait_ready(min_ready=2)
        for _ in range(4):
            await pool.unary_unary(UNARY)(b"x")
        await pool.scale_up(1)
        await pool.scale_down(2)


@pytest.mark.parametrize("aio", [False, True], ids=["sync", "aio"])
def test_the_events_of_a_whole_life(recorder: Recorder, server: ServerProcess, aio: bool) -> None:
    started = time.monotonic()
    if aio:
        asyncio.run(live_aio(recorder, server.target))
    else:
        live(recorder, server.target)
    whole = time.monotonic() - started

    assert recorder.events[0] == events.Opened(pool="billing", size=2, endpoints=(server.target,))
    (closed,) = recorder.of(events.Closed)
    assert recorder.events[-1] is closed
    assert 0 < closed.open_for <= whole
    connected = recorder.of(events.Connected)
    assert [event.member for event in sorted(connected, key=lambda event: event.member)] == [0, 1, 2]
    assert all(0 < event.duration <= whole and event.endpoint == server.target for event in connected)
    assert len(recorder.of(events.Picked)) == 4
    (up,) = recorder.of(events.ScaledUp)
    assert (up.requested, up.succeeded, up.failed, up.new_size) == (1, 1, 0, 3)
    assert 0 < up.duration <= whole
    (down,) = recorder.of(events.ScaledDown)
    assert (down.requested, down.succeeded, down.failed, down.new_size) == (2, 2, 0, 1)
    gone = recorder.of(events.Disconnected)
    assert sorted(event.member for event in gone) == [0, 1, 2]
    assert [("retired" in event.reason, "closed" in event.reason) for event in gone] == [(True, False)] * 2 + [
        (False, True)
    ]
    assert all(0 < event.uptime <= whole for event in gone)
    assert {event.pool for event in recorder.events} == {"billing"}
    # Nothing went wrong, so nothing is said to have.
    wrong = (events.ConnectionDown, events.ConnectFailed, events.Rebuilt, events.StrategyFailed, events.Pinged)
    assert not [event for event in recorder.events if isinstance(event, (*wrong, events.MaintenanceFailed))]
    with pytest.raises(dataclasses.FrozenInstanceError):
        closed.open_for = 0.0  # type: ignore[misc]


def test_closed_comes_after_the_last_rpc(recorder: Recorder, server: ServerProcess, pool_of: Any) -> None:
    pool = pool_of(server.target, listeners=recorder)
    pool.wait_ready()
    call = pool.unary_unary(UNARY).future(b"x", metadata=[("delay", "0.3")])
    pool.close(grace=10.0)

    assert call.result() == b"x"
    assert isinstance(recorder.events[-1], events.Closed)
    assert recorder.of(events.Closed)[0].open_for >= 0.3


def test_a_pool_that_never_opened_says_nothing(recorder: Recorder, server: ServerProcess, pool_of: Any) -> None:
    pool_of(server.target, listeners=recorder).close()

    assert recorder.events == []


# --- connections that fail, break and come back


def test_attempts_that_fail_are_told_and_lead_to_a_fresh_channel(recorder: Recorder, dead: str, pool_of: Any) -> None:
    pool = pool_of(dead, size=1, max_reconnect_attempts=2, listeners=recorder)
    pool.open()
    first, second = recorder.wait(events.Rebuilt, 2)[:2]

    failed = recorder.of(events.ConnectFailed)
    assert all("Connection refused" in event.error and 0 <= event.duration < LATE for event in failed)
    assert [event.member for event in failed[:4]] == [0, 0, 1, 1]
    assert (first.member, first.replacement, first.attempts) == (0, 1, 2)
    assert (second.member, second.replacement, second.attempts) == (1, 2, 4)
    planned = recorder.of(events.ReconnectScheduled)
    assert [event.attempt for event in planned[:2]] == [1, 3]
    assert 0.08 <= planned[0].delay <= 0.12
    assert all(event.delay <= 0.2 and "Connection refused" in event.reason for event in planned)
    assert pool.stats().connect_failures >= 4
    assert not recorder.of(events.Connected)


def test_a_connection_that_breaks_is_told_once_with_its_uptime(
    recorder: Recorder, own_server: ServerProcess, pool_of: Any
) -> None:
    pool = pool_of(own_server.target, listeners=recorder)
    pool.wait_ready(min_ready=2)
    pool.unary_unary(UNARY)(b"x", metadata=[("delay", "0.2")])
    own_server.kill()
    recorder.wait(events.Disconnected, 2)
    recorder.wait(events.ReconnectScheduled, 2)
    own_server.start()
    recorder.wait(events.Connected, 4)

    for member in (0, 1):
        (down,) = recorder.of(events.ConnectionDown, member=member)
        (gone,) = recorder.of(events.Disconnected, member=member)
        assert recorder.events.index(down) < recorder.events.index(gone)
        assert down.reason == gone.reason != ""
        assert 0.2 <= gone.uptime < LATE
    assert pool.stats().disconnects == 2
    assert not recorder.of(events.MaintenanceFailed)


# --- pings


def test_an_idle_member_is_pinged_and_one_that_does_not_answer_reconnects(
    recorder: Recorder, own_server: ServerProcess, pool_of: Any
) -> None:
    pool = pool_of(own_server.target, size=1, ping_interval=0.1, ping_timeout=0.4, listeners=recorder)
    pool.wait_ready()
    alive = recorder.wait(events.Pinged, 3, result="alive")
    assert all(event.duration > 0 and event.detail == "" for event in alive)

    own_server.pause()
    os.waitid(os.P_PID, own_server.pid, os.WSTOPPED)
    (dead,) = recorder.wait(events.Pinged, 1, result="dead")[:1]
    assert 0.4 <= dead.duration < 0.4 + LATE
    assert dead.detail != ""
    (gone,) = recorder.wait(events.Disconnected)
    assert "ping" in gone.reason
    assert recorder.wait(events.Rebuilt)[0].member == dead.member == gone.member
    own_server.resume()
    recorder.wait(events.Connected, 2)
    assert pool.unary_unary(UNARY)(b"x", timeout=60) == b"x"


def test_a_member_at_work_is_not_pinged(recorder: Recorder, server: ServerProcess, pool_of: Any) -> None:
    pool = pool_of(server.target, size=1, ping_interval=0.1, listeners=recorder)
    pool.wait_ready()
    recorder.wait(events.Pinged)
    call = pool.unary_unary(UNARY).future(b"x", metadata=[("delay", "1.0")])
    before = time.monotonic()
    call.result()
    pool.close()

    pings = [at for at, event in zip(recorder.times, recorder.events, strict=True) if type(event) is events.Pinged]
    # One may have been on its way when the call began; and the server held that for a second at least.
    assert len([at for at in pings if before + 0.3 < at < before + 1.0]) == 0


def test_without_an_interval_nobody_is_pinged(recorder: Recorder, server: ServerProcess, pool_of: Any) -> None:
    pool = pool_of(server.target, telemetry_interval=0.1, listeners=recorder)
    pool.wait_ready()
    recorder.wait(events.StatusReport, 5)

    assert not recorder.of(events.Pinged)


# --- picks and reports


@pytest.mark.parametrize(("rate", "told"), [(0, 0), (1, 12), (3, 4), (12, 1), (13, 0)])
def test_picks_are_sampled(recorder: Recorder, server: ServerProcess, pool_of: Any, rate: int, told: int) -> None:
    pool = pool_of(server.target, telemetry_sample_rate=rate, listeners=recorder)
    pool.wait_ready(min_ready=2)
    for _ in range(6):
        pool.unary_unary(UNARY)(b"x")
        pool.get_channel()

    picked = recorder.of(events.Picked)
    assert len(picked) <= told + (rate > 1)
    assert len(picked) >= told - (rate > 1)
    assert {event.endpoint for event in picked} <= {server.target}
    assert pool.stats().calls == 6


def test_sampling_goes_on_when_members_come_and_go(recorder: Recorder, server: ServerProcess, pool_of: Any) -> None:
    pool = pool_of(server.target, telemetry_sample_rate=5, listeners=recorder)
    pool.wait_ready(min_ready=2)
    for size in (3, 2) * 5:
        for _ in range(4):
            pool.get_channel()
        pool.resize(size)

    # About one in five of forty.
    assert 4 <= len(recorder.of(events.Picked)) <= 12


def test_the_state_is_reported_at_intervals(recorder: Recorder, server: ServerProcess, dead: str, pool_of: Any) -> None:
    pool = pool_of([server.target, dead], telemetry_interval=0.2, listeners=recorder)
    before = time.monotonic()
    pool.wait_ready()
    reports = recorder.wait(events.StatusReport, 4)

    assert (reports[-1].expected, reports[-1].current, reports[-1].status) == (2, 1, "degraded")
    times = [at for at, event in zip(recorder.times, recorder.events, strict=True) if event in reports]
    # One that is late is followed by the next all the sooner.
    assert all(0.2 * number <= at - before < 0.2 * number + LATE for number, at in enumerate(times, start=1))


def test_no_interval_no_report(recorder: Recorder, server: ServerProcess, pool_of: Any) -> None:
    pool = pool_of(server.target, telemetry_interval=None, ping_interval=0.1, listeners=recorder)
    pool.wait_ready()
    recorder.wait(events.Pinged, 4)

    assert not recorder.of(events.StatusReport)


# --- listeners


def test_listeners_come_and_go(server: ServerProcess, pool_of: Any) -> None:
    first, second, third = Recorder(), Recorder(), Recorder()
    pool = pool_of(server.target, listeners=[first, second])
    pool.wait_ready(min_ready=2)
    pool.get_channel()
    pool.remove_listener(second)
    pool.remove_listener(second)
    pool.remove_listener(print)
    pool.add_listener(third)
    pool.get_channel()
    pool.remove_listener(third)
    pool.scale_up(1)
    pool.close()

    assert first.kinds().count("Picked") == 2
    assert second.events == first.events[: len(second.events)]
    assert second.kinds().count("Picked") == 1
    assert third.kinds() == ["Picked"]
    assert first.kinds()[-1] == "Closed"


def test_a_pool_without_listeners_gets_one_later(recorder: Recorder, server: ServerProcess, pool_of: Any) -> None:
    pool = pool_of(server.target)
    pool.wait_ready(min_ready=2)
    pool.get_channel()
    pool.add_listener(recorder)
    pool.get_channel()

    # It may be the first to hear that a member has connected: such news comes after the fact.
    assert set(recorder.kinds()) <= {"Connected", "Picked"}
    assert len(recorder.of(events.Picked)) == 1
