"""A WSGI application whose pool is made and used when it is imported: by gunicorn's master, before it forks workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpcpool
from grpcpool.testing import ECHO

pool = grpcpool.insecure_channel(os.environ["GRPCPOOL_TEST_TARGET"], size=3)
unary = pool.unary_unary(f"{ECHO}Unary")
pool.wait_ready(min_ready=3)


def _go_on() -> None:
    """Use the pool for as long as this process lives, and write down whatever goes wrong."""
    pause = threading.Event()
    while not pause.wait(0.002):
        try:
            assert unary(b"master", timeout=60) == b"master"
        except Exception as error:
            with Path(os.environ["GRPCPOOL_TEST_ERRORS"]).open("a") as file:
                file.write(f"{error!r}\n")


for _ in range(2):
    threading.Thread(target=_go_on, daemon=True).start()


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer with the process id, after a call through the pool."""
    assert unary(b"worker", timeout=60) == b"worker"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
