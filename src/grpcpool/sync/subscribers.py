"""Callbacks on the connectivity of the whole pool, as `grpc.Channel.subscribe` promises them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from ..core.connectivity import Connectivity
from ..telemetry.logging import logger

__all__ = ["Subscribers"]

Callback = Callable[[grpc.ChannelConnectivity], None]


@dataclass(slots=True, eq=False)
class _Subscription:
    callback: Callback
    told: Connectivity | None = None


class Subscribers:
    """Tells each callback the state at once, and then every change, in order.

    As in grpc, a callback runs in a thread of its own making (a daemon that lives while there is something to tell), so
    that a slow one delays nobody but the other callbacks. Thread-safe.
    """

    def __init__(self) -> None:
        self._subscriptions: list[_Subscription] = []
        self._begin()

    def _begin(self) -> None:
        # One that its holder may take again: a garbage collection in between may run code that unsubscribes.
        self._lock = threading.RLock()
        self._state = Connectivity.IDLE
        self._delivering = False

    def restart(self) -> None:
        """Begin anew in a forked process, where the thread that tells them does not exist."""
        self._begin()
        for subscription in list(self._subscriptions):
            subscription.told = None

    def add(self, callback: Callback) -> None:
        """Tell `callback` the state, and every change from now on."""
        with self._lock:
            self._subscriptions.append(_Subscription(callback))
            self._start()

    def remove(self, callback: Callback) -> None:
        """Tell `callback` no more; harmless if it was not told."""
        with self._lock:
            for subscription in self._subscriptions:
                if subscription.callback == callback:
                    self._subscriptions.remove(subscription)
                    return

    def tell(self, state: Connectivity) -> None:
        """Take note of a new state. After SHUTDOWN nobody is told anything any more, as in grpc."""
        with self._lock:
            self._state = state
            if state is Connectivity.SHUTDOWN:
                self._subscriptions.clear()
            self._start()

    def _start(self) -> None:
        if self._subscriptions and not self._delivering:
            threading.Thread(target=self._deliver, name="grpcpool-subscribers", daemon=True).start()
            self._delivering = True

    def _deliver(self) -> None:
        while True:
            with self._lock:
                state = self._state
                due = [subscription for subscription in self._subscriptions if subscription.told is not state]
                if not due:
                    self._delivering = False
                    return
                for subscription in due:
                    subscription.told = state
            for subscription in due:
                try:
                    subscription.callback(grpc.ChannelConnectivity[state.name])
                except BaseException:
                    # Even SystemExit: it would end the deliveries to everybody.
                    logger.exception("a connectivity callback raised; it is told all the same")
