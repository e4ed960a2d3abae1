"""Checks of what users pass in: each refuses with the field, the value, and what is allowed instead.

Values that could hold a secret (credentials, channel options, objects of the user's) are never quoted, only named.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Iterable
from typing import Any, cast

import grpc

from .endpoint import Endpoint
from .errors import ConfigError, ConfigTypeError

__all__ = [
    "ChannelOption",
    "channel_options",
    "compression",
    "connections",
    "count",
    "credentials",
    "endpoints",
    "flag",
    "header",
    "integer",
    "is_insecure",
    "is_plaintext",
    "join",
    "listener",
    "min_ready",
    "nearest",
    "positive",
    "require",
    "seconds",
    "sequence",
    "type_of",
    "waiting",
    "with_scaling",
]

# A channel argument: a name, and whatever grpc takes as a value.
ChannelOption = tuple[str, Any]

LOCAL_SUBCHANNELS = "grpc.use_local_subchannel_pool"
SERVICE_CONFIG = "grpc.service_config"
# grpc keeps the integers among the channel arguments in a C int.
MOST = 2**31 - 1
LEAST = -(2**31)
# The highest TCP port.
LAST_PORT = 65535


def require(holds: bool, field: str, value: object, allowed: str, *, wrong_type: bool = False) -> None:
    """Refuse `value` for `field` unless `holds`."""
    if not holds:
        kind = ConfigTypeError if wrong_type else ConfigError
        raise kind(field, _shown(value), allowed)


def type_of(value: object) -> str:
    """Name a value without showing it."""
    return f"an object of type {type(value).__name__}"


def _shown(value: object) -> str:
    # Of the user's own classes nobody knows what their repr tells.
    return repr(value) if isinstance(value, (str, bytes, int, float, type(None))) else type_of(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at what was meant by `name`."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def integer(field: str, value: Any, *, at_least: int | None, allowed: str | None = None) -> int:
    """Return `value` if it is an integer of `at_least` or more."""
    allowed = allowed or ("an integer" if at_least is None else f"an integer of {at_least} or more")
    # True is an int in Python, but as a number of members it is a slip.
    require(isinstance(value, int) and not isinstance(value, bool), field, value, allowed, wrong_type=True)
    require(at_least is None or value >= at_least, field, value, allowed)
    return cast(int, value)


def seconds(field: str, value: Any, *, optional: bool = False, at_least: float | None = None) -> None:
    """Refuse what is no duration: above 0 unless `at_least` says otherwise; None only if `optional`."""
    if value is None and optional:
        return
    allowed = "seconds above 0" if at_least is None else f"seconds, {at_least:g} or more"
    allowed += ", or None for never" if optional else ""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(number, field, value, allowed, wrong_type=True)
    try:
        duration = float(cast(float, value))
    except OverflowError:
        raise ConfigError(field, "an integer too large for a float", allowed) from None
    enough = duration > 0 if at_least is None else duration >= at_least
    require(enough and duration < float("inf"), field, value, allowed)


def flag(field: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    require(isinstance(value, bool), field, value, "True or False", wrong_type=True)


def sequence(field: str, value: Any) -> tuple[Any, ...]:
    """Return what the iterable `value` yields; None yields nothing."""
    if value is None:
        return ()
    try:
        return tuple(value)
    except TypeError:
        raise ConfigTypeError(field, type_of(value), "an iterable, or None") from None


# --- where to connect to


def endpoints(target: Any) -> tuple[Endpoint, ...]:
    """Return the endpoints that `target` names: text, bytes, an `Endpoint`, or several of them."""
    one = isinstance(target, (str, bytes, Endpoint))
    try:
        several = (target,) if one else tuple(target)
    except TypeError:
        raise ConfigTypeError("target", _shown(target), "a gRPC target such as 'localhost:50051', or several") from None
    found = tuple(
        each if isinstance(each, Endpoint) else Endpoint(_text("target", each, "a gRPC target, as text"))
        for each in several
    )
    require(bool(found), "target", "nothing", "at least one gRPC target, such as 'localhost:50051'")
    names = [endpoint.target for endpoint in found]
    for name in names:
        require(names.count(name) == 1, "target", name, "each target once; size says how many members there are")
    return found


def join(host: Any, port: Any) -> str:
    """Return host and port as a gRPC target."""
    integer("port", port, at_least=1, allowed=f"an integer from 1 to {LAST_PORT}")
    require(port <= LAST_PORT, "port", port, f"an integer from 1 to {LAST_PORT}")
    allowed = "a host name or address, without a port and without a scheme other than dns:"
    require(isinstance(host, str), "host", host, allowed, wrong_type=True)
    resolved = host.startswith("dns:")
    # One colon alone sets off a port or a scheme; an IPv6 address has at least two.
    require(host != "" and (resolved or ("/" not in host and host.count(":") != 1)), "host", host, allowed)
    # An IPv6 address needs brackets, or its last group would be taken for the port.
    return f"[{host}]:{port}" if ":" in host and not resolved and not host.startswith("[") else f"{host}:{port}"


# --- what grpc takes


def channel_options(options: Any) -> tuple[ChannelOption, ...]:
    """Return channel arguments as a tuple, their names as text.

    A tuple, and at once: what is passed may be a generator or a view, and every member needs all of it.
    """
    return tuple(_channel_option(option) for option in sequence("options", options))


def _channel_option(option: Any) -> ChannelOption:
    allowed = "(name, value) pairs, the names text, the values integers or text"
    try:
        name, value = option
    except (TypeError, ValueError):
        raise ConfigTypeError("options", type_of(option), allowed) from None
    name = _text("options", name, allowed)
    if name == LOCAL_SUBCHANNELS and not (type(value) is int and value):
        # grpc ignores it unless it is an integer.
        raise ConfigError("options", f"{name} with that value", "leave it out: members must not share a connection")
    if isinstance(value, int):
        if not LEAST <= value <= MOST:
            raise ConfigError("options", f"{name}={value}", f"integers from {LEAST} to {MOST}")
    elif isinstance(value, (str, bytes)):
        if isinstance(value, str):
            _text("options", value, allowed)
    # Beside those, grpc takes whatever can be made an address, and C structures that it wraps itself.
    elif not _is_address(value) and not type(value).__module__.startswith("grpc"):
        raise ConfigTypeError("options", f"{name} with {type_of(value)}", allowed)
    return name, value


def _is_address(value: Any) -> bool:
    try:
        return hasattr(value, "__int__") and 0 <= int(value) < 2**64
    except (TypeError, ValueError, OverflowError):
        return False


def _text(field: str, value: Any, allowed: str) -> str:
    """Return text, or bytes as text, if grpc can encode it."""
    require(isinstance(value, (str, bytes)), field, value, allowed, wrong_type=True)
    try:
        text = value.decode() if isinstance(value, bytes) else value
        text.encode()
    except UnicodeError:
        # Not chained: the error quotes what it could not encode.
        raise ConfigError(field, "text that cannot be encoded", "text that UTF-8 can hold") from None
    return cast(str, text)


def connections(value: Any) -> None:
    """Refuse what is no number of connections that grpc can be told."""
    allowed = f"an integer of 1 or more, at most {MOST}, or None"
    integer("connections_per_member", value, at_least=1, allowed=allowed)
    require(value <= MOST, "connections_per_member", value, allowed)


def with_scaling(options: tuple[ChannelOption, ...], most: int) -> tuple[ChannelOption, ...]:
    """Return the options with a service config that lets a subchannel have up to `most` connections.

    Raises:
        ConfigError: there is a service config that speaks of the same already.
    """
    scaling = f'"connectionScaling":{{"maxConnectionsPerSubchannel":{most}}}'
    if all(name != SERVICE_CONFIG for name, _ in options):
        return (*options, (SERVICE_CONFIG, f"{{{scaling}}}"))
    return tuple((name, _scaled(value, scaling) if name == SERVICE_CONFIG else value) for name, value in options)


def _scaled(value: Any, scaling: str) -> Any:
    """Return a service config with one more entry; as it is where it is no JSON object, for grpc to refuse."""
    if not isinstance(value, (str, bytes)):
        # grpc would go without a service config then, and without the connections.
        raise ConfigTypeError("options", f"{SERVICE_CONFIG} with {type_of(value)}", "a service config is JSON text")
    try:
        text = value.decode() if isinstance(value, bytes) else value
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return value
    if not isinstance(entries, dict):
        return value
    require(
        "connectionScaling" not in entries,
        "connections_per_member",
        _Hidden("a number beside a service config with connectionScaling"),
        "only one of the two can say how many connections there are",
    )
    # Put into the text, not written anew from what was read: so grpc sees the rest exactly as it was given.
    merged = text.replace("{", "{" + scaling + ("," if entries else ""), 1)
    return merged.encode() if isinstance(value, bytes) else merged


def header(field: str, value: Any) -> None:
    """Refuse what can be no key of an RPC's metadata."""
    allowed = "a name of metadata: lower-case letters, digits, '-', '_' and '.', and not in gRPC's own part, 'grpc-'"
    require(isinstance(value, str), field, value, f"{allowed}; or None", wrong_type=True)
    legal = re.fullmatch(r"[0-9a-z_.-]+", value) is not None
    require(legal and not value.startswith("grpc-"), field, value, allowed)


