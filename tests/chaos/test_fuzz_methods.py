"""The public methods of a pool in any order, from eight threads or tasks at once, while its server comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool.testing import ECHO, FaultServer

from ..integration.waiting import connections, pool_threads, until

pytestmark = pytest.mark.integration

WORKERS, STEPS = 8, 60
DEADLINE = 0.5
LIMIT = 120.0
UNARY, STREAM, CLIENT, BIDI = (f"{ECHO}{kind}" for kind in ("Unary", "ServerStream", "ClientStream", "Bidi"))
# What a method may raise, beside the errors of a call: what its documentation says, and nothing else.
DOCUMENTED = (grpcpool.PoolError, grpc.RpcError, asyncio.CancelledError, grpc.FutureCancelledError)
CONFIGS: list[dict[str, Any]] = [
    {},
    {"max_concurrent_streams": 2, "max_waiting": 3, "acquire_timeout": 0.2, "min_size": 1, "max_size": 5},
    {"max_lifetime": 0.2, "strategy": "adaptive", "idempotent": "*", "retry": grpcpool.Retry(), "hedge_after": 0.01},
]


def options(number: int) -> dict[str, Any]:
    return {"size": None if "min_size" in CONFIGS[number] else 3, "backoff_min": 0.1, "seed": number, **CONFIGS[number]}


class Chaos:
    """What both rooms do at random: counted, and judged in the end."""

    def __init__(self, seed: int, server: FaultServer) -> None:
        self.seed = seed
        self.server = server
        self.steps: list[str] = []
        self.wrong: list[str] = []
        self.listeners: list[Callable[..., object]] = []

    def failed(self, step: str, error: BaseException) -> None:
        if not isinstance(error, DOCUMENTED):
            self.wrong.append(f"seed {self.seed}, {step}: {error!r}")

    def disturb(self, chance: random.Random) -> None:
        """Let something happen to the server."""
        server = self.server
        chance.choice((server.reset, server.goaway, server.heal, lambda: server.slow(0.01), self.fail))()

    def fail(self) -> None:
        self.server.fail(grpc.StatusCode.UNAVAILABLE, fraction=0.3, times=10)

    def over(self, took: float) -> None:
        assert self.wrong == []
        assert took < LIMIT
        assert len(self.steps) == WORKERS * STEPS
        assert len(set(self.steps)) >= 18, "not everything was tried"


def in_any_order(steps: Iterable[str], chance: random.Random) -> list[str]:
    """Return each of them once, and some again."""
    names = sorted(steps)
    return chance.sample(names, len(names)) + chance.choices(names, k=STEPS - len(names))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Nobody complains of us, but the one whose listeners raise."""
    yield
    ours = [record for record in caplog.get_records("call") if record.name.startswith(("grpcpool", "asyncio"))]
    bad = [record.getMessage() for record in ours if record.levelno >= logging.ERROR or record.exc_info]
    assert [text for text in bad if "it is told all the same" not in text] == []


# --- sync


