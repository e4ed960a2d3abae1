"""Something that happens at one particular step of somebody else's work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

__all__ = ["Moment", "strike"]


class Moment:
    """Something that happens once, at the n-th line that is run of one file.

    Arguments:
        at: n.
        happens: what happens.
        file: the ``__file__`` of a module.

    Attributes:
        left: lines until then; more than 0 in the end if there were not so many.
    """

    def __init__(self, at: int, happens: Callable[[], object], file: str) -> None:
        self.left = at
        self.happens = happens
        self.file = file

    def trace(self, frame: FrameType, what: str, argument: object) -> Any:
        return self.line if frame.f_code.co_filename == self.file else None

    def line(self, frame: FrameType, what: str, argument: object) -> Any:
        if what == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.happens()
        return self.line

    @contextmanager
    def awaited(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            yield
        finally:
            sys.settrace(before)


def strike() -> NoReturn:
    """Do what Ctrl-C does."""
    raise KeyboardInterrupt
