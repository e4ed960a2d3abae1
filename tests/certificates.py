"""Certificates for tests: an authority, and what it signs or should not have signed. Made anew for each run."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Certificates", "Pair", "make_certificates"]

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path

    def as_server(self) -> dict[str, Path]:
        """Return the arguments that make a `ServerProcess` show this certificate."""
        return {"certificate": self.certificate, "key": self.key}


@dataclass(frozen=True)
class Certificates:
    """Everything that a test of TLS needs.

    Attributes:
        ca: the authority's certificate; it signed all of the pairs but `stranger`.
        server: for localhost and 127.0.0.1.
        client: for a client.
        expired: like `server`, but its time was over a day ago.
        wrong_host: valid, but for another host.
        stranger: a client's, signed by itself.
    """

    ca: Path
    server: Pair
    client: Pair
    expired: Pair
    wrong_host: Pair
    stranger: Pair

    def channel_credentials(self, client: Pair | None = None) -> grpc.ChannelCredentials:
        """Return credentials that trust `ca` and, given a pair, show it."""
        return grpc.ssl_channel_credentials(
            self.ca.read_bytes(),
            client.key.read_bytes() if client else None,
            client.certificate.read_bytes() if client else None,
        )


def make_certificates(folder: Path) -> Certificates:
    """Write all of them into `folder`, which exists."""
    folder = Path(folder)
    now = dt.datetime.now(dt.timezone.utc)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("grpcpool test authority")
    ca = (
        _builder(ca_name, ca_name, ca_key, now - DAY, now + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_ca_usage(), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    ca_file = folder / "ca.pem"
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))

    def issue(
        stem: str, *, hosts: tuple[str, ...] = (), until: dt.datetime = now + DAY, by_itself: bool = False
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(stem)
        builder = _builder(subject, subject if by_itself else ca_name, key, until - 2 * DAY, until)
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
        signed = builder.sign(key if by_itself else ca_key, hashes.SHA256())
        pair = Pair(folder / f"{stem}.pem", folder / f"{stem}.key")
        pair.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    here = ("localhost", "127.0.0.1", "::1")
    return Certificates(
        ca=ca_file,
        server=issue("server", hosts=here),
        client=issue("client"),
        expired=issue("expired", hosts=here, until=now - DAY),
        wrong_host=issue("elsewhere", hosts=("elsewhere.test",)),
        stranger=issue("stranger", by_itself=True),
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, start: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _ca_usage() -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(key_cert_sign=True, crl_sign=True, **dict.fromkeys(names, False))