def sync_steps(pool: Any, chaos: Chaos, chance: random.Random) -> dict[str, Callable[[], object]]:
    def listener(event: object) -> None:
        if chance.random() < 0.1:
            raise LookupError("listener")

    def callback(state: object) -> None:
        if chance.random() < 0.1:
            raise LookupError("callback")

    def abandon() -> None:
        next(pool.unary_stream(STREAM)(b"x", timeout=DEADLINE))

    def cancel() -> None:
        pool.stream_stream(BIDI)(iter([b"x"] * 3), timeout=DEADLINE).cancel()

    def member() -> object:
        return pool.get_channel().unary_unary(UNARY)(b"x", timeout=DEADLINE)

    return {
        "open": pool.open,
        "unary": lambda: pool.unary_unary(UNARY)(b"x", timeout=DEADLINE),
        "with_call": lambda: pool.unary_unary(UNARY).with_call(b"x", timeout=DEADLINE),
        "future": lambda: pool.unary_unary(UNARY).future(b"x", timeout=DEADLINE).result(),
        "server stream": lambda: list(pool.unary_stream(STREAM)(b"x", timeout=DEADLINE)),
        "client stream": lambda: pool.stream_unary(CLIENT)(iter([b"x"]), timeout=DEADLINE),
        "bidi": lambda: list(pool.stream_stream(BIDI)(iter([b"x"]), timeout=DEADLINE)),
        "abandon": abandon,
        "cancel": cancel,
        "get_channel": member,
        "resize": lambda: pool.resize(chance.randint(0, 6)),
        "scale_up": lambda: pool.scale_up(chance.randint(1, 2)),
        "scale_down": lambda: pool.scale_down(chance.randint(1, 2)),
        "wait_ready": lambda: pool.wait_ready(chance.choice((0.0, 0.2)), 1),
        "subscribe": lambda: pool.subscribe(chaos.listeners.append(callback) or callback, chance.random() < 0.5),
        "unsubscribe": lambda: pool.unsubscribe(chance.choice(chaos.listeners or [print])),
        "add_listener": lambda: pool.add_listener(chaos.listeners.append(listener) or listener),
        "remove_listener": lambda: pool.remove_listener(chance.choice(chaos.listeners or [print])),
        "stats": pool.stats,
        "status": lambda: (pool.status(), repr(pool)),
        "disturb": lambda: chaos.disturb(chance),
    }


@pytest.mark.parametrize("closes", [False, True], ids=["open", "closed on the way"])
@pytest.mark.parametrize("seed", range(len(CONFIGS)))
def test_eight_threads(seed: int, closes: bool) -> None:
    with FaultServer(seed=seed) as server:
        pool = grpcpool.insecure_channel(server.target, **options(seed))
        chaos = Chaos(seed, server)

        def work(number: int) -> None:
            chance = random.Random(f"{seed} {number}")
            steps = sync_steps(pool, chaos, chance)
            for count, step in enumerate(in_any_order(steps, chance)):
                if closes and number == 0 and count == STEPS // 2:
                    pool.close(chance.choice((None, 0, 0.1)))
                chaos.steps.append(step)
                try:
                    steps[step]()
                except BaseException as error:
                    chaos.failed(step, error)

        def answers() -> bool:
            # Unless a connection has just been reset, and nobody has noticed yet.
            with contextlib.suppress(grpc.RpcError):
                return bool(pool.unary_unary(UNARY)(b"x", timeout=60) == b"x")
            return False

        started = time.monotonic()
        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        chaos.over(time.monotonic() - started)
        if not closes:
            server.heal()
            pool.wait_ready()
            until(lambda: gc.collect() * 0 == pool.stats().in_flight)
            until(answers)
            assert pool.stats().maintenance_errors == 0
        pool.close()
        until(lambda: gc.collect() * 0 == connections(server.port))
        until(lambda: pool_threads() == [])


# --- aio


