"""Many runs, on all processors."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from .figures import Figures
from .loop import run
from .named import contender
from .scenario import Scenario

__all__ = ["Task", "processors", "run_all"]


@dataclass(frozen=True, slots=True)
class Task:
    """One run: what `run` takes, the strategy by name."""

    scenario: Scenario
    strategy: str
    seed: int

    def __call__(self) -> Figures:
        """Run it."""
        return run(self.scenario, contender(self.strategy), self.seed)


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(tasks: Sequence[Task], jobs: int, done: Callable[[Task], object]) -> list[Figures]:
    """Run all tasks and return their figures, in the order of the tasks; how many run at once does not change them.

    Arguments:
        jobs: processes to use, 1 or more; with 1 it is this process alone.
        done: told of each task that is done, in the caller's thread.
    """
    if jobs == 1 or len(tasks) < 2:
        figures = []
        for task in tasks:
            figures.append(task())
            done(task)
        return figures
    # Not forked: grpc may have threads in this process.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_end_at_once)
    try:
        # Ctrl-C in a terminal goes to every process of the group, and one that is just starting would answer it with a
        # traceback. A process inherits the signals that the thread which starts it has blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            futures: dict[Future[Figures], Task] = {executor.submit(task): task for task in tasks}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for future in as_completed(futures):
            future.result()
            done(futures[future])
        return [future.result() for future in futures]
    finally:
        executor.shutdown(cancel_futures=True)


def _end_at_once() -> None:
    # There is nothing to clean up here, nor to say.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
