"""The command ``grpcpool simulate``: strategies against each other, without a network."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import grpcpool

from ..simulation.batch import Task, processors, run_all
from ..simulation.figures import Figures
from ..simulation.named import contender, contenders
from ..simulation.reader import built_in, find, names
from ..simulation.scenario import Scenario
from . import simulation_report as report
from .endings import INTERRUPTED, ending_in_order
from .simulation_report import Compared

__all__ = ["simulate"]

Plot = Callable[[Sequence[tuple[Scenario, Mapping[str, Figures]]], Path], None]


def simulate(
    scenarios: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCENARIO", help="Letters, as --list shows them, or TOML files. Default: all."),
    ] = None,
    strategies: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy", "-s", metavar="NAME", help="A name, or module:object; several. Default: all, without a key."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="How many runs; shown is the median of each figure.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the first run; the others count on from there.")] = 1,
    size: Annotated[int | None, typer.Option(min=1, help="How many backends, instead of the scenario's.")] = None,
    load: Annotated[
        float | None, typer.Option(help="Share of the nominal capacity, instead of the scenario's.")
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Simulated seconds, instead of the scenario's.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", dir_okay=False, help="Write all figures as JSON, too.")
    ] = None,
    plot_file: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", dir_okay=False, help="Draw latencies and traffic into a PNG, too."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes to use. Default: one for each processor.")
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="List the scenarios that come with grpcpool, and exit.")
    ] = False,
) -> None:
    """Simulate strategies under load: same arrivals, same work, same mishaps for each."""
    console = Console()
    if listing:
        console.print(report.listing([built_in(name) for name in names()]))
        return
    for option, file in (("--json", json_file), ("--plot", plot_file)):
        if file is not None and not file.absolute().parent.is_dir():
            raise typer.BadParameter(f"there is no directory {file.absolute().parent}", param_hint=option)
    plot = None if plot_file is None else _plotter()
    chosen = _scenarios(scenarios or names(), size=size, load=load, duration=duration)
    competing = _strategies(strategies or ())
    tasks = [
        Task(scenario, strategy, number)
        for scenario in chosen
        for strategy in competing
        for number in range(seed, seed + seeds)
    ]
    try:
        with ending_in_order():
            figures = _run(tasks, jobs or processors(), console)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    results = iter(figures)
    compared = [
        Compared(scenario, {strategy: tuple(next(results) for _ in range(seeds)) for strategy in competing})
        for scenario in chosen
    ]
    for each in compared:
        console.print(report.table(each))
    console.print(report.LEGEND, style="dim", highlight=False)
    if json_file is not None:
        json_file.write_text(report.to_json(compared, range(seed, seed + seeds)), encoding="utf-8")
        typer.echo(f"written to {json_file}")
    if plot is not None and plot_file is not None:
        plot([(each.scenario, each.medians) for each in compared], plot_file)
        typer.echo(f"drawn into {plot_file}")


def _run(tasks: Sequence[Task], jobs: int, console: Console) -> list[Figures]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("simulating", total=len(tasks))
        return run_all(tasks, jobs, lambda task: progress.advance(bar))


def _scenarios(
    wanted: Sequence[str], *, size: int | None, load: float | None, duration: float | None
) -> list[Scenario]:
    found = []
    for name in dict.fromkeys(wanted):
        try:
            scenario = find(name)
        except grpcpool.ConfigError as error:
            raise typer.BadParameter(str(error), param_hint="SCENARIO") from None
        try:
            found.append(scenario.adjusted(size=size, load=load, duration=duration))
        except grpcpool.ConfigError as error:
            raise typer.BadParameter(f"scenario {scenario.name}: {error}") from None
    return found


def _strategies(wanted: Sequence[str]) -> tuple[str, ...]:
    if any(":" in name for name in wanted) and "" not in sys.path:
        # A command that is installed does not look for modules in the directory that it is run in; `python -m` does.
        sys.path.insert(0, "")
    try:
        for name in wanted:
            contender(name)
        return tuple(dict.fromkeys(wanted)) or contenders()
    except grpcpool.ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--strategy") from None


def _plotter() -> Plot:
    try:
        from ..simulation.plot import plot
    except ImportError as error:
        raise typer.BadParameter(str(error), param_hint="--plot") from None
    return plot
