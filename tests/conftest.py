"""Generated code for the tests: made from ``tests/protos`` when it is first asked for, and never kept."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# What is found must not depend on how busy the machine is.
settings.register_profile("grpcpool", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("grpcpool")

PROTOS = Path(__file__).parent / "protos"


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the modules that grpcio-tools makes of ``echo.proto``; it is on `sys.path`."""
    directory = tmp_path_factory.mktemp("generated")
    # In a process of its own: protoc is a program and behaves like one, down to how it reports errors.
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
    command += [f"--python_out={directory}", f"--grpc_python_out={directory}", "echo.proto"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # For good: the modules live as long as the interpreter does, and one imports the other.
    sys.path.append(str(directory))
    return directory


@pytest.fixture(scope="session")
def pb2(generated: Path) -> Any:
    """The messages of `grpcpool.testing.Echo`."""
    return importlib.import_module("echo_pb2")


@pytest.fixture(scope="session")
def pb2_grpc(generated: Path) -> Any:
    """The stub of `grpcpool.testing.Echo`."""
    return importlib.import_module("echo_pb2_grpc")
