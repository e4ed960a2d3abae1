"""The pytest plugin of grpcpool: fixtures for servers that go wrong.

pytest loads it by its entry point, in every run of whoever has grpcpool installed. So nothing is imported here but
pytest, until a test asks for a fixture; and it is outside the package `grpcpool`, which imports grpc: tests may want to
set the environment up before that, or to measure the coverage of what is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from grpcpool.testing.fault_server import FaultServer
    from grpcpool.testing.proxy import Proxy
    from grpcpool.testing.servers import ServerProcess

__all__ = ["fault_proxy", "fault_server", "fault_servers", "server_process"]


@pytest.fixture
def fault_servers() -> Iterator[Callable[[int], list[FaultServer]]]:
    """Call it for so many `grpcpool.testing.FaultServer`, started; they are closed after the test."""
    from grpcpool.testing.fault_server import FaultServer

    with contextlib.ExitStack() as stack:
        yield lambda count: [stack.enter_context(FaultServer(seed=number)) for number in range(count)]


@pytest.fixture
def fault_server(fault_servers: Callable[[int], list[FaultServer]]) -> FaultServer:
    """One `grpcpool.testing.FaultServer`, started; it is closed after the test."""
    return fault_servers(1)[0]


@pytest.fixture
def fault_proxy() -> Iterator[Callable[..., Proxy]]:
    """Call it with a target for a `grpcpool.testing.Proxy` to that, started; it is closed after the test."""
    from grpcpool.testing.proxy import Proxy

    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(Proxy(*arguments, **options))


@pytest.fixture
def server_process() -> Iterator[Callable[..., ServerProcess]]:
    """Call it for a `grpcpool.testing.ServerProcess`, started; it is killed after the test.

    Takes the arguments of the class.
    """
    from grpcpool.testing.servers import ServerProcess

    def make(**options: Any) -> ServerProcess:
        return stack.enter_context(ServerProcess(**options))

    with contextlib.ExitStack() as stack:
        yield make
