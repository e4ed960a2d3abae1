"""Channels of members that RPCs wait for."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from grpcpool import PoolConfig
from grpcpool.aio import connect as aio
from grpcpool.core.member import Member
from grpcpool.sync import connect as sync

BACKOFF = "grpc.max_reconnect_backoff_ms"


@pytest.mark.parametrize("room", ["sync", "aio"])
def test_they_do_not_wait_longer_and_longer(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = grpc if room == "sync" else grpc.aio
    make, seen = module.insecure_channel, []

    def note(*args: Any, **kwargs: Any) -> Any:
        seen.append(dict(kwargs["options"])[BACKOFF])
        return make(*args, **kwargs)

    monkeypatch.setattr(module, "insecure_channel", note)
    config = PoolConfig(target="localhost:1")
    members = [Member(number, "localhost:1", eager=eager) for number, eager in enumerate([True, False])]

    async def build() -> None:
        for member in members:
            await aio.build_channel(config, member, ()).close()

    if room == "aio":
        asyncio.run(build())
    else:
        for member in members:
            sync.build_channel(config, member).close()
    assert seen == [750, 30_000]
