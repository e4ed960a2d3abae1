"""What a unary call through the pool costs in CPU time, against the same call on a plain channel.

One client process, the server in another. Short blocks of calls alternate between the contenders, there and back
(plain, pool, pool, plain), and what counts is the median of the ratios within each round. CPU time is that of the whole
client process, grpc's own threads included. Messages are a few raw bytes: any work of a serializer would be the same
for all and make the difference look smaller.

Two controls run along. A second plain channel shows how far from 1 a ratio gets by chance. Eight plain channels taken
in turn, without a pool, show what grpc itself charges for using more than one connection.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import math
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

import grpcpool
from grpcpool.testing import ECHO, ServerProcess

from .report import Figure, conclude, spread

__all__ = ["main", "measure"]

METHOD = f"{ECHO}Unary"
REQUEST = b"sixteen raw byte"
PLAIN = "plain channel"
CONTROL = "plain channel again"
SIZE = 8
IN_TURN = f"{SIZE} plain channels in turn"
POOL = f"pool of {SIZE}"
SINGLE = "pool of 1"
# What is divided by what. The bar is for a pool as pools are used, against what its user had before; the other ratios
# say what the figure is made of.
RATIOS = ((POOL, PLAIN), (POOL, IN_TURN), (SINGLE, PLAIN), (IN_TURN, PLAIN), (CONTROL, PLAIN))
BAR = 1.02
# Calls in a block: a few milliseconds. On a busy machine the conditions change many times a second, and only close
# neighbours share them; a hundred calls in a block make the quartiles twice as wide for the same time spent.
CALLS = 10
CONCURRENT = 16
WARMUPS = 20
# Plain channels with equal options share a connection; these do not, and neither do a pool's members.
OWN = [("grpc.use_local_subchannel_pool", 1)]


def measure(rounds: int) -> list[Figure]:
    """Run both rooms, and return what came out."""
    with ServerProcess() as server:
        figures = _judge("sync", _sync(server.target, rounds), BAR)
        for kind, samples in asyncio.run(_aio(server.target, rounds)).items():
            figures += _judge(kind, samples, BAR if kind == "aio" else None)
    return figures


def _judge(kind: str, samples: dict[str, list[float]], bar: float | None) -> list[Figure]:
    figures = []
    for name, base in RATIOS:
        ratios = [one / other for one, other in zip(samples[name], samples[base], strict=True)]
        middle, low, high = spread(ratios)
        # The standard error of a median, from the quartiles, as if the ratios were normally distributed.
        error = 1.2533 * (high - low) / 1.349 / math.sqrt(len(ratios))
        usual, _, _ = spread(samples[base])
        note = (
            f"± {error:.3f}, quartiles {low:.3f} to {high:.3f}; {usual * 1e6:.0f} {usual * (middle - 1) * 1e6:+.1f} µs"
        )
        judged = bar if (name, base) == (POOL, PLAIN) else None
        figures.append(Figure(f"{kind}: {name} / {base}", middle, "×", judged, note=note))
    return figures


def _order(round_number: int, names: Sequence[str]) -> list[str]:
    """There and back, so that a steady drift cancels out; each contender opens the round in its turn."""
    first = round_number % len(names)
    turned = [*names[first:], *names[:first]]
    return turned + turned[::-1]


def _multicallables(channels: dict[str, Any], own: list[Any]) -> dict[str, Callable[..., Any]]:
    """Return what to call for each contender: as a generated stub would, with the method registered."""
    calls = {name: channel.unary_unary(METHOD, _registered_method=True) for name, channel in channels.items()}
    following = itertools.cycle([channel.unary_unary(METHOD, _registered_method=True) for channel in own]).__next__

    def in_turn(request: bytes) -> Any:
        return following()(request)

    return {**calls, IN_TURN: in_turn}


def _sync(target: str, rounds: int) -> dict[str, list[float]]:
    channels: dict[str, Any] = {PLAIN: grpc.insecure_channel(target)}
    for name, size in ((POOL, SIZE), (SINGLE, 1)):
        channels[name] = grpcpool.insecure_channel(target, size=size)
        channels[name].wait_ready(min_ready=size)
    channels[CONTROL] = grpc.insecure_channel(target, options=OWN)
    own = [grpc.insecure_channel(target, options=OWN) for _ in range(SIZE)]
    calls = _multicallables(channels, own)
    samples: dict[str, list[float]] = {name: [] for name in calls}

    def block(call: Callable[[bytes], bytes]) -> float:
        started = time.process_time()
        for _ in range(CALLS):
            call(REQUEST)
        return (time.process_time() - started) / CALLS

    for round_number in range(WARMUPS + rounds):
        taken = dict.fromkeys(calls, 0.0)
        for name in _order(round_number, list(calls)):
            taken[name] += block(calls[name]) / 2
        if round_number == WARMUPS:
            gc.collect()
        if round_number >= WARMUPS:
            for name, seconds in taken.items():
                samples[name].append(seconds)
    for channel in (*channels.values(), *own):
        channel.close()
    return samples


async def _aio(target: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    channels: dict[str, Any] = {PLAIN: grpc.aio.insecure_channel(target)}
    for name, size in ((POOL, SIZE), (SINGLE, 1)):
        channels[name] = grpcpool.aio.insecure_channel(target, size=size)
        await channels[name].wait_ready(min_ready=size)
    channels[CONTROL] = grpc.aio.insecure_channel(target, options=OWN)
    own = [grpc.aio.insecure_channel(target, options=OWN) for _ in range(SIZE)]
    calls = _multicallables(channels, own)
    lanes = {"aio": 1, f"aio, {CONCURRENT} at once": CONCURRENT}
    found: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in calls} for kind in lanes}

    async def some(call: Callable[[bytes], Awaitable[bytes]], count: int) -> None:
        for _ in range(count):
            await call(REQUEST)

    async def block(call: Callable[[bytes], Awaitable[bytes]], width: int) -> float:
        each = max(CALLS // width, 2)
        started = time.process_time()
        if width == 1:
            await some(call, each)
        else:
            await asyncio.gather(*(some(call, each) for _ in range(width)))
        return (time.process_time() - started) / (width * each)

    for round_number in range(WARMUPS + rounds):
        for kind, width in lanes.items():
            taken = dict.fromkeys(calls, 0.0)
            for name in _order(round_number, list(calls)):
                taken[name] += await block(calls[name], width) / 2
            if round_number >= WARMUPS:
                for name, seconds in taken.items():
                    found[kind][name].append(seconds)
        if round_number == WARMUPS:
            gc.collect()
    for channel in (*channels.values(), *own):
        await channel.close()
    return found


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="rounds of alternating blocks (default: 1000)")
    parser.add_argument("--json", type=Path, help="write the figures")
    arguments = parser.parse_args()
    return conclude("A unary call, CPU time", measure(arguments.rounds), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
