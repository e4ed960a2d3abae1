"""Scenarios from TOML: those that come with grpcpool, and users' own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from ..checks import nearest, type_of
from ..errors import ConfigError, ConfigTypeError
from .scenario import Antagonist, Backends, Failure, Resize, Scenario, Slowdown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["built_in", "find", "names", "parse", "read"]

Part = TypeVar("Part", Scenario, Backends, Slowdown, Antagonist, Failure, Resize)

# What a table, or an array of tables, in a table of this kind is made of.
_ONE: dict[type, dict[str, type]] = {
    Scenario: {"resize": Resize},
    Backends: {"antagonist": Antagonist, "fails": Failure},
}
_SEVERAL: dict[type, dict[str, type]] = {Scenario: {"backends": Backends}, Backends: {"slow": Slowdown}}

_SHIPPED = resources.files("grpcpool.simulation") / "scenarios"
_SUFFIX = ".toml"


def names() -> tuple[str, ...]:
    """Return the names of the scenarios that come with grpcpool."""
    return tuple(sorted(each.name.removesuffix(_SUFFIX) for each in _SHIPPED.iterdir() if each.name.endswith(_SUFFIX)))


def built_in(name: str) -> Scenario:
    """Return a scenario that comes with grpcpool.

    Raises:
        ConfigError: there is none of that name.
    """
    if name.upper() not in names():
        allowed = f"one of {', '.join(names())}, or the path of a TOML file"
        raise ConfigError("scenario", repr(name), allowed)
    return parse((_SHIPPED / f"{name.upper()}{_SUFFIX}").read_text(encoding="utf-8"))


def find(name: str) -> Scenario:
    """Return the scenario that `name` names: one that comes with grpcpool, or the path of a TOML file.

    Raises:
        ConfigError: there is none, or it is not a scenario.
    """
    if name.endswith(_SUFFIX) or os.sep in name:
        return read(name)
    return built_in(name)


def read(path: str | os.PathLike[str]) -> Scenario:
    """Return the scenario in a TOML file; without a name of its own, it has the file's.

    Raises:
        ConfigError: there is no such file, or it is not a scenario.
    """
    file = os.fspath(path)
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("scenario", f"{file!r} ({error.strerror})", "a TOML file that can be read") from None
    except UnicodeDecodeError:
        raise ConfigError("scenario", f"{file!r} (it is not UTF-8)", "a TOML file") from None
    try:
        return parse(text, name=Path(file).stem)
    except ConfigError as error:
        raise type(error)(f"{file}: {error.field}", error.value, error.allowed) from None


def parse(text: str, name: str | None = None) -> Scenario:
    """Return the scenario that TOML describes.

    Arguments:
        text: as in a file.
        name: what it is called if it does not say so itself.

    Raises:
        ConfigError: it is not TOML, or not a scenario.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("scenario", f"this text ({error})", "TOML") from None
    return _build(Scenario, table if name is None else {"name": name, **table}, "")


def _build(kind: type[Part], table: Any, where: str) -> Part:
    """Make a part of a scenario of a table. `where`: the way to it, for error messages."""
    if not isinstance(table, Mapping):
        raise ConfigTypeError(where, type_of(table), "a table")
    prefix = f"{where}." if where else ""
    known = {field.name: field for field in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{prefix}{key}", "a key of this name", nearest(key, known))
        if key in _ONE.get(kind, ()):
            values[key] = _build(_ONE[kind][key], value, f"{prefix}{key}")
        elif key in _SEVERAL.get(kind, ()):
            if not isinstance(value, list):
                raise ConfigTypeError(f"{prefix}{key}", type_of(value), f"an array of tables: [[{prefix}{key}]]")
            part = _SEVERAL[kind][key]
            values[key] = tuple(_build(part, each, f"{prefix}{key}[{index}]") for index, each in enumerate(value))
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    for field in known.values():
        if field.default is MISSING and field.name not in values:
            raise ConfigError(f"{prefix}{field.name}", "nothing", "this key is required")
    try:
        return kind(**values)
    except ConfigError as error:
        raise type(error)(f"{prefix}{error.field}", error.value, error.allowed) from None
