"""What a pool tells: each event at its time, to every listener; its log; and never a secret in either."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

import grpcpool
from grpcpool import ConfigError, ConfigTypeError, PoolConfig, events
from grpcpool.testing import ECHO, ServerProcess

from ..certificates import make_certificates

pytestmark = pytest.mark.integration

TARGET = "localhost:50051"
SECRET = "s3cret-t0ken"
UNARY = f"{ECHO}Unary"
QUICK: dict[str, Any] = {"size": 2, "backoff_min": 0.1, "backoff_max": 0.2, "connect_timeout": 5.0}
# How much later than due something may happen on a busy machine.
LATE = 1.0

E = TypeVar("E", bound=events.Event)


class Recorder:
    """A listener that keeps what it is told, and can be waited for."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []
        self.times: list[float] = []
        self._told = threading.Condition()

    def __call__(self, event: events.Event) -> None:
        with self._told:
            self.events.append(event)
            self.times.append(time.monotonic())
            self._told.notify_all()

    def of(self, kind: type[E], **fields: object) -> list[E]:
        wanted = fields.items()
        found = [event for event in self.events if isinstance(event, kind)]
        return [event for event in found if all(getattr(event, field) == value for field, value in wanted)]

    def wait(self, kind: type[E], count: int = 1, timeout: float = 15.0, **fields: object) -> list[E]:
        """Return the events of this kind as soon as there are `count` of them."""
        with self._told:
            came = self._told.wait_for(lambda: len(self.of(kind, **fields)) >= count, timeout)
        assert came, f"{len(self.of(kind, **fields))} of {count} {kind.__name__}: {self.events}"
        return self.of(kind, **fields)

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as process:
        yield process


@pytest.fixture
def own_server() -> Iterator[ServerProcess]:
    """A server to be killed or frozen."""
    with ServerProcess() as process:
        yield process


