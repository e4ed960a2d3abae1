"""For tests: strategies without a network, time that stands still until it is told, and real servers to talk to."""

from .clock import FakeClock
from .harness import StrategyHarness
from .servers import ECHO, ServerProcess

__all__ = ["ECHO", "FakeClock", "ServerProcess", "StrategyHarness"]