def aio_steps(pool: Any, chaos: Chaos, chance: random.Random) -> dict[str, Callable[[], Any]]:
    def listener(event: object) -> None:
        if chance.random() < 0.1:
            raise LookupError("listener")

    async def abandon() -> None:
        await pool.unary_stream(STREAM)(b"x", timeout=DEADLINE).read()

    async def cancel() -> None:
        call = pool.stream_stream(BIDI)(iter([b"x"] * 3), timeout=DEADLINE)
        await asyncio.sleep(chance.choice((0, 0.01)))
        call.cancel()

    async def interrupted() -> None:
        await asyncio.wait_for(pool.unary_unary(UNARY)(b"x"), chance.choice((0, 0.001, 0.01)))

    async def all_of(call: Any) -> list[bytes]:
        return [message async for message in call]

    async def change() -> None:
        await asyncio.wait_for(pool.wait_for_state_change(pool.get_state(chance.random() < 0.5)), 0.05)

    async def at_once(function: Callable[[], object]) -> object:
        return function()

    return {
        "open": pool.open,
        "unary": lambda: pool.unary_unary(UNARY)(b"x", timeout=DEADLINE),
        "interrupted": interrupted,
        "server stream": lambda: all_of(pool.unary_stream(STREAM)(b"x", timeout=DEADLINE)),
        "client stream": lambda: pool.stream_unary(CLIENT)(iter([b"x"]), timeout=DEADLINE),
        "bidi": lambda: all_of(pool.stream_stream(BIDI)(iter([b"x"]), timeout=DEADLINE)),
        "abandon": abandon,
        "cancel": cancel,
        "get_channel": lambda: pool.get_channel().unary_unary(UNARY)(b"x", timeout=DEADLINE),
        "resize": lambda: pool.resize(chance.randint(0, 6)),
        "scale_up": lambda: pool.scale_up(chance.randint(1, 2)),
        "scale_down": lambda: pool.scale_down(chance.randint(1, 2)),
        "wait_ready": lambda: pool.wait_ready(chance.choice((0.0, 0.2)), 1),
        "channel_ready": lambda: asyncio.wait_for(pool.channel_ready(), 0.2),
        "change": change,
        "add_listener": lambda: at_once(lambda: pool.add_listener(chaos.listeners.append(listener) or listener)),
        "remove_listener": lambda: at_once(lambda: pool.remove_listener(chance.choice(chaos.listeners or [print]))),
        "stats": lambda: at_once(pool.stats),
        "status": lambda: at_once(lambda: (pool.status(), repr(pool))),
        "disturb": lambda: asyncio.to_thread(chaos.disturb, chance),
    }


@pytest.mark.parametrize("closes", [False, True], ids=["open", "closed on the way"])
@pytest.mark.parametrize("seed", range(len(CONFIGS)))
def test_eight_tasks(seed: int, closes: bool) -> None:
    async def main(server: FaultServer) -> None:
        pool = grpcpool.aio.insecure_channel(server.target, **options(seed))
        chaos = Chaos(seed, server)
        mine = set(asyncio.all_tasks())
        complaints: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(repr(context)))

        async def work(number: int) -> None:
            chance = random.Random(f"{seed} {number}")
            steps = aio_steps(pool, chaos, chance)
            for count, step in enumerate(in_any_order(steps, chance)):
                if closes and number == 0 and count == STEPS // 2:
                    await pool.close(chance.choice((None, 0, 0.1)))
                chaos.steps.append(step)
                try:
                    await steps[step]()
                except BaseException as error:
                    if not isinstance(error, asyncio.TimeoutError):
                        chaos.failed(step, error)
                # A call that is refused may come back without letting anybody else have the loop.
                await asyncio.sleep(0)

        async def answered() -> None:
            # Unless a connection has just been reset, and nobody has noticed yet.
            with contextlib.suppress(grpc.RpcError):
                assert await pool.unary_unary(UNARY)(b"x", timeout=60) == b"x"
                return
            await asyncio.sleep(0.02)
            await answered()

        started = time.monotonic()
        await asyncio.wait_for(asyncio.gather(*(work(number) for number in range(WORKERS))), LIMIT)
        chaos.over(time.monotonic() - started)
        if not closes:
            server.heal()
            await pool.wait_ready()
            await comes_true(lambda: pool.stats().in_flight == 0)
            await asyncio.wait_for(answered(), LIMIT)
            assert pool.stats().maintenance_errors == 0
        await pool.close()
        await comes_true(lambda: connections(server.port) == 0)
        await comes_true(lambda: set(asyncio.all_tasks()) <= mine)
        assert complaints == []

    with FaultServer(seed=seed) as server:
        asyncio.run(main(server))


async def comes_true(condition: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not condition():
        gc.collect()
        assert time.monotonic() - started < LIMIT
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.sleep(0.02)