def compression(value: Any) -> None:
    """Refuse what is no `grpc.Compression`."""
    known = ", ".join(f"grpc.Compression.{each.name}" for each in grpc.Compression)
    allowed = f"one of {known}, or None"
    require(
        value is None or (isinstance(value, int) and value in list(grpc.Compression)), "compression", value, allowed
    )


def credentials(value: Any, *, tls: bool) -> None:
    """Refuse what are no channel credentials; and plaintext, if `tls` is a must."""
    require(
        value is None or callable(value) or isinstance(value, grpc.ChannelCredentials),
        "credentials",
        _Hidden(type_of(value)),
        "grpc.ChannelCredentials, a callable that returns some, or None for plaintext",
        wrong_type=True,
    )
    require(
        not (tls and is_plaintext(value)),
        "credentials",
        _Hidden("plaintext"),
        "production traffic must be encrypted: pass grpc.ssl_channel_credentials(...), or use PoolConfig.local() "
        "for development",
    )


class _Hidden(str):
    """Text that stands in for a value, and is shown as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


# The two questions below can only be answered by the types and names inside grpc's credentials, which are private.
# Should a future grpc rename them, the answer becomes "it is not", and nothing else depends on it.


def is_insecure(value: Any) -> bool:
    """Say whether credentials are none at all: None, or grpc's insecure ones, which no secure channel takes."""
    return value is None or "insecure" in _kind(getattr(value, "_credentials", None))


