"""Makes a member's grpc.aio channel from the recipe, and asks how it fares."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, cast

import grpc

from .. import originals
from ..checks import is_insecure
from ..config import PoolConfig, credentials_for_member
from ..connectivity import private_check
from ..core.lookout import Check
from ..core.member import Member
from ..liveness import ALIVE_METHOD, verdict
from .calls import let_go_of_calls

__all__ = ["ask", "build_channel", "building", "plain_channel", "watch"]

_state = threading.local()


def building() -> bool:
    """Say whether this thread is making a member's channel at this moment."""
    return getattr(_state, "building", False)


def plain_channel() -> grpc.aio.Channel:
    """Return the member's channel by grpc's own factory, whatever has been put in its place since, and remember it."""
    target, credentials, arguments = _state.recipe
    if is_insecure(credentials):
        _state.plain = originals.aio_insecure_channel(target, **arguments)
    else:
        _state.plain = originals.aio_secure_channel(target, credentials, **arguments)
    return cast("grpc.aio.Channel", _state.plain)


def build_channel(config: PoolConfig, member: Member, interceptors: Sequence[Any]) -> grpc.aio.Channel:
    """Return a new channel for one member, bound to the running loop.

    grpc's factories are looked up now, not when this module was imported: instrumentation replaces them, and a member
    is to be instrumented like any other channel. Some replace them by a pool, though (one line patches a whole
    program); within this call our own factories therefore make plain channels. If that happens the pool itself has
    gone through whatever else is in the place of grpc's factory, and the member must not do so again.
    """
    credentials = credentials_for_member(config)
    # By keyword, all of them: what instrumentation puts in the factory's place often looks for `interceptors` there.
    arguments: dict[str, Any] = {
        "options": config.channel_options(eager=member.eager),
        "compression": config.compression,
        "interceptors": list(interceptors),
    }
    _state.building = True
    _state.plain = None
    _state.recipe = (member.endpoint, credentials, arguments)
    try:
        if is_insecure(credentials):
            channel = grpc.aio.insecure_channel(member.endpoint, **arguments)
        else:
            channel = grpc.aio.secure_channel(member.endpoint, credentials, **arguments)
        channel = _state.plain or channel
    finally:
        _state.building = False
        _state.plain = _state.recipe = None
    let_go_of_calls(channel)
    return channel


def watch(channel: grpc.aio.Channel) -> Check:
    """Return the cheapest way to learn a channel's connectivity, as grpc's number for it.

    The public way, `get_state`, tells the same in five times as long. So it is used only where the private way is not
    found.
    """

    def public_check(connect: bool) -> int:
        number: int = channel.get_state(connect).value[0]
        return number

    return private_check(channel) or public_check


async def ask(channel: grpc.aio.Channel, timeout: float) -> str | None:
    """Make a real round trip, and return None if there was one, or the reason if there was not.

    See `verdict` for what counts.
    """
    try:
        method: Any = channel.unary_unary(ALIVE_METHOD)
        await method(b"", timeout=timeout)
    except grpc.aio.AioRpcError as error:
        return verdict(error.code(), error.details(), timeout)
    except Exception as error:
        # An interceptor of the user's raised. That says nothing about the server, but the channel's state does.
        if channel.get_state() is not grpc.ChannelConnectivity.READY:
            return f"not connected, and an interceptor raised {type(error).__name__}"
    return None
