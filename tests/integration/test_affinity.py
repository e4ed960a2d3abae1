"""Keys that RPCs bring along in their metadata, specified once and shown of both pools."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest

import grpcpool
from grpcpool import affinity
from grpcpool.keys import Key, current_key
from grpcpool.strategies import Clock, ConsistentHash, Member
from grpcpool.testing import ECHO, FaultServer, ServerProcess

from .flavours import Flavour, Pool
from .waiting import until

pytestmark = pytest.mark.integration

HEADER = "x-user"
MINE = ((HEADER, "mine"),)


class Recorder:
    """Members in turn, and a note of the key that each was asked for with."""

    keyed = True

    def __init__(self) -> None:
        self.keys: list[Key | None] = []

    def build(self, members: Sequence[Member], *, rng: random.Random, clock: Clock) -> Callable[..., Member]:
        turn = itertools.cycle(members).__next__

        def pick(key: Key | None = None) -> Member:
            self.keys.append(key)
            return turn()

        return pick


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make_pool(flavour: Flavour, server: ServerProcess) -> Iterator[Callable[..., Pool]]:
    """Pools with all their members connected."""
    made: list[Pool] = []

    def make(**options: Any) -> Pool:
        target = options.pop("target", server.target)
        pool = flavour.insecure(target, **{"size": 2, "affinity_header": HEADER, **options})
        made.append(pool)
        pool.wait_ready(min_ready=pool.config.member_count)
        return pool

    yield make
    for pool in made:
        pool.close()


@pytest.fixture
def pool(make_pool: Callable[..., Pool], recorder: Recorder) -> Pool:
    return make_pool(strategy=recorder)


def calls(pool: Pool) -> list[int]:
    return [member.calls for member in pool.stats().members]


# --- routing


def test_equal_headers_go_to_the_same_member(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(size=4, strategy=ConsistentHash(bound=math.inf), unresponsive_after=None)
    homes = {}
    for number in range(16):
        metadata = [(HEADER, f"user {number}")]
        before = calls(pool)
        pool.unary(metadata=metadata)
        pool.server_stream(metadata=metadata)
        pool.client_stream([b"a"], metadata=metadata)
        pool.bidi([b"a"], metadata=metadata)
        served = [after - earlier for after, earlier in zip(calls(pool), before, strict=True)]
        assert sorted(served) == [0, 0, 0, 4]
        homes[number] = served.index(4)
    assert len(set(homes.values())) > 1
    # It is the same key that a block gives.
    for number, home in homes.items():
        before = calls(pool)
        with affinity(f"user {number}"):
            pool.unary()
        assert calls(pool)[home] == before[home] + 1


def test_every_kind_of_rpc_has_its_key(flavour: Flavour, pool: Pool, recorder: Recorder) -> None:
    metadata = iter([(HEADER, "one"), ("count", "5")])
    assert pool.server_stream(metadata=metadata) == [b"x"] * 5
    assert pool.unary(metadata=[(HEADER, "two")]) == b"x"
    assert flavour.finish(pool.begin_unary(metadata=[(HEADER, "three")])) == b"x"
    assert pool.client_stream([b"a", b"b"], metadata=[(HEADER, "four")]) == b"ab"
    assert pool.bidi([b"a", b"b"], metadata=[(HEADER, "five")]) == [b"a", b"b"]
    assert recorder.keys == ["one", "two", "three", "four", "five"]
    until(lambda: pool.stats().in_flight == 0)
    assert sum(calls(pool)) == 5


def test_so_has_every_way_of_calling_that_only_sync_channels_have(server: ServerProcess, recorder: Recorder) -> None:
    with grpcpool.insecure_channel(server.target, strategy=recorder, affinity_header=HEADER) as pool:
        pool.wait_ready()
        unary, stream = pool.unary_unary(f"{ECHO}Unary"), pool.stream_unary(f"{ECHO}ClientStream")
        # By position, too.
        assert unary(b"x", 60.0, ((HEADER, "one"),), None, True, grpc.Compression.Gzip) == b"x"
        assert unary.with_call(b"x", metadata=((HEADER, "two"),))[1].code() is grpc.StatusCode.OK
        assert unary.future(b"x", 60.0, ((HEADER, "three"),)).result() == b"x"
        assert stream.with_call(iter([b"a"]), metadata=((HEADER, "four"),))[0] == b"a"
        assert stream.future(iter([b"a"]), metadata=((HEADER, "five"),)).result() == b"a"
        assert recorder.keys == ["one", "two", "three", "four", "five"]


@pytest.mark.parametrize("registered", [{}, {"_registered_method": True}, True])
def test_methods_are_registered_by_keyword_and_by_position(
    flavour: Flavour, pool: Pool, recorder: Recorder, registered: Any
) -> None:
    arguments = (None, None, True) if registered is True else ()
    keywords = {} if registered is True else registered
    for kind, name in (("unary_unary", "Unary"), ("stream_unary", "ClientStream")):
        request: Any = b"x" if kind == "unary_unary" else iter([b"x"])
        callable_ = flavour.call(getattr(pool.raw, kind), f"{ECHO}{name}", *arguments, **keywords)
        assert callable_ is flavour.call(getattr(pool.raw, kind), f"{ECHO}{name}", *arguments, **keywords)
        assert flavour.unary(callable_, request, metadata=MINE) == b"x"
    assert recorder.keys == ["mine", "mine"]


def test_many_at_once_have_each_their_own(flavour: Flavour, pool: Pool, recorder: Recorder) -> None:
    unary = pool.method("Unary")
    keys = [f"user {number}" for number in range(200)]
    running = [flavour.in_background(flavour_unary(flavour, unary, key)) for key in keys]
    for each in running:
        each.result(60)
    assert Counter(recorder.keys) == Counter(keys)


def flavour_unary(flavour: Flavour, unary: Any, key: str) -> Callable[[], Any]:
    return lambda: unary(b"x", metadata=[(HEADER, key)])


# --- which key


class Pairs:
    """Something of the user's own that can be iterated over, as often as one likes."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter([("other", "1"), *MINE])


