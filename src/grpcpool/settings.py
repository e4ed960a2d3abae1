"""Reading a pool's configuration from the environment or a TOML file, with pydantic-settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

from .errors import ConfigError

try:
    from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
    from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
except ImportError as error:  # pragma: no cover - exercised by the nox session without extras
    raise ImportError(
        "reading a configuration from the environment or a file needs pydantic-settings: "
        "pip install 'grpcpool[config]'"
    ) from error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["read_environment", "read_file"]


class _Fields(BaseModel):
    """What text can say of a pool. Types only: `PoolConfig` checks the values, so that there is one set of rules."""

    model_config = ConfigDict(extra="forbid")

    target: Annotated[list[str], NoDecode]
    tls: bool | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    name: str | None = None
    size: int | None = None
    strategy: str | None = None
    keepalive_time: float | None = None
    keepalive_timeout: float | None = None
    ping_interval: float | None = None
    ping_timeout: float | None = None
    connect_timeout: float | None = None
    backoff_min: float | None = None
    backoff_max: float | None = None
    max_reconnect_attempts: int | None = None
    telemetry_interval: float | None = None
    telemetry_sample_rate: int | None = None
    log_connection_errors: bool | None = None
    require_tls: bool | None = None
    seed: int | None = None

    @field_validator("target", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def read_environment(prefix: str) -> dict[str, Any]:
    """Return the fields of a `PoolConfig` from the variables that begin with `prefix`."""

    class Environment(_Fields, BaseSettings):
        model_config = SettingsConfigDict(env_prefix=prefix, extra="ignore")

    try:
        settings = Environment()  # type: ignore[call-arg]
    except ValidationError as error:
        raise _teach(error, lambda field: f"{prefix}{field.upper()}", "environment variable") from None
    return _fields(settings)


def read_file(path: str | os.PathLike[str], section: str) -> dict[str, Any]:
    """Return the fields of a `PoolConfig` from the table `section` of the TOML file at `path`."""
    name = os.fspath(path)
    try:
        table: Any = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("path", f"{name!r} ({error.strerror})", "a TOML file that can be read") from error
    except ValueError as error:
        raise ConfigError("path", f"{name!r} ({error})", "a TOML file") from error
    for part in section.split("."):
        if not isinstance(table, dict) or part not in table:
            raise ConfigError("section", repr(section), f"a table that {name!r} has")
        table = table[part]
    if not isinstance(table, dict):
        raise ConfigError("section", repr(section), f"a table; in {name!r} it is a single value")
    try:
        settings = _Fields.model_validate(table)
    except ValidationError as error:
        raise _teach(error, lambda field: field, f"key of [{section}] in {name!r}") from None
    return _fields(settings)


def _fields(settings: _Fields) -> dict[str, Any]:
    fields = settings.model_dump(exclude_none=True)
    files = {key: fields.pop(key, None) for key in ("ca_file", "cert_file", "key_file")}
    tls = fields.pop("tls", None)
    if tls is False and any(files.values()):
        given = ", ".join(key for key, file in files.items() if file)
        raise ConfigError("tls", "False", f"True, or no {given}")
    if tls or any(files.values()):
        from .credentials import from_files

        fields["credentials"] = from_files(**files)
    return fields


def _teach(error: ValidationError, name: Any, kind: str) -> ConfigError:
    """Turn pydantic's first complaint into ours. Its own text would print the value, which may be a secret's neighbour."""
    first = error.errors(include_url=False)[0]
    field = name(str(first["loc"][0]))
    if first["type"] == "missing":
        return ConfigError(field, "nothing", f"this {kind} is required")
    if first["type"] == "extra_forbidden":
        known = ", ".join(_Fields.model_fields)
        return ConfigError(field, "a key of this name", f"the keys are {known}")
    return ConfigError(field, repr(first["input"]), f"{first['msg'][0].lower()}{first['msg'][1:]}")
