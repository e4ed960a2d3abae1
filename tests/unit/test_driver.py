"""The driver: whatever fails, strikes or comes in between, every message is handled once and in order."""

from __future__ import annotations

import itertools
import random
from contextlib import suppress
from typing import Any, NoReturn

import pytest

from grpcpool.core import driver
from grpcpool.core.counters import Tally
from grpcpool.core.driver import Driver
from grpcpool.core.machine import Machine
from grpcpool.core.messages import Close, Emit, Open, Resize, Tick
from grpcpool.core.slot import Policy
from grpcpool.endpoint import Endpoint
from grpcpool.testing import FakeClock

from .helpers import in_threads
from .moment import Moment, strike


class Recorder:
    """A machine's driver whose effects are only noted."""

    def __init__(self) -> None:
        self.machine = Machine(
            Policy(name="p", endpoints=(Endpoint("a"),), size=1, telemetry_interval=1.0), random.Random(0)
        )
        self.clock = FakeClock()
        self.effects: list[Any] = []
        self.errors: list[BaseException] = []
        self.on_effect: Any = lambda effect: None
        self.driver = Driver(self.machine, clock=self.clock, perform=self.perform, on_error=self.errors.append)
        self.depth = 0

    def perform(self, effect: Any) -> None:
        self.depth += 1
        assert self.depth == 1, "effects ran at the same time"
        self.effects.append(effect)
        try:
            self.on_effect(effect)
        finally:
            self.depth -= 1


def test_an_effect_that_fails_takes_no_other_with_it() -> None:
    recorder = Recorder()

    def fail(effect: Any) -> NoReturn:
        raise RuntimeError(type(effect).__name__)

    recorder.on_effect = fail
    recorder.driver.post(Open())
    recorder.driver.pump()
    assert len(recorder.errors) == len(recorder.effects) > 1


def test_a_machine_that_fails_is_fed_again() -> None:
    recorder = Recorder()
    recorder.driver.post("not a message")  # type: ignore[arg-type]
    recorder.driver.post(Resize("x"))
    recorder.driver.pump()
    assert recorder.errors == []
    recorder.machine.policy = None  # type: ignore[assignment]
    recorder.driver.post(Open())
    recorder.driver.pump()
    (error,) = recorder.errors
    assert isinstance(error, AttributeError)


def test_a_machine_that_cannot_settle_is_asked_again() -> None:
    recorder = Recorder()
    settle = recorder.machine.settle

    def fail(now: float) -> NoReturn:
        recorder.machine.settle = settle  # type: ignore[method-assign]
        raise RuntimeError("settle")

    recorder.machine.settle = fail  # type: ignore[method-assign]
    recorder.driver.post(Open())
    recorder.driver.pump()
    assert [str(error) for error in recorder.errors] == ["settle"]
    recorder.driver.post(Tick())
    recorder.driver.pump()
    assert recorder.effects, "what was to be done is done now"


def test_an_interrupt_at_any_step_leaves_nothing_undone() -> None:
    undisturbed = Recorder()
    undisturbed.driver.post(Open())
    undisturbed.driver.pump()
    steps = 0
    for at in itertools.count(1):
        recorder = Recorder()
        recorder.driver.post(Open())
        moment = Moment(at, strike, driver.__file__)
        with suppress(KeyboardInterrupt), moment.awaited():
            recorder.driver.pump()
        if moment.left > 0:
            break
        steps += 1
        # Nobody else has to come for that, unless it was not even begun.
        if at > 1:
            assert list(map(type, recorder.effects)) == list(map(type, undisturbed.effects))
    assert steps > 20


def test_messages_posted_by_effects_are_handled_after_them() -> None:
    recorder = Recorder()
    seen: list[str] = []

    def on_effect(effect: Any) -> None:
        seen.append(type(effect).__name__)
        if isinstance(effect, Emit) and len(seen) < 3:
            recorder.driver.post(Close())
            recorder.driver.pump()
            seen.append("returned")

    recorder.on_effect = on_effect
    recorder.driver.post(Open())
    recorder.driver.pump()
    assert seen[1] == "returned", "a pump from within returns at once"
    assert recorder.machine.closed, "and its message is handled all the same"


def test_no_message_is_lost_and_none_handled_twice_with_many_threads(hasty: None) -> None:
    recorder = Recorder()
    recorder.driver.post(Open())
    recorder.driver.pump()
    handled = Tally()
    take = recorder.machine.take

    def count(message: Any, now: float) -> None:
        handled.add()
        take(message, now)

    recorder.machine.take = count  # type: ignore[method-assign]

    def work() -> None:
        for _ in range(200):
            recorder.driver.post(Tick())
            recorder.driver.pump()

    in_threads(16, work)
    assert handled.value() == 3200
    assert recorder.errors == []


def test_what_goes_wrong_after_all_was_discarded_is_nobodys_business() -> None:
    recorder = Recorder()

    def discard(effect: Any) -> NoReturn:
        recorder.driver.discard()
        raise RuntimeError("in a child, say")

    recorder.on_effect = discard
    recorder.driver.post(Open())
    recorder.driver.pump()
    assert len(recorder.effects) == 1
    assert recorder.errors == []


def test_an_interrupt_strikes_after_the_work_is_done() -> None:
    recorder = Recorder()
    struck: list[Any] = []

    def strike(effect: Any) -> None:
        if not struck:
            struck.append(effect)
            raise KeyboardInterrupt

    recorder.on_effect = strike
    recorder.driver.post(Open())
    with pytest.raises(KeyboardInterrupt):
        recorder.driver.pump()
    assert len(recorder.effects) > 1
    assert recorder.errors == []
    recorder.driver.post(Close())
    recorder.driver.pump()
    assert recorder.machine.closed, "and somebody else can go on"
