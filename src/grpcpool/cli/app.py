"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console

import grpcpool

from . import demo as demonstration
from . import report
from .endings import INTERRUPTED, ending_in_order
from .model import Settings
from .screen import screen_for
from .simulate import simulate

__all__ = ["app"]

# No locals in tracebacks: they may hold whatever a user's environment holds.
app = typer.Typer(
    help="A pool of gRPC channels that is itself a channel.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"grpcpool {grpcpool.__version__} (grpcio {grpc.__version__})")
        raise typer.Exit


@app.callback()
def _everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1.0, max=600.0, help="How long each contender is driven.")] = 6.0,
    size: Annotated[int, typer.Option(min=demonstration.SERVERS, help="Connections of the pool.")] = 6,
    strategy: Annotated[str, typer.Option(help="How the pool chooses a member.")] = "power_of_two",
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads that make calls, one after the other.")] = 8,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", dir_okay=False, help="Write the report as JSON, too.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="For the pool's random choices.")] = None,
) -> None:
    """Drive plain channels and a pool over three real servers, one of them slow, and kill one on the way."""
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no directory {json_file.absolute().parent}", param_hint="--json")
    try:
        grpcpool.strategies.resolve(strategy)
    except grpcpool.ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--strategy") from None
    settings = Settings(seconds=seconds, size=size, strategy=strategy, threads=threads, seed=seed)
    console = Console()
    try:
        with ending_in_order():
            result = demonstration.run(settings, screen_for(console))
    except demonstration.DemoError as error:
        typer.echo(f"the demo cannot go on: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the servers are stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None
    console.print(report.tables(result))
    if json_file is not None:
        json_file.write_text(report.to_json(result), encoding="utf-8")
        typer.echo(f"written to {json_file}")


app.command()(simulate)
