"""Fixtures of several files of tests."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import grpcpool
from grpcpool.testing import ServerProcess

from .helpers import QUICK, Recorder


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let the interpreter change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as process:
        yield process


@pytest.fixture
def own_server() -> Iterator[ServerProcess]:
    """A server to be killed or frozen."""
    with ServerProcess() as process:
        yield process


@pytest.fixture
def dead() -> Iterator[str]:
    """A target where nobody listens, nor will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def pool_of() -> Iterator[Callable[..., grpcpool.ChannelPool]]:
    made: list[grpcpool.ChannelPool] = []

    def make(target: Any, **options: Any) -> grpcpool.ChannelPool:
        made.append(grpcpool.insecure_channel(target, **{**QUICK, **options}))
        return made[-1]

    yield make
    for pool in made:
        pool.close()
