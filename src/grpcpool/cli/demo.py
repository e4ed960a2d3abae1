"""``grpcpool demo``: plain channels and a pool over the same servers, under the same load and the same mishaps."""

from __future__ import annotations

import json
import logging
import time

import grpc

from ..errors import PoolTimeout
from ..stats import PoolStats
from ..sync import ChannelPool, insecure_channel
from ..testing import ECHO
from .director import KILLED, Director, plan
from .load import Load
from .model import Contender, Frame, Outcome, Result, Screen, Settings
from .notes import Notes
from .stage import DELAYS, Stage, StageError

__all__ = ["SERVERS", "DemoError", "contenders", "run"]

SERVERS = len(DELAYS)

# Often enough to watch, seldom enough for the drawing not to take the processor away from the load.
FRAMES_PER_SECOND = 4

# Seconds for a first connection to a server on the same machine; as generous as the pool's own default.
READY_TIMEOUT = 10.0

ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


def contenders(settings: Settings, stage: Stage) -> tuple[Contender, ...]:
    """Return who competes: what one line gets a user without the pool, twice, and the pool."""
    addresses = [server.address for server in stage.servers]
    hosts = ",".join(addresses)
    # Without "ipv4:" and its like, grpc takes a list for one host name.
    several = f"{stage.scheme}:{hosts}"
    size, strategy, seed = settings.size, settings.strategy, settings.seed

    def plain(notes: Notes) -> grpc.Channel:
        return grpc.insecure_channel(several)

    def balanced(notes: Notes) -> grpc.Channel:
        return grpc.insecure_channel(several, [("grpc.service_config", ROUND_ROBIN)])

    def pool(notes: Notes) -> grpc.Channel:
        # A pick each millisecond or so is nothing to read along.
        return insecure_channel(
            addresses, size=size, strategy=strategy, seed=seed, listeners=notes, telemetry_sample_rate=0
        )

    return (
        Contender(
            "plain, pick_first",
            f'grpc.insecure_channel("{several}")',
            "one connection: all calls go to one server, the first, and to the next when that one is gone",
            plain,
        ),
        Contender(
            "plain, round_robin",
            f'grpc.insecure_channel("{several}", [("grpc.service_config", \'{ROUND_ROBIN}\')])',
            "one connection to each server, in turn",
            balanced,
        ),
        Contender(
            f"pool, {strategy}",
            f"grpcpool.insecure_channel({json.dumps(addresses)}, size={size}, strategy={json.dumps(strategy)})",
            f"{size} connections, spread over the servers; grpcpool's other options at their defaults",
            pool,
        ),
    )


def run(settings: Settings, screen: Screen) -> Result:
    """Start the servers, drive one contender after the other, and return what was measured. The servers are gone then.

    Blocks for ``settings.seconds`` for each contender, and a few more. To be called in the main thread.

    Raises:
        DemoError: a server did not start, or a contender could not connect.
    """
    # The pool's log says what the notes say; without a handler, Python would write it into the table.
    logging.getLogger("grpcpool").addHandler(logging.NullHandler())
    try:
        with Stage() as stage:
            competing = contenders(settings, stage)
            screen.begin(settings, stage.servers, competing)
            outcomes = []
            for contender in competing:
                outcomes.append(_drive(contender, settings, stage, screen))
                screen.end(outcomes[-1])
            return Result(settings, stage.servers, tuple(outcomes))
    except StageError as error:
        raise DemoError(str(error)) from None


def _drive(contender: Contender, settings: Settings, stage: Stage, screen: Screen) -> Outcome:
    notes = Notes({server.address: server.name for server in stage.servers})
    channel = contender.make(notes)
    load = Load(channel.unary_unary(f"{ECHO}Unary"), settings.threads)
    director = Director(stage, channel, notes, growth=SERVERS)
    steps = plan(settings.seconds, resizable=isinstance(channel, ChannelPool))
    try:
        try:
            _connect(contender, channel, settings)
            began = notes.now()
            load.start()
            directed = stage.crew.submit(director.run, steps, began)
            with screen.watch(contender) as show:
                while (elapsed := notes.now() - began) < settings.seconds:
                    if directed.done():
                        directed.result()
                    show(_frame(contender, channel, load, notes, stage, elapsed, settings.seconds))
                    time.sleep(max(0.0, min(1 / FRAMES_PER_SECOND, began + settings.seconds - notes.now())))
            at_the_end = stage.connections()
            stats = _stats(channel)
        finally:
            director.stop()
            measured = load.stop()
    finally:
        # Ends a resize that still waits, and so lets the director come to an end.
        channel.close()
    directed.result()
    outcome = Outcome(
        contender=contender,
        measured=measured,
        connections=director.before,
        connections_grown=director.grown,
        connections_end=at_the_end,
        killed_at=director.killed_at,
        back_at=director.back_at,
        notes=notes.all(),
        stats=stats,
    )
    if director.killed_at is not None and director.back_at is None:
        # The load ended before the server was to come back; the next contender needs it.
        stage.crew.submit(stage.restart, KILLED).result()
    return outcome


def _connect(contender: Contender, channel: grpc.Channel, settings: Settings) -> None:
    try:
        if isinstance(channel, ChannelPool):
            channel.wait_ready(READY_TIMEOUT, min_ready=settings.size)
        else:
            grpc.channel_ready_future(channel).result(timeout=READY_TIMEOUT)
    except PoolTimeout as error:
        raise DemoError(str(error)) from None
    except grpc.FutureTimeoutError:
        raise DemoError(f"{contender.name} was not connected within {READY_TIMEOUT:g} s") from None


def _frame(
    contender: Contender, channel: grpc.Channel, load: Load, notes: Notes, stage: Stage, elapsed: float, seconds: float
) -> Frame:
    stats = _stats(channel)
    return Frame(
        name=contender.name,
        elapsed=elapsed,
        seconds=seconds,
        calls=load.calls(),
        errors=load.errors(),
        in_flight=load.in_flight(),
        recent=load.recent(),
        connections=stage.connections(),
        members=None if stats is None else stats.members,
        notes=notes.all(),
    )


def _stats(channel: grpc.Channel) -> PoolStats | None:
    return channel.stats() if isinstance(channel, ChannelPool) else None