@pytest.fixture
def dead() -> Iterator[str]:
    """A target where nobody listens, nor will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def pool_of() -> Iterator[Callable[..., grpcpool.ChannelPool]]:
    made: list[grpcpool.ChannelPool] = []

    def make(target: Any, **options: Any) -> grpcpool.ChannelPool:
        made.append(grpcpool.insecure_channel(target, **{**QUICK, **options}))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


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
    assert all("Connection refused" in event.error and 0 <= event.duration < 5 for event in failed)
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
        assert 0.2 <= gone.uptime < 10
    assert pool.stats().disconnects == 2
    assert not recorder.of(events.MaintenanceFailed)


# --- pings


def test_an_idle_member_is_pinged_and_one_that_does_not_answer_reconnects(
    recorder: Recorder, own_server: ServerProcess, pool_of: Any
) -> None:
    pool = pool_of(own_server.target, size=1, ping_interval=0.1, ping_timeout=0.4, listeners=recorder)
    pool.wait_ready()
    alive = recorder.wait(events.Pinged, 3, result="alive")
    assert all(0 < event.duration < 0.4 and event.detail == "" for event in alive)

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
    assert pool.unary_unary(UNARY)(b"x", timeout=5) == b"x"


def test_a_member_at_work_is_not_pinged(recorder: Recorder, server: ServerProcess, pool_of: Any) -> None:
    pool = pool_of(server.target, size=1, ping_interval=0.1, listeners=recorder)
    pool.wait_ready()
    recorder.wait(events.Pinged)
    call = pool.unary_unary(UNARY).future(b"x", metadata=[("delay", "1.0")])
    before = time.monotonic()
    call.result()
    after = time.monotonic()
    pool.close()

    pings = [at for at, event in zip(recorder.times, recorder.events, strict=True) if type(event) is events.Pinged]
    # One may have been on its way when the call began.
    assert len([at for at in pings if before + 0.3 < at < after]) == 0


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
    pool.wait_ready()
    reports = recorder.wait(events.StatusReport, 4)

    assert (reports[-1].expected, reports[-1].current, reports[-1].status) == (2, 1, "degraded")
    times = [at for at, event in zip(recorder.times, recorder.events, strict=True) if event in reports]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(0.15 <= gap < 0.2 + LATE for gap in gaps)


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

    assert recorder.kinds() == ["Picked"]


# --- the log


def test_state_transitions_are_logged_and_nothing_else(
    own_server: ServerProcess, pool_of: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "grpcpool")
    pool = pool_of(own_server.target, size=1, telemetry_interval=0.05, ping_interval=0.05, listeners=recorder)
    pool.wait_ready()
    for _ in range(20):
        pool.unary_unary(UNARY)(b"x")
    pool.resize(2)
    pool.resize(1)
    recorder.wait(events.Pinged)
    recorder.wait(events.StatusReport)
    own_server.kill()
    recorder.wait(events.ReconnectScheduled)
    pool.close()

    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "grpcpool"]
    expected = (
        " opened",
        " connected after",
        " resized to 2",
        " resized to 1",
        " down: ",
        " cannot connect",
        " closed",
    )
    for words in expected:
        level = "WARNING" if words in (" down: ", " cannot connect") else "INFO"
        assert [entry for entry in said if words in entry[1] and entry[0] == level], words
    assert [entry for entry in said if not any(words in entry[1] for words in expected)] == []
    assert len([entry for entry in said if " connected" in entry[1]]) == 2


def test_failed_attempts_need_not_be_logged(
    dead: str, pool_of: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    pool_of(dead, log_connection_errors=False, listeners=recorder).open()
    recorder.wait(events.ConnectFailed, 4)

    assert "cannot connect" not in caplog.text


# --- secrets


@dataclasses.dataclass
class Signer(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """An interceptor whose repr would give its token away, as that of any data class does."""

    token: str

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(client_call_details, request)


def test_no_secret_is_ever_shown() -> None:
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(), grpc.access_token_call_credentials(SECRET)
    )
    made = PoolConfig(
        target=TARGET,
        credentials=credentials,
        options=[("grpc.primary_user_agent", SECRET)],
        interceptors=[Signer(SECRET)],
        listeners=[functools.partial(print, SECRET)],
    )

    for text in (repr(made), str(made), f"{made}", repr(grpcpool.ChannelPool(made)), repr([made])):
        assert SECRET not in text
    assert "credentials=<hidden>" in repr(made)
    assert "grpc.primary_user_agent" in repr(made)


@pytest.mark.parametrize(
    "fields",
    [
        {"credentials": SECRET},
        {"credentials": SECRET.encode()},
        {"options": SECRET},
        {"options": [(SECRET,)]},
        {"options": [("grpc.x", [SECRET])]},
        {"options": [("grpc.x", SECRET + "\ud800")]},
        {"options": [("grpc.x", SECRET), 5]},
        {"options": [("grpc.use_local_subchannel_pool", SECRET)]},
    ],
    ids=str,
)
def test_an_error_about_what_may_be_secret_does_not_quote_it(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        PoolConfig(**{"target": TARGET, **fields})
    assert SECRET not in f"{caught.value!s} {caught.value!r} {caught.value.args}"


def test_an_interceptor_of_the_wrong_room_is_refused_without_its_fields() -> None:
    with pytest.raises(ConfigTypeError, match="interceptors") as caught:
        grpcpool.aio.insecure_channel(TARGET, interceptors=[Signer(SECRET)])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("aio", [False, True], ids=["sync", "aio"])
def test_no_secret_is_told_or_logged_in_a_whole_session(
    recorder: Recorder, aio: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    certificates = make_certificates(tmp_path)
    credentials = grpc.composite_channel_credentials(
        certificates.channel_credentials(certificates.client), grpc.access_token_call_credentials(SECRET)
    )
    process = ServerProcess(**certificates.server.as_server(), client_ca=certificates.ca)
    said: list[object] = []
    options: dict[str, Any] = {**QUICK, "ping_interval": 0.1, "telemetry_interval": 0.1, "listeners": recorder}
    token = [("authorization-token", SECRET)]

    def session() -> None:
        with grpcpool.secure_channel(process.target, credentials, **options) as pool:
            pool.wait_ready(min_ready=2)
            pool.unary_unary(UNARY)(b"x", metadata=token)
            with pytest.raises(grpc.RpcError) as refused:
                pool.unary_unary(UNARY)(b"x", metadata=[*token, ("code", "PERMISSION_DENIED")])
            recorder.wait(events.Pinged)
            process.kill()
            recorder.wait(events.ReconnectScheduled)
            with pytest.raises(grpc.RpcError) as lost:
                pool.unary_unary(UNARY)(b"x", metadata=token)
            with pytest.raises(grpcpool.PoolTimeout) as late:
                pool.wait_ready(0.1)
            said.extend([refused.value, lost.value, late.value, pool, pool.config, pool.stats(), pool.status()])

    async def session_aio() -> None:
        async with grpcpool.aio.secure_channel(process.target, credentials, **options) as pool:
            await pool.wait_ready(min_ready=2)
            await pool.unary_unary(UNARY)(b"x", metadata=token)
            with pytest.raises(grpc.RpcError) as refused:
                await pool.unary_unary(UNARY)(b"x", metadata=[*token, ("code", "PERMISSION_DENIED")])
            await asyncio.to_thread(recorder.wait, events.Pinged)
            process.kill()
            await asyncio.to_thread(recorder.wait, events.ReconnectScheduled)
            with pytest.raises(grpc.RpcError) as lost:
                await pool.unary_unary(UNARY)(b"x", metadata=token)
            with pytest.raises(grpcpool.PoolTimeout) as late:
                await pool.wait_ready(0.1)
            said.extend([refused.value, lost.value, late.value, pool, pool.config, pool.stats(), pool.status()])

    with process:
        if aio:
            asyncio.run(session_aio())
        else:
            session()

    key = certificates.client.key.read_text().splitlines()[1]
    assert recorder.of(events.Closed)
    for text in (repr(recorder.events), caplog.text, " ".join(f"{one} {one!r}" for one in said)):
        assert SECRET not in text
        assert key not in text


class Refuser(grpc.AuthMetadataPlugin):  # type: ignore[misc]
    """Gives no token, and says more than it should about it."""

    def __call__(self, context: Any, callback: Any) -> None:
        callback((), RuntimeError(f"the token {SECRET} has expired"))


def test_call_credentials_that_fail_are_no_reason_to_reconnect_and_are_not_quoted(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = make_certificates(tmp_path)
    credentials = grpc.composite_channel_credentials(
        certificates.channel_credentials(), grpc.metadata_call_credentials(Refuser())
    )
    options: dict[str, Any] = {**QUICK, "size": 1, "ping_interval": 0.1, "telemetry_interval": 0.2}
    with (
        ServerProcess(**certificates.server.as_server()) as process,
        grpcpool.secure_channel(process.target, credentials, listeners=recorder, **options) as pool,
    ):
        pool.wait_ready()
        recorder.wait(events.StatusReport, 3)
        assert recorder.of(events.Disconnected) == []

    assert SECRET not in repr(recorder.events)
    assert SECRET not in " ".join(record.getMessage() for record in caplog.records if record.name == "grpcpool")


@dataclasses.dataclass
class Forwarder:
    """A listener whose repr would give its token away."""

    token: str

    def __call__(self, event: events.Event) -> None:
        raise RuntimeError("the collector is not there")


def test_a_listener_that_raises_is_logged_without_its_fields(
    server: ServerProcess, pool_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_of(server.target, listeners=[Forwarder(SECRET)])
    pool.wait_ready()

    assert pool.stats().listener_errors > 0
    assert "Forwarder" in caplog.text
    assert SECRET not in caplog.text
