# SPDX-License-Identifier: GPL-2.0-only
"""The certificates of a fleet: what the CA signed is trusted, and nothing else."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from harness.errors import UsageError

pytest.importorskip("cryptography")

from harness.host import certificates


def context(directory: Path, role: str, side: ssl.Purpose) -> ssl.SSLContext:
    """As Dask makes it: certificates are required on both sides, names are not checked."""
    made = ssl.create_default_context(side, cafile=str(directory / "ca.pem"))
    made.verify_mode = ssl.CERT_REQUIRED
    made.check_hostname = False
    made.load_cert_chain(directory / f"{role}.pem", directory / f"{role}-key.pem")
    return made


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(one, other, server_side=False),
        server.wrap_bio(other, one, server_side=True),
    ]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert sides[1].getpeercert()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fleet") / "certs"
    certificates.make(directory, 30, ["lab", "192.0.2.1"])
    return directory


@pytest.mark.parametrize("role", ["worker", "client"])
def test_both_sides_trust_each_other(made: Path, role: str) -> None:
    server = context(made, "scheduler", ssl.Purpose.CLIENT_AUTH)
    shake_hands(server, context(made, role, ssl.Purpose.SERVER_AUTH))


def test_a_certificate_of_another_fleet_is_refused(made: Path, tmp_path: Path) -> None:
    certificates.make(tmp_path / "other", 30)
    server = context(made, "scheduler", ssl.Purpose.CLIENT_AUTH)
    client = context(tmp_path / "other", "client", ssl.Purpose.SERVER_AUTH)
    client.load_verify_locations(made / "ca.pem")
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client)


def test_keys_are_for_their_owner_only(made: Path) -> None:
    keys = sorted(made.glob("*-key.pem"))
    assert [key.name for key in keys] == [
        f"{role}-key.pem" for role in ("ca", "client", "scheduler", "worker")
    ]
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_a_ca_is_not_replaced(made: Path) -> None:
    with pytest.raises(UsageError, match="is not empty"):
        certificates.make(made, 30)


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--host"):
        certificates.make(tmp_path / "certs", 30, ["straße"])
