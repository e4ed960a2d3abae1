"""A sync pool under threads: ``python examples/sync_pool.py``. Starts a server of its own; needs only grpcpool."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpcpool
from grpcpool.testing import ECHO, ServerProcess

CALLS = 1000


def main() -> None:
    with ServerProcess() as server, grpcpool.insecure_channel(server.target, size=4) as pool:
        pool.wait_ready(min_ready=4)
        # What a generated stub does, without one: the pool is a channel.
        unary = pool.unary_unary(ECHO + "Unary")
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(unary, [b"%d" % number for number in range(CALLS)]))
        assert replies == [b"%d" % number for number in range(CALLS)]
        print(pool.status())
        for member in pool.stats().members:
            print(f"member {member.id} to {member.endpoint}: {member.calls} calls, {member.latency or 0:.6f} s each")


if __name__ == "__main__":
    main()
