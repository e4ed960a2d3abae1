"""Affinity keys: where they hold, where they go, and where they do not."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import grpcpool
from grpcpool import affinity
from grpcpool.keys import Key, current_key


def in_a_thread(function: Any) -> Any:
    """Run a function in a thread of its own and return what it returned."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


# --- blocks


def test_it_is_public() -> None:
    assert grpcpool.affinity is affinity
    assert "affinity" in grpcpool.__all__


def test_no_key_is_in_force_outside() -> None:
    assert current_key() is None


def test_a_block_has_its_key_and_restores_what_was_before() -> None:
    with affinity("outer"):
        assert current_key() == "outer"
        with affinity(b"inner"):
            assert current_key() == b"inner"
        assert current_key() == "outer"
    assert current_key() is None


def test_an_exception_restores_it_too() -> None:
    with affinity("outer"):
        with pytest.raises(ZeroDivisionError), affinity("inner"):
            raise ZeroDivisionError
        assert current_key() == "outer"
    assert current_key() is None


def test_one_object_can_be_used_again_and_within_itself() -> None:
    mine = affinity("mine")
    for _ in range(2):
        with mine:
            with affinity("other"), mine:
                assert current_key() == "mine"
            assert current_key() == "mine"
        assert current_key() is None


def test_one_object_can_be_used_by_many_threads_at_once() -> None:
    mine = affinity("mine")
    everybody = threading.Barrier(8)
    seen: list[tuple[Key | None, ...]] = []

    def use(number: int) -> None:
        with affinity(f"outer {number}"):
            everybody.wait()
            with mine:
                everybody.wait()
                inside = current_key()
                everybody.wait()
            seen.append((inside, current_key() == f"outer {number}"))

    threads = [threading.Thread(target=use, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [("mine", True)] * 8


def test_a_block_that_ends_in_another_context_does_no_harm() -> None:
    block = affinity("mine")
    contextvars.copy_context().run(block.__enter__)
    assert current_key() is None
    block.__exit__(None, None, None)
    assert current_key() is None
    with affinity("next"):
        assert current_key() == "next"
    assert current_key() is None


# --- tasks and threads


async def others() -> None:
    """Let whatever is ready on the loop run first."""
    turn = asyncio.Event()
    asyncio.get_running_loop().call_soon(turn.set)
    await turn.wait()


def test_tasks_inherit_it_and_keep_it_to_themselves() -> None:
    async def child(key: str) -> tuple[Key | None, Key | None]:
        inherited = current_key()
        with affinity(key):
            await others()
            return inherited, current_key()

    async def parent() -> None:
        with affinity("parent"):
            tasks = [asyncio.create_task(child(f"child {number}")) for number in range(3)]
        assert await asyncio.gather(*tasks) == [("parent", f"child {number}") for number in range(3)]
        assert current_key() is None

    asyncio.run(parent())


def test_to_thread_and_callbacks_inherit_it() -> None:
    async def main() -> None:
        called: asyncio.Future[Key | None] = asyncio.get_running_loop().create_future()
        with affinity("mine"):
            assert await asyncio.to_thread(current_key) == "mine"
            asyncio.get_running_loop().call_soon(lambda: called.set_result(current_key()))
        assert await called == "mine"

    asyncio.run(main())


def test_a_thread_gets_it_only_if_it_is_handed_over() -> None:
    def work() -> Key | None:
        return current_key()

    with affinity("mine"):
        assert in_a_thread(work) is None
        assert in_a_thread(affinity.bind(work)) == "mine"
        assert in_a_thread(affinity("other")(work)) == "other"
        bound = affinity.bind(work)
    assert current_key() is None
    assert in_a_thread(bound) == "mine"
    assert bound() == "mine"
    assert current_key() is None


def test_bind_takes_along_that_there_is_none() -> None:
    bound = affinity.bind(current_key_of_here)
    with affinity("mine"):
        assert bound() is None
        assert current_key() == "mine"


def current_key_of_here() -> Key | None:
    return current_key()


def test_what_is_bound_can_run_many_times_at_once() -> None:
    everybody = threading.Barrier(4)

    def work(item: int) -> tuple[int, Key | None]:
        everybody.wait()
        return item, current_key()

    with ThreadPoolExecutor(4) as executor:
        with affinity("mine"):
            found = list(executor.map(affinity.bind(work), range(4)))
        assert found == [(item, "mine") for item in range(4)]
        # The threads are for others now.
        assert executor.submit(current_key).result() is None


def test_executors_of_a_loop_need_it_handed_over() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with affinity("mine"):
            assert await loop.run_in_executor(None, current_key_of_here) is None
            assert await loop.run_in_executor(None, affinity.bind(current_key_of_here)) == "mine"

    asyncio.run(main())


# --- functions


def test_a_function_runs_under_it() -> None:
    @affinity("mine")
    def work(*args: int, **kwargs: int) -> tuple[Any, ...]:
        """Works."""
        return args, kwargs, current_key()

    assert work(1, two=2) == ((1,), {"two": 2}, "mine")
    assert current_key() is None
    assert (work.__name__, work.__doc__) == ("work", "Works.")


def test_a_method_runs_under_it() -> None:
    class Client:
        @affinity("mine")
        def get(self) -> tuple[Client, Key | None]:
            return self, current_key()

    client = Client()
    assert client.get() == (client, "mine")


def test_a_coroutine_function_runs_under_it_to_its_end() -> None:
    @affinity("mine")
    async def work() -> tuple[Key | None, Key | None]:
        before = current_key()
        await others()
        return before, current_key()

    async def main() -> None:
        assert await work() == ("mine", "mine")
        assert current_key() is None

    asyncio.run(main())


def test_generator_functions_are_refused() -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    for function in (generator, async_generator):
        with pytest.raises(TypeError, match="cannot be bound to a generator function; use a with block inside"):
            affinity("mine")(function)
        with pytest.raises(TypeError, match="cannot be bound to a generator function"):
            affinity.bind(function)


# --- keys


@pytest.mark.parametrize("key", ["user-42", "ключ", b"\xff\0", "\0"])
def test_text_and_bytes_are_keys(key: Key) -> None:
    with affinity(key):
        assert current_key() == key


@pytest.mark.parametrize("wrong", [None, 42, bytearray(b"key"), ["key"]])
def test_nothing_else_is(wrong: Any) -> None:
    with pytest.raises(TypeError, match="an affinity key is text or bytes, not an object of type"):
        affinity(wrong)


@pytest.mark.parametrize("empty", ["", b""])
def test_an_empty_one_is_refused(empty: Key) -> None:
    with pytest.raises(ValueError, match="an affinity key must not be empty"):
        affinity(empty)


def test_text_that_cannot_be_sent_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="UTF-8 can express: surrogates not allowed") as caught:
        affinity("secret\ud800")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_its_repr_does_not_show_the_key() -> None:
    assert repr(affinity("secret")) == "<grpcpool.affinity>"
