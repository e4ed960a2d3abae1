"""For tests: strategies without a network, time that stands still until it is told, and servers that go wrong."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from .clock import FakeClock as FakeClock
    from .fault_server import FaultServer as FaultServer
    from .faults import Failure as Failure
    from .harness import StrategyHarness as StrategyHarness
    from .proxy import Proxy as Proxy
    from .servers import ECHO as ECHO
    from .servers import ServerProcess as ServerProcess
    from .state import ConnectionSeen as ConnectionSeen
    from .state import Request as Request

__all__ = [
    # strategies
    "FakeClock",
    "StrategyHarness",
    # servers
    "ECHO",
    "ServerProcess",
    "FaultServer",
    "Failure",
    "Request",
    "ConnectionSeen",
    # the way to them
    "Proxy",
]

# Loaded when they are first used (PEP 562): `FaultServer` needs an extra, and nobody needs all of them.
_HOMES = {
    "ECHO": "servers",
    "ConnectionSeen": "state",
    "Failure": "faults",
    "FakeClock": "clock",
    "FaultServer": "fault_server",
    "Proxy": "proxy",
    "Request": "state",
    "ServerProcess": "servers",
    "StrategyHarness": "harness",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(_import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
