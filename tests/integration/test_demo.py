"""The command ``grpcpool demo``: as a user runs it, and the decisions behind it by themselves."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import pytest
from rich.console import Console

from grpcpool import events
from grpcpool.cli.director import Act, plan
from grpcpool.cli.load import Latency, latency_of
from grpcpool.cli.model import Contender, Frame
from grpcpool.cli.notes import describe
from grpcpool.cli.report import counted, failed, milliseconds
from grpcpool.cli.screen import LiveScreen, PlainScreen, screen_for
from grpcpool.stats import MemberStats

COMMAND = (sys.executable, "-m", "grpcpool.cli")

# Seconds: several times what a run takes, so that only one that hangs is ended by it.
PATIENCE = 120

SIZE = 6


def environment() -> dict[str, str]:
    # What a developer's shell or a CI system says about colours must not decide these tests.
    told = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR", "COLUMNS")}
    return {**told, "TERM": "xterm-256color"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE, env=environment(), check=False
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Any]:
    path = tmp_path_factory.mktemp("demo") / "report.json"
    done = run("demo", "--seconds=2", f"--size={SIZE}", "--threads=4", "--seed=1", f"--json={path}")
    assert done.returncode == 0, done.stderr
    return done, json.loads(path.read_text(encoding="utf-8"))


class TestInAPipe:
    def test_measures_plain_channels_and_the_pool(self, ran: tuple[Any, Any]) -> None:
        _, report = ran
        names = [contender["name"] for contender in report["contenders"]]
        assert names == ["plain, pick_first", "plain, round_robin", "pool, power_of_two"]
        for contender in report["contenders"]:
            assert contender["succeeded"] > 0
            assert contender["calls"] == contender["succeeded"] + sum(contender["errors"].values())
            assert 0.004 <= contender["latency"]["p50"] <= contender["latency"]["p99"]
            assert contender["latency"]["p99"] <= contender["latency"]["slowest"]
            # Of the two that the load lasts; the first calls may have been under way before this was counted.
            assert contender["seconds"] > 1

    def test_counts_connections(self, ran: tuple[Any, Any]) -> None:
        _, report = ran
        first, balanced, pool = (contender["connections"]["before_kill"] for contender in report["contenders"])
        assert first == {"A": 1, "B": 0, "C": 0}
        assert balanced == {"A": 1, "B": 1, "C": 1}
        assert pool == {"A": 2, "B": 2, "C": 2}

    def test_kills_the_same_server_for_all(self, ran: tuple[Any, Any]) -> None:
        _, report = ran
        assert report["killed"] == "A"
        for contender in report["contenders"]:
            assert contender["killed_at"] >= 0.5

    def test_has_the_pools_own_account(self, ran: tuple[Any, Any]) -> None:
        _, report = ran
        *plain, pool = report["contenders"]
        assert [contender["pool"] for contender in plain] == [None, None]
        assert pool["pool"]["connects"] >= SIZE
        assert pool["pool"]["listener_errors"] == pool["pool"]["maintenance_errors"] == 0
        # The last calls end after the pool was asked. It counts those twice that it moved.
        assert 0 < pool["pool"]["calls"] <= pool["calls"] + pool["pool"]["retries"]
        assert any(note["source"] == "pool" and "left the picks" in note["text"] for note in pool["notes"])

    def test_writes_plain_lines(self, ran: tuple[Any, Any]) -> None:
        done, report = ran
        assert "\x1b" not in done.stdout
        assert "\r" not in done.stdout
        assert "…" not in done.stdout
        assert done.stderr == ""
        assert "kill server A" in done.stdout
        for contender in report["contenders"]:
            assert f"{contender['calls']} calls in" in done.stdout

    def test_leaves_no_server_behind(self, ran: tuple[Any, Any]) -> None:
        _, report = ran
        assert len(report["servers"]) == 3
        for server in report["servers"]:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("localhost", server["port"]), timeout=5)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and children inherit that: tests may be one of those."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_and_its_servers(number: signal.Signals, interruptible: None) -> None:
    with subprocess.Popen(
        [*COMMAND, "demo", "--seconds=60", "--threads=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        # It says what the servers are as soon as they run.
        assert process.stdout.readline().startswith("Three servers: ")
        servers = psutil.Process(process.pid).children()
        assert len(servers) == 3
        process.send_signal(number)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert complaints == "interrupted; the servers are stopped\n"
    assert not any(server.is_running() for server in servers)


def test_in_a_terminal_a_table_is_drawn_in_place() -> None:
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "demo", "--seconds=1", "--threads=2"], stdout=end, stderr=end, env=environment()
    ) as process:
        os.close(end)
        shown = b""
        while True:
            try:
                piece = os.read(terminal, 65536)
            except OSError:
                # How Linux says that nobody holds the other end any more; elsewhere the read is empty.
                break
            if not piece:
                break
            shown += piece
        os.close(terminal)
    assert process.returncode == 0
    cursor_up = b"\x1b[1A"
    assert cursor_up in shown
    # The members' table, and the cursor given back at the end.
    assert b"in flight" in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--strategy=best"], "round_robin, random, power_of_two"),
        (["--size=2"], "--size"),
        (["--seconds=0"], "--seconds"),
        (["--json=no/such/directory/report.json"], "there is no directory"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(arguments: list[str], complaint: str) -> None:
    done = run("demo", *arguments)
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.replace("│", " ").split())


def test_version() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("grpcpool ")


@pytest.mark.parametrize("missing", ["typer", "rich", "psutil"])
def test_without_the_extra_it_says_how_to_get_it(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from grpcpool.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert done.stderr == f"the grpcpool command needs {missing}: pip install 'grpcpool[cli]'\n"


def test_the_library_does_not_import_the_command() -> None:
    code = "import sys, grpcpool; print([name for name in sys.modules if 'grpcpool.cli' in name or name == 'rich'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "[]\n"


class TestLatency:
    def test_of_nothing(self) -> None:
        assert latency_of([]) is None

    def test_of_one_call(self) -> None:
        assert latency_of([0.25]) == Latency(p50=0.25, p99=0.25, slowest=0.25)

    def test_of_many(self) -> None:
        # 0 to 100: each percentile is its own number.
        assert latency_of([*range(100, -1, -1)]) == Latency(p50=50, p99=99, slowest=100)


class TestPlan:
    def test_a_pool_is_resized_on_the_way(self) -> None:
        assert [step.act for step in plan(10, resizable=True)] == [Act.KILL, Act.RESTART, Act.GROW, Act.SHRINK]

    def test_a_plain_channel_meets_the_same_kill(self) -> None:
        assert plan(10, resizable=False) == plan(10, resizable=True)[:2]

    @pytest.mark.parametrize("seconds", [1, 6, 600])
    def test_fits_into_the_time(self, seconds: float) -> None:
        times = [step.at for step in plan(seconds, resizable=True)]
        assert times == sorted(times)
        assert 0 < times[0] < times[-1] < seconds


class TestWords:
    def test_an_event_names_the_server(self) -> None:
        event = events.ConnectionDown(pool="p", member=4, endpoint="127.0.0.1:1", reason="gone")
        assert describe(event, {"127.0.0.1:1": "B"}) == "member 4 (B) left the picks: gone"

    def test_an_event_that_repeats_another_is_left_out(self) -> None:
        event = events.Disconnected(pool="p", member=4, endpoint="127.0.0.1:1", uptime=1.0, reason="gone")
        assert describe(event, {}) is None

    def test_growth_that_fell_short(self) -> None:
        event = events.ScaledUp(pool="p", duration=0.02, requested=3, succeeded=2, failed=1, new_size=8, reason="")
        assert describe(event, {}) == "grew by 2 of 3 members to 8 in 20 ms"

    def test_errors_by_frequency(self) -> None:
        assert failed({"INTERNAL": 1, "UNAVAILABLE": 3, "CANCELLED": 1}) == "3 UNAVAILABLE, 1 CANCELLED, 1 INTERNAL"
        assert failed({}) == "0"

    def test_connections(self) -> None:
        assert counted({"A": 2, "B": 0, "C": 1}) == "3 (2+0+1)"
        assert counted(None) == "-"

    def test_durations(self) -> None:
        assert milliseconds(0.01234) == "12.3"
        assert milliseconds(None) == "-"


class TestScreen:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def test_a_terminal_gets_the_live_table(self) -> None:
        console = Console(file=self.Terminal(), _environ={"TERM": "xterm"})
        assert isinstance(screen_for(console), LiveScreen)

    def test_a_dumb_terminal_gets_lines(self) -> None:
        console = Console(file=self.Terminal(), _environ={"TERM": "dumb"})
        assert isinstance(screen_for(console), PlainScreen)

    def test_every_state_of_a_member_can_be_shown(self) -> None:
        console = Console(file=self.Terminal(), _environ={"TERM": "xterm"}, width=120)
        states = ["ready", "connecting", "priming", "down", "draining", "ejected", "probing", "checking", "not serving"]
        members = tuple(
            MemberStats(
                id=number,
                endpoint="127.0.0.1:1",
                state=state,
                in_flight=0,
                calls=1,
                failures=0,
                age=1.0,
                latency=0.01,
                last_error=None,
                ejected_for=None,
            )
            for number, state in enumerate(states)
        )
        contender = Contender("pool", "", "", lambda notes: grpc.insecure_channel("127.0.0.1:1"))
        frame = Frame(
            name="pool",
            elapsed=1.0,
            seconds=2.0,
            calls=9,
            errors={},
            in_flight=0,
            recent=None,
            connections={"127.0.0.1:1": 1},
            members=members,
            notes=(),
        )
        with LiveScreen(console).watch(contender) as show:
            show(frame)
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert [state for state in states if state not in shown] == []

    def test_a_pipe_gets_lines_even_if_colour_is_forced(self) -> None:
        console = Console(file=io.StringIO(), _environ={"TERM": "xterm", "FORCE_COLOR": "1"})
        assert isinstance(screen_for(console), PlainScreen)
