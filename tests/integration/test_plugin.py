"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.integration

TESTS = """
import socket

import grpc
import pytest

UNARY = "/grpcpool.testing.Echo/Unary"
seen = []


def test_one(fault_server):
    fault_server.fail(grpc.StatusCode.ABORTED)
    with grpc.insecure_channel(fault_server.target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(UNARY)(b"x", timeout=60)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    seen.append(fault_server)


def test_several(fault_servers):
    seen.extend(fault_servers(2))
    seen.extend(fault_servers(1))
    assert len({server.port for server in seen}) == 4


def test_proxy(fault_server, fault_proxy):
    proxy = fault_proxy(fault_server.target)
    seen.append(proxy)
    with grpc.insecure_channel(proxy.target) as channel:
        assert channel.unary_unary(UNARY)(b"x", timeout=60) == b"x"
    assert fault_server.calls == 1


def test_process(server_process):
    server = server_process(delay=0.01)
    seen.append(server)
    with grpc.insecure_channel(server.target) as channel:
        assert channel.unary_unary(UNARY)(b"x", timeout=60) == b"x"


def test_all_of_them_are_gone_after_their_tests():
    assert len(seen) == 6
    for each in seen:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("localhost", each.port))
"""


def test_the_fixtures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    done = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=5)


def test_what_the_documentation_shows(pytester: pytest.Pytester) -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
    shown = [
        block for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if "def test_" in block
    ]
    assert len(shown) == 1
    pytester.makepyfile('import grpc\nimport grpcpool\n\nGREET = "/s/SayHello"\n\n' + shown[0])
    pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_the_fixtures_say_what_they_are(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest_subprocess("--fixtures").stdout.str()
    for name in ("fault_server", "fault_servers", "fault_proxy", "server_process"):
        assert f"\n{name} -- " in listed


def test_a_run_that_uses_none_of_them_imports_nothing() -> None:
    program = "import _grpcpool_pytest, sys; print(sorted({'grpc', 'h2', 'grpcpool', 'asyncio'} & set(sys.modules)))"
    without = "import pytest, sys; print(sorted({'grpc', 'h2', 'grpcpool', 'asyncio'} & set(sys.modules)))"
    said = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
        for code in (program, without)
    ]
    assert said[0] == said[1]
    assert b"grpc" not in said[0]