def is_plaintext(value: Any) -> bool:
    """Say whether credentials leave the traffic unencrypted: none at all, local ones, or a wrapping around such."""
    return value is None or _leaves_plain(getattr(value, "_credentials", None))


def _leaves_plain(inner: Any) -> bool:
    if any(word in _kind(inner) for word in ("insecure", "local")):
        return True
    wrapped = [getattr(inner, name, None) for name in ("_channel_credentials", "_fallback_credentials")]
    return any(_leaves_plain(each) for each in wrapped if each is not None)


def _kind(inner: Any) -> str:
    return type(inner).__name__.lower()


def listener(value: Any) -> None:
    """Refuse what cannot be told an event, and what would never be run: a coroutine function."""
    usable = callable(value) and not inspect.iscoroutinefunction(value)
    require(usable, "listeners", value, "callables that take one event, and no coroutine functions", wrong_type=True)


def primer(value: Any) -> None:
    """Refuse what cannot be called with a channel."""
    good = value is None or callable(value)
    require(good, "primer", value, "a callable that takes a channel, or None", wrong_type=True)


# --- arguments of the pools' methods


def count(n: Any) -> int:
    """Return `n` if it is an integer."""
    return integer("n", n, at_least=None, allowed="an integer of 1 or more")


def positive(n: Any) -> int:
    """Return `n` if it is an integer of 1 or more."""
    return integer("n", n, at_least=1)


def min_ready(value: Any, size: int) -> None:
    """Refuse what can never be waited for."""
    allowed = f"an integer from 1 to {size}, the pool's size"
    integer("min_ready", value, at_least=1, allowed=allowed)
    require(value <= size, "min_ready", value, allowed)


def waiting(field: str, value: Any, *, optional: bool = False) -> None:
    """Refuse what is no time to wait: 0 or more; None only if `optional`."""
    allowed = "seconds, 0 or more" + (", or None" if optional else "")
    if optional and value is None:
        return
    require(isinstance(value, (int, float)) and not isinstance(value, bool), field, value, allowed, wrong_type=True)
    require(value >= 0, field, value, allowed)
