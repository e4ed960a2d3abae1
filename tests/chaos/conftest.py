"""The same pools in both flavours, servers and primers as in the integration tests; and servers that go wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grpcpool.testing import FaultServer

from ..integration.conftest import flavour, make_primer, make_server, proxy, server

__all__ = ["faulty", "flavour", "healthy", "make_primer", "make_server", "proxy", "server"]


@pytest.fixture
def faulty() -> Iterator[FaultServer]:
    """A server that can be told to go wrong."""
    with FaultServer() as server:
        yield server


@pytest.fixture
def healthy() -> Iterator[FaultServer]:
    """Another one, that is left alone."""
    with FaultServer() as server:
        yield server
