"""Where a configuration comes from: the environment, TOML files, PEM files."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpcpool import ConfigError, ConfigTypeError, Endpoint, PoolConfig, Retry

from ..certificates import Certificates, make_certificates

SECRET = "s3cret-t0ken"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("GRPCPOOL_"):
            monkeypatch.delenv(name)


# --- the environment


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"GRPCPOOL_{name}", value)

    return put


def test_the_environment_describes_a_pool(env: Any) -> None:
    env(
        TARGET="a:1, b:2",
        SIZE="6",
        STRATEGY="power_of_two",
        NAME="from the environment",
        PING_INTERVAL="2.5",
        BACKOFF_MIN="0.5",
        MAX_RECONNECT_ATTEMPTS="9",
        CONNECTIONS_PER_MEMBER="3",
        TELEMETRY_SAMPLE_RATE="0",
        LOG_CONNECTION_ERRORS="off",
        SEED="7",
    )

    made = PoolConfig.from_env()

    assert made == PoolConfig(
        target=["a:1", "b:2"],
        size=6,
        strategy="power_of_two",
        name="from the environment",
        ping_interval=2.5,
        backoff_min=0.5,
        max_reconnect_attempts=9,
        connections_per_member=3,
        telemetry_sample_rate=0,
        log_connection_errors=False,
        seed=7,
    )


def test_the_prefix_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_TARGET", "billing:1")

    assert PoolConfig.from_env("BILLING_").endpoints == (Endpoint("billing:1"),)


def test_options_win_over_variables(env: Any) -> None:
    env(TARGET="a:1", SIZE="6")

    made = PoolConfig.from_env(size=2, listeners=print)

    assert (made.member_count, made.listeners) == (2, (print,))
    with pytest.raises(ConfigTypeError, match="did you mean 'size'"):
        PoolConfig.from_env(sise=2)  # type: ignore[call-arg]


def test_connections_that_the_given_service_config_speaks_of_too_are_refused_by_the_variables_name(env: Any) -> None:
    env(TARGET="a:1", CONNECTIONS_PER_MEMBER="3")

    with pytest.raises(ConfigError, match="GRPCPOOL_CONNECTIONS_PER_MEMBER"):
        PoolConfig.from_env(options=[("grpc.service_config", '{"connectionScaling": {}}')])


def test_variables_that_an_orchestrator_adds_do_no_harm(env: Any) -> None:
    # Kubernetes sets these for a service of the name "grpcpool".
    env(TARGET="a:1", SERVICE_HOST="10.0.0.1", PORT_443_TCP="tcp://10.0.0.1:443")

    assert PoolConfig.from_env().endpoints == (Endpoint("a:1"),)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TARGET", None),
        ("TARGET", ""),
        ("TARGET", "a:1,"),
        ("TARGET", "a:1,a:1"),
        ("SIZE", "many"),
        ("SIZE", ""),
        ("SIZE", "0"),
        ("SIZE", "1.5"),
        ("SIZE", "true"),
        ("PING_INTERVAL", "nan"),
        ("PING_INTERVAL", "-1"),
        ("PING_TIMEOUT", "soon"),
        ("BACKOFF_MIN", "0"),
        ("BACKOFF_MAX", "0.1"),
        ("CONNECTIONS_PER_MEMBER", "0"),
        ("LOG_CONNECTION_ERRORS", "maybe"),
        ("TLS", "perhaps"),
        ("NAME", ""),
        ("SEED", "x"),
        ("CA_FILE", "/nowhere/ca.pem"),
        ("CA_FILE", "a folder"),
        ("CERT_FILE", "without a key"),
    ],
)
def test_a_wrong_variable_is_named(env: Any, tmp_path: Path, variable: str, value: str | None) -> None:
    env(TARGET="a:1")
    if value is None:
        del os.environ[f"GRPCPOOL_{variable}"]
    else:
        env(**{variable: str(tmp_path) if value == "a folder" else value})

    with pytest.raises(ConfigError) as caught:
        PoolConfig.from_env()

    assert f"GRPCPOOL_{variable}" in str(caught.value)


def test_tls_cannot_be_off_and_have_files(env: Any, certificates: Certificates) -> None:
    env(TARGET="a:1", TLS="false", CA_FILE=str(certificates.ca))

    with pytest.raises(ConfigError, match="GRPCPOOL_TLS"):
        PoolConfig.from_env()


def test_required_tls_without_tls_is_refused(env: Any) -> None:
    env(TARGET="a:1", REQUIRE_TLS="true")

    with pytest.raises(ConfigError, match="credentials"):
        PoolConfig.from_env()


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["TARGET", "SIZE", "SEED", "TLS", "CA_FILE", "KEY_FILE", "CERT_FILE", "NAME", "BACKOFF_MAX"]),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    )
)
def test_any_environment_makes_a_configuration_or_a_config_error(variables: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(f"GRPCPOOL_{name}", value)
        try:
            made = PoolConfig.from_env()
        except ConfigError as error:
            assert str(error)  # noqa: PT017
        else:
            assert made.endpoints[0].target == variables["TARGET"].split(",")[0].strip()


# --- files


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "pool.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_describes_a_pool(toml: Any) -> None:
    path = toml('[grpcpool]\ntarget = ["a:1", "b:1"]\nsize = 4\nkeepalive_time = 300\nlog_connection_errors = false\n')

    made = PoolConfig.from_file(path)

    assert made == PoolConfig(target=["a:1", "b:1"], size=4, keepalive_time=300, log_connection_errors=False)
    assert PoolConfig.from_file(str(path), size=2).member_count == 2


def test_a_file_may_say_how_many_connections_a_member_has(toml: Any) -> None:
    path = toml('[grpcpool]\ntarget = "a:1"\nconnections_per_member = 3\n')

    assert PoolConfig.from_file(path) == PoolConfig(target="a:1", connections_per_member=3)


def test_the_table_may_be_nested(toml: Any) -> None:
    path = toml('[tool.billing.pool]\ntarget = "a:1"\n')

    assert PoolConfig.from_file(path, "tool.billing.pool").endpoints == (Endpoint("a:1"),)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("sise = 3", "sise"),
        ('password = "' + SECRET + '"', "password"),
        ('size = "three"', "size"),
        ('size = "3"', "size"),
        ("size = true", "size"),
        ("size = 0", "size"),
        ("size = [3]", "size"),
        ("connections_per_member = 0", "connections_per_member"),
        ("connections_per_member = true", "connections_per_member"),
        ("ping_interval = true", "ping_interval"),
        ("ping_interval = inf", "ping_interval"),
        ("log_connection_errors = 1", "log_connection_errors"),
        ('log_connection_errors = "no"', "log_connection_errors"),
        ("name = 5", "name"),
        ("seed = 2020-01-01", "seed"),
        ('ca_file = "/nowhere"', "ca_file"),
        ('ca_file = "with\\u0000nul"', "ca_file"),
        ('key_file = "/nowhere"', "key_file"),
    ],
)
def test_a_wrong_key_is_named_and_an_unknown_one_is_not_quoted(toml: Any, line: str, key: str) -> None:
    path = toml(f'[grpcpool]\ntarget = "a:1"\n{line}\n')

    with pytest.raises(ConfigError) as caught:
        PoolConfig.from_file(path)

    assert caught.value.field == key
    assert SECRET not in str(caught.value)


def test_an_unknown_key_is_answered_with_the_nearest(toml: Any) -> None:
    with pytest.raises(ConfigError, match="did you mean 'size'"):
        PoolConfig.from_file(toml('[grpcpool]\ntarget = "a:1"\nsise = 3\n'))


@pytest.mark.parametrize(
    ("text", "section", "named"),
    [
        ("", "grpcpool", "grpcpool"),
        ("[other]\n", "grpcpool", "grpcpool"),
        ("grpcpool = 5\n", "grpcpool", "grpcpool"),
        ("[[grpcpool]]\n", "grpcpool", "grpcpool"),
        ("a = 5\n", "a.b", "a.b"),
        ("[grpcpool]\nsize = 3\n", "grpcpool", "target"),
        ("[grpcpool\n", "grpcpool", "pool.toml"),
    ],
    ids=["empty", "other table", "a number", "an array", "below a number", "no target", "no toml"],
)
def test_what_a_file_lacks_is_named(toml: Any, text: str, section: str, named: str) -> None:
    path = toml(text)

    with pytest.raises(ConfigError) as caught:
        PoolConfig.from_file(path, section)

    assert named in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", "a folder"], ids=["missing", "not utf-8", "a folder"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "pool.toml"
    if content == "a folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"pool\.toml"):
        PoolConfig.from_file(path)


FIELDS = [field.name for field in dataclasses.fields(PoolConfig)]
toml_values = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.booleans().map(lambda flag: str(flag).lower()),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6).map(json.dumps),
    st.sampled_from(["[]", "{}", "nan", "1979-05-27", '{token = "x"}', '"\\u0000"']),
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from([*FIELDS, "tls", "ca_file", "cert_file", "key_file", "sise"]), toml_values))
def test_any_table_makes_a_configuration_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("[grpcpool]\n" + "".join(f"{key} = {value}\n" for key, value in table.items()), encoding="utf-8")
    try:
        made = PoolConfig.from_file(path)
    except ConfigError as error:
        assert error.field  # noqa: PT017
    else:
        assert made.endpoints[0].target == json.loads(table["target"]).split(",")[0].strip()


# --- credentials from files


def test_tls_and_mutual_tls_come_from_files(env: Any, toml: Any, certificates: Certificates) -> None:
    pair = certificates.client
    files = {"ca_file": certificates.ca, "cert_file": pair.certificate, "key_file": pair.key}
    env(TARGET="a:1", **{key.upper(): str(file) for key, file in files.items()})
    lines = "".join(f"{key} = {json.dumps(str(file))}\n" for key, file in files.items())

    for made in (
        PoolConfig.production(host="db", **files),  # type: ignore[arg-type]
        PoolConfig.from_env(),
        PoolConfig.from_file(toml(f'[grpcpool]\ntarget = "a:1"\n{lines}')),
        PoolConfig.from_file(toml('[grpcpool]\ntarget = "a:1"\ntls = true\n')),
    ):
        assert isinstance(made.credentials, grpc.ChannelCredentials)


@pytest.mark.parametrize("field", ["ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize("content", [None, "", "not a certificate " + SECRET, "a folder"])
def test_a_file_that_is_no_pem_is_refused_and_not_quoted(
    tmp_path: Path, certificates: Certificates, field: str, content: str | None
) -> None:
    files = {"cert_file": certificates.client.certificate, "key_file": certificates.client.key}
    files[field] = tmp_path / "some.pem"
    if content == "a folder":
        files[field].mkdir()
    elif content is not None:
        files[field].write_text(content)

    with pytest.raises(ConfigError) as caught:
        PoolConfig.production(host="db", **files)  # type: ignore[arg-type]

    assert caught.value.field == field
    assert "some.pem" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("field", ["cert_file", "key_file"])
def test_a_certificate_without_its_key_is_refused(certificates: Certificates, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        PoolConfig.production(host="db", **{field: certificates.client.key})  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["production", "environment", "file"])
def test_a_key_given_in_the_place_of_its_file_is_not_quoted(env: Any, toml: Any, way: str) -> None:
    # The commonest slip with a variable whose name ends in KEY_FILE: to put the key itself there.
    key = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"
    env(TARGET="a:1", KEY_FILE=key, CERT_FILE=__file__)

    lines = f'target = "a:1"\nkey_file = {json.dumps(key)}\ncert_file = {json.dumps(__file__)}\n'
    make = {
        "production": lambda: PoolConfig.production(host="db", key_file=key, cert_file=__file__),
        "environment": PoolConfig.from_env,
        "file": lambda: PoolConfig.from_file(toml("[grpcpool]\n" + lines)),
    }[way]

    with pytest.raises(ConfigError) as caught:
        make()

    assert SECRET not in f"{caught.value!s} {caught.value!r} {caught.value.__cause__!r}"


# --- policies


def test_what_is_done_for_rpcs_that_fail_comes_from_variables(env: Any) -> None:
    env(TARGET="a:1", IDEMPOTENT="/shop.Catalog/*, /shop.Orders/Get", RETRY="4", HEDGE_AFTER="p95", FAILOVER="false")
    made = PoolConfig.from_env()
    assert made.idempotent == ("/shop.Catalog/*", "/shop.Orders/Get")
    assert made.retry == Retry(attempts=4)
    assert made.hedge_after == "p95"
    assert made.failover is False


def test_what_is_done_for_rpcs_that_fail_comes_from_a_file(toml: Any) -> None:
    path = toml('[grpcpool]\ntarget = "a:1"\nidempotent = ["*"]\nretry = 2\nhedge_after = 0.5')
    made = PoolConfig.from_file(path)
    assert (made.idempotent, made.retry, made.hedge_after) == (("*",), Retry(attempts=2), 0.5)


def test_too_many_attempts_are_refused(env: Any) -> None:
    env(TARGET="a:1", IDEMPOTENT="*", RETRY="100")
    with pytest.raises(ConfigError, match="2 to 10"):
        PoolConfig.from_env()
