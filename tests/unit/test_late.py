"""Coroutines of tasks that a loop may never get to."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import warnings
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from grpcpool.aio.late import Late


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_it_is_the_coroutine_once_it_has_begun() -> None:
    async def main() -> list[int]:
        task = asyncio.get_running_loop().create_task(Late(lambda: double(2)))
        return [await task, await Late(lambda: double(3))]

    assert asyncio.run(main()) == [4, 6]


def test_nothing_is_said_of_one_that_never_began() -> None:
    def left_behind(make: Callable[[], Coroutine[Any, Any, int]]) -> list[str]:
        loop = asyncio.new_event_loop()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            task = loop.create_task(make())
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            loop.close()
            del task, loop
            gc.collect()
        return [str(each.message) for each in said]

    assert left_behind(lambda: Late(lambda: double(2))) == []
    # As it would be without.
    assert left_behind(lambda: double(2)) == ["coroutine 'double' was never awaited"]


def test_it_is_shown_by_where_it_comes_from() -> None:
    async def main() -> str:
        return repr(asyncio.get_running_loop().create_task(Late(functools.partial(double, 2))))

    async def named() -> int:
        return await double(2)

    async def of_its_own() -> str:
        return repr(asyncio.get_running_loop().create_task(Late(named)))

    assert "Late()" in asyncio.run(main())
    assert "named()" in asyncio.run(of_its_own())


def test_where_it_stands_is_seen() -> None:
    async def main() -> list[list[str]]:
        task = asyncio.get_running_loop().create_task(Late(lambda: double(2)))
        stacks = [task.get_stack()]
        await asyncio.sleep(0)
        stacks.append(task.get_stack())
        await task
        return [[frame.f_code.co_name for frame in stack] for stack in stacks]

    assert asyncio.run(main()) == [[], ["double"]]


@pytest.mark.parametrize("steps", [0, 1])
def test_it_is_cancelled_before_its_first_step_and_later(steps: int) -> None:
    async def main() -> bool:
        task = asyncio.get_running_loop().create_task(Late(lambda: double(2)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert asyncio.run(main())


@pytest.mark.parametrize("begun", [False, True])
def test_it_can_be_given_up(begun: bool) -> None:
    late = Late(lambda: double(2))
    if begun:
        late.send(None)
    late.close()
    if begun:
        with pytest.raises(RuntimeError, match="cannot reuse"):
            late.send(None)


def test_what_it_held_is_let_go_without_a_garbage_collection() -> None:
    class Thing:
        pass

    async def hold(thing: Thing) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        thing = Thing()
        task = asyncio.get_running_loop().create_task(Late(functools.partial(hold, thing)))
        await asyncio.sleep(0)
        gone = weakref.ref(thing)
        del thing
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        del task
        await asyncio.sleep(0)
        assert gone() is None

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()
