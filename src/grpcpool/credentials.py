"""TLS credentials from files. Apart from `config` because it needs grpc, which the core must not import."""

from __future__ import annotations

import os
from pathlib import Path

import grpc

from .errors import ConfigError

__all__ = ["from_files"]

File = str | os.PathLike[str]


def from_files(
    *, ca_file: File | None = None, cert_file: File | None = None, key_file: File | None = None
) -> grpc.ChannelCredentials:
    """Return credentials that verify the server and, given a certificate and key, identify the client.

    Arguments:
        ca_file: PEM file with the certificate authorities to trust; None: those that grpc trusts.
        cert_file, key_file: PEM files with the client's certificate chain and its private key; both or neither.

    Raises:
        ConfigError: a file cannot be read, or one of the two is missing. What is in a file is never shown.
    """
    if (cert_file is None) != (key_file is None):
        lonely, missing = ("cert_file", "key_file") if key_file is None else ("key_file", "cert_file")
        raise ConfigError(lonely, f"without {missing}", "mutual TLS needs both, the certificate and its key")
    return grpc.ssl_channel_credentials(
        root_certificates=_read("ca_file", ca_file),
        private_key=_read("key_file", key_file),
        certificate_chain=_read("cert_file", cert_file),
    )


def _read(field: str, file: File | None) -> bytes | None:
    if file is None:
        return None
    name = repr(os.fspath(file))
    if "-----" in name:
        raise ConfigError(field, "the contents of a PEM file", "the file's path")
    try:
        content = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        # Not chained: an OSError names the file in full, and whatever was passed may not have been meant to be shown.
        problem = getattr(error, "strerror", None) or "no path"
        raise ConfigError(field, f"{name} ({problem})", "a PEM file that can be read") from None
    if b"-----BEGIN" not in content:
        raise ConfigError(field, f"{name} (no PEM block in it)", "a PEM file")
    return content
