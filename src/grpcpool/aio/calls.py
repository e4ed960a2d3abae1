"""Watching a grpc.aio call without keeping it alive.

A stream that its user drops half read should be cancelled by its destructor, and give its place back. It never gets
that far if anybody holds it: a done callback added by `add_done_callback` does (it is bound to the call object, and
grpc's running operation holds the callback), and so does the callback that the channel adds to every call by itself.
Both are avoided here by way of private attributes of grpc.aio; where they are missing, the public way serves, and
abandoned streams give their place back only when the server ends them.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from ..outcome import OK

__all__ = ["code_of", "details_of", "let_go_of_call", "let_go_of_calls", "when_done"]


def let_go_of_calls(channel: Any) -> None:
    """Stop the channel from keeping every call alive until it ends.

    The channel notes its calls in a weak set, to cancel them when it is closed, and adds a callback to each that takes
    it off the set again. Only the latter is left out: calls that are over leave the set when they are collected.
    """
    calls = getattr(channel, "_active_calls", None)
    if isinstance(calls, weakref.WeakSet) and hasattr(channel, "_register_call"):
        channel._register_call = calls.add


def let_go_of_call(channel: Any, call: Any) -> None:
    """Have the channel not cancel the call when it is closed, because the call now speaks for an RPC elsewhere."""
    calls = getattr(channel, "_active_calls", None)
    if isinstance(calls, weakref.WeakSet):
        calls.discard(call)


def when_done(call: Any, callback: Callable[[], object]) -> None:
    """Call `callback` when the call ends, at once if it has; do not keep the call alive for that.

    Arguments:
        callback: must not raise, and must not hold the call.
    """
    inner = getattr(call, "_cython_call", None)
    if inner is not None:
        inner.add_done_callback(callback)
        if _may_not_begin(getattr(call, "_metadata", ())):
            _when_not_begun(call, callback)
        return
    task = getattr(call, "_interceptors_task", None)
    if task is None:
        call.add_done_callback(lambda _: callback())
        return

    def intercepted(task: asyncio.Task[Any]) -> None:
        if task.cancelled() or task.exception() is not None:
            callback()
            return
        result = task.result()
        # An interceptor may have answered by itself; such a result is done, and takes no callbacks.
        if result.done():
            callback()
        else:
            when_done(result, callback)

    task.add_done_callback(intercepted)


def _may_not_begin(metadata: Any) -> bool:
    """Return whether grpc may take exception to metadata; True for some that it will send."""
    return not all(
        type(key) is type(value) is str
        and value.isascii()
        and value.isprintable()
        and key.isascii()
        and key.islower()
        and key.replace("-", "_").isidentifier()
        for key, value in metadata
    )


def _when_not_begun(call: Any, callback: Callable[[], object]) -> None:
    """Call `callback` if the call never begins.

    What grpc will not send raises in the call's own task. The call itself then never ends, and lives as long as that
    exception. Watching every task would be watching too many: it takes another turn of the loop for each call.
    """

    def begun(task: asyncio.Task[Any]) -> None:
        # Not `exception()`: that would pass for somebody who cares, and asyncio would not complain of a call that
        # nobody awaits.
        if task.cancelled() or task._exception is not None:
            callback()

    # That of a single response, or that which comes before the first of many.
    task = getattr(call, "_call_response", None) or getattr(call, "_preparation", None)
    if task is None:
        return
    if task.done():
        begun(task)
    else:
        task.add_done_callback(begun)


def code_of(call: Any) -> grpc.StatusCode | None:
    """Return the status of a call that has ended; None if there is none to be had.

    `code` is a coroutine function, but of such a call it knows the answer already and never has to wait: so a single
    step brings it to its end. It does not if an interceptor returned a call of its own making.
    """
    # It knows without a coroutine whether all went well, as it mostly did.
    try:
        if call._cython_call.is_ok():
            return OK
    except AttributeError:
        # It has none inside: an interceptor comes between.
        pass
    code: grpc.StatusCode | None = _answer(getattr(call, "_grpcpool_code", call.code)())
    return code


def details_of(call: Any) -> str | None:
    """Return the details that a call has ended with; as `code_of`."""
    details: str | None = _answer(getattr(call, "_grpcpool_details", call.details)())
    return details


def _answer(steps: Coroutine[Any, Any, Any]) -> Any:
    try:
        steps.send(None)
    except StopIteration as end:
        return end.value
    except Exception:
        return None
    steps.close()
    return None
