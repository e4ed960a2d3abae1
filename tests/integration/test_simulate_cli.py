"""The command ``grpcpool simulate``: as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

import grpcpool
from grpcpool.cli.app import app

from .waiting import until

COMMAND = (sys.executable, "-m", "grpcpool.cli", "simulate")

# Seconds: several times what a run takes, so that only one that hangs is ended by it.
PATIENCE = 120

TINY = """
title = "one of three hangs"
qps = 200
clients = 2
duration = 4
warm_up = 1
timeout = 1

[[backends]]
count = 2

[[backends]]
hangs = 2
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "tiny.toml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    # As wide as a pipe and as plain, whatever the terminal is that the tests run in.
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return "tiny.toml"


def simulate(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["simulate", *arguments])


def succeed(*arguments: str) -> str:
    result = simulate(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def fail(*arguments: str) -> str:
    result = simulate(*arguments)
    assert result.exit_code == 2, result.output
    # Without the frame around it, and the line breaks that this makes.
    return " ".join(result.output.replace("│", " ").split())


def test_scenarios_are_listed() -> None:
    lines = succeed("--list").splitlines()
    assert [line.split()[0] for line in lines] == list("ABCDEFGHIJ")
    assert all(len(line) <= 80 for line in lines)


def test_a_table_has_a_row_for_each_strategy(tiny: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    out = succeed(tiny, "-s", "round_robin", "-s", "power_of_two", "-s", "round_robin", "--seeds", "2", "--jobs", "1")
    assert signal.getsignal(signal.SIGTERM) == before
    assert "tiny: one of three hangs" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith((" round", " power"))}
    assert list(rows) == ["round_robin", "power_of_two"]
    errors, over, _, p99, p999, ratio, peak = (float(cell) for cell in rows["round_robin"])
    assert errors == pytest.approx(100 * 2 / 9, abs=2)
    assert over == 0
    assert (p99, p999, ratio) == (1000.0, 1000.0, 1.0)
    assert peak == pytest.approx(1, abs=0.05)
    assert float(rows["power_of_two"][0]) < errors


def test_without_strategies_all_are_compared_that_need_no_key(tiny: str, tmp_path: Path) -> None:
    succeed(tiny, "--seeds=1", "--jobs=1", "--json=out.json")
    (scenario,) = json.loads((tmp_path / "out.json").read_text())["scenarios"]
    named = [entry["strategy"] for entry in scenario["strategies"]]
    assert {"round_robin", "random", "power_of_two"} <= set(named) <= set(grpcpool.strategies.available())


def test_json_has_everything_and_the_number_of_processes_changes_nothing(tiny: str, tmp_path: Path) -> None:
    for jobs in ("1", "2"):
        options = ("--seeds=3", "--seed=7", f"--jobs={jobs}", f"--json={jobs}.json")
        succeed(tiny, "C", "-s", "round_robin", "-s", "random", "--duration=1", "--load=0.5", "--size=3", *options)
    text = (tmp_path / "1.json").read_text()
    assert (tmp_path / "2.json").read_text() == text
    document = json.loads(text)
    assert document["versions"]["grpcpool"] == grpcpool.__version__
    assert document["seeds"] == [7, 8, 9]
    mine, equal = document["scenarios"]
    assert (mine["scenario"]["name"], equal["scenario"]["name"]) == ("tiny", "C")
    assert (mine["scenario"]["load"], mine["scenario"]["duration"], mine["scenario"]["warm_up"]) == (0.5, 1, 0.2)
    for scenario in (mine, equal):
        assert sum(group["count"] for group in scenario["scenario"]["backends"]) == 3
        assert [entry["strategy"] for entry in scenario["strategies"]] == ["round_robin", "random"]
        for entry in scenario["strategies"]:
            p99 = sorted(each["latency"]["p99"] for each in entry["runs"])
            assert len(p99) == 3
            assert entry["median"]["latency"]["p99"] == p99[1]
            assert len(entry["median"]["latency"]["curve"]) == len(document["curve_percentiles"])
            assert entry["median"]["error_share"] == 0


def test_a_plot_is_drawn(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "refused.toml").write_text("qps = 50\nduration = 1\nwarm_up = 0\n[[backends]]\ncount = 2\nfails = {}")
    (tmp_path / "halves.toml").write_text("qps = 50\nduration = 1\nwarm_up = 0\n[[backends]]\n[[backends]]\ncount = 2")
    options = ("--seeds=1", "--jobs=1", "--plot=picture")
    out = succeed(tiny, "refused.toml", "halves.toml", "-s", "round_robin", *options)
    assert "drawn into picture" in out
    # A scenario need not have a title.
    assert "\nrefused " in out
    assert (tmp_path / "picture").read_bytes().startswith(b"\x89PNG\r\n")
    # Nothing but refused calls: no latencies, and nothing to compare.
    assert [line.split()[1:] for line in out.splitlines() if "100.000" in line] == [
        ["100.000", "0.000", "-", "-", "-", "-", "1.02"]
    ]


STRATEGY = """
class Broken:
    def build(self, members, *, rng, clock):
        return lambda: None

class Last:
    def build(self, members, *, rng, clock):
        return lambda: members[-1]
"""


def test_ones_own_strategy_is_found_where_one_is(tiny: str, tmp_path: Path) -> None:
    # In a process of its own, in which the current directory is not on the path beforehand.
    (tmp_path / "mine.py").write_text(STRATEGY)
    script = "import sys; sys.path = [p for p in sys.path if p]; from grpcpool.cli import main; main()"
    options = ("-s", "mine:Last", "-s", "mine:Broken", "--seeds=2", "--jobs=2")
    done = subprocess.run(
        [sys.executable, "-c", script, "simulate", tiny, *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith(" mine:Last")]
    assert row[-1] == "3.00"
    assert "mine:Broken: the strategy failed: the picker returned" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["K"], "SCENARIO: scenario: 'K' is not allowed; one of A, B"),
        (["missing.toml"], "No such file or directory"),
        (["tiny.toml", "--strategy=nobody"], "--strategy: strategy: 'nobody' is not allowed; one of round_robin"),
        (["tiny.toml", "-s", "json:dumps"], "TypeError"),
        (["A", "--load=0.5"], "scenario A: load: 0.5 is not allowed"),
        (["tiny.toml", "--size=1"], "scenario tiny: size: 1 is not allowed; an integer of 2 or more"),
        (["tiny.toml", "--duration=0"], "scenario tiny: duration"),
        (["tiny.toml", "--json=no/such/file"], "--json: there is no directory"),
        (["tiny.toml", "--plot=no/such/file"], "--plot: there is no directory"),
        (["tiny.toml", "--seeds=0"], "--seeds"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_simulated_is_refused(tiny: str, arguments: list[str], message: str) -> None:
    assert message in fail(*arguments)


def test_without_matplotlib_a_plot_is_refused_before_anything_is_run(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None in `sys.modules` is how Python itself is told that there is no such module.
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "grpcpool.simulation.plot", raising=False)
    assert "pip install 'grpcpool[plot]'" in fail(tiny, "--plot=out.png")
    assert not (tmp_path / "out.png").exists()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and children inherit that: tests may be one of those."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_ends_it(tiny: str, jobs: int, interruptible: None) -> None:
    with subprocess.Popen(
        [*COMMAND, "H", "-s", "random", "--seeds=200", f"--jobs={jobs}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        itself = psutil.Process(process.pid)
        if jobs > 1:
            # Two workers, and what Python has beside them.
            until(lambda: len(itself.children()) > jobs)
        # Busy simulating: by then, everything has been imported.
        until(lambda: itself.cpu_times().user > 0.1 and _catches(itself.pid, signal.SIGTERM))
        workers = itself.children()
        # As a terminal does it: everybody is told.
        os.killpg(process.pid, signal.SIGINT)
        out, complaints = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, complaints) == (130, "", "interrupted\n")
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal, as the kernel says."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_in_a_terminal_a_bar_shows_how_far_it_is(tiny: str) -> None:
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, tiny, "-s", "random", "--jobs=1"],
        stdin=subprocess.DEVNULL,
        stdout=end,
        stderr=end,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
    ) as process:
        os.close(end)
        shown = b""
        while True:
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                # The other end is closed.
                break
        os.close(terminal)
        process.wait(timeout=PATIENCE)
    assert process.returncode == 0
    assert b"simulating" in shown
    assert b"3/3" in shown


def test_out_of_a_terminal_there_is_none(tiny: str) -> None:
    assert "simulating" not in succeed(tiny, "-s", "random", "--seeds=1", "--jobs=1")


def test_help_names_every_option() -> None:
    shown = succeed("--help")
    for option in ("--strategy", "--seeds", "--size", "--load", "--duration", "--json", "--plot", "--jobs", "--list"):
        assert option in shown


def test_the_command_needs_nothing_but_its_extra(tiny: str) -> None:
    script = (
        "import sys\n"
        "for name in ('matplotlib', 'numpy'): sys.modules[name] = None\n"
        "from grpcpool.cli import main\n"
        "main()\n"
    )
    arguments = ("simulate", tiny, "-s", "random", "--seeds=1", "--jobs=1")
    done: Any = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