@pytest.mark.parametrize(
    "make",
    [
        lambda: (("other", "1"), *MINE),
        lambda: [("other", "1"), [HEADER, "mine"]],
        lambda: grpc.aio.Metadata(("other", "1"), *MINE),
        {"other": "1", HEADER: "mine"}.items,
        lambda: iter([("other", "1"), *MINE]),
        lambda: ((name, value) for name, value in MINE),
        Pairs,
        lambda: [(HEADER.encode(), "mine")],
    ],
    ids=["tuple", "list", "Metadata", "view", "iterator", "generator", "own", "bytes"],
)
def test_metadata_may_come_in_any_form(pool: Pool, recorder: Recorder, make: Callable[[], Any]) -> None:
    assert pool.unary(metadata=make()) == b"x"
    assert recorder.keys == ["mine"]


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        (None, None),
        ([], None),
        ([("other", "1")], None),
        ([(HEADER, "")], None),
        ([(HEADER, b"")], None),
        ([(HEADER, b"bytes")], b"bytes"),
        ([(HEADER, "first"), (HEADER, "second")], "first"),
        ([(HEADER, ""), (HEADER, "second")], None),
        ([(f"{HEADER}-id", "longer"), ("x", "shorter")], None),
    ],
)
def test_the_first_value_counts_unless_it_is_empty(
    pool: Pool, recorder: Recorder, metadata: Any, key: Key | None
) -> None:
    pool.unary(metadata=metadata)
    with affinity("outside"):
        pool.unary(metadata=metadata)
        pool.server_stream(metadata=metadata)
    pool.unary()
    # The header wins; without one the block counts, and without both there is none.
    assert recorder.keys == [key, key or "outside", key or "outside", None]


def test_a_binary_header_has_bytes(make_pool: Callable[..., Pool], recorder: Recorder) -> None:
    pool = make_pool(strategy=recorder, affinity_header="key-bin")
    pool.unary(metadata=[("key-bin", b"\x00\xff")])
    assert recorder.keys == [b"\x00\xff"]


def test_without_the_option_a_header_is_nothing_special(make_pool: Callable[..., Pool], recorder: Recorder) -> None:
    pool = make_pool(strategy=recorder, affinity_header=None)
    pool.unary(metadata=MINE)
    pool.server_stream(metadata=MINE)
    assert recorder.keys == [None, None]


def test_the_key_is_that_of_one_rpc_and_not_of_what_runs_on_its_behalf(pool: Pool, recorder: Recorder) -> None:
    seen: list[Key | None] = []

    def requests() -> Iterator[bytes]:
        seen.append(current_key())
        yield b"a"

    assert pool.bidi(requests(), metadata=MINE) == [b"a"]
    assert pool.client_stream(requests(), metadata=MINE) == b"a"
    assert recorder.keys == ["mine", "mine"]
    assert seen == [None, None]


# --- what goes wrong


@pytest.mark.parametrize("retried", [False, True])
@pytest.mark.parametrize("kind", ["Unary", "ServerStream"])
def test_what_is_sent_again_is_picked_for_by_the_same_key(
    flavour: Flavour,
    make_pool: Callable[..., Pool],
    recorder: Recorder,
    fault_server: FaultServer,
    kind: str,
    retried: bool,
) -> None:
    if kind == "ServerStream" and not retried:
        pytest.skip("streams stay where they are")
    options: dict[str, Any] = {"idempotent": "*", "retry": grpcpool.Retry(backoff_min=0.01)} if retried else {}
    pool = make_pool(strategy=recorder, target=fault_server.target, unresponsive_after=None, **options)
    fault_server.refuse_streams(times=1)
    if kind == "Unary":
        assert pool.unary(metadata=MINE) == b"x"
    else:
        assert pool.server_stream(metadata=MINE) == [b"x"] * 3
    assert len(recorder.keys) >= 2
    assert set(recorder.keys) == {"mine"}


