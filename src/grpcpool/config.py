"""The one recipe from which every member of a pool is built, and built again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict, cast

from . import checks, elastic, health, retry
from .endpoint import Endpoint
from .errors import ConfigError, ConfigTypeError
from .events import Listener

if TYPE_CHECKING:
    import os

    import grpc
    from typing_extensions import Self, Unpack

    from .retry import Hedge, Retry
    from .strategies.base import Strategy

__all__ = [
    "DEFAULT_SIZE",
    "AioOptions",
    "LocalOptions",
    "PoolConfig",
    "PoolOptions",
    "Target",
    "credentials_for_member",
]

Target = str | Endpoint
# Credentials, or a factory that is called once for each member: for credentials that cannot serve two channels, and
# for certificates that are renewed while the process runs.
Credentials = Any

# Of `backoff_min`, between two attempts of an eager channel: grpc makes it up to a fifth more, at random.
EAGERNESS = 0.75
# Enough to be worth having (one lost connection costs a quarter), few enough for a server not to notice.
DEFAULT_SIZE = 4


class _Options(TypedDict, total=False):
    """What every way of making a pool takes by keyword."""

    name: str | None
    strategy: str | Strategy
    affinity_header: str | None
    keepalive_time: float | None
    keepalive_timeout: float
    ping_interval: float | None
    ping_timeout: float
    connect_timeout: float
    backoff_min: float
    backoff_max: float
    max_reconnect_attempts: int
    max_concurrent_streams: int | None
    max_waiting: int
    acquire_timeout: float | None
    min_size: int | None
    max_size: int | None
    target_in_flight: tuple[float, float] | None
    scale_down_interval: float
    max_lifetime: float | None
    max_idle: float | None
    primer: Callable[[Any], Any] | None
    primer_timeout: float
    drain_timeout: float | None
    connections_per_member: int | None
    max_consecutive_failures: int | None
    min_success_rate: float | None
    health_window: float
    outlier_detection: bool
    unresponsive_after: float | None
    ejection_min: float
    ejection_max: float
    slow_start: float | None
    health_check: str | None
    failover: bool
    idempotent: str | Iterable[str]
    retry: Retry | Mapping[str, Retry | None] | None
    hedge_after: Hedge | Mapping[str, Hedge | None] | None
    telemetry_interval: float | None
    telemetry_sample_rate: int
    log_connection_errors: bool
    listeners: Listener | Iterable[Listener]
    require_tls: bool
    per_loop: bool
    seed: int | None


class AioOptions(_Options, total=False):
    """The keyword options of `aio.insecure_channel` and `aio.secure_channel`, where interceptors are no option."""

    size: int | None


class LocalOptions(_Options, total=False):
    """The keyword options of `PoolConfig.local`, where the size is no option."""

    interceptors: Sequence[Any] | None


class PoolOptions(AioOptions, LocalOptions, total=False):
    """The keyword options of `insecure_channel` and `secure_channel`; `PoolConfig` says what each means."""


@dataclass(frozen=True, kw_only=True, repr=False)
class PoolConfig:
    """How a pool, and every channel in it, is made. Frozen, checked once, safe to print and to share.

    All durations are seconds. Each option: what it means; what is allowed; the default; when to change it.

    Attributes:
        target: one gRPC target (text or `Endpoint`), or several of them, over which the members are spread evenly.
        credentials: ``grpc.ChannelCredentials``, or a callable without arguments that returns some and is called for
            every member anew (certificate rotation; credentials that only one channel can use), or None: plaintext.
        options: channel arguments, any iterable of (name, value) pairs. What is given here wins over what the pool
            would set by itself, except that members never share connections.
        compression: a ``grpc.Compression``, or None.
        interceptors: client interceptors of the room the pool is in (sync, or aio).
        name: under which `grpcpool.get_pool` finds the pool, and which its events and logs carry. Default: not
            registered, and known by its target.
        size: members, each with a TCP connection of its own; at least 1 and at least one for each target. Default: 4,
            or the number of targets if that is larger. More helps against a server's stream limit and spreads over
            backends behind a balancer; it does not make small calls cheaper.
        strategy: how a member is chosen for an RPC: a name (``"round_robin"``, the default; ``"adaptive"`` and others,
            see `strategies.available`; an entry point's), or an object with a ``build`` method. A strategy object
            serves one pool.
        affinity_header: the name of a metadata key whose value is the RPC's affinity key, as if it were started within
            `grpcpool.affinity`, over which it wins. As gRPC has it: lower case, digits, and ``-_.``. Default: None, no
            such key. Only for strategies that route by key, such as ``"consistent_hash"``; others refuse it.
        keepalive_time: HTTP/2 keepalive: ping a connection after this long without traffic. Default: None, off. A
            server ends connections that ping more often than it permits (every 5 minutes unless configured), so agree
            on it with the server first.
        keepalive_timeout: how long such a ping may take. Above 0; default 20.
        ping_interval: an idle member is pinged with a real round trip (a health check) this often, and reconnects if
            none comes back. Default: None, off. For connections that a middlebox forgets silently.
        ping_timeout: how long such a round trip may take. Above 0; default 5.
        connect_timeout: how long an attempt to connect may take, and how long a resize waits for a new member. Above
            0; default 10.
        backoff_min, backoff_max: the wait after the first failed attempt, and the longest wait. 0.1 or more, and not
            below `backoff_min`; default 1 and 30.
        max_reconnect_attempts: after so many failed attempts in a row a member's channel is rebuilt, with fresh name
            resolution. At least 1; default 5.
        max_concurrent_streams: RPCs that may be in flight at once on one member; further ones wait in line, first come,
            first served, and none is refused by the server. At least 1; default: None, no limit. Set it somewhat below
            the server's own limit (about nine tenths, and a few at least: the server's count goes down a moment after
            ours). A stream counts until it ends.
        max_waiting: RPCs that may wait in line; more are refused at once with a `PoolFull`. 0 or more; default 1000.
        acquire_timeout: how long an RPC may wait in line before it ends in a `PoolTimeout`. 0 or more; default: None,
            until its own deadline, or 30 if it has none. What it has waited is taken off its deadline.
        min_size, max_size: let the load move the size between these two; the pool begins with `min_size`. At least one
            for each target, and `max_size` above `min_size`. Default: None, a fixed `size`. `min_size` alone is
            refused, for such a pool could never scale; `max_size` alone begins with one member for each target.
        target_in_flight: (low, high), RPCs in flight per member: above `high`, or when RPCs wait, the pool grows at
            once, at most to twice its size; below `low` for a whole `scale_down_interval` it gives up a quarter of its
            members at most. 0 or more, and `low` below `high`. Default: None, a fifth and four fifths of
            `max_concurrent_streams`, or of 100, which is the least that HTTP/2 wants a server to allow.
        scale_down_interval: how long the load must have been low before each step down. Above 0; default 5.
        max_lifetime: members older than this (up to a tenth less, at random) are replaced, a tenth of the pool at a
            time: first the new one connects, then the old one drains. For connections that stick to one backend behind
            a balancer, and for fresh name resolution. Above 0; default: None, never.
        max_idle: members above `min_size` on which no RPC has run for so long leave. Above 0; default: None, only
            `target_in_flight` decides.
        primer: called with each new channel once it is connected, and before it is picked: for a first RPC that warms
            something up. In a thread of its own (sync); a coroutine function (aio). What it raises is logged, and it is
            called again after a backoff. While no member is ready at all, RPCs do not wait for it. Default: None.
        primer_timeout: how long the primer may take; then the channel is given up for another one. Above 0; default 5.
        drain_timeout: how long a member that has left the picks waits for the end of its last RPCs (long streams, that
            is) before it cancels them. Above 0; default: None, as long as they last.
        connections_per_member: let grpc open further connections inside a member, up to this many to each address,
            while all it has are at the server's stream limit (``connectionScaling`` in the service config). At least
            1; default: None, what `options` say, or else one. A service config in `options` is kept, and must not
            speak of ``connectionScaling`` too. The pool does not see these connections; members are the better tool
            where their number is known. Needs grpcio 1.84.
        failover: let an RPC that certainly never reached a server's application (no connection, or the server refused
            its stream) move to another member, once. Default: True. Blocking unary calls, and unary calls of aio.
        idempotent: the methods that may be served twice: ``"/package.Service/Method"``, ``"/package.Service/*"``,
            ``"*"``, or several of these. Nothing is sent twice that is not among them. Default: none.
        retry: how RPCs of those methods are sent again when they fail: a `grpcpool.Retry`, or a mapping from methods
            (named as above; the most particular name wins) to `Retry` or None. Unary ones, and server streams up to
            their first message. Default: None, not at all. With this or with `hedge_after`, grpc's own retries are off
            (``grpc.enable_retries``), unless `options` say otherwise.
        hedge_after: send a second copy of a unary RPC of those methods, to another member, when it is not answered
            after so many seconds, or with ``"p95"`` after the time in which 95 of 100 are; the first answer counts, the
            other copy is cancelled. Above 0, or a mapping as for `retry`. Default: None, never.
        max_consecutive_failures: a member on which so many RPCs in a row failed is ejected: it leaves the picks for a
            while, though it is connected. What counts are UNAVAILABLE, RESOURCE_EXHAUSTED, INTERNAL, UNKNOWN and
            DEADLINE_EXCEEDED. At least 1; default 5; None: any number may fail.
        min_success_rate: one with a lower rate of RPCs that did not fail like that, over `health_window` and at least
            five RPCs, is ejected too. Above 0, and 1 at most; default 0.8; None: any rate will do.
        health_window: what that rate is taken over. Above 0; default 30.
        outlier_detection: eject members whose rate over ten seconds stands out among the others (gRFC A50): at least
            five members with a hundred RPCs each. Default: True.
        unresponsive_after: a member that has answered no unary RPC for so long, with some in flight and while others
            answer, is pinged, and ejected if no answer comes within that time again. Above 0; default 1; None: never.
        ejection_min, ejection_max: how long a member is ejected for, give or take a tenth: each time in a row for twice
            as long as the time before, from one to the other. Then one RPC is tried on it, and decides. Above 0, and
            the second not below the first; default 5 and 300.
        slow_start: a member that comes back has its full share of the RPCs only after so long; it begins with a tenth.
            Above 0; default 5; None: at once. Not for strategies that route by key.
        health_check: ask every server whether it serves, by the standard health service (``grpc.health.v1``): for the
            service of that name, or ``""`` for the server as a whole. While it says no, the member is not picked.
            Default: None, do not ask. Needs ``grpcpool[health]``.
        telemetry_interval: how often listeners get a `events.StatusReport`. Default 5; None: never.
        telemetry_sample_rate: listeners get an `events.Picked` for each pick (1, default), never (0), or for about one
            in N (N).
        log_connection_errors: log failed attempts to connect (default), or only events.
        listeners: one callable or several, told every event from the start. See `grpcpool.events`.
        require_tls: refuse plaintext credentials. Default: False; `production` sets it.
        per_loop: give each event loop on which the pool is used members of its own (`size` for each). Default: False,
            the pool belongs to one loop. For aio only, and for strategies that are given by name.
        seed: for the pool's random choices, to repeat a run. Default: None, from the operating system.
    """

    target: Target | Sequence[Target]
    credentials: Credentials = None
    options: Iterable[tuple[Any, Any]] | None = ()
    compression: grpc.Compression | None = None
    interceptors: Sequence[Any] | None = ()
    name: str | None = None
    size: int | None = None
    strategy: str | Strategy = "round_robin"
    affinity_header: str | None = None
    keepalive_time: float | None = None
    keepalive_timeout: float = 20.0
    ping_interval: float | None = None
    ping_timeout: float = 5.0
    connect_timeout: float = 10.0
    backoff_min: float = 1.0
    backoff_max: float = 30.0
    max_reconnect_attempts: int = 5
    max_concurrent_streams: int | None = None
    max_waiting: int = 1000
    acquire_timeout: float | None = None
    min_size: int | None = None
    max_size: int | None = None
    target_in_flight: tuple[float, float] | None = None
    scale_down_interval: float = 5.0
    max_lifetime: float | None = None
    max_idle: float | None = None
    primer: Callable[[Any], Any] | None = None
    primer_timeout: float = 5.0
    drain_timeout: float | None = None
    connections_per_member: int | None = None
    max_consecutive_failures: int | None = 5
    min_success_rate: float | None = 0.8
    health_window: float = 30.0
    outlier_detection: bool = True
    unresponsive_after: float | None = 1.0
    ejection_min: float = 5.0
    ejection_max: float = 300.0
    slow_start: float | None = 5.0
    health_check: str | None = None
    failover: bool = True
    idempotent: str | Iterable[str] = ()
    retry: Retry | Mapping[str, Retry | None] | None = None
    hedge_after: Hedge | Mapping[str, Hedge | None] | None = None
    telemetry_interval: float | None = 5.0
    telemetry_sample_rate: int = 1
    log_connection_errors: bool = True
    listeners: Listener | Iterable[Listener] = ()
    require_tls: bool = False
    per_loop: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        def settle(field: str, value: object) -> None:
            object.__setattr__(self, field, value)

        settle("target", checks.endpoints(self.target))
        settle("options", checks.channel_options(self.options))
        settle("interceptors", checks.sequence("interceptors", self.interceptors))
        listeners = self.listeners
        settle("listeners", (listeners,) if callable(listeners) else checks.sequence("listeners", listeners))
        if self.max_size is not None and self.min_size is None:
            settle("min_size", len(self.endpoints))
        if self.size is None and self.min_size is None:
            settle("size", max(DEFAULT_SIZE, len(self.endpoints)))
        elastic.check(self)
        health.check(self)
        settle("idempotent", retry.patterns("idempotent", self.idempotent))
        for field in ("retry", "hedge_after"):
            if isinstance(getattr(self, field), Mapping):
                settle(field, dict(getattr(self, field)))
        retry.check(self)
        self._check()

    def _check(self) -> None:
        name: object = self.name
        good = name is None or (isinstance(name, str) and name != "")
        checks.require(good, "name", name, "text that is not empty, or None")
        targets = len(self.endpoints)
        if self.size is not None:
            checks.integer("size", self.size, at_least=1)
            allowed = f"at least {targets}, one member for each of the {targets} targets"
            checks.require(self.size >= targets, "size", self.size, allowed)
        strategy = self.strategy
        allowed = "a name, or an object with a build(members, *, rng, clock) method"
        named = isinstance(strategy, str) or hasattr(strategy, "build")
        checks.require(named, "strategy", strategy, allowed, wrong_type=True)
        if self.affinity_header is not None:
            checks.header("affinity_header", self.affinity_header)
        for field in (
            "keepalive_time",
            "ping_interval",
            "telemetry_interval",
            "max_lifetime",
            "max_idle",
            "drain_timeout",
        ):
            checks.seconds(field, getattr(self, field), optional=True)
        for field in ("keepalive_timeout", "ping_timeout", "connect_timeout", "scale_down_interval", "primer_timeout"):
            checks.seconds(field, getattr(self, field))
        # Below 0.1 s the retries of a large pool are a load of their own; grpc rounds smaller values up to it as well.
        checks.seconds("backoff_min", self.backoff_min, at_least=0.1)
        checks.seconds("backoff_max", self.backoff_max, at_least=self.backoff_min)
        checks.integer("max_reconnect_attempts", self.max_reconnect_attempts, at_least=1)
        if self.max_concurrent_streams is not None:
            checks.integer("max_concurrent_streams", self.max_concurrent_streams, at_least=1)
        checks.integer("max_waiting", self.max_waiting, at_least=0)
        checks.waiting("acquire_timeout", self.acquire_timeout, optional=True)
        checks.primer(self.primer)
        if self.connections_per_member is not None:
            checks.connections(self.connections_per_member)
            self.channel_options()  # refuses what does not go with it
        checks.integer("telemetry_sample_rate", self.telemetry_sample_rate, at_least=0)
        if self.seed is not None:
            checks.integer("seed", self.seed, at_least=None)
        for field in ("log_connection_errors", "require_tls", "failover", "per_loop"):
            checks.flag(field, getattr(self, field))
        allowed = "a name beside per_loop=True: a strategy object serves one pool, and on each loop there is one"
        named = not self.per_loop or isinstance(self.strategy, str)
        checks.require(named, "strategy", type(self.strategy).__name__, allowed)
        for listener in cast("tuple[object, ...]", self.listeners):
            checks.listener(listener)
        checks.compression(self.compression)
        checks.credentials(self.credentials, tls=self.require_tls)

    @classmethod
    def of(cls, fields: Mapping[str, Any], options: Mapping[str, Any] = MappingProxyType({})) -> Self:
        """Return the configuration with these fields; an unknown one is refused by name, with the nearest that exists.

        Arguments:
            options: more of them, which must not be among `fields`.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in (*fields, *options):
            if name not in known:
                raise ConfigTypeError(name, "an option of this name", checks.nearest(name, known))
        for name in options:
            if name in fields:
                raise ConfigTypeError(name, "an option of this name", "it is no option here, or an argument already")
        return cls(**fields, **options)

    @classmethod
    def production(
        cls,
        *,
        host: str,
        port: int = 443,
        credentials: Credentials = ...,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        options: Iterable[tuple[Any, Any]] | None = (),
        compression: grpc.Compression | None = None,
        **pool_options: Unpack[PoolOptions],
    ) -> Self:
        """Return a configuration for a service across a network: TLS, with the server's certificate verified.

        Arguments:
            host: the server's name, which its certificate must bear.
            port: its TCP port; default 443.
            credentials: to be used instead of those made from the files. None, that is plaintext, is refused.
            ca_file: PEM file with the certificate authorities to trust; default: those that grpc trusts.
            cert_file, key_file: PEM files with the client's certificate chain and private key, for mutual TLS.

        Raises:
            ConfigError: plaintext was asked for, or a file cannot be read.
        """
        if credentials is ...:
            from .credentials import from_files

            credentials = from_files(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
        fields = {
            "target": checks.join(host, port),
            "credentials": credentials,
            "options": options,
            "compression": compression,
        }
        return cls.of(fields, {**pool_options, "require_tls": True})

    @classmethod
    def local(
        cls, *, host: str = "localhost", port: int = 9090, size: int = 3, **pool_options: Unpack[LocalOptions]
    ) -> Self:
        """Return a configuration for development: plaintext, three members, a server on this machine."""
        return cls.of({"target": checks.join(host, port), "size": size}, pool_options)

    @classmethod
    def from_env(cls, prefix: str = "GRPCPOOL_", **pool_options: Unpack[PoolOptions]) -> Self:
        """Return the configuration that the environment describes; needs the extra ``grpcpool[config]``.

        Arguments:
            prefix: what the variables begin with: ``<prefix>TARGET`` (several are separated by commas) is required;
                ``<prefix>SIZE``, ``<prefix>STRATEGY`` and so on name the options that are text, numbers or flags.
                ``<prefix>TLS`` (true or false), ``<prefix>CA_FILE``, ``<prefix>CERT_FILE`` and ``<prefix>KEY_FILE``
                turn TLS on.
            pool_options: options that a variable cannot hold, or that shall win over the variables.

        Raises:
            ConfigError: a variable is missing or not allowed; it is named.
        """
        from .settings import from_environment

        return from_environment(cls, prefix, pool_options)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], section: str = "grpcpool", **pool_options: Unpack[PoolOptions]
    ) -> Self:
        """Return the configuration that a table of a TOML file describes; needs the extra ``grpcpool[config]``.

        Arguments:
            path: the file.
            section: the table's name, dots for nested ones (``"tool.grpcpool"``). Its keys are those of `from_env` in
                lower case; ``target`` may be a list.
            pool_options: options that shall win over the file's.

        Raises:
            ConfigError: the file or the table is missing, or a key is unknown or not allowed; it is named.
        """
        from .settings import from_table

        return from_table(cls, path, section, pool_options)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The targets, with their weights."""
        return cast("tuple[Endpoint, ...]", self.target)

    @property
    def member_count(self) -> int:
        """Members that the pool begins with: `size`, or `min_size`."""
        return cast(int, self.min_size if self.size is None else self.size)

    @property
    def label(self) -> str:
        """The pool's name, or its targets if it was given none."""
        return self.name or ",".join(endpoint.target for endpoint in self.endpoints)

    def channel_options(self, *, eager: bool = False) -> tuple[checks.ChannelOption, ...]:
        """Return the channel arguments of every member: the user's, and what the pool adds to them.

        Members have subchannels of their own, for N channels with equal arguments share one connection otherwise; and
        grpc's own backoff, which makes the attempts, keeps the pool's schedule. The time that grpc calls the "minimum
        reconnect backoff" is what it grants to an attempt before giving up on it.

        Arguments:
            eager: it tries to connect once within each `backoff_min`.
        """
        given = cast("tuple[checks.ChannelOption, ...]", self.options)
        ours: dict[str, int] = {
            checks.LOCAL_SUBCHANNELS: 1,
            "grpc.initial_reconnect_backoff_ms": _milliseconds(self.backoff_min * (EAGERNESS if eager else 1)),
            "grpc.min_reconnect_backoff_ms": _milliseconds(self.connect_timeout),
            "grpc.max_reconnect_backoff_ms": _milliseconds(self.backoff_min * EAGERNESS if eager else self.backoff_max),
        }
        if eager:
            # Else every half a minute, and what a name stands for may be what has changed.
            ours["grpc.dns_min_time_between_resolutions_ms"] = ours["grpc.max_reconnect_backoff_ms"]
        if self.keepalive_time is not None:
            ours |= {
                "grpc.keepalive_time_ms": _milliseconds(self.keepalive_time),
                "grpc.keepalive_timeout_ms": _milliseconds(self.keepalive_timeout),
                "grpc.keepalive_permit_without_calls": 1,
                "grpc.http2.max_pings_without_data": 0,
            }
        if self.connections_per_member is not None:
            given = checks.with_scaling(given, self.connections_per_member)
            # Without it grpc takes any number above 10 for 10.
            ours["grpc.max_connections_per_subchannel_cap"] = self.connections_per_member
        if self.retry is not None or self.hedge_after is not None:
            # One layer that sends again, not two. grpc's would also take off what tells a server of attempts before.
            ours["grpc.enable_retries"] = 0
        names = {name for name, _ in given}
        return (*given, *((name, value) for name, value in ours.items() if name not in names))

    def __repr__(self) -> str:
        """Show what differs from the defaults; of credentials and of channel options' values only that they are."""
        parts = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "target":
                shown = [repr(e.target) if e.weight == 1 else repr(e) for e in self.endpoints]
                text = shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"
            elif value == field.default:
                continue
            elif field.name == "credentials":
                text = "<hidden>"
            elif field.name == "options":
                text = f"<{', '.join(name for name, _ in value)}>"
            elif field.name in ("interceptors", "listeners"):
                text = f"<{len(value)}>"
            elif field.name == "primer":
                text = f"<{getattr(value, '__qualname__', type(value).__qualname__)}>"
            else:
                text = repr(value)
            parts.append(f"{field.name}={text}")
        return f"PoolConfig({', '.join(parts)})"


def credentials_for_member(config: PoolConfig) -> Any:
    """Return the credentials for one more member, made anew if they come from a factory."""
    if not callable(config.credentials):
        return config.credentials
    made = config.credentials()
    # Whoever writes a factory for credentials wants some. If it ever returns none, that must not go unnoticed.
    if checks.is_insecure(made):
        raise ConfigError("credentials", "plaintext from the factory", "grpc.ChannelCredentials")
    checks.credentials(made, tls=config.require_tls)
    return made


def _milliseconds(seconds: float) -> int:
    return min(max(round(seconds * 1000), 1), checks.MOST)
