# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.kernels import debian
from harness.kernels.debian import AptSource
from tests.replacing import replaced

DEB822 = """\
# Debian's own
Types: deb deb-src
URIs: http://mirror.example.org/debian http://second.example.org/debian
Suites: bookworm bookworm-updates
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
Enabled: no
URIs: http://disabled.example.org/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb-src
URIs: http://sources.example.org/debian
Suites: bookworm
Components: main
"""

ONE_LINE = """\
# deb http://commented.example.org/debian bookworm main
deb-src http://mirror.example.org/debian bookworm main
deb [ arch=amd64 signed-by=/keys/Debian.gpg ] http://mirror.example.org/debian bookworm main # x
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
deb http://incomplete.example.org/debian
deb
nonsense
"""


def test_a_sources_file_gives_each_enabled_binary_source() -> None:
    found = [(source.uri, source.suite) for source in debian.parse_sources(DEB822)]
    assert found == [
        ("http://mirror.example.org/debian", "bookworm"),
        ("http://mirror.example.org/debian", "bookworm-updates"),
        ("http://second.example.org/debian", "bookworm"),
        ("http://second.example.org/debian", "bookworm-updates"),
        ("http://mirror.example.org/debian-security", "bookworm-security"),
    ]


def test_a_list_file_gives_each_binary_source_with_its_options() -> None:
    uri, key = "http://mirror.example.org/debian", "/keys/Debian.gpg"
    found = [source for source in debian.parse_list(ONE_LINE) if "cdrom" not in source.uri]
    assert found == [AptSource(uri, "bookworm", ("main",), key)]


def source(uri: str, suite: str, component: str = "main", signed_by: str = "") -> AptSource:
    return AptSource(uri, suite, (component,), signed_by)


THIRD = source("http://third.example.org/repo", "bookworm")
DEBIAN = source("http://mirror.example.org/debian", "bookworm")
SECURITY = source("http://mirror.example.org/debian-security", "bookworm-security")
KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"


@pytest.mark.parametrize("suite", ["bullseye", "trixie-backports", "sid", "experimental"])
def test_any_suite_comes_from_the_archive_that_the_host_uses(suite: str) -> None:
    assert debian.choose_mirror([THIRD, SECURITY, DEBIAN], suite) == DEBIAN.uri


def test_a_security_suite_comes_from_the_security_archive() -> None:
    assert debian.choose_mirror([DEBIAN, SECURITY], "bullseye-security") == SECURITY.uri


def test_a_source_with_debians_key_is_debian_whatever_its_address() -> None:
    local = source("http://cache.example.org:3142/pub", "stable", signed_by=KEY)
    assert debian.choose_mirror([THIRD, DEBIAN, local], "trixie") == local.uri


def test_a_list_of_mirrors_is_taken_as_it_is() -> None:
    cloud = source("mirror+file:/etc/apt/mirrors/debian.list", "trixie")
    assert debian.choose_mirror([THIRD, cloud], "bookworm") == cloud.uri


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(source("http://ubuntu.example.org/ubuntu", "noble"), id="Ubuntu"),
        pytest.param(source("http://x.example.org/debian", "bookworm", "stable"), id="not main"),
        pytest.param(source("http://x.example.org/debian", "bookworm-pgdg"), id="another suite"),
        pytest.param(source("cdrom:[Debian]/", "bookworm"), id="CD"),
        pytest.param(SECURITY, id="security only"),
    ],
)
def test_other_sources_are_no_archive_of_debian(other: AptSource) -> None:
    assert debian.choose_mirror([other], "bookworm") is None


def test_the_hosts_configuration_is_read_from_list_and_parts(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://one.example.org/debian bookworm main\n")
    parts = tmp_path / "it's sources.d"
    parts.mkdir()
    (parts / "two.sources").write_text(replaced(DEB822, "mirror", "two"))
    (parts / "three.list.disabled").write_text("deb http://three.example.org/debian sid main\n")
    config = f"LIST='{tmp_path}/sources.list'\nPARTS='{tmp_path}/it'\\''s sources.d/'\n"
    uris = [found.uri for found in debian.configured_sources(config)]
    assert uris[:2] == ["http://one.example.org/debian", "http://two.example.org/debian"]
    assert not any("three" in uri for uri in uris)


def test_a_host_without_either_has_no_sources(tmp_path: Path) -> None:
    assert debian.configured_sources(f"LIST='{tmp_path}/none'\nPARTS='{tmp_path}/none.d'\n") == []


def test_a_file_that_only_root_may_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError

    (tmp_path / "secret.list").write_text("deb http://user:pw@x.example.org/debian sid main\n")
    monkeypatch.setattr(Path, "read_text", refuse)  # root may read whatever its mode
    assert debian.configured_sources(f"LIST='{tmp_path}/secret.list'\n") == []


@given(st.text(alphabet="deb [=]:#-\n\t ahtp/.", max_size=200))
def test_no_text_makes_the_parsers_fail(text: str) -> None:
    list(debian.parse_list(text))
    list(debian.parse_sources(text))
