"""Real gRPC servers in processes of their own, to be slowed, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["ECHO", "ServerProcess"]

# The service that these servers offer: `Unary`, `ServerStream`, `ClientStream` and `Bidi`, with raw bytes as messages.
ECHO = "/grpcpool.testing.Echo/"

# A server is a Python process that imports grpc: a second or two on a busy machine. Thirty mean that it never comes.
START_TIMEOUT = 30.0


class ServerProcess:
    """A gRPC echo server in a process of its own. A context manager; not thread-safe; POSIX only (it sends signals).

    It echoes bytes. What a call shall suffer is said in its metadata: ``delay`` (seconds before the answer), ``code``
    (a status name such as ``INTERNAL``, to fail with), ``count`` (how many messages a server stream sends; default 3)
    and ``gap`` (seconds between them). With ``answer`` set to ``deadline`` a unary call is answered with the seconds
    that it had left when it came, or with nothing if it had no deadline. It also answers the health check.

    Arguments:
        delay: seconds that every call takes.
        port: TCP port on this machine; 0: any that is free. It stays the same when the server is started again.
        address: a gRPC address to listen on instead, such as ``"unix:/tmp/x.sock"``.
        certificate, key: PEM files; the server then speaks TLS.
        client_ca: PEM file; the server then demands a client certificate signed by it.
        options: channel arguments of the server, such as ``{"grpc.max_concurrent_streams": 100}``.

    Attributes:
        target: what a client connects to.
    """

    def __init__(
        self,
        *,
        delay: float = 0.0,
        port: int = 0,
        address: str | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        client_ca: Path | None = None,
        options: Mapping[str, int] | None = None,
    ) -> None:
        self._arguments = [f"--delay={delay}"]
        for name, value in (("certificate", certificate), ("key", key), ("client-ca", client_ca)):
            if value is not None:
                self._arguments.append(f"--{name}={value}")
        self._arguments += [f"--option={name}={value}" for name, value in (options or {}).items()]
        self._address = address
        self._port = port
        self._process: subprocess.Popen[str] | None = None
        self.target = address or ""

    @property
    def port(self) -> int:
        """The TCP port; 0 if the server listens on something else, or never started."""
        return self._port

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self) -> Self:
        """Start the server, and return when it accepts connections."""
        if self._process is not None:
            raise RuntimeError("the server is running already")
        address = self._address or f"localhost:{self._port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "grpcpool.testing.serve", f"--address={address}", *self._arguments],
            # Held open for as long as this process lives, so that the server notices if it is killed.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal goes to a whole process group; when a server dies is for its owner to say.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            code = self._process.wait(START_TIMEOUT)
            self._release()
            raise RuntimeError(f"the server on {address} did not start (exit code {code}); what it said is above")
        if self._address is None:
            self._port = int(line)
            self.target = f"localhost:{self._port}"
        return self

    def kill(self) -> None:
        """End the server as a crash does (SIGKILL): connections are reset, nothing is said."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server gracefully (SIGTERM): it tells its clients, and lets running calls end."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze the server (SIGSTOP), and return when it is: connections stay open, nothing is answered."""
        self._send(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._send(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def _send(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the server is not running")
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(START_TIMEOUT)
        self._release()

    def _release(self) -> None:
        if self._process is not None and self._process.stdout is not None and self._process.stdin is not None:
            self._process.stdout.close()
            self._process.stdin.close()
        self._process = None