def test_a_call_is_moved_by_the_key_of_the_block_that_it_began_in(
    flavour: Flavour, make_pool: Callable[..., Pool], recorder: Recorder, fault_server: FaultServer
) -> None:
    if flavour.name == "sync":
        pytest.skip("calls that are futures stay where they are")
    pool = make_pool(strategy=recorder, target=fault_server.target, unresponsive_after=None)
    fault_server.refuse_streams(times=1)
    with affinity("mine"):
        call = pool.begin_unary()
    with affinity("other"):
        assert flavour.finish(call) == b"x"
    assert len(recorder.keys) >= 2
    assert set(recorder.keys) == {"mine"}


def test_a_stream_is_begun_anew_by_the_key_of_the_block_that_it_began_in(
    flavour: Flavour, make_pool: Callable[..., Pool], recorder: Recorder, fault_server: FaultServer
) -> None:
    pool = make_pool(
        strategy=recorder, target=fault_server.target, idempotent="*", retry=grpcpool.Retry(backoff_min=0.01)
    )
    fault_server.fail(grpc.StatusCode.UNAVAILABLE, times=1)
    with affinity("mine"):
        call = pool.begin_stream()
    assert flavour.read(call) == b"x"
    assert recorder.keys == ["mine", "mine"]
    flavour.cancel(call)


@pytest.mark.parametrize(
    "metadata",
    [5, "ab", [5], [(HEADER,)], [(HEADER, 5)], [(HEADER, "\ud800")], {HEADER: "mine"}, [(5, 5)]],
    ids=["number", "text", "no pairs", "no value", "number as value", "surrogate", "dict", "number as name"],
)
def test_what_grpc_refuses_is_refused_as_ever(flavour: Flavour, pool: Pool, recorder: Recorder, metadata: Any) -> None:
    plain = flavour.insecure(pool.config.endpoints[0].target, size=1)
    with pytest.raises((TypeError, ValueError)) as expected:
        plain.unary(metadata=metadata)
    with pytest.raises(type(expected.value)) as caught:
        pool.unary(metadata=metadata)
    assert str(caught.value) == str(expected.value)
    plain.close()
    # Their tracebacks hold the calls, and an aio call that could not be sent is over when it is gone.
    del expected, caught
    flavour.collect()
    until(lambda: pool.stats().in_flight == 0)
    # And the next one finds nothing left of it.
    pool.unary()
    assert recorder.keys[-1] is None


def test_errors_of_the_service_come_out_and_nothing_stays_in_flight(flavour: Flavour, pool: Pool) -> None:
    metadata = [(HEADER, "mine"), ("code", "FAILED_PRECONDITION")]
    for call in (
        lambda: pool.unary(metadata=metadata),
        lambda: pool.server_stream(metadata=metadata),
        lambda: pool.client_stream([b"a"], metadata=metadata),
        lambda: pool.bidi([b"a"], metadata=metadata),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        # What grpc.aio makes of a message that could not be sent any more, for the call had ended.
        if flavour.name == "aio" and caught.value.details() == "Internal error from Core":
            continue
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    stream = pool.begin_stream(metadata=[(HEADER, "mine"), ("count", "1000000"), ("gap", "0.05")])
    flavour.read(stream)
    assert pool.stats().in_flight == 1
    flavour.cancel(stream)
    until(lambda: pool.stats().in_flight == 0)


# --- beside other things


def test_a_members_own_channel_stays_there_as_long_as_the_pool_has_it(
    flavour: Flavour, pool: Pool, recorder: Recorder
) -> None:
    stream = pool.begin_stream(metadata=[("count", "1000000"), ("gap", "0.05")])
    flavour.read(stream)
    channel = flavour.call(pool.raw.get_channel)
    for number in range(4):
        pool.unary(on=channel, metadata=[(HEADER, f"user {number}")])
    assert sorted(calls(pool)) == [1, 4]
    assert recorder.keys == [None, None]
    # The idle one of both leaves.
    pool.scale_down(1)
    pool.unary(on=channel, metadata=MINE)
    assert calls(pool) == [2]
    assert recorder.keys[2:] == ["mine"]
    flavour.cancel(stream)


class AddSync(grpc.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(client_call_details._replace(metadata=MINE), request)


class AddAio(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details._replace(metadata=grpc.aio.Metadata(*MINE)), request)


def test_interceptors_come_before_the_pick_in_a_sync_pool_and_after_it_in_an_aio_pool(
    flavour: Flavour, make_pool: Callable[..., Pool], recorder: Recorder
) -> None:
    pool = make_pool(strategy=recorder, interceptors=[AddSync() if flavour.name == "sync" else AddAio()])
    assert pool.unary() == b"x"
    assert recorder.keys == ["mine" if flavour.name == "sync" else None]


def test_interceptors_around_a_sync_pool_come_before_the_pick(server: ServerProcess, recorder: Recorder) -> None:
    with grpcpool.insecure_channel(server.target, strategy=recorder, affinity_header=HEADER) as pool:
        pool.wait_ready()
        unary: Any = grpc.intercept_channel(pool, AddSync()).unary_unary(f"{ECHO}Unary")
        assert unary(b"x") == b"x"
    assert recorder.keys == ["mine"]
