"""A pool's log; and never a secret in that, in events, or in errors."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool import ConfigError, ConfigTypeError, PoolConfig, events
from grpcpool.telemetry.logging import writer
from grpcpool.testing import ServerProcess

from ..certificates import make_certificates
from .helpers import QUICK, UNARY, Recorder

pytestmark = pytest.mark.integration

TARGET = "localhost:50051"
SECRET = "s3cret-t0ken"

# --- the log


def test_state_transitions_are_logged_and_nothing_else(
    own_server: ServerProcess, pool_of: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "grpcpool")
    pool = pool_of(own_server.target, size=1, telemetry_interval=0.05, ping_interval=1.0, listeners=recorder)
    pool.wait_ready()
    for _ in range(20):
        pool.unary_unary(UNARY)(b"x")
    pool.resize(2)
    pool.resize(1)
    recorder.wait(events.StatusReport)
    # No ping is on its way when the server goes: what that came to would be told as well.
    recorder.wait(events.Pinged, len(recorder.of(events.Pinged)) + 1)
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
        " left the picks",
        " closed after",
    )
    levels = {" down: ": "WARNING", " cannot connect": "WARNING", " left the picks": "DEBUG"}
    for words in expected:
        level = levels.get(words, "INFO")
        assert [entry for entry in said if words in entry[1] and entry[0] == level], words
    assert [entry for entry in said if not any(words in entry[1] for words in expected)] == []
    assert len([entry for entry in said if " connected" in entry[1]]) == 2


def test_failed_attempts_need_not_be_logged(
    dead: str, pool_of: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    pool_of(dead, log_connection_errors=False, listeners=recorder).open()
    recorder.wait(events.ConnectFailed, 4)

    assert "cannot connect" not in caplog.text


MEMBER: dict[str, Any] = {"pool": "p", "member": 3, "endpoint": "a:1"}
SCALING: dict[str, Any] = {"pool": "p", "duration": 0.25, "requested": 2, "failed": 1, "succeeded": 1}


@pytest.mark.parametrize(
    ("event", "level", "words"),
    [
        (
            events.Saturated(pool="p", size=2, in_flight=18, waiting=5),
            "WARNING",
            "pool 'p' is full: 18 RPCs run on 2 members, and 5 wait",
        ),
        (
            events.PrimerFailed(**MEMBER, error="the primer raised KeyError", attempt=2),
            "WARNING",
            "pool 'p': member 3 to a:1 is not ready, attempt 2: the primer raised KeyError",
        ),
        (
            events.Recycled(**MEMBER, replacement=7, age=61.5, reason="it was old"),
            "INFO",
            "pool 'p': member 3 to a:1 replaced by member 7 at the age of 61.500 s: it was old",
        ),
        (
            events.Rebuilt(**MEMBER, replacement=7, attempts=5),
            "WARNING",
            "pool 'p': member 3 to a:1 replaced by member 7 after 5 failed attempts",
        ),
        (
            events.Rebuilt(**MEMBER, replacement=7, attempts=0),
            "WARNING",
            "pool 'p': member 3 to a:1 replaced by member 7",
        ),
        (
            events.Drained(**MEMBER, duration=0.5, cancelled=0, reason="it was old"),
            "DEBUG",
            "pool 'p': member 3 to a:1 closed 0.500 s after it left the picks: it was old",
        ),
        (
            events.Drained(**MEMBER, duration=0.5, cancelled=4, reason="it was old"),
            "WARNING",
            "pool 'p': member 3 to a:1 closed 0.500 s after it left the picks: it was old; cancelled 4 RPCs",
        ),
        (
            events.ScaledUp(**SCALING, new_size=3, reason="100 RPCs run"),
            "INFO",
            "pool 'p' resized to 3 members in 0.250 s (1 of 2): 100 RPCs run",
        ),
        (
            events.Ejected(**MEMBER, duration=5.25, attempt=2, reason="5 RPCs in a row failed"),
            "WARNING",
            "pool 'p': member 3 to a:1 ejected for 5.250 s (2 in a row): 5 RPCs in a row failed",
        ),
        (
            events.Spared(**MEMBER, reason="it fails; but it is the last"),
            "WARNING",
            "pool 'p': member 3 to a:1 not ejected: it fails; but it is the last",
        ),
        (
            events.Probing(**MEMBER, reason="its time is over"),
            "INFO",
            "pool 'p': member 3 to a:1 is tried with one RPC: its time is over",
        ),
        (
            events.Readmitted(**MEMBER, duration=5.5, reason="an RPC was answered"),
            "INFO",
            "pool 'p': member 3 to a:1 is back after 5.500 s: an RPC was answered",
        ),
        (
            events.NotServing(**MEMBER, reason="NOT_SERVING"),
            "WARNING",
            "pool 'p': member 3 to a:1 does not serve: NOT_SERVING",
        ),
        (events.Serving(**MEMBER), "INFO", "pool 'p': member 3 to a:1 serves again"),
        (
            events.PoolFailing(pool="p", failing=3, connected=4, reason="5 RPCs in a row failed"),
            "WARNING",
            "pool 'p' fails as a whole (3 of 4 members), so nobody is ejected: 5 RPCs in a row failed",
        ),
        (events.PoolRecovered(pool="p", duration=1.5), "INFO", "pool 'p' answers again after 1.500 s"),
        (
            events.Panicked(pool="p", usable=1, size=4),
            "WARNING",
            "pool 'p' has 1 usable members of 4: those that were taken out are used again",
        ),
        (
            events.PanicEnded(pool="p", duration=1.5),
            "INFO",
            "pool 'p' has enough usable members again after 1.500 s",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, events.Event) else None,
)
def test_what_the_log_says_of_load_age_replacement_and_health(
    event: events.Event, level: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "grpcpool")

    writer(log_connection_errors=False)(event)

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [(level, words)]


def test_rpcs_that_a_full_pool_and_a_drain_affect_are_logged(
    server: ServerProcess, pool_of: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_of(
        server.target, size=2, max_concurrent_streams=1, max_waiting=1, drain_timeout=0.05, listeners=recorder
    )
    pool.wait_ready(min_ready=2)
    call = pool.unary_unary(UNARY)
    running = [call.future(b"x", metadata=[("delay", "30")]) for _ in range(2)]
    with pytest.raises(grpcpool.PoolTimeout):
        call(b"x", timeout=0.01)
    recorder.wait(events.Saturated)
    assert pool.stats().in_flight == len(running)
    pool.scale_down(1)
    recorder.wait(events.Drained)

    assert [one.cancelled for one in recorder.of(events.Drained)] == [1]
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text for text in said if " is full: 2 RPCs run on 2 members" in text]
    assert [text for text in said if "; cancelled 1 RPCs" in text]


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
