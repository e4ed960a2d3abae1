"""Everything at once: servers that are killed, stopped, frozen and failing; resizes, recycling, an elastic pool;
streams that are abandoned, calls that are cancelled and that are late; retries and hedging; forks; in both rooms.

It runs in rounds, between which all is quiet, and compares what the processes hold after the first, which is the
warm-up, and after the last. Ends with 1 if anything ended otherwise than `ledger.KINDS` allows, or if anything grew.

Making and closing channels takes memory in grpc itself, and replacing members is making and closing channels: so
plain channels are made, used and closed in a process of their own, and what as many of them take is taken off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from bench.overload.growth import per_thousand
from bench.overload.isolated import isolated
from grpcpool.testing import ServerProcess

from .director import Director

ROOMS = ("sync", "aio")
# Of the whole, and the least: the first third warms up.
WARM_UP, LEAST = 1 / 3, 10.0
# MiB that a process may have grown by, what grpc takes for its channels taken off.
BAR = 5.0
# What may not grow at all. (grpc's own threads come and go.)
CONSTANT = ("sockets beyond the sizes", "threads", "tasks", "children", "in flight")
# Plain channels that are made to see what they take: enough to see a trend.
CHURN = 300


class Half:
    """One room's process."""

    def __init__(self, room: str, targets: list[str], seed: int) -> None:
        self.room = room
        command = [sys.executable, "-m", "tests.soak.half", room, ",".join(targets), str(seed)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, command: str) -> None:
        """Hand it a command."""
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        """Return what it has to say to the last one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self.room} room has ended with {self._process.wait()}")
        return json.loads(line)

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        with self._process:
            # Which waits for it, and closes its pipes.
            pass


def all_do(halves: list[Half], command: str) -> dict[str, Any]:
    """Have both do something at the same time."""
    for half in halves:
        half.tell(command)
    return {half.room: half.answer() for half in halves}


def soak(seconds: float, seed: int, rooms: tuple[str, ...]) -> dict[str, Any]:
    """Run it, and return what was found."""
    warm_up = max(seconds * WARM_UP, LEAST)
    with Director(seed) as director:
        halves = [Half(room, director.targets, seed) for room in rooms]
        try:
            calms = []
            for duration in (warm_up, max(seconds - warm_up, LEAST)):
                all_do(halves, "run")
                director.go()
                time.sleep(duration)
                director.pause()
                calms.append(all_do(halves, "calm"))
            ends = all_do(halves, "end")
        finally:
            for half in halves:
                half.kill()
        did, log = dict(director.did), director.log
    with ServerProcess() as server:
        plain = {
            room: per_thousand(isolated("churn", 0.0, room=room, target=server.target, count=CHURN)["memory"])
            for room in rooms
        }
    return {"did": did, "log": log, "before": calms[0], "after": calms[1], "ends": ends, "plain": plain}


def judge(room: str, found: dict[str, Any]) -> list[str]:
    """Print what a room's half was like, and return what was wrong with it."""
    before, after, end = (found[at][room] for at in ("before", "after", "ends"))
    wrong = [*end["unexpected"], *end["logged"], *after.get("complaints", ())]
    print(f"\n{room}:")
    print(f"  {'':16}{'calls':>8}  ended otherwise")
    for kind, ends in end["ends"].items():
        other = ", ".join(f"{name} {count}" for name, count in sorted(ends.items()) if name != "OK")
        print(f"  {kind:16}{sum(ends.values()):8}  {other}")
    print("  " + ", ".join(f"{name} {count}" for name, count in after["stats"].items()))
    for at, calm in (("warm-up", before), ("last round", after)):
        held, stats = calm["held"], calm["stats"]
        held["in flight"] = stats["in_flight"] + stats["waiting"]
        held["sockets beyond the sizes"] = held["sockets"] - stats["size"]
        if not calm["settled"]:
            wrong.append(f"after the {at} not all members came to be ready, or something remained in flight: {stats}")
        if stats["maintenance_errors"] or stats["listener_errors"]:
            wrong.append(f"errors in the pool's own work: {stats}")
    print(f"  {'':26}{'warm-up':>10}{'last round':>12}{'closed':>10}")
    for what, was in before["held"].items():
        now = after["held"][what]
        print(f"  {what:26}{was:10g}{now:12g}{end['held'].get(what, 0):10g}")
        if what in CONSTANT and now > was:
            wrong.append(f"{what}: {was:g} after the warm-up, {now:g} in the end")
    if end["held"]["sockets"]:
        wrong.append(f"{end['held']['sockets']} sockets are left after close")
    grown = after["held"]["RSS, MiB"] - before["held"]["RSS, MiB"]
    closed = after["stats"]["drained"] - before["stats"]["drained"]
    grpcs = max(found["plain"][room], 0.0) * closed / 1000
    print(f"  RSS grew by {grown:.2f} MiB while {closed} members were closed; as many plain channels ", end="")
    print(f"take {grpcs:.2f} MiB ({found['plain'][room]:.2f} per thousand)")
    if grown - grpcs > BAR:
        wrong.append(f"RSS grew by {grown - grpcs:.2f} MiB beyond what plain channels take; at most {BAR:g}")
    return wrong


def main() -> int:
    """Run it, print a table for each room, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of load in all (default: ten minutes)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--room", choices=ROOMS, action="append", help="default: both")
    arguments = parser.parse_args()
    found = soak(arguments.seconds, arguments.seed, tuple(arguments.room or ROOMS))
    print(f"soak of {arguments.seconds:g} s, seed {arguments.seed}; servers: {found['did']}")
    wrong = [f"{room}: {what}" for room in found["ends"] for what in judge(room, found)]
    print(f"\n{len(wrong)} things are wrong" if wrong else "\nall is well")
    for what in wrong[:20]:
        print(f"- {what}")
    if wrong:
        print("what was done to servers: " + ", ".join(found["log"]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
