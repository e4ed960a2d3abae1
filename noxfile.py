"""The checks of grpcpool: ``nox`` runs those that every change must pass, ``nox -s NAME`` runs one.

A session without its own Python uses the one that runs nox. What continuous integration runs is in ``.ci/run``.
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "types", "imports", "tests", "tests_oldest", "tests_bare"]

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
# The lower bound in pyproject.toml. Before 1.80 a sync channel that nobody watches or calls does not get on with
# connecting, so that a look at its state now and then is not enough; before 1.83 an aio channel that is closed may
# leave a stream that nobody is reading running.
OLDEST_GRPCIO = "1.83.0"


@nox.session
def lint(session: nox.Session) -> None:
    """Style and formatting."""
    session.install("-e", ".[check]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=[PYTHONS[0], PYTHONS[-1]])
def types(session: nox.Session) -> None:
    """Types, by two checkers, on the oldest and the newest Python."""
    session.install("-e", ".[config,cli,check]")
    session.run("mypy")
    session.run("pyright")


@nox.session
def imports(session: nox.Session) -> None:
    """Who may import whom."""
    session.install("-e", ".[config,cli,check]")
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests but the long ones."""
    session.install("-e", ".[config,cli,test]")
    session.run("pytest", *session.posargs)


@nox.session(python="3.10")
def tests_oldest(session: nox.Session) -> None:
    """The tests with the oldest grpcio that is supported."""
    grpcs = [f"{name}=={OLDEST_GRPCIO}" for name in ("grpcio", "grpcio-tools", "grpcio-health-checking")]
    session.install("-e", ".[config,cli,test]", *grpcs)
    session.run("pytest", *session.posargs)


@nox.session
def tests_bare(session: nox.Session) -> None:
    """The tests without the extras: those that need one are left out, everything else must work."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Branch coverage; what decides (core and strategies) must be covered entirely."""
    session.install("-e", ".[config,cli,test]")
    session.run("pytest", "--cov", "--cov-report=", *session.posargs)
    session.run("coverage", "report")
    session.run("coverage", "report", "--include=src/grpcpool/core/*,src/grpcpool/strategies/*", "--fail-under=100")


@nox.session
def stress(session: nox.Session) -> None:
    """The tests that run long or load the machine."""
    session.install("-e", ".[config,cli,test]")
    session.run("pytest", "-m", "stress", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Everything at once, for ten minutes, or for ``-- --seconds N``; a table, and 1 if anything was wrong."""
    session.install("-e", ".[config,cli,test]")
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, one after the other; see what each says of itself."""
    session.install("-e", ".[config,cli,test,bench]")
    session.run("python", "-m", "bench", *session.posargs)
