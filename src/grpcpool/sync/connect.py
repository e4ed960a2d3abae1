"""Makes a member's grpc channel from the recipe, watches its connectivity, and asks how it fares."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import grpc

from .. import originals
from ..checks import is_insecure
from ..config import PoolConfig, credentials_for_member
from ..connectivity import IDLE, private_check
from ..core.lookout import Check
from ..core.member import Member
from ..liveness import ALIVE_METHOD, verdict

__all__ = ["ask", "build_channel", "building", "plain_channel", "watch"]

_state = threading.local()


def building() -> bool:
    """Say whether this thread is making a member's channel at this moment."""
    return getattr(_state, "building", False)


def plain_channel(target: str, credentials: Any, options: Any, compression: grpc.Compression | None) -> grpc.Channel:
    """Return a channel by grpc's own factory, whatever has been put in its place since, and remember it."""
    if is_insecure(credentials):
        _state.plain = originals.insecure_channel(target, options, compression)
    else:
        _state.plain = originals.secure_channel(target, credentials, options, compression)
    return cast("grpc.Channel", _state.plain)


def build_channel(config: PoolConfig, member: Member) -> grpc.Channel:
    """Return a new channel for one member.

    grpc's factories are looked up now, not when this module was imported: instrumentation replaces them, and a member
    is to be instrumented like any other channel. Some replace them by a pool, though (one line patches a whole
    program); within this call our own factories therefore make plain channels. If that happens the pool itself has
    gone through whatever else is in the place of grpc's factory, and the member must not do so again.
    """
    credentials = credentials_for_member(config)
    options = config.channel_options(eager=member.eager)
    _state.building = True
    _state.plain = None
    try:
        if is_insecure(credentials):
            channel = grpc.insecure_channel(member.endpoint, options=options, compression=config.compression)
        else:
            channel = grpc.secure_channel(member.endpoint, credentials, options=options, compression=config.compression)
        return _state.plain or channel
    finally:
        _state.building = False
        _state.plain = None


def watch(channel: grpc.Channel) -> Check:
    """Return the cheapest way to learn a channel's connectivity, as grpc's number for it.

    The public way, `subscribe`, costs a thread for each channel that polls five times a second. So it is used only
    where the private way is not found.
    """
    return private_check(channel) or _Subscription(channel)


class _Subscription:
    """Connectivity by way of `subscribe`."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._number = IDLE
        channel.subscribe(self._remember)

    def _remember(self, state: grpc.ChannelConnectivity) -> None:
        self._number = state.value[0]

    def __call__(self, connect: bool, /) -> int:
        if connect:
            # Subscribing again is the one public way to ask for a connection; the same callback twice is fine, but
            # the second would stay for ever if it were not taken off again.
            self._channel.subscribe(self._remember, try_to_connect=True)
            self._channel.unsubscribe(self._remember)
        return self._number


def ask(channel: grpc.Channel, timeout: float, answer: Callable[[str | None], object]) -> None:
    """Make a real round trip, and call `answer` with None if there was one, or with the reason if there was not.

    Returns at once; `answer` is called from a thread of grpc's. See `verdict` for what counts.
    """

    def done(call: Any) -> None:
        try:
            problem = verdict(call.code(), call.details(), timeout)
        except Exception as error:
            # Not one of grpc's calls: instrumentation may return its own.
            problem = f"no status to be had: {type(error).__name__}"
        answer(problem)

    method: Any = channel.unary_unary(ALIVE_METHOD)
    method.future(b"", timeout=timeout).add_done_callback(done)
