"""A thread that asks the server at the other end of a connection whether it serves."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from typing import Any

import grpc

from ..outcome import code_of
from ..serving import CHECK_EVERY, STREAM, health_of, pause, stub_and_request, unknown_service

__all__ = ["Watcher"]

# At the exit of the interpreter; see `Monitor`.
EXIT_TIMEOUT = 0.5


class Watcher:
    """Asks a server by `Watch`, or by `Check` every few seconds if it does not know that, or no more if neither.

    For one connection of a member's. Keeps the channel alive, and nothing else: `tell` should not keep alive what
    nobody uses any more.

    Arguments:
        service: whose health to ask for.
        tell: called with what the server says, from the thread; returns False when nobody wants to know any more.
        name: of the thread.
    """

    def __init__(self, channel: grpc.Channel, service: str, tell: Callable[[bool, str], bool], name: str) -> None:
        self._tell = tell
        self._stub, self._request = stub_and_request(channel, service)
        self._watches = True
        self._failures = 0
        self._call: Any = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        # A daemon that is within grpc when the interpreter is taken down can take it down the hard way.
        atexit.register(self._end)

    def stop(self) -> None:
        """Ask no more. Does not wait for the thread."""
        self._stopped.set()
        call = self._call
        if call is not None:
            call.cancel()

    def abandon(self) -> None:
        """Forget the thread, which is not in this process; for after a fork, in the child."""
        atexit.unregister(self._end)

    def _end(self) -> None:
        self.stop()
        self._thread.join(EXIT_TIMEOUT)

    def _run(self) -> None:
        try:
            seconds: float | None = 0.0
            while seconds is not None and not self._stopped.wait(seconds):
                seconds = self._watch() if self._watches else self._check()
        finally:
            atexit.unregister(self._end)

    def _watch(self) -> float | None:
        """Listen until the stream ends, and return how long to wait then; None: ask no more."""
        heard = False
        try:
            for response in self._begun(self._stub.Watch(self._request, timeout=STREAM, wait_for_ready=True)):
                heard = True
                self._say(*health_of(response))
        except (grpc.RpcError, ValueError) as error:
            if code_of(error) is grpc.StatusCode.UNIMPLEMENTED:
                self._watches = False
                return 0.0
        return self._pause(heard)

    def _check(self) -> float | None:
        """Ask once, and return as `_watch`."""
        try:
            call = self._begun(self._stub.Check.future(self._request, timeout=CHECK_EVERY, wait_for_ready=True))
            self._say(*health_of(call.result()))
        except (grpc.RpcError, grpc.FutureCancelledError, ValueError) as error:
            code = code_of(error)
            if code is grpc.StatusCode.UNIMPLEMENTED:
                # It does not know of health at all.
                self._say(True, "UNIMPLEMENTED")
                return None
            if not unknown_service(code):
                return self._pause(False)
            self._say(False, "SERVICE_UNKNOWN")
        self._failures = 0
        return CHECK_EVERY

    def _begun(self, call: Any) -> Any:
        """Let `stop` cancel the call from now on, and return it."""
        self._call = call
        # Stopped before there was anything to cancel.
        if self._stopped.is_set():
            call.cancel()
        return call

    def _pause(self, heard: bool) -> float:
        self._failures = 0 if heard else self._failures + 1
        return pause(self._failures)

    def _say(self, serving: bool, detail: str) -> None:
        if not self._stopped.is_set() and not self._tell(serving, detail):
            self.stop()
