"""Where a run is watched: a table that lives in a terminal, or plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..stats import MemberStats
from .model import Contender, Frame, Outcome, Screen, Settings
from .notes import Note
from .report import counted, failed, milliseconds
from .stage import Server

__all__ = ["LiveScreen", "PlainScreen", "describe_frame", "screen_for"]

# How many of the latest notes the live table has room for.
NOTES = 8

# Seconds between two progress lines where there is no live table.
PROGRESS = 1.0

# Any other state: connected, and not picked for some reason.
_STYLES = {"ready": "green", "connecting": "yellow", "down": "red", "draining": "cyan"}
OTHER_STYLE = "magenta"


def screen_for(console: Console) -> Screen:
    """Return a live table for a terminal that can show one, and plain lines for a pipe, a file or a dumb terminal."""
    # Not `console.is_terminal`: a setting such as FORCE_COLOR asks for colour in a pipe, not for a cursor that moves.
    return LiveScreen(console) if console.file.isatty() and not console.is_dumb_terminal else PlainScreen(console)


class _Screen:
    """What both kinds say in the same way."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._servers: dict[str, str] = {}

    def begin(self, settings: Settings, servers: tuple[Server, ...], contenders: tuple[Contender, ...]) -> None:
        """Say what is about to happen."""
        self._servers = {server.address: server.name for server in servers}
        each = ", ".join(f"{server.name} at {server.address} ({server.delay * 1000:g} ms a call)" for server in servers)
        self._say(f"Three servers: {each}.")
        self._say(
            f"{len(contenders)} contenders, {settings.seconds:g} s each, {settings.threads} threads: "
            + "; ".join(contender.name for contender in contenders)
            + "."
        )

    def end(self, outcome: Outcome) -> None:
        """Say how a contender did."""
        measured = outcome.measured
        self._say(
            f"{outcome.contender.name}: {measured.calls} calls in {measured.seconds:.1f} s, "
            f"errors: {failed(measured.errors)}"
        )

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(line), style=style, soft_wrap=True)


class PlainScreen(_Screen):
    """One line for each note, and one for each second."""

    @contextmanager
    def watch(self, contender: Contender) -> Iterator[Callable[[Frame], None]]:
        """Yield what writes a frame's news."""
        self._say(f"-- {contender.name}")
        told = 0
        due = PROGRESS

        def show(frame: Frame) -> None:
            nonlocal told, due
            for note in frame.notes[told:]:
                self._say(_line(note))
            told = len(frame.notes)
            if frame.elapsed >= due:
                due = frame.elapsed - frame.elapsed % PROGRESS + PROGRESS
                self._say(describe_frame(frame))

        yield show


class LiveScreen(_Screen):
    """A table that is redrawn in place and disappears when the contender is done."""

    def watch(self, contender: Contender) -> AbstractContextManager[Callable[[Frame], None]]:
        """Yield what draws a frame."""
        return self._watch()

    @contextmanager
    def _watch(self) -> Iterator[Callable[[Frame], None]]:
        # Drawn when there is news and not by a thread of its own: the processor belongs to the load.
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            yield lambda frame: live.update(_picture(frame, self._servers), refresh=True)


def describe_frame(frame: Frame) -> str:
    """Say in one line how a run stands."""
    return (
        f"{frame.elapsed:.1f} of {frame.seconds:g} s: {frame.calls} calls, {frame.in_flight} in flight, "
        f"p50 {milliseconds(frame.recent.p50 if frame.recent else None)} ms, "
        f"connections {counted(frame.connections)}, errors {failed(frame.errors)}"
    )


def _line(note: Note) -> str:
    return f"{note.at:6.2f} s  {note.source}: {note.text}"


def _picture(frame: Frame, servers: dict[str, str]) -> RenderableType:
    parts: list[RenderableType] = [Text(frame.name, style="bold"), Text(describe_frame(frame))]
    parts.append(_connections(frame) if frame.members is None else _members(frame.members, servers))
    notes: Sequence[Note] = frame.notes[-NOTES:]
    parts.extend(Text(_line(note), style="dim", no_wrap=True, overflow="ellipsis") for note in notes)
    return Group(*parts)


def _connections(frame: Frame) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("server")
    table.add_column("connections", justify="right")
    for server, count in frame.connections.items():
        table.add_row(server, str(count))
    return table


def _members(members: Sequence[MemberStats], servers: dict[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("member", "server", "state", "in flight", "calls", "failures", "latency ms"):
        table.add_column(heading, justify="left" if heading in ("server", "state") else "right")
    for member in members:
        table.add_row(
            str(member.id),
            servers.get(member.endpoint, member.endpoint),
            Text(member.state, style=_STYLES.get(member.state, OTHER_STYLE)),
            str(member.in_flight),
            str(member.calls),
            str(member.failures),
            milliseconds(member.latency),
        )
    return table
