"""Reading a pool's configuration from the environment or a TOML file, with pydantic-settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from .checks import nearest
from .errors import ConfigError
from .retry import Retry

try:
    from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
    from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
except ImportError as error:  # pragma: no cover - exercised by the nox session without extras
    raise ImportError(
        "reading a configuration from the environment or a file needs pydantic-settings: pip install 'grpcpool[config]'"
    ) from error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from .config import PoolConfig

__all__ = ["from_environment", "from_table"]

Config = TypeVar("Config", bound="PoolConfig")

FILES = ("ca_file", "cert_file", "key_file")


class _Fields(BaseModel):
    """What text can say of a pool. Types only: `PoolConfig` checks the values, so that there is one set of rules."""

    model_config = ConfigDict(extra="forbid")

    target: Annotated[list[str], NoDecode]
    tls: bool | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    name: str | None = None
    size: int | None = None
    strategy: str | None = None
    affinity_header: str | None = None
    keepalive_time: float | None = None
    keepalive_timeout: float | None = None
    ping_interval: float | None = None
    ping_timeout: float | None = None
    connect_timeout: float | None = None
    backoff_min: float | None = None
    backoff_max: float | None = None
    max_reconnect_attempts: int | None = None
    max_concurrent_streams: int | None = None
    max_waiting: int | None = None
    acquire_timeout: float | None = None
    min_size: int | None = None
    max_size: int | None = None
    target_in_flight: Annotated[tuple[float, float] | None, NoDecode] = None
    scale_down_interval: float | None = None
    max_lifetime: float | None = None
    max_idle: float | None = None
    primer_timeout: float | None = None
    drain_timeout: float | None = None
    connections_per_member: int | None = None
    max_consecutive_failures: int | None = None
    min_success_rate: float | None = None
    health_window: float | None = None
    outlier_detection: bool | None = None
    unresponsive_after: float | None = None
    ejection_min: float | None = None
    ejection_max: float | None = None
    slow_start: float | None = None
    health_check: str | None = None
    failover: bool | None = None
    idempotent: Annotated[list[str], NoDecode] = []
    # Attempts; `_build` makes it a policy.
    retry: int | None = None
    hedge_after: float | Literal["p95"] | None = None
    telemetry_interval: float | None = None
    telemetry_sample_rate: int | None = None
    log_connection_errors: bool | None = None
    require_tls: bool | None = None
    per_loop: bool | None = None
    seed: int | None = None

    @field_validator("target", "idempotent", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("target_in_flight", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(","))
        return tuple(value) if isinstance(value, list) else value


def from_environment(config: type[Config], prefix: str, options: Mapping[str, Any]) -> Config:
    """Return the configuration in the variables that begin with `prefix`; `options` win."""

    class Environment(_Fields, BaseSettings):
        # Others may set variables that begin so too: Kubernetes does, for every service.
        model_config = SettingsConfigDict(env_prefix=prefix, extra="ignore", env_parse_none_str="none")

    def name(field: str) -> str:
        return f"{prefix}{field.upper()}"

    try:
        settings = Environment()  # type: ignore[call-arg]
    except ValidationError as error:
        raise _teach(error, name, "environment variable") from None
    return _build(config, settings, name, options)


def from_table(config: type[Config], path: str | os.PathLike[str], section: str, options: Mapping[str, Any]) -> Config:
    """Return the configuration in the table `section` of the TOML file at `path`; `options` win."""
    file = os.fspath(path)
    try:
        table: Any = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("path", f"{file!r} ({error.strerror})", "a TOML file that can be read") from error
    except ValueError as error:
        raise ConfigError("path", f"{file!r} ({error})", "a TOML file") from None
    for part in section.split("."):
        if not isinstance(table, dict) or part not in table:
            raise ConfigError("section", repr(section), f"a table that {file!r} has")
        table = table[part]
    if not isinstance(table, dict):
        raise ConfigError("section", repr(section), f"a table; in {file!r} it is none")
    try:
        # A file has types of its own, so "3" is not taken for 3 here.
        settings = _Fields.model_validate(table, strict=True)
    except ValidationError as error:
        raise _teach(error, str, f"key of [{section}] in {file!r}") from None
    return _build(config, settings, str, options)


def _not_blank(targets: list[str]) -> None:
    # grpc makes a channel to nowhere of an empty target, and so does the pool; but nobody configures one on purpose.
    if "" in targets:
        raise ConfigError("target", "''", "gRPC targets, such as 'localhost:50051', separated by commas")


def _build(config: type[Config], settings: _Fields, name: Callable[[str], str], options: Mapping[str, Any]) -> Config:
    fields = settings.model_dump(exclude_unset=True)
    try:
        _not_blank(settings.target)
        found = _with_credentials(fields)
        if found.get("retry") is not None:
            found["retry"] = Retry(attempts=found["retry"])
        return config.of({field: value for field, value in found.items() if field not in options}, options)
    except ConfigError as error:
        if error.field in options or error.field not in fields:
            raise
        # Said of the variable or key that the value came from.
        raise type(error)(name(error.field), error.value, error.allowed) from None


def _with_credentials(fields: dict[str, Any]) -> dict[str, Any]:
    files = {field: fields[field] for field in FILES if field in fields}
    tls = fields.get("tls")
    if tls is False and files:
        raise ConfigError("tls", "False", f"True, or no {', '.join(files)}")
    found = {field: value for field, value in fields.items() if field not in (*FILES, "tls")}
    if tls or files:
        from .credentials import from_files

        found["credentials"] = from_files(**files)
    return found


def _teach(error: ValidationError, name: Callable[[str], str], kind: str) -> ConfigError:
    """Turn pydantic's first complaint into ours. Its own text would print the value, whatever that may be."""
    first = error.errors(include_url=False)[0]
    plain = str(first["loc"][0])
    field = name(plain)
    if first["type"] == "missing":
        return ConfigError(field, "nothing", f"this {kind} is required")
    if first["type"] == "extra_forbidden":
        return ConfigError(field, f"a {kind} of this name", nearest(plain, _Fields.model_fields))
    shown = "the contents of a file" if plain in FILES else repr(first["input"])
    return ConfigError(field, shown, f"{first['msg'][0].lower()}{first['msg'][1:]}")
