"""Servers, proxies, and both flavours of pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from grpcpool.testing import Proxy, ServerProcess

from .flavours import Flavour, flavours
from .lifecycle import Primer


@pytest.fixture(params=list(flavours()), ids=lambda flavour: flavour.name)
def flavour(request: pytest.FixtureRequest) -> Iterator[Flavour]:
    """The sync pool, and then the aio pool."""
    each: Flavour = request.param
    each.start()
    yield each
    each.stop()


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """A server that lives through all tests; nobody may harm it."""
    with ServerProcess() as server:
        yield server


@pytest.fixture
def make_server() -> Iterator[Callable[..., ServerProcess]]:
    """Servers of the test's own, to be harmed at will."""
    made: list[ServerProcess] = []

    def make(**options: object) -> ServerProcess:
        made.append(ServerProcess(**options).start())  # type: ignore[arg-type]
        return made[-1]

    yield make
    for server in made:
        server.kill()


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[Proxy]:
    """A way to the server that can be cut."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def make_primer() -> Iterator[Callable[..., Primer]]:
    """Primers that end with the test at the latest."""
    made: list[Primer] = []

    def make(**options: Any) -> Primer:
        made.append(Primer(**options))
        return made[-1]

    yield make
    for primer in made:
        primer.gate.set()
        primer.over.set()
