"""TLS and mutual TLS, what stands in their way, and plaintext where there must be none. In both rooms."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import grpc
import grpc.experimental
import pytest

import grpcpool
from grpcpool import ConfigError, Endpoint, NotConnected, PoolConfig, PoolTimeout, events
from grpcpool.testing import ECHO, ServerProcess

from ..certificates import Certificates, Pair, make_certificates

pytestmark = pytest.mark.integration

TARGET = "localhost:50051"
SECRET = "s3cret-t0ken"
UNARY = f"{ECHO}Unary"
# How much later than its timeout a wait may end on a busy machine.
LATE = 10.0
QUICK: dict[str, Any] = {"size": 2, "backoff_min": 0.1, "backoff_max": 0.5, "connect_timeout": 5.0}

ROOMS = pytest.mark.parametrize("room", [grpcpool, grpcpool.aio], ids=["sync", "aio"])


async def do(function: Any, *arguments: Any, **named: Any) -> Any:
    """Call what blocks in the sync room, in a thread of its own, and what is awaited in the aio one."""
    if function.__module__.startswith("grpcpool.aio"):
        return await function(*arguments, **named)
    return await asyncio.to_thread(function, *arguments, **named)


def both(spec: Callable[..., Awaitable[None]]) -> Any:
    """Make one coroutine function a test of the sync and of the aio pool."""

    @ROOMS
    @functools.wraps(spec)
    def test(**fixtures: Any) -> None:
        asyncio.run(spec(**fixtures))  # type: ignore[arg-type]

    return test


@asynccontextmanager
async def closing(pool: Any) -> AsyncIterator[Any]:
    try:
        yield pool
    finally:
        await do(pool.close)


async def echo(pool: Any) -> None:
    assert await do(pool.unary_unary(UNARY), b"x", timeout=60) == b"x"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def servers(certificates: Certificates) -> Iterator[Callable[[str], str]]:
    """Return the target of a server by its kind; each is started when it is first asked for."""
    arguments: dict[str, dict[str, Any]] = {
        "plaintext": {},
        "tls": certificates.server.as_server(),
        "expired": certificates.expired.as_server(),
        "wrong host": certificates.wrong_host.as_server(),
        "mutual": {**certificates.server.as_server(), "client_ca": certificates.ca},
    }
    running: dict[str, ServerProcess] = {}

    def target(kind: str) -> str:
        if kind not in running:
            running[kind] = ServerProcess(**arguments[kind]).start()
        return running[kind].target

    yield target
    for process in running.values():
        process.kill()


# --- what works


@both
async def test_tls(room: ModuleType, servers: Any, certificates: Certificates) -> None:
    async with closing(room.secure_channel(servers("tls"), certificates.channel_credentials(), **QUICK)) as pool:
        await do(pool.wait_ready, min_ready=2)
        await echo(pool)
        assert await do(pool.scale_up, 1) == 3
        assert isinstance(pool.get_channel(), grpc.aio.Channel if room is grpcpool.aio else grpc.Channel)


@both
@pytest.mark.parametrize("way", ["credentials", "production", "from_env", "from_file"])
async def test_mutual_tls(
    room: ModuleType,
    way: str,
    servers: Any,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    target, pair = servers("mutual"), certificates.client
    files = {"ca_file": certificates.ca, "cert_file": pair.certificate, "key_file": pair.key}
    host, _, port = target.rpartition(":")
    if way == "credentials":
        config = PoolConfig(target=target, credentials=certificates.channel_credentials(pair), size=2)
    elif way == "production":
        config = PoolConfig.production(host=host, port=int(port), size=2, **files)  # type: ignore[arg-type]
    elif way == "from_env":
        for name, value in {"target": target, "size": 2, **files}.items():
            monkeypatch.setenv(f"MUTUAL_{name.upper()}", str(value))
        config = PoolConfig.from_env("MUTUAL_")
    else:
        path = tmp_path_factory.mktemp("settings") / "pool.toml"
        lines = [f'{name} = "{value}"' for name, value in {"target": target, **files}.items()]
        path.write_text("\n".join(["[billing]", "size = 2", *lines]))
        config = PoolConfig.from_file(path, "billing")

    async with closing(room.ChannelPool(config)) as pool:
        await do(pool.wait_ready, min_ready=2)
        await echo(pool)
        shown = f"{config!r} {pool!r} {pool.config!r}"
        assert not any(line in shown for line in pair.key.read_text().splitlines()[1:-1])


@both
async def test_a_credentials_factory_is_called_once_for_each_member(
    room: ModuleType, servers: Any, certificates: Certificates
) -> None:
    made: list[grpc.ChannelCredentials] = []

    def factory() -> grpc.ChannelCredentials:
        made.append(certificates.channel_credentials())
        return made[-1]

    async with closing(room.secure_channel(servers("tls"), factory, **{**QUICK, "size": 3})) as pool:
        assert made == []
        await do(pool.wait_ready, min_ready=3)
        await echo(pool)
        assert len(made) == 3
        await do(pool.scale_up, 2)
        assert len(made) == 5
        await do(pool.scale_down, 4)
        await echo(pool)
        assert len(made) == 5


@both
async def test_a_member_that_is_rebuilt_gets_renewed_credentials(
    room: ModuleType, servers: Any, certificates: Certificates
) -> None:
    ready = [grpc.ssl_channel_credentials(), certificates.channel_credentials()]

    # The first ones trust somebody else; those after them are right.
    def factory() -> grpc.ChannelCredentials:
        return ready.pop(0) if len(ready) > 1 else ready[0]

    options = {**QUICK, "size": 1, "max_reconnect_attempts": 2}
    seen: list[events.Event] = []
    async with closing(room.secure_channel(servers("tls"), factory, listeners=seen.append, **options)) as pool:
        await do(pool.wait_ready, 10.0)
        await echo(pool)
        assert [event.attempts for event in seen if isinstance(event, events.Rebuilt)] == [2]


# --- what stands in the way


@both
@pytest.mark.parametrize(
    ("server", "client", "error"),
    [
        ("plaintext", "trusting", "WRONG_VERSION_NUMBER"),
        ("tls", "plaintext", "Socket closed|Connection reset"),
        ("expired", "trusting", "certificate has expired"),
        ("wrong host", "trusting", "Hostname Verification"),
        ("tls", "of the world", "CERTIFICATE_VERIFY_FAILED"),
        ("mutual", "trusting", "Socket closed|Connection reset|[Cc]ertificate"),
        ("mutual", "stranger", "Socket closed|Connection reset|[Cc]ertificate"),
    ],
)
async def test_no_handshake(
    room: ModuleType, servers: Any, certificates: Certificates, server: str, client: str, error: str
) -> None:
    target = servers(server)
    pairs: dict[str, Pair | None] = {"trusting": None, "stranger": certificates.stranger}
    if client == "plaintext":
        pool = room.insecure_channel(target, **QUICK)
    elif client == "of the world":
        pool = room.secure_channel(target, grpc.ssl_channel_credentials(), **QUICK)
    else:
        pool = room.secure_channel(target, certificates.channel_credentials(pairs[client]), **QUICK)

    async with closing(pool):
        await do(pool.open)
        while not pool.stats().connect_failures:  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.01)
        started = time.monotonic()
        with pytest.raises(PoolTimeout, match=rf"(?s)last connection error: .*({error})") as caught:
            await do(pool.wait_ready, 1.5)
        assert 1.5 <= time.monotonic() - started < 1.5 + LATE
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(NotConnected, match=error):
            pool.get_channel()
        with pytest.raises(grpc.RpcError) as failed:
            await echo(pool)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert type(failed.value).__module__.startswith("grpc.")


@both
async def test_a_factory_that_fails_is_a_failed_attempt_and_its_words_are_not_repeated(
    room: ModuleType, servers: Any, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[events.Event] = []
    calls: list[None] = []

    def factory() -> grpc.ChannelCredentials:
        calls.append(None)
        if len(calls) <= 2:
            # What a library for secrets may say: its own words are not ours to judge, so they must not be passed on.
            raise RuntimeError(f"refused the key {SECRET}")
        return certificates.channel_credentials()

    # Long enough to fail an RPC before the next attempt.
    options = {**QUICK, "backoff_min": 1.0, "backoff_max": 1.0}
    async with closing(room.secure_channel(servers("tls"), factory, listeners=seen.append, **options)) as pool:
        with pytest.raises(grpc.RpcError) as failed:
            await echo(pool)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert isinstance(failed.value, NotConnected)
        await do(pool.wait_ready, 10.0, min_ready=2)
        await echo(pool)
    errors = [event.error for event in seen if isinstance(event, events.ConnectFailed)]
    assert len(errors) == 2
    assert all("RuntimeError" in error for error in errors)
    assert SECRET not in f"{failed.value} {seen}"
    assert SECRET not in caplog.text


@both
@pytest.mark.parametrize("returned", [None, "insecure"])
async def test_a_factory_never_gets_plaintext_where_tls_was_asked_for(
    room: ModuleType, servers: Any, returned: str | None
) -> None:
    credentials = grpc.experimental.insecure_channel_credentials() if returned else None
    host, _, port = servers("plaintext").rpartition(":")
    fields: dict[str, Any] = {"credentials": lambda: credentials, **QUICK}

    for pool in (
        room.ChannelPool(PoolConfig.production(host=host, port=int(port), **fields)),
        room.secure_channel(servers("plaintext"), fields.pop("credentials"), **fields),
    ):
        async with closing(pool):
            with pytest.raises(PoolTimeout, match=r"plaintext|could not be made"):
                await do(pool.wait_ready, 0.5)
            assert pool.stats().connects == 0


# --- plaintext in production

PLAINTEXT = {
    "none": None,
    "grpc's insecure ones": grpc.experimental.insecure_channel_credentials(),
    "insecure ones in a composite": grpc.composite_channel_credentials(
        grpc.experimental.insecure_channel_credentials(), grpc.access_token_call_credentials(SECRET)
    ),
    "insecure ones behind xds": grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials()),
    "local ones": grpc.local_channel_credentials(),
}


@pytest.mark.parametrize("credentials", PLAINTEXT.values(), ids=PLAINTEXT.keys())
def test_production_refuses_plaintext_in_any_disguise(credentials: Any) -> None:
    for make in (
        lambda: PoolConfig.production(host="db", credentials=credentials),
        lambda: PoolConfig.production(host="db", credentials=credentials, require_tls=False),
        lambda: PoolConfig(target=TARGET, credentials=credentials, require_tls=True),
        lambda: dataclasses.replace(PoolConfig.production(host="db"), credentials=credentials),
    ):
        with pytest.raises(ConfigError, match="credentials") as caught:
            make()
        assert SECRET not in str(caught.value)


def test_production_is_tls_whatever_else_is_asked_for() -> None:
    made = PoolConfig.production(host="db", require_tls=False)

    assert made.require_tls
    assert isinstance(made.credentials, grpc.ChannelCredentials)
    assert made.endpoints == (Endpoint("db:443"),)


@ROOMS
def test_insecure_channels_cannot_require_tls(room: ModuleType) -> None:
    with pytest.raises(ConfigError, match="credentials"):
        room.insecure_channel(TARGET, require_tls=True)


def test_the_target_of_production_is_its_host() -> None:
    with pytest.raises(TypeError, match="target"):
        PoolConfig.production(host="db", target="elsewhere:80")
