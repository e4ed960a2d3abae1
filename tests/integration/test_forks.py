"""Processes that fork while they use pools. The programs are in `forking`."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grpcpool.testing import ServerProcess

from . import forking

pytestmark = [pytest.mark.integration, pytest.mark.skipif(sys.platform == "win32", reason="there are no forks")]

ROOT = Path(__file__).parents[2]


def run(program: str, target: str) -> None:
    """Run the program, and see that it ends well."""
    command = [sys.executable, "-m", forking.__name__, program, target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]


PROGRAMS = [
    forking.under_mixed_load,
    forking.long_calls,
    forking.what_a_child_finds,
    forking.not_by_exit,
    forking.in_a_listener,
    forking.in_a_listener_elsewhere,
    forking.in_a_callback,
    forking.while_making_a_channel,
    forking.while_others_open_and_close,
    forking.in_a_with_statement,
    forking.multiprocessing_fork,
    forking.multiprocessing_spawn,
    forking.prefork,
    forking.pickling,
    forking.aio_after_its_loop,
    forking.aio_before_any_loop,
    forking.aio_on_a_running_loop,
]


def test_fifty_forks_under_load(server: ServerProcess) -> None:
    run("under_load", server.target)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_program(program: object, server: ServerProcess) -> None:
    run(program.__name__, server.target)  # type: ignore[attr-defined]


def request(port: int) -> int:
    """Ask the application on the port, and return the process id of the worker that answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return int(body)
    finally:
        connection.close()


def test_gunicorn_with_an_application_loaded_before_the_workers_are_forked(
    server: ServerProcess, tmp_path: Path
) -> None:
    pytest.importorskip("gunicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    errors, log = tmp_path / "errors", tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers=4", f"--bind=127.0.0.1:{port}"]
    command += [f"--log-file={log}", "tests.integration.preloaded:application"]
    given = {"GRPCPOOL_TEST_TARGET": server.target, "GRPCPOOL_TEST_ERRORS": str(errors)}
    with (
        ThreadPoolExecutor(8) as threads,
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **given}, stderr=subprocess.DEVNULL) as master,
    ):
        try:
            while True:
                assert master.poll() is None, log.read_text()
                try:
                    request(port)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            workers: Counter[int] = Counter()
            # Until each of the four has had its share, and one more that has come for one that died.
            while len(workers) < 4:
                workers.update(threads.map(request, [port] * 100))
            os.kill(next(iter(workers)), signal.SIGTERM)
            while len(workers) < 5:
                workers.update(threads.map(request, [port] * 100))
        finally:
            master.terminate()
            master.wait(30)
    assert master.returncode == 0, log.read_text()
    assert not errors.exists(), errors.read_text()
    assert "Worker timeout" not in log.read_text()
