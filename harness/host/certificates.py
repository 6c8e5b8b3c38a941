# SPDX-License-Identifier: GPL-2.0-only
"""A certificate authority for one fleet, and the certificates of its scheduler, workers and
clients.

Whoever has a certificate of this CA and its key can run programs on every host of the fleet
(docs/fleet.md). The CA's own key is needed only to make more certificates.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.errors import HostError, UsageError

CA = "ca"
#: The roles, each with its own certificate.
ROLES = ("scheduler", "worker", "client")
#: The clocks of a fleet's hosts may differ by this.
SKEW = datetime.timedelta(hours=1)


def make(directory: Path, days: int, hosts: Sequence[str] = ()) -> list[Path]:
    """Write a CA and a certificate for each role to ``directory``; the paths of the files.

    ``hosts`` are the names and addresses of the scheduler. Raises UsageError if there are
    certificates already, and HostError.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(directory.iterdir()):
            raise UsageError(
                f"{directory} is not empty: a CA that is replaced makes all its certificates "
                "useless; give a new directory"
            )
        now = datetime.datetime.now(datetime.UTC)
        until = now + datetime.timedelta(days=days)
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca = _authority(ca_key, now, until)
        written = _write(directory, CA, ca, ca_key)
        for role in ROLES:
            key = ec.generate_private_key(ec.SECP256R1())
            names = hosts if role == "scheduler" else ()
            written += _write(directory, role, _signed(role, key, names, ca, ca_key), key)
    except OSError as error:
        raise HostError(
            f"{directory}: the certificates cannot be written ({error.strerror or error}); give "
            "another directory"
        ) from error
    return written


def _authority(
    key: ec.EllipticCurvePrivateKey, now: datetime.datetime, until: datetime.datetime
) -> x509.Certificate:
    name = _name("CA")
    builder = _builder(name, name, key.public_key(), now, until)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _signed(
    role: str,
    key: ec.EllipticCurvePrivateKey,
    hosts: Sequence[str],
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    begin, end = ca.not_valid_before_utc, ca.not_valid_after_utc  # _builder takes the hour off
    names = [_host(host) for host in (f"{role}.mptcp-harness.invalid", *hosts)]
    # In Dask, each side is server and client.
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        _builder(_name(role), ca.subject, key.public_key(), begin + SKEW, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    until: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
    )


def _name(role: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mptcp-harness fleet {role}")])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise UsageError(f"--host {host}: not a host's name or address ({error})") from error


def _write(
    directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> list[Path]:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    files = (
        (directory / f"{name}.pem", public, 0o644),
        (directory / f"{name}-key.pem", private, 0o600),
    )
    for path, content, mode in files:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    return [path for path, _, _ in files]
