"""Strategies under load, without a network: a discrete-event simulation of many pools and their backends.

It needs nothing beyond grpcio; what reads TOML needs ``tomli`` on Python 3.10, and `plot` needs the extra ``plot``.
"""

from __future__ import annotations

from .figures import Figures, Latency, joined
from .loop import run
from .named import contender, contenders
from .scenario import Antagonist, Backends, Failure, Resize, Scenario, Slowdown

__all__ = [
    "Antagonist",
    "Backends",
    "Failure",
    "Figures",
    "Latency",
    "Resize",
    "Scenario",
    "Slowdown",
    "contender",
    "contenders",
    "joined",
    "run",
]
