"""The servers of a soak, and what happens to them."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from grpcpool.testing import ServerProcess

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Director"]

SERVERS = 3
# Seconds: between two misfortunes, and how long each lasts.
REST = (0.5, 1.5)
AWAY = (0.3, 1.0)
FROZEN = (0.5, 1.5)


class Director:
    """Kills, stops, freezes and restarts one server at a time, of three; a fourth has moods of its own.

    Attributes:
        targets: of all servers.
        did: how often what was done.
        log: when it was, and what.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._servers = [ServerProcess() for _ in range(SERVERS)]
        self._moody: subprocess.Popen[str] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.targets: list[str] = []
        self.did: Counter[str] = Counter()
        self.log: list[str] = []

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.soak.moody"]
        self._moody = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._moody.stdout is not None
        for server in self._servers:
            server.start()
        port = int(self._moody.stdout.readline())
        self.targets = [*(server.target for server in self._servers), f"localhost:{port}"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.pause()
        for server in self._servers:
            server.kill()
        assert self._moody is not None
        self._moody.kill()
        with self._moody:
            # Which waits for it, and closes its pipes.
            pass

    def go(self) -> None:
        """Begin."""
        self._over.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def pause(self) -> None:
        """Do nothing more; return when all servers are up."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        chance = self._chance
        while not self._over.wait(chance.uniform(*REST)):
            server = chance.choice(self._servers)
            what = chance.choice(("killed", "stopped", "frozen"))
            self.did[what] += 1
            self.log.append(f"{time.strftime('%H:%M:%S')} {what} {server.target}")
            if what == "frozen":
                server.pause()
                self._over.wait(chance.uniform(*FROZEN))
                server.resume()
                continue
            (server.kill if what == "killed" else server.stop)()
            self._over.wait(chance.uniform(*AWAY))
            server.start()
